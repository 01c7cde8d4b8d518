/* Line editing for the REPL (libedit). Part of the command, not of the library. */
#ifndef ES_LINE_H
#define ES_LINE_H
#include <lua.h>

/* `require "esper_line"`: read(prompt) -> line or nil at end of input; add(line) to history; history(path) reads and from
 * then on keeps it there; complete(function(word, line, start) -> array of candidates). Without a terminal, read takes
 * plain lines from stdin and prints no prompt. */
int es_line_open(lua_State *L);
#endif
