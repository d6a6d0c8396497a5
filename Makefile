# SPDX-License-Identifier: MIT
#
# `make` alone shows the targets. Sources are found by glob; nothing is listed here by hand.
#
# Variables for the command line: PREFIX, DESTDIR (install); CC, CFLAGS, LDFLAGS; WERROR=1; FILE (demo);
# PYTHON (what .venv is made from); ARGS (more arguments for the test runner: make test-python ARGS='-k mutex').

ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS  ?= -O2 -g
PYTHON  ?= $(firstword $(wildcard /usr/bin/python3) python3)
LUA     ?= lua5.4
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
LIBFLAG ?= -shared
LUA_INCDIR ?= /usr/include/lua5.4
BUSTED  ?= $(LUA) /usr/bin/busted

# One build tree. The sanitizers and lint have others below build/.
BUILD  ?= build
# The folder that holds the Python package with its extension.
PYDIR  ?= python
PY     := .venv/bin/python
ARGS   ?=

VERSION := $(shell sed -n 's/^\#define PSHM_VERSION "\(.*\)"/\1/p' csrc/include/polyshm/polyshm.h)
SONAME  := libpolyshm.so.$(firstword $(subst ., ,$(VERSION)))

WARN := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes $(if $(WERROR),-Werror)
# `make bench-count` and debuggers want the frames; CFLAGS comes last, so that its owner wins.
BASE := -std=c11 -D_GNU_SOURCE -DNDEBUG -Icsrc/include -Icsrc -fPIC -fno-plt -fvisibility=hidden -pthread
COMPILE = @mkdir -p $(@D) && echo "  CC    $<" && $(CC) $(BASE) $(WARN) $(CFLAGS) $(SANITIZE) -MMD -MP
LINK = @mkdir -p $(@D) && echo "  LINK  $@" && $(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -pthread
# A module is never unmapped: its fork hooks and its signal handler live in it.
MODULE := $(LIBFLAG) -Wl,-z,nodelete -Wl,-z,relro,-z,now

CORE_SRC := $(wildcard csrc/*/*.c)
LIB_OBJ  := $(CORE_SRC:csrc/%.c=$(BUILD)/obj/lib/%.o)
CORE_OBJ := $(CORE_SRC:csrc/%.c=$(BUILD)/obj/core/%.o)
LUA_OBJ  := $(patsubst lua/binding/%.c,$(BUILD)/obj/lua/%.o,$(wildcard lua/binding/*.c))
PY_SRC   := $(wildcard python/binding/*.c)

# tests/c: a program of each test_*.c, with the other .c files linked in; foreign_*.c know nothing of polyshm.
C_TESTS    := $(patsubst tests/c/%.c,$(BUILD)/tests/%,$(wildcard tests/c/test_*.c))
C_FOREIGN  := $(patsubst tests/c/%.c,$(BUILD)/tests/%,$(wildcard tests/c/foreign_*.c))
C_HELPERS  := $(patsubst tests/c/%.c,$(BUILD)/obj/tests/c/%.o,\
	$(filter-out tests/c/test_%.c tests/c/foreign_%.c,$(wildcard tests/c/*.c)))
# tests/crash: a program of each crash_*.c, with the driver linked in.
CRASH_TESTS   := $(patsubst tests/crash/%.c,$(BUILD)/tests/%,$(wildcard tests/crash/crash_*.c))
CRASH_HELPERS := $(patsubst tests/crash/%.c,$(BUILD)/obj/tests/crash/%.o,$(wildcard tests/crash/driver*.c))
# tests/fuzz: one program.
FUZZ_TEST := $(BUILD)/tests/fuzz_arena
FUZZ_OBJ  := $(patsubst tests/fuzz/%.c,$(BUILD)/obj/tests/fuzz/%.o,$(wildcard tests/fuzz/*.c))
# tests/cross: peer*.c are one program, the partner in C; foreign_*.c know nothing of polyshm.
CROSS_PEER    := $(BUILD)/tests/cross_peer
CROSS_OBJ     := $(patsubst tests/cross/%.c,$(BUILD)/obj/tests/cross/%.o,$(wildcard tests/cross/peer*.c))
CROSS_FOREIGN := $(patsubst tests/cross/%.c,$(BUILD)/tests/cross_%,$(wildcard tests/cross/foreign_*.c))
LUA_HELPERS   := $(patsubst tests/lua/%.c,$(BUILD)/lua/%.so,$(wildcard tests/lua/*.c))

# What a program of ours needs to find the modules of this build tree.
ENV = POLYSHM_BUILD="$(abspath $(BUILD))" PYTHONPATH="$(abspath $(PYDIR))" \
	LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;$(CURDIR)/tests/lua/?.lua;;" \
	LUA_CPATH="$(abspath $(BUILD))/lua/?.so;;"
PYTEST = $(ENV) $(RUNTIME) $(PY) -m pytest -q --junitxml=$(BUILD)/reports/$@.xml $(PYTEST_ARGS)
WATCHED = $(PYTHON) tests/leftovers.py
SUB = @+$(MAKE) --no-print-directory
# Builds run in parallel, also where nobody said -j.
JOBS = $(SUB) $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(shell nproc))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

.PHONY: help
help: ## show this
	@echo "polyshm $(VERSION)"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ---- what has to be on the machine -------------------------------------------------------------------------------

build/need/%: tools/need
	@tools/need $*
	@mkdir -p $(@D) && touch $@

.venv/.created: | build/need/build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "polyshm needs Python 3.10, $(PYTHON) is older")'
	@test -x $(PY) || { echo "  VENV  .venv"; $(PYTHON) -m venv .venv; }
	@# So that .venv/bin/python imports polyshm without more ado.
	@$(PY) -c 'import sysconfig; print("$(CURDIR)/python", file=open(sysconfig.get_path("purelib") + "/polyshm.pth", "w"))'
	@touch $@

.venv/.demo: tools/requirements-demo.txt .venv/.created
	@tools/pip $(PY) tools/requirements-demo.txt && touch $@

.venv/.all: tools/requirements.txt tools/requirements-test.txt tools/requirements-demo.txt .venv/.created
	@tools/pip $(PY) tools/requirements.txt && touch $@ .venv/.demo

# ---- building ----------------------------------------------------------------------------------------------------

.PHONY: build lib modules tests-build extension rock FORCE
build: build/need/build .venv/.created ## the Python extension (in place) and the Lua module (build/lua)
	$(JOBS) modules extension

lib: $(BUILD)/libpolyshm.a $(BUILD)/libpolyshm.so $(BUILD)/polyshm.pc ## libpolyshm.a, libpolyshm.so and polyshm.pc
	@:

modules: $(BUILD)/lua/polyshm/core.so
	@:

tests-build: $(C_TESTS) $(C_FOREIGN) $(CRASH_TESTS) $(FUZZ_TEST) $(CROSS_PEER) $(CROSS_FOREIGN) $(LUA_HELPERS)
	@:

# Whatever changes the compiler's line, apart from WERROR, makes everything anew.
FLAGS := $(CC) $(BASE) $(CFLAGS) $(SANITIZE) $(LDFLAGS) $(LIBFLAG) $(LUA_INCDIR)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D); echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' >$@

$(BUILD)/obj/lib/%.o: csrc/%.c $(BUILD)/flags
	$(COMPILE) -c $< -o $@

$(BUILD)/obj/core/%.o: csrc/%.c $(BUILD)/flags
	$(COMPILE) -DPSHM_STATIC -c $< -o $@

$(BUILD)/obj/lua/%.o: lua/binding/%.c $(BUILD)/flags
	$(COMPILE) -DPSHM_STATIC -Ilua/binding -isystem $(LUA_INCDIR) -c $< -o $@

# The archive is made anew, so that a source that went away goes away here too.
$(BUILD)/libpolyshm.a: $(LIB_OBJ)
	@echo "  AR    $@"; rm -f $@; $(AR) rcs $@ $^

$(BUILD)/libpolyshm.so.$(VERSION): $(LIB_OBJ)
	$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,-z,nodelete -Wl,-z,defs -o $@ $^

$(BUILD)/libpolyshm.so: $(BUILD)/libpolyshm.so.$(VERSION)
	@ln -sf $(<F) $(BUILD)/$(SONAME); ln -sf $(SONAME) $@

$(BUILD)/polyshm.pc: polyshm.pc.in csrc/include/polyshm/polyshm.h FORCE
	@mkdir -p $(@D); sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' $< >$@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BUILD)/lua/polyshm/core.so: $(LUA_OBJ) $(CORE_OBJ)
	$(LINK) $(MODULE) -o $@ $^

# `extension` is called with PY set to the Python to build for; its name and headers are asked from that Python.
ifneq ($(filter extension,$(MAKECMDGOALS)),)
PY_CONFIG := $(shell $(PY) tools/python-config)
ifneq ($(words $(PY_CONFIG)),3)
$(error $(PY) cannot build extensions: are its headers installed?)
endif
PY_TAG    := $(word 1,$(PY_CONFIG))
PY_MODULE := $(PYDIR)/polyshm/_core$(word 2,$(PY_CONFIG))
PY_OBJ    := $(PY_SRC:python/binding/%.c=$(BUILD)/obj/py-$(PY_TAG)/%.o)

extension: $(PY_MODULE) $(if $(filter-out python,$(PYDIR)),\
	$(patsubst python/%,$(PYDIR)/%,$(wildcard python/polyshm/*.py python/polyshm/*.pyi python/polyshm/py.typed)))
	@:

$(BUILD)/obj/py-$(PY_TAG)/%.o: python/binding/%.c $(BUILD)/flags
	$(COMPILE) -DPSHM_STATIC -Ipython/binding -isystem $(word 3,$(PY_CONFIG)) -c $< -o $@

$(PY_MODULE): $(PY_OBJ) $(CORE_OBJ)
	$(LINK) -shared -Wl,-z,nodelete -Wl,-z,relro,-z,now -o $@ $^

ifneq ($(PYDIR),python)
$(PYDIR)/polyshm/%: python/polyshm/%
	@mkdir -p $(@D); cp $< $@
endif
-include $(PY_OBJ:.o=.d)
endif

# ---- test programs -----------------------------------------------------------------------------------------------

$(BUILD)/obj/tests/%.o: tests/%.c $(BUILD)/flags
	$(COMPILE) -I$(dir $<) -c $< -o $@

$(C_FOREIGN): $(BUILD)/tests/%: tests/c/%.c $(BUILD)/flags
	@mkdir -p $(@D) && echo "  CC    $<" && $(CC) -std=c11 -D_GNU_SOURCE $(WARN) $(CFLAGS) -MMD -MP -pthread $< -o $@

$(C_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/c/%.o $(C_HELPERS) $(BUILD)/libpolyshm.a
	$(LINK) -o $@ $^ -lcmocka

# Some load the library, and copies of it.
$(C_TESTS): | $(BUILD)/libpolyshm.so

$(CRASH_TESTS): $(BUILD)/tests/%: $(BUILD)/obj/tests/crash/%.o $(CRASH_HELPERS) $(BUILD)/libpolyshm.a
	$(LINK) -o $@ $^

$(FUZZ_TEST): $(FUZZ_OBJ) $(BUILD)/libpolyshm.a
	$(LINK) -o $@ $^

$(CROSS_PEER): $(CROSS_OBJ) $(BUILD)/libpolyshm.a
	$(LINK) -o $@ $^

$(CROSS_FOREIGN): $(BUILD)/tests/cross_%: tests/cross/%.c $(BUILD)/flags
	@mkdir -p $(@D) && echo "  CC    $<" && $(CC) -std=c11 -D_GNU_SOURCE $(WARN) $(CFLAGS) -MMD -MP -pthread $< -o $@

$(LUA_HELPERS): $(BUILD)/lua/%.so: tests/lua/%.c $(BUILD)/flags
	$(COMPILE) -fvisibility=default -isystem $(LUA_INCDIR) $(LDFLAGS) -shared $< -o $@

-include $(LIB_OBJ:.o=.d) $(CORE_OBJ:.o=.d) $(LUA_OBJ:.o=.d) $(C_TESTS:=.d) $(C_FOREIGN:=.d) $(LUA_HELPERS:.so=.d) \
	$(CROSS_FOREIGN:=.d)
-include $(wildcard $(BUILD)/obj/tests/*/*.d)

# ---- tests -------------------------------------------------------------------------------------------------------

# The longest first: so they are started, two at a time or more.
SUITES := test-crash test-cross test-c test-python test-house test-lua test-layout test-examples
# Those on the other CPythons: run-py-3.10 and so on.
PYTHONS = $$(tools/test-pythons list $(PY) | sed 's/^/run-py-/')
EACH = tools/each $(MAKE) --no-print-directory

# Warnings are errors here, unless the command line says WERROR= itself.
STRICTLY = $(if $(filter undefined,$(origin WERROR)),WERROR=1)

.PHONY: test test-build test-pythons $(SUITES) $(SUITES:test-%=run-%)
test: ## everything, on every CPython >= 3.10 of this machine
	$(SUB) $(STRICTLY) test-build
	@+$(EACH) $(STRICTLY) -- run-crash $(PYTHONS) $(filter-out run-crash,$(SUITES:test-%=run-%))

test-build: build/need/test .venv/.all
	$(JOBS) lib modules tests-build extension

test-house: test-build ## layers, contracts, names, packages
	$(SUB) run-house
test-c: test-build ## the core (cmocka)
	$(SUB) run-c
test-python: test-build ## the Python module (pytest)
	$(SUB) run-python
test-lua: test-build ## the Lua module (busted)
	$(SUB) run-lua
test-cross: test-build ## every pair of languages, and foreign programs
	$(SUB) run-cross
test-layout: test-build ## arenas, read by docs/layout.rst alone
	$(SUB) run-layout
test-crash: test-build ## a kill at every instruction
	$(SUB) run-crash
test-examples: test-build ## the programs of examples/
	$(SUB) run-examples
test-pythons: test-build ## the Python and cross suites on the other CPythons
	@+$(EACH) -- $(PYTHONS)

run-py-%:
	@STRICT="$(STRICT)" tools/test-pythons run $* $(ARGS)
run-house:
	@$(PYTEST) tests/house $(ARGS)
run-python:
	@$(PYTEST) tests/python $(ARGS)
run-cross:
	@$(PYTEST) tests/cross $(ARGS)
run-layout:
	@$(PYTEST) tests/layout $(ARGS)
run-examples:
	@$(PYTEST) tests/examples tests/docs $(ARGS)
run-lua:
	@$(ENV) $(WATCHED) env $(RUNTIME) $(BUSTED) $(ARGS)
run-c:
	@$(ENV) tools/run-programs $(WATCHED) -- $(C_TESTS) $(FUZZ_TEST)
# They sleep more than they work: three at a time, those first that take the longest.
CRASH_FIRST := rwlock wait barrier opening directory
CRASH_NAMES := $(CRASH_FIRST) $(filter-out $(CRASH_FIRST),$(CRASH_TESTS:$(BUILD)/tests/crash_%=%)) languages
run-crash:
	@rm -f $(BUILD)/reports/crash.txt
	@+tools/each -j 3 --logs $(BUILD)/reports/crash $(MAKE) --no-print-directory -- $(CRASH_NAMES:%=run-crash-%)
run-crash-%: $(BUILD)/tests/crash_%
	@$(ENV) LIMIT=600 tools/run-programs $(WATCHED) -- $<
run-crash-languages:
	@$(PYTEST) tests/crash $(ARGS)

# ---- tests under watch -------------------------------------------------------------------------------------------

UBSAN := -fsanitize=undefined -fno-sanitize-recover=undefined
ASAN  := -fsanitize=address $(UBSAN) -fno-omit-frame-pointer
# Our SIGBUS handler is what is tested, and the interpreters free little at their end.
SAN_OPTIONS := ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0:allow_user_segv_handler=1:$(ASAN_MORE) \
	UBSAN_OPTIONS=print_stacktrace=1
SAN_ARGS := CFLAGS="-O1 -g" PYTEST_ARGS=--timeout=240
ASAN_ARGS = $(SAN_ARGS) BUILD=build/asan PYDIR=build/asan/python SANITIZE="$(ASAN)" \
	RUNTIME='$(SAN_OPTIONS) PYTHONMALLOC=malloc \
	LD_PRELOAD="$(shell $(CC) -print-file-name=libasan.so) $(shell $(CC) -print-file-name=libubsan.so)"'
UBSAN_ARGS = $(SAN_ARGS) BUILD=build/ubsan PYDIR=build/ubsan/python SANITIZE="$(UBSAN)" RUNTIME='$(SAN_OPTIONS)'
WATCH_SUITES := cross python c lua

.PHONY: asan asan-build ubsan ubsan-build valgrind run-valgrind
asan: asan-build ## C, Python and Lua suites under AddressSanitizer and UBSan
	@+$(EACH) -- $(WATCH_SUITES:%=run-asan-%)
ubsan: ubsan-build ## the same under UBSan alone
	@+$(EACH) -- $(WATCH_SUITES:%=run-ubsan-%)
asan-build: build/need/test .venv/.all
	$(JOBS) $(ASAN_ARGS) modules tests-build extension
ubsan-build: build/need/test .venv/.all
	$(JOBS) $(UBSAN_ARGS) modules tests-build extension
# Whether each pair agrees, `make test` has seen: here each language is once the first and once the second.
RING := POLYSHM_PAIRS="c-python python-lua lua-c"
run-asan-%:
	@+$(RING) $(SAN_OPTIONS) $(MAKE) --no-print-directory $(ASAN_ARGS) run-$*
run-ubsan-%:
	@+$(RING) $(SAN_OPTIONS) $(MAKE) --no-print-directory $(UBSAN_ARGS) run-$*
valgrind: build/need/test .venv/.created ## C suite under valgrind
	$(JOBS) tests-build
	$(SUB) run-valgrind
run-valgrind:
	@$(ENV) tools/run-programs $(WATCHED) valgrind -q --error-exitcode=99 --leak-check=full --track-fds=no \
		--errors-for-leak-kinds=definite --show-leak-kinds=definite --child-silent-after-fork=yes \
		--vex-iropt-register-updates=allregs-at-mem-access -- $(C_TESTS)

# ---- lint, docs, programs ----------------------------------------------------------------------------------------

C_FILES := $(wildcard csrc/include/polyshm/*.h csrc/*/*.[ch] python/binding/*.[ch] lua/binding/*.[ch] \
	tests/*/*.[ch] bench/*.[ch] bench/*/*.[ch] examples/*.[ch])
PY_FILES := setup.py $(wildcard python tests examples bench) \
	tools/python-config tools/check-skips tools/crash-table tools/each
LUA_FILES := $(wildcard lua tests/lua tests/cross tests/fuzz examples bench)

.PHONY: lint format docs demo bench bench-count install install-rock clean
lint: test-build ## ruff, mypy, stubtest, luacheck, clang-format, gcc's warnings as errors
	@+$(EACH) -- $(LINTS)
LINTS := lint-c lint-types lint-format lint-python lint-lua
.PHONY: $(LINTS)
lint-python:
	@$(PY) -m ruff check --quiet $(PY_FILES) && $(PY) -m ruff format --quiet --check $(PY_FILES)
lint-types:
	@$(PY) -m mypy --strict python/polyshm
	@PYTHONPATH=python MYPYPATH=python $(PY) -m mypy.stubtest polyshm
	@MYPYPATH=python $(PY) -m mypy --strict tests/house/typed.py
lint-lua:
	@luacheck -q $(LUA_FILES)
lint-format:
	@clang-format --dry-run -Werror $(C_FILES)
lint-c:
	$(JOBS) -k BUILD=build/lint PYDIR=build/lint/python WERROR=1 lib modules tests-build extension

format: ## let ruff and clang-format rewrite the sources
	@$(PY) -m ruff check --quiet --fix $(PY_FILES); $(PY) -m ruff format --quiet $(PY_FILES)
	@clang-format -i $(C_FILES)

docs: test-build ## HTML in build/docs, warnings are errors
	$(SUB) run-docs
run-docs:
	@$(ENV) $(PY) -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

.PHONY: check run-docs
check: ## test, lint, asan, valgrind and docs, in one go
	$(SUB) $(STRICTLY) test-build
	$(SUB) asan-build
	@+$(EACH) $(STRICTLY) -- $(CHECKS)
CHECKS = run-crash run-asan-cross run-asan-python run-valgrind run-cross run-asan-c $(PYTHONS) \
	run-c run-python run-house run-asan-lua $(LINTS) run-lua run-layout run-examples run-docs

demo: build/need/build .venv/.demo ## Python and Lua count one text together, and one is killed (FILE=... for another text)
	$(JOBS) modules extension
	@$(ENV) $(PY) examples/wordcount.py $(FILE)

bench: test-build ## speed beside the peers and the bare floor
	@$(ENV) $(PY) bench/run.py $(ARGS)
bench-count: test-build ## instructions per operation, compared with the committed table
	@$(ENV) $(PY) bench/count.py $(ARGS)

.PHONY: crash
crash: test-build ## kill tests and one table of them (DOC=docs/design/survival.rst puts it there)
	$(SUB) run-crash; code=$$?; tools/crash-table $(BUILD)/reports/crash.txt $(DOC) && exit $$code

SEED ?= $(shell date +%s)
.PHONY: fuzz fuzz-asan
fuzz: test-build ## programs of random operations, from SEED on: no interpreter may crash or hang
	@echo "SEED=$(SEED)"
	@$(ENV) $(PY) tests/fuzz/random_programs.py $(SEED) --count 100000 --seconds 60
	@$(ENV) env $(RUNTIME) lua5.4 tests/fuzz/random_program.lua $(SEED) $$(($(SEED) + 1000))
	@$(FUZZ_TEST) $(SEED) 500
fuzz-asan: build/need/test ## arenas that are overwritten meanwhile, from SEED on, under AddressSanitizer and UBSan
	@echo "SEED=$(SEED)"
	$(JOBS) BUILD=build/asan SANITIZE="$(ASAN)" CFLAGS="-O1 -g" build/asan/tests/fuzz_arena
	@$(SAN_OPTIONS) build/asan/tests/fuzz_arena $(SEED) 1000

MINUTES ?= 10
.PHONY: soak
soak: test-build ## random kills, stops, forks and execs on one arena for MINUTES, in C and in three languages
	@$(BUILD)/tests/crash_soak stop
	@$(BUILD)/tests/crash_soak $$(($(MINUTES) * 30))
	@$(ENV) $(PY) tests/crash/soak_mixed.py $$(($(MINUTES) * 30))

install: lib ## C library, headers and pkg-config file: PREFIX=/usr/local DESTDIR=
	install -d $(DESTDIR)$(INCLUDEDIR)/polyshm $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 csrc/include/polyshm/* $(DESTDIR)$(INCLUDEDIR)/polyshm
	install -m 644 $(BUILD)/libpolyshm.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(BUILD)/libpolyshm.so.$(VERSION) $(DESTDIR)$(LIBDIR)
	ln -sf libpolyshm.so.$(VERSION) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libpolyshm.so
	install -m 644 $(BUILD)/polyshm.pc $(DESTDIR)$(LIBDIR)/pkgconfig

# What luarocks calls; it needs a compiler and Lua's headers alone.
rock: modules
install-rock: rock
	install -d $(LUA_LIBDIR)/polyshm $(LUA_LUADIR)/polyshm
	install -m 755 $(BUILD)/lua/polyshm/core.so $(LUA_LIBDIR)/polyshm/core.so
	install -m 644 $(wildcard lua/polyshm/*.lua) $(LUA_LUADIR)/polyshm

clean: ## remove what was built; .venv stays
	rm -rf build dist python/polyshm/_core.*.so python/*.egg-info
