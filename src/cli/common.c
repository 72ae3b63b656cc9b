/* What subcommands share: options of their own, agreement, and text and numbers for people. */
#include <stdio.h>
#include <string.h>

#include "moire/cli/cli.h"

enum { COLUMNS = 80 };

moire_status moire_cli_each_word(const char *words, moire_status (*visit)(const char *word, void *state),
                                 void *state)
{
    char copy[256];
    snprintf(copy, sizeof copy, "%s", words ? words : "");
    for (char *rest = copy, *word; (word = strsep(&rest, " "));)
        if (*word) MOIRE_TRY(visit(word, state));
    return MOIRE_OK;
}

static void drop_argument(int *argc, char **argv, int index)
{
    memmove(argv + index, argv + index + 1, sizeof *argv * (size_t)(*argc - index - 1));
    --*argc;
}

bool moire_cli_flag(int *argc, char **argv, const char *name)
{
    for (int i = 0; i < *argc; i++) {
        if (strcmp(argv[i], name) != 0) continue;
        drop_argument(argc, argv, i);
        return true;
    }
    return false;
}

const char *moire_cli_option(int *argc, char **argv, const char *name)
{
    size_t length = strlen(name);
    for (int i = 0; i < *argc; i++) {
        if (strncmp(argv[i], name, length) != 0 || argv[i][length] != '=') continue;
        const char *value = argv[i] + length + 1;
        drop_argument(argc, argv, i);
        return value;
    }
    return NULL;
}

moire_status moire_cli_agree(moire_status status)
{
    struct moire_communicator world;
    if (!moire_mpi_is_running()) return status;
    MOIRE_TRY(moire_communicator_world(&world));
    status = moire_agree(&world, status);
    moire_communicator_free(&world);
    return status;
}

void moire_cli_print_wrapped(const char *key, int indent, const char *text)
{
    int column = printf("%s%*s", key, indent > (int)strlen(key) ? indent - (int)strlen(key) : 0, ""),
        words = 0;
    for (const char *rest = text; *rest;) {
        int letters = (int)strcspn(rest, " ");
        if (words++ > 0 && column + 1 + letters > COLUMNS)
            column = printf("\n%*s", indent, "") - 1;
        else if (words > 1)
            column += printf(" ");
        column += printf("%.*s", letters, rest);
        rest += letters;
        rest += *rest == ' ';
    }
    putchar('\n');
}

const char *moire_cli_plural(int64_t number)
{
    return number == 1 ? "" : "s";
}

char *moire_cli_bytes(double bytes, char text[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return text;
}

char *moire_cli_thousands(int64_t number, char text[32])
{
    char plain[32];
    int digits = snprintf(plain, sizeof plain, "%lld", (long long)number), at = 0;
    for (int i = 0; i < digits; i++) {
        if (i > 0 && plain[i - 1] != '-' && (digits - i) % 3 == 0) text[at++] = ',';
        text[at++] = plain[i];
    }
    text[at] = 0;
    return text;
}
