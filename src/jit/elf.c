/* ELF64 x86-64 relocatable object -> image bytes. Between libtcc (or the store) and sealed memory
 * (image.c). The bytes may come from a damaged file, so nothing in them is believed: every offset,
 * size, index, alignment and name is checked against the buffer before use, in arithmetic that
 * cannot overflow.
 * Invariant of the result: position-independent; every reference stays inside the image or goes
 * through a stub to a function on the allow-list. The image is mapped read-only, so .data holds
 * constants or faults when written. */
#include "jit/elf.h"

#include <elf.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum {
  SECTIONS_MAX = 64,
  ALIGN_MAX = 4096,      /* images start on a page */
  IMAGE_MAX = 256 << 20, /* so that every PC32 distance inside an image fits */
  STUB_BYTES = 16,
};

/* --- functions an object may call --- */

/* What libtcc calls for unsigned 64-bit to floating conversions, else in its support library. */
static float u64_to_float(uint64_t value) { return (float)value; }
static double u64_to_double(uint64_t value) { return (double)value; }

typedef void (*any_function)(void);
static const struct external {
  const char *name;
  any_function function;
} externals[] = {
    {"memcpy", (any_function)memcpy},
    {"memmove", (any_function)memmove},
    {"memset", (any_function)memset},
    {"sqrtf", (any_function)sqrtf},
    {"sqrt", (any_function)sqrt},
    {"fmaf", (any_function)fmaf},
    {"fma", (any_function)fma},
    {"rintf", (any_function)rintf},
    {"rint", (any_function)rint},
    {"__floatundisf", (any_function)u64_to_float},
    {"__floatundidf", (any_function)u64_to_double},
};
enum { EXTERNALS = sizeof externals / sizeof *externals };

static int find_external(const char *name) {
  for (int i = 0; i < EXTERNALS; i++)
    if (strcmp(externals[i].name, name) == 0) return i;
  return -1;
}

/* --- the object, as far as it has been checked --- */

typedef struct object {
  const uint8_t *bytes;
  size_t length;
  Elf64_Shdr section[SECTIONS_MAX];
  size_t section_count;
  size_t text, symtab, rela;  /* section numbers; rela 0 = there is none */
  bool placed[SECTIONS_MAX];  /* section is part of the image ... */
  size_t place[SECTIONS_MAX]; /* ... at this offset */
  size_t image_length;        /* sections and stubs */
  size_t stub[EXTERNALS];     /* offset of each stub in use, 0 = not in use */
  uint64_t relocated;         /* .text below here has been relocated */
  const char *strings;        /* symbol names */
  size_t strings_length, symbol_count;
  es_error *err;
} object;

#define BAD(o, ...) es_fail((o)->err, ESPER_ECORRUPT, "object code: " __VA_ARGS__)

/* Is [offset, offset + size) inside a block of `length` bytes? */
static bool inside(uint64_t offset, uint64_t size, uint64_t length) {
  return offset <= length && size <= length - offset;
}

/* A string table ends with 0, so that every offset below its length starts a terminated string. */
static esper_status string_table(object *o, uint64_t index, const char **strings, size_t *length) {
  if (index == 0 || index >= o->section_count || o->section[index].sh_type != SHT_STRTAB)
    return BAD(o, "section %llu is no string table", (unsigned long long)index);
  const Elf64_Shdr *s = &o->section[index];
  if (s->sh_size == 0 || o->bytes[s->sh_offset + s->sh_size - 1] != 0)
    return BAD(o, "string table %llu does not end with 0", (unsigned long long)index);
  *strings = (const char *)o->bytes + s->sh_offset;
  *length = s->sh_size;
  return ESPER_OK;
}

