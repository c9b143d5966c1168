PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart check test lint setup clean

quickstart: $(READY)  ## set up if needed, then train and compare three backbones on digits
	$(BIN)/python -m bench.run --suite quickstart

setup: $(READY)  ## create the virtual environment with all dependencies

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev,tensorboard]'
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true  # on all cores; some packages contain files for other Python versions
	@touch $@

lint: $(READY)  ## check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint  ## set up if needed, then run lint and the unit tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/integration -m 'not long and not slow and not gpu'

test: lint  ## set up if needed, then run lint and all tests but the slow ones and those for a GPU
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

clean:  ## remove runs and caches; keep records
	rm -rf results/runs results/cache .pytest_cache .mypy_cache .ruff_cache
