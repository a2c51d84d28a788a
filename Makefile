PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(sort $(wildcard protos/dpst/v1/*.proto))
SERVICE_PROTOS := $(sort $(shell grep -l '^service ' $(PROTOS)))
PROTOC = PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -Iprotos -Ibuild/protos

.PHONY: help demo cluster-demo test check protos rules locks audit clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One install for everybody: CPU torch, the demo's sample photos, the tools of `make test`.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "torch>=2.13,<2.14"
	$(BIN)/python -m pip install --quiet --editable ".[cpu,demo,dev]"
	touch $@

demo: $(VENV)/installed ## restyle a sample photo: build/demo/result.jpg and report.json
	$(BIN)/python -m tests.demo build/demo

cluster-demo: $(VENV)/installed ## a fleet with NATS on this machine, a batch, a stylizer killed meanwhile: build/cluster-demo
	$(BIN)/python -m tests.cluster_demo build/cluster-demo

test: check ## lint, types, contracts, then every test
	$(BIN)/python -m pytest

check: $(VENV)/installed build/protos ## lint, types, architecture contracts, proto lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

# Google's messages that ours use, as googleapis-common-protos brings them, under the names by which they are imported.
build/protos: $(VENV)/installed
	rm -rf $@ && mkdir -p $@/google/longrunning
	site=$$($(BIN)/python -c "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parent)") && \
	    cp $$site/longrunning/operations_proto.proto $@/google/longrunning/operations.proto && \
	    for part in api rpc; do mkdir -p $@/google/$$part && cp $$site/$$part/*.proto $@/google/$$part/; done

protos: $(VENV)/installed build/protos ## make the stubs anew from protos/dpst/v1/*.proto
	$(PROTOC) --python_out=protos --mypy_out=quiet:protos $(PROTOS)
	$(PROTOC) --grpc_python_out=protos --mypy_grpc_out=quiet:protos $(SERVICE_PROTOS)

$(VENV)/audit: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet "pip-audit>=2.10" "uv>=0.9"
	touch $@

# What a container installs, every file by its SHA-256: pip install --require-hashes -r deploy/locks/cpu.txt.
# CPU torch comes from a folder of wheels where PIP_FIND_LINKS names one, from PyTorch's own index elsewhere.
LOCK = $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --no-header --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --constraint deploy/locks/constraints.txt --extra otel --extra nats pyproject.toml
TORCH_CPU = $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)

RULES = deploy/prometheus/rules.yaml
PROMETHEUS_RULE = deploy/kubernetes/components/servicemonitor/prometheusrule.yaml

rules: $(PROMETHEUS_RULE) ## the alert rules in the form of the Prometheus operator

$(PROMETHEUS_RULE): $(RULES)
	{ printf '%s\n' '# Made by `make rules` of $(RULES).' 'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' \
	    'metadata:' '  name: dpst' 'spec:'; sed -n '/^groups:/,$$p' $< | sed 's/^\(.\)/  \1/'; } > $@

locks: $(VENV)/audit ## choose the newest versions of what a service needs, into deploy/locks
	$(LOCK) --extra cpu $(TORCH_CPU) --output-file deploy/locks/cpu.txt
	$(LOCK) --extra gpu --output-file deploy/locks/gpu.txt

audit: $(VENV)/audit ## ask PyPI for known vulnerabilities of what deploy/locks names; fails on what it cannot ask
	mkdir -p build
	for kind in cpu gpu; do sed 's/^\(torch==[0-9.]*\)+cpu/\1/' deploy/locks/$$kind.txt > build/audit-$$kind.txt && \
	    $(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement build/audit-$$kind.txt || exit 1; done

clean: ## remove everything that make made
	rm -rf $(VENV) build
