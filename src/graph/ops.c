/* The tables of ops, dtypes and inits, made from the .def files; every other part asks here.
 * Invariant: the attribute schemas are parsed once, before the first es_op_get returns, and never
 * change. */
#include <assert.h>
#include <pthread.h>
#include <string.h>
#include "base/text.h"
#include "graph/graph.h"

/* ---- dtypes and inits ---- */

static const struct {
  const char *name;
  int32_t bytes;
} dtypes[ES_DTYPE_COUNT] = {
#define D(name, bytes, class_, ctype, dlpack, npy) { #name, bytes },
#include "graph/dtypes.def"
#undef D
};

static const struct {
  const char *name;
  int32_t arity;
  double def[2];
} inits[ES_INIT_COUNT] = {
#define I(name, arity, f0, f1, doc) { #name, arity, { f0, f1 } },
#include "graph/inits.def"
#undef I
};

const char *es_dtype_name(int32_t dtype) {
  return dtype >= 0 && dtype < ES_DTYPE_COUNT ? dtypes[dtype].name : NULL;
}
int32_t es_dtype_bytes(int32_t dtype) {
  return dtype >= 0 && dtype < ES_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}
const char *es_init_name(int32_t init) {
  return init >= 0 && init < ES_INIT_COUNT ? inits[init].name : NULL;
}
int32_t es_init_arity(int32_t init) {
  return init >= 0 && init < ES_INIT_COUNT ? inits[init].arity : 0;
}

double es_init_default(int32_t init, int32_t argument) {
  return init >= 0 && init < ES_INIT_COUNT && (argument == 0 || argument == 1)
             ? inits[init].def[argument]
             : 0;
}

int32_t es_dtype_find(const char *name) {
  for (int32_t i = 0; i < ES_DTYPE_COUNT; i++)
    if (strcmp(dtypes[i].name, name) == 0) return i;
  return -1;
}

int32_t es_init_find(const char *name) {
  for (int32_t i = 0; i < ES_INIT_COUNT; i++)
    if (strcmp(inits[i].name, name) == 0) return i;
  return -1;
}

/* ---- ops ---- */

typedef struct op_row {
  const char *name, *class_name;
  es_class class_;
  int lo, hi;
  const char *shape, *attrs, *doc;
} op_row;

static const op_row rows[ES_OP_COUNT] = {
#define OP(name, class_, lo, hi, shape, attrs, doc)                                                \
  { #name, #class_, ES_CLASS_##class_, lo, hi, #shape, attrs, doc },
#include "graph/ops.def"
#undef OP
};

enum { ATTRS_MAX = sizeof((es_op_info *)0)->attrs / sizeof(es_attr), NAMES_ROOM = 128 };
static es_op_info infos[ES_OP_COUNT];
static char names[ES_OP_COUNT][NAMES_ROOM]; /* attribute names, each terminated */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* How many slots of i[], f[], d[] a type takes. */
static void slots_of(char type, int *ints, int *numbers, int *dims) {
  *ints = type == '2' ? 2 : type == 'p' ? ES_ATTR_INTS : strchr("ibsmt", type) != NULL;
  *numbers = type == 'f';
  *dims = type == 'd' ? 1 : type == 'D' ? ES_RANK_MAX : 0;
}

/* "name:type[=default[,default]]" up to a space; the schema is ours, so a mistake in it is a
 * defect. */
static const char *parse_attr(const char *text, char **room, es_attr *attr) {
  size_t length = strcspn(text, ":");
  memcpy(*room, text, length); /* the rest of the room is zero */
  attr->name = *room;
  *room += length + 1;
  attr->type = text[length + 1];
  text += length + 2;
  if (*text != '=') return text;
  attr->has_default = true;
  for (int i = 0; *text == '=' || *text == ','; i++) {
    assert(i < 2);
    bool number = es_number_read(text + 1, &text, &attr->def[i]);
    assert(number);
    (void)number;
  }
  return text;
}

static void fill_info(int32_t op) {
  const op_row *row = &rows[op];
  es_op_info *info = &infos[op];
  *info = (es_op_info){ .name = row->name,
                        .class_name = row->class_name,
                        .shape_rule = row->shape,
                        .doc = row->doc,
                        .class_ = row->class_,
                        .min_in = row->lo,
                        .max_in = row->hi };
  char *room = names[op];
  int ints = 0, numbers = 0, dims = 0;
  assert(strlen(row->attrs) < NAMES_ROOM);
  for (const char *text = row->attrs; *text; text += *text == ' ') {
    int more_ints, more_numbers, more_dims;
    assert(info->attr_count < (int)ATTRS_MAX);
    es_attr *attr = &info->attrs[info->attr_count++];
    text = parse_attr(text, &room, attr);
    slots_of(attr->type, &more_ints, &more_numbers, &more_dims);
    attr->slot = (int8_t)(more_ints ? ints : more_numbers ? numbers : dims);
    ints += more_ints;
    numbers += more_numbers;
    dims += more_dims;
    assert(more_ints + more_numbers + more_dims > 0 && ints <= ES_ATTR_INTS && numbers <= 2 &&
           dims <= ES_RANK_MAX);
  }
}

static void fill_infos(void) {
  for (int32_t op = 0; op < ES_OP_COUNT; op++) fill_info(op);
}

const es_op_info *es_op_get(int32_t op) {
  pthread_once(&once, fill_infos);
  return op >= 0 && op < ES_OP_COUNT ? &infos[op] : NULL;
}

int32_t es_op_find(const char *name) {
  for (int32_t op = 0; op < ES_OP_COUNT; op++)
    if (strcmp(rows[op].name, name) == 0) return op;
  return -1;
}

/* ---- suggestions ---- */

enum { NAME_MAX_LENGTH = 32 };

/* Levenshtein distance, a neighbouring swap counted as one edit (optimal string alignment). */
static int distance(const char *a, int m, const char *b, int n) {
  int d[NAME_MAX_LENGTH + 1][NAME_MAX_LENGTH + 1];
  for (int i = 0; i <= m; i++) d[i][0] = i;
  for (int j = 0; j <= n; j++) d[0][j] = j;
  for (int i = 1; i <= m; i++)
    for (int j = 1; j <= n; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
          d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  return d[m][n];
}

const char *es_op_suggest(const char *name) {
  int length = (int)strnlen(name, NAME_MAX_LENGTH + 1);
  if (length == 0 || length > NAME_MAX_LENGTH) return NULL;
  const char *nearest = NULL;
  int best = length < 6 ? 2 : 1 + length / 3; /* up to a third of the name may be wrong */
  for (int32_t op = 0; op < ES_OP_COUNT; op++) {
    int edits = distance(name, length, rows[op].name, (int)strlen(rows[op].name));
    if (edits >= best) continue;
    best = edits;
    nearest = rows[op].name;
  }
  /* A part of a name: "mean" -> reduce_mean. */
  for (int32_t op = 0; !nearest && length >= 3 && op < ES_OP_COUNT; op++)
    if (strstr(rows[op].name, name)) nearest = rows[op].name;
  return nearest;
}
