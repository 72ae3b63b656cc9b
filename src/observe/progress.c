#include "moire/observe/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "moire/base/log.h"
#include "moire/observe/clock.h"

static const double live_seconds = 0.1, plain_seconds = 5; /* shortest time between two lines */
enum { WIDTH = 80, SHORTEST_BAR = 4, LINE_BYTES = 256 };

static struct {
    bool started, live;
    bool stands; /* a live line is on the terminal */
    bool shown;  /* `last` has been printed */
    int64_t updates;
    struct moire_progress_state first, last;
    double first_seconds, last_seconds, shown_seconds; /* of first, of last, of the last line */
} progress;

/* Columns that a line may take: one less than the terminal's, or some terminals wrap. */
static int usable_columns(void)
{
    struct winsize window;
    const char *text = getenv("COLUMNS");
    int64_t columns;
    if (!text || !moire_parse_integer(text, &columns) || columns < 1) {
        bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
        columns = known ? window.ws_col : WIDTH;
    }
    return columns > WIDTH ? WIDTH - 1 : (int)columns - 1;
}

/* "0:07", "1:23:45", "3 d 04 h". */
static void write_left(char *text, size_t bytes, double left)
{
    if (left > 1e10) left = 1e10;
    long long seconds = (long long)(left + 0.5);
    if (seconds < 3600)
        snprintf(text, bytes, "%lld:%02lld", seconds / 60, seconds % 60);
    else if (seconds < 86400)
        snprintf(text, bytes, "%lld:%02lld:%02lld", seconds / 3600, seconds / 60 % 60, seconds % 60);
    else
        snprintf(text, bytes, "%lld d %02lld h", seconds / 86400, seconds / 3600 % 24);
}

/* "61.2k": three or four digits. */
static void write_rate(char *text, size_t bytes, double rate)
{
    static const char *const suffixes[] = { "", "k", "M", "G", "T" };
    size_t i = 0;
    while (rate >= 999.5 && i < sizeof suffixes / sizeof *suffixes - 1) {
        rate /= 1000;
        i++;
    }
    snprintf(text, bytes, "%.*f%s", i > 0 && rate < 99.95 ? 1 : 0, rate, suffixes[i]);
}

/* Three digits after the point where that is enough, so that the line does not twitch. */
static void write_loss(char *text, size_t bytes, double loss)
{
    bool is_common = loss >= 0.1 && loss < 1000;
    snprintf(text, bytes, is_common ? "%.3f" : "%.4g", loss);
}

/* The fields of a line, in order of appearance. */
enum field { STEP, LOSS, VALIDATION, RATE, EXPOSED, LEFT, FIELDS };
typedef char field_text[40];

static void write_fields(const struct moire_progress_state *state, field_text fields[FIELDS])
{
    const size_t bytes = sizeof fields[0];
    char number[24];
    memset(fields, 0, FIELDS * bytes);
    snprintf(fields[STEP], bytes, "step %lld/%lld", (long long)state->step, (long long)state->steps);
    write_loss(number, sizeof number, state->loss);
    snprintf(fields[LOSS], bytes, " loss %s", number);
    write_loss(number, sizeof number, state->validation_loss);
    if (!(state->validation_loss < 0)) snprintf(fields[VALIDATION], bytes, " val %s", number);
    write_rate(number, sizeof number, state->tokens_per_second);
    snprintf(fields[RATE], bytes, "  %s tok/s", number);
    snprintf(fields[EXPOSED], bytes, "  exchange %.0f %%", 100 * state->exposed_share);
    /* By the mean time of a step since the first update, which leaves the slow first step out. */
    int64_t done = state->step - progress.first.step;
    if (done < 1 || state->step >= state->steps) return;
    double each = (progress.last_seconds - progress.first_seconds) / (double)done;
    write_left(number, sizeof number, each * (double)(state->steps - state->step));
    snprintf(fields[LEFT], bytes, "  left %s", number);
}

