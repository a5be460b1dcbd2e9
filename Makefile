# Two commands matter: `make demo` and `make test`. Both set up .venv first, and only when it is missing or out of date.

# The Python that makes the virtual environment: the first of these that is new enough, or what you name in PYTHON=.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.set-up
PIP := $(RUN) -m pip --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo docs clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r target text; do \
		printf '  make %-8s %s\n' "$$target" "$$text"; done

setup: $(STAMP) ## Make .venv with the package and the pinned versions of all that it needs

# setuptools comes first, so that it too is the pinned one when it builds the package (hence no build isolation).
$(STAMP): pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "wavflow needs Python 3.11 or later, and none was found: install one, or name it:" \
		"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON must be Python 3.11 or later," \
		"got $$("$(PYTHON)" --version 2>&1) from $(PYTHON): name a newer one in PYTHON=." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks the modules venv and ensurepip:" \
		"install them (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Setting up $(VENV): torch and its CUDA libraries are some 3 GB to fetch, the first time."
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[dev]"
	$(PIP) install -c constraints.txt -e ".[eval]" || \
		echo "PESQ, ESTOI, DIO and WORLD are left out, since their libraries could not be built; the rest works without."
	@touch $@

# One thread per process: two processes with two threads each would fight for two cores.
test: $(STAMP) ## Run all tests (ARGS="-m 'not slow'" or ARGS=tests/test_flows.py runs some)
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(RUN) -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP) ## Check style, types, layers and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache

format: $(STAMP) ## Repair what `make lint` finds, as far as that goes by itself
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

demo: $(STAMP) ## Train a teacher, distil a student and write a report, in at most 10 minutes
	$(RUN) scripts/demo.py $(ARGS)

docs: $(STAMP) ## Build the documentation as a site, into site/
	$(PIP) install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

clean: ## Remove what building and testing left; .venv, runs and reports stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
