/* The live progress line on a terminal, plain lines elsewhere. Rank 0 only; other ranks' calls do nothing. */
#ifndef MOIRE_OBSERVE_PROGRESS_H
#define MOIRE_OBSERVE_PROGRESS_H

#include "moire/base/config.h"

struct moire_progress_state {
    int64_t step, steps;
    double loss;
    double validation_loss;        /* negative: none yet */
    double tokens_per_second;
    double exposed_share;          /* exchange time that no compute hid, over the step's time */
};
/* `mode`: MOIRE_PROGRESS_AUTO (live when standard output is a terminal, else plain), YES (live), NO
 * (plain). */
void moire_progress_start(int mode);
/* Live: redraws one line of the terminal's width (COLUMNS or ioctl; 80 at most), ten times a second at most:
 * step and bar, loss, tokens/s, exposed share, time left. Plain: a line at the first and last step and when
 * five seconds have passed since the last line. */
void moire_progress_update(const struct moire_progress_state *state);
/* Ends the live line with a newline and unregisters from the log. */
void moire_progress_stop(void);

#endif
