/* Sandbox: a Lua state of its own in which blueprint files run, with a cap on memory, instructions and time.
 * Trusted frontend scripts (lua/esper/confined.lua and what it requires) are loaded into it; the blueprint sees only the
 * environment they make for it. What crosses back is a finished graph and flat data.
 * A state that hit a limit is closed; the next build starts a fresh one. One thread at a time. */
#ifndef ES_SANDBOX_H
#define ES_SANDBOX_H
#include "base/text.h"
#include "graph/graph.h"

typedef struct es_sandbox es_sandbox;

/* dir: tree of scripts, NULL = the embedded copy. A limit of 0 takes the default: 64 MiB, 50 million VM instructions,
 * 2000 milliseconds; each counts for one build. No Lua state exists before the first build. */
es_sandbox *es_sandbox_new(const char *dir, int64_t memory, int64_t instructions, int64_t milliseconds, es_error *err);
void es_sandbox_free(es_sandbox *sandbox);

/* Runs blueprint text (never bytecode) and gives its graph, owned by the caller; NULL on failure.
 * chunk: "@file" for messages. options: packed table (lua/esper/pack.lua) for blueprint.build. info: replaced by the packed
 * info of the build, or on EBLUEPRINT and EATTR by all errors, one a line (err->text holds as many as fit).
 * Errors: ESANDBOX (text says which limit), EBLUEPRINT, EATTR, EARG, ENOMEM, EINTERNAL. */
es_graph *es_sandbox_build(es_sandbox *sandbox, const char *text, size_t length, const char *chunk, const char *options,
                           size_t options_length, es_text *info, es_error *err);
#endif
