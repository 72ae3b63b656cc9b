/* Emulated compute: instead of being computed, a product waits for as long as a machine of a given rate would
 * take, so that many ranks fit few cores and any balance of compute and network can be tried. Rows really
 * travel. One switch for the process, off at the start. None is collective; the main thread calls.
 *
 * While it is on, of the functions of compute
 *   products (linear.h) and attention wait for FLOP / rate and touch no data: 2 FLOP for each
 *     multiplication with its addition; attention is causal, so half of S x S counts, twice as much backward
 *     as forward;
 *   cross entropy gives log V, the loss of a model that knows nothing; sums of squares are 0; norms copy their
 *     rows; the gradients of slot weights are 0;
 *   activations, rotary, gradients of norms and embeddings, the update and what else only runs through memory
 *     is skipped in no time.
 * So outputs are what was there before: memory of moire_allocate starts as zeros, and numbers stay finite.
 * Logits say nothing: routing has to be forced. */
#ifndef MOIRE_COMPUTE_EMULATE_H
#define MOIRE_COMPUTE_EMULATE_H

#include <stdbool.h>
#include <stddef.h>

/* On, at `rate` > 0 FLOP/s of this rank; counts FLOP from zero. */
void moire_emulate_start(double rate);
void moire_emulate_stop(void);
/* Called between the pieces of a wait (NULL: nothing): moves transfers on. True: some are in flight, so that
 * it wants to be called again soon; else the wait goes on in one piece. */
void moire_emulate_progress(bool (*progress)(void *context), void *context);

bool moire_is_emulated(void);
/* Off: false, and the caller computes. On: waits for flop / rate and returns true. Less than 50 us is waited
 * for together with what follows. A rank that is woken too late makes up for it in its next products, for up
 * to 1 ms. */
bool moire_emulate_work(double flop);
/* Waits for what is left, and forgets about sleep that was too long: from one call to the next at least
 * FLOP / rate passes. */
void moire_emulate_settle(void);
/* FLOP waited for since the start. */
double moire_emulate_flop(void);
/* How this process computes, for everything that shows a figure: "real", or "emulated at 1e12 FLOP/s". */
void moire_emulate_describe(char *text, size_t bytes);

#endif
