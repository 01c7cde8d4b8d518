/* A context: one Lua state with the whole pipeline loaded, its message, its store path and its thread pool. */
#ifndef ES_CONTEXT_H
#define ES_CONTEXT_H
#include "base/error.h"
#include "bind/state.h"

es_error *es_context_error(esper_context *context); /* where calls on the context leave their failure; never NULL */
#endif
