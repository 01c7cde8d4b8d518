# Esper. `make help` lists the targets; `make demo` and `make test` start from a bare clone.
SHELL   := /bin/bash
CC      ?= gcc
CXX     ?= g++
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
TORCH_DIR ?=
VERSION := $(shell sed -n 's/^#define ESPER_VERSION "\(.*\)"/\1/p' src/esper.h)
MAJOR   := $(firstword $(subst ., ,$(VERSION)))

CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
BASE     = -std=c11 -D_GNU_SOURCE -fvisibility=hidden -fPIC -Isrc -I$(G) -I/usr/include/luajit-2.1 $(WARN)
LIBS    := -lluajit-5.1 -llmdb -lsodium -lpthreadpool -lm -ldl -lpthread

G       := $(BUILD)/gen
SRC     := $(sort $(wildcard src/*/*.c))
COMMAND := $(BUILD)/obj/main.o $(BUILD)/obj/line.o
OBJ     := $(SRC:src/%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/embedded.o
SCRIPTS := $(shell find lua kernels blueprints -name '*.lua' 2>/dev/null | sort) docs/words.md
HOT     := src/run/oracle%

.PHONY: all deps demo test bench lint asan valgrind soak install uninstall clean help docs
.DELETE_ON_ERROR:

all: $(BUILD)/esper $(BUILD)/libesper.a $(BUILD)/libesper.so $(BUILD)/esper_native.so $(BUILD)/libesper_torch.so ## build everything

# --- what Debian ships -------------------------------------------------------------------------
APT := gcc g++ make binutils pkg-config luajit libluajit-5.1-dev libtcc-dev liblmdb-dev libsodium-dev \
       libpthreadpool-dev libedit-dev lua-cjson lua-busted libtorch-dev
deps: ## install what is missing (Debian, Ubuntu); names it elsewhere
	@src/bind/deps.sh $(APT)

# --- generated: embedded scripts and the text for ffi.cdef -------------------------------------
$(G)/stub: ; @mkdir -p $@ && for h in stdint stddef stdbool stdarg; do : > $@/$$h.h; done
$(G)/native.cdef: $(wildcard src/*.h src/*/*.h src/*/*.def) | $(G)/stub
	@mkdir -p $(@D)
	$(CC) -E -P -nostdinc -I$(G)/stub -Isrc src/bind/native.h -o $@
CODE    := $(sort $(wildcard src/*/*.[ch] src/*/*.def))
$(G)/embedded.c: src/bind/embed.lua $(G)/native.cdef $(SCRIPTS) $(CODE)
	luajit src/bind/embed.lua $(G)/native.cdef $(SCRIPTS) > $@
	@echo "const char es_embedded_hash[] = \"$$(sha256sum $(filter-out blueprints/%,$(SCRIPTS)) $(CODE) | sha256sum | cut -c1-64)\";" >> $@

# --- libtcc.a, made fit for a shared library (docs/architecture.md, "libtcc") -------------------
LIBTCC := $(shell $(CC) -print-file-name=libtcc.a)
$(G)/tcc_build.h: $(LIBTCC)
	@mkdir -p $(@D)
	echo "#define ES_TCC_BUILD \"$$(sha256sum $< | cut -c1-16)\"" > $@
$(BUILD)/obj/bind/state.o: $(G)/tcc_build.h
$(G)/tcc.o: $(LIBTCC)
	@mkdir -p $(@D)
	ld -r -o $(G)/tcc.raw.o --whole-archive $<
	nm $(G)/tcc.raw.o | awk '$$2=="T" && $$3 ~ /^tcc_/ {print $$3}' > $(G)/tcc.names
	objcopy --redefine-sym stdout=es_tcc_stdout --redefine-sym stderr=es_tcc_stderr \
	        --redefine-sym environ=es_tcc_environ --keep-global-symbols=$(G)/tcc.names $(G)/tcc.raw.o $@

# --- objects ------------------------------------------------------------------------------------
$(BUILD)/obj/run/oracle%.o: CFLAGS += -O3
$(BUILD)/obj/%.o: src/%.c
	@mkdir -p $(@D)
	@echo "cc $<"
	@$(CC) $(BASE) $(CFLAGS) -MMD -MP -c $< -o $@
$(BUILD)/obj/embedded.o: $(G)/embedded.c
	@mkdir -p $(@D)
	$(CC) $(BASE) $(CFLAGS) -c $< -o $@
-include $(OBJ:.o=.d) $(COMMAND:.o=.d)

# One object with only the public names global, so that a host may use any name of its own (and its own libtcc).
$(BUILD)/libesper.a: $(OBJ) $(G)/tcc.o
	ld -r -o $(BUILD)/obj/esper_all.o $^
	objcopy --wildcard --keep-global-symbol='esper_*' --keep-global-symbol=luaopen_esper_native $(BUILD)/obj/esper_all.o
	rm -f $@ && ar rcsD $@ $(BUILD)/obj/esper_all.o
# nodelete: threads of a pool that the host has not released outlive a dlclose, and so must their code.
$(BUILD)/libesper.so: $(OBJ) $(G)/tcc.o src/esper.map
	$(CC) $(CFLAGS) -shared -Wl,-soname,libesper.so.$(MAJOR) -Wl,--version-script=src/esper.map -Wl,-z,defs -Wl,-z,now -Wl,-z,nodelete \
	  -o $@ $(OBJ) $(G)/tcc.o $(LIBS)
	ln -sf libesper.so $(BUILD)/libesper.so.$(MAJOR)
$(BUILD)/esper_native.so: $(BUILD)/libesper.so
	ln -sf libesper.so $@
$(BUILD)/esper: $(COMMAND) $(BUILD)/libesper.so
	$(CC) $(CFLAGS) -o $@ $(COMMAND) -L$(BUILD) -lesper -Wl,-rpath,'$$ORIGIN:$$ORIGIN/../lib' -lluajit-5.1 -ledit

# --- libtorch shim: Debian's libtorch-dev, or TORCH_DIR=/path/to/torch (pip's, version 2) ---------
ifeq ($(TORCH_DIR),)
TORCH_INC := -std=c++17 -I/usr/include/torch/csrc/api/include
TORCH_LIB :=
else
TORCH_INC := -std=c++20 -I$(TORCH_DIR)/include -I$(TORCH_DIR)/include/torch/csrc/api/include
TORCH_LIB := -L$(TORCH_DIR)/lib -Wl,-rpath,$(TORCH_DIR)/lib
endif
$(BUILD)/libesper_torch.so: src/torch/shim.cpp src/torch/program.hpp src/torch/torch.h src/graph/graph.h src/graph/ops.def
	@mkdir -p $(@D)
	$(CXX) -O1 -fPIC -fvisibility=hidden -Isrc $(TORCH_INC) -shared -o $@ $< $(TORCH_LIB) -ltorch -ltorch_cpu -lc10

# --- use, test, check ------------------------------------------------------------------------------
demo: deps ## compile, prove and run the whole catalogue, from a bare clone
	@$(MAKE) --no-print-directory all
	@$(BUILD)/esper demo
test: deps ## run every spec, from a bare clone
	@$(MAKE) --no-print-directory all $(STRESS)
	@spec/run.sh
lint: ## dependency directions, completeness of ops, sizes, shell syntax
	@luajit spec/lint.lua
	@for f in spec/*.sh src/bind/*.sh .ci/run; do bash -n $$f || exit 1; done

STRESS := $(patsubst spec/stress/%.c,$(BUILD)/stress/%,$(wildcard spec/stress/*.c))
$(BUILD)/stress/%: spec/stress/%.c $(wildcard spec/stress/*.h) $(OBJ) $(G)/tcc.o
	@mkdir -p $(@D)
	@echo "cc $<"
	@$(CC) $(BASE) $(CFLAGS) -o $@ $< $(OBJ) $(G)/tcc.o $(LIBS)

ASAN := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan: ## build with ASan and UBSan and run the specs that reach every C file
	@$(MAKE) --no-print-directory BUILD=build/asan CFLAGS="$(ASAN)" build/asan/esper_native.so build/asan/esper \
	  $(patsubst %,build/asan/stress/%,vec_fuzz loader_fuzz graph_fuzz plan_fuzz npy_fuzz)
	@spec/asan.sh
valgrind: all $(STRESS) ## memcheck over compiles and runs, scalar and AVX2, and the fuzzers
	@spec/valgrind.sh
soak: all $(STRESS) ## the long versions of the stress tests (minutes to hours: SOAK=10 multiplies)
	@spec/soak.sh
BENCH ?= suite
bench: all $(BUILD)/overhead ## the suite against libtorch; PEERS=/path/to/venv: against PyTorch, torch.compile, ONNX Runtime too
	@luajit bench/compile.lua
	@$(BUILD)/overhead
ifeq ($(PEERS),)
	@$(BUILD)/esper bench --all --group $(BENCH) --svg $(BUILD)/bench.svg
else
	@luajit bench/compare.lua --venv $(PEERS) --group $(BENCH) $(QUICK:%=--quick) --json $(BUILD)/bench.json --svg $(BUILD)/bench.svg
endif
$(BUILD)/overhead: bench/overhead.c $(BUILD)/libesper.so
	@$(CC) -std=c11 -Isrc $(WARN) $(CFLAGS) -o $@ $< -L$(BUILD) -lesper -Wl,-rpath,'$$ORIGIN' -lluajit-5.1
docs: all ## write the generated pages of docs/
	@luajit docs/generate.lua

install: all ## header, libraries, command, pkg-config, man page, completion into PREFIX
	install -d $(DESTDIR)$(PREFIX)/{bin,lib/pkgconfig,include,share/man/man1,share/bash-completion/completions}
	install -m 644 src/esper.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 $(BUILD)/esper $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(BUILD)/libesper.a $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(BUILD)/libesper.so $(DESTDIR)$(PREFIX)/lib/libesper.so.$(VERSION)
	ln -sf libesper.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libesper.so.$(MAJOR)
	ln -sf libesper.so.$(MAJOR) $(DESTDIR)$(PREFIX)/lib/libesper.so
	install -m 755 $(BUILD)/libesper_torch.so $(DESTDIR)$(PREFIX)/lib/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(LIBS)|' docs/esper.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/esper.pc
	sed 's|@VERSION@|$(VERSION)|' docs/esper.1.in > $(DESTDIR)$(PREFIX)/share/man/man1/esper.1
	install -m 644 docs/esper.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/esper
uninstall: ## remove what install wrote
	cd $(DESTDIR)$(PREFIX) && rm -f bin/esper include/esper.h lib/libesper.a lib/libesper.so* lib/libesper_torch.so \
	  lib/pkgconfig/esper.pc share/man/man1/esper.1 share/bash-completion/completions/esper

clean: ## remove what was built
	rm -rf $(BUILD)
help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile
