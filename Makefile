# Each target sets up what it needs; a second run reuses what is there.
#   make demo        train on 1,797 handwritten digits and draw new ones (minutes, CPU)
#   make playground  a web page on a trained model (WORKDIR=runs/digits, PORT=7860)
#   make test        unit tests, on the CPU
#   make test-newest  the same on Python 3.13 with the newest JAX, in .venv-newest
#   make test-peers  the same numbers from PyTorch programs (installs torch, diffusers)
#   make test-demo   judge the demo's digits with a classifier of its own
#   make test-docs   every command of the README and the documents, in small
#   make test-notebooks  run the cells of the notebooks, with small settings
#   make test-playground  click through that page in a headless Chromium, and attack it
#   make notebooks   make notebooks/*.ipynb from their scripts (minutes, CPU)
#   make bench       measure this machine: speed, memory, PyTorch (ten minutes, CPU)
#   make lint        formatting, rules, docstrings, types
#   make docs        a web site of the documents and docstrings, in build/site
#   make setup       install at once what all targets need
#   make clean       remove the virtual environment, runs and what was built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that were tested on this Python, if there is such a list; without one, or
# with `make CONSTRAINTS=`, pip takes the newest that the requirements allow.
VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])")
CONSTRAINTS ?= $(wildcard constraints/python$(VERSION)-*.txt)
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) $(CONSTRAINTS:%=--constraint=%)

.PHONY: help setup demo playground test has-newest test-newest test-newest-part test-peers \
    test-demo test-docs test-notebooks test-playground notebooks bench lint docs clean

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "error: $$($(PYTHON) --version) is too old; give make PYTHON=python3.11 or newer."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: requirements.txt $(CONSTRAINTS) | $(VENV)/.created
	$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-bench: benchmarks/requirements.txt benchmarks/requirements-no-deps.txt $(VENV)/.installed
	$(PIP) -r benchmarks/requirements.txt
	$(PIP) --no-deps -r benchmarks/requirements-no-deps.txt
	@touch $@

$(VENV)/.installed-peers: tests/peers/requirements.txt tests/peers/requirements-no-deps.txt $(VENV)/.installed-dev $(VENV)/.installed-bench
	$(PIP) -r tests/peers/requirements.txt
	$(PIP) --no-deps -r tests/peers/requirements-no-deps.txt
	@touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(PIP) -r requirements-docs.txt
	@touch $@

$(VENV)/.installed-notebooks: notebooks/requirements.txt $(VENV)/.installed-dev
	$(PIP) -r notebooks/requirements.txt
	@touch $@

$(VENV)/.installed-app: requirements-app.txt $(VENV)/.installed
	$(PIP) -r requirements-app.txt
	@touch $@

$(VENV)/.installed-browser: tests/playground/requirements.txt $(VENV)/.installed-app $(VENV)/.installed-dev
	$(PIP) -r tests/playground/requirements.txt
	@touch $@

# All of these at once: pip works out one set of versions instead of nine.
SETS := requirements.txt requirements-dev.txt benchmarks/requirements.txt \
    tests/peers/requirements.txt requirements-docs.txt notebooks/requirements.txt \
    requirements-app.txt tests/playground/requirements.txt

setup: $(VENV)/.created
	$(PIP) $(SETS:%=-r %)
	$(PIP) --no-deps -r tests/peers/requirements-no-deps.txt
	@cd $(VENV) && for set in "" -dev -bench -peers -docs -notebooks -app -browser; do touch .installed$$set; done

demo: $(VENV)/.installed
	$(BIN)/python main.py --config=configs/digits.py --workdir=runs/digits

WORKDIR ?= runs/digits
PORT ?= 7860

playground: $(VENV)/.installed-app
	$(BIN)/python -m ddpm_jax.playground --workdir=$(WORKDIR) --port=$(PORT)

# Most of a test's time is compilation, of programs that then run for milliseconds.
QUICK_COMPILATION := --xla_backend_optimization_level=0

ON_CPU := JAX_PLATFORMS=cpu
QUICKLY := $(ON_CPU) XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)"
BOTH_CORES := --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev
	$(QUICKLY) $(BIN)/python -m pytest $(BOTH_CORES)

# Python 3.13 from PATH or from pyenv, with its own virtual environment.
NEWEST ?= $(shell for p in python3.13 "$(HOME)"/.pyenv/versions/3.13.*/bin/python; do "$$p" -c "" 2>/dev/null && echo "$$p" && break; done)
NEWEST_VENV := .venv-newest
# A part of the unit tests that takes minutes and touches every room of ddpm_jax.
PART := $(addprefix tests/,runtime/test_files.py runtime/test_images.py \
    runtime/test_partial_results.py \
    conditioning/test_tokens.py conditioning/test_conditioner.py codecs/test_start.py data/test_pipeline.py \
    data/test_folder.py diffusion/test_samplers.py diffusion/test_generate.py \
    evaluation/test_frechet.py evaluation/test_extract.py weights/test_openai.py \
    networks/test_layers.py networks/test_unet.py assembly/test_sampling_config.py \
    playground/test_jobs.py requests/test_requests.py runs/test_sample.py \
    sampling/test_stages.py scenes/test_cameras.py \
    weights/test_torch_file.py training/test_checkpoints.py training/test_loop.py \
    training/test_step.py tasks/test_contrastive.py)

$(NEWEST_VENV)/.installed: requirements.txt requirements-dev.txt $(wildcard constraints/python3.13-*.txt)
	@test -n "$(NEWEST)" || { echo "error: no Python 3.13 here; give make NEWEST=/path/to/python3.13."; exit 1; }
	$(NEWEST) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python $(INSTALL) $(patsubst %,--constraint=%,$(wildcard constraints/python3.13-*.txt)) -r requirements.txt -r requirements-dev.txt
	@touch $@

has-newest:
	@test -n "$(NEWEST)"

test-newest: $(NEWEST_VENV)/.installed
	$(QUICKLY) $(NEWEST_VENV)/bin/python -m pytest $(BOTH_CORES)

test-newest-part: $(NEWEST_VENV)/.installed
	$(QUICKLY) $(NEWEST_VENV)/bin/python -m pytest $(BOTH_CORES) $(PART)

test-peers: $(VENV)/.installed-peers
	$(ON_CPU) $(BIN)/python -m pytest tests/peers

test-docs: $(VENV)/.installed-dev
	$(QUICKLY) $(BIN)/python -m pytest tests/commands --numprocesses=auto --dist=load --maxschedchunk=1

test-demo: $(VENV)/.installed-dev demo
	$(ON_CPU) $(BIN)/python -m pytest tests/demo

test-notebooks: $(VENV)/.installed-notebooks
	$(QUICKLY) $(BIN)/python -m pytest tests/notebooks

notebooks: $(VENV)/.installed-notebooks
	$(ON_CPU) $(BIN)/python notebooks/build.py

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
	$(QUICKLY) $(BIN)/python -m pytest tests/playground/test_page.py tests/playground/test_attacks.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(NEWEST_VENV) runs build
