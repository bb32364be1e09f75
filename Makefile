# Each target sets up all it needs on a machine with Python 3.11 or 3.12.
#
#   make demo     click on pictures in the browser, until Ctrl-C
#   make sheets   no browser: click on sample photographs, write one sheet for each to demo-output/
#   make test     ruff, mypy and the tests
#   make lint     ruff and mypy alone
#   make test-gpu-image   the tests of the GPU path, on a CPU, with the versions of a current CUDA image:
#                 Python 3.12 if there is one (GPU_PYTHON), torch 2.11, triton 3.6, NumPy 2; downloads
#                 0.8 GB, once
#   make bench    measure the engines on this machine
#   make docs     write the API reference, from docstrings, to site/
#   make clean    remove what these targets made, but keep the environment
#
# PYTHON=/path/to/python picks the interpreter of a new environment; VENV=folder its place.
# pip reads its own configuration: on a machine without a GPU, an index that serves CPU builds
# of torch (PIP_EXTRA_INDEX_URL) saves gigabytes.

PYTHON ?=
VENV ?= .venv
# A file stays on one worker, so that what its tests share is made once; tests/conftest.py orders them.
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
GPU_VENV ?= .venv-gpu-image
GPU_TESTS := tests/runtime/torch tests/network/kernels tests/runtime/engines/test_onnx_device.py \
  tests/benchmarks/gpu/test_autocast.py tests/benchmarks/gpu/test_compiled.py \
  tests/benchmarks/gpu/test_engine.py tests/benchmarks/gpu/test_kernels.py

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
CODE := $(wildcard client runtime network export benchmarks cli docker docs triton_models examples tests)

CHECKPOINT := models/ois-photo.safetensors
ENGINES := engines/ois-photo-cpu

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo sheets test test-gpu-image lint bench docs clean distclean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(ENGINES)/manifest.json
	$(VENV)/bin/ois demo --engines $(ENGINES)

sheets: $(ENGINES)/manifest.json
	$(VENV)/bin/ois demo --engines $(ENGINES) --sheet demo-output

test: lint
	$(PY) -m pytest $(PYTEST_FLAGS)

# -W default: other versions of libraries may raise warnings, which do not concern the GPU. One thread for
# each of the two workers.
test-gpu-image: $(GPU_VENV)/.installed
	OMP_NUM_THREADS=1 OIS_REHEARSE=all $(GPU_VENV)/bin/python -m pytest -q -p no:cacheprovider -W default $(PYTEST_FLAGS) $(GPU_TESTS)

$(GPU_VENV)/.installed: pyproject.toml .ci/gpu-image | $(INSTALLED)
	.ci/gpu-image $(GPU_VENV) "$(PY) -m uv"

lint: $(INSTALLED)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy

bench: $(INSTALLED)
	$(VENV)/bin/ois bench engines

docs: $(INSTALLED)
	$(PY) docs/reference.py site

$(ENGINES)/manifest.json: $(INSTALLED) $(CHECKPOINT) $(shell find export/ois_export network/ois_network -name "*.py")
	$(VENV)/bin/ois export $(CHECKPOINT) --target cpu --output $(ENGINES)

# The stamp is newer than pyproject.toml exactly when the last install saw this file whole.
$(INSTALLED): pyproject.toml | $(PY)
	$(PY) -m pip install --editable ".[dev,demo,bench]"
	@touch $@

# Candidates are tried by running them: a version manager's shim can be on PATH and not work,
# and a distribution's Python can lack venv.
$(PY):
	@usable='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; \
	chosen=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3 python); do \
	  if "$$candidate" -c "$$usable" >/dev/null 2>&1; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "error: no working Python 3.11 or 3.12 with venv among: $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3 python)." >&2; \
	  echo "Install one (on Debian or Ubuntu also python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$chosen"; \
	"$$chosen" -m venv --clear "$(VENV)"

clean:
	rm -rf artefacts demo-output engines dist site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
