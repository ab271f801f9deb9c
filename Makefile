PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test slow clean

help:
	@echo "make demo   set up .venv, train an auditable model on scikit-learn's digits, verify images"
	@echo "make test   set up .venv, lint, types, the whole test suite"
	@echo "make slow   the long statistical tests alone"
	@echo "PYTHON=python3.12 make ... picks the interpreter (3.11 or newer)"

$(BIN)/.ready: pyproject.toml
	@$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f'amint needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}. Try: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable ".[dev]"
	@touch $@

install: $(BIN)/.ready

demo: install
	$(BIN)/amint demo --out runs/demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network"

slow: install
	$(BIN)/python -m pytest -n 2 -m slow

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
