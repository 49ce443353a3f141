# Everything works from a fresh clone with Python 3.11 or newer and nothing else installed: each target first makes .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install test test-abuse-long test-nat test-nat-long lint format demo sim bench figures overlay twins crash mutants clean

install: $(STAMP)

# uv resolves with the overrides that pyproject.toml states, which pip cannot; it lives in a small environment of its own.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	.tools/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(VENV) .tools/bin/uv pip install --quiet --compile-bytecode --editable . --group dev
	@touch $@

# One worker a core; the tests of a file stay together, for what they share.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Floods and broken peers against a node as it is shipped, with thousands of handshakes. Takes ten minutes and more.
test-abuse-long: install
	$(BIN)/python -m pytest tests/adversarial/test_abuse_connections.py tests/adversarial/test_abuse_protocols.py \
		--long --timeout 900 $(ARGS)

# Private nodes behind NATs, in network namespaces. Takes root; without, one line says so.
test-nat: install
	$(BIN)/python -m pytest tests/nat $(ARGS)

# With every combination of NATs, and ten minutes of churn.
test-nat-long: install
	$(BIN)/python -m pytest tests/nat --long $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.figures --check
	$(BIN)/python docs/pictures/draw.py --check

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

# Real processes that die at every durable write in turn; ARGS="--scenario repair --at 3 --after" is one of them.
crash: install
	$(BIN)/python -m tests.adversarial.crash_everywhere $(ARGS)

mutants: install
	$(BIN)/python -m tests.mutants.run $(ARGS)

# All benchmarks, one after the other; ARGS=--quick takes minutes, ARGS="gateway ledger" runs two of them in full.
bench: install
	$(BIN)/python -m benchmarks $(ARGS)

# The tables and pictures in the documents: from the JSON in docs/figures, and from the imports. ARGS=--publish takes over
# the full runs in results first, ARGS=--check only compares.
figures: install
	$(BIN)/python -m benchmarks.figures $(ARGS)
	$(BIN)/python docs/pictures/draw.py $(ARGS)

# Five networks of each size instead of one.
overlay: install
	$(BIN)/python -m benchmarks.overlay --networks 5 $(ARGS)

clean:
	rm -rf .venv .tools .mypy_cache .ruff_cache .hypothesis build *.egg-info results
