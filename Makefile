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

.PHONY: install screen test test-faults lint bench
.DEFAULT_GOAL := install

install: $(VENV)/.installed

# torch comes first and alone: where a CPU build of exactly this version is at hand, pip takes it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=24"
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,lint]"
	touch $@

screen: install
	$(BIN)/mlff-screen run "$(LIBRARY)" --out "$(OUT)" $(ARGS)

# One thread a process: the suite runs in as many processes as there are cores.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

# Real processes, real signals, full disks: minutes.
test-faults: install
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/faults

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python benchmarks/screen.py
	$(BIN)/python benchmarks/embedding/pool.py
	$(BIN)/python benchmarks/relaxation.py
	$(BIN)/python benchmarks/engine
