/* The verifier: run on every graph after every pass. It trusts nothing that es_graph_add
 * established once.
 * Invariant: OK means the invariants at the top of graph.h hold for each node and root. */
#include <string.h>
#include "graph/shape.h"

static bool same_node(const es_node *a, const es_node *b) {
  return a->dtype == b->dtype && a->rank == b->rank && a->nd == b->nd &&
         memcmp(a->shape, b->shape, sizeof a->shape) == 0 && memcmp(a->i, b->i, sizeof a->i) == 0 &&
         memcmp(a->f, b->f, sizeof a->f) == 0 && memcmp(a->d, b->d, sizeof a->d) == 0;
}

static esper_status check_node(const es_graph *graph, es_id id, es_error *err) {
  const es_node *node = es_graph_node(graph, id);
  es_node again = *node;
  esper_status status = es_node_infer(graph, &again, id, err);
  if (status != ESPER_OK) return status;
  if (!same_node(node, &again)) {
    es_shaper show = { .dims = es_graph_dims(graph) };
    return es_fail(err, ESPER_EINTERNAL, "node %%%d (%s) says %s; its rule gives %s", (int)id,
                   es_op_get(node->op)->name, es_show(&show, node), es_show(&show, &again));
  }
  bool leaf = node->op == ES_OP_input || node->op == ES_OP_param || node->op == ES_OP_buffer;
  if (node->name ? !es_name_fits(node->name) : leaf)
    return es_fail(err, ESPER_ENAME, "node %%%d (%s) has a bad name or none", (int)id,
                   es_op_get(node->op)->name);
  if (leaf && es_graph_find(graph, node->name) != id)
    return es_fail(err, ESPER_ENAME, "node %%%d (%s) shares the name \"%s\" with another", (int)id,
                   es_op_get(node->op)->name, node->name);
  return ESPER_OK;
}

static esper_status check_root(const es_graph *graph, const es_root *root, es_error *err) {
  const es_node *node = es_graph_node(graph, root->node);
  if (!node || !es_name_fits(root->name))
    return es_fail(err, ESPER_EINTERNAL, "root \"%.140s\" is node %%%d of %d", root->name,
                   (int)root->node, (int)es_graph_count(graph));
  if (root->kind == ES_ROOT_output) return ESPER_OK;
  const es_node *buffer = es_graph_node(graph, es_graph_find(graph, root->name));
  if (!buffer || buffer->op != ES_OP_buffer || buffer->dtype != node->dtype ||
      buffer->rank != node->rank || memcmp(buffer->shape, node->shape, sizeof node->shape) != 0)
    return es_fail(err, ESPER_ESHAPE, "update \"%s\" has no buffer of its name, dtype and shape",
                   root->name);
  return ESPER_OK;
}

esper_status es_graph_check(const es_graph *graph, es_error *err) {
  esper_status status = ESPER_OK;
  for (es_id id = 0; status == ESPER_OK && id < es_graph_count(graph); id++) {
    es_error why = { 0 };
    status = check_node(graph, id, &why);
    if (status != ESPER_OK)
      es_fail(err, status, "graph \"%s\", node %%%d: %s", es_graph_name(graph), (int)id, why.text);
  }
  for (int32_t k = 0; status == ESPER_OK && k < es_graph_root_count(graph); k++)
    status = check_root(graph, es_graph_root_get(graph, k), err);
  return status;
}
