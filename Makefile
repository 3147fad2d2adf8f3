# The commands of this project; each installs what it needs first (.ci/setup, root).
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-evidence check mutants fuzz bench clean
EVIDENCE ?= ../shared/evidence
BIN := .venv/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/doorstep
# Services run as users of their own: they must reach our code also where it lies in root's home.
SEEN := unshare --mount $(BIN)/python -m bootstrap.rehearsal.view $(CACHE) --

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

setup: ## install distribution packages and the Python environment
	@.ci/setup

demo: setup ## rehearse a whole site with a virtual box, then attack it
	@$(BIN)/doorstep rehearse --attacks $(if $(JSON),--json)

test: setup ## every test, virtual machines included
	@mkdir -p $(CACHE)
	$(SEEN) $(BIN)/python -m tests

test-evidence: setup ## what needs evidence of real machines (EVIDENCE=DIR)
	@[ -d "$(EVIDENCE)" ] || { echo "no directory $(EVIDENCE): make test-evidence EVIDENCE=DIR" >&2; exit 1; }
	DOORSTEP_EVIDENCE=$(abspath $(EVIDENCE)) $(BIN)/pytest tests/evidence

check: setup ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mutants: setup ## delete each check of the verifier and of keys in turn: a test must fail (ONLY=quote,keys.lease)
	$(BIN)/python -m tests.mutants $(ONLY)

fuzz: setup ## any bytes into each wire format (TIME=60 seconds each, ONLY=NAME, EVIDENCE=DIR)
	$(BIN)/python -m tests.fuzz run --seconds $(or $(TIME),60) $(if $(wildcard $(EVIDENCE)),--evidence $(EVIDENCE)) $(ONLY)

bench: setup ## figures beside their peers' (build/bench.json; ONLY=verify)
	@mkdir -p $(CACHE)
	$(SEEN) $(BIN)/python -m tests.bench $(ONLY)

clean: ## remove what was built; keeps downloads
	rm -rf build/rehearsal build/bench.json
