# Two commands: `make demo` repairs a real library, `make test` runs every test. Both set up by themselves.
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that a test tier runs in; 0 is none beside pytest itself, as a debugger needs it.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-unit test-loops test-integration test-escape bench-sandbox bench-loops bench-kills test-e2e real-cases lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup:  ## make the virtual environment (skipped when nothing changed)
	@ops/setup.sh

demo: setup  ## repair a real bug of a real library with the default model, and print the patch
	@ops/demo.sh

test: setup lint test-unit test-integration test-e2e  ## everything that CI runs

lint: setup  ## style, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-unit: setup  ## a minute or two; no model, no engine, no network
	$(PYTEST) tests/unit

test-loops: setup  ## what every looped decoder promises (T1 to T9), for every family on tiny networks
	$(PYTEST) tests/unit/loops

test-integration: setup  ## real sandboxes, Ray and vLLM on tiny checkpoints
	$(PYTEST) --dist loadfile --no-loadscope-reorder tests/integration

test-escape: setup  ## attacks on both sandboxes, one test each
	$(BIN)/python -m pytest tests/integration/escape

bench-sandbox: setup  ## what a sandbox costs over the bare command, cold and warm
	$(BIN)/loopwright sandbox build
	$(BIN)/python -m tests.benchmarks.sandbox.overhead

bench-loops: setup  ## what depth costs: against stock vLLM, mixed batches against ideal, masked and apart
	$(BIN)/loopwright model pull
	$(BIN)/python -m tests.benchmarks.loops.cost

bench-kills: setup  ## 50 kills at random moments: what is left, and whether the work comes to the same end
	$(BIN)/loopwright sandbox build
	$(BIN)/python -m tests.benchmarks.sandbox.kills

test-e2e: setup  ## the real models (downloaded once: 1.6 GB)
	$(BIN)/loopwright model pull
	$(BIN)/python -m pytest tests/e2e

real-cases: setup  ## solve rate on the historical bugs, by recurrence depth (an hour or more)
	$(BIN)/python -m tests.benchmarks.real_cases.run

lock: ## resolve the dependencies anew
	ops/lock.sh

clean:  ## remove what the build made (not the model, not the runs)
	rm -rf $(VENV) .loopwright .mypy_cache .ruff_cache .pytest_cache
