#include <hdf5.h>
#include <jansson.h>
#include <mpi.h>
#include <string.h>
#include <xxhash.h>

#include "moire/io/manifest.h"

/* "Open MPI v4.1.4": what stands before the first comma or line end of a long text. */
static moire_status add_mpi(struct moire_text *text)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length;
    if (MPI_Get_library_version(version, &length) != MPI_SUCCESS)
        return moire_text_add(text, "MPI of unknown version\n");
    version[strcspn(version, ",\r\n")] = 0;
    return moire_text_add(text, "%s\n", version);
}

static const char *jansson_version_text(void)
{
#if JANSSON_VERSION_HEX >= 0x020d00
    return jansson_version_str();
#else
    return JANSSON_VERSION;
#endif
}

moire_status moire_versions(struct moire_text *text)
{
    unsigned major = 0, minor = 0, release = 0, hash = XXH_versionNumber();
    H5get_libversion(&major, &minor, &release);
    MOIRE_TRY(moire_text_add(text, "moire %s\n", PACKAGE_VERSION));
    MOIRE_TRY(add_mpi(text));
    MOIRE_TRY(moire_text_add(text, "HDF5 %u.%u.%u\n", major, minor, release));
    MOIRE_TRY(moire_text_add(text, "jansson %s\n", jansson_version_text()));
    MOIRE_TRY(moire_text_add(text, "xxHash %u.%u.%u\n", hash / 10000, hash / 100 % 100, hash % 100));
#ifdef __clang__
    return moire_text_add(text, "compiler %s\n", __VERSION__); /* has its name in it */
#else
    return moire_text_add(text, "compiler GCC %s\n", __VERSION__);
#endif
}
