/* Products longer than BLAS can count are cut. Here the longest side is 5, so that every product is. */
#define MOIRE_GEMM_LONGEST 5
#include "compute/linear.c"

#include "products.h"

int main(int argc, char **argv)
{
    const struct moire_test tests[] = { { "products in pieces", compare_gemm_sizes } };
    return test_main(argc, argv, "", tests, sizeof tests / sizeof tests[0]);
}
