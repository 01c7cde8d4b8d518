/* Esper: blueprints in, certified native kernels out. This is the only header a host needs.
 *
 * Conventions. Every fallible call returns esper_status and puts its result into the last argument, which is NULL/0 on
 * failure. esper_context_message() tells, in one line, what the last failed call on that context met and what to do.
 * The library keeps no state a host can see, prints nothing, installs no signal handler and never exits.
 * A context, and everything made from it except kernels, is used from one thread at a time; esper_kernel_run may be
 * called on one kernel from many threads. Strings are UTF-8. Several contexts may live in one process. */
#ifndef ESPER_H
#define ESPER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define ESPER_VERSION_MAJOR 0
#define ESPER_VERSION_MINOR 1
#define ESPER_VERSION_PATCH 0
#define ESPER_VERSION "0.1.0"
#if defined(__GNUC__)
#define ESPER_API __attribute__((visibility("default")))
#else
#define ESPER_API
#endif

/* Every result a call can have: S(name, value, text). */
#define ESPER_STATUS_LIST(S) \
  S(OK, 0, "ok") \
  S(EARG, 1, "bad argument") \
  S(ENOMEM, 2, "out of memory") \
  S(ESYNTAX, 3, "text cannot be parsed") \
  S(EOP, 4, "unknown op or wrong number of inputs") \
  S(EATTR, 5, "bad attribute or hyper-parameter") \
  S(ESHAPE, 6, "shapes do not fit") \
  S(EDTYPE, 7, "wrong dtype") \
  S(ENAME, 8, "missing, unknown or duplicate name") \
  S(ELIMIT, 9, "over a limit") \
  S(EBLUEPRINT, 10, "blueprint has errors") \
  S(ESANDBOX, 11, "blueprint stopped by the sandbox") \
  S(ECOMPILE, 12, "compilation failed") \
  S(ECERT, 13, "kernel refused by its certificate") \
  S(EINDEX, 14, "index out of range while running") \
  S(EIO, 15, "file or store cannot be read or written") \
  S(ENOSPACE, 16, "no space left on the device") \
  S(ECORRUPT, 17, "stored bytes fail their check") \
  S(ENOTFOUND, 18, "not found") \
  S(ETORCH, 19, "libtorch is not available or refused") \
  S(EINTERNAL, 20, "defect inside Esper")

typedef enum esper_status {
#define ESPER_STATUS_ROW(name, value, text) ESPER_##name = value,
  ESPER_STATUS_LIST(ESPER_STATUS_ROW)
#undef ESPER_STATUS_ROW
} esper_status;

/* DLPack 1.x, the published ABI (dmlc/dlpack), declared here unless the host included its own copy. */
#ifndef DLPACK_DLPACK_H_
#define DLPACK_DLPACK_H_
typedef struct { uint32_t major, minor; } DLPackVersion;
typedef enum { kDLCPU = 1, kDLCUDA = 2 } DLDeviceType;
typedef struct { DLDeviceType device_type; int32_t device_id; } DLDevice;
typedef enum {
  kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLOpaqueHandle = 3U, kDLBfloat = 4U, kDLComplex = 5U, kDLBool = 6U
} DLDataTypeCode;
typedef struct { uint8_t code, bits; uint16_t lanes; } DLDataType;
typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides; /* in elements; NULL = compact row-major */
  uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
  DLTensor dl_tensor;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;
#define DLPACK_FLAG_BITMASK_READ_ONLY (1UL << 0UL)
typedef struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(struct DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
} DLManagedTensorVersioned;
#endif

ESPER_API const char *esper_version(void);                    /* "0.1.0"; static */
ESPER_API const char *esper_status_text(esper_status status); /* static */

/* Context: Lua states, store handle, thread pool, last message. */
typedef struct esper_context esper_context;
typedef struct esper_options {
  size_t struct_size;    /* sizeof(esper_options) */
  const char *store;     /* store directory; NULL = $ESPER_STORE, else $XDG_CACHE_HOME/esper, else ~/.cache/esper; "" = none */
  const char *lua_dir;   /* read Lua, kernels and blueprints from this tree; NULL = $ESPER_LUA_DIR, else the embedded copy */
  int32_t threads;       /* threads a kernel may use; 0 = all cores */
  void *(*realloc_hook)(void *user, void *old, size_t bytes); /* NULL = the C library's; process-wide, first context decides */
  void *realloc_user;
} esper_options;
/* options NULL = defaults. Errors: ENOMEM, EARG. */
ESPER_API esper_status esper_context_new(const esper_options *options, esper_context **out);
ESPER_API void esper_context_free(esper_context *context); /* NULL is fine; kernels made from it stay valid */
ESPER_API const char *esper_context_message(const esper_context *context); /* valid until the next call on the context */

