PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint nightly schema docs clean

run: .venv/ready  ## the main job: every bundled and synthetic case that takes seconds, judged; writes runs/main/summary.md
	$(BIN)/harness run scenarios -k "not slow and not hub and not mindspore" --device cpu --jobs 2 --out runs/main

test: .venv/ready lint  ## what CI runs
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

nightly: .venv/ready  ## everything that this machine can run, the slow cases too
	$(BIN)/python -m pytest
	$(BIN)/harness run scenarios --jobs 2 --out runs/nightly

schema: .venv/ready  ## the JSON Schemas of scenarios and of the files that the harness writes
	$(BIN)/python -m harness.scenario.fields > harness/data/scenario.schema.json
	$(BIN)/python -m harness.store.schemas
	$(BIN)/python -m harness.gate.policy_file > harness/data/policy.schema.json
	$(BIN)/python -m harness.gate.schema > harness/data/gate.schema.json

docs: .venv/ready  ## the site of the documentation, into build/site; a broken link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch,dev]"
	touch $@

clean:
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache
