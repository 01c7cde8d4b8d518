/* The sandbox's C half: capped allocator, budget hook, and the protected calls into lua/esper/confined.lua. */
#include "bind/sandbox.h"

#include <luajit.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "bind/state.h"

enum { HOOK_STEP = 100, /* VM instructions between looks at the budget */
       MEMORY_DEFAULT = 64 << 20, INSTRUCTIONS_DEFAULT = 50000000, MILLISECONDS_DEFAULT = 2000 };

typedef enum trip { TRIP_NONE, TRIP_INSTRUCTIONS, TRIP_TIME, TRIP_MEMORY } trip;

struct es_sandbox {
  lua_State *L; /* NULL until the first build and after a trip */
  char *dir;
  int64_t memory, instructions, milliseconds; /* limits */
  int64_t used, settled;                      /* bytes of the state now, and right after it was made */
  int64_t count, deadline, step;              /* of the build now running */
  trip tripped;                               /* sticks until the state is closed */
};

typedef struct request {
  es_sandbox *box;
  const char *text, *chunk, *options;
  size_t length, options_length;
  es_text *info;
  es_graph *graph;
  int status; /* esper_status of a build that ran to its end */
} request;

static int64_t milliseconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static es_sandbox *box_of(lua_State *L) {
  void *box;
  lua_getallocf(L, &box);
  return box;
}

/* lua_Alloc. Shrinking always succeeds: es_realloc keeps the old block when it fails. */
static void *capped(void *user, void *old, size_t old_bytes, size_t bytes) {
  es_sandbox *box = user;
  int64_t before = old ? (int64_t)old_bytes : 0;
  if (bytes == 0) {
    es_free(old);
    box->used -= before;
    return NULL;
  }
  if (bytes > (size_t)box->memory || box->used - before + (int64_t)bytes > box->memory) {
    box->tripped = TRIP_MEMORY;
    return NULL;
  }
  void *block = es_realloc(old, bytes);
  if (!block) return (int64_t)bytes <= before ? old : NULL;
  box->used += (int64_t)bytes - before;
  return block;
}

/* Once over budget the hook fires at every instruction, so no pcall of the blueprint can go on after catching its error.
 * On a full Lua stack LuaJIT raises a stack overflow instead of calling the hook: confined.lua lets nobody catch that. */
static void watch(lua_State *L, lua_Debug *record) {
  (void)record;
  es_sandbox *box = box_of(L);
  box->count += box->step;
  if (!box->tripped) {
    if (box->count > box->instructions) box->tripped = TRIP_INSTRUCTIONS;
    else if (milliseconds_now() > box->deadline) box->tripped = TRIP_TIME;
    else return;
  }
  box->step = 1;
  lua_sethook(L, watch, LUA_MASKCOUNT, 1);
  luaL_error(L, "stopped by the sandbox");
}

/* Under lua_cpcall: libraries, searcher, and the trusted scripts; leaves confined's table in the registry. */
static int prepare(lua_State *L) {
  luaL_openlibs(L);
  es_state_prepare(L, box_of(L)->dir);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF); /* compiled code runs no count hooks */
  lua_getglobal(L, "require");
  lua_pushliteral(L, "esper.confined");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "start");
  lua_call(L, 0, 0);
  lua_setfield(L, LUA_REGISTRYINDEX, "esper.confined");
  return 0;
}

static void close_state(es_sandbox *box) {
  if (!box->L) return;
  lua_sethook(box->L, NULL, 0, 0);
  lua_close(box->L);
  box->L = NULL;
  box->used = 0;
  box->tripped = TRIP_NONE;
}

/* Lua code that met LUA_ERRMEM may have passed it on as an ordinary error. */
static esper_status failure_status(int failed, const char *message) {
  bool memory = failed == LUA_ERRMEM || (message && strstr(message, "not enough memory"));
  return memory ? ESPER_ENOMEM : ESPER_EINTERNAL;
}

static bool open_state(es_sandbox *box, es_error *err) {
  if (box->L) return true;
  box->L = lua_newstate(capped, box);
  if (!box->L) {
    es_fail(err, ESPER_ENOMEM, "sandbox: no memory for a Lua state");
    return false;
  }
  int failed = lua_cpcall(box->L, prepare, NULL);
  if (!failed) {
    lua_gc(box->L, LUA_GCCOLLECT, 0);
    box->settled = box->used;
    return true;
  }
  const char *message = lua_tostring(box->L, -1);
  es_fail(err, box->tripped ? ESPER_ENOMEM : failure_status(failed, message), "sandbox: %s", message ? message : "cannot start");
  close_state(box);
  return false;
}