/* Kernel: a compiled, certified blueprint. Counted; outlives its context. */
typedef struct esper_kernel esper_kernel;
typedef struct esper_compile_options {
  size_t struct_size;    /* sizeof(esper_compile_options) */
  const char *set;       /* hyper-parameters "dim=64 expand=4", NULL = the blueprint's defaults */
  const char *mode;      /* "eval" (default) or "train" */
  const char *dtype;     /* "f32" (default) or "f64" */
  bool uncertified;      /* false: a kernel without a passing certificate is proved first (seconds, once); true: it is not */
  const char *size;      /* "batch=1 tokens=128": extents of the runs to come, as far as known, for what `esper tune` found for
                          * such (NULL: for usual ones). The kernel takes any */
} esper_compile_options;
/* blueprint: catalogue name ("transformer/mlp") or path of a .lua file, which runs in the sandbox. options NULL = defaults.
 * From the store when it holds the key, else compiled and stored.
 * Errors: ENOTFOUND EBLUEPRINT ESANDBOX EATTR ECOMPILE ECERT EIO ENOMEM ... */
ESPER_API esper_status esper_compile(esper_context *context, const char *blueprint,
                                     const esper_compile_options *options, esper_kernel **out);
ESPER_API esper_kernel *esper_kernel_retain(esper_kernel *kernel);
ESPER_API void esper_kernel_release(esper_kernel *kernel); /* NULL is fine */

/* Signature. Names and the info's strings live as long as the kernel. */
typedef enum esper_role { ESPER_INPUT, ESPER_PARAM, ESPER_BUFFER, ESPER_OUTPUT } esper_role;
typedef struct esper_info {
  const char *name;      /* as in the blueprint */
  const char *shape;     /* "batch, tokens, 384" */
  int32_t rank;
  DLDataType dtype;
} esper_info;
ESPER_API int32_t esper_kernel_count(const esper_kernel *kernel, esper_role role);
ESPER_API esper_status esper_kernel_info(const esper_kernel *kernel, esper_role role, int32_t index, esper_info *out);

/* Parameters and buffers of one kernel: one tensor each. Not thread-safe while being changed (training-mode runs update
 * buffers). Freed with esper_params_free. */
typedef struct esper_params esper_params;
ESPER_API esper_status esper_params_new(esper_context *context, const esper_kernel *kernel, uint64_t seed, esper_params **out);
ESPER_API void esper_params_free(esper_params *params);
/* One NAME.npy per parameter and buffer. Load refuses missing files and wrong dtype, order or shape; nothing changes then. */
ESPER_API esper_status esper_params_load(esper_context *context, esper_params *params, const char *directory);
ESPER_API esper_status esper_params_save(esper_context *context, const esper_params *params, const char *directory);
/* For inference: promises that parameters and buffers stay as they are, so that a kernel may keep what it makes of them (weights in
 * the order its loops read them) from run to run. Takes memory of about the weights' size in every kernel that runs on them, per
 * thread that runs at once; results are as right, to the last bit they may differ. esper_params_get, esper_params_load and
 * training-mode runs end it. */
ESPER_API esper_status esper_params_freeze(esper_params *params); /* EARG for NULL */
/* Borrowed view of one tensor (data may be changed; not after the next freeze); valid until the params are freed. */
ESPER_API esper_status esper_params_get(esper_params *params, const char *name, DLTensor *out);

typedef struct esper_run_options {
  size_t struct_size;
  uint64_t seed, step;   /* of dropout and noise; the same pair draws the same numbers */
} esper_run_options;
/* inputs: one DLTensor per input, in signature order; any strides (non-compact ones are packed first).
 * outputs: one slot per output; a NULL slot is filled with a new tensor the caller frees through its deleter, a given one
 * must be compact, writable, of the right shape and dtype, and must not overlap an input. Until the call returns, outputs may
 * hold anything: kernels keep other values there until they write the results.
 * Allocates nothing after the first run of a shape when outputs are given. options NULL = seed 0, step 0.
 * Errors (text in `message`, which may be NULL): ESHAPE EDTYPE EARG EINDEX ENOMEM. Thread: any. */
ESPER_API esper_status esper_kernel_run(esper_kernel *kernel, esper_params *params, const DLTensor *inputs, int32_t input_count,
                                        DLManagedTensor **outputs, int32_t output_count,
                                        const esper_run_options *options, char *message, size_t message_room);
#ifdef __cplusplus
}
#endif
#endif
