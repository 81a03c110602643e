# `make demo` and `make test` work in a fresh clone: each first makes .venv, or brings it up to date.
# Choose the interpreter with `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamp

.PHONY: venv demo test mutations lint perf leaderboard ci-leaderboard docs house screenshots clean

venv: $(STAMP)

# torch goes first and alone: the rest then finds it installed, and never asks for another build of it.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "rph needs Python 3.11 or newer: '$(PYTHON)' is not installed; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rph needs Python 3.11 or newer: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip uninstall -qq --yes rph # what an older clone was called: both would bring the folder rph/
	$(BIN)/pip install -c constraints.txt torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e '.[docs,offline,new,report,serve,site,dev]'
	$(BIN)/pip install -c constraints.txt -e '.[ray]' || echo "no ray for this machine: its tests will be skipped"
	$(BIN)/pip install -c constraints.txt -e '.[browser]' || echo "no playwright for this machine: browser tests will be skipped"
	touch $@

demo: $(STAMP)
	$(BIN)/rph eval --bench synthetic --encoder lsa --router knn --router kmeans --router mlp --router elo

# A process per core with one thread each: tests run side by side, and threads beside threads would be slower.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

mutations: $(STAMP)
	$(BIN)/python tests/mutations.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

perf: $(STAMP)
	$(BIN)/python perf/run.py

leaderboard: $(STAMP)
	$(BIN)/rph leaderboard build leaderboard/results -o site

# The documentation site; a link that leads nowhere is an error.
docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# The picture of the rooms, drawn from their imports.
house: $(STAMP)
	$(BIN)/python docs/house.py

# Needs a browser: see .ci/browser.
screenshots: $(STAMP)
	$(BIN)/python tests/browser/screenshots.py docs/images

# What a pull request to the leaderboard must pass, as its workflow runs it: what CHANGE makes of what stands in BASE,
# each a folder or a commit. BASE=origin/main CHANGE=HEAD judges a branch before it is pushed.
BASE ?= HEAD
CHANGE ?= .
ci-leaderboard: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" .ci/leaderboard $(BASE) $(CHANGE)

clean:
	rm -rf $(VENV) build dist site site-docs perf/results harness/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find harness plugins tests perf -name __pycache__ -type d -prune -exec rm -rf {} +
