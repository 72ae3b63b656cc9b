/* Reading a topology text from left to right, with errors that show the place. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cluster/topology_parts.h"

enum { SHOWN = 70 }; /* columns of a line that an error shows */

void moire_script_skip(struct moire_script *script, bool lines)
{
    for (;; script->at++) {
        if (*script->at == '#') script->at += strcspn(script->at, "\n");
        if (!isblank((unsigned char)*script->at) && *script->at != '\r' && !(lines && *script->at == '\n'))
            return;
    }
}

int moire_script_word(const char *at)
{
    int letters = 0;
    while (isalnum((unsigned char)at[letters]) || (at[letters] && strchr("_.-", at[letters]))) letters++;
    return letters;
}

/* "the end", "'word'" or "'('". */
static void describe(const char *at, char *text, size_t bytes)
{
    int letters = moire_script_word(at);
    if (*at == '\0' || *at == '#')
        snprintf(text, bytes, "the end");
    else if (*at == '\n' || *at == '\r')
        snprintf(text, bytes, "the end of the line");
    else if (isblank((unsigned char)*at))
        snprintf(text, bytes, "a blank");
    else
        snprintf(text, bytes, letters > 24 ? "'%.*s...'" : "'%.*s'",
                 letters > 24 ? 24
                 : letters    ? letters
                              : 1,
                 at);
}

/* "leaves.txt, line 3: " or nothing. */
static void describe_line(const struct moire_script *script, const char *line, char *text, size_t bytes)
{
    int number = 1;
    text[0] = '\0';
    for (const char *at = script->text; at < line; at++) number += *at == '\n';
    if (script->path) snprintf(text, bytes, "%.200s, line %d: ", script->path, number);
}

moire_status moire_script_fail(const struct moire_script *script, const char *at, const char *cause,
                               const char *format, ...)
{
    char found[40], expected[512], place[240], before[SHOWN + 1];
    const char *line = at;
    while (line > script->text && line[-1] != '\n') line--;
    int letters = (int)strcspn(line, "\r\n"), column = (int)(at - line);
    int first = column > SHOWN - 10 ? column - SHOWN / 2 : 0; /* a long line is cut around the place */
    int shown = letters - first < SHOWN ? letters - first : SHOWN;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(expected, sizeof expected, format, arguments);
    va_end(arguments);
    for (int i = first; i <= column; i++) before[i - first] = line[i] == '\t' ? '\t' : ' ';
    before[column - first] = '\0';
    describe(at, found, sizeof found);
    describe_line(script, line, place, sizeof place);
    return moire_fail(MOIRE_USAGE, "%stopology: %s; found %s, expected %s\n    %s%.*s%s\n    %s%s^", place,
                      cause, found, expected, first ? "..." : "", shown, line + first,
                      first + shown < letters ? "..." : "", first ? "   " : "", before);
}
