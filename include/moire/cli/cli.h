/* Subcommands: one file each, one line in the table of cli/main.c. */
#ifndef MOIRE_CLI_CLI_H
#define MOIRE_CLI_CLI_H

#include "moire/base/config.h"
#include "moire/cluster/mesh.h"

/* One of the things that the first argument of a command chooses from. */
struct moire_part {
    const char *name;
    const char *arguments; /* "FILE.ini [--section.key=value ...]" */
    const char *details;   /* a paragraph, then examples; at most 80 columns */
};

struct moire_command {
    const char *name;
    const char *arguments; /* "FILE.ini [--section.key=value ...]"; lines after the first are other forms */
    const struct moire_part *(*part)(int index); /* instead of arguments: a form a part; NULL past the last */
    const char *summary;   /* one line */
    const char *details;   /* for `moire NAME --help`: paragraphs, then examples; at most 80 columns */
    const char *sections;  /* of the parameters it reads, "run model ..."; "" for none; shown by --help */
    const char *options;   /* its own options, "--verify --output="; NULL for none */
    bool mpi; /* MPI runs before run is called; an error that run did not agree on ends the job */
    /* argv[0] is the first argument after the name. */
    moire_status (*run)(int argc, char **argv);
};
extern const struct moire_command *const moire_commands[];
extern const int moire_command_count;

extern const struct moire_command moire_command_train, moire_command_eval, moire_command_generate,
    moire_command_inspect, moire_command_config, moire_command_info, moire_command_data, moire_command_bench,
    moire_command_help;

/* MOIRE_USAGE with the nearest name where there is no such command. */
moire_status moire_cli_find_command(const char *name, const struct moire_command **command);
/* Calls `visit` for each of the words, which blanks separate, until one fails. `words` may be NULL. */
moire_status moire_cli_each_word(const char *words, moire_status (*visit)(const char *word, void *state),
                                 void *state);

/* Index of the first argument that is neither an option nor an option's value, or -1. */
int moire_cli_operand(int argc, char **argv);
/* The operand is the configuration file (it may be missing when `file_needed` is false); the rest are
 * parameters. Not collective. */
moire_status moire_cli_load(int argc, char **argv, bool file_needed, struct moire_config *config);
/* The same on all ranks, agreed; MOIRE_USAGE where ranks differ, with the parameter named. Warns of an
 * OpenBLAS that does not fit. Collective over the world. */
moire_status moire_cli_load_all(int argc, char **argv, bool file_needed, struct moire_config *config);
/* For commands that work on a trained model: the operand is a configuration (the newest checkpoint of its
 * run.dir, or checkpoint.resume), a checkpoint, or a run directory. Loads the configuration (of the
 * checkpoint where no .ini is given), finds the checkpoint's path, the same on all ranks, makes the mesh and
 * calls `work`. Collective over the world. */
typedef moire_status moire_cli_trained_work(const struct moire_config *config, const struct moire_mesh *mesh,
                                            const char *path);
moire_status moire_cli_with_trained(int argc, char **argv, moire_cli_trained_work *work);
/* Whether a path is of a checkpoint, also of one so damaged that only the ending of its name says so. */
bool moire_cli_is_checkpoint(const char *path);
/* Checks of names and combinations that the parameter table cannot make: router, back end, source, schedule,
 * shapes. Not collective. */
moire_status moire_cli_check(const struct moire_config *config);
/* moire_agree over the world where MPI runs; else the status itself. Collective over the world. */
moire_status moire_cli_agree(moire_status status);
/* Removes option `name` ("--dry-run") from the arguments; whether it was there. */
bool moire_cli_flag(int *argc, char **argv, const char *name);
/* Removes "--name=VALUE" and returns VALUE, or NULL. */
const char *moire_cli_option(int *argc, char **argv, const char *name);

/* What a configuration comes to: parameters by kind, active ones, FLOP, bytes; standard output. Not
 * collective. */
moire_status moire_cli_print_model(const struct moire_config *config);
/* "KEY  text" on standard output, the text in lines of at most 80 columns, each behind `indent` columns. */
void moire_cli_print_wrapped(const char *key, int indent, const char *text);
/* "s" behind a number but 1. */
const char *moire_cli_plural(int64_t number);
/* Bytes in people's units: "1.2 GiB"; text holds 32 bytes. Returns text. */
char *moire_cli_bytes(double bytes, char text[32]);
/* 46,702,792,704; text holds 32 bytes. Returns text. */
char *moire_cli_thousands(int64_t number, char text[32]);

#endif
