#include "moire/base/element.h"

size_t moire_element_bytes(moire_element element)
{
    return element == MOIRE_FLOAT64 ? 8 : 4;
}

const char *moire_element_name(moire_element element)
{
    return element == MOIRE_FLOAT64 ? "float64" : "float32";
}
