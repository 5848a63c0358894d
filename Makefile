# Two commands to know: `make demo` and `make test`. Both work on a fresh clone with Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTING := $(VENV)/.testing
MEASURING := $(VENV)/.measuring
WORKERS ?= 3

.PHONY: help demo test lint types check-servers chaos bench bench-peers format clean

help:            ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,fast]'
	@touch $@

$(TESTING): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(INSTALLED)

$(MEASURING): $(TESTING)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

demo: $(INSTALLED)  ## two PostgreSQL servers, a SQLite warehouse, changes flowing between them
	$(BIN)/sync-hub demo $(DEMO)

lint: $(TESTING)  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(TESTING)  ## mypy --strict
	$(BIN)/mypy

check-servers: $(TESTING)
	./tests/servers/install.sh

test: $(TESTING) check-servers lint types  ## linters, types and all tests, on real servers
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --reruns 2

chaos: $(TESTING) check-servers  ## ROUNDS=200 of faults at random, BROKER=embedded|kafka|both, SEED= to repeat; then stalls, sizes
	$(BIN)/python -m tests.chaos --rounds $(or $(ROUNDS),20) --broker $(or $(BROKER),both) --seed $(or $(SEED),0)
	$(BIN)/python -m tests.chaos.stalls
	$(BIN)/python -m tests.chaos.sizes

bench: $(MEASURING) check-servers  ## what the hub and PostgreSQL itself reach here; BENCH="--leg capture --repeats 5"
	$(BIN)/python -m benchmarks $(PEERS) $(BENCH)

bench-peers: PEERS = --peers
bench-peers: bench  ## the same, beside Debezium on Kafka Connect (fetched by Maven)

format: $(TESTING)  ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:           ## remove what the targets made
	rm -rf $(VENV) .sync-hub build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
