#include <signal.h>
#include <string.h>

#include "train/private.h"

/* What a batch system sends before it ends a job: SIGTERM, or what `sbatch --signal=USR1@60` asks for. */
static const int caught[] = { SIGTERM, SIGUSR1 };
enum { CAUGHT = sizeof caught / sizeof caught[0] };

static struct sigaction before[CAUGHT];
static volatile sig_atomic_t wanted;

static void note(int number)
{
    (void)number;
    wanted = 1;
}

void moire_signals_catch(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = note;
    action.sa_flags = SA_RESTART; /* a write of a checkpoint goes on */
    sigemptyset(&action.sa_mask);
    wanted = 0;
    for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &action, &before[i]);
}

void moire_signals_restore(void)
{
    for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &before[i], NULL);
}

bool moire_signals_stop_wanted(void)
{
    return wanted != 0;
}
