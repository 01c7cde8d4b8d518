/* Graph text, in. The format is in graph.h. The bytes may come from a store or a worker that was
 * attacked: every length is bounded, nothing is trusted, and each node goes through es_graph_add
 * like any other.
 * Invariant: a graph that comes out passes es_graph_check, and printing it gives what was read,
 * normalised. */
#include <stdio.h>
#include <limits.h>
#include <string.h>
#include "base/memory.h"
#include "base/text.h"
#include "graph/shape.h"

enum { TEXT_MAX = 16 << 20, WORD_MAX = 64 };

typedef struct reader {
  const char *at;   /* terminated by NUL; lines end with '\n' */
  const char *word; /* start of the last word or number, for messages about what it says */
  int line;
  int32_t symbols; /* declared so far */
  es_graph *graph;
  es_error *err;
} reader;

/* What a node line gave besides the es_node. */
typedef struct line_parts {
  es_node node;
  char name[ES_NAME_MAX + 1];
  bool named, typed;
  unsigned seen;       /* bit per attribute of the schema */
  int32_t dtype, rank; /* of the type that was given */
  es_dim shape[ES_RANK_MAX];
} line_parts;

static bool fail(reader *r, const char *problem) {
  char near[33];
  size_t length = strcspn(r->at, "\n");
  if (length > sizeof near - 1) length = sizeof near - 1;
  memcpy(near, r->at, length);
  near[length] = 0;
  es_fail(r->err, ESPER_ESYNTAX, "graph text, line %d: %s at \"%s\"", r->line, problem, near);
  return false;
}

/* As fail, about the last word. */
static bool refuse(reader *r, const char *problem) {
  r->at = r->word;
  return fail(r, problem);
}

static bool pass_on(reader *r, const es_error *why) {
  es_fail(r->err, (esper_status)why->status, "graph text, line %d: %s", r->line, why->text);
  return false;
}

/* ---- tokens ---- */

static char peek(reader *r) {
  while (*r->at == ' ') r->at++;
  return *r->at;
}

static bool take(reader *r, char c) {
  if (peek(r) != c) return false;
  r->at++;
  return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) {
  return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool read_word(reader *r, char word[WORD_MAX + 1]) {
  size_t length = 0;
  for (peek(r); is_word(r->at[length]); length++)
    if (length == WORD_MAX) return fail(r, "a word is longer than 64 bytes");
  if (length == 0) return fail(r, "a word was wanted");
  r->word = r->at;
  memcpy(word, r->at, length);
  word[length] = 0;
  r->at += length;
  return true;
}

static bool read_quoted(reader *r, char name[ES_NAME_MAX + 1]) {
  size_t length = 0;
  if (!take(r, '"')) return fail(r, "a name in double quotes was wanted");
  while (is_word(r->at[length]) || (r->at[length] && strchr("./-", r->at[length])))
    if (++length > ES_NAME_MAX) return fail(r, "a name is longer than 128 bytes");
  memcpy(name, r->at, length);
  name[length] = 0;
  r->at += length;
  return take(r, '"') ? true : fail(r, "a name has a bad character or no closing quote");
}

static bool read_integer(reader *r, int64_t *out) {
  peek(r);
  r->word = r->at;
  bool negative = take(r, '-');
  *out = 0;
  if (!is_digit(*r->at)) return fail(r, "an integer was wanted");
  for (; is_digit(*r->at); r->at++)
    if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *r->at - '0', out))
      return fail(r, "an integer is over 2^63");
  if (negative) *out = -*out;
  return true;
}

/* "%12": a node that exists already. */
static bool read_node(reader *r, es_id *out) {
  int64_t id;
  if (!take(r, '%') || !is_digit(*r->at)) return fail(r, "a node such as %0 was wanted");
  if (!read_integer(r, &id)) return false;
  if (id >= es_graph_count(r->graph))
    return refuse(r, "a node is used before it is defined (a graph cannot have a cycle)");
  *out = (es_id)id;
  return true;
}

