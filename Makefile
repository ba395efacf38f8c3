# Tunesmith's two commands are `make demo` and `make test`; `make help` lists the others.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# On Linux without a GPU, name PyTorch's CPU wheel index here to save gigabytes: make venv TORCH_INDEX=URL
TORCH_INDEX ?=
TORCH := torch==2.13.0
PYTEST := $(BIN)/python -m pytest
OLDEST := .venv-oldest
OLDEST_STAMP := $(OLDEST)/.ready
OLDEST_TORCH ?= $(shell grep '^torch==' constraints-oldest.txt)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all test-faults mutants test-oldest check lint types docs bench audit clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

venv: $(STAMP)  ## set up .venv with pinned versions

# torch comes first and alone, so that nothing else can draw in another build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Tunesmith needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

demo: venv  ## teach a real small model something and see it before and after (about 5 minutes on two cores)
	$(BIN)/tunesmith demo

test: venv  ## the quick tests, offline
	$(PYTEST) -m "not slow and not sweep" -n 2 --dist loadfile

test-all: venv  ## every test that needs no GPU, the real demos and the extras included
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev,gguf,rewards,reasoning-gym]'
	$(PYTEST) -m "not sweep"

test-faults: venv  ## every fault of docs/faults.md: kills, signals and full disks at every write (about 20 minutes)
	$(PYTEST) tests/faults -n 2

mutants: venv  ## take one guard out at a time: a test has to turn red for each (about 11 minutes)
	$(BIN)/python tests/mutants.py

test-oldest: $(OLDEST_STAMP)  ## the quick tests with the lowest versions supported (docs/versions.md)
	$(OLDEST)/bin/python -m pytest -m "not slow and not sweep" -n 2 --dist loadfile

# torch is left out of the constraints, so that OLDEST_TORCH can name another.
$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet $(OLDEST_TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	grep -v '^torch==' constraints-oldest.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[train,dev]'
	@touch $@

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

check: lint types test  ## lint, types, the shape of the code, tests

docs: venv  ## write docs/cli.md and docs/findings.md anew
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_findings.py

bench: venv  ## every benchmark, on an idle machine (about an hour)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/cpu_speed.py
	$(BIN)/python benchmarks/validate_speed.py

audit: venv  ## known vulnerabilities in the pinned versions
	$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps

clean:  ## remove what the targets made
	rm -rf $(VENV) $(OLDEST) .pytest_cache .mypy_cache .ruff_cache
