# `make` lists what there is. Every target does the set-up it needs.

PYTHON ?= python3
JOBS ?= 4# tests at a time: more than cores, as most of them wait
TESTS ?= tests
BENCHES = $(filter-out bench/_%,$(wildcard bench/*.py))
LOCKFLAGS ?=

BIN = .venv/bin
COMPILE = .cache/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --quiet $(LOCKFLAGS)

.PHONY: help system venv run test check format bench docs lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

system: ## install missing system packages (apt as root; elsewhere it tells what is missing)
	@PYTHON=$(PYTHON) scripts/system

venv: .venv/ready ## make .venv from the lock files
	@:

.venv/ready: requirements.lock requirements-dev.lock pyproject.toml
	@PYTHON=$(PYTHON) scripts/system python
	rm -rf .venv
	$(PYTHON) -m venv .venv
	@echo "installing Python packages into .venv: this takes a minute"
	$(BIN)/pip install -qq --no-deps --require-hashes -r requirements.lock -r requirements-dev.lock
	$(BIN)/pip install -qq --no-deps --no-index --no-build-isolation --editable .
	$(BIN)/pip check
	@touch $@

run: .venv/ready ## boot the example release here, and tell how to reach it
	@PYTHON=$(PYTHON) scripts/system run
	@$(BIN)/python examples/run.py

test: system .venv/ready ## run every test (TESTS=tests/unit narrows it down)
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS)

check: .venv/ready ## formatting, lint, types, layers, locks, generated docs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy bench/upgrade.py
	$(BIN)/lint-imports --no-logo
	$(BIN)/pip check
	$(BIN)/pytest --quiet tests/unit

format: .venv/ready ## format, and mend what the linter can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/ready ## measure; the last line of each benchmark is one JSON object
	@PYTHON=$(PYTHON) scripts/system bench
	@status=0; for bench in $(BENCHES); do \
		echo "== $$bench"; $(BIN)/python $$bench || status=1; done; exit $$status

docs: .venv/ready ## write docs/settings.md anew from the settings
	$(BIN)/python -c 'import pathlib, run_agent.settings as s; pathlib.Path("docs/settings.md").write_text(s.markdown())'

lock: .cache/lock/bin/uv ## fit the lock files to pyproject.toml (LOCKFLAGS=--upgrade for newer versions)
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) --group image --output-file requirements-image.lock
	$(COMPILE) --group dev --constraints requirements-image.lock --constraints requirements.lock --output-file requirements-dev.lock

.cache/lock/bin/uv:
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/pip install -qq uv

clean: ## remove everything that was made here
	rm -rf .venv .cache .run build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -rf .hypothesis examples/hello/*/_build
	find . -name __pycache__ -prune -exec rm -rf {} +
