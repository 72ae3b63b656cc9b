/* Small steps of HDF5 with our error messages. HDF5 is not thread safe and prints by itself unless it is told
 * not to: call moire_hdf5_quiet first. Only rank 0 uses HDF5 where ranks work together. Not collective. */
#ifndef IO_HDF5_H
#define IO_HDF5_H

#include <hdf5.h>

#include "moire/base/file.h"

void moire_hdf5_quiet(void);
/* MOIRE_BAD_DATA with what HDF5 itself says about its last failure. `doing`: "read the attribute step of". */
moire_status moire_hdf5_fail(const char *path, const char *doing);

/* A regular file with HDF5's signature, opened by the plain driver. MOIRE_NO_FILE: missing or unreadable;
 * MOIRE_BAD_DATA: not HDF5, truncated or damaged. Close with H5Fclose. */
moire_status moire_hdf5_open(const char *path, bool writable, hid_t *file);
/* A new file in a space of `bytes`, which must be enough for all that will be in it: HDF5 must not meet a
 * full disk itself, for when its last write fails, it faults at the end of the process (seen with 1.10.8). It
 * cuts the file to its size when it closes it. The metadata has checksums (format of HDF5 1.8) and no time
 * stamps. Leaves no file when it fails: MOIRE_NO_SPACE, MOIRE_NO_FILE. */
moire_status moire_hdf5_create(const char *path, int64_t bytes, hid_t *file);
/* The same room for an existing file that is about to grow to `bytes`. */
moire_status moire_hdf5_reserve(const char *path, int64_t bytes);

/* Attributes of one number in a native type (H5T_NATIVE_INT64, H5T_NATIVE_UINT64), or a text. `path` is for
 * messages. */
moire_status moire_hdf5_put_number(hid_t object, const char *path, const char *name, hid_t type,
                                   const void *value);
moire_status moire_hdf5_get_number(hid_t object, const char *path, const char *name, hid_t type, void *value);
moire_status moire_hdf5_put_text(hid_t object, const char *path, const char *name, const char *text);
/* The caller releases *text. */
moire_status moire_hdf5_get_text(hid_t object, const char *path, const char *name, char **text);
/* MOIRE_BAD_DATA where the attribute format_version is missing or another one. */
moire_status moire_hdf5_check_version(hid_t file, const char *path, const char *what, int64_t expected);

#endif
