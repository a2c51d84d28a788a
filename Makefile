PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(sort $(wildcard protos/dpst/v1/*.proto))
SERVICE_PROTOS := $(sort $(shell grep -l '^service ' $(PROTOS)))
PROTOC = PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos

.PHONY: help demo test check protos clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One install for everybody: CPU torch, the demo's sample photos, the tools of `make test`.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "torch>=2.13,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[cpu,demo,dev]"
	touch $@

demo: $(VENV)/installed ## restyle a sample photo: build/demo/result.jpg and report.json
	$(BIN)/python -m tests.demo build/demo

test: check ## lint, types, contracts, then every test
	$(BIN)/python -m pytest

check: $(VENV)/installed ## lint, types, architecture contracts, proto lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

protos: $(VENV)/installed ## make the stubs anew from protos/dpst/v1/*.proto
	$(PROTOC) --python_out=protos --mypy_out=quiet:protos $(PROTOS)
	$(PROTOC) --grpc_python_out=protos --mypy_grpc_out=quiet:protos $(SERVICE_PROTOS)

clean: ## remove everything that make made
	rm -rf $(VENV) build
