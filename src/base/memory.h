/* All heap memory of the library comes from here, so a host can supply it, a test can fail the
 * n-th allocation, and a census can show that nothing leaked. */
#ifndef ES_MEMORY_H
#define ES_MEMORY_H
#include <stddef.h>
#include <stdint.h>

void *es_alloc(size_t bytes);                 /* zeroed; NULL when out of memory or over 2^46 */
void *es_alloc_array(size_t count, size_t size); /* as es_alloc, the product overflow-checked */
void *es_realloc(void *old, size_t bytes);    /* new bytes are NOT zeroed; NULL leaves old alone */
void es_free(void *block);                    /* NULL is fine */
char *es_strdup(const char *text);

/* Process-wide census and fault injection (tests only). */
int64_t es_memory_live(void);                 /* blocks alive now */
void es_memory_fail_at(int64_t nth);          /* the nth allocation from now fails once; 0 = never */

/* Host hooks, set before the first context exists. */
typedef void *(*es_realloc_hook)(void *user, void *old, size_t bytes); /* bytes 0 frees */
void es_memory_hook(es_realloc_hook hook, void *user);

/* Arena: blocks that die together. */
typedef struct es_arena es_arena;
es_arena *es_arena_new(void);
void *es_arena_take(es_arena *arena, size_t bytes); /* zeroed, 16-byte aligned; NULL = no memory */
char *es_arena_text(es_arena *arena, const char *text);
void es_arena_free(es_arena *arena);
#endif
