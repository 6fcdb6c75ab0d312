# Each target sets up what it needs; a second run reuses what is there.
#   make demo        train on 1,797 handwritten digits and draw new ones (minutes, CPU)
#   make playground  a web page on a trained model (WORKDIR=runs/digits, PORT=7860)
#   make test        unit tests, on the CPU
#   make test-peers  the same numbers from PyTorch programs (installs torch, diffusers)
#   make test-demo   judge the demo's digits with a classifier of its own
#   make test-playground  click through that page in a headless Chromium
#   make lint        formatting and rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo playground test test-peers test-demo test-playground lint clean

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

$(VENV)/.installed-peers: tests/peers/requirements.txt tests/peers/requirements-no-deps.txt $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/requirements-no-deps.txt
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

test-$(VENV)/.installed-app: requirements-app.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-app.txt
	@touch $@

$(VENV)/.installed-browser: tests/playground/requirements.txt $(VENV)/.installed-app $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/playground/requirements.txt
	@touch $@

demo: $(VENV)/.installed-dev demo
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest tests/demo

test-playground: $(VENV)/.installed-browser
	@tests/playground/install-browser.sh
	JAX_PLATFORMS=cpu XLA_FLAGS="$(XLA_FLAGS) $(QUICK_COMPILATION)" $(BIN)/python -m pytest tests/playground/test_page.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs
