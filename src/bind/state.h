/* Lua states: where scripts come from, and the module that hands the C table to Lua. */
#ifndef ES_STATE_H
#define ES_STATE_H
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stddef.h>

typedef struct es_embedded { const char *path, *text; size_t length; } es_embedded; /* ends with a NULL path */
extern const es_embedded es_embedded_files[];
extern const char es_embedded_hash[]; /* of the C sources and all embedded scripts but blueprints; taken when the library is built */

/* Text of a script by its path in the tree ("lua/esper/native.lua", "kernels/reduce.lua"), pushed as a string: from
 * `dir` when not NULL, else the embedded copy. Returns 0 (nothing pushed) when there is none. */
int es_state_source(lua_State *L, const char *dir, const char *path);

/* Makes `require "esper.x"`, `require "kernels.x"` and `require "esper_native"` work in L. dir: see es_state_source; may be
 * NULL; copied. Turns the JIT compiler off where the system refuses executable memory. Call under lua_pcall or on a fresh state. */
void es_state_prepare(lua_State *L, const char *dir);

/* `require "esper_native"`: { table = es_native *, cdef = text, source = function(path), names = function() -> paths,
 * build = function() -> hex hash of version, libtcc and all scripts but blueprints (part of every key), dir = }. */
__attribute__((visibility("default"))) int luaopen_esper_native(lua_State *L);
#endif
