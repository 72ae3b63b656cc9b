/* run.json: what ran. A list of segments, one a start: moire's version and build, versions of every library,
 * host and nodes, ranks, threads, binding, mesh, effective configuration with origins, seeds, first and last
 * step, exit status, wall times. Written by rank 0 (atomically) at the start and at the end of a segment. Not
 * collective: rank 0 calls it with what it has. */
#ifndef MOIRE_IO_MANIFEST_H
#define MOIRE_IO_MANIFEST_H

#include "moire/base/config.h"
#include "moire/cluster/mesh.h"

enum { MOIRE_MANIFEST_VERSION = 1 };

struct moire_manifest; /* NULL is allowed below and does nothing */

/* Reads DIRECTORY/run.json if there is one and adds a segment that starts at `first_step`. `facts`
 * [fact_count][2]: names and texts of whatever else the caller knows (back end, BLAS, placement...). */
moire_status moire_manifest_start(const char *directory, const struct moire_config *config,
                                  const struct moire_mesh *mesh, int64_t first_step,
                                  const char *const (*facts)[2], int fact_count,
                                  struct moire_manifest **manifest);
/* Sets last step and outcome ("done", "stopped", "failed: text") and writes. Frees it. */
moire_status moire_manifest_end(struct moire_manifest *manifest, int64_t last_step, const char *outcome);
/* For `moire inspect RUN`: the segments on standard output. */
moire_status moire_manifest_print(const char *directory);

/* Library versions at run time, one line each ("Open MPI v4.1.4"), for run.json and `moire info`; the caller
 * releases. */
moire_status moire_versions(struct moire_text *text);

#endif
