/* The structure of an LMDB file (format 1, as 0.9 writes it), page by page. Runs in the child that examines a store in
 * doubt, before LMDB itself walks the file: LMDB follows whatever a page says, and also trusts parts that a walk over
 * the records never touches (the list of free pages, the counts), which would kill or misguide a later writer.
 * Invariant: reads only inside the mapping; every page is claimed at most once, so it ends on any file.
 * Source: lmdb 0.9.24 mdb.c, structs MDB_page, MDB_node, MDB_db, MDB_meta. Integers are the machine's own. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/inside.h"

enum {
  PAGE_HEAD = 16, NODE_HEAD = 8, DB_BYTES = 48, DEPTH_MAX = 32,
  BRANCH = 1, LEAF = 2, OVERFLOW = 4, META = 8,  /* page flags */
  BIG = 1, SUB = 2,                              /* node flags: data on overflow pages; data is a database */
  META_DBS = 24, META_LAST = META_DBS + 2 * DB_BYTES, META_TXN = META_LAST + 8, META_BYTES = META_TXN + 8,
  INTEGER_KEY = 8,                               /* flags of the free list's database */
};
static const uint64_t no_page = ~(uint64_t)0;

typedef enum kind { FREE, MAIN, RECORDS } kind;

typedef struct file {
  const uint8_t *map;
  size_t size, page;
  uint64_t last, txnid;  /* last page number in use; transaction looked at */
  uint8_t *seen;         /* one bit per page */
} file;

typedef struct tree {    /* one database on its way */
  kind kind;
  int depth;
  uint64_t branches, leaves, overflow, entries;
  const uint8_t *key;    /* last key passed; the next leaf key is larger, or equal when it was a separator */
  size_t key_size;
  bool separator;
} tree;

static uint16_t u16(const uint8_t *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static uint32_t u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static uint64_t u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }

/* Marks pages as used; false when one is out of range or already used. */
static bool claim(file *f, uint64_t at, uint64_t count) {
  if (at < 2 || at > f->last || count > f->last - at + 1) return false;
  for (uint64_t n = at; n < at + count; n++) {
    if (f->seen[n / 8] >> (n % 8) & 1) return false;
    f->seen[n / 8] = (uint8_t)(f->seen[n / 8] | 1 << (n % 8));
  }
  return true;
}

/* The first of `count` claimed pages, NULL when they are not all in the file. */
static const uint8_t *page_at(const file *f, uint64_t at, uint64_t count) {
  return (at + count) * f->page <= f->size ? f->map + at * f->page : NULL;
}

static int compare(const tree *t, const uint8_t *a, size_t na, const uint8_t *b, size_t nb) {
  if (t->kind == FREE) return u64(a) < u64(b) ? -1 : u64(a) > u64(b);
  int c = memcmp(a, b, na < nb ? na : nb);
  return c ? c : (na > nb) - (na < nb);
}

static const char *pass_key(tree *t, const uint8_t *key, size_t size, bool separator) {
  bool fits = t->kind == FREE ? size == 8 : t->kind == RECORDS ? size == ES_HASH_BYTES : size >= 1 && size <= 511;
  if (!fits) return "a key has a wrong size";
  if (t->key) {
    int c = compare(t, key, size, t->key, t->key_size);
    if (c < 0 || (c == 0 && !t->separator)) return "keys are out of order";
  }
  t->key = key;
  t->key_size = size;
  t->separator = separator;
  return NULL;
}

/* A list of free pages: its length, then page numbers, descending. */
static const char *free_list(file *f, const uint8_t *key, const uint8_t *data, size_t size) {
  if (u64(key) > f->txnid) return "free pages of a transaction to come";
  if (size < 8 || size % 8 || u64(data) != size / 8 - 1) return "a list of free pages has a wrong length";
  for (size_t k = 1; k < size / 8; k++) {
    uint64_t at = u64(data + 8 * k);
    if ((k > 1 && at >= u64(data + 8 * (k - 1))) || !claim(f, at, 1)) return "a free page is also in use";
  }
  return NULL;
}

static const char *database(file *f, const uint8_t *db, kind what);

/* Entry of a leaf: its data is inline or on overflow pages. */
static const char *entry(file *f, tree *t, const uint8_t *node, size_t key_size, size_t size, int flags) {
  const uint8_t *key = node + NODE_HEAD, *data = key + key_size;
  const char *wrong = pass_key(t, key, key_size, false);
  if (wrong) return wrong;
  t->entries++;
  if (flags & BIG) {
    uint64_t at = u64(data), count = (PAGE_HEAD - 1 + (uint64_t)size) / f->page + 1;
    if (!claim(f, at, count)) return "an overflow page is out of range or used twice";
    const uint8_t *p = page_at(f, at, count);
    if (!p) return "the file is cut short";
    if (u64(p) != at || u16(p + 10) != OVERFLOW || u32(p + 12) != count) return "an overflow page is not one";
    t->overflow += count;
    data = p + PAGE_HEAD;
  }
  if (t->kind == FREE) return free_list(f, key, data, size);
  if (t->kind == MAIN) return size == DB_BYTES ? database(f, data, RECORDS) : "a database entry has a wrong size";
  return size <= ES_RECORD_MAX ? NULL : "a record is too large";
}

static const char *page(file *f, tree *t, uint64_t at, int level);

