# `make demo` and `make test` are all that a new user needs; `make check` is what CI runs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=

.PHONY: demo test test-kernel explore check lint types contracts unit test-all bench lock clean deps run-tests

demo: $(STAMP)
	@$(BIN)/python -m demo $(ARGS)

test: deps check

# Everything that CI runs, on a machine that has the tests' Debian packages.
check: $(STAMP) lint types contracts run-tests

# BLE against a stock kernel and the real bluetoothd in QEMU: needs root, and minutes. Not in `test`.
test-kernel: $(STAMP)
	@sh tests/kernel/run.sh $(BIN)/python

deps:
	@sh tests/deps.sh

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

run-tests: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist worksteal --cov --cov-report=term:skip-covered -q $(ARGS)

# The seconds-long part, for while you work.
unit: $(STAMP)
	$(BIN)/python -m pytest -q -m "not process" $(ARGS)

# The properties and state machines with other examples each time: `make explore` until it finds one.
explore: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist worksteal -q -m "hypothesis and not process" \
	    --hypothesis-profile=explore $(ARGS)

# The tests on every supported Python that is installed (python3.11, python3.12, python3.13).
test-all: deps
	@sh tests/all_pythons.sh

bench: $(STAMP)
	$(BIN)/python -m bench $(ARGS)

# Pins and hashes of everything, for every supported Python; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	    pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --custom-compile-command "make lock" --extra test \
	    --constraint requirements.lock pyproject.toml requirements-build.in -o requirements-dev.lock

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit( \
	    "door-gateway needs Python 3.11 to 3.13: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache
