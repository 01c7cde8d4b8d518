/* libtorch behind a plain C table. libesper_torch.so (shim.cpp, the only C++ file) exports es_torch_table(); it is
 * dlopened on first use only, so a process that never asks never pays. Absent or broken = ETORCH, nothing else. */
#ifndef ES_TORCH_H
#define ES_TORCH_H
#include "graph/graph.h"

enum { ES_TORCH_ABI = 2 }; /* raised with any change of the two tables below, of es_node, or of the rows of ops.def */
typedef struct es_torch_program es_torch_program; /* a graph ready to be timed */
typedef struct es_torch {
  int32_t abi;
  const char *(*version)(void); /* "1.13.0"; static */
  /* Evaluates the graph with libtorch calls in the graph's own dtypes. data: one pointer per node index, given for inputs, params and
   * buffers (contiguous, node dtype, extents = evaluated shapes); results of root r are written to out[r] (contiguous).
   * symbols: values of the graph's symbols. threads: intra-op threads for this call, restored afterwards; 0 = as they are.
   * Returns esper_status; on failure one line in message. Only nodes some root needs are looked at. */
  int32_t (*run)(const es_graph *graph, const int64_t *symbols, void *const *data, void *const *out,
                 uint64_t seed, uint64_t step, int32_t threads, char *message, size_t room);
  int32_t (*threads)(int32_t count); /* sets intra-op threads, returns the former count; below 1 only asks */
  /* The yardstick of benchmarks: the graph as a user of PyTorch would write it in eager mode, under inference mode, with
   * libtorch's own composite calls (layer_norm, scaled_dot_product_attention...) and oneDNN, where `run` takes formulas that
   * can be held to the oracle's bounds. All that does not depend on the data is done here, once. data as for run; the
   * program borrows it until it is released. */
  int32_t (*prepare)(const es_graph *graph, const int64_t *symbols, void *const *data, es_torch_program **out,
                     char *message, size_t room);
  /* Executes `reps` times; ns: nanoseconds of each, result tensors made and dropped included. out: NULL, or as for run:
   * results of the last one. threads as for run; cpu as in run/measure.h. */
  int32_t (*replay)(es_torch_program *program, int32_t reps, int32_t threads, bool cpu, double *ns, void *const *out,
                    char *message, size_t room);
  void (*release)(es_torch_program *program); /* NULL is fine */
} es_torch;

/* Functions the shim needs from the library: handed over at load, so the shim links against libtorch alone. */
typedef struct es_torch_host {
  int32_t abi;
  int32_t (*graph_count)(const es_graph *);
  const es_node *(*graph_node)(const es_graph *, es_id);
  int32_t (*root_count)(const es_graph *);
  const es_root *(*root_get)(const es_graph *, int32_t);
  es_dims *(*graph_dims)(const es_graph *);
  int32_t (*dims_count)(const es_dims *);
  bool (*dims_eval)(const es_dims *, const int64_t *, int64_t *);
  void (*random_key)(uint64_t, uint32_t, uint64_t, uint32_t[2]);
  double (*random_uniform)(const uint32_t[2], uint64_t);
  double (*random_normal)(const uint32_t[2], uint64_t);
} es_torch_host;

/* What libesper_torch.so exports under ES_TORCH_ENTRY. NULL when the host's ABI is not its own. The host table must
 * stay valid for the life of the process. */
typedef const es_torch *(*es_torch_entry)(const es_torch_host *host);
#define ES_TORCH_ENTRY "es_torch_table"

/* Loads on first call. Search: $ESPER_TORCH (path of libesper_torch.so; nothing else is tried then), beside the
 * library or command, ../lib from there, the install libdir. NULL with ETORCH and the reason when not there; a later
 * call tries again. Thread-safe; the table lives for the process. */
const es_torch *es_torch_load(es_error *err);

/* es_torch.run behind es_torch_load, its message in err. Errors: ETORCH EARG ESHAPE EINDEX EDTYPE ENOMEM EINTERNAL. */
esper_status es_torch_run(const es_graph *graph, const int64_t *symbols, void *const *data, void *const *out,
                          uint64_t seed, uint64_t step, int32_t threads, es_error *err);
/* The program calls of the table, likewise. Of a program from prepare only: the shim is loaded then. */
esper_status es_torch_prepare(const es_graph *graph, const int64_t *symbols, void *const *data, es_torch_program **out,
                              es_error *err);
esper_status es_torch_replay(es_torch_program *program, int32_t reps, int32_t threads, bool cpu, double *ns,
                             void *const *out, es_error *err);
void es_torch_release(es_torch_program *program);
const char *es_torch_version(es_error *err); /* NULL when it cannot be loaded */
#endif
