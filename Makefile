# Every target makes its own environment: git, make and Python >= 3.11 are enough.
#   make demo                                  train, sample and evaluate on the embedded digits
#   make test                                  the whole default test suite
#   make test PYTHON=python3.12 VENV=.venv312  the same on another Python
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A process for each core, up to four: each holds a few GB of compiled programs.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test slow lint format docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/ready
	$(BIN)/python -m experiments.demo

test: $(VENV)/ready
	$(BIN)/python -m pytest $(PARALLEL)

slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/ready-docs
	$(BIN)/mkdocs build --strict

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "jaxdiff needs Python >= 3.11, $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[experiments,dev]'
	@# What the parity tests compare with; elsewhere PyTorch's wheels bring CUDA with them, and the tests are skipped.
	@# k-diffusion requires far more than its samplers use: alone, in a folder that only its test reads.
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then set -ex; \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'; \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade \
			--no-deps --target $(VENV)/k-diffusion k-diffusion; \
	fi
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) dist site