/* Node k of a page; adds the bytes it takes to *used. */
static const char *node(file *f, tree *t, const uint8_t *p, size_t k, size_t upper, int level, size_t *used) {
  bool leaf = level == t->depth;
  size_t offset = u16(p + PAGE_HEAD + 2 * k);
  if (offset < upper || offset % 2 || offset + NODE_HEAD > f->page) return "a node lies outside its page";
  const uint8_t *n = p + offset;
  size_t low = u16(n) | (size_t)u16(n + 2) << 16, key_size = u16(n + 6);
  int flags = u16(n + 4);
  if (leaf && flags != (t->kind == MAIN ? SUB : flags & BIG)) return "a node has unknown flags";
  size_t bytes = NODE_HEAD + key_size + (!leaf ? 0 : flags & BIG ? 8 : low);
  if (bytes > f->page - offset) return "a node lies outside its page";
  *used += (bytes + 1) & ~(size_t)1;
  if (leaf) return entry(f, t, n, key_size, low, flags);
  if (k > 0) { /* the first key of a branch stands for "less than all" and is not looked at */
    const char *wrong = pass_key(t, n + NODE_HEAD, key_size, true);
    if (wrong) return wrong;
  }
  return page(f, t, low | (uint64_t)flags << 32, level + 1);
}

static const char *page(file *f, tree *t, uint64_t at, int level) {
  bool leaf = level == t->depth;
  if (!claim(f, at, 1)) return "a page is out of range or used twice";
  const uint8_t *p = page_at(f, at, 1);
  if (!p) return "the file is cut short";
  if (u64(p) != at || u16(p + 10) != (leaf ? LEAF : BRANCH)) return "a page is not what its parent says";
  size_t lower = u16(p + 12), upper = u16(p + 14), used = 0;
  if (lower < PAGE_HEAD || lower % 2 || lower > upper || upper > f->page) return "a page has impossible bounds";
  size_t count = (lower - PAGE_HEAD) / 2;
  if (count < (leaf || t->kind == FREE ? 1 : 2)) return "a page is empty";
  if (leaf) t->leaves++;
  else t->branches++;
  for (size_t k = 0; k < count; k++) {
    const char *wrong = node(f, t, p, k, upper, level, &used);
    if (wrong) return wrong;
  }
  return used == f->page - upper ? NULL : "nodes of a page overlap or leave gaps";
}

/* One database from its descriptor: pad, flags, depth, pages of three kinds, entries, root. */
static const char *database(file *f, const uint8_t *db, kind what) {
  tree t = { .kind = what, .depth = u16(db + 6) };
  uint64_t root = u64(db + 40);
  if (what != FREE && u32(db)) return "a database has unknown flags"; /* there the page size takes the place */
  if (u16(db + 4) != (what == FREE ? INTEGER_KEY : 0)) return "a database has unknown flags";
  if (root == no_page ? t.depth != 0 : t.depth < 1 || t.depth > DEPTH_MAX) return "a database has an impossible depth";
  const char *wrong = root == no_page ? NULL : page(f, &t, root, 1);
  if (wrong) return wrong;
  return t.branches == u64(db + 8) && t.leaves == u64(db + 16) && t.overflow == u64(db + 24) &&
         t.entries == u64(db + 32) ? NULL : "a database does not hold as many pages or entries as it says";
}

/* Both meta pages, as far as LMDB trusts them when it opens: it maps as many pages as they name. */
static const char *metas(const file *f) {
  /* Pages freed again before they were written may lie past the end of the file, by less than the largest map. */
  uint64_t most = f->size / f->page + ((uint64_t)64 << 30) / f->page;
  for (int k = 0; k < 2; k++) {
    const uint8_t *p = f->map + (size_t)k * f->page, *m = p + PAGE_HEAD;
    if (!(u16(p + 10) & META) || u32(m + META_DBS) != f->page) return "a meta page is not one";
    if (u64(m + META_LAST) < 1 || u64(m + META_LAST) > most) return "an impossible number of pages";
    if (u64(m + META_TXN) >> 56) return "an impossible transaction number";
  }
  return NULL;
}

static const char *check(file *f) {
  uint8_t m[META_BYTES]; /* a copy: two commits later LMDB writes over the page */
  memcpy(m, f->map + (f->txnid & 1) * f->page + PAGE_HEAD, sizeof m);
  if (u64(m + META_TXN) != f->txnid) return ES_PAGES_AGAIN;
  f->last = u64(m + META_LAST);
  size_t bytes = (size_t)(f->last / 8 + 1);
  void *seen = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (seen == MAP_FAILED) return ES_PAGES_UNABLE;
  f->seen = seen;
  const char *wrong = database(f, m + META_DBS, FREE);
  if (!wrong) wrong = database(f, m + META_DBS + DB_BYTES, MAIN);
  munmap(seen, bytes);
  return wrong;
}

const char *es_pages_check(const char *path, const uint64_t *txnid) {
  struct stat info;
  const char *wrong = "the file is cut short";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &info)) {
    if (fd >= 0) close(fd);
    return ES_PAGES_UNABLE;
  }
  file f = { .size = (size_t)info.st_size, .txnid = txnid ? *txnid : 0 };
  void *map = f.size < 1024 ? NULL : mmap(NULL, f.size, PROT_READ, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) {
    wrong = ES_PAGES_UNABLE;
  } else if (map) {
    f.map = map;
    f.page = u32(f.map + PAGE_HEAD + META_DBS);
    bool power = f.page >= 512 && f.page <= 32768 && (f.page & (f.page - 1)) == 0;
    if (!power) wrong = "an impossible page size";
    else if (f.size >= 2 * f.page) wrong = metas(&f);
    if (!wrong && txnid) wrong = check(&f);
    munmap(map, f.size);
  }
  close(fd);
  return wrong;
}
