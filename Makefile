# make run    set everything up and serve on the embedded store
# make test   set everything up and run the tests
# make check  the tests, lint and types
# make bench  build the benchmark's peers and run every comparison (an hour; needs Go, Rust and wrk)
# make faults run the fault suite and print its table
# make soak   ten minutes of load under random faults

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GUNICORN_ARGS ?=

.PHONY: run test check lint peers bench faults soak clean

run: $(VENV)/run.stamp
	@$(BIN)/python -m wsgi.settings
	exec $(BIN)/gunicorn app:application $(GUNICORN_ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest

check: lint test

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

peers: $(VENV)/test.stamp
	$(BIN)/python -m bench peers

bench: peers
	$(BIN)/python -m bench compare --seconds 5 --connections 16,64,256 --rounds 5 --json bench/results/compare.json
	$(BIN)/python -m bench memory

faults: $(VENV)/test.stamp
	$(BIN)/python -m tests.faults

soak: $(VENV)/test.stamp
	$(BIN)/python -m tests.faults.soak

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Debian ships ensurepip apart from Python: with root's rights it is installed, else venv says what to do.
$(BIN)/python:
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || test "$$(id -u)" != 0 || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/test.stamp: requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/run.stamp
