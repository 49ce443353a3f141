# Everything works from a fresh clone with Python 3.11 or newer and nothing else installed: each target first makes .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install test lint format demo sim bench twins mutants clean

install: $(STAMP)

# uv resolves with the overrides that pyproject.toml states, which pip cannot; it lives in a small environment of its own.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	.tools/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(VENV) .tools/bin/uv pip install --quiet --compile-bytecode --editable . --group dev
	@touch $@

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install
	$(BIN)/wwwserve demo $(ARGS)

SEED ?= 7
sim: install
	$(BIN)/python -m benchmarks.simulation --seed $(SEED) $(ARGS)

# A validator of less than a third that runs twice, over N schedules, or over the one that SEED=... names.
N ?= 3000
twins: install
	$(BIN)/python -m tests.simulation.twins $(if $(filter file,$(origin SEED)),--count $(N),--seed $(SEED)) $(ARGS)

mutants: install
	$(BIN)/python -m tests.mutants.run $(ARGS)

bench: install
	for name in ledger verify gateway; do $(BIN)/python -m benchmarks.$$name --json results/$$name.json $(ARGS) || exit 1; done

clean:
	rm -rf .venv .tools .mypy_cache .ruff_cache .hypothesis build *.egg-info results
