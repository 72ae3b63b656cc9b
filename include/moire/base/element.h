/* Element types that rows and tensors can have. Folders that are built once (exchange, io) carry one of these
 * where the numeric folders write `real`. */
#ifndef MOIRE_BASE_ELEMENT_H
#define MOIRE_BASE_ELEMENT_H

#include <stddef.h>

typedef enum { MOIRE_FLOAT32, MOIRE_FLOAT64 } moire_element;

size_t moire_element_bytes(moire_element element);
const char *moire_element_name(moire_element element); /* "float32", "float64" */

#endif