static bool read_number(reader *r, double *out) {
  static const char *const words[3] = { "inf", "-inf", "nan" };
  const char *end;
  char c = peek(r);
  bool fits = is_digit(c) || (c == '-' && is_digit(r->at[1]));
  for (int k = 0; k < 3; k++) fits = fits || strncmp(r->at, words[k], strlen(words[k])) == 0;
  if (!fits || !es_number_read(r->at, &end, out)) return fail(r, "a number was wanted");
  r->at = end;
  return true;
}

static bool read_dim(reader *r, es_dim *out) {
  es_error why = { 0 };
  es_dims *dims = es_graph_dims(r->graph);
  *out = es_dim_parse(dims, r->at, &r->at, &why);
  if (*out == ES_NO_DIM) return pass_on(r, &why);
  return es_symbol_count(dims) == r->symbols
             ? true
             : fail(r, "a symbol that no symbol line declares was used");
}

static bool read_dims(reader *r, es_dim *dims, int32_t *count) {
  *count = 0;
  if (!take(r, '[')) return fail(r, "'[' was wanted");
  if (take(r, ']')) return true;
  do {
    if (*count == ES_RANK_MAX) return fail(r, "more than 8 axes");
    if (!read_dim(r, &dims[(*count)++])) return false;
  } while (take(r, ','));
  return take(r, ']') ? true : fail(r, "',' or ']' was wanted");
}

static bool read_dtype(reader *r, int32_t *out) {
  char word[WORD_MAX + 1];
  if (!read_word(r, word)) return false;
  *out = es_dtype_find(word);
  return *out >= 0 ? true : refuse(r, "unknown dtype");
}

/* ---- parts of a node ---- */

static bool read_integers(reader *r, int64_t *out, int least, int most, int *count) {
  *count = 0;
  do {
    if (*count == most) return fail(r, "too many integers");
    if (!read_integer(r, &out[(*count)++])) return false;
  } while (take(r, ','));
  return *count >= least ? true : fail(r, "more integers were wanted");
}

/* init=NAME or init=NAME(number, number) */
static bool read_init(reader *r, es_node *node) {
  char word[WORD_MAX + 1];
  if (!read_word(r, word)) return false;
  int32_t init = es_init_find(word), arity = es_init_arity(init);
  if (init < 0) return refuse(r, "unknown init");
  node->i[0] = init;
  for (int32_t k = 0; k < arity; k++)
    if (!take(r, k ? ',' : '(') || !read_number(r, &node->f[k]))
      return fail(r, "the init's arguments were wanted");
  return arity == 0 || take(r, ')') ? true : fail(r, "')' was wanted");
}

static bool read_axes(reader *r, int64_t *mask) {
  int64_t axes[ES_RANK_MAX];
  int count;
  if (!read_integers(r, axes, 1, ES_RANK_MAX, &count)) return false;
  *mask = 0;
  for (int k = 0; k < count; k++) {
    if (axes[k] < 0 || axes[k] >= ES_RANK_MAX) return refuse(r, "axes are 0..7");
    *mask |= INT64_C(1) << axes[k];
  }
  return true;
}

static bool read_value(reader *r, const es_attr *attr, es_node *node) {
  int count;
  int64_t *i = &node->i[attr->slot];
  int32_t dtype;
  switch (attr->type) {
    case '2': return read_integers(r, i, 2, 2, &count);
    case 'm': return read_axes(r, i);
    case 'p': return read_integers(r, i, 0, ES_ATTR_INTS, &count);
    case 't':
      if (!read_dtype(r, &dtype)) return false;
      *i = dtype;
      return true;
    case 'f': return read_number(r, &node->f[attr->slot]);
    case 'd':
      return take(r, '[') && read_dim(r, &node->d[attr->slot]) && take(r, ']') ? true
             : r->err->status                                                  ? false
                              : fail(r, "one dimension in brackets was wanted");
    case 'D': return read_dims(r, node->d, &node->nd);
    default: return read_integer(r, i);
  }
}

