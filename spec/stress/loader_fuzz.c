/* Stress: damaged object files. The loader must refuse each with ECORRUPT, or accept it with every function and every
 * reference inside its image; never crash, never read past the bytes, never leak.
 *     loader_fuzz N SEED [plant]      one line: name seed n fail metric
 * "plant" believes that the image is half as long as it is: the proof that an outside function is seen. */
#include <elf.h>
#include "base/memory.h"
#include "fuzz.h"
#include "jit/elf.h"
#include "jit/jit.h"

static const char unit[] =
    "void *memcpy(void *, const void *, unsigned long); double sqrt(double); float rintf(float);\n"
    "static const float table[] = { 1.5f, 2.5f, 3.5f };\n"
    "static double twice(double x) { return x * 2.25; }\n"
    "void first(const long *a, long lo, long hi) { for (long i = lo; i < hi; i++) ((double *)a[0])[i] = twice(sqrt(a[1])); }\n"
    "void second(float *y, const float *x) { memcpy(y, x, 8); y[1] = rintf(table[2] * y[0]); }\n"
    "double third(unsigned long n) { return n; }\n"
    "void block(const long *w);\n" /* as vector blocks are: code and constants in .text, on a line of their own */
    "__asm__(\".text\\n.p2align 6\\n.globl block\\nblock:\\n.quad 0x4800000039058b48,0xccccccccccc30789\\n\"\n"
    "\".p2align 6\\n.quad 0x1122334455667788\\n\");\n"
    "void fourth(const long *w) { block(w); }\n";

/* The relocated places of .text, when it is section 1 and so comes first in the image, lead inside the image. */
static bool references_inside(const uint8_t *bytes, size_t length, const es_layout *layout) {
  Elf64_Ehdr header;
  memcpy(&header, bytes, sizeof header);
  for (size_t i = 1; i < header.e_shnum; i++) {
    Elf64_Shdr section;
    memcpy(&section, bytes + header.e_shoff + i * sizeof section, sizeof section);
    if (section.sh_type != SHT_RELA || section.sh_info != 1 || section.sh_offset > length) continue;
    for (size_t k = 0; k < section.sh_size / sizeof(Elf64_Rela); k++) {
      Elf64_Rela r;
      int32_t distance;
      memcpy(&r, bytes + section.sh_offset + k * sizeof r, sizeof r);
      if (r.r_offset + 4 > layout->length) return false;
      memcpy(&distance, layout->bytes + r.r_offset, sizeof distance);
      int64_t reached = (int64_t)r.r_offset + 4 + distance;
      if (reached < 0 || reached > (int64_t)layout->length) return false;
    }
  }
  return true;
}

static bool text_first(const uint8_t *bytes) {
  Elf64_Ehdr header;
  Elf64_Shdr section;
  memcpy(&header, bytes, sizeof header);
  memcpy(&section, bytes + header.e_shoff + sizeof section, sizeof section);
  return (section.sh_flags & SHF_EXECINSTR) != 0;
}

static bool sound(const uint8_t *bytes, size_t length, const es_layout *layout, bool plant) {
  size_t image = plant ? layout->length / 2 : layout->length;
  for (size_t i = 0; i < layout->function_count; i++)
    if (layout->functions[i].offset >= image || strlen(layout->functions[i].name) > length) return false;
  return !text_first(bytes) || references_inside(bytes, length, layout);
}

int main(int argc, char **argv) {
  int64_t rounds, wrong = 0, accepted = 0;
  uint64_t seed;
  bool plant = argc > 3 && strcmp(argv[3], "plant") == 0;
  es_text object = { 0 };
  es_error err = { 0 };
  arguments(argc, argv, &rounds, &seed);
  if (es_jit_compile(unit, &object, &err)) {
    fprintf(stderr, "loader_fuzz: %s\n", err.text);
    return 1;
  }
  int64_t live = es_memory_live();
  for (int64_t n = 0; n < rounds; n++) {
    start_round(seed, n);
    uint8_t *damaged = exact(object.bytes, object.length);
    size_t length = mutate(damaged, object.length);
    uint8_t *bytes = exact(damaged, length);
    free(damaged);
    es_layout layout;
    es_code *code = NULL;
    err = (es_error){ 0 };
    if (es_elf_read(bytes, length, &layout, &err) == ESPER_OK) {
      accepted++;
      bool good = sound(bytes, length, &layout, plant);
      for (size_t i = 0; good && i < layout.function_count; i++) { /* what the image maker serves lies in it, too */
        if (i == 0 && es_code_load(bytes, length, &code, NULL)) good = false;
        good = good && es_code_symbol(code, layout.functions[i].name) != NULL;
      }
      wrong += !good;
      if (!good && !plant) fprintf(stderr, "loader_fuzz: round %lld accepted\n", (long long)n);
      es_code_release(code);
      es_layout_clear(&layout);
    } else if (err.status != ESPER_ECORRUPT || !err.text[0] || strchr(err.text, '\n')) {
      fprintf(stderr, "loader_fuzz: round %lld: status %d, text \"%s\"\n", (long long)n, err.status, err.text);
      wrong++;
    }
    free(bytes);
  }
  int64_t leaked = es_memory_live() - live;
  es_text_clear(&object);
  printf("loader_fuzz %llu %lld %lld accepted=%lld leaked=%lld\n", (unsigned long long)seed, (long long)rounds,
         (long long)wrong, (long long)accepted, (long long)leaked);
  return wrong || leaked || (rounds >= 1000 && (accepted == 0 || accepted == rounds));
}
