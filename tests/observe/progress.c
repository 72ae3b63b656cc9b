#include "../support/harness.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../support/capture.h"
#include "fake_clock.h"
#include "moire/base/log.h"
#include "moire/observe/progress.h"

/* A terminal that understands what the progress line sends: carriage return, newline, erase to the end of the
 * line. */
enum { ROWS = 40, COLUMNS = 120 };
static struct {
    int master, saved_output, saved_error;
    char rows[ROWS][COLUMNS + 1];
    int row, column, widest, draws;
} terminal;

static void put(char c)
{
    if (c == '\r') {
        terminal.column = 0;
    } else if (c == '\n') {
        if (terminal.row < ROWS - 1) terminal.row++;
    } else if (terminal.column < COLUMNS) {
        char *row = terminal.rows[terminal.row];
        for (int i = (int)strlen(row); i < terminal.column; i++) row[i] = ' ';
        if (!row[terminal.column]) row[terminal.column + 1] = '\0';
        row[terminal.column++] = c;
        if (terminal.column > terminal.widest) terminal.widest = terminal.column;
    }
}

static void terminal_read(void)
{
    char text[4096];
    fflush(NULL);
    ssize_t bytes = read(terminal.master, text, sizeof text - 1);
    for (ssize_t i = 0; i < bytes; i++) {
        if (bytes - i >= 3 && memcmp(text + i, "\033[K", 3) == 0) {
            terminal.rows[terminal.row][terminal.column] = '\0';
            terminal.draws++;
            i += 2;
        } else {
            put(text[i]);
        }
    }
}

static bool terminal_open(int columns)
{
    struct winsize window = { .ws_row = 24, .ws_col = (unsigned short)columns };
    memset(&terminal, 0, sizeof terminal);
    unsetenv("COLUMNS");
    terminal.master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (terminal.master < 0 || grantpt(terminal.master) != 0 || unlockpt(terminal.master) != 0) return false;
    int slave = open(ptsname(terminal.master), O_RDWR | O_NOCTTY);
    if (slave < 0) return false;
    ioctl(slave, TIOCSWINSZ, &window);
    fflush(NULL);
    terminal.saved_output = dup(1);
    terminal.saved_error = dup(2);
    dup2(slave, 1);
    dup2(slave, 2);
    close(slave);
    return true;
}

static void terminal_close(void)
{
    terminal_read();
    dup2(terminal.saved_output, 1);
    dup2(terminal.saved_error, 2);
    close(terminal.saved_output);
    close(terminal.saved_error);
    close(terminal.master);
    if (getenv("MOIRE_TEST_SHOW"))
        for (int row = 0; row <= terminal.row; row++) fprintf(stderr, "# |%s\n", terminal.rows[row]);
}

static struct moire_progress_state state_at(int64_t step, int64_t steps)
{
    return (struct moire_progress_state){ .step = step,
                                          .steps = steps,
                                          .loss = 2.3141,
                                          .validation_loss = step > 50 ? 2.4012 : -1,
                                          .tokens_per_second = 61234,
                                          .exposed_share = 0.123 };
}

static void update(int64_t step, int64_t steps)
{
    struct moire_progress_state state = state_at(step, steps);
    moire_progress_update(&state);
    terminal_read();
}

static void start_clock(void)
{
    fake_stands = true;
    fake_seconds = 5000;
}

static void a_live_line_on_a_terminal(void)
{
    if (!terminal_open(80)) skip();
    start_clock();
    moire_progress_start(MOIRE_PROGRESS_AUTO);
    for (int64_t step = 1; step <= 118; step++) {
        update(step, 400);
        fake_seconds += 1;
    }
    char *line = terminal.rows[0];
    bool one_row = terminal.row == 0;
    char before[COLUMNS + 1];
    strcpy(before, line);
    moire_log("a log line that comes between");
    terminal_read();
    update(119, 400);
    fake_seconds += 1;
    update(400, 400);
    moire_progress_stop();
    moire_log("after the end");
    terminal_close();
    fake_stands = false;
    expect(one_row);
    expect(strlen(before) == 79);
    expect(strncmp(before, "step 118/400 [=", 15) == 0);
    expect(strstr(before, "] loss 2.314 val 2.401  61.2k tok/s  exchange 12 %  left 4:42") != NULL);
    expect(strcmp(terminal.rows[0], "moire: a log line that comes between") == 0);
    expect(strncmp(terminal.rows[1], "step 400/400 [=", 15) == 0);
    expect(strstr(terminal.rows[1], "left") == NULL && strstr(terminal.rows[1], ">") == NULL);
    expect(strcmp(terminal.rows[2], "moire: after the end") == 0);
    expect(terminal.widest <= 79);
}

