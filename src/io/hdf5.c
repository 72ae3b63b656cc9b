#include "io/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIGNATURE_BYTES = 8, REASON_BYTES = 256, EMPTY_BYTES = 1 << 16 };

void moire_hdf5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* Takes the text of the innermost failure, which is the cause. */
static herr_t take_reason(unsigned depth, const H5E_error2_t *error, void *reason)
{
    (void)depth;
    char *text = reason;
    snprintf(text, REASON_BYTES, "%s", error->desc ? error->desc : "");
    for (char *at = text; *at; at++)
        if (*at == '\n') *at = ' ';
    return 1;
}

moire_status moire_hdf5_fail(const char *path, const char *doing)
{
    char reason[REASON_BYTES] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, reason);
    return moire_fail(MOIRE_BAD_DATA,
                      "cannot %s %s; found: %s; the file is damaged or of another kind, try an older or "
                      "another one",
                      doing, path, reason[0] ? reason : "no reason from HDF5");
}

static moire_status check_signature(const char *path, int descriptor)
{
    static const char signature[SIGNATURE_BYTES] = { '\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n' };
    char found[SIGNATURE_BYTES];
    struct stat about;
    if (fstat(descriptor, &about) < 0 || !S_ISREG(about.st_mode))
        return moire_fail(MOIRE_NO_FILE,
                          "cannot read %s; found no regular file, expected an HDF5 file; try another path",
                          path);
    if (about.st_size < SIGNATURE_BYTES)
        return moire_fail(MOIRE_BAD_DATA, "%s is truncated or not HDF5; found %lld bytes; try another file",
                          path, (long long)about.st_size);
    MOIRE_TRY(moire_file_pread(descriptor, path, found, SIGNATURE_BYTES, 0));
    if (memcmp(found, signature, SIGNATURE_BYTES) == 0) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s is not HDF5; found another signature in its first %d bytes; try another file", path,
                      SIGNATURE_BYTES);
}

/* Our own locks are the names: locks of the file system fail on many clusters. */
static hid_t file_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0) return access;
    bool good = H5Pset_fapl_sec2(access) >= 0 && H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0
             && H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST) >= 0
             && H5Pset_alignment(access, 1 << 16, 1 << 12) >= 0;
#if H5_VERSION_GE(1, 12, 1) || (H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 12, 0))
    good = good && H5Pset_file_locking(access, false, true) >= 0;
#endif
    if (good) return access;
    H5Pclose(access);
    return H5I_INVALID_HID;
}

moire_status moire_hdf5_open(const char *path, bool writable, hid_t *file)
{
    int descriptor = -1;
    MOIRE_TRY(moire_file_open(path, (writable ? O_RDWR : O_RDONLY) | O_NONBLOCK,
                              &descriptor)); /* no waiting for a pipe */
    moire_status status = check_signature(path, descriptor);
    close(descriptor);
    if (status != MOIRE_OK) return status;
    hid_t access = file_access();
    if (access < 0) return moire_hdf5_fail(path, "prepare to open");
    hid_t opened = H5Fopen(path, writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access);
    status = opened < 0 ? moire_hdf5_fail(path, "open") : MOIRE_OK;
    H5Pclose(access);
    if (status == MOIRE_OK) *file = opened;
    return status;
}

/* Copies a file that HDF5 holds in memory. (H5Fget_file_image changes a flag and leaves its checksum wrong.)
 */
static bool copy_image(hid_t file, hid_t access, char image[EMPTY_BYTES], int64_t *bytes)
{
    hsize_t size = 0;
    void *handle = NULL;
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0 || H5Fget_filesize(file, &size) < 0 || size > EMPTY_BYTES ||
        H5Fget_vfd_handle(file, access, &handle) < 0)
        return false;
    memcpy(image, *(char **)handle, size);
    *bytes = (int64_t)size;
    return true;
}

