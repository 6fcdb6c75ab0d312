# Each target sets up what it needs; a second run reuses what is there.
#   make demo        train on 1,797 handwritten digits and draw new ones (minutes, CPU)
#   make playground  a web page on a trained model (WORKDIR=runs/digits, PORT=7860)
#   make test        unit tests, on the CPU
#   make test-peers  the same numbers from PyTorch programs (installs torch, diffusers)
#   make test-demo   judge the demo's digits with a classifier of its own
#   make test-docs   every command of the README and the documents, in small
#   make test-notebooks  run the cells of the notebooks, with small settings
#   make test-playground  click through that page in a headless Chromium, and attack it
#   make notebooks   make notebooks/*.ipynb from their scripts (minutes, CPU)
#   make bench       measure this machine: speed, memory, PyTorch (ten minutes, CPU)
#   make lint        formatting, rules, docstrings, types
#   make docs        a web site of the documents and docstrings, in build/site
#   make clean       remove the virtual environment, runs and what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo playground test test-peers test-demo test-docs test-notebooks \
    test-playground notebooks bench lint docs clean

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "error: $$($(PYTHON) --version) is too old; give make PYTHON=python3.11 or newer."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: requirements.txt | $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-bench: benchmarks/requirements.txt benchmarks/requirements-no-deps.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements-no-deps.txt
	@touch $@

$(VENV)/.installed-peers: tests/peers/requirements.txt tests/peers/requirements-no-deps.txt $(VENV)/.installed-dev $(VENV)/.installed-bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/requirements-no-deps.txt
	@touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

$(VENV)/.installed-notebooks: notebooks/requirements.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r notebooks/requirements.txt
	@touch $@

$(VENV)/.installed-app: requirements-app.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-app.txt
	@touch $@

$(VENV)/.installed-browser: tests/playground/requirements.txt $(VENV)/.installed-app $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/playground/requirements.txt
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits

WORKDIR ?= runs/digits
PORT ?= 7860

playground: $(VENV)/.installed-app
	$(BIN)/python -m ddpm_jax.playground --workdir=$(WORKDIR) --port=$(PORT)

# Most of a test's time is compilation, of programs that then run for milliseconds.
QUICK_COMPILATION := --xla_backend_optimization_level=0

test: $(VENV)/.installed-dev
	JAX_PLATFORMS=cpu XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)" $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

test-peers: $(VENV)/.installed-peers
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/peers

test-docs: $(VENV)/.installed-dev
	JAX_PLATFORMS=cpu XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)" $(BIN)/python -m pytest tests/commands --numprocesses=auto

test-demo: $(VENV)/.installed-dev demo
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/demo

test-notebooks: $(VENV)/.installed-notebooks
	JAX_PLATFORMS=cpu XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)" $(BIN)/python -m pytest tests/notebooks

notebooks: $(VENV)/.installed-notebooks
	JAX_PLATFORMS=cpu $(BIN)/python notebooks/build.py

# Quick settings; docs/performance.md has those of the published figures.
BENCH := $(BIN)/python -m benchmarks
BENCH_OUT := runs/bench

bench: $(VENV)/.installed-bench
	$(BENCH).train --config=configs/digits.py --out=$(BENCH_OUT)/train-digits.json
	$(BENCH).sample --config=configs/digits.py --num-steps=50 --num-turns=3 --out=$(BENCH_OUT)/sample-digits.json
	$(BENCH).peers --config=configs/digits.py --variants=eager,channels_last --num-turns=5 --out=$(BENCH_OUT)/peers-digits.json
	$(BENCH).train --batch-size=16 --num-steps=3 --out=$(BENCH_OUT)/train-cifar.json
	$(BENCH).data --config=configs/digits.py --out=$(BENCH_OUT)/data.json
	$(BENCH).evaluate --config=configs/digits.py --batch-size=16 --num-batches=2 --num-repeats=1 --out=$(BENCH_OUT)/evaluate.json
	@echo; $(BENCH).table $(BENCH_OUT)/*.json

test-playground: $(VENV)/.installed-browser
	@tests/playground/install-browser.sh
	JAX_PLATFORMS=cpu XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)" $(BIN)/python -m pytest tests/playground/test_page.py tests/playground/test_attacks.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs build
