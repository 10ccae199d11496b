# `make demo` and `make test` are all that a new user needs; `make check` is what CI runs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := $(VENV)/.demo
SELF   := $(VENV)/.self
TOOLS  := $(VENV)/.tools
ARGS   ?=

.PHONY: demo test test-kernel explore check lint types contracts unit test-all bench lock clean deps run-tests

demo: $(SELF)
	@$(BIN)/python -m demo $(ARGS)

test: deps check

# Everything that CI runs, on a machine that has the tests' Debian packages.
check: $(TOOLS) lint types contracts run-tests

# BLE against a stock kernel and the real bluetoothd in QEMU: needs root, and minutes. Not in `test`.
test-kernel: $(TOOLS)
	@sh tests/kernel/run.sh $(BIN)/python

deps:
	@sh tests/deps.sh

lint: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(TOOLS)
	$(BIN)/mypy

contracts: $(TOOLS)
	$(BIN)/lint-imports

run-tests: $(TOOLS)
	$(BIN)/python -m pytest -n 3 --dist worksteal --cov --cov-report=term:skip-covered -q $(ARGS)

# The seconds-long part, for while you work.
unit: $(TOOLS)
	$(BIN)/python -m pytest -q -m "not process" $(ARGS)

# The properties and state machines with other examples each time: `make explore` until it finds one.
explore: $(TOOLS)
	$(BIN)/python -m pytest -n 3 --dist worksteal -q -m "hypothesis and not process" \
	    --hypothesis-profile=explore $(ARGS)

# The tests on every supported Python that is installed (python3.11 to python3.14).
test-all: deps
	@sh tests/all_pythons.sh

bench: $(TOOLS)
	$(BIN)/python -m bench $(ARGS)

# Pins and hashes of everything, for every supported Python and both architectures; needs uv.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-annotate --custom-compile-command "make lock"
lock:
	$(LOCK) requirements-build.in -o requirements-build.lock
	$(LOCK) --constraint requirements-build.lock pyproject.toml -o requirements.lock
	$(LOCK) --constraint requirements-build.lock --constraint requirements.lock \
	    --extra demo pyproject.toml -o requirements-demo.lock
	$(LOCK) --constraint requirements-build.lock --constraint requirements-demo.lock \
	    --extra test pyproject.toml requirements-build.in -o requirements-dev.lock

# The locks are complete, so pip resolves nothing: pip before 23.3 would look for `name[extra]` afresh.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install \
	    --no-deps --no-build-isolation --use-pep517

# A changed lock means a new environment: nothing of an older lock stays in it.
$(DEMO): requirements-build.lock requirements-demo.lock requirements-dev.lock
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 14) or sys.exit( \
	    "door-gateway needs Python 3.11 to 3.14: make PYTHON=python3.12 demo")'
	@echo "== Making $(VENV) and installing what the demo needs: 29 packages, half a minute to two"
	$(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) --require-hashes -r requirements-build.lock
	$(INSTALL) --require-hashes -r requirements-demo.lock
	@touch $@

$(SELF): $(DEMO) pyproject.toml
	$(INSTALL) --editable .
	$(BIN)/python -m pip check
	@touch $@

$(TOOLS): $(SELF)
	@echo "== Installing what the tests need besides: 60 packages, about a minute"
	$(INSTALL) --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip check
	@touch $@

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache
