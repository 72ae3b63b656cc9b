/* The loop: steps, and what is due between them. */
#include "moire/base/log.h"
#include "moire/compute/emulate.h"
#include "moire/observe/phases.h"
#include "moire/observe/progress.h"
#include "train/private.h"

static bool is_due(int64_t every, const struct moire_run *run)
{
    return run->step >= run->config->train_steps || (every != MOIRE_NEVER && run->step % every == 0);
}

/* Of this step, unless it was done already. */
static moire_status evaluate(struct moire_run *run)
{
    if (run->evaluated || moire_is_emulated()) return MOIRE_OK;
    MOIRE_TRY(moire_evaluate(&run->model, run->data, run->config->evaluate_sequences, &run->evaluation));
    run->evaluated = true;
    return MOIRE_OK;
}

/* A failure of rank 0 to write its line waits for the next agreement. */
static moire_status write_step(struct moire_run *run, struct moire_step *step)
{
    moire_phase_begin(MOIRE_PHASE_METRICS);
    MOIRE_TRY(moire_step_reduce(run, step));
    moire_status written = moire_run_metrics(run, step);
    if (run->local == MOIRE_OK) run->local = written;
    MOIRE_TRY(moire_record_write(run));
    moire_phase_end(MOIRE_PHASE_METRICS);
    moire_run_progress(run, step);
    return MOIRE_OK;
}

/* Whether the run ends here though steps are left: the same on all ranks. */
static bool must_stop(const struct moire_run *run, const struct moire_step *step)
{
    const struct moire_config *config = run->config;
    if (run->step >= config->train_steps) return false;
    int64_t done = run->step - run->first_step;
    return step->stop_wanted || (config->train_stop_after != MOIRE_NEVER && done >= config->train_stop_after);
}

static moire_status do_step(struct moire_run *run, bool *stop)
{
    struct moire_step step;
    moire_where.step = run->step + 1;
    MOIRE_TRY(moire_run_step(run, &step));
    moire_record_gather(run);
    if (is_due(run->config->evaluate_every, run)) MOIRE_TRY(evaluate(run));
    MOIRE_TRY(write_step(run, &step));
    *stop = must_stop(run, &step);
    return *stop || is_due(run->config->checkpoint_every, run) ? moire_run_checkpoint(run) : MOIRE_OK;
}

static moire_status do_steps(struct moire_run *run, bool *stop)
{
    moire_progress_start(run->config->run_progress);
    while (!*stop && run->step < run->config->train_steps) MOIRE_TRY(do_step(run, stop));
    moire_progress_stop();
    return moire_agree(&run->mesh.world, run->local);
}

static moire_status train(struct moire_run *run)
{
    int64_t steps = run->config->train_steps;
    bool stop = false;
    if (run->step < steps)
        MOIRE_TRY(do_steps(run, &stop));
    else
        moire_log("nothing to train: train.steps = %lld, and %lld are done; evaluating", (long long)steps,
                  (long long)run->step);
    if (!stop) {
        MOIRE_TRY(evaluate(run));
        MOIRE_TRY(moire_run_checkpoint(run));
    }
    MOIRE_TRY(moire_run_report(run));
    if (!stop) return MOIRE_OK;
    if (moire_is_emulated())
        moire_log("stopped after step %lld of %lld; emulated compute has no checkpoint to go on from",
                  (long long)run->step, (long long)steps);
    else
        moire_log("stopped after step %lld of %lld with a checkpoint in %s; start it again to go on",
                  (long long)run->step, (long long)steps, run->checkpoints);
    moire_error_set_agreed(true); /* all ranks leave alike, through MPI_Finalize */
    return MOIRE_STOPPED;
}

/* Closing is rank 0's; a failure in it counts only where all went well. */
static moire_status close_run(struct moire_run *run, moire_status status)
{
    bool failed = status != MOIRE_OK && status != MOIRE_STOPPED;
    moire_status closed = moire_run_close(run, status);
    if (!failed) {
        closed = moire_agree(&run->mesh.world, closed);
        return closed == MOIRE_OK ? status : closed;
    }
    if (moire_error_is_agreed()) { /* the message is out: no second one */
        moire_error_clear();
        moire_error_set_agreed(true);
    }
    return status;
}

moire_status moire_train(const struct moire_config *config)
{
    struct moire_run run;
    moire_phases_reset();
    moire_signals_catch();
    moire_status status = moire_run_create(config, &run);
    if (status == MOIRE_OK) status = moire_run_open(&run);
    if (status == MOIRE_OK) status = train(&run);
    moire_progress_stop();
    moire_emulate_stop();
    status = close_run(&run, status);
    bool failed = status != MOIRE_OK && status != MOIRE_STOPPED;
    /* A failure that the ranks do not share ends the job at once: what is collective would wait for ever. */
    if (!failed || moire_error_is_agreed()) moire_run_free(&run);
    if (failed) moire_phases_reset();
    moire_signals_restore();
    moire_where.step = -1;
    moire_where.layer = -1;
    return status;
}
