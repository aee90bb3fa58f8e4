# The commands of this project; `make help` lists them. Paths are relative and quoted: the folder's name may hold spaces.
# PYTHON=/path/to/python3.11 chooses the interpreter, VENV=folder the virtual environment.

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$p"; break; fi; done)
PY = "$(VENV)/bin/python"
PYTEST = $(PY) -m pytest
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup test test-all lint demo docs

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s%s\n", $$1, $$2 }' Makefile

# The stamp holds what the environment depends on, so that a second run installs nothing and a change installs again. It is
# written last: an interrupted installation is taken up again.
setup:  ## create the virtual environment and install everything, with the exact versions of constraints.txt
	@want="$$(cat pyproject.toml constraints.txt | cksum) $$(pwd)"; \
	if [ -f "$(VENV)/setup-stamp" ] && [ "$$(cat "$(VENV)/setup-stamp")" = "$$want" ] && $(PY) -c '' 2>/dev/null; then exit 0; fi; \
	set -e; \
	if ! $(PY) -c '' 2>/dev/null; then \
		if ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Python 3.11 or newer is needed (found: '$(PYTHON)'); say make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; exit 1; fi; \
		echo "Creating the virtual environment $(VENV) with $(PYTHON)"; \
		clear=; if [ -f "$(VENV)/pyvenv.cfg" ]; then clear=--clear; fi; \
		"$(PYTHON)" -m venv $$clear "$(VENV)"; \
	fi; \
	rm -f "$(VENV)/setup-stamp"; \
	echo "Installing the dependencies (several GB at the first time)"; \
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt setuptools; \
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"; \
	echo "$$want" > "$(VENV)/setup-stamp"

lint: setup  ## ruff check, ruff format --check, mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

test: lint  ## lint, then the fast tests, two at a time
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2

test-all: lint  ## lint, then all tests, the slow ones too (an hour)
	@OMP_NUM_THREADS=1 $(PYTEST) -n 2 -m "" --timeout 3000

demo: setup  ## adapt the bundled restorer to noisy photos and compare, in a few minutes
	@$(PY) examples/demo.py

docs: setup  ## build the documentation with its API pages into site/, without network; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet && echo "site/index.html"
