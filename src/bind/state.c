/* Lua states: finds scripts (embedded or on disk) and hands the C table to Lua. Nothing here runs scripts. */
#include "bind/state.h"

#include <gnu/libc-version.h>
#include <luajit.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/hash.h"
#include "base/text.h"
#include "bind/native.h"
#include "tcc_build.h" /* generated: ES_TCC_BUILD */

static const char dir_key = 0; /* its address is the registry key of the script directory */

static const char *script_dir(lua_State *L) {
  lua_pushlightuserdata(L, (void *)&dir_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  const char *dir = lua_tostring(L, -1); /* anchored by the registry */
  lua_pop(L, 1);
  return dir;
}

static int read_file(lua_State *L, const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) return 0;
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  size_t got;
  do {
    got = fread(luaL_prepbuffer(&text), 1, LUAL_BUFFERSIZE, file);
    luaL_addsize(&text, got);
  } while (got > 0);
  int bad = ferror(file);
  fclose(file);
  luaL_pushresult(&text);
  if (bad) lua_pop(L, 1);
  return !bad;
}

static const es_embedded *embedded(const char *path) {
  for (const es_embedded *f = es_embedded_files; f->path; f++)
    if (strcmp(f->path, path) == 0) return f;
  return NULL;
}

int es_state_source(lua_State *L, const char *dir, const char *path) {
  if (dir && strstr(path, "..") == NULL) {
    const char *full = lua_pushfstring(L, "%s/%s", dir, path);
    int found = read_file(L, full);
    lua_remove(L, found ? -2 : -1);
    return found;
  }
  const es_embedded *file = embedded(path);
  if (!file) return 0;
  lua_pushlstring(L, file->text, file->length);
  return 1;
}

/* Searcher: "esper.passes" -> lua/esper/passes.lua, lua/esper/passes/init.lua, esper/passes.lua (kernels live at the top). */
static int search(lua_State *L) {
  static const char *const forms[] = {"lua/%s.lua", "lua/%s/init.lua", "%s.lua"};
  const char *path = luaL_gsub(L, luaL_checkstring(L, 1), ".", "/");
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    const char *file = lua_pushfstring(L, forms[i], path);
    if (!es_state_source(L, script_dir(L), file)) continue;
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    const char *name = lua_pushfstring(L, "@%s", file);
    if (luaL_loadbufferx(L, text, length, name, "t") != 0) return lua_error(L);
    /* The pipeline runs each path a few times with ever new data: tracing it costs twice what it saves (bench/compile.lua). */
    luaJIT_setmode(L, -1, LUAJIT_MODE_ALLFUNC | LUAJIT_MODE_OFF);
    return 1;
  }
  lua_pushfstring(L, "\n\tno embedded script '%s'", path);
  return 1;
}

static int native_source(lua_State *L) {
  return es_state_source(L, script_dir(L), luaL_checkstring(L, 1));
}

static int native_names(lua_State *L) {
  lua_newtable(L);
  int n = 0;
  for (const es_embedded *f = es_embedded_files; f->path; f++) {
    lua_pushstring(L, f->path);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static void add_scripts(lua_State *L, es_text *all) {
  for (const es_embedded *f = es_embedded_files; f->path; f++) {
    if (strncmp(f->path, "blueprints/", 11) == 0) continue; /* a blueprint is in the key by its graph */
    if (!es_state_source(L, script_dir(L), f->path)) continue;
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    es_text_add(all, "%s %zu\n", f->path, length);
    es_text_bytes(all, text, length);
    lua_pop(L, 1);
  }
}

/* Hash over version, libtcc, libc and LuaJIT (whose arithmetic passes and blueprints use) and every script L would load: part
 * of every key, so other code never finds old kernels. */
static int native_build(lua_State *L) {
  es_text all = {0};
  es_text_add(&all, "%s tcc %s libc %s\n", ESPER_VERSION, ES_TCC_BUILD, gnu_get_libc_version());
  lua_getglobal(L, "jit");
  lua_getfield(L, -1, "version");
  es_text_add(&all, "%s\n", lua_tostring(L, -1));
  es_text_add(&all, "%s\n", es_embedded_hash);
  if (script_dir(L)) add_scripts(L, &all);
  es_hash hash;
  char hex[65];
  es_hash_of(all.bytes, all.length, &hash);
  bool failed = all.failed;
  es_text_clear(&all);
  if (failed) return luaL_error(L, "out of memory");
  es_hash_hex(&hash, hex);
  lua_pushstring(L, hex);
  return 1;
}

int luaopen_esper_native(lua_State *L) {
  const es_embedded *cdef = embedded("native.cdef");
  lua_createtable(L, 0, 6);
  lua_pushlightuserdata(L, (void *)&es_native_table);
  lua_setfield(L, -2, "table");
  lua_pushlstring(L, cdef ? cdef->text : "", cdef ? cdef->length : 0);
  lua_setfield(L, -2, "cdef");
  lua_pushcfunction(L, native_source);
  lua_setfield(L, -2, "source");
  lua_pushcfunction(L, native_names);
  lua_setfield(L, -2, "names");
  lua_pushcfunction(L, native_build);
  lua_setfield(L, -2, "build");
  lua_pushstring(L, script_dir(L));
  lua_setfield(L, -2, "dir");
  return 1;
}

/* True where the system lets a page go from writable to executable (it is never both). */
static bool executable_memory(void) {
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return false;
  bool ok = mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0;
  munmap(page, 4096);
  return ok;
}

void es_state_prepare(lua_State *L, const char *dir) {
  if (!executable_memory()) luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  lua_pushlightuserdata(L, (void *)&dir_key);
  lua_pushstring(L, dir); /* NULL pushes nil */
  lua_rawset(L, LUA_REGISTRYINDEX);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_esper_native);
  lua_setfield(L, -2, "esper_native");
  lua_pop(L, 1);
  lua_getfield(L, -1, "loaders");
  int count = (int)lua_objlen(L, -1);
  for (int i = count; i >= 2; i--) { /* ours comes second, after preload */
    lua_rawgeti(L, -1, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_pushcfunction(L, search);
  lua_rawseti(L, -2, 2);
  lua_pop(L, 2);
}
