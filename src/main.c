/* The esper command: makes a context and hands the arguments to lua/esper/cli/init.lua, whose result is the exit code. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>
#include <lua.h>

#include "esper.h"
#include "line.h"

/* The command alone needs the context's Lua state; hosts have no business there, so it is not in esper.h. */
lua_State *esper_context_lua(esper_context *context);

static lua_State *running;

static void stop(lua_State *L, lua_Debug *record) {
  (void)record;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

/* Ctrl-C: the next instruction raises an error; a second one ends the program. */
static void interrupt(int number) {
  signal(number, SIG_DFL);
  lua_sethook(running, stop, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static int rearm(lua_State *L) {
  (void)L;
  signal(SIGINT, interrupt);
  return 0;
}

static int traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (getenv("ESPER_TRACE")) luaL_traceback(L, L, message ? message : "error", 1);
  return 1;
}

int main(int argc, char **argv) {
  esper_context *context;
  esper_status status = esper_context_new(NULL, &context);
  if (status != ESPER_OK) {
    fprintf(stderr, "esper: cannot start: %s\n", esper_status_text(status));
    return 1;
  }
  lua_State *L = running = esper_context_lua(context);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, es_line_open);
  lua_setfield(L, -2, "esper_line");
  lua_settop(L, 0);
  lua_pushcfunction(L, traceback);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "esper.cli");
  int code = 1;
  if (lua_pcall(L, 1, 1, 1) == 0) {
    lua_createtable(L, argc, 1);
    for (int i = 0; i < argc; i++) {
      lua_pushstring(L, argv[i]);
      lua_rawseti(L, -2, i);
    }
    lua_pushcfunction(L, rearm); /* cli may call it to make Ctrl-C raise an error instead of ending the program */
    if (lua_pcall(L, 2, 1, 1) == 0) code = (int)lua_tointeger(L, -1);
    else fprintf(stderr, "esper: %s\n", lua_tostring(L, -1) ? lua_tostring(L, -1) : "error without a message");
  } else {
    fprintf(stderr, "esper: %s\n", lua_tostring(L, -1) ? lua_tostring(L, -1) : "cannot load esper.cli");
  }
  esper_context_free(context);
  return code;
}
