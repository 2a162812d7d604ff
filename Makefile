# Needs git, make and Python 3.11 or newer; everything else is installed into .venv.
#
#   make demo     a slide, from nothing to labelled nuclei, in a few minutes
#   make test     the tests
#   make docs     the documentation as a site, in build/site
#   make check    format, lint, types and tests: what has to pass before a commit
#
# PYTHON=python3.12        another interpreter
# TORCH='torch==2.8.0'     another release of torch
# TORCH_INDEX=https://...  another package index for torch, such as PyTorch's CPU-only index
# DEMO=demo                folder of the demo
# JOBS=2                   how many tests run at a time

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
# The releases that the tests have run with. The package itself takes newer ones, too.
TORCH ?= torch>=2.6,<2.14
DEMO ?= demo

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# JOBS files of tests run at a time, each with one thread: two are faster than one with two threads.
# A worker that dies ends the run: xdist might wait for ever for the tests that it had.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs install clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py --folder $(DEMO)

test: $(VENV)/.installed-dev
	$(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: $(VENV)/.installed-dev
	$(BIN)/python docs/site/reference.py
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# NO_MKDOCS_2_WARNING keeps a notice about other programs out of the output.
docs: $(VENV)/.installed-docs
	$(BIN)/python docs/site/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict -f docs/site/mkdocs.yml
	@echo "open build/site/index.html"

install: $(VENV)/.installed

clean:
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist

# Empty files that mark finished steps: a change of pyproject.toml installs the packages again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.made
	@echo "installing torch into $(VENV)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") '$(TORCH)'
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "installing histosynth into $(VENV); the first time this takes some minutes"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	@echo "installing histosynth and its tools into $(VENV); the first time this takes some minutes"
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.torch
	@echo "installing histosynth and what builds its site into $(VENV)"
	$(PIP) --editable '.[docs]'
	@touch $@ $(VENV)/.installed
