/* .npy files: see npy.h.
 * Invariant of the header reader: `at` never passes `end`, and the byte at `end` is never read. */
#include "run/npy.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/memory.h"

enum { HEADER_MAX = 1 << 16, PREFIX = 8, ALIGNMENT = 64 }; /* prefix: magic and version */
#define DATA_MAX ((int64_t)1 << 46)
static const char magic[] = "\x93NUMPY";

static const char *const descrs[] = {
#define D(name, bytes, class_, ctype, dlpack, npy) npy,
#include "graph/dtypes.def"
#undef D
};

/* Bytes of such a tensor; false when over 2^46. */
static bool data_bytes(int32_t dtype, int32_t rank, const int64_t *shape, int64_t *bytes) {
  bool over = false, empty = false;
  *bytes = es_dtype_bytes(dtype);
  for (int32_t axis = 0; axis < rank; axis++) {
    if (shape[axis] == 0) empty = true;
    else if (!over) over = __builtin_mul_overflow(*bytes, shape[axis], bytes) || *bytes > DATA_MAX;
  }
  if (empty) *bytes = 0;
  return empty || !over;
}

/* --- header --------------------------------------------------------------------------------- */

typedef struct reader {
  const char *at, *end, *path;
  es_error *err;
} reader;

static esper_status broken(const reader *r, const char *what) {
  return es_fail(r->err, ESPER_ECORRUPT, "%s: not a readable .npy file: %s", r->path, what);
}

static void blanks(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
    r->at++;
}