static bool read_attr(reader *r, const es_op_info *op, line_parts *parts) {
  char word[WORD_MAX + 1];
  if (!read_word(r, word)) return false;
  bool drawn = parts->node.op == ES_OP_param || parts->node.op == ES_OP_buffer;
  for (int32_t k = 0; k < op->attr_count; k++) {
    if (strcmp(op->attrs[k].name, word) != 0) continue;
    if (op->class_ == ES_CLASS_leaf && parts->node.op != ES_OP_const &&
        !(drawn && op->attrs[k].type == 'i'))
      break;
    if (parts->seen >> k & 1) return refuse(r, "an attribute is given twice");
    parts->seen |= 1u << k;
    if (!take(r, '=')) return fail(r, "'=' was wanted");
    return drawn ? read_init(r, &parts->node) : read_value(r, &op->attrs[k], &parts->node);
  }
  return refuse(r, "the op has no such attribute");
}

static bool read_type(reader *r, line_parts *parts) {
  if (parts->typed) return fail(r, "a second type");
  parts->typed = true;
  return read_dtype(r, &parts->dtype) && read_dims(r, parts->shape, &parts->rank);
}

static bool read_input(reader *r, line_parts *parts) {
  es_node *node = &parts->node;
  if (node->nin == ES_IN_MAX) return fail(r, "more than 8 inputs");
  return read_node(r, &node->in[node->nin++]);
}

/* Defaults for what was left out; what has no default must be there. */
static bool complete(reader *r, const es_op_info *op, line_parts *parts) {
  bool leaf = op->class_ == ES_CLASS_leaf;
  if (leaf && !parts->typed) return fail(r, "the leaf has no dtype[shape]");
  for (int32_t k = 0; k < op->attr_count; k++) {
    const es_attr *attr = &op->attrs[k];
    if (parts->seen >> k & 1 || (leaf && attr->type == 'D')) continue;
    if (!attr->has_default) return fail(r, "an attribute without a default is missing");
    if (attr->type == 'f' && parts->node.op != ES_OP_param && parts->node.op != ES_OP_buffer)
      parts->node.f[attr->slot] = attr->def[0];
    if (attr->type == 'f') continue;
    parts->node.i[attr->slot] = (int64_t)attr->def[0];
    if (attr->type == '2') parts->node.i[attr->slot + 1] = (int64_t)attr->def[1];
  }
  if (!leaf) return true;
  parts->node.dtype = (uint8_t)parts->dtype;
  if (parts->node.op == ES_OP_const) return true;
  parts->node.nd = parts->rank;
  memcpy(parts->node.d, parts->shape, sizeof parts->shape);
  return true;
}

static bool add_node(reader *r, line_parts *parts) {
  es_error why = { 0 };
  if (parts->named) parts->node.name = parts->name;
  es_id id = es_graph_add(r->graph, &parts->node, &why);
  if (id < 0) return pass_on(r, &why);
  const es_node *node = es_graph_node(r->graph, id);
  if (!parts->typed || (node->dtype == parts->dtype && node->rank == parts->rank &&
                        memcmp(node->shape, parts->shape, node->rank * sizeof node->shape[0]) == 0))
    return true;
  es_shaper show = { .dims = es_graph_dims(r->graph) };
  es_fail(r->err, ESPER_ESYNTAX,
          "graph text, line %d: the type that is given is not that of the node, %s", r->line,
          es_show(&show, node));
  return false;
}

/* ---- lines ---- */

static bool at_end(reader *r) { return peek(r) == '\n' || *r->at == 0; }

static bool read_node_line(reader *r) {
  char word[WORD_MAX + 1];
  int64_t id;
  line_parts parts = { .node.line = r->line };
  for (int k = 0; k < ES_RANK_MAX; k++) parts.shape[k] = ES_NO_DIM;
  r->at++;
  if (!read_integer(r, &id)) return false;
  if (id != es_graph_count(r->graph)) return refuse(r, "nodes are numbered %0, %1, ... in order");
  if (!take(r, '=')) return fail(r, "'=' was wanted");
  if (!read_word(r, word)) return false;
  int32_t number = es_op_find(word);
  const es_op_info *op = es_op_get(number);
  if (!op) {
    char problem[96];
    const char *near = es_op_suggest(word);
    snprintf(problem, sizeof problem, "unknown op%s%s", near ? "; did you mean " : "", near ? near : "");
    return refuse(r, problem);
  }
  parts.node.op = (uint16_t)number;
  bool fits = true;
  while (fits && !at_end(r)) {
    char c = *r->at;
    if (c == '%')
      fits = read_input(r, &parts);
    else if (c == '"' && parts.named)
      return fail(r, "a second name");
    else if (c == '"')
      fits = parts.named = read_quoted(r, parts.name);
    else if (c == ':' && op->class_ != ES_CLASS_leaf)
      fits = (r->at++, read_type(r, &parts));
    else if (op->class_ == ES_CLASS_leaf && !parts.typed)
      fits = read_type(r, &parts);
    else
      fits = read_attr(r, op, &parts);
  }
  return fits && complete(r, op, &parts) && add_node(r, &parts);
}

