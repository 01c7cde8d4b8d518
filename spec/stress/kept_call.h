/* A call that checks what a function must leave alone. Used by vec_fuzz. */
#ifndef STRESS_KEPT_CALL_H
#define STRESS_KEPT_CALL_H
#include <stdbool.h>
#include <stdint.h>

#include "vec/vec.h"

/* Calls run(words); false when a register that belongs to the caller changed, or the upper halves of vector registers are
 * in use afterwards, which slows down the caller's SSE code. */
#ifdef __x86_64__
bool call_kept(void (*run)(const int64_t *), const int64_t *words, void *uppers);
__asm__(".text\n.globl call_kept\ncall_kept:\n"
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rdx\n"
        "mov %rdi, %rax\nmov %rsi, %rdi\n"
        "mov $101, %ebx\nmov $102, %ebp\nmov $103, %r12d\nmov $104, %r13d\nmov $105, %r14d\nmov $106, %r15d\n"
        "call *%rax\npop %rdx\ntest %rdx, %rdx\njz 1f\n"
        "vmovups %ymm0, (%rdx)\nvmovups %ymm1, 32(%rdx)\nvmovups %ymm2, 64(%rdx)\nvmovups %ymm7, 96(%rdx)\n"
        "vmovups %ymm12, 128(%rdx)\nvmovups %ymm13, 160(%rdx)\nvmovups %ymm14, 192(%rdx)\nvmovups %ymm15, 224(%rdx)\n"
        "1: xor $101, %rbx\nxor $102, %rbp\nxor $103, %r12\nxor $104, %r13\nxor $105, %r14\nxor $106, %r15\n"
        "or %rbp, %rbx\nor %r12, %rbx\nor %r13, %rbx\nor %r14, %rbx\nor %r15, %rbx\nsetz %al\nmovzbl %al, %eax\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");

static bool call(void (*run)(const int64_t *), const int64_t *words) {
  uint64_t uppers[8][4] = { { 0 } }, any = 0;
  bool kept = call_kept(run, words, es_isa_supported(ES_ISA_avx2) ? uppers : NULL);
  for (int32_t i = 0; i < 8; i++) any |= uppers[i][2] | uppers[i][3];
  return kept && any == 0;
}
#else
static bool call(void (*run)(const int64_t *), const int64_t *words) {
  run(words);
  return true;
}
#endif
#endif
