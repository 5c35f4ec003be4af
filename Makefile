# Everything runs from a virtual environment in .venv that the first target to need it creates.
# `make PYTHON=python3.12 test` takes another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test viewer test-viewer lint format clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the package, the benchmark and their tools into .venv

$(STAMP): pyproject.toml benchmarks/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "roireg needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing);" \
		     "name another one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable ".[dev]" --editable "benchmarks[peers]"
	@touch $@

demo: $(STAMP) ## Register a synthetic pair, print the true error, write a report
	$(BIN)/roireg demo -o demo
	@echo "Open the report: $(CURDIR)/demo/report.html"

# Compiled tests are kept whatever the environment says: every worker and process would compile them again.
test: $(STAMP) ## Run the tests on $(WORKERS) cores
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=15

PAGES := src/roireg/serve/static/index.html
SOURCES := $(shell find viewer/src viewer/tests -type f 2>/dev/null) $(wildcard viewer/*.json viewer/*.ts viewer/*.html)

viewer: $(PAGES) ## Build the pages of the viewer into the package; needs Node.js 20 and npm

$(PAGES): viewer/node_modules/.package-lock.json $(SOURCES)
	cd viewer && npm run --silent build

viewer/node_modules/.package-lock.json: viewer/package-lock.json
	@command -v npm >/dev/null || { echo "the viewer's pages are built with npm, which is not here; install Node.js 20" >&2; exit 1; }
	cd viewer && npm ci --silent --no-audit --no-fund

test-viewer: $(STAMP) viewer ## Test the viewer in a headless browser; needs Node.js 20, npm and chromium
	cd viewer && npm test --silent
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider viewer/e2e

lint: $(STAMP) ## Check style, types, import order and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP) ## Apply the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment, caches and demo output
	rm -rf $(VENV) demo build dist viewer/node_modules src/roireg/serve/static src/*.egg-info benchmarks/src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
