/* The graph itself: append-only storage of nodes and roots, and the rules about names.
 * Invariant: every stored node went through es_node_infer with inputs below its own index. */
#include <string.h>
#include "base/memory.h"
#include "graph/shape.h"

enum { NODES_EACH = 64 };

struct es_graph {
  es_dims *dims;
  es_arena *arena; /* names */
  char *name;
  es_node **chunks; /* of NODES_EACH nodes, so that a node never moves */
  int32_t count, chunk_count, room;
  es_root *roots;
  int32_t root_count, root_room;
  es_id *slots; /* interface names: open addressing, node + 1, 0 = empty, at most half full */
  int32_t slot_count, leaf_count;
};

static es_node *node_of(const es_graph *graph, es_id id) {
  return &graph->chunks[id / NODES_EACH][id % NODES_EACH];
}

bool es_name_fits(const char *name) {
  size_t i = 0;
  for (; name[i]; i++) {
    char c = name[i];
    bool letter = c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (i == ES_NAME_MAX || !(letter || (i > 0 && (c == '.' || (c >= '0' && c <= '9')))))
      return false;
  }
  return i > 0;
}

/* Keeps [A-Za-z0-9_./-], so that the printed graph stays parseable whatever a file was called. */
static void clean_name(char *name) {
  for (char *c = name; *c; c++) {
    bool fits = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
                strchr("_./-", *c);
    if (!fits) *c = '_';
    if (c - name == ES_NAME_MAX) {
      *c = 0;
      break;
    }
  }
}

es_graph *es_graph_new(const char *name, es_dims *dims) {
  es_graph *graph = es_alloc(sizeof *graph);
  if (!graph) return NULL;
  graph->dims = dims ? es_dims_retain(dims) : es_dims_new();
  graph->arena = es_arena_new();
  graph->slot_count = 64;
  graph->slots = es_alloc_array(64, sizeof *graph->slots);
  if (graph->dims && graph->arena && graph->slots)
    graph->name = es_arena_text(graph->arena, name ? name : "");
  if (graph->name) {
    clean_name(graph->name);
    return graph;
  }
  es_graph_free(graph);
  return NULL;
}

void es_graph_free(es_graph *graph) {
  if (!graph) return;
  es_dims_release(graph->dims);
  es_arena_free(graph->arena);
  for (int32_t i = 0; i < graph->chunk_count; i++) es_free(graph->chunks[i]);
  es_free(graph->chunks);
  es_free(graph->roots);
  es_free(graph->slots);
  es_free(graph);
}

const char *es_graph_name(const es_graph *graph) { return graph->name; }
es_dims *es_graph_dims(const es_graph *graph) { return graph->dims; }
int32_t es_graph_count(const es_graph *graph) { return graph->count; }
int32_t es_graph_root_count(const es_graph *graph) { return graph->root_count; }

const es_node *es_graph_node(const es_graph *graph, es_id id) {
  return id >= 0 && id < graph->count ? node_of(graph, id) : NULL;
}

const es_root *es_graph_root_get(const es_graph *graph, int32_t index) {
  return index >= 0 && index < graph->root_count ? &graph->roots[index] : NULL;
}

/* ---- interface names ---- */

static bool is_named_leaf(int op) {
  return op == ES_OP_input || op == ES_OP_param || op == ES_OP_buffer;
}

static uint32_t hash_name(const char *name) {
  uint32_t h = 2166136261u; /* FNV-1a */
  for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
  return h ^ h >> 15;
}

/* The slot that holds the name, or the empty one where it belongs. */
static int32_t name_slot(const es_graph *graph, const char *name) {
  uint32_t mask = (uint32_t)graph->slot_count - 1;
  uint32_t s = hash_name(name) & mask;
  while (graph->slots[s] && strcmp(node_of(graph, graph->slots[s] - 1)->name, name) != 0)
    s = (s + 1) & mask;
  return (int32_t)s;
}

static bool widen_names(es_graph *graph) {
  es_id *old = graph->slots;
  int32_t old_count = graph->slot_count;
  es_id *slots = es_alloc_array((size_t)old_count * 2, sizeof *slots);
  if (!slots) return false;
  graph->slots = slots;
  graph->slot_count = old_count * 2;
  for (int32_t i = 0; i < old_count; i++)
    if (old[i]) slots[name_slot(graph, node_of(graph, old[i] - 1)->name)] = old[i];
  es_free(old);
  return true;
}

es_id es_graph_find(const es_graph *graph, const char *name) {
  return graph->slots[name_slot(graph, name)] - 1;
}

/* ---- adding ---- */

static bool reserve(void **array, int32_t *room, int32_t count, size_t size) {
  if (count < *room) return true;
  int32_t want = *room ? *room * 2 : 64; /* both limits are far below 2^30 */
  void *bigger = es_realloc(*array, (size_t)want * size);
  if (!bigger) return false;
  *array = bigger;
  *room = want;
  return true;
}

/* Room for node `count`. */
static bool reserve_node(es_graph *graph) {
  if (graph->count < graph->chunk_count * NODES_EACH) return true;
  if (!reserve((void **)&graph->chunks, &graph->room, graph->chunk_count, sizeof *graph->chunks))
    return false;
  es_node *chunk = es_alloc_array(NODES_EACH, sizeof *chunk);
  if (chunk) graph->chunks[graph->chunk_count++] = chunk;
  return chunk != NULL;
}

