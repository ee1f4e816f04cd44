# One command each. `make` alone prints them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# uv from PATH when it runs here, else one of our own from PyPI.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo $(CURDIR)/.uv/bin/uv)
PYTHON_FOR_UV ?= python3
# What setup has installed comes first; uv itself would look for another Python than the one that setup has found.
RUN := env UV="$(UV)" PATH="$(CURDIR)/.venv/bin:$(PATH)" VIRTUAL_ENV="$(CURDIR)/.venv"

NO_PYTHON := Offload needs Python 3.12 or newer: none is installed here, and uv could not download one. Install it \
(apt-get install python3, brew install python, or your company's mirror in UV_PYTHON_INSTALL_MIRROR) and run make again.

.PHONY: help setup demo up down test test-quick cluster-test faults faults-cluster fuzz peer-tests wheels check format lint types architecture lock manifests-check manifests docs bench clean

help: ## Print every target with a line of help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(CURDIR)/.uv/bin/uv:
	@$(PYTHON_FOR_UV) -m venv .uv
	@.uv/bin/pip install --quiet --disable-pip-version-check uv

setup: $(filter $(CURDIR)/.uv/bin/uv,$(UV)) ## Install everything that is needed into .venv, with Python 3.13, or any from 3.12 on
	@find="$(UV) python find --no-project --no-python-downloads"; \
	python=$$(VIRTUAL_ENV= $$find --system 3.13 2>/dev/null || VIRTUAL_ENV= $$find --system '>=3.12' 2>/dev/null || true); \
	if [ -z "$$python" ]; then \
	  $(UV) python install --quiet 3.13 2>/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }; python=3.13; \
	fi; \
	UV_PYTHON="$$python" $(UV) sync --frozen --quiet

demo: setup ## Run the main job on real input, and show it: photo, mail, report, trace
	@$(RUN) python -m devstack demo

up: setup ## Start all services, and keep them running until Ctrl-C (or `make down`)
	@$(RUN) python -m devstack up

down: setup ## Stop what `make up` has started
	@$(RUN) python -m devstack down

test: setup ## Run all tests that need no cluster
	@$(RUN) pytest

test-quick: setup ## Run the tests that start no process
	@$(RUN) pytest tests/unit tests/contract tests/architecture

wheels: setup ## Build the wheels that a worker of your own needs, into dist/wheels
	@rm -rf dist/wheels
	@for package in celery-leases offload-contracts offload-core offload-worker; do \
	  UV_PYTHON=.venv/bin/python $(UV) build --quiet --wheel --package $$package --out-dir dist/wheels || exit 1; done
	@ls dist/wheels

cluster-test: setup ## Run the tests that need a Kubernetes with KEDA, and write reports/cluster.md
	@# What only renders the chart needs no turn of its own.
	@$(RUN) pytest tests/cluster/test_values.py --numprocesses=2
	@$(RUN) pytest tests/cluster --ignore=tests/cluster/test_values.py --numprocesses=0 --verbose

faults: setup ## Break everything on purpose for half an hour, and write reports/faults.md (FAULTS=... for pytest)
	@rm -f var/faults/rows.jsonl
	@code=0; for part in "not alone -n2" "alone -n0"; do \
	  $(RUN) pytest tests/faults --full -m "$${part% -n*}" -n$${part##*-n} $(FAULTS); status=$$?; \
	  [ $$status -eq 0 ] || [ $$status -eq 5 ] || code=$$status; done; \
	  $(RUN) python tests/faults/report.py $(if $(FAULTS),,--all) && exit $$code

fuzz: setup ## Send the API more than 5,000 generated requests (about ten minutes; FUZZ_SEED=... for others)
	@FUZZ_EXAMPLES=220 $(RUN) pytest tests/integration/test_openapi.py --numprocesses=0

faults-cluster: setup ## The same against a release on a cluster; its rows are added to those of make faults
	@$(RUN) pytest tests/faults --cluster --numprocesses=0 $(FAULTS); code=$$?; $(RUN) python tests/faults/report.py && exit $$code

peer-tests: setup ## Run Celery's own tests on both brokers, tools beside ours, and ours on every server; write reports/peer-tests.md
	@$(RUN) python tests/peers/celery_suite.py
	@$(RUN) python tests/peers/million.py
	@$(RUN) python tests/peers/tools.py
	@$(RUN) python tests/peers/django_tasks.py
	@$(RUN) pytest libs/celery-leases

check: setup lint types architecture lock manifests-check ## Run every linter, the type checker, and the checks of the lock, the layout and k8s/

lint: setup
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) hadolint services/*/Dockerfile

types: setup
	@$(RUN) mypy

architecture: setup
	@$(RUN) lint-imports

lock: setup
	@UV_PYTHON=.venv/bin/python $(UV) lock --check --quiet

manifests-check: setup
	@$(RUN) python k8s/render.py --check

manifests: setup ## Render the chart into k8s/ (needs helm)
	@$(RUN) python k8s/render.py

format: setup ## Format the code
	@$(RUN) ruff check --fix --quiet
	@$(RUN) ruff format --quiet

docs: setup ## Write the generated part of the documentation (settings, and with helm-docs the chart's values)
	@$(RUN) python -m devstack settings > docs/reference/settings.md
	@if command -v helm-docs >/dev/null; then \
	  helm-docs -c charts --sort-values-order file -l error && \
	  helm-docs -c charts -t values.md.gotmpl -o ../../docs/reference/values.md --sort-values-order file -l error; \
	else echo "NOT WRITTEN: the chart's values, because there is no helm-docs on PATH"; fi

bench: setup ## Measure against peers in the same run, and print ratios (BENCH="accept --against COMMIT" for some)
	@$(RUN) python -m benchmarks $(BENCH)

clean: ## Remove what was generated: environments, caches, results
	@rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis var
