/* Loops that are compiled for several CPUs. */
#ifndef MOIRE_SRC_BASE_CLONES_H
#define MOIRE_SRC_BASE_CLONES_H

#include <stdint.h> /* defines __GLIBC__, as any header of it does */

/* A function compiled for several CPUs, the best chosen when the program starts. It must hold the whole
 * loop: the body of a parallel region is outlined and would not be cloned. Not under sanitizers (their
 * start-up comes too late for the choice), nor where the compiler was told the CPU. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) &&                 \
    __GNUC__ >= 12 && !defined(__AVX2__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MOIRE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MOIRE_CLONES
#endif

#endif
