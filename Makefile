# `make demo` and `make test` are all that a new user needs; `make check` is what CI runs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   := $(VENV)/.demo
SELF   := $(VENV)/.self
TOOLS  := $(VENV)/.tools
ARGS   ?=

.PHONY: demo test test-fresh test-pips test-kernel explore check lint types contracts unit test-all bench lock clean deps run-tests

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

# Every lock with old and new pips, in an environment of its own; a pip before 23.2 needs Python 3.11.
PIPS ?= 23.0.1 23.2.1 23.3.2 24.0 25.0.1 26.0.1 26.3
test-pips: $(PIPS:%=.venv-pip-%/.tools)
	@rm -rf .venv-pip-* && echo "every lock installs with pip $(PIPS)"
.venv-pip-%/.tools:
	@$(MAKE) --no-print-directory VENV=.venv-pip-$* PIP_VERSION=$* $@ >.pip-$*.log 2>&1 || \
	    { tail -n 30 .pip-$*.log; exit 1; }
	@rm .pip-$*.log && echo "pip $*: all locks"

# The README's commands in bare roots of Debian; before each release. Needs root and debootstrap.
test-fresh:
	python3 -m release.fresh $(ARGS)

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
	$(LOCK) --constraint requirements-dev.lock --extra cloud --extra fleet pyproject.toml \
	    -o requirements-cloud.lock
	$(LOCK) --constraint requirements-dev.lock tests/drivers/peers/requirements.in \
	    -o tests/drivers/peers/requirements.lock
	$(LOCK) --constraint requirements-dev.lock --no-deps tests/kernel/requirements.in \
	    -o tests/kernel/requirements.lock
	$(MAKE) requirements-metadata.json

# What the packages say of themselves, so that a test without a network sees that no lock has a gap.
requirements-metadata.json: $(wildcard requirements*.lock) | $(TOOLS)
	$(BIN)/python -m release.metadata

# The locks are complete, so pip resolves nothing: pip before 23.3 would look for `name[extra]` afresh.
# In the environment an option that a later pip has no more is passed over.
INSTALL := PIP_USE_PEP517=1 $(BIN)/python -m pip --disable-pip-version-check install \
	    --no-deps --no-build-isolation

# A changed lock means a new environment: nothing of an older lock stays in it.
$(DEMO): requirements-build.lock requirements-demo.lock requirements-dev.lock
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 14) or sys.exit( \
	    "door-gateway needs Python 3.11 to 3.14: make PYTHON=python3.12 demo")'
	@echo "== Making $(VENV) and installing what the demo needs: 29 packages, half a minute to two"
	$(PYTHON) -m venv --clear $(VENV)
	$(if $(PIP_VERSION),$(BIN)/python -m pip install --quiet pip==$(PIP_VERSION))
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
