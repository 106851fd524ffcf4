# Duologue. `make demo` is the place to begin; `make` alone lists what there is.

PY := .venv/bin/python
LEVEL ?= local
PINS := pyproject.toml scripts/setup
SEED ?=
ARGS ?=

.PHONY: help setup demo test lint bench soak pin test-live clean
.DELETE_ON_ERROR:

help:
	@echo "make demo [SEED=n]      a spoken call with a scripted caller, on this machine alone"
	@echo "make setup [LEVEL=...]  .venv with the library and local speech (LEVEL=core|local|all|dev)"
	@echo "make test [ARGS=...]    format, lint, types and all tests; ARGS goes to pytest"
	@echo "make lint               the first three alone"
	@echo "make bench [QUICK=1] [NAMES=...]   the benchmarks of docs/benchmarks.md"
	@echo "make test-live PROVIDER=openai|nova|gemini   the conformance calls with the real provider and your key; costs money"
	@echo "make soak               a day of conversation on each wire, and the property tests with a hundred times the examples"
	@echo "make pin                compile requirements/*.txt anew (needs uv)"
	@echo "make clean              remove .venv and what tests and builds leave behind"

setup: .venv/ready-$(LEVEL)

# A stamp for each level. What a level installs holds what the smaller ones do, so it stamps these too.
.venv/ready-%: requirements/%.txt $(PINS)
	@scripts/setup $*
	@for level in $(LEVELS_$*); do touch .venv/ready-$$level; done

LEVELS_core := core
LEVELS_local := core local
LEVELS_all := core local all
LEVELS_dev := core local all dev

demo: .venv/ready-local
	@.venv/bin/duologue demo $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: .venv/ready-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy src

test: .venv/ready-dev
	@scripts/system-packages chromium espeak-ng libportaudio2 fonts-dejavu-core
	@$(MAKE) --no-print-directory lint
	@$(PY) -m pytest -q $(ARGS)

test-live: .venv/ready-dev
	@test -n "$(PROVIDER)" || { echo "make test-live PROVIDER=openai|nova|gemini (or local: this machine's own speech)"; exit 2; }
	@$(PY) -m pytest -v tests/conformance --live $(PROVIDER) $(ARGS)

bench: .venv/ready-dev
	@$(PY) -m benchmarks $(if $(QUICK),--quick) $(NAMES)

soak: .venv/ready-dev
	@DUOLOGUE_SOAK_HOURS=24 $(PY) -m pytest -q --timeout=3600 tests/soak
	@$(PY) -m pytest -q --timeout=3600 --hypothesis-profile=soak --ignore=tests/soak $(ARGS)

pin:
	@scripts/pin --upgrade

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