static bool read_symbol_line(reader *r) {
  char word[WORD_MAX + 1];
  int64_t min, max;
  es_error why = { 0 };
  if (es_graph_count(r->graph)) return fail(r, "symbols stand before the nodes");
  if (!read_word(r, word) || !read_integer(r, &min) || !read_integer(r, &max)) return false;
  if (es_dim_range(es_graph_dims(r->graph), word, min, max, &why) != ESPER_OK)
    return pass_on(r, &why);
  if (es_symbol_count(es_graph_dims(r->graph)) != ++r->symbols)
    return refuse(r, "a symbol is declared twice");
  return true;
}

static bool read_root_line(reader *r, int32_t kind) {
  char name[ES_NAME_MAX + 1];
  es_id node;
  es_error why = { 0 };
  if (!read_quoted(r, name) || !read_node(r, &node)) return false;
  return es_graph_root(r->graph, kind, name, node, &why) == ESPER_OK ? true : pass_on(r, &why);
}

static bool read_first_line(reader *r) {
  char word[WORD_MAX + 1], name[ES_NAME_MAX + 1];
  if (!read_word(r, word)) return false;
  if (strcmp(word, "graph") != 0) return refuse(r, "the first line is graph \"name\"");
  if (!read_quoted(r, name)) return false;
  r->graph = es_graph_new(name, NULL);
  if (r->graph) return true;
  es_fail(r->err, ESPER_ENOMEM, "no memory for a graph");
  return false;
}

static bool read_line(reader *r) {
  char word[WORD_MAX + 1];
  if (!r->graph) return read_first_line(r);
  if (*r->at == '%') return read_node_line(r);
  if (!read_word(r, word)) return false;
  if (strcmp(word, "symbol") == 0) return read_symbol_line(r);
  if (strcmp(word, "output") == 0) return read_root_line(r, ES_ROOT_output);
  if (strcmp(word, "update") == 0) return read_root_line(r, ES_ROOT_update);
  return refuse(r, "a line starts with %, symbol, output or update");
}

static bool read_lines(reader *r) {
  for (; *r->at; r->line++) {
    if (*r->at == '#')
      r->at += strcspn(r->at, "\n");
    else if (!at_end(r) && !read_line(r))
      return false;
    if (!at_end(r)) return fail(r, "the line should have ended");
    if (*r->at) r->at++;
  }
  return r->graph ? true : fail(r, "the text is empty");
}

es_graph *es_graph_parse(const char *text, size_t length, es_error *err) {
  if (length > TEXT_MAX || (length && memchr(text, 0, length))) {
    es_fail(err, length > TEXT_MAX ? ESPER_ELIMIT : ESPER_ESYNTAX, "graph text of %zu bytes %s",
            length, length > TEXT_MAX ? "is over the limit of 16 MiB" : "has a NUL byte in it");
    return NULL;
  }
  es_error own = { 0 }; /* the caller's may be NULL, and parts of the parser look at the status */
  char *copy = es_alloc(length + 1);
  reader r = { .at = copy, .line = 1, .err = &own };
  if (!copy) es_fail(&own, ESPER_ENOMEM, "no memory for graph text of %zu bytes", length);
  if (copy && length) memcpy(copy, text, length);
  if (!copy || !read_lines(&r)) {
    es_graph_free(r.graph);
    r.graph = NULL;
    if (err) *err = own;
  }
  es_free(copy);
  return r.graph;
}
