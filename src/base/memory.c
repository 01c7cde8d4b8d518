/* Heap and arenas: the one place that asks the host (or the C library) for memory.
 * Invariant: `live` counts blocks handed out and not freed; a failed call changes nothing. */
#include "base/memory.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const size_t largest_block = (size_t)1 << 46;

static es_realloc_hook hook_fn; /* written once, before the first context exists */
static void *hook_user;
static _Atomic int64_t live;
static _Atomic int64_t countdown; /* allocations until the planned failure; 0 = none planned */

void es_memory_hook(es_realloc_hook hook, void *user) {
  hook_fn = hook;
  hook_user = user;
}

int64_t es_memory_live(void) { return atomic_load_explicit(&live, memory_order_relaxed); }
void es_memory_fail_at(int64_t nth) { atomic_store(&countdown, nth > 0 ? nth : 0); }

static bool refused(size_t bytes) {
  if (bytes > largest_block) return true;
  return atomic_load_explicit(&countdown, memory_order_relaxed) > 0 &&
         atomic_fetch_sub(&countdown, 1) == 1;
}

static void count(int64_t change) {
  atomic_fetch_add_explicit(&live, change, memory_order_relaxed);
}

void *es_alloc(size_t bytes) {
  if (bytes == 0) bytes = 1;
  if (refused(bytes)) return NULL;
  void *block = hook_fn ? hook_fn(hook_user, NULL, bytes) : calloc(1, bytes);
  if (!block) return NULL;
  if (hook_fn) memset(block, 0, bytes);
  count(1);
  return block;
}

void *es_alloc_array(size_t items, size_t size) {
  size_t bytes;
  return __builtin_mul_overflow(items, size, &bytes) ? NULL : es_alloc(bytes);
}

void *es_realloc(void *old, size_t bytes) {
  if (bytes == 0) bytes = 1; /* zero would free in some allocators */
  if (refused(bytes)) return NULL;
  void *block = hook_fn ? hook_fn(hook_user, old, bytes) : realloc(old, bytes);
  if (block && !old) count(1);
  return block;
}

void es_free(void *block) {
  if (!block) return;
  if (hook_fn)
    hook_fn(hook_user, block, 0);
  else
    free(block);
  count(-1);
}

char *es_strdup(const char *text) {
  size_t bytes = strlen(text) + 1;
  char *copy = es_alloc(bytes);
  if (copy) memcpy(copy, text, bytes);
  return copy;
}

/* Arena: a list of chunks, newest first; only the newest is filled. */
typedef struct chunk {
  struct chunk *next;
  size_t used, room;
  size_t pad; /* keeps the bytes after the header 16-byte aligned */
} chunk;
struct es_arena {
  chunk *newest;
};

enum { CHUNK_BYTES = 16 * 1024 };

es_arena *es_arena_new(void) { return es_alloc(sizeof(es_arena)); }

void *es_arena_take(es_arena *arena, size_t bytes) {
  if (bytes > largest_block) return NULL;
  bytes = (bytes + 15) & ~(size_t)15;
  chunk *c = arena->newest;
  if (!c || c->room - c->used < bytes) {
    size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    c = es_alloc(sizeof *c + room);
    if (!c) return NULL;
    c->room = room;
    c->next = arena->newest;
    arena->newest = c;
  }
  void *block = (char *)(c + 1) + c->used;
  c->used += bytes;
  return block;
}

char *es_arena_text(es_arena *arena, const char *text) {
  size_t bytes = strlen(text) + 1;
  char *copy = es_arena_take(arena, bytes);
  if (copy) memcpy(copy, text, bytes);
  return copy;
}

void es_arena_free(es_arena *arena) {
  if (!arena) return;
  for (chunk *c = arena->newest, *next; c; c = next) {
    next = c->next;
    es_free(c);
  }
  es_free(arena);
}
