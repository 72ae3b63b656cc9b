/* moire help: the overview, one command's help, the manual page and the completion. All come from the two tables: commands and
 * parameters. */
#include <stdio.h>
#include <string.h>

#include "moire/cli/cli.h"

static void print_overview(void)
{
    printf("moire %s: trains Mixture-of-Experts language models over MPI\n\nUsage: moire COMMAND [ARGUMENTS]\n\n", PACKAGE_VERSION);
    for (int i = 0; i < moire_command_count; i++) printf("  %-10s %s\n", moire_commands[i]->name, moire_commands[i]->summary);
    printf("\nmoire COMMAND --help explains one; moire --version prints the version.\n"
           "First steps: moire train examples/tiny.ini\n");
}

/* Calls `visit` for each word of `sections`. */
static moire_status each_section(const char *sections, moire_status (*visit)(const char *section, void *state), void *state)
{
    char words[256];
    snprintf(words, sizeof words, "%s", sections);
    for (char *rest = words, *word; (word = strsep(&rest, " "));)
        if (*word) MOIRE_TRY(visit(word, state));
    return MOIRE_OK;
}

static moire_status print_section(const char *section, void *state)
{
    struct moire_text text = { 0 };
    (void)state;
    moire_status status = moire_config_help(section, &text);
    if (status == MOIRE_OK) printf("\n%s", text.data);
    moire_text_free(&text);
    return status;
}

static moire_status print_command(const struct moire_command *command)
{
    printf("Usage: moire %s %s\n\n%s\n", command->name, command->arguments, command->details);
    if (!*command->sections) return MOIRE_OK;
    printf("\nParameters: in FILE.ini under [section], as --section.key=value, or in the\n"
           "environment as MOIRE_SECTION_KEY (in capitals). Command line over environment\n"
           "over file over default.\n");
    if (moire_alias_count) {
        printf("Short forms:");
        for (int i = 0; i < moire_alias_count; i++) printf(" %s %s%s", moire_aliases[i].option, moire_aliases[i].name, i + 1 < moire_alias_count ? "," : "\n");
    }
    return each_section(command->sections, print_section, NULL);
}

/* Text inside a manual page: backslashes, and points and quotes at the start of a line, are roff's. */
static void print_roff(const char *text)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\'')) printf("\\&");
        if (*text == '\\')
            printf("\\e");
        else if (*text == '-')
            printf("\\-");
        else
            putchar(*text);
        line_start = *text == '\n';
    }
}

static void print_manual_parameter(const struct moire_parameter *parameter)
{
    printf(".TP\n.B ");
    print_roff(parameter->section);
    putchar('.');
    print_roff(parameter->key);
    printf("\n");
    print_roff(parameter->help);
    printf(" (default: ");
    print_roff(*parameter->default_text ? parameter->default_text : "none");
    if (*parameter->words) {
        printf("; %s: ", parameter->type == MOIRE_TYPE_CHOICE ? "one of" : "also");
        print_roff(parameter->words);
    }
    if (*parameter->unit) printf("; in %s", parameter->unit);
    printf(")\n");
}

static void print_manual(void)
{
    printf(".TH MOIRE 1 \"\" \"moire %s\" \"User Commands\"\n.SH NAME\nmoire \\- MPI\\-native trainer of Mixture\\-of\\-Experts language models\n"
           ".SH SYNOPSIS\n.B moire\n.I COMMAND\n[\\fIARGUMENTS\\fR]\n.SH COMMANDS\n", PACKAGE_VERSION);
    for (int i = 0; i < moire_command_count; i++) {
        const struct moire_command *command = moire_commands[i];
        printf(".SS ");
        printf("moire %s ", command->name);
        print_roff(command->arguments);
        printf("\n.nf\n");
        print_roff(command->details);
        printf("\n.fi\n");
    }
    printf(".SH PARAMETERS\nIn FILE.ini under [section], as \\-\\-section.key=value, or in the environment as MOIRE_SECTION_KEY.\n"
           "Command line over environment over file over default.\n");
    for (int i = 0; i < moire_parameter_count; i++) print_manual_parameter(&moire_parameters[i]);
    printf(".SH EXIT STATUS\n0 done, 1 failed, 2 usage or configuration, 75 stopped with a valid checkpoint (start again to go on).\n");
}

static void print_completion(void)
{
    printf("# bash completion of moire; source it, or put it where bash-completion looks.\n_moire() {\n    local words\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='");
    for (int i = 0; i < moire_command_count; i++) printf("%s%s", i ? " " : "", moire_commands[i]->name);
    printf(" --help --version'\n    else\n        words='--help");
    for (int i = 0; i < moire_parameter_count; i++) printf("\n            --%s.%s=", moire_parameters[i].section, moire_parameters[i].key);
    printf("'\n    fi\n    local cur=${COMP_LINE:0:$COMP_POINT}\n    cur=${cur##* }\n"
           "    case $cur in\n        -*|'') COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")); compopt -o nospace ;;\n"
           "        *) [ \"$COMP_CWORD\" -eq 1 ] && COMPREPLY=($(compgen -W \"$words\" -- \"$cur\")) ;;\n    esac\n"
           "    return 0\n}\ncomplete -o default -F _moire moire\n");
}

static moire_status run(int argc, char **argv)
{
    if (argc > 0 && strcmp(argv[0], "--manual") == 0) {
        print_manual();
        return MOIRE_OK;
    }
    if (argc > 0 && strcmp(argv[0], "--completion") == 0) {
        print_completion();
        return MOIRE_OK;
    }
    for (int i = 0; argc > 0 && i < moire_command_count; i++)
        if (strcmp(argv[0], moire_commands[i]->name) == 0) return print_command(moire_commands[i]);
    print_overview();
    if (argc > 0) return moire_fail(MOIRE_USAGE, "unknown command '%s'; try one of those above", argv[0]);
    return MOIRE_OK;
}

const struct moire_command moire_command_help = {
    .name = "help",
    .arguments = "[COMMAND | --manual | --completion]",
    .summary = "this overview, one command, the manual page, the bash completion",
    .details = "Without an argument an overview; with the name of a command its help;\n"
               "--manual prints the manual page, --completion the bash completion.",
    .sections = "",
    .run = run,
};