static void give_text(lua_State *L, int index, es_text *out) {
  size_t length;
  const char *text = lua_tolstring(L, index, &length);
  if (text) es_text_bytes(out, text, length);
}

/* Under lua_cpcall: confined.build(text, chunk, options) -> graph, packed info | nil, errors, status number. The graph is taken
 * over with the hook off, so nothing can come between giving it up in Lua and holding it here. */
static int run(lua_State *L) {
  request *r = lua_touserdata(L, 1);
  lua_getfield(L, LUA_REGISTRYINDEX, "esper.confined");
  lua_getfield(L, -1, "build");
  lua_pushlstring(L, r->text, r->length);
  lua_pushstring(L, r->chunk);
  lua_pushlstring(L, r->options, r->options_length);
  lua_sethook(L, watch, LUA_MASKCOUNT, HOOK_STEP);
  lua_call(L, 3, 3);
  lua_sethook(L, NULL, 0, 0);
  give_text(L, -2, r->info);
  if (lua_isnil(L, -3)) {
    r->status = (int)lua_tointeger(L, -1);
    return 0;
  }
  lua_getfield(L, -4, "release");
  lua_pushvalue(L, -4);
  lua_call(L, 1, 1);
  r->graph = (es_graph *)(intptr_t)lua_tonumber(L, -1);
  return 0;
}

es_sandbox *es_sandbox_new(const char *dir, int64_t memory, int64_t instructions, int64_t milliseconds, es_error *err) {
  if (memory < 0 || instructions < 0 || milliseconds < 0) {
    es_fail(err, ESPER_EARG, "sandbox: a limit is negative; 0 takes the default");
    return NULL;
  }
  es_sandbox *box = es_alloc(sizeof *box);
  if (box && dir) box->dir = es_strdup(dir);
  if (!box || (dir && !box->dir)) {
    es_free(box);
    es_fail(err, ESPER_ENOMEM, "sandbox: out of memory");
    return NULL;
  }
  box->memory = memory ? memory : MEMORY_DEFAULT;
  box->instructions = instructions ? instructions : INSTRUCTIONS_DEFAULT;
  box->milliseconds = milliseconds ? milliseconds : MILLISECONDS_DEFAULT;
  return box;
}

void es_sandbox_free(es_sandbox *box) {
  if (!box) return;
  close_state(box);
  es_free(box->dir);
  es_free(box);
}

static void report_trip(const es_sandbox *box, const char *file, es_error *err) {
  if (box->tripped == TRIP_MEMORY)
    es_fail(err, ESPER_ESANDBOX, "%s: stopped by the sandbox: more than %lld MiB of memory; build smaller tables and texts",
            file, (long long)(box->memory >> 20));
  else if (box->tripped == TRIP_TIME)
    es_fail(err, ESPER_ESANDBOX, "%s: stopped by the sandbox: longer than %lld ms; does a loop never end?", file,
            (long long)box->milliseconds);
  else
    es_fail(err, ESPER_ESANDBOX, "%s: stopped by the sandbox: more than %lld instructions; does a loop never end?", file,
            (long long)box->instructions);
}

es_graph *es_sandbox_build(es_sandbox *box, const char *text, size_t length, const char *chunk, const char *options,
                           size_t options_length, es_text *info, es_error *err) {
  es_text_clear(info);
  if (!open_state(box, err)) return NULL;
  if (box->used > box->settled + box->memory / 8) lua_gc(box->L, LUA_GCCOLLECT, 0);
  request r = {box, text, chunk, options, length, options_length, info, NULL, ESPER_EINTERNAL};
  box->count = 0;
  box->step = HOOK_STEP;
  box->deadline = milliseconds_now() + box->milliseconds;
  int failed = lua_cpcall(box->L, run, &r);
  const char *file = chunk[0] == '@' ? chunk + 1 : chunk;
  if (box->tripped) {
    report_trip(box, file, err);
  } else if (failed) {
    const char *message = lua_tostring(box->L, -1);
    es_fail(err, failure_status(failed, message), "%s: %s", file, message ? message : "failed in Lua");
  } else if (!r.graph) {
    es_fail(err, (esper_status)r.status, "%s", info->bytes ? info->bytes : "failed without a message");
  } else if (info->failed) {
    es_fail(err, ESPER_ENOMEM, "%s: out of memory", file);
  } else {
    lua_settop(box->L, 0);
    return r.graph;
  }
  es_graph_free(r.graph);
  if (box->tripped || failed) close_state(box);
  else lua_settop(box->L, 0);
  return NULL;
}
