# Two commands do all on a fresh machine: `make screen` and `make test`.
PYTHON ?= python3
VENV ?= .venv
LIBRARY ?= datasets/druglike
OUT ?= out/$(basename $(notdir $(LIBRARY)))
# Options of `mlff-screen run`. A second `make screen` replaces the tables of the first.
ARGS ?= --overwrite

BIN := $(VENV)/bin
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

PIP := $(BIN)/pip --disable-pip-version-check install --constraint constraints.txt

.PHONY: install install-test install-lint install-docs screen test test-faults lint bench docs
.DEFAULT_GOAL := install

# What a user needs; the tools of the tests, the linters and the docs come when they are asked for.
install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-lint: $(VENV)/.installed-lint
install-docs: $(VENV)/.installed-docs

# torch comes first and alone: where a CPU build of exactly this version is at hand, pip takes it.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "== 1 of 3: the environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	@echo "== 2 of 3: PyTorch, the largest part by far"
	$(BIN)/pip --disable-pip-version-check install "$$(grep '^torch==' constraints.txt)"
	@echo "== 3 of 3: mlff-screen and the rest"
	$(PIP) --editable ".[prefect,http]"
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "== what '$*' needs"
	$(PIP) --editable ".[$*]"
	touch $@

screen: install
	$(BIN)/mlff-screen run "$(LIBRARY)" --out "$(OUT)" $(ARGS)

# One thread a process: the suite runs in as many processes as there are cores.
test: install-test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

# Real processes, real signals, full disks: minutes.
test-faults: install-test
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults

lint: install-lint install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install-test
	$(BIN)/python benchmarks/screen.py
	$(BIN)/python benchmarks/embedding/pool.py
	$(BIN)/python benchmarks/relaxation.py
	$(BIN)/python benchmarks/engine

# The site of docs/ and of the docstrings, in site/.
docs: install-docs
	$(BIN)/mkdocs build --strict
