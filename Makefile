# Every target sets up its own environment, .venv, on first use; PYTHON=python3.12 chooses the interpreter for it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# modules side by side: most of a test is tracing, which takes one core
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope

export TF_CPP_MIN_LOG_LEVEL := 3

.NOTPARALLEL:
.PHONY: help run test nightly campaign check lint docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

run: $(VENV)/.demo ## train, attack and export a small defended model: keras-fim demo
	@$(BIN)/keras-fim demo

test: $(VENV)/.dev ## all tests and docstring examples but the nightly ones
	$(PYTEST) -m "not nightly"

nightly: $(VENV)/.dev ## the tests that take minutes each
	$(PYTEST) -m nightly

campaign: $(VENV)/.dev ## try to lose a run or get past the checks, for hours; the table goes to results/campaign
	$(BIN)/python -m tests.campaign --out results/campaign

check: lint ## the gate before a commit, some four minutes: lint, fast tests, docstring examples
	$(PYTEST) -m "not slow and not nightly"

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the site into site/
	$(BIN)/python -m sphinx -q -W docs site

clean: ## remove the environment, builds and caches
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says that an install went through; when pyproject.toml is newer, pip is called again.
$(VENV)/.demo: pyproject.toml setup.py constraints.txt
	$(call install,demo)
	@touch $@

$(VENV)/.dev: pyproject.toml setup.py constraints.txt
	$(call install,demo$(comma)detection$(comma)ray$(comma)serving$(comma)dev$(comma)peers)
	@touch $(VENV)/.demo $@

$(VENV)/.docs: pyproject.toml setup.py
	$(call install,demo$(comma)docs)
	@touch $@

comma := ,

# What the installer says is shown if it fails.
define install
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(check_python) && $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV), which takes a few minutes the first time"
	@log=$$(mktemp); { $(BIN)/python -m pip install --quiet --upgrade pip && \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(1)]'; } >"$$log" 2>&1 || \
	  { cat "$$log" >&2; rm -f "$$log"; exit 1; }; rm -f "$$log"
endef

define check_python
$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "keras_fim needs Python 3.10 to 3.13, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	    "Name one that fits, for example: make $(or $(firstword $(MAKECMDGOALS)),run) PYTHON=python3.12" >&2; exit 1; }
endef
