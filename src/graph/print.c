/* Graph text, out: one node a line. The format is in graph.h; parse.c reads it back.
 * Invariant: every attribute is printed in schema order, so equal graphs give equal text. */
#include "base/text.h"
#include "graph/shape.h"

static void print_dims(const es_graph *graph, const es_dim *dims, int count, es_text *out) {
  es_text_bytes(out, "[", 1);
  for (int i = 0; i < count; i++) {
    if (i) es_text_bytes(out, ", ", 2);
    es_dim_print(es_graph_dims(graph), dims[i], out);
  }
  es_text_bytes(out, "]", 1);
}

static void print_type(const es_graph *graph, const es_node *node, es_text *out) {
  es_text_bytes(out, " ", 1);
  es_text_string(out, es_dtype_name(node->dtype));
  print_dims(graph, node->shape, node->rank, out);
}

static void print_init(const es_node *node, es_text *out) {
  int32_t init = (int32_t)node->i[0];
  es_text_add(out, " init=%s", es_init_name(init));
  for (int32_t k = 0; k < es_init_arity(init); k++) {
    es_text_add(out, "%s", k ? ", " : "(");
    es_text_number(out, node->f[k]);
  }
  if (es_init_arity(init)) es_text_bytes(out, ")", 1);
}

static void print_axes(int64_t mask, es_text *out) {
  const char *comma = "";
  for (int axis = 0; axis < ES_RANK_MAX; axis++)
    if (mask >> axis & 1) {
      es_text_add(out, "%s%d", comma, axis);
      comma = ",";
    }
}

static void print_attr(const es_graph *graph, const es_node *node, const es_attr *attr,
                       es_text *out) {
  const int64_t *i = &node->i[attr->slot];
  es_text_bytes(out, " ", 1);
  es_text_string(out, attr->name);
  es_text_bytes(out, "=", 1);
  switch (attr->type) {
    case '2': es_text_add(out, "%lld,%lld", (long long)i[0], (long long)i[1]); break;
    case 'm': print_axes(*i, out); break;
    case 'p':
      for (int k = 0; k < node->rank; k++)
        es_text_add(out, "%s%lld", k ? "," : "", (long long)i[k]);
      break;
    case 't': es_text_add(out, "%s", es_dtype_name((int32_t)*i)); break;
    case 'f': es_text_number(out, node->f[attr->slot]); break;
    case 'd': print_dims(graph, &node->d[attr->slot], 1, out); break;
    case 'D': print_dims(graph, node->d, node->nd, out); break;
    default: es_text_integer(out, *i);
  }
}

static void print_node(const es_graph *graph, es_id id, bool labels, es_text *out) {
  const es_node *node = es_graph_node(graph, id);
  const es_op_info *op = es_op_get(node->op);
  bool drawn = node->op == ES_OP_param || node->op == ES_OP_buffer,
       named = node->op == ES_OP_input || drawn;
  es_text_bytes(out, "%", 1);
  es_text_integer(out, id);
  es_text_bytes(out, " = ", 3);
  es_text_string(out, op->name);
  if (named) es_text_add(out, " \"%s\"", node->name);
  if (op->class_ == ES_CLASS_leaf) print_type(graph, node, out);
  for (int32_t k = 0; k < node->nin; k++) {
    es_text_bytes(out, " %", 2);
    es_text_integer(out, node->in[k]);
  }
  if (drawn) print_init(node, out);
  for (int32_t k = 0; !named && k < op->attr_count; k++)
    print_attr(graph, node, &op->attrs[k], out);
  if (op->class_ != ES_CLASS_leaf) {
    es_text_bytes(out, " :", 2);
    print_type(graph, node, out);
  }
  if (!named && node->name && (labels || node->op == ES_OP_telemetry_probe))
    es_text_add(out, " \"%s\"", node->name);
  es_text_bytes(out, "\n", 1);
}

static void print_symbols(const es_graph *graph, es_text *out) {
  const es_dims *dims = es_graph_dims(graph);
  int32_t order[ES_SYMBOLS_MAX], count = 0;
  for (es_id id = 0; id < es_graph_count(graph); id++) {
    const es_node *node = es_graph_node(graph, id);
    for (int32_t k = 0; k < node->nd; k++) es_dim_symbols(dims, node->d[k], order, &count);
  }
  for (int32_t k = 0; k < count; k++) {
    int64_t min, max;
    es_symbol_range(dims, order[k], &min, &max);
    es_text_add(out, "symbol %s %lld %lld\n", es_symbol_name(dims, order[k]), (long long)min,
                (long long)max);
  }
}

void es_graph_print(const es_graph *graph, bool labels, es_text *out) {
  es_text_add(out, "graph \"%s\"\n", es_graph_name(graph));
  print_symbols(graph, out);
  for (es_id id = 0; id < es_graph_count(graph); id++) print_node(graph, id, labels, out);
  for (int32_t k = 0; k < es_graph_root_count(graph); k++) {
    const es_root *root = es_graph_root_get(graph, k);
    es_text_add(out, "%s \"%s\" %%%d\n", root->kind == ES_ROOT_update ? "update" : "output",
                root->name, (int)root->node);
  }
}
