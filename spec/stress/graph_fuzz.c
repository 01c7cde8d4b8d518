/* Stress: damaged graph texts of the whole catalogue. The parser must refuse each with a typed one-line error, or give a
 * graph that passes the verifier and prints and parses back to the same identity.
 *     graph_fuzz N SEED [plant]      one line: name seed n fail metric
 * "plant" expects another identity: the proof that identities are compared. */
#include "base/hash.h"
#include "base/memory.h"
#include "bind/sandbox.h"
#include "bind/state.h"
#include "fuzz.h"

enum { SEEDS = 64 };
static es_text seeds[SEEDS];
static int32_t seed_count;

static bool collect(void) {
  es_sandbox *box = es_hash_start() ? es_sandbox_new(NULL, 0, 0, 60000, NULL) : NULL;
  for (const es_embedded *file = es_embedded_files; box && file->path && seed_count < SEEDS; file++) {
    if (strncmp(file->path, "blueprints/", 11) != 0) continue;
    es_error err = { 0 };
    es_text info = { 0 };
    es_graph *graph = es_sandbox_build(box, file->text, file->length, "@seed", "{}", 2, &info, &err);
    if (graph) es_graph_print(graph, false, &seeds[seed_count++]);
    else fprintf(stderr, "graph_fuzz: %s: %s\n", file->path, err.text);
    es_graph_free(graph);
    es_text_clear(&info);
  }
  es_sandbox_free(box);
  return seed_count >= 20;
}

/* --- damage by the line and by the word, so that much of it parses ------------------------------------------------- */

static size_t line_at(const char *text, size_t length, size_t at, size_t *end) {
  while (at > 0 && text[at - 1] != '\n') at--;
  *end = at;
  while (*end < length && text[*end] != '\n') (*end)++;
  if (*end < length) (*end)++;
  return at;
}

/* Replaces text[at, at + out) by `in` bytes of `by`. */
static void splice(es_text *text, size_t at, size_t out, const char *by, size_t in) {
  es_text changed = { 0 };
  es_text_bytes(&changed, text->bytes, at);
  es_text_bytes(&changed, by, in);
  es_text_bytes(&changed, text->bytes + at + out, text->length - at - out);
  es_text_clear(text);
  *text = changed;
}

static void change_number(es_text *text, size_t at) {
  char number[32];
  while (at < text->length && (text->bytes[at] < '0' || text->bytes[at] > '9')) at++;
  size_t end = at;
  while (end < text->length && text->bytes[end] >= '0' && text->bytes[end] <= '9') end++;
  int written = snprintf(number, sizeof number, "%lld", below(3) ? (long long)below(9) : (long long)odd_number());
  splice(text, at, end - at, number, (size_t)written);
}

static void copy_line(es_text *text, const es_text *from, size_t at) {
  size_t end, into_end, start = line_at(from->bytes, from->length, draw() % from->length, &end);
  size_t into = line_at(text->bytes, text->length, at, &into_end);
  char *line = (char *)exact(from->bytes + start, end - start); /* `from` may be `text` */
  splice(text, into, below(2) ? into_end - into : 0, line, end - start);
  free(line);
}

static void damage(es_text *text, const es_text *other) {
  for (int32_t n = 1 + below(3); n > 0 && text->length > 8; n--) {
    size_t at = draw() % text->length, end, start = line_at(text->bytes, text->length, at, &end);
    switch (below(6)) {
      case 0: splice(text, start, end - start, "", 0); break;
      case 1: copy_line(text, text, at); break;
      case 2: copy_line(text, other, at); break;
      case 3: case 4: change_number(text, at); break;
      default: text->length = mutate((uint8_t *)text->bytes, text->length); text->bytes[text->length] = 0; break;
    }
  }
}

static bool right(const char *text, size_t length, bool plant, int64_t *accepted) {
  es_error err = { 0 };
  es_text first = { 0 }, second = { 0 };
  es_hash hash, again_hash = { { 0 } };
  es_graph *graph = es_graph_parse(text, length, &err);
  if (!graph) return err.status != ESPER_OK && err.status != ESPER_EINTERNAL && err.text[0] && !strchr(err.text, '\n');
  (*accepted)++;
  es_graph_print(graph, false, &first);
  es_graph *again = es_graph_parse(first.bytes, first.length, &err);
  if (again) es_graph_print(again, false, &second);
  bool good = again && es_graph_check(graph, &err) == ESPER_OK && es_graph_hash(graph, &hash, &err) == ESPER_OK &&
              es_graph_hash(again, &again_hash, &err) == ESPER_OK && first.length == second.length &&
              memcmp(first.bytes, second.bytes, first.length) == 0;
  again_hash.bytes[0] ^= plant;
  good = good && memcmp(&hash, &again_hash, sizeof hash) == 0;
  if (!good && !plant) fprintf(stderr, "graph_fuzz: accepted, then: %s\n", err.text);
  es_text_clear(&first);
  es_text_clear(&second);
  es_graph_free(graph);
  es_graph_free(again);
  return good;
}

int main(int argc, char **argv) {
  int64_t rounds, wrong = 0, accepted = 0;
  uint64_t seed;
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  arguments(argc, argv, &rounds, &seed);
  if (!collect()) {
    fprintf(stderr, "graph_fuzz: only %d graphs to start from\n", seed_count);
    return 2;
  }
  int64_t live = es_memory_live();
  for (int64_t n = 0; n < rounds; n++) {
    start_round(seed, n);
    es_text text = { 0 };
    const es_text *from = &seeds[below(seed_count)];
    es_text_bytes(&text, from->bytes, from->length);
    damage(&text, &seeds[below(seed_count)]);
    char *bytes = (char *)exact(text.bytes, text.length);
    if (!right(bytes, text.length, plant, &accepted) && wrong++ < 3 && !plant)
      fprintf(stderr, "graph_fuzz: round %lld\n%.*s\n", (long long)n, (int)text.length, bytes);
    free(bytes);
    es_text_clear(&text);
  }
  int64_t leaked = es_memory_live() - live;
  for (int32_t i = 0; i < seed_count; i++) es_text_clear(&seeds[i]);
  printf("graph_fuzz %llu %lld %lld accepted=%lld leaked=%lld\n", (unsigned long long)seed, (long long)rounds,
         (long long)wrong, (long long)accepted, (long long)leaked);
  return wrong || leaked || (rounds >= 1000 && (accepted == 0 || accepted == rounds));
}
