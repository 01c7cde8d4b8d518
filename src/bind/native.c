/* Fills the table of C functions handed to Lua; the compiler checks every row's type here. */
#include "bind/native.h"

const es_native es_native_table = {
#define N(result, name, arguments) .name = name,
#include "bind/native.def"
#undef N
};
