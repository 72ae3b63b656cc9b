/* moire help: the overview, one command's help, the manual page and the completion. All come from the two
 * tables: commands and parameters. */
#include <stdio.h>
#include <string.h>

#include "moire/cli/cli.h"

static void print_overview(void)
{
    printf("moire %s: trains Mixture-of-Experts language models over MPI\n\nUsage: moire COMMAND "
           "[ARGUMENTS]\n\n",
           PACKAGE_VERSION);
    for (int i = 0; i < moire_command_count; i++)
        printf("  %-10s %s\n", moire_commands[i]->name, moire_commands[i]->summary);
    printf("\nmoire COMMAND --help explains one; moire --version prints the version.\n"
           "First steps: moire train examples/tiny.ini\n");
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

/* "Usage: moire NAME FORM", and a line below it for each other form. */
static void print_usage(const struct moire_command *command)
{
    const char *title = "Usage:";
    const struct moire_part *part;
    for (int i = 0; command->part && (part = command->part(i)); i++, title = "      ")
        printf("%s moire %s %s %s\n", title, command->name, part->name, part->arguments);
    for (const char *form = command->arguments; form && *form; title = "      ") {
        int letters = (int)strcspn(form, "\n");
        printf("%s moire %s %.*s\n", title, command->name, letters, form);
        form += letters;
        form += *form == '\n';
    }
}

static moire_status print_command(const struct moire_command *command)
{
    print_usage(command);
    printf("\n%s\n", command->details);
    for (int i = 0; command->part && command->part(i); i++) printf("\n%s\n", command->part(i)->details);
    if (!*command->sections) return MOIRE_OK;
    printf("\nParameters: in FILE.ini under [section], as --section.key=value, or in the\n"
           "environment as MOIRE_SECTION_KEY (in capitals). Command line over environment\n"
           "over file over default.\n");
    if (moire_alias_count) {
        printf("Short forms:");
        for (int i = 0; i < moire_alias_count; i++)
            printf(" %s %s%s", moire_aliases[i].option, moire_aliases[i].name,
                   i + 1 < moire_alias_count ? "," : "\n");
    }
    return moire_cli_each_word(command->sections, print_section, NULL);
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
    bool closed = parameter->type == MOIRE_TYPE_CHOICE || parameter->type == MOIRE_TYPE_FLAG;
    printf(".TP\n.B ");
    print_roff(parameter->section);
    putchar('.');
    print_roff(parameter->key);
    printf("\n");
    print_roff(parameter->help);
    printf(" (default: ");
    print_roff(*parameter->default_text ? parameter->default_text : "empty");
    if (*parameter->words) {
        printf("; %s: ", closed ? "one of" : "also");
        print_roff(parameter->words);
    }
    if (*parameter->unit) printf("; in %s", parameter->unit);
    printf(")\n");
}

/* Paragraphs are filled; indented lines, which are examples, stay as they are. */
static void print_manual_details(const char *details)
{
    bool in_example = false;
    for (const char *line = details; *line;) {
        char text[128];
        int letters = (int)strcspn(line, "\n");
        bool is_example = *line == ' ';
        snprintf(text, sizeof text, "%.*s", letters, line);
        if (is_example != in_example && letters > 0) {
            printf(is_example ? ".nf\n" : ".fi\n");
            in_example = is_example;
        }
        print_roff(letters > 0 ? text : "");
        printf(letters > 0 ? "\n" : ".PP\n");
        line += letters;
        line += *line == '\n';
    }
    if (in_example) printf(".fi\n");
}

static void print_manual_form(const struct moire_command *command, const char *part, const char *arguments)
{
    printf("\\fBmoire %s%s%s\\fR ", command->name, *part ? " " : "", part);
    print_roff(arguments);
    printf("\n");
}

static void print_manual_command(const struct moire_command *command)
{
    const struct moire_part *part;
    printf(".SS moire %s\n.nf\n", command->name);
    for (int i = 0; command->part && (part = command->part(i)); i++)
        print_manual_form(command, part->name, part->arguments);
    for (const char *form = command->arguments; form && *form;) {
        char line[128];
        int letters = (int)strcspn(form, "\n");
        snprintf(line, sizeof line, "%.*s", letters, form);
        print_manual_form(command, "", line);
        form += letters;
        form += *form == '\n';
    }
    printf(".fi\n.PP\n");
    print_manual_details(command->details);
    for (int i = 0; command->part && (part = command->part(i)); i++) {
        printf(".PP\n");
        print_manual_details(part->details);
    }
}

static void print_manual(void)
{
    printf(
        ".TH MOIRE 1 \"\" \"moire %s\" \"User Commands\"\n.ad l\n.SH NAME\nmoire \\- MPI\\-native trainer of "
        "Mixture\\-of\\-Experts language models\n"
        ".SH SYNOPSIS\n.B moire\n.I COMMAND\n[\\fIARGUMENTS\\fR]\n.SH COMMANDS\n",
        PACKAGE_VERSION);
    for (int i = 0; i < moire_command_count; i++) print_manual_command(moire_commands[i]);
    printf(".SH PARAMETERS\nIn FILE.ini under [section], as \\-\\-section.key=value, or in the environment "
           "as MOIRE_SECTION_KEY.\n"
           "Command line over environment over file over default.\n");
    if (moire_alias_count) printf("Short forms:");
    for (int i = 0; i < moire_alias_count; i++) {
        putchar(' ');
        print_roff(moire_aliases[i].option);
        printf(" for %s%s", moire_aliases[i].name, i + 1 < moire_alias_count ? "," : ".\n");
    }
    for (int i = 0; i < moire_parameter_count; i++) print_manual_parameter(&moire_parameters[i]);
    printf(".SH EXIT STATUS\n0 done, 1 failed, 2 usage or configuration, 75 stopped with a valid checkpoint "
           "(start again to go on).\n");
}

/* --section.key= for each key of the section. */
static moire_status print_completion_section(const char *section, void *state)
{
    (void)state;
    for (int i = 0; i < moire_parameter_count; i++)
        if (strcmp(moire_parameters[i].section, section) == 0)
            printf("\n            --%s.%s=", moire_parameters[i].section, moire_parameters[i].key);
    return MOIRE_OK;
}

static moire_status print_completion_command(const struct moire_command *command)
{
    printf("        %s) words='--help %s", command->name, command->options ? command->options : "");
    MOIRE_TRY(moire_cli_each_word(command->sections, print_completion_section, NULL));
    printf("' ;;\n");
    return MOIRE_OK;
}

/* The words that the first argument of a command with parts chooses from. */
static void print_completion_parts(const struct moire_command *command)
{
    const char *name = command->name, *between = "";
    if (!command->part) return;
    printf("        %s:2:[!-]* | %s:2:) words='", name, name);
    for (int i = 0; command->part(i); i++, between = " ") printf("%s%s", between, command->part(i)->name);
    printf("' ;;\n");
}

static void print_command_names(void)
{
    for (int i = 0; i < moire_command_count; i++) printf("%s%s", i ? " " : "", moire_commands[i]->name);
}

/* Words that end in = stay open for a value; files are completed by `-o default` where no word fits. */
static moire_status print_completion(void)
{
    printf("# bash completion of moire; source it, or put it where bash-completion looks.\n"
           "_moire() {\n"
           "    local words='' current=${COMP_LINE:0:$COMP_POINT} commands='");
    print_command_names();
    printf("'\n"
           "    current=${current##* }\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        COMPREPLY=($(compgen -W \"$commands --help --version\" -- \"$current\"))\n"
           "        return 0\n"
           "    fi\n"
           "    case ${COMP_WORDS[1]} in\n");
    for (int i = 0; i < moire_command_count; i++) MOIRE_TRY(print_completion_command(moire_commands[i]));
    printf("    esac\n"
           "    case ${COMP_WORDS[1]}:$COMP_CWORD:$current in\n"
           "        help:2:*) words=\"$words $commands\" ;;\n"
           "        data:2:[!-]* | data:2:) words='inspect build' ;;\n");
    for (int i = 0; i < moire_command_count; i++) print_completion_parts(moire_commands[i]);
    printf("        *:-*) ;;\n"
           "        *) return 0 ;;\n"
           "    esac\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
           "    case ${COMPREPLY[0]-} in *=) compopt -o nospace 2>/dev/null ;; esac\n"
           "    return 0\n"
           "}\n"
           "complete -o default -F _moire moire\n");
    return MOIRE_OK;
}

static moire_status run(int argc, char **argv)
{
    const struct moire_command *command;
    if (argc < 1) {
        print_overview();
        return MOIRE_OK;
    }
    if (strcmp(argv[0], "--manual") == 0) {
        print_manual();
        return MOIRE_OK;
    }
    if (strcmp(argv[0], "--completion") == 0) return print_completion();
    MOIRE_TRY(moire_cli_find_command(argv[0], &command));
    return print_command(command);
}

const struct moire_command moire_command_help = {
    .name = "help",
    .arguments = "[COMMAND | --manual | --completion]",
    .summary = "this overview, one command, the manual page, the bash completion",
    .details = "Without an argument an overview; with the name of a command its help;\n"
               "--manual prints the manual page, --completion the bash completion.",
    .sections = "",
    .options = "--manual --completion",
    .run = run,
};
