# make demo: the whole experiment on the small world, and its report. make test: every check there is.
# make ablations: every arm under five seeds. make tune: learning rates. make allocation: where labels should go.
# make serve: Prefect, MLflow, Ray and a worker on this machine, make stop ends them; make deploy: register again.
# All set up what they need; a second run installs nothing, and trains nothing that is finished.

PYTHON ?= python3
ENGINE ?= torch
SEEDS ?=
ARMS ?=
SHARES ?=
SET ?=

UV_VERSION := 0.13.8
BIN := .venv/bin
INSTALLED := .venv/.installed

# Starts are about twice as slow without compiled bytecode.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
# torch's CPU build comes from the machine's own links, if it has any (uv does not read pip's), else from PyTorch.
UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
ifneq ($(strip $(UV_FIND_LINKS)),)
export UV_FIND_LINKS
else
CPU_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match
endif

.PHONY: setup demo ablations tune allocation serve stop deploy chromium screenshots test lint clean
.DEFAULT_GOAL := demo

setup: $(INSTALLED)

$(INSTALLED): docker/requirements-cpu.txt docker/requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(CPU_INDEX) -r $< -r docker/requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

FLOW = $(BIN)/python -m flows $(1) --recipe small_world $(if $(SEEDS),--seeds $(SEEDS)) $(2) --set rollouts.engine=$(ENGINE) $(SET)

demo: $(INSTALLED)
	@$(call FLOW,sparse_to_dense,$(if $(ARMS),--arms $(ARMS)))

ablations tune: $(INSTALLED)
	@$(call FLOW,$@,$(if $(ARMS),--arms $(ARMS)))

allocation: $(INSTALLED)
	@$(call FLOW,$@,$(if $(SHARES),--shares $(SHARES)))

# Further options in SERVE, for example make serve SERVE="--prefect-port 4201".
SERVE ?=

serve: $(INSTALLED)
	@$(BIN)/python -m deployments.stack start $(SERVE)

stop: $(INSTALLED)
	@$(BIN)/python -m deployments.stack stop $(SERVE)

deploy: $(INSTALLED)
	@$(BIN)/python -m deployments.register

# The browser's tests skip where there is no Chromium; this installs Debian's, where one may.
chromium:
	@command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		timeout 300 sh -c 'apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null' || \
		echo "Chromium could not be installed: the browser's tests will be skipped" >&2

# The pictures in the docs are what the browser's test has seen.
screenshots: $(INSTALLED)
	S2D_SCREENSHOTS=docs/screenshots $(BIN)/pytest tests/browser

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=90

clean:
	rm -rf .venv build dist *.egg-info .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
