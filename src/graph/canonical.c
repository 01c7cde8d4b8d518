/* The canonical form of a graph and its hash: what makes two blueprints the same. First pass of
 * every compile.
 * Invariant: the result is a function of what the graph computes as written (operand order kept),
 * never of the order in which nodes, dimensions or roots were made; canonical(canonical(g)) prints
 * like canonical(g). */
#include <stdlib.h>
#include <string.h>
#include "base/memory.h"
#include "graph/graph.h"

typedef struct walk {
  const es_graph *src;
  es_graph *out;
  es_id *map;     /* old -> new, -1 = not copied yet */
  es_id *stack;   /* path from a root to the node at hand; never longer than the graph */
  int32_t *next;  /* next input to visit, per node of the path */
  int64_t stream; /* next free random stream */
  es_error *err;
} walk;

static bool is_random(const es_node *node) {
  return es_op_get(node->op)->class_ == ES_CLASS_random;
}

/* The stream is the attribute i[0] of both random ops. */
static bool copy_node(walk *w, es_id id) {
  const es_node *node = es_graph_node(w->src, id);
  es_node copy = *node;
  bool interface = node->op == ES_OP_telemetry_probe || node->op == ES_OP_input ||
                   node->op == ES_OP_param || node->op == ES_OP_buffer;
  if (is_random(node) && node->i[0] < 0) copy.i[0] = w->stream++;
  if (!interface) copy.name = NULL;
  for (int32_t k = 0; k < node->nin; k++) copy.in[k] = w->map[node->in[k]];
  for (int32_t k = 0; k < node->nd; k++)
    copy.d[k] = es_dim_copy(es_graph_dims(w->out), es_graph_dims(w->src), node->d[k]);
  w->map[id] = es_graph_add(w->out, &copy, w->err);
  return w->map[id] >= 0;
}

/* Post-order from one root, without recursion: graphs may be 65536 deep. */
static bool visit(walk *w, es_id root) {
  int32_t depth = 0;
  if (w->map[root] >= 0) return true;
  w->stack[0] = root;
  w->next[0] = 0;
  while (depth >= 0) {
    const es_node *node = es_graph_node(w->src, w->stack[depth]);
    while (w->next[depth] < node->nin && w->map[node->in[w->next[depth]]] >= 0) w->next[depth]++;
    if (w->next[depth] == node->nin) {
      if (!copy_node(w, w->stack[depth--])) return false;
      continue;
    }
    es_id below = node->in[w->next[depth]];
    w->stack[++depth] = below;
    w->next[depth] = 0;
  }
  return true;
}

static int by_kind_and_name(const void *a, const void *b) {
  const es_root *x = *(const es_root *const *)a, *y = *(const es_root *const *)b;
  return x->kind != y->kind ? x->kind - y->kind : strcmp(x->name, y->name);
}

typedef struct named {
  const char *name;
  es_id id;
} named;

static int by_name(const void *a, const void *b) {
  return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

/* Declared inputs, used or not, in name order. */
static bool copy_inputs(walk *w, int32_t count) {
  int32_t found = 0;
  named *inputs = es_alloc_array((size_t)count, sizeof *inputs);
  bool fits = inputs != NULL;
  for (es_id id = 0; fits && id < count; id++) {
    const es_node *node = es_graph_node(w->src, id);
    if (node->op == ES_OP_input) inputs[found++] = (named){ node->name, id };
  }
  if (found) qsort(inputs, (size_t)found, sizeof *inputs, by_name);
  if (!fits) es_fail(w->err, ESPER_ENOMEM, "no memory to order %d nodes", (int)count);
  for (int32_t k = 0; fits && k < found; k++) fits = copy_node(w, inputs[k].id);
  es_free(inputs);
  return fits;
}

/* Marks what the roots reach (map: -2) and finds the first free stream; index order makes one
 * backward sweep enough. */
static void find_streams(walk *w, int32_t count) {
  for (int32_t k = 0; k < es_graph_root_count(w->src); k++)
    w->map[es_graph_root_get(w->src, k)->node] = -2;
  for (es_id id = count - 1; id >= 0; id--) {
    const es_node *node = es_graph_node(w->src, id);
    if (w->map[id] != -2) continue;
    w->map[id] = -1;
    for (int32_t k = 0; k < node->nin; k++) w->map[node->in[k]] = -2;
    if (is_random(node) && node->i[0] >= w->stream) w->stream = node->i[0] + 1;
  }
}

static bool copy_roots(walk *w) {
  int32_t count = es_graph_root_count(w->src);
  const es_root **roots = es_alloc_array((size_t)count, sizeof *roots);
  if (!roots)
    return es_fail(w->err, ESPER_ENOMEM, "no memory to order %d roots", (int)count) == ESPER_OK;
  for (int32_t k = 0; k < count; k++) roots[k] = es_graph_root_get(w->src, k);
  if (count) qsort(roots, (size_t)count, sizeof *roots, by_kind_and_name);
  bool fits = true;
  for (int32_t k = 0; fits && k < count; k++) fits = visit(w, roots[k]->node);
  for (int32_t k = 0; fits && k < count; k++) {
    es_id node = w->map[roots[k]->node];
    /* A buffer that is written and never read is live too. */
    if (roots[k]->kind == ES_ROOT_update && es_graph_find(w->out, roots[k]->name) < 0)
      fits = visit(w, es_graph_find(w->src, roots[k]->name));
    fits = fits && es_graph_root(w->out, roots[k]->kind, roots[k]->name, node, w->err) == ESPER_OK;
  }
  es_free(roots);
  return fits;
}

es_graph *es_graph_canonical(const es_graph *graph, es_error *err) {
  int32_t count = es_graph_count(graph);
  walk w = { .src = graph, .err = err, .out = es_graph_new(es_graph_name(graph), NULL) };
  w.map = es_alloc_array((size_t)count, sizeof *w.map);
  w.stack = es_alloc_array((size_t)count, sizeof *w.stack);
  w.next = es_alloc_array((size_t)count, sizeof *w.next);
  bool fits = w.out && w.map && w.stack && w.next;
  if (!fits) es_fail(err, ESPER_ENOMEM, "no memory for the canonical form of %d nodes", (int)count);
  for (es_id id = 0; fits && id < count; id++) w.map[id] = -1;
  if (fits) find_streams(&w, count);
  fits = fits && copy_inputs(&w, count) && copy_roots(&w);
  es_free(w.map);
  es_free(w.stack);
  es_free(w.next);
  if (fits) return w.out;
  es_graph_free(w.out);
  return NULL;
}

esper_status es_graph_hash(const es_graph *graph, es_hash *out, es_error *err) {
  es_error why = { 0 };
  es_graph *canonical = es_graph_canonical(graph, &why);
  *out = (es_hash){ { 0 } };
  if (!canonical) return es_fail(err, (esper_status)why.status, "%s", why.text);
  es_text text = { 0 };
  es_graph_print(canonical, false, &text);
  es_graph_free(canonical);
  if (text.failed) {
    es_text_clear(&text);
    return es_fail(err, ESPER_ENOMEM, "no memory to print graph \"%s\"", es_graph_name(graph));
  }
  const char *body = strchr(text.bytes, '\n') + 1; /* the first line is the name */
  es_hash_of(body, text.length - (size_t)(body - text.bytes), out);
  es_text_clear(&text);
  return ESPER_OK;
}
