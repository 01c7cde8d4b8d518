/* Contexts and compilation: the public calls that need Lua. The pipeline itself is lua/esper/host.lua. */
#include "bind/context.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/text.h"
#include "run/plan.h"

struct esper_context {
  lua_State *L;
  es_error error;
};

es_error *es_context_error(esper_context *context) { return &context->error; }

static void *lua_memory(void *user, void *old, size_t old_bytes, size_t bytes) {
  (void)user, (void)old_bytes;
  if (bytes) return es_realloc(old, bytes);
  es_free(old);
  return NULL;
}

/* The store directory by the rules of esper.h, as an owned text; empty = no store. */
static char *store_directory(const char *given) {
  es_text path = {0};
  const char *env = given ? given : getenv("ESPER_STORE");
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (env) es_text_add(&path, "%s", env);
  else if (cache && *cache) es_text_add(&path, "%s/esper", cache);
  else if (home && *home) es_text_add(&path, "%s/.cache/esper", home);
  else es_text_add(&path, "%s", "");
  return es_text_take(&path);
}

typedef struct setup { const char *lua_dir, *store; int32_t threads; } setup;

/* Under lua_pcall: libraries, searcher, and a first require so that a broken script tree fails here. */
static int prepare(lua_State *L) {
  const setup *s = lua_touserdata(L, 1);
  luaL_openlibs(L);
  es_state_prepare(L, s->lua_dir);
  lua_createtable(L, 0, 2);
  lua_pushstring(L, s->store);
  lua_setfield(L, -2, "store");
  lua_pushinteger(L, s->threads);
  lua_setfield(L, -2, "threads");
  lua_setfield(L, LUA_REGISTRYINDEX, "esper.options");
  return 0;
}

/* {store=, threads=} of the context that owns this state: read by lua/esper/host.lua. */
static int options(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "esper.options");
  return 1;
}

esper_status esper_context_new(const esper_options *opts, esper_context **out) {
  if (!out) return ESPER_EARG;
  *out = NULL;
  if (opts && opts->struct_size != sizeof *opts) return ESPER_EARG;
  if (opts && opts->realloc_hook) es_memory_hook(opts->realloc_hook, opts->realloc_user);
  if (!es_hash_start()) return ESPER_EINTERNAL;
  esper_context *context = es_alloc(sizeof *context);
  if (!context) return ESPER_ENOMEM;
  const char *dir = opts && opts->lua_dir ? opts->lua_dir : getenv("ESPER_LUA_DIR");
  char *store = store_directory(opts ? opts->store : NULL);
  esper_status status = ESPER_ENOMEM;
  context->L = store ? lua_newstate(lua_memory, NULL) : NULL;
  if (!context->L) goto done;
  setup s = {dir && *dir ? dir : NULL, store, opts && opts->threads > 0 ? opts->threads : 0};
  status = lua_cpcall(context->L, prepare, &s) == 0 ? ESPER_OK : ESPER_ENOMEM;
done:
  es_free(store);
  if (status == ESPER_OK) {
    lua_pushcfunction(context->L, options);
    lua_setglobal(context->L, "esper_options");
    *out = context;
  } else {
    esper_context_free(context);
  }
  return status;
}

void esper_context_free(esper_context *context) {
  if (!context) return;
  if (context->L) lua_close(context->L);
  es_free(context);
}

const char *esper_context_message(const esper_context *context) { return context ? context->error.text : ""; }

typedef struct request {
  const char *blueprint;
  const esper_compile_options *options;
  es_kernel *kernel;
  int status;
  es_error *error;
} request;

/* Under lua_pcall: host.compile(blueprint, {...}) -> lightuserdata kernel (retained) | nil, message, status name. */
static int call_compile(lua_State *L) {
  request *r = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "esper.host");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "compile");
  lua_pushstring(L, r->blueprint);
  lua_createtable(L, 0, 4);
  if (r->options) {
    lua_pushstring(L, r->options->set);
    lua_setfield(L, -2, "set");
    lua_pushstring(L, r->options->mode);
    lua_setfield(L, -2, "mode");
    lua_pushstring(L, r->options->dtype);
    lua_setfield(L, -2, "dtype");
    lua_pushstring(L, r->options->size);
    lua_setfield(L, -2, "size");
    lua_pushboolean(L, r->options->uncertified);
    lua_setfield(L, -2, "uncertified");
  }
  lua_call(L, 2, 3);
  r->kernel = (es_kernel *)(intptr_t)lua_tonumber(L, -3); /* user addresses have 47 bits, a double holds 53 */
  if (r->kernel) return 0;
  r->status = (int)lua_tointeger(L, -1);
  const char *message = lua_tostring(L, -2);
  es_fail(r->error, r->status > 0 ? r->status : ESPER_EINTERNAL, "%s", message ? message : "no message");
  return 0;
}

esper_status esper_compile(esper_context *context, const char *blueprint, const esper_compile_options *opts,
                           esper_kernel **out) {
  if (!out) return ESPER_EARG;
  *out = NULL;
  if (!context || !blueprint) return ESPER_EARG;
  if (opts && opts->struct_size != sizeof *opts)
    return es_fail(&context->error, ESPER_EARG, "esper_compile: options->struct_size is not sizeof(esper_compile_options)");
  context->error = (es_error){0};
  request r = {blueprint, opts, NULL, 0, &context->error};
  if (lua_cpcall(context->L, call_compile, &r) != 0) {
    const char *message = lua_tostring(context->L, -1);
    es_fail(&context->error, ESPER_EINTERNAL, "esper_compile: %s", message ? message : "Lua failed");
    lua_pop(context->L, 1);
    return ESPER_EINTERNAL;
  }
  if (!r.kernel) return (esper_status)context->error.status;
  *out = (esper_kernel *)r.kernel;
  return ESPER_OK;
}

/* For src/main.c only: exported, not declared in esper.h. */
ESPER_API lua_State *esper_context_lua(esper_context *context);
lua_State *esper_context_lua(esper_context *context) { return context->L; }
