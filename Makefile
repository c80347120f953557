# `make demo` and `make test` need Python >= 3.10, make and a package index; `make` lists all targets.
PYTHON ?= python3
PYTEST_ARGS ?=
# Most of a test's time is waiting. A file's tests stay together: they share databases.
AT_ONCE ?= -n 3 --dist loadfile --no-loadscope-reorder
SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL: # `make -j`: the order of what `test` needs is meant

VENV := .venv
FIREWORKS := .venv-fireworks
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
CHECKED := agent fwcore fwrunner tests

# Stamps: an install runs again only when what it reads has changed.
DEMO := $(VENV)/.installed-demo
TEST := $(VENV)/.installed-test
FW := $(FIREWORKS)/.installed
READ := pyproject.toml constraints.txt

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name what; do \
	  printf '  make %-17s %s\n' "$$name" "$$what"; done

.PHONY: demo
demo: $(DEMO) ## a real workflow on a throwaway database, shown live
	$(BIN)/fwagent demo

# The daemon as a whole. All of it must hold as well when no file event ever comes.
END_TO_END := tests/cluster/test_whole.py tests/cluster/test_beside_qlaunch.py tests/faults/test_database_down.py \
  tests/interop/test_main_job.py tests/mongo/test_daemon.py tests/faults/test_bad_input.py tests/mongo/test_modes.py \
  tests/mongo/test_locks.py

.PHONY: test
test: system $(TEST) $(FW) lint ## everything: checks, and all tests against the real components
	$(BIN)/pytest $(AT_ONCE) $(PYTEST_ARGS)
	$(if $(strip $(PYTEST_ARGS)),,FWAGENT_TEST_EVENTS=no $(BIN)/pytest $(AT_ONCE) $(END_TO_END))

.PHONY: test-unit
test-unit: $(TEST) ## the tests that need no server
	$(BIN)/pytest $(AT_ONCE) tests/unit $(PYTEST_ARGS)

.PHONY: pictures
pictures: $(DEMO) ## the pictures of README.md, from a real demo and a real status
	PYTHONPATH=. $(BIN)/python docs/pictures/make.py

N ?= 5000
SEED ?= $(shell date +%s)
.PHONY: test-differential
test-differential: $(TEST) $(FW) ## N generated workflows (5000) through FireWorks and us, compared step by step
	FWAGENT_DIFFERENTIAL_N='$(N)' FWAGENT_DIFFERENTIAL_SEED='$(SEED)' \
	  $(BIN)/pytest -s tests/interop/test_differential.py $(PYTEST_ARGS)

SECONDS ?= 600
.PHONY: fuzz
fuzz: $(TEST) ## made-up reports for SECONDS (600): atheris if it installs on this Python, else our own mutations
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input atheris
	$(BIN)/python -m tests.fuzz '$(SECONDS)'

.PHONY: lint
lint: $(TEST) ## style, types, layers, and fwrunner's Python 3.6
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/vermin --quiet --no-tips --target=3.6- --violations fwrunner

.PHONY: format
format: $(TEST) ## let ruff format and fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: clean
clean: ## remove what the targets made, the virtual environments too
	rm -rf $(VENV) $(FIREWORKS) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CHECKED) -name __pycache__ -prune -exec rm -rf {} +

# What the tests need of the system (shared libraries of mongod); installs it as root on Debian and Ubuntu.
.PHONY: system
system:
	@PYTHON='$(PYTHON)' tests/install-system-packages

$(DEMO): $(READ) | $(VENV)/bin/pip
	$(BIN)/python $(PIP_INSTALL) -e '.[demo]'
	@touch $@

$(TEST): $(READ) | $(VENV)/bin/pip
	$(BIN)/python $(PIP_INSTALL) -e '.[demo,test]'
	@touch $@ $(DEMO)

# FireWorks only, and no fwagent: `FireWorks` is pinned, as is the monty it can live with.
$(FW): constraints.txt | $(FIREWORKS)/bin/pip
	$(FIREWORKS)/bin/python $(PIP_INSTALL) FireWorks monty
	@touch $@

# ensurepip comes last, so a virtual environment with pip is a whole one.
$(VENV)/bin/pip $(FIREWORKS)/bin/pip:
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "fwagent needs Python 3.10 or newer, and '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
	  echo "On Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	'$(PYTHON)' -m venv $(@:/bin/pip=)
