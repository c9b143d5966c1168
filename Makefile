PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test lint setup clean

quickstart: $(READY)  ## set up, then train and compare three backbones on digits
	$(BIN)/python -m bench.run --suite quickstart

setup: $(READY)  ## the virtual environment with everything in it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev,tensorboard]'
	@$(BIN)/python -m compileall -qq -j 0 -x /tests/ $(VENV)/lib || true  # on all cores; some packages ship files of other Pythons
	@touch $@

lint: $(READY)  ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint  ## set up if needed, then lint, types, layers and the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

clean:  ## remove runs and caches, keep records
	rm -rf results/runs results/cache .pytest_cache .mypy_cache .ruff_cache
