# Everything a developer or a newcomer runs; `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check peers oracle clean

PYTHON ?=
WORKERS ?= 2
BIN := .venv/bin
PEERS := .venv-peers/bin
# Twice quiet: warnings about unused package indexes would drown the rest.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check
QUICKSTART := --config=configs/quickstart.py --workdir=runs/quickstart

# Prints the first interpreter of the given versions that really starts: on
# the path, else one of pyenv's own, whose shims refuse inactive versions.
define find_python
  for version in $(1); do \
    for python in python$$version \
        "$$(pyenv root 2>/dev/null)"/versions/$$version.*/bin/python; do \
      if "$$python" -c 'import ensurepip, sqlite3, ssl, venv' 2>/dev/null; \
        then echo "$$python"; exit 0; fi; \
    done; \
  done; \
  echo 'make: none of Python $(1) starts with the modules ensurepip, sqlite3,' \
    'ssl and venv; install one, or name one with PYTHON=' >&2; exit 1
endef

help:
	@echo 'make setup       create .venv and install (PYTHON= picks an interpreter)'
	@echo 'make quickstart  fine-tune experts, search their merge, write a report'
	@echo 'make test        all tests (WORKERS=$(WORKERS))'
	@echo 'make check       lint, format and types'
	@echo 'make peers       create .venv-peers with torch and mergekit'
	@echo 'make oracle      compare with those, live'
	@echo 'make clean       remove caches and build products'

setup: .venv/.installed
	@test -z "$(PYTHON)" || \
	  test "$$($(PYTHON) --version)" = "$$($(BIN)/python --version)" || \
	  { echo "make: .venv holds $$($(BIN)/python --version), not $(PYTHON);" \
	    'remove .venv to change it' >&2; exit 1; }

.venv/.installed: setup.py
	@if ! test -x $(BIN)/python; then \
	  python="$(PYTHON)"; \
	  if test -z "$$python"; then \
	    python="$$($(call find_python,3.13 3.12 3.11))" || exit 1; \
	  fi; \
	  echo "creating .venv with $$("$$python" --version), a few minutes"; \
	  "$$python" -m venv .venv; \
	fi
	@$(BIN)/python $(PIP_INSTALL) -e '.[test]'
	@touch $@

quickstart: setup
	@$(BIN)/python -m experiments.finetune $(QUICKSTART)
	@$(BIN)/python -m experiments.search $(QUICKSTART)
	@echo 'The report: runs/quickstart/report.html'

test: setup
	@$(BIN)/python -m pytest -n $(WORKERS)

check: setup
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyrefly check
	@$(BIN)/python -m experiments.tables --check

peers: .venv-peers/.installed

.venv-peers/.installed: tests/peers.txt
	@if ! test -x $(PEERS)/python; then \
	  python="$$($(call find_python,3.11))" || exit 1; \
	  "$$python" -m venv .venv-peers; \
	fi
	@$(PEERS)/python $(PIP_INSTALL) -r tests/peers.txt
	@touch $@

oracle: setup peers
	@$(BIN)/python -m pytest tests/oracle -m oracle \
	  -o python_files='*_oracle.py' --hypothesis-profile=default

clean:
	@rm -rf build .pytest_cache .ruff_cache .hypothesis
	@find automerge_jax configs experiments tests -name __pycache__ \
	  -exec rm -rf {} +