static esper_status check_name(es_graph *graph, const es_node *node, es_error *err) {
  const char *op = es_op_get(node->op)->name;
  bool leaf = is_named_leaf(node->op);
  if (leaf && !node->name)
    return es_fail(err, ESPER_ENAME, "%s: has no name; every %s needs one", op, op);
  if (node->name && !es_name_fits(node->name))
    return es_fail(err, ESPER_ENAME,
                   "%s: name \"%.140s\" is not [A-Za-z_][A-Za-z0-9_.]* of at most %d bytes", op,
                   node->name, ES_NAME_MAX);
  es_id taken = leaf ? es_graph_find(graph, node->name) : -1;
  if (taken >= 0)
    return es_fail(
        err, ESPER_ENAME,
        "%s: the name \"%s\" is already taken by %s %%%d; inputs, params and buffers need "
        "different names",
        op, node->name, es_op_get(node_of(graph, taken)->op)->name, (int)taken);
  return ESPER_OK;
}

es_id es_graph_add(es_graph *graph, const es_node *given, es_error *err) {
  es_node node = *given;
  if (node.name && !node.name[0]) node.name = NULL;
  if (graph->count == ES_NODES_MAX) {
    es_fail(err, ESPER_ELIMIT, "graph has %d nodes, the most it may have", ES_NODES_MAX);
    return -1;
  }
  if (es_node_infer(graph, &node, graph->count, err) != ESPER_OK) return -1;
  if (check_name(graph, &node, err) != ESPER_OK) return -1;
  bool leaf = is_named_leaf(node.op);
  if (node.name) node.name = es_arena_text(graph->arena, node.name);
  if ((given->name && given->name[0] && !node.name) ||
      !reserve_node(graph) ||
      (leaf && (graph->leaf_count + 1) * 2 > graph->slot_count && !widen_names(graph))) {
    es_fail(err, ESPER_ENOMEM, "no memory for node %%%d", (int)graph->count);
    return -1;
  }
  *node_of(graph, graph->count) = node;
  if (leaf) {
    graph->slots[name_slot(graph, node.name)] = graph->count + 1;
    graph->leaf_count++;
  }
  return graph->count++;
}

es_id es_graph_copy_node(es_graph *graph, const es_graph *src, es_id id, const es_id *map,
                         es_error *err) {
  const es_node *old = es_graph_node(src, id);
  if (!old) {
    es_fail(err, ESPER_EARG, "copy of node %%%d: the source graph has nodes 0..%d", (int)id,
            (int)src->count - 1);
    return -1;
  }
  es_node node = *old;
  for (int32_t k = 0; k < node.nin; k++) {
    node.in[k] = map[node.in[k]];
    if (node.in[k] >= 0) continue;
    es_fail(err, ESPER_EARG, "copy of node %%%d (%s): its input %%%d was not copied before it",
            (int)id, es_op_get(node.op)->name, (int)old->in[k]);
    return -1;
  }
  for (int32_t k = 0; k < node.nd; k++) node.d[k] = es_dim_copy(graph->dims, src->dims, node.d[k]);
  return es_graph_add(graph, &node, err);
}

/* ---- roots ---- */

static bool same_type(const es_node *a, const es_node *b) {
  return a->dtype == b->dtype && a->rank == b->rank &&
         memcmp(a->shape, b->shape, a->rank * sizeof a->shape[0]) == 0;
}

static esper_status check_update(const es_graph *graph, const char *name, es_id id, es_error *err) {
  es_id found = es_graph_find(graph, name);
  if (found < 0 || node_of(graph, found)->op != ES_OP_buffer)
    return es_fail(err, ESPER_ENAME, "update \"%s\": the graph has no buffer of that name", name);
  es_shaper show = { .dims = graph->dims };
  const es_node *buffer = node_of(graph, found), *value = node_of(graph, id);
  if (!same_type(buffer, value))
    return es_fail(
        err, buffer->dtype == value->dtype ? ESPER_ESHAPE : ESPER_EDTYPE,
        "update \"%s\": the new value is %s, the buffer is %s; they must be alike", name,
        es_show(&show, value), es_show(&show, buffer));
  return ESPER_OK;
}

esper_status es_graph_root(es_graph *graph, int32_t kind, const char *name, es_id node,
                           es_error *err) {
  const char *kind_name = kind == ES_ROOT_update ? "update" : "output";
  if (kind != ES_ROOT_output && kind != ES_ROOT_update)
    return es_fail(err, ESPER_EARG, "root kind %d is neither output nor update", (int)kind);
  if (!name || !es_name_fits(name))
    return es_fail(err, ESPER_ENAME,
                   "%s name \"%.140s\" is not [A-Za-z_][A-Za-z0-9_.]* of at most %d bytes",
                   kind_name, name ? name : "", ES_NAME_MAX);
  if (node < 0 || node >= graph->count)
    return es_fail(err, ESPER_EARG, "%s \"%s\" is node %%%d; the graph has nodes 0..%d", kind_name,
                   name, (int)node, (int)graph->count - 1);
  for (int32_t i = 0; i < graph->root_count; i++)
    if (graph->roots[i].kind == kind && strcmp(graph->roots[i].name, name) == 0)
      return es_fail(err, ESPER_ENAME, "%s \"%s\" is given twice", kind_name, name);
  esper_status status = kind == ES_ROOT_update ? check_update(graph, name, node, err) : ESPER_OK;
  if (status != ESPER_OK) return status;
  if (graph->root_count == ES_ROOTS_MAX)
    return es_fail(err, ESPER_ELIMIT, "graph has %d outputs and updates, the most it may have",
                   ES_ROOTS_MAX);
  char *copy = es_arena_text(graph->arena, name);
  if (!copy ||
      !reserve((void **)&graph->roots, &graph->root_room, graph->root_count, sizeof *graph->roots))
    return es_fail(err, ESPER_ENOMEM, "no memory for %s \"%s\"", kind_name, name);
  graph->roots[graph->root_count++] = (es_root){ .name = copy, .node = node, .kind = kind };
  return ESPER_OK;
}
