# Two commands do everything on a machine with Python 3.11+, make and git:
#   make demo    environment, installation, pictures in out/
#   make test    environment, installation, the whole suite
# Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs wheel clean

help:  ## show these lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1	/'

# The stamps make the steps incremental: the environment is made once, and packages are installed
# again only when what they are installed from has changed.
$(VENV)/stamp-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "masactrl needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/stamp-run: $(VENV)/stamp-python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e .
	@touch $@

$(VENV)/stamp-dev: $(VENV)/stamp-run
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,layout,lora,prompts,video,bench,app,docs]'
	@touch $@

$(VENV)/stamp-browser: $(VENV)/stamp-dev scripts/get_browser.py
	@$(BIN)/python scripts/get_browser.py
	@touch $@

demo: $(VENV)/stamp-run  ## make consistent pictures with the embedded model, in out/
	$(BIN)/masactrl demo -o $(OUT) --overwrite

test: $(VENV)/stamp-dev $(VENV)/stamp-browser  ## run the whole test suite
	scripts/test

check: $(VENV)/stamp-dev  ## style, format and types
	scripts/check

format: $(VENV)/stamp-dev  ## repair style and format where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/stamp-dev  ## build the site of the documentation into site/, warnings as errors
	scripts/docs

wheel: $(VENV)/stamp-dev  ## build the wheel into dist/
	$(BIN)/hatchling build -t wheel

clean:  ## remove the environment and what was made
	rm -rf $(VENV) build dist out site .mypy_cache .pytest_cache .ruff_cache
