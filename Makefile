# Each target sets up what it needs in .venv; nothing but Python 3.11, pip and make
# is expected. Continuous integration runs these targets and no others.

PYTHON ?= python3
PIP_FLAGS ?= --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

BIN = .venv/bin
SETUP = pyproject.toml setup.cfg constraints.txt

.PHONY: help demo test test-all test-min doctest lint docs bench clean

help:
	@echo "make demo      audit real data and write report.html"
	@echo "make test      run the tests"
	@echo "make test-all  also the slow ones"
	@echo "make test-min  the tests at the minimum versions"
	@echo "make doctest   run the examples of the docstrings"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build the documentation, warnings are errors"
	@echo "make bench     timings as ratios against peers"

.venv/.ready: $(SETUP)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[test]"
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	touch $@

.venv-min/.ready: $(SETUP) constraints-min.txt
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/python -m pip install $(PIP_FLAGS) -c constraints-min.txt -e ".[test]"
	touch $@

demo: .venv/.ready
	$(BIN)/python examples/demo.py report.html

test: .venv/.ready
	$(BIN)/python -m pytest -q -n auto -m "not slow"

test-all: .venv/.ready
	$(BIN)/python -m pytest -q -n auto

test-min: .venv-min/.ready
	.venv-min/bin/python -m pytest -q -n auto -m "not slow"

doctest: .venv/.ready
	$(BIN)/python -m pytest -q -n auto --doctest-modules skpoison

lint: .venv/.ready-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: .venv/.ready-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: .venv/.ready
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv .venv-min build dist docs/_build docs/generated docs/auto_examples