static esper_status read_header(object *o, Elf64_Ehdr *h) {
  static const uint8_t ident[] = {ELFMAG0, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
  if (o->length < sizeof *h) return BAD(o, "%zu bytes are too few for a header", o->length);
  memcpy(h, o->bytes, sizeof *h);
  if (memcmp(h->e_ident, ident, sizeof ident) != 0 || h->e_type != ET_REL ||
      h->e_machine != EM_X86_64)
    return BAD(o, "not an x86-64 ELF relocatable");
  if (h->e_shentsize != sizeof(Elf64_Shdr) || h->e_shnum == 0 || h->e_shnum > SECTIONS_MAX)
    return BAD(o, "%u sections of %u bytes; want 1 to %d of %zu", h->e_shnum, h->e_shentsize,
               SECTIONS_MAX, sizeof(Elf64_Shdr));
  o->section_count = h->e_shnum;
  if (!inside(h->e_shoff, o->section_count * sizeof(Elf64_Shdr), o->length))
    return BAD(o, "section table outside the file");
  memcpy(o->section, o->bytes + h->e_shoff, o->section_count * sizeof(Elf64_Shdr));
  for (size_t i = 1; i < o->section_count; i++) {
    const Elf64_Shdr *s = &o->section[i];
    if (s->sh_type != SHT_NOBITS && s->sh_type != SHT_NULL &&
        !inside(s->sh_offset, s->sh_size, o->length))
      return BAD(o, "section %zu outside the file", i);
  }
  return ESPER_OK;
}

static bool is_constants(const char *name) {
  return strcmp(name, ".data") == 0 || strncmp(name, ".rodata", 7) == 0 ||
         strncmp(name, ".data.ro", 8) == 0;
}

/* Gives a section of the image its place behind the ones before it. */
static esper_status place_section(object *o, size_t i) {
  const Elf64_Shdr *s = &o->section[i];
  uint64_t align = s->sh_addralign ? s->sh_addralign : 1;
  if (align > ALIGN_MAX || (align & (align - 1)) != 0)
    return BAD(o, "section %zu wants alignment %llu; the most is %d", i, (unsigned long long)align,
               ALIGN_MAX);
  size_t start =
      (o->image_length + align - 1) & ~(size_t)(align - 1); /* image_length <= IMAGE_MAX */
  if (s->sh_size > IMAGE_MAX || start > IMAGE_MAX - s->sh_size)
    return BAD(o, "over %d bytes of code", IMAGE_MAX);
  o->placed[i] = true;
  o->place[i] = start;
  o->image_length = start + s->sh_size;
  return ESPER_OK;
}

static esper_status read_alloc_section(object *o, size_t i, const char *name) {
  const Elf64_Shdr *s = &o->section[i];
  bool code = (s->sh_flags & SHF_EXECINSTR) != 0;
  if (s->sh_flags & SHF_TLS) return BAD(o, "section %s is thread-local", name);
  if (s->sh_type == SHT_NOBITS)
    return s->sh_size == 0 ? ESPER_OK
                           : BAD(o, "section %s holds variables; kernels have none", name);
  if (s->sh_type != SHT_PROGBITS || code != (strcmp(name, ".text") == 0) ||
      (!code && !is_constants(name)))
    return BAD(o, "section %.40s is none of .text .data .rodata .data.ro", name);
  if (code && o->text) return BAD(o, "two .text sections");
  if (code) o->text = i;
  return place_section(o, i);
}

static esper_status read_sections(object *o, uint64_t name_table) {
  const char *names;
  size_t names_length;
  esper_status status = string_table(o, name_table, &names, &names_length);
  for (size_t i = 1; i < o->section_count && status == ESPER_OK; i++) {
    const Elf64_Shdr *s = &o->section[i];
    if (s->sh_name >= names_length) return BAD(o, "name of section %zu outside its table", i);
    if (s->sh_type == SHT_SYMTAB && o->symtab) return BAD(o, "two symbol tables");
    if (s->sh_type == SHT_SYMTAB) o->symtab = i;
    if (s->sh_flags & SHF_ALLOC) status = read_alloc_section(o, i, names + s->sh_name);
  }
  if (status == ESPER_OK && (!o->text || !o->symtab))
    status = BAD(o, "no .text or no symbol table");
  return status;
}

/* Relocations: one table, for .text. Constants that hold addresses would need others, and are
 * refused. */
static esper_status find_relocations(object *o) {
  for (size_t i = 1; i < o->section_count; i++) {
    const Elf64_Shdr *s = &o->section[i];
    if (s->sh_type == SHT_REL) return BAD(o, "section %zu: relocations without addends", i);
    if (s->sh_type != SHT_RELA || s->sh_size == 0) continue;
    if (s->sh_info >= o->section_count)
      return BAD(o, "section %zu relocates section %u, which does not exist", i, s->sh_info);
    if (!o->placed[s->sh_info]) continue; /* debug information */
    if (s->sh_info != o->text)
      return BAD(o, "section %u holds addresses; kernels hold none", s->sh_info);
    if (o->rela) return BAD(o, "two relocation tables for .text");
    if (s->sh_entsize != sizeof(Elf64_Rela) || s->sh_size % sizeof(Elf64_Rela) != 0 ||
        s->sh_link != o->symtab)
      return BAD(o, "relocation table %zu is malformed", i);
    o->rela = i;
  }
  return ESPER_OK;
}

/* --- symbols --- */

static Elf64_Sym read_symbol(const object *o, size_t index) {
  Elf64_Sym symbol;
  memcpy(&symbol, o->bytes + o->section[o->symtab].sh_offset + index * sizeof symbol,
         sizeof symbol);
  return symbol;
}

static esper_status check_symbol(object *o, size_t index) {
  Elf64_Sym s = read_symbol(o, index);
  if (s.st_name >= o->strings_length) return BAD(o, "name of symbol %zu outside its table", index);
  const char *name = o->strings + s.st_name;
  int type = ELF64_ST_TYPE(s.st_info), bind = ELF64_ST_BIND(s.st_info);
  if (type == STT_FILE && bind == STB_LOCAL)
    return ESPER_OK; /* carries no address; never relocated against */
  if (type > STT_SECTION || bind > STB_GLOBAL)
    return BAD(o, "symbol %.40s is of a kind kernels do not have", name);
  if (s.st_shndx == SHN_UNDEF) {
    int external = find_external(name);
    if (external < 0)
      return BAD(o, "symbol \"%.40s\" is not among the functions a kernel may call", name);
    if (!o->stub[external]) {
      o->image_length = (o->image_length + STUB_BYTES - 1) & ~(size_t)(STUB_BYTES - 1);
      o->stub[external] = o->image_length; /* not 0: .text comes first and is not empty */
      o->image_length += STUB_BYTES;
    }
    return ESPER_OK;
  }
  if (s.st_shndx >= o->section_count) return BAD(o, "symbol %.40s is in no section", name);
  if (o->placed[s.st_shndx] && s.st_value > o->section[s.st_shndx].sh_size)
    return BAD(o, "symbol %.40s lies outside its section", name);
  return ESPER_OK;
}

static esper_status check_symbols(object *o) {
  const Elf64_Shdr *s = &o->section[o->symtab];
  if (s->sh_entsize != sizeof(Elf64_Sym) || s->sh_size % sizeof(Elf64_Sym) != 0)
    return BAD(o, "symbol table is malformed");
  if (o->section[o->text].sh_size == 0) return BAD(o, ".text is empty");
  o->symbol_count = s->sh_size / sizeof(Elf64_Sym);
  esper_status status = string_table(o, s->sh_link, &o->strings, &o->strings_length);
  for (size_t i = 1; i < o->symbol_count && status == ESPER_OK; i++) status = check_symbol(o, i);
  return status;
}

/* Global functions of .text; `out` may be NULL to count them. */
static size_t collect_functions(const object *o, const char *names, es_function *out) {
  size_t count = 0;
  for (size_t i = 1; i < o->symbol_count; i++) {
    Elf64_Sym s = read_symbol(o, i);
    if (s.st_info != ELF64_ST_INFO(STB_GLOBAL, STT_FUNC) || s.st_shndx != o->text) continue;
    if (s.st_value >= o->section[o->text].sh_size) continue; /* an end mark */
    if (out) out[count] = (es_function){names + s.st_name, o->place[o->text] + s.st_value};
    count++;
  }
  return count;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const es_function *)a)->name, ((const es_function *)b)->name);
}

