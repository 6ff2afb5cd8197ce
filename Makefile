# Every target works as the first command on a fresh clone: it makes .venv and installs what it
# needs under constraints.txt, and costs only seconds when nothing has changed.
#
#   make demo PYTHON=python3.12      choose the interpreter that .venv is made with
#   make demo TORCH_INDEX=<address>  ask this package index too: with PyTorch's CPU-only one, pip
#                                    takes its small build of torch instead of that with CUDA
#   make test WORKERS=0              run the tests in one process, for a debugger

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= auto

VENV := .venv
BIN := $(VENV)/bin
comma := ,
CHECK_PYTHON := import sys; sys.exit(sys.version_info < (3, 11) and \
  "probnet needs Python 3.11 or newer: make PYTHON=python3.12 ...")
CHECK_VENV := import pip, sys; sys.exit(sys.prefix == sys.base_prefix)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types imports docs bench clean

help:  ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.installed-plot  ## Bayesian regression on real data; results go to out/
	$(BIN)/python examples/bayesian_regression.py

test: $(VENV)/.installed-dev+plot  ## the default test run
	$(BIN)/python -m pytest --quiet --durations=10 -n $(WORKERS) --maxprocesses=4 --dist loadfile

lint: $(VENV)/.installed-dev+plot  ## formatting, lint and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(VENV)/.installed-dev+plot  ## type checker
	$(BIN)/basedpyright

imports: $(VENV)/.installed-dev+plot  ## import-layer contract
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs  ## the documentation, into docs/_build/html
	$(BIN)/sphinx-build -W -n --keep-going -q docs docs/_build/html

bench: $(VENV)/.installed-dev+plot  ## speed, beside other packages
	$(BIN)/python -m pytest tests/benchmarks -m benchmark -s --show-capture=no

clean:  ## remove results, builds and caches, but not .venv
	rm -rf out build dist docs/_build docs/gallery docs/sg_execution_times.rst examples/out
	rm -rf .benchmarks .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find inference probnet tests examples docs -name __pycache__ -prune -exec rm -rf {} +

# The stamp of a set of extras (joined by +) is written only after its installation succeeded.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing probnet-bayes[$(subst +,$(comma),$*)] into $(VENV) (minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[$(subst +,$(comma),$*)]'
	@touch $@

# An environment with a working pip is kept as it is; a missing or half-made one is (re)made.
$(VENV)/.created:
	@$(PYTHON) -c '$(CHECK_PYTHON)'
	@$(BIN)/python -c '$(CHECK_VENV)' 2>/dev/null || $(PYTHON) -m venv $(VENV)
	@touch $@