/* The bytes of a file with nothing in it. */
static moire_status make_empty_image(const char *path, char image[EMPTY_BYTES], int64_t *bytes)
{
    hid_t access = file_access(), creation = H5Pcreate(H5P_FILE_CREATE), file = H5I_INVALID_HID;
    if (access >= 0 && creation >= 0 && H5Pset_fapl_core(access, EMPTY_BYTES, false) >= 0 &&
        H5Pset_obj_track_times(creation, false) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    bool good = file >= 0 && copy_image(file, access, image, bytes);
    moire_status status = good ? MOIRE_OK : moire_hdf5_fail(path, "make an empty image of");
    if (file >= 0) H5Fclose(file);
    if (creation >= 0) H5Pclose(creation);
    if (access >= 0) H5Pclose(access);
    return status;
}

static moire_status close_written(int descriptor, const char *path)
{
    if (close(descriptor) == 0 || errno == EINTR) return MOIRE_OK;
    return moire_fail(MOIRE_NO_SPACE, "cannot close %s; found: %s; try another file system", path,
                      strerror(errno));
}

moire_status moire_hdf5_reserve(const char *path, int64_t bytes)
{
    int descriptor = -1;
    MOIRE_TRY(moire_file_open(path, O_WRONLY, &descriptor));
    moire_status status = moire_file_reserve(descriptor, path, bytes),
                 closed = close_written(descriptor, path);
    return status == MOIRE_OK ? closed : status;
}

moire_status moire_hdf5_create(const char *path, int64_t bytes, hid_t *file)
{
    char image[EMPTY_BYTES];
    int64_t image_bytes = 0;
    int descriptor = -1;
    MOIRE_TRY(make_empty_image(path, image, &image_bytes));
    MOIRE_TRY(moire_file_open(path, O_WRONLY | O_CREAT | O_TRUNC, &descriptor));
    moire_status status = moire_file_reserve(descriptor, path, bytes), closed;
    if (status == MOIRE_OK) status = moire_file_pwrite(descriptor, path, image, image_bytes, 0);
    closed = close_written(descriptor, path);
    if (status == MOIRE_OK) status = closed;
    if (status == MOIRE_OK) status = moire_hdf5_open(path, true, file);
    if (status != MOIRE_OK) unlink(path);
    return status;
}

static moire_status put_attribute(hid_t object, const char *path, const char *name, hid_t type,
                                  const void *value)
{
    char doing[128];
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5I_INVALID_HID;
    snprintf(doing, sizeof doing, "write the attribute %s of", name);
    if (space >= 0) attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    moire_status status =
        attribute < 0 || H5Awrite(attribute, type, value) < 0 ? moire_hdf5_fail(path, doing) : MOIRE_OK;
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return status;
}

moire_status moire_hdf5_put_number(hid_t object, const char *path, const char *name, hid_t type,
                                   const void *value)
{
    return put_attribute(object, path, name, type, value);
}

moire_status moire_hdf5_put_text(hid_t object, const char *path, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool good =
        type >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    moire_status status =
        good ? put_attribute(object, path, name, type, text) : moire_hdf5_fail(path, "describe a text of");
    if (type >= 0) H5Tclose(type);
    return status;
}

/* An attribute of one value of the given class; *type is the file's and to be closed too. */
static moire_status open_attribute(hid_t object, const char *path, const char *name, H5T_class_t class,
                                   hid_t *attribute, hid_t *type)
{
    char doing[128];
    snprintf(doing, sizeof doing, "read the attribute %s of", name);
    hid_t opened = H5Aopen(object, name, H5P_DEFAULT);
    if (opened < 0) return moire_hdf5_fail(path, doing);
    hid_t space = H5Aget_space(opened), file_type = H5Aget_type(opened);
    bool good = space >= 0 && file_type >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Tget_class(file_type) == class && H5Tis_variable_str(file_type) <= 0;
    if (space >= 0) H5Sclose(space);
    if (good) {
        *attribute = opened;
        *type = file_type;
        return MOIRE_OK;
    }
    if (file_type >= 0) H5Tclose(file_type);
    H5Aclose(opened);
    return moire_fail(MOIRE_BAD_DATA,
                      "the attribute %s of %s is of another kind; expected one %s; try another file", name,
                      path, class == H5T_INTEGER ? "integer" : "text");
}

moire_status moire_hdf5_get_number(hid_t object, const char *path, const char *name, hid_t type, void *value)
{
    hid_t attribute, file_type;
    MOIRE_TRY(open_attribute(object, path, name, H5T_INTEGER, &attribute, &file_type));
    moire_status status =
        H5Aread(attribute, type, value) < 0 ? moire_hdf5_fail(path, "read an attribute of") : MOIRE_OK;
    H5Tclose(file_type);
    H5Aclose(attribute);
    return status;
}

moire_status moire_hdf5_get_text(hid_t object, const char *path, const char *name, char **text)
{
    hid_t attribute, type;
    char *read = NULL;
    MOIRE_TRY(open_attribute(object, path, name, H5T_STRING, &attribute, &type));
    moire_status status = moire_allocate(MOIRE_MEMORY_OTHER, (int64_t)H5Tget_size(type) + 1, 1, &read);
    if (status == MOIRE_OK && H5Aread(attribute, type, read) < 0)
        status = moire_hdf5_fail(path, "read an attribute of");
    H5Tclose(type);
    H5Aclose(attribute);
    if (status == MOIRE_OK) *text = read;
    else moire_release(read);
    return status;
}

moire_status moire_hdf5_check_version(hid_t file, const char *path, const char *what, int64_t expected)
{
    int64_t version;
    if (H5Aexists(file, "format_version") <= 0)
        return moire_fail(MOIRE_BAD_DATA,
                          "%s is not a %s; found HDF5 without the attribute format_version; try another file",
                          path, what);
    MOIRE_TRY(moire_hdf5_get_number(file, path, "format_version", H5T_NATIVE_INT64, &version));
    if (version == expected) return MOIRE_OK;
    return moire_fail(MOIRE_BAD_DATA,
                      "%s is a %s of another format; found version %" PRId64 ", expected %" PRId64 "; try "
                      "the moire that wrote it",
                      path, what, version, expected);
}
