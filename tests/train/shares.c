/* train.shard_optimizer: the same parameters and checkpoints, bit for bit, with a share of the memory. */
#include "../support/harness.h"

#include <stdlib.h>
#include <string.h>

#include "../support/capture.h"
#include "moire/train/train.h"
#include "tiny.h"

static moire_status train(const struct moire_config *config)
{
    static struct capture printed;
    capture_begin(&printed, 1);
    moire_status status = moire_train(config);
    capture_end(&printed);
    return status;
}

/* The peak of the optimizer's memory on this rank. */
static int64_t peak(const struct moire_config *config)
{
    moire_memory_reset_peaks();
    expect_ok(train(config));
    return moire_memory_peak_bytes(MOIRE_MEMORY_OPTIMIZER);
}

static void a_rank_keeps_its_share(void)
{
    struct moire_config config;
    make_config(&config);
    set(&config, "moe.layers", "none");
    set(&config, "train.steps", "1");
    set(&config, "train.shard_optimizer", "no");
    int64_t whole = peak(&config);
    set(&config, "checkpoint.resume", "never");
    set(&config, "train.shard_optimizer", "yes");
    int64_t share = peak(&config);
    int64_t block = 2 * MOIRE_SHARE_BLOCK * (int64_t)sizeof(real);
    expect(whole > 0 && share * test_ranks < whole + test_ranks * block);
    expect(share * test_ranks > whole - test_ranks * block);
    clean(&config);
}

int main(int argc, char **argv)
{
    static const struct moire_test tests[] = {
        { "a rank keeps its share of the moments", a_rank_keeps_its_share },
    };
    return test_main(argc, argv, "1 2 3 5", tests, sizeof tests / sizeof *tests);
}
