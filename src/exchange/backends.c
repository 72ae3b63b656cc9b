/* The table of back ends. A new one is one file and one line here. */
#include <stdio.h>
#include <string.h>

#include "exchange/private.h"
#include "moire/base/file.h"

/* In order of preference for "auto": the first that is applicable. */
const struct moire_backend *const moire_backends[] = {
    &moire_backend_alltoallv,
    &moire_backend_pairwise,
    &moire_backend_shared,
    &moire_backend_hierarchical,
    &moire_backend_ucx,
};
enum { BACKENDS = sizeof moire_backends / sizeof *moire_backends };
const int moire_backend_count = BACKENDS;

/* Index in the table; BACKENDS for "auto". */
static moire_status find_index(const char *name, int64_t *index)
{
    const char *names[BACKENDS + 1];
    for (int i = 0; i < BACKENDS; i++) names[i] = moire_backends[i]->name;
    names[BACKENDS] = "auto";
    return moire_name_find("exchange back end", name, names, BACKENDS + 1, index);
}

enum { NAMES_BYTES = 160 };

/* "auto" and those that this program has, or that an exchange can use. */
static void list_names(const struct moire_exchange *exchange, char names[NAMES_BYTES])
{
    char why[160];
    snprintf(names, NAMES_BYTES, "auto");
    for (int i = 0; i < BACKENDS; i++) {
        const struct moire_backend *backend = moire_backends[i];
        const size_t used = strlen(names);
        if (exchange ? backend->applicable(exchange, why, sizeof why) : !backend->missing)
            snprintf(names + used, NAMES_BYTES - used, ", %s", backend->name);
    }
}

static moire_status fail_missing(const struct moire_backend *backend)
{
    char names[NAMES_BYTES];
    list_names(NULL, names);
    return moire_fail(
        MOIRE_USAGE,
        "exchange back end '%s' is not there: %s; found exchange.backend = %s, expected one of %s; try "
        "one of those, or install the library and run configure again",
        backend->name, backend->missing, backend->name, names);
}

moire_status moire_exchange_check_backend(const char *name)
{
    int64_t index;
    MOIRE_TRY(find_index(name, &index));
    return index < BACKENDS && moire_backends[index]->missing ? fail_missing(moire_backends[index])
                                                              : MOIRE_OK;
}

moire_status moire_backend_find(const struct moire_exchange *exchange, const char *name,
                                const struct moire_backend **backend)
{
    char why[160] = "", names[NAMES_BYTES];
    int64_t index;
    MOIRE_TRY(find_index(name, &index));
    bool any = index == BACKENDS;
    for (int64_t i = any ? 0 : index; i < (any ? BACKENDS : index + 1); i++) {
        if (!moire_backends[i]->applicable(exchange, why, sizeof why)) continue;
        *backend = moire_backends[i];
        return MOIRE_OK;
    }
    list_names(exchange, names);
    return moire_fail(MOIRE_USAGE,
                      "exchange back end '%s' is not applicable here: %s; try exchange.backend = one of %s",
                      name, why, names);
}

void moire_exchange_print_backends(void)
{
    for (int i = 0; i < BACKENDS; i++) {
        const struct moire_backend *backend = moire_backends[i];
        printf("  %-12s %s%s\n", backend->name, backend->missing ? "not built: " : "",
               backend->missing ? backend->missing : backend->wins);
    }
}