static bool next_is(reader *r, char c) {
  blanks(r);
  if (r->at == r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static bool word(reader *r, const char *text) {
  size_t length = strlen(text);
  blanks(r);
  if ((size_t)(r->end - r->at) < length || memcmp(r->at, text, length) != 0) return false;
  r->at += length;
  return true;
}

/* 'text' or "text" without escapes, at most room - 1 characters. */
static bool quoted(reader *r, char *text, size_t room) {
  blanks(r);
  if (r->at == r->end || (*r->at != '\'' && *r->at != '"')) return false;
  char quote = *r->at++;
  size_t length = 0;
  for (; r->at < r->end && *r->at != quote; r->at++) {
    if (*r->at == '\\' || length + 1 >= room) return false;
    text[length++] = *r->at;
  }
  if (r->at == r->end) return false;
  r->at++;
  text[length] = 0;
  return true;
}

static esper_status read_descr(reader *r, es_npy *out) {
  char descr[32];
  blanks(r);
  if (r->at < r->end && *r->at == '[')
    return es_fail(r->err, ESPER_EDTYPE, "%s: a structured dtype; save one field as a plain array",
                   r->path);
  if (!quoted(r, descr, sizeof descr)) return broken(r, "descr is no short text");
  if (descr[0] == '=') descr[0] = '<';
  if (descr[0] == '>')
    return es_fail(r->err, ESPER_EDTYPE, "%s: dtype %s is big-endian; save x.astype('<%s')",
                   r->path, descr, descr + 1);
  for (int32_t dtype = 0; dtype < ES_DTYPE_COUNT; dtype++) {
    const char *known = descrs[dtype];
    if (!*known) continue;
    if (strcmp(descr, known) == 0 ||
        (known[0] == '|' && descr[0] == '<' && strcmp(descr + 1, known + 1) == 0)) {
      out->dtype = dtype;
      return ESPER_OK;
    }
  }
  return es_fail(r->err, ESPER_EDTYPE,
                 "%s: dtype %s is none of Esper's; save x.astype('<f4') or another of its dtypes",
                 r->path, descr);
}

static esper_status read_order(reader *r) {
  if (word(r, "False")) return ESPER_OK;
  if (!word(r, "True")) return broken(r, "fortran_order is neither True nor False");
  return es_fail(r->err, ESPER_ESHAPE,
                 "%s: column-major (fortran_order); save numpy.ascontiguousarray(x)", r->path);
}

static bool read_extent(reader *r, int64_t *out) {
  blanks(r);
  const char *start = r->at;
  int64_t value = 0;
  for (; r->at < r->end && *r->at >= '0' && *r->at <= '9'; r->at++)
    if (__builtin_mul_overflow(value, 10, &value) ||
        __builtin_add_overflow(value, *r->at - '0', &value))
      return false;
  if (r->at == start) return false;
  if (r->at < r->end && *r->at == 'L') r->at++; /* Python 2 wrote 3L */
  *out = value;
  return true;
}

static esper_status read_shape(reader *r, es_npy *out) {
  if (!next_is(r, '(')) return broken(r, "shape is no tuple");
  out->rank = 0;
  while (!next_is(r, ')')) {
    if (out->rank == ES_RANK_MAX)
      return es_fail(r->err, ESPER_ESHAPE, "%s: over %d axes; reshape it before saving", r->path,
                     ES_RANK_MAX);
    if (!read_extent(r, &out->shape[out->rank++]))
      return broken(r, "shape holds something that is no extent");
    if (next_is(r, ',')) continue;
    if (!next_is(r, ')')) return broken(r, "shape is no tuple");
    if (out->rank == 1) return broken(r, "shape is a number in parentheses, not a tuple");
    return ESPER_OK;
  }
  return ESPER_OK;
}

static esper_status read_dict(reader *r, es_npy *out) {
  enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
  int seen = 0;
  if (!next_is(r, '{')) return broken(r, "the header is no dict");
  while (!next_is(r, '}')) {
    char key[32];
    if (!quoted(r, key, sizeof key) || !next_is(r, ':'))
      return broken(r, "the header has a bad key");
    int what = strcmp(key, "descr") == 0 ? DESCR : 0;
    if (strcmp(key, "fortran_order") == 0) what = ORDER;
    if (strcmp(key, "shape") == 0) what = SHAPE;
    if (!what || (seen & what)) return broken(r, "the header has an unknown or repeated key");
    seen |= what;
    esper_status status = ESPER_OK;
    if (what == DESCR) status = read_descr(r, out);
    if (what == ORDER) status = read_order(r);
    if (what == SHAPE) status = read_shape(r, out);
    if (status != ESPER_OK) return status;
    if (next_is(r, ',')) continue;
    if (!next_is(r, '}')) return broken(r, "the header dict does not end");
    break;
  }
  blanks(r);
  if (r->at != r->end) return broken(r, "something follows the header dict");
  if (seen != (DESCR | ORDER | SHAPE)) return broken(r, "descr, fortran_order or shape is missing");
  if (!data_bytes(out->dtype, out->rank, out->shape, &out->bytes))
    return es_fail(r->err, ESPER_ELIMIT, "%s: over 2^46 bytes of data", r->path);
  return ESPER_OK;
}

esper_status es_npy_parse(const void *bytes, size_t length, const char *path, es_npy *out,
                          es_error *err) {
  const uint8_t *b = bytes;
  reader r = { .path = path, .err = err };
  memset(out, 0, sizeof *out);
  if (length < PREFIX || memcmp(b, magic, sizeof magic - 1) != 0)
    return broken(&r, "it does not begin with \\x93NUMPY");
  if (b[6] < 1 || b[6] > 3) return broken(&r, "unknown format version");
  size_t field = b[6] == 1 ? 2 : 4, header = 0;
  if (length < PREFIX + field) return broken(&r, "cut short in the header");
  for (size_t i = 0; i < field; i++) header |= (size_t)b[PREFIX + i] << (8 * i);
  if (header > HEADER_MAX) return broken(&r, "the header is over 64 KiB");
  if (length - PREFIX - field < header) return broken(&r, "cut short in the header");
  r.at = (const char *)b + PREFIX + field;
  r.end = r.at + header;
  out->data_at = (int64_t)(PREFIX + field + header);
  return read_dict(&r, out);
}

/* --- reading -------------------------------------------------------------------------------- */

static esper_status system_failure(const char *path, const char *doing, es_error *err) {
  esper_status status = ESPER_EIO;
  if (errno == ENOENT) status = ESPER_ENOTFOUND;
  if (errno == ENOSPC || errno == EDQUOT) status = ESPER_ENOSPACE;
  return es_fail(err, status, "%s: cannot %s: %s", path, doing, strerror(errno));
}

/* Reads up to `bytes`, less only at the end of the file; -1 = failed. */
static int64_t read_all(int file, void *to, int64_t bytes, int64_t at) {
  int64_t done = 0;
  while (done < bytes) {
    ssize_t got = pread(file, (char *)to + done, (size_t)(bytes - done), at + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += got;
  }
  return done;
}

/* Opens, checks the kind of file, its header and its size. *file is open after success. */
static esper_status open_npy(const char *path, es_npy *out, int *file, es_error *err) {
  struct stat info;
  /* Not blocking, so that a pipe without a writer fails below and does not hang here. */
  *file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*file < 0) return system_failure(path, "open it", err);
  esper_status status = ESPER_OK;
  enum { HEAD = PREFIX + 4 + HEADER_MAX };
  uint8_t *head = es_alloc(HEAD);
  int64_t got = 0;
  if (!head) status = es_fail(err, ESPER_ENOMEM, "%s: no memory to read it", path);
  else if (fstat(*file, &info) != 0) status = system_failure(path, "read it", err);
  else if (!S_ISREG(info.st_mode)) status = es_fail(err, ESPER_EIO, "%s: not a regular file", path);
  else if ((got = read_all(*file, head, info.st_size < HEAD ? info.st_size : HEAD, 0)) < 0)
    status = system_failure(path, "read it", err);
  else status = es_npy_parse(head, (size_t)got, path, out, err);
  if (status == ESPER_OK && info.st_size - out->data_at != out->bytes) {
    int64_t there = info.st_size - out->data_at;
    status = es_fail(err, ESPER_ECORRUPT,
                     "%s: %s: expected %" PRId64 " bytes of data, got %" PRId64, path,
                     there < out->bytes ? "cut short" : "trailing bytes", out->bytes, there);
  }
  es_free(head);
  if (status == ESPER_OK) return status;
  close(*file);
  *file = -1;
  return status;
}

static esper_status read_data(int file, const char *path, const es_npy *npy, void *data,
                              es_error *err) {
  int64_t got = read_all(file, data, npy->bytes, npy->data_at);
  if (got < 0) return system_failure(path, "read it", err);
  if (got < npy->bytes)
    return es_fail(err, ESPER_ECORRUPT, "%s: cut short while it was read", path);
  return ESPER_OK;
}

esper_status es_npy_read(const char *path, es_npy *out, void **data, es_error *err) {
  int file;
  *data = NULL;
  esper_status status = open_npy(path, out, &file, err);
  if (status != ESPER_OK) return status;
  void *block = es_alloc((size_t)out->bytes);
  status = block ? read_data(file, path, out, block, err)
                 : es_fail(err, ESPER_ENOMEM, "%s: no memory for its %" PRId64 " bytes", path,
                           out->bytes);
  close(file);
  if (status == ESPER_OK) *data = block;
  else es_free(block);
  return status;
}

/* "(3, 4)", "(3,)", "()": a Python tuple. */
static void shape_text(es_text *text, int32_t rank, const int64_t *shape) {
  es_text_add(text, "(");
  for (int32_t axis = 0; axis < rank; axis++)
    es_text_add(text, "%s%" PRId64, axis ? ", " : "", shape[axis]);
  es_text_add(text, rank == 1 ? ",)" : ")");
}

static esper_status check_same(const char *path, const es_npy *npy, int32_t dtype, int32_t rank,
                               const int64_t *shape, es_error *err) {
  if (npy->dtype != dtype)
    return es_fail(err, ESPER_EDTYPE, "%s: dtype: expected %s, got %s", path, es_dtype_name(dtype),
                   es_dtype_name(npy->dtype));
  if (npy->rank == rank && memcmp(npy->shape, shape, (size_t)rank * sizeof *shape) == 0)
    return ESPER_OK;
  es_text text = { 0 };
  es_text_add(&text, "expected ");
  shape_text(&text, rank, shape);
  es_text_add(&text, ", got ");
  shape_text(&text, npy->rank, npy->shape);
  es_fail(err, ESPER_ESHAPE, "%s: shape: %s", path, text.failed ? "differs" : text.bytes);
  es_text_clear(&text);
  return ESPER_ESHAPE;
}

esper_status es_npy_read_into(const char *path, int32_t dtype, int32_t rank, const int64_t *shape,
                              void *data, es_error *err) {
  es_npy npy;
  int file;
  esper_status status = open_npy(path, &npy, &file, err);
  if (status != ESPER_OK) return status;
  status = check_same(path, &npy, dtype, rank, shape, err);
  if (status == ESPER_OK) status = read_data(file, path, &npy, data, err);
  close(file);
  return status;
}

/* --- writing -------------------------------------------------------------------------------- */

static bool write_all(int file, const void *from, int64_t bytes) {
  while (bytes > 0) {
    ssize_t put = write(file, from, (size_t)bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return false;
    from = (const char *)from + put;
    bytes -= put;
  }
  return true;
}

/* Version 1 header, padded so that the data begins at a multiple of 64. Stays far below 64 KiB. */
static void header_text(es_text *text, int32_t dtype, int32_t rank, const int64_t *shape) {
  es_text_bytes(text, magic, sizeof magic - 1);
  es_text_bytes(text, "\x01\0\0\0", 4);
  es_text_add(text, "{'descr': '%s', 'fortran_order': False, 'shape': ", descrs[dtype]);
  shape_text(text, rank, shape);
  es_text_add(text, ", }");
  while (!text->failed && (text->length + 1) % ALIGNMENT) es_text_add(text, " ");
  es_text_add(text, "\n");
  if (text->failed) return;
  size_t header = text->length - PREFIX - 2;
  text->bytes[PREFIX] = (char)(header & 0xff);
  text->bytes[PREFIX + 1] = (char)(header >> 8);
}

static esper_status write_file(const char *temp, const char *path, const es_text *head,
                               const void *data, int64_t bytes, es_error *err) {
  int file = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (file < 0) return system_failure(path, "create a file beside it", err);
  esper_status status = ESPER_OK;
  if (!write_all(file, head->bytes, (int64_t)head->length) || !write_all(file, data, bytes))
    status = system_failure(path, "write it", err);
  if (close(file) != 0 && status == ESPER_OK) status = system_failure(path, "write it", err);
  if (status == ESPER_OK && rename(temp, path) != 0)
    status = system_failure(path, "replace it", err);
  if (status != ESPER_OK) unlink(temp);
  return status;
}

esper_status es_npy_write(const char *path, int32_t dtype, int32_t rank, const int64_t *shape,
                          const void *data, es_error *err) {
  static atomic_uint serial; /* with the process number: a name nobody else writes to */
  int64_t bytes;
  if (dtype < 0 || dtype >= ES_DTYPE_COUNT || !*descrs[dtype])
    return es_fail(err, ESPER_EDTYPE, "%s: NumPy has no dtype %s; cast to f32 first", path,
                   es_dtype_name(dtype));
  if (rank < 0 || rank > ES_RANK_MAX || !data_bytes(dtype, rank, shape, &bytes))
    return es_fail(err, ESPER_ELIMIT, "%s: over 2^46 bytes or 8 axes", path);
  es_text head = { 0 }, temp = { 0 };
  header_text(&head, dtype, rank, shape);
  es_text_add(&temp, "%s.%ld.%u.tmp", path, (long)getpid(), atomic_fetch_add(&serial, 1));
  esper_status status = head.failed || temp.failed
                            ? es_fail(err, ESPER_ENOMEM, "%s: no memory to write it", path)
                            : write_file(temp.bytes, path, &head, data, bytes, err);
  es_text_clear(&head);
  es_text_clear(&temp);
  return status;
}
