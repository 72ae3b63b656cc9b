/* metrics.jsonl: one JSON object a step, appended by rank 0, flushed line by line. Between steps only. */
#ifndef MOIRE_OBSERVE_METRICS_H
#define MOIRE_OBSERVE_METRICS_H

#include "moire/base/status.h"

struct moire_metrics; /* NULL is allowed everywhere below and does nothing: ranks other than 0 have none */

/* Opens `path` for appending. Lines of steps after `step` (a run that is resumed from an older checkpoint)
 * and a last line that a crash left incomplete are removed first. Not collective: rank 0 calls it. */
moire_status moire_metrics_open(const char *path, int64_t step, struct moire_metrics **metrics);
/* One object: begin, any number of fields, end (writes the line and flushes). Numbers that are not finite
 * become null. */
void moire_metrics_begin(struct moire_metrics *metrics);
void moire_metrics_integer(struct moire_metrics *metrics, const char *name, int64_t value);
void moire_metrics_real(struct moire_metrics *metrics, const char *name, double value);
void moire_metrics_reals(struct moire_metrics *metrics, const char *name, const double *values,
                         int64_t count);
void moire_metrics_flag(struct moire_metrics *metrics, const char *name, bool value);
void moire_metrics_text(struct moire_metrics *metrics, const char *name, const char *value);
moire_status moire_metrics_end(struct moire_metrics *metrics);
void moire_metrics_close(struct moire_metrics *metrics);

#endif
