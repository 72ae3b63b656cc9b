/* samples.h5: every sample of a measurement, by rank. Groups /CASE/VARIANT with the datasets `end` and
 * `skew`, float64 [samples, ranks], seconds: from the latest start of the sample to the end of each rank, and
 * from the start of each rank to the latest start. Attributes of the root: format_version, ranks, config (an
 * INI text).
 *
 * One rank calls; not collective. The file is complete after every call. */
#ifndef MOIRE_IO_SAMPLES_H
#define MOIRE_IO_SAMPLES_H

#include "moire/base/file.h"

enum { MOIRE_SAMPLES_VERSION = 1 };

/* A new file, over an old one. */
moire_status moire_samples_create(const char *path, int ranks, const char *config);
/* One variant of a case; `end` and `skew` are [samples, ranks]. Names have no "/" in them; a pair of them may
 * stand once. MOIRE_NO_SPACE, MOIRE_BAD_DATA. */
moire_status moire_samples_add(const char *path, const char *name, const char *variant, int64_t samples,
                               int ranks, const double *end, const double *skew);

#endif
