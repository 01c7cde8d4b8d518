/* Inside of src/graph: what the shape rules share. A rule reads s->in and the attributes of
 * s->node, and fills rank, shape and dtype of s->node; on entry these are a copy of input 0's (rank
 * 0 for leaves). Attributes arrive checked and normalised by es_attrs_normalise. */
#ifndef ES_SHAPE_H
#define ES_SHAPE_H
#include "graph/graph.h"

#define ES_EXTENT_MAX (INT64_C(1) << 40) /* also the most elements of a constant shape */
#define ES_PARAM_MAX (INT64_C(1) << 31)  /* elements of one param or buffer */
enum { ES_NAME_MAX = 128, ES_WINDOW_MAX = 1 << 20, ES_ROOTS_MAX = 4096 };

typedef struct es_shaper {
  const es_graph *graph;
  es_dims *dims;
  const es_op_info *op;
  es_node *node;
  const es_node *in[ES_IN_MAX];
  es_error *err;
  int turn;             /* next of the buffers below */
  char buffers[6][192]; /* printed shapes of one message */
} es_shaper;

/* Interface names and labels: [A-Za-z_][A-Za-z0-9_.]*, at most ES_NAME_MAX bytes. */
bool es_name_fits(const char *name);

/* The value is one that the dtype i32, i64 (up to 2^53), u8 or bool holds; false for other dtypes. */
bool es_integer_holds(int32_t dtype, double value);

/* Fails with "OP: " or "OP \"name\": " before the message. */
esper_status es_refuse(es_shaper *s, esper_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
const char *es_show(es_shaper *s,
                    const es_node *node); /* "f32[batch, 3]"; lives until six more were shown */
const char *es_show_dim(es_shaper *s, es_dim d);

/* The dimension `what` is ES_NO_DIM: too long an expression, an overflow, or no memory. */
esper_status es_refuse_dim(es_shaper *s, const char *what);

esper_status es_attrs_normalise(es_shaper *s);
/* Everything about a node that follows from its op, inputs (all below `limit`) and attributes. */
esper_status es_node_infer(const es_graph *graph, es_node *node, es_id limit, es_error *err);

/* Steps rules are made of. `what` names an operand in messages. */
esper_status es_want_equal(es_shaper *s, es_dim a, const char *what_a, es_dim b,
                           const char *what_b);
esper_status es_want_rank(es_shaper *s, int input, const char *what, int least, int most);
esper_status es_want_floats(es_shaper *s,
                            int count); /* inputs 0..count-1 are f32 or f64 and alike */
esper_status es_want_index(es_shaper *s, int input, const char *what);
esper_status es_want_const(es_shaper *s, es_dim d, const char *what, int64_t *value);
esper_status es_want_vector(es_shaper *s, int input, const char *what,
                            es_dim extent); /* optional: absent is fine */
esper_status es_want_range(es_shaper *s, const char *what, int64_t value, int64_t least,
                           int64_t most);

typedef esper_status es_rule(es_shaper *s);
#define OP(name, class_, lo, hi, shape, attrs, doc) es_rule es_shape_##shape;
#include "graph/ops.def"
#undef OP
#endif
