/* Numeric sources are written over `real` and built twice: float for use, double (MOIRE_REAL_DOUBLE) for the
 * gradient checks and for `moire-double`. Use <tgmath.h> for functions of it. */
#ifndef MOIRE_BASE_REAL_H
#define MOIRE_BASE_REAL_H

#include "moire/base/element.h"

#ifdef MOIRE_REAL_DOUBLE
typedef double real;
#define MOIRE_REAL_ELEMENT MOIRE_FLOAT64
#define MOIRE_REAL_NAME "double"
#else
typedef float real;
#define MOIRE_REAL_ELEMENT MOIRE_FLOAT32
#define MOIRE_REAL_NAME "float"
#endif

#endif
