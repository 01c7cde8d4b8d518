/* NumPy's .npy files: read versions 1 to 3, write version 1. How tensors come from and go to disk (params, the command).
 * Format: numpy/lib/format.py, "Format Version 1.0": magic, version, header length, a Python dict literal
 * {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } padded with blanks and ended by a newline, then the data.
 * Files are taken as hostile: nothing is believed before it is checked, the data must be there to the byte. */
#ifndef ES_NPY_H
#define ES_NPY_H
#include "graph/graph.h"

typedef struct es_npy {
  int32_t dtype, rank;
  int64_t shape[ES_RANK_MAX];
  int64_t bytes;           /* of the data */
  int64_t data_at;         /* offset of the data in the file */
} es_npy;

/* The header alone, from the first `length` bytes of a file (all of it is not needed). `path` is for messages.
 * Errors: ECORRUPT not .npy or a broken header; EDTYPE dtype or byte order; ESHAPE column-major or over 8 axes; ELIMIT. */
esper_status es_npy_parse(const void *bytes, size_t length, const char *path, es_npy *out, es_error *err);

/* Reads a file: *data is new memory (es_free), row-major. Errors as parse, and ENOTFOUND; EIO cannot be read or is no
 * regular file; ECORRUPT cut short or with trailing bytes; ENOMEM. */
esper_status es_npy_read(const char *path, es_npy *out, void **data, es_error *err);
/* As read, of exactly this dtype and shape (else EDTYPE, ESHAPE), into memory of the caller, who must not use what is
 * there after a failure. */
esper_status es_npy_read_into(const char *path, int32_t dtype, int32_t rank, const int64_t *shape, void *data,
                              es_error *err);
/* Writes a new file and renames it over `path`, so a reader sees the old or the new one. Errors: EDTYPE (bf16 has no
 * NumPy name), EIO, ENOSPACE, ELIMIT, ENOMEM. */
esper_status es_npy_write(const char *path, int32_t dtype, int32_t rank, const int64_t *shape, const void *data,
                          es_error *err);
#endif
