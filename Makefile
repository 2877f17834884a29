# `make demo` and `make test` each set up what they need in .venv; nothing has to be installed by hand.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= runs/demo

.PHONY: demo test check lint clean

demo: $(VENV)/.ready
	$(BIN)/longspan demo --output $(OUTPUT)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

check: lint test

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy platform/longspan jobs
	$(BIN)/codespell -L te,udo,vor,wel,caf,abd platform jobs sweeps cluster tests README.md Makefile

# torch goes first, by itself and pinned: resolved together with the rest, pip may take a build with gigabytes of CUDA.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "longspan needs Python 3.11 or later")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
