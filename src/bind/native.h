/* The table of C functions handed to Lua. Preprocessed with empty system headers this file is also the text that
 * lua/esper/native.lua gives to ffi.cdef, so C and Lua cannot disagree. */
#ifndef ES_NATIVE_H
#define ES_NATIVE_H
#include "graph/graph.h"
#include "bind/params.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"
#include "bind/sandbox.h"
#include "jit/jit.h"
#include "run/guard.h"
#include "run/measure.h"
#include "run/npy.h"
#include "run/oracle.h"
#include "run/plan.h"
#include "run/sample.h"
#include "store/store.h"
#include "torch/torch.h"
#include "vec/vec.h"
#include "vec/x86.h"

typedef struct es_native {
#define N(result, name, arguments) result(*name) arguments;
#include "bind/native.def"
#undef N
} es_native;
extern const es_native es_native_table;
#endif
