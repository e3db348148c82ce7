# The two commands are `make demo` and `make test`. Each sets up .venv from nothing with python3 and pip;
# when the set-up stands they start at once and use no network.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo serve-demo test lint format test-oldest test-serve readme clean help

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
SERVE := .venv-serve
OLDEST_TRANSFORMERS := 5.17.0
WORKERS ?= 2
PIP_FLAGS := --quiet --disable-pip-version-check --no-compile
# Tests and tables never wait for a network, and every process computes on one thread: with several of them on
# few cores more threads only get in each other's way.
OFFLINE := env HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
TEST_ENV := $(OFFLINE) OMP_NUM_THREADS=1
PYTEST := -m pytest -n $(WORKERS) --dist loadfile

help:
	@echo "make demo         questions about pictures, answered with and without pruning"
	@echo "make serve-demo   the embedded model behind vLLM's HTTP API, asked with curl, pruned and unpruned"
	@echo "make test         the test suite"
	@echo "make lint         ruff and mypy"
	@echo "make test-oldest  the test suite on transformers $(OLDEST_TRANSFORMERS)"
	@echo "make test-serve   the tests of the vLLM plug-in, in an environment of their own; QUICK=1 for the short ones"
	@echo "make format       let ruff sort imports and lay out the code"
	@echo "make readme       write the generated tables of README.md and docs anew"
	@echo "make clean        remove the environments and the caches"

demo: $(VENV)/.ready
	@$(OFFLINE) $(VENV)/bin/python -m evoprune demo

serve-demo: $(SERVE)/.ready
	@$(OFFLINE) VLLM_NO_USAGE_STATS=1 $(SERVE)/bin/python examples/serve_demo.py

test: $(VENV)/.ready
	@$(TEST_ENV) $(VENV)/bin/python $(PYTEST)

lint: $(VENV)/.ready
	@$(VENV)/bin/python -m ruff check src tests benchmarks examples docs
	@$(VENV)/bin/python -m mypy

format: $(VENV)/.ready
	@$(VENV)/bin/python -m ruff check --fix src tests benchmarks examples docs
	@$(VENV)/bin/python -m ruff format src tests benchmarks examples docs

# What does not depend on transformers is tested once, on the newest: tensor math, schedules, pages, of evaluation and the
# command line what runs no model of its own, and the training of the embedded models.
ONCE := ops golden show $(addsuffix .py,\
  $(addprefix evaluate/test_,arms catalogue compare export folder killed lmms_processes paper plots ranks real_tasks \
    results_page scores statistics summary tables) \
  $(addprefix tiny/test_,training video_training) \
  $(addprefix serve/test_,batch_rows bench_server command options probe) \
  $(addprefix test_,cli_eval errata package pruners schedules))
test-oldest: $(OLDEST)/.ready
	@$(TEST_ENV) $(OLDEST)/bin/python $(PYTEST) $(addprefix --ignore=tests/,$(ONCE))

# vLLM wants another torch and transformers, and its engines both cores: one test at a time. QUICK=1 leaves out Ray, the
# flood of wrong requests and the soak.
QUICK ?=
test-serve: $(SERVE)/.ready
	@test -n "$(QUICK)" || $(SERVE)/bin/python -c "import ray" 2>/dev/null || $(SERVE)/bin/python -m pip install $(PIP_FLAGS) "ray[data]>=2.60,<3"
	@$(TEST_ENV) EVOPRUNE_QUICK=$(QUICK) $(SERVE)/bin/python -m pytest tests/serve/vllm

$(SERVE)/.ready: pyproject.toml tests/serve/environment.sh
	@if ! cat $^ | cmp -s - $@; then \
	  echo "Setting up $(SERVE): vLLM for the CPU, a few minutes, once"; \
	  PYTHON=$(PYTHON) tests/serve/environment.sh $(SERVE); \
	fi
	@cat $^ > $@

readme: $(VENV)/.ready
	@$(OFFLINE) $(VENV)/bin/python docs/readme.py
	@$(OFFLINE) $(VENV)/bin/python benchmarks/report.py

# The stamp is a copy of pyproject.toml: a newer file with the same content (a checkout) installs nothing.
$(VENV)/.ready: pyproject.toml
	@if ! cmp -s pyproject.toml $@; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "evoprune needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11"; exit 2; }; \
	  echo "Setting up $(VENV): a few minutes, once"; \
	  test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV); \
	  $(VENV)/bin/python -m pip install $(PIP_FLAGS) torch torchvision; \
	  $(VENV)/bin/python -m pip install $(PIP_FLAGS) -e '.[dev]'; \
	fi
	@cp pyproject.toml $@

# The oldest transformers, over the packages of .venv: torch is neither fetched nor stored twice.
$(OLDEST)/.ready: $(VENV)/.ready
	@if ! cmp -s $< $@; then \
	  echo "Setting up $(OLDEST): transformers $(OLDEST_TRANSFORMERS) over $(VENV)"; \
	  $(PYTHON) -m venv --clear $(OLDEST); \
	  packages=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$packages')" \
	    > "$$($(OLDEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"; \
	  $(OLDEST)/bin/python -m pip install $(PIP_FLAGS) "transformers==$(OLDEST_TRANSFORMERS)"; \
	fi
	@cp $< $@

clean:
	rm -rf $(VENV) $(OLDEST) $(SERVE) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