static esper_status list_functions(object *o, es_layout *out) {
  out->function_count = collect_functions(o, NULL, NULL);
  out->names = es_alloc(o->strings_length);
  out->functions = es_alloc_array(out->function_count + 1, sizeof *out->functions);
  if (!out->names || !out->functions)
    return es_fail(o->err, ESPER_ENOMEM, "object code: out of memory");
  memcpy(out->names, o->strings, o->strings_length);
  collect_functions(o, out->names, out->functions);
  qsort(out->functions, out->function_count, sizeof *out->functions, by_name);
  for (size_t i = 1; i < out->function_count; i++)
    if (by_name(&out->functions[i - 1], &out->functions[i]) == 0)
      return BAD(o, "function %.40s is defined twice", out->functions[i].name);
  return ESPER_OK;
}

/* --- the image --- */

static void write_stubs(const object *o, uint8_t *image) {
  static const uint8_t jump[] = {
      0xFF, 0x25, 2, 0, 0, 0, 0xCC, 0xCC}; /* jmp *2(%rip), then padding up to the address */
  for (int i = 0; i < EXTERNALS; i++) {
    if (!o->stub[i]) continue;
    memcpy(image + o->stub[i], jump, sizeof jump);
    memcpy(image + o->stub[i] + sizeof jump, &externals[i].function, sizeof externals[i].function);
  }
}