/* " [=====>    ]" in exactly `columns`. */
static void write_bar(char *text, int columns, const struct moire_progress_state *state)
{
    int inside = columns - 3;
    double part = state->steps > 0 ? (double)state->step / (double)state->steps : 0;
    int full = (int)(part * inside);
    if (full > inside) full = inside;
    if (full < 0) full = 0;
    memset(text, ' ', (size_t)columns);
    text[1] = '[';
    memset(text + 2, '=', (size_t)full);
    if (full < inside) text[2 + full] = '>';
    text[columns - 1] = ']';
    text[columns] = '\0';
}

/* At most `columns`: what does not fit is left out, the least important first; a bar fills the rest. */
static void write_live(char line[LINE_BYTES], int columns, const struct moire_progress_state *state)
{
    static const enum field expendable[] = { EXPOSED, VALIDATION, RATE, LEFT, LOSS };
    field_text fields[FIELDS];
    char bar[WIDTH + 1] = "";
    int used = 0;
    write_fields(state, fields);
    for (int i = 0; i < FIELDS; i++) used += (int)strlen(fields[i]);
    for (size_t i = 0; i < sizeof expendable / sizeof *expendable && used > columns; i++) {
        used -= (int)strlen(fields[expendable[i]]);
        fields[expendable[i]][0] = '\0';
    }
    if (columns - used >= SHORTEST_BAR + 3) write_bar(bar, columns - used, state);
    snprintf(line, LINE_BYTES, "%s%s%s%s%s%s%s", fields[STEP], bar, fields[LOSS], fields[VALIDATION],
             fields[RATE], fields[EXPOSED], fields[LEFT]);
    if (columns < LINE_BYTES - 1) line[columns > 0 ? columns : 0] = '\0';
}

static void print_live(const struct moire_progress_state *state)
{
    char line[LINE_BYTES];
    write_live(line, usable_columns(), state);
    printf("\r%s\033[K", line);
    fflush(stdout);
    progress.stands = true;
}

static void print_plain(const struct moire_progress_state *state)
{
    field_text fields[FIELDS];
    write_fields(state, fields);
    printf("%s %s%s%s%s%s\n", fields[STEP], fields[LOSS], fields[VALIDATION], fields[RATE], fields[EXPOSED],
           fields[LEFT]);
    fflush(stdout);
}

static void show(double now)
{
    if (progress.live)
        print_live(&progress.last);
    else
        print_plain(&progress.last);
    progress.shown = true;
    progress.shown_seconds = now;
}

/* Before other output; the next update draws the line anew. */
static void wipe(void)
{
    if (!progress.stands) return;
    fputs("\r\033[K", stdout);
    fflush(stdout);
    progress.stands = false;
    progress.shown = false;
}

/* Whether a person sees the line. mpirun gives its ranks a pseudo terminal whatever its own output is, so
 * where the parent is a launcher its output decides: /proc/PARENT/fd/1 is a link to a terminal or to
 * something else. */
static bool on_terminal(void)
{
    char link[64], target[256] = "";
    if (!isatty(STDOUT_FILENO)) return false;
    if (!getenv("OMPI_COMM_WORLD_SIZE")) return true;
    snprintf(link, sizeof link, "/proc/%ld/fd/1", (long)getppid());
    return readlink(link, target, sizeof target - 1) > 0 &&
           (strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0);
}

void moire_progress_start(int mode)
{
    if (moire_where.rank > 0) return;
    memset(&progress, 0, sizeof progress);
    progress.started = true;
    progress.live = mode == MOIRE_PROGRESS_YES || (mode == MOIRE_PROGRESS_AUTO && on_terminal());
    if (progress.live) moire_log_set_before(wipe);
}

void moire_progress_update(const struct moire_progress_state *state)
{
    if (!progress.started) return;
    double now = moire_seconds();
    bool is_first = progress.updates++ == 0;
    if (is_first) {
        progress.first = *state;
        progress.first_seconds = now;
    }
    progress.last = *state;
    progress.last_seconds = now;
    progress.shown = false;
    double pause = progress.live ? live_seconds : plain_seconds;
    if (is_first || state->step >= state->steps || now - progress.shown_seconds >= pause) show(now);
}

void moire_progress_stop(void)
{
    if (!progress.started) return;
    if (progress.updates > 0 && !progress.shown) show(moire_seconds());
    if (progress.stands) putchar('\n');
    fflush(stdout);
    if (progress.live) moire_log_set_before(NULL);
    progress.started = progress.stands = false;
}
