/* Instruction sets: their names, vector widths, lowerings, and which one this processor gets.
 * Invariant: es_isa_best never names an ISA that the processor lacks or that has no lowering. */
#include <stdlib.h>
#include <string.h>

#include "vec/block.h"

static bool always(void) { return true; }

/* The compiler's own reading of CPUID and XCR0, not libcpuinfo: a shared libcpuinfo of another version in the process is
 * what a libtorch with its own copy would then call, and it ran without AVX (seen). */
#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static bool has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
static bool has_avx2(void) { return false; }
static bool has_avx512(void) { return false; }
#endif

static const struct isa {
  const char *name;
  int32_t vector_bytes; /* 0: one element at a time */
  bool (*supported)(void);
  es_vec_lowering *lowering;
} isas[ES_ISA_COUNT] = {
    [ES_ISA_scalar] = {"scalar", 0, always, es_vec_lower_c},
    [ES_ISA_avx2] = {"avx2", 32, has_avx2, es_vec_lower_x86},
    [ES_ISA_avx512] = {"avx512", 64, has_avx512, es_vec_lower_x86},
};

static const struct isa *find(int32_t isa) {
  return isa >= 0 && isa < ES_ISA_COUNT ? &isas[isa] : NULL;
}

es_isa es_isa_best(void) {
  const char *cap = getenv("ESPER_ISA");
  int32_t isa = ES_ISA_COUNT - 1;
  if (cap && *cap) isa = es_isa_named(cap);
  for (; isa > ES_ISA_scalar; isa--)
    if (isas[isa].lowering && isas[isa].supported()) return (es_isa)isa;
  return ES_ISA_scalar;
}

const char *es_isa_name(es_isa isa) { return find((int32_t)isa) ? isas[isa].name : "unknown"; }

int32_t es_isa_named(const char *name) {
  for (int32_t isa = 0; isa < ES_ISA_COUNT; isa++)
    if (strcmp(isas[isa].name, name) == 0) return isa;
  return -1;
}

bool es_isa_supported(int32_t isa) { return find(isa) && isas[isa].supported(); }

int32_t es_isa_lanes(es_isa isa, int32_t element_bytes) {
  bool vectors = find((int32_t)isa) && isas[isa].vector_bytes > 0 &&
                 (element_bytes == 4 || element_bytes == 8);
  return vectors ? isas[isa].vector_bytes / element_bytes : 1;
}

es_vec_lowering *es_isa_lowering(es_isa isa) {
  return find((int32_t)isa) ? isas[isa].lowering : NULL;
}
