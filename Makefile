# make run     install everything, the inlet command included, and serve on the embedded store
# make test    install everything and run the tests, in parallel; as root, also the Debian packages that some tests need
# make check   lint, types, security and tests
# make lint    lint (ruff), types (mypy), security (bandit, pip-audit)
# make bench   build the benchmark's peers and run every comparison (40 minutes; needs Go, Rust and wrk)
# make bench-quick   the loads and peers that show whether something became slower (5 minutes)
# make bench-options   what keys, quotas and dedup cost, in pairs (5 minutes)
# make bench-receivers   the receivers of shippers' protocols against a Go service of the same (13 minutes; needs Go)
# make faults  run the fault suite and print its table
# make soak    a million events exactly once over kill -9 (3 minutes); then ten minutes of load, random faults and killed
#              consumers; SOAK_ARGS='--minutes 60 --seed 1' for others
# make clean   remove the virtual environment, all caches, and what the tests of clients have installed

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
GUNICORN_ARGS ?=
SOAK_ARGS ?=
# Most tests wait for a store, a server or a deadline, so more processes than cores pay off. TEST_PROCESSES=0 runs the
# tests in one process, as a debugger needs it.
TEST_PROCESSES ?= 4
PYTEST_ARGS ?=

.PHONY: run test check programs lint peers bench bench-quick bench-options bench-receivers faults soak clean

run: $(VENV)/run.stamp
	@$(BIN)/python -m wsgi.settings
	exec $(BIN)/gunicorn app:application $(GUNICORN_ARGS)

test: $(VENV)/test.stamp programs
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) $(PYTEST_ARGS)

check: lint test

programs:
	@.ci/programs

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive app.py gunicorn.conf.py inlet wsgi
	$(BIN)/python -m tests.audit

peers: $(VENV)/test.stamp
	$(BIN)/python -m bench peers

bench: peers
	$(BIN)/python -m bench compare --minutes 37
	$(BIN)/python -m bench memory

bench-quick: peers
	$(BIN)/python -m bench compare --quick

bench-options: $(VENV)/test.stamp
	$(BIN)/python -m bench.options

bench-receivers: peers
	$(BIN)/python -m bench.receivers

faults: $(VENV)/test.stamp
	$(BIN)/python -m tests.faults

soak: $(VENV)/test.stamp
	$(BIN)/python examples/exactly_once.py --events 1000000 --pause 3 --seconds-max 1800
	$(BIN)/python -m tests.faults.soak $(SOAK_ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis inlet.egg-info build tests/clients/.cache tests/clients/node/*/node_modules

# Debian packages ensurepip apart from Python. As root, install it; otherwise venv prints which package to install.
$(BIN)/python:
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || test "$$(id -u)" != 0 || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)

# Two steps: the pinned versions come from the requirements, and the package adds only itself and its command.
$(VENV)/run.stamp: requirements.txt pyproject.toml | $(BIN)/python
	$(PIP) install -r requirements.txt
	$(PIP) install --no-deps --editable .
	touch $@

$(VENV)/test.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(PIP) install -r requirements-dev.txt
	touch $@
