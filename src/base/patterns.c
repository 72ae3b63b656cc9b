#include "moire/base/file.h"

#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

moire_status moire_paths_split(const char *patterns, struct moire_paths *list)
{
    struct moire_paths found = { 0 };
    struct moire_text pattern = { 0 };
    moire_status status = MOIRE_OK;
    for (const char *start = patterns; *start && status == MOIRE_OK; ) {
        const char *end = start;
        while (*end && *end != ',') end += end[0] == '\\' && end[1] ? 2 : 1;
        const char *next = *end ? end + 1 : end;
        while (is_blank(*start)) start++;
        while (end > start && is_blank(end[-1])) end--;
        if (end > start) {
            pattern.bytes = 0;
            status = moire_text_add(&pattern, "%.*s", (int)(end - start), start);
            if (status == MOIRE_OK) status = moire_paths_add(&found, pattern.data);
        }
        start = next;
    }
    moire_text_free(&pattern);
    if (status != MOIRE_OK) {
        moire_paths_free(&found);
        return status;
    }
    *list = found;
    return MOIRE_OK;
}
