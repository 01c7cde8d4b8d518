/* The graph: typed nodes in topological order, append-only.
 *
 * Invariants (es_graph_check verifies them):
 *   - a node's inputs have smaller indices, so there are no cycles and index order is an execution order;
 *   - a node never changes after es_graph_add; passes build a new graph (es_graph_copy_node) instead;
 *   - shape and dtype of a node are exactly what its op's rule gives for its inputs and attributes.
 * A graph may be used from one thread at a time. Handles and pointers live until the graph is freed. */
#ifndef ES_GRAPH_H
#define ES_GRAPH_H
#include "base/hash.h"
#include "graph/dim.h"

enum { ES_RANK_MAX = 8, ES_IN_MAX = 8, ES_ATTR_INTS = 8, ES_NODES_MAX = 65536 };

typedef enum es_op {
#define OP(name, class_, lo, hi, shape, attrs, doc) ES_OP_##name,
#include "graph/ops.def"
#undef OP
  ES_OP_COUNT
} es_op;

typedef enum es_class {
  ES_CLASS_leaf, ES_CLASS_pointwise, ES_CLASS_random, ES_CLASS_reduce, ES_CLASS_norm, ES_CLASS_contract,
  ES_CLASS_conv, ES_CLASS_pool, ES_CLASS_move, ES_CLASS_attention, ES_CLASS_index
} es_class;

typedef enum es_dtype {
#define D(name, bytes, class_, ctype, dlpack, npy) ES_##name,
#include "graph/dtypes.def"
#undef D
  ES_DTYPE_COUNT
} es_dtype;

typedef enum es_init {
#define I(name, arity, f0, f1, doc) ES_INIT_##name,
#include "graph/inits.def"
#undef I
  ES_INIT_COUNT
} es_init;

typedef int32_t es_id; /* node index; -1 = none */

typedef struct es_node {
  uint16_t op;               /* es_op */
  uint8_t dtype;             /* es_dtype of the output */
  uint8_t rank;              /* of the output */
  int32_t nin;
  es_id in[ES_IN_MAX];
  es_dim shape[ES_RANK_MAX];
  int64_t i[ES_ATTR_INTS];   /* integer attributes in slot order of ops.def */
  double f[2];               /* number attributes; param/buffer: init arguments */
  es_dim d[ES_RANK_MAX];     /* dimension attributes */
  int32_t nd;                /* how many of d are given */
  int32_t line;              /* line in the blueprint, 0 = unknown; not part of identity */
  const char *name;          /* input/param/buffer: interface name; else a label or NULL; arena of the graph */
} es_node;

typedef enum es_root_kind { ES_ROOT_output, ES_ROOT_update } es_root_kind;
/* The attributes of a node as bytes that are equal exactly when the attributes are, for nodes of one op over one dims table.
 * skip: slot of an integer attribute that counts as 0, or -1. */
enum { ES_ATTRIBUTE_BYTES = 8 * 8 + 2 * 8 + 8 * 4 + 4 };
void es_node_attributes(const es_node *node, int32_t skip, uint8_t out[ES_ATTRIBUTE_BYTES]);

typedef struct es_root {     /* what a graph is computed for */
  const char *name;          /* output name, or name of the buffer that takes the value after the step */
  es_id node;
  int32_t kind;              /* es_root_kind */
} es_root;

typedef struct es_attr {     /* one attribute of an op, parsed from ops.def */
  const char *name;
  char type;                 /* letter of ops.def */
  int8_t slot;               /* first index in i[], f[] or d[] */
  bool has_default;
  double def[2];
} es_attr;

typedef struct es_op_info {
  const char *name, *class_name, *shape_rule, *doc;
  es_class class_;
  int32_t min_in, max_in, attr_count;
  es_attr attrs[6];
} es_op_info;

typedef struct es_graph es_graph;

const es_op_info *es_op_get(int32_t op);       /* NULL out of range */
int32_t es_op_find(const char *name);          /* -1 unknown */
const char *es_op_suggest(const char *name);   /* nearest known op name, NULL when nothing is near */
const char *es_dtype_name(int32_t dtype);
int32_t es_dtype_find(const char *name);
int32_t es_dtype_bytes(int32_t dtype);
const char *es_init_name(int32_t init);
int32_t es_init_find(const char *name);
int32_t es_init_arity(int32_t init);                       /* arguments it takes: 0, 1 or 2 */
double es_init_default(int32_t init, int32_t argument);

