# make run      the whole server, in the foreground
# make test     all tests
# make check    everything a change has to pass: lint, types, import directions, tests with coverage
# make lint     the first three of those
# make bench    the benchmarks (minutes)
# make clean    remove what these made; never the data folder
#
# PYTHON=python3.12 chooses the interpreter, TESTS=tests/ftp the tests, PYTEST=-x adds options of pytest.

PYTHON ?= python3
TESTS ?= tests
PYTEST ?=
# Four at a time, for tests wait for servers more than they compute; those of a file stay together, as they share them.
# Slow files come first (tests/conftest.py), not those with most tests.
PARALLEL ?= -n 4 --dist loadfile --no-loadscope-reorder

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input --quiet

BENCHMARKS ?= api cron ftp idle idle_sessions storm

# Images of Python often set it; then every one of the many processes that tests start would compile wsp anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run install test check lint bench clean
.DELETE_ON_ERROR:

run: .venv/installed
	@exec $(PY) -m wsp serve

install: .venv/installed-dev

test: .venv/installed-dev
	$(PY) -m pytest $(PARALLEL) $(PYTEST) $(TESTS)

check: lint .venv/installed-dev
	$(PY) -m pytest $(PARALLEL) --cov --cov-report=term $(PYTEST) $(TESTS)

lint: .venv/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

bench: .venv/installed-dev
	@for name in $(BENCHMARKS); do echo "== $$name"; $(PY) -m benchmarks.$$name || exit 1; done

clean:
	rm -rf .venv build dist .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "wsp needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making .venv"
	@$(PYTHON) -m venv --clear .venv

# Installed again only when what it depends on has changed.
.venv/installed: $(PY) pyproject.toml constraints.txt
	@echo "Installing wsp into .venv"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing what tests and checks need"
	@$(PIP) install 'pip>=25.1'  # the first that reads [dependency-groups]
	@$(PIP) install -c constraints.txt --group dev
	@touch $@