static esper_status relocate_one(object *o, uint8_t *image, const Elf64_Rela *r) {
  uint64_t type = ELF64_R_TYPE(r->r_info), index = ELF64_R_SYM(r->r_info);
  if (type != R_X86_64_PC32 && type != R_X86_64_PLT32)
    return BAD(o, "relocation of type %llu", (unsigned long long)type);
  if (!inside(r->r_offset, 4, o->section[o->text].sh_size))
    return BAD(o, "relocation outside .text");
  if (r->r_offset < o->relocated) /* the second of two that overlap would change what the first made */
    return BAD(o, "relocations overlap or go backwards");
  o->relocated = r->r_offset + 4;
  if (index == 0 || index >= o->symbol_count)
    return BAD(o, "relocation against symbol %llu", (unsigned long long)index);
  Elf64_Sym s = read_symbol(o, index);
  size_t target;
  if (s.st_shndx == SHN_UNDEF) {
    int external = find_external(o->strings + s.st_name);
    if (external < 0 || !o->stub[external])
      return BAD(o, "relocation against a symbol without an address");
    target = o->stub[external];
  } else {
    if (s.st_shndx >= o->section_count || !o->placed[s.st_shndx] ||
        ELF64_ST_TYPE(s.st_info) == STT_FILE)
      return BAD(o, "relocation against a symbol outside the image");
    target = o->place[s.st_shndx] + s.st_value;
  }
  /* The place is 4 bytes before the address the processor adds to; the addend allows for that. */
  int64_t reached;
  if (__builtin_add_overflow((int64_t)target + 4, r->r_addend, &reached) || reached < 0 ||
      reached > (int64_t)o->image_length)
    return BAD(o, "reference to outside the image");
  size_t place = o->place[o->text] + r->r_offset;
  int32_t distance = (int32_t)(reached - 4 - (int64_t)place); /* both below IMAGE_MAX */
  memcpy(image + place, &distance, sizeof distance);
  return ESPER_OK;
}

static esper_status build_image(object *o, es_layout *out) {
  out->length = o->image_length;
  out->bytes = es_alloc(out->length);
  if (!out->bytes) return es_fail(o->err, ESPER_ENOMEM, "object code: out of memory");
  for (size_t i = 1; i < o->section_count; i++)
    if (o->placed[i] && o->section[i].sh_size > 0)
      memcpy(out->bytes + o->place[i], o->bytes + o->section[i].sh_offset, o->section[i].sh_size);
  write_stubs(o, out->bytes);
  size_t count = o->rela ? o->section[o->rela].sh_size / sizeof(Elf64_Rela) : 0;
  esper_status status = ESPER_OK;
  for (size_t i = 0; i < count && status == ESPER_OK; i++) {
    Elf64_Rela r;
    memcpy(&r, o->bytes + o->section[o->rela].sh_offset + i * sizeof r, sizeof r);
    status = relocate_one(o, out->bytes, &r);
  }
  return status;
}

esper_status es_elf_read(const void *bytes, size_t length, es_layout *out, es_error *err) {
  object o = {.bytes = bytes, .length = bytes ? length : 0, .err = err};
  Elf64_Ehdr header;
  *out = (es_layout){0};
  esper_status status = read_header(&o, &header);
  if (status == ESPER_OK) status = read_sections(&o, header.e_shstrndx);
  if (status == ESPER_OK) status = find_relocations(&o);
  if (status == ESPER_OK) status = check_symbols(&o);
  if (status == ESPER_OK) status = list_functions(&o, out);
  if (status == ESPER_OK) status = build_image(&o, out);
  if (status != ESPER_OK) es_layout_clear(out);
  return status;
}

void es_layout_clear(es_layout *layout) {
  es_free(layout->bytes);
  es_free(layout->functions);
  es_free(layout->names);
  *layout = (es_layout){0};
}
