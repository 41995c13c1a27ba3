# make demo    the two examples of the README
# make test    the test suite
# make lint types docs bench    the rest; `make help` lists all of it
#
# Each makes the environment when there is none, and installs again only when pyproject.toml has changed.
# Another Python, beside the environment that is there:  make PYTHON=python3.13 VENV=.venv313 test

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
WORKERS ?= auto

# A Python that is asked for by name is the one that runs, or nothing runs.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(VENV)/pyvenv.cfg),)
ifneq ($(shell $(PYTHON) -V),$(shell $(RUN) -V))
$(error $(VENV) holds $(shell $(RUN) -V), not that of PYTHON=$(PYTHON); take another folder (VENV=.venv-other) or remove it (rm -r $(VENV)))
endif
endif
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-slow lint format types docs bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.examples  ## run the regression and the classification example
	$(RUN) examples/01_regression.py
	$(RUN) examples/02_classification.py

test: $(VENV)/.test  ## run the tests, less the slow ones
	$(RUN) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal -m "not slow"

# Without the cache of compiled programs: XLA can run out of stack where it loads one as large as a residual network's step.
test-slow: $(VENV)/.test  ## run the slow tests
	JAX_ENABLE_COMPILATION_CACHE=false $(RUN) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal -m slow

lint: $(VENV)/.dev  ## check the style
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: $(VENV)/.dev  ## correct the style
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

types: $(VENV)/.dev  ## check the types
	$(RUN) -m mypy

docs: $(VENV)/.dev  ## build the documentation into site/, strictly, and run its code and that of the docstrings
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	$(RUN) -m pytest -q -n $(WORKERS) --maxprocesses 8 --dist worksteal tests/test_docs.py bdl

bench: $(VENV)/.test  ## run the benchmarks and print their table
	$(RUN) -m benchmarks

clean:  ## remove the environment and all that was built
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .jax_cache .hypothesis

# One stamp per extra of pyproject.toml.
$(VENV)/.%: pyproject.toml $(VENV)/pyvenv.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bdl needs Python 3.11 or newer; name one with `make PYTHON=python3.12 ...`")'
	$(PYTHON) -m venv $(VENV)
