# Each target sets up what it needs in .venv; nothing but Python 3.11, pip and make
# is expected. Continuous integration runs these targets and no others.

PYTHON ?= python3
# what is installed is compiled when it is first imported: most of it never is
PIP_FLAGS ?= --quiet --disable-pip-version-check --no-compile
export OMP_NUM_THREADS ?= 1

BIN = .venv/bin
SETUP = pyproject.toml setup.cfg constraints.txt
# a file's tests run in one process, which makes their fixtures once
PYTEST = -m pytest -q -n auto --dist loadfile

.PHONY: help demo test test-slow test-all test-min test-seeds doctest lint docs dist bench clean

help:
	@echo "make demo      audit real data and write report.html"
	@echo "make test      run the tests"
	@echo "make test-slow the tests that take more than half a second each"
	@echo "make test-all  all of them"
	@echo "make test-min  the tests at the minimum versions"
	@echo "make test-seeds  property, fuzz and kill tests with ten seeds"
	@echo "make doctest   run the examples of the docstrings"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build the documentation, warnings are errors"
	@echo "make dist      build and check wheel and source distribution"
	@echo "make bench     timings as ratios against peers"

.venv/.ready-demo: $(SETUP)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[audit]"
	touch $@

.venv/.ready: .venv/.ready-demo
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[test]"
	touch $@

.venv/.ready-dev: .venv/.ready
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	touch $@

.venv-min/.ready: $(SETUP) constraints-min.txt
	$(PYTHON) -m venv .venv-min
	.venv-min/bin/python -m pip install $(PIP_FLAGS) -c constraints-min.txt -e ".[test]"
	touch $@

demo: .venv/.ready-demo
	$(BIN)/python examples/demo.py report.html

test: .venv/.ready
	$(BIN)/python $(PYTEST) -m "not slow and not long"

test-slow: .venv/.ready
	$(BIN)/python $(PYTEST) -m "slow and not long"

test-all: .venv/.ready
	$(BIN)/python $(PYTEST)

test-seeds: .venv/.ready
	for seed in 1 2 3 4 5 6 7 8 9 10; do \
		HYPOTHESIS_SEED=$$seed SKPOISON_KILL_SEED=$$seed $(BIN)/python $(PYTEST) \
		tests/properties tests/reliability/test_kill_and_resume.py || exit 1; \
	done

test-min: .venv-min/.ready
	.venv-min/bin/python $(PYTEST) -m "not slow and not long"

doctest: .venv/.ready
	$(BIN)/python $(PYTEST) --doctest-modules skpoison

lint: .venv/.ready-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

docs: .venv/.ready-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	SKPOISON_SITE=docs/_build/html $(BIN)/python -m pytest -q docs/test_site.py

dist:
	rm -rf build dist
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install $(PIP_FLAGS) build twine
	.venv-dist/bin/python -m build --outdir dist
	.venv-dist/bin/python -m twine check --strict dist/*

.venv-bench/.ready: $(SETUP) benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt \
		-e ".[test]" -r benchmarks/peers.txt
	touch $@

bench: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/run.py \
		--json benchmarks/results.json --plot benchmarks/results.svg

clean:
	rm -rf .venv .venv-bench .venv-dist .venv-min build dist
	rm -rf docs/_build docs/generated docs/auto_examples
