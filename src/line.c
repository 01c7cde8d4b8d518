/* Line editing for the REPL: libedit's readline face, with completion answered by a Lua function. */
#include "line.h"

#include <editline/readline.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static lua_State *state;           /* of the running read; libedit's callbacks carry no user pointer */
static int complete_ref = LUA_NOREF;
static char *history_path;

/* The n-th candidate for `word`, malloc'ed as libedit wants; candidates were left on the Lua stack. */
static char *candidate(const char *word, int n) {
  (void)word;
  lua_rawgeti(state, -1, n + 1);
  const char *text = lua_tostring(state, -1);
  char *copy = text ? strdup(text) : NULL;
  lua_pop(state, 1);
  return copy;
}

static char **complete(const char *word, int start, int end) {
  (void)end;
  rl_attempted_completion_over = 1;
  rl_completion_append_character = '\0';
  if (complete_ref == LUA_NOREF) return NULL;
  int top = lua_gettop(state);
  lua_rawgeti(state, LUA_REGISTRYINDEX, complete_ref);
  lua_pushstring(state, word);
  lua_pushstring(state, rl_line_buffer);
  lua_pushinteger(state, start);
  char **found = NULL;
  if (lua_pcall(state, 3, 1, 0) == 0 && lua_istable(state, -1) && lua_objlen(state, -1) > 0)
    found = rl_completion_matches(word, candidate);
  lua_settop(state, top);
  return found;
}

static int plain_read(lua_State *L) {
  luaL_Buffer line;
  luaL_buffinit(L, &line);
  int c, any = 0;
  while ((c = getchar()) != EOF && c != '\n') luaL_addchar(&line, (char)c), any = 1;
  luaL_pushresult(&line);
  return c != EOF || any;
}

static int line_read(lua_State *L) {
  const char *prompt = luaL_optstring(L, 1, "");
  if (!isatty(STDIN_FILENO)) return plain_read(L);
  state = L;
  char *line = readline(prompt);
  if (!line) return 0;
  lua_pushstring(L, line);
  free(line);
  return 1;
}

static int line_add(lua_State *L) {
  const char *line = luaL_checkstring(L, 1);
  if (*line) add_history(line);
  if (*line && history_path) append_history(1, history_path);
  return 0;
}

static int line_history(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  using_history();
  stifle_history(2000);
  free(history_path);
  history_path = strdup(path);
  if (history_path && read_history(history_path) != 0) write_history(history_path); /* first time: make the file */
  return 0;
}

static int line_complete(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, complete_ref);
  complete_ref = luaL_ref(L, LUA_REGISTRYINDEX);
  rl_attempted_completion_function = complete;
  rl_completer_word_break_characters = (char *)" \t\n\"'()[]{}+-*/%^=<>,;~#";
  return 0;
}

int es_line_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"read", line_read}, {"add", line_add}, {"history", line_history}, {"complete", line_complete}, {NULL, NULL}};
  lua_newtable(L);
  luaL_register(L, NULL, functions);
  lua_pushboolean(L, isatty(STDIN_FILENO));
  lua_setfield(L, -2, "terminal");
  return 1;
}
