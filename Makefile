# make demo: pretrain a BERT on this machine's own documentation.  make test: what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo install test quick slow check size chaos clean

demo: $(VENV)/runtime
	$(BIN)/bertsmith pretrain --config recipes/demo.toml -o $(DEMO)
	$(BIN)/bertsmith fill $(DEMO) "The function returns a [MASK] of strings."
	$(BIN)/bertsmith fill $(DEMO) "Raises an [MASK] if the file does not exist."

# Two stamps: the demo needs no test tools.
$(VENV)/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: $(VENV)/runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

install: $(VENV)/dev

test: check quick

quick: $(VENV)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

slow: $(VENV)/dev
	$(BIN)/python -m pytest -m "slow or not slow" -rs

check: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

size:
	@find src -name '*.py' | xargs wc -l | sort -n

chaos: $(VENV)/dev
	$(BIN)/python tests/chaos.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