static void a_live_line_is_drawn_ten_times_a_second(void)
{
    if (!terminal_open(80)) skip();
    start_clock();
    moire_progress_start(MOIRE_PROGRESS_AUTO);
    for (int64_t step = 1; step <= 1000; step++) { /* 10 seconds in all */
        update(step, 1001);
        fake_seconds += 0.01;
    }
    int draws = terminal.draws;
    moire_progress_stop(); /* draws the last state */
    terminal_close();
    fake_stands = false;
    expect(draws >= 80 && draws <= 101);
    expect(strncmp(terminal.rows[0], "step 1000/1001 loss ", 20) == 0);
    expect(terminal.row == 1);
}

static void narrow_terminals(void)
{
    for (int columns = 1; columns <= 120; columns++) {
        if (!terminal_open(columns)) skip();
        start_clock();
        moire_progress_start(MOIRE_PROGRESS_YES);
        update(100, 123456);
        fake_seconds += 100;
        update(123455, 123456);
        moire_progress_stop();
        terminal_close();
        expect(terminal.widest < columns && terminal.widest <= 79);
        expect(columns < 20 || strncmp(terminal.rows[0], "step 123455/123456", 18) == 0);
        expect(columns < 33 || strstr(terminal.rows[0], "loss 2.314") != NULL);
        expect(terminal.row == 1);
    }
    fake_stands = false;
}

static void columns_of_the_environment_win(void)
{
    if (!terminal_open(80)) skip();
    setenv("COLUMNS", "60", 1);
    start_clock();
    moire_progress_start(MOIRE_PROGRESS_AUTO);
    update(1, 10);
    moire_progress_stop();
    terminal_close();
    unsetenv("COLUMNS");
    fake_stands = false;
    expect(terminal.widest == 59);
}

static void plain_lines_elsewhere(void)
{
    struct capture capture;
    start_clock();
    capture_begin(&capture, 1);
    moire_progress_start(MOIRE_PROGRESS_AUTO);
    for (int64_t step = 1; step <= 100; step++) {
        struct moire_progress_state state = state_at(step, 100);
        moire_progress_update(&state);
        fake_seconds += 0.25;
    }
    moire_progress_stop();
    capture_end(&capture);
    fake_stands = false;
    if (getenv("MOIRE_TEST_SHOW")) fputs(capture.text, stderr);
    expect(count_text(capture.text, "\n") == 6); /* at 0, 5, 10, 15, 20 and 24.75 seconds */
    expect(strncmp(capture.text, "step 1/100  loss 2.314  61.2k tok/s  exchange 12 %\n", 51) == 0);
    expect(strstr(capture.text, "\nstep 21/100  loss 2.314  61.2k tok/s  exchange 12 %  left 0:20\n") !=
           NULL);
    expect(strstr(capture.text, "\nstep 100/100  loss 2.314 val 2.401  61.2k tok/s  exchange 12 %\n") !=
           NULL);
    expect(strchr(capture.text, '\r') == NULL && strchr(capture.text, '\033') == NULL);
}

static void a_run_that_stops_early_shows_its_last_state(void)
{
    struct capture capture;
    start_clock();
    capture_begin(&capture, 1);
    moire_progress_start(MOIRE_PROGRESS_NO);
    for (int64_t step = 11; step <= 13; step++) {
        struct moire_progress_state state = state_at(step, 100000);
        moire_progress_update(&state);
        fake_seconds += 2;
    }
    moire_progress_stop();
    moire_progress_stop();
    capture_end(&capture);
    fake_stands = false;
    expect(count_text(capture.text, "\n") == 2);
    expect(strstr(capture.text, "\nstep 13/100000 ") != NULL);
    expect(strstr(capture.text, "left 2 d 07 h\n") != NULL); /* 99,987 steps of 2 s */
}

static void other_ranks_and_unused_progress_print_nothing(void)
{
    struct capture capture;
    struct moire_progress_state state = state_at(1, 2);
    capture_begin(&capture, 1);
    moire_progress_update(&state); /* not started */
    moire_progress_stop();
    moire_progress_start(MOIRE_PROGRESS_YES); /* started, never updated */
    moire_progress_stop();
    moire_where.rank = 1;
    moire_progress_start(MOIRE_PROGRESS_YES);
    moire_progress_update(&state);
    moire_progress_stop();
    moire_where.rank = -1;
    capture_end(&capture);
    expect(capture.text[0] == '\0');
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a live line on a terminal", a_live_line_on_a_terminal },
        { "a live line is drawn ten times a second", a_live_line_is_drawn_ten_times_a_second },
        { "narrow terminals", narrow_terminals },
        { "columns of the environment win", columns_of_the_environment_win },
        { "plain lines elsewhere", plain_lines_elsewhere },
        { "a run that stops early shows its last state", a_run_that_stops_early_shows_its_last_state },
        { "other ranks and unused progress print nothing", other_ranks_and_unused_progress_print_nothing },
    };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof *tests);
}