/* name: "family/name", for people, not part of the identity; may be ""; bytes outside [A-Za-z0-9_./-] become '_'.
 * dims: shared and retained; NULL = own. NULL without memory. */
es_graph *es_graph_new(const char *name, es_dims *dims);
void es_graph_free(es_graph *graph);
const char *es_graph_name(const es_graph *graph);
es_dims *es_graph_dims(const es_graph *graph);             /* borrowed */

/* Appends a node. Caller fills op, nin, in, attributes, dtype (leaves and cast use their own rule: input/param/
 * buffer/const take `dtype`), name, line, and for leaves d/nd; shape, rank and dtype are computed here. Axis
 * attributes may be negative on entry and are stored normalised. Returns the index, or -1 with err naming
 * op, what it got and what it wanted; the graph is unchanged then.
 * Duplicate names of inputs, params, buffers are refused here (ENAME). */
es_id es_graph_add(es_graph *graph, const es_node *node, es_error *err);
/* Adds a copy of src's node `id` with inputs renamed through map (map[old] = new, -1 = error). The two graphs may
 * have different dims tables: dimensions are carried over with the ranges of their symbols. */
es_id es_graph_copy_node(es_graph *graph, const es_graph *src, es_id id, const es_id *map, es_error *err);
/* An update names a buffer of the graph and has its dtype and shape. Names are unique within a kind. */
esper_status es_graph_root(es_graph *graph, int32_t kind, const char *name, es_id node, es_error *err);

int32_t es_graph_count(const es_graph *graph);
const es_node *es_graph_node(const es_graph *graph, es_id id); /* lives as long as the graph */
es_id es_graph_find(const es_graph *graph, const char *name); /* the input, param or buffer of that name; -1 none */
int32_t es_graph_root_count(const es_graph *graph);
const es_root *es_graph_root_get(const es_graph *graph, int32_t index);

/* Canonical form as a new graph: dead nodes dropped except declared inputs (kept, in name order, first), nodes in
 * depth-first post-order from the roots (outputs by name, then updates by name), labels dropped (a telemetry_probe's
 * name is its interface and stays), streams of random ops numbered in that order from 1 + the largest given one where
 * still -1. It has a dims table of its own, filled in that order, so that handles, symbol order and everything a
 * compile makes of them depend on the canonical text alone. NULL on failure. */
es_graph *es_graph_canonical(const es_graph *graph, es_error *err);
esper_status es_graph_check(const es_graph *graph, es_error *err);
/* Text: one node a line; parses back to an equal graph (blueprint lines and, with labels=false, labels are lost).
 *     graph "transformer/mlp"
 *     symbol batch 0 1048576                           NAME MIN MAX, in order of first use below
 *     %0 = input "x" f32[batch, 384]
 *     %1 = param "w" f32[64, 384] init=uniform(-1, 1)
 *     %2 = linear %0 %1 : f32[batch, 64] "label"
 *     output "y" %2                                    update "buffer name" %7
 * The canonical text is the text of the canonical graph with labels=false. */
void es_graph_print(const es_graph *graph, bool labels, es_text *out);
/* Bytes may be hostile. Errors name the line: ESYNTAX, or what es_graph_add says of the node. Attributes with a default
 * and ": dtype[shape]" may be left out; a shape that is given must be the inferred one. Empty lines and lines that start
 * with '#' are skipped. At most 16 MiB. */
es_graph *es_graph_parse(const char *text, size_t length, es_error *err);
/* Identity: BLAKE2b-256 of the canonical text without its first line (the graph's name). */
esper_status es_graph_hash(const es_graph *graph, es_hash *out, es_error *err);

/* Birth value of a tensor by init kind, arguments and name: a pure function of (seed, name, element). out: dtype, extents
 * given, compact. EARG, ELIMIT over 2^31 elements. */
esper_status es_init_fill(int32_t init, double f0, double f1, const char *name, int32_t dtype, int32_t rank,
                          const int64_t *extent, uint64_t seed, void *out, es_error *err);
/* Draws the initial value of a param or buffer node into `out` (dtype of the node, all extents constant). */
esper_status es_graph_init_fill(const es_graph *graph, es_id id, uint64_t seed, void *out, es_error *err);
#endif
