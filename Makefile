# Every path is relative, so that the clone may live in a folder with a space in its name.
PYTHON ?= python3
# Where pip finds a build of torch for CPUs, this line takes it; torch comes by pip and before everything else.
TORCH := torch==2.13.0
PY := .venv/bin/python
SOURCES := api core docs launch migrations modelpress runner tools workers

.DEFAULT_GOAL := help
.PHONY: help demo up test check format openapi docs constraints clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv/product ## Install, start everything, make a shipped network smaller and prove it
	$(PY) -m modelpress demo

up: .venv/product ## Start a service on this machine and print a sign-in link
	$(PY) -m modelpress up

test: .venv/checks ## Run the whole suite; T=tests/launch runs a part
	$(PY) tools/run_tests.py $(T)

check: .venv/checks ## Everything that must hold: style, types, contracts, drift, tests (.ci/run runs this)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy $(SOURCES)
	.venv/bin/lint-imports --no-logo
	$(PY) docs/generate.py --check
	$(PY) tools/run_tests.py
	$(PY) tools/run_tests.py --servers

format: .venv/checks ## Put the code into shape
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

openapi: .venv/checks ## Write docs/openapi.json anew
	$(PY) -m api.openapi docs/openapi.json

docs: .venv/checks openapi ## Write the generated pages anew
	$(PY) docs/generate.py

constraints: .venv/checks ## Write constraints.txt from the versions that are installed
	$(PY) tools/write_constraints.py

clean: ## Remove the environment and what the tools left; data in .modelpress and .demo stays
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/torch: | .venv/bin/python
	$(PY) -m pip install -q '$(TORCH)' -c constraints.txt
	@touch .venv/torch

.venv/product: pyproject.toml constraints.txt .venv/torch
	$(PY) -m pip install -q -e . -c constraints.txt
	@touch .venv/product

.venv/checks: pyproject.toml constraints.txt .venv/product
	$(PY) -m pip install -q -e '.[test]' -c constraints.txt
	@touch .venv/checks
