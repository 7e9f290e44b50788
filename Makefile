# `make` alone says what there is. Everything runs in .venv, which is made and filled when it is needed.

PYTHON ?= python3
WORKERS ?= 2
PORT ?= 8000
PART ?= patch
SECONDS ?= 600
MINUTES ?= 120
VENV := .venv
PY := $(VENV)/bin/python

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test fuzz soak serve epub pdf outputs bench release hooks clean

# settings of the surrounding shell that would change which packages, plots or kernels are used
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP MPLBACKEND JUPYTER_PATH JUPYTER_CONFIG_DIR IPYTHONDIR VIRTUAL_ENV
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
export PYTHONNOUSERSITE := 1
export PYTHONUTF8 := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  PYTHON=python3.12 make book   uses another Python (3.11 or newer)"
	@echo "  make outputs NAME=03_attention   renews one chapter only"

book: $(VENV)/.installed ## run every chapter from a clean state and render the site into _site/
	@$(PY) tools/book.py build

test: $(VENV)/.installed ## check form, types, and that notebooks and package agree, then run every test
	@$(PY) -m ruff format --check --quiet . || { echo "the files above are not formatted: $(VENV)/bin/ruff format . && $(VENV)/bin/nbdev-export"; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy gptbook tests/typed_user.py
	@$(PY) tools/check.py sync
	@$(PY) tools/check.py lines
	@echo "running the notebooks' tests, $(WORKERS) at a time"
	@OMP_NUM_THREADS=1 $(PY) tools/book.py check --workers $(WORKERS)
	@OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile

fuzz: $(VENV)/.installed ## try damaged files and strange settings, new ones each time (SECONDS=600)
	@OMP_NUM_THREADS=1 $(PY) tools/fuzz.py --seconds $(SECONDS)

soak: $(VENV)/.installed ## the same small things again and again: does anything grow? (MINUTES=120)
	@OMP_NUM_THREADS=1 $(PY) -m experiments.soak --minutes $(MINUTES)

serve: $(VENV)/.installed ## show _site/ at http://127.0.0.1:8000 (PORT=8000)
	@$(PY) tools/book.py serve --port $(PORT)

epub: $(VENV)/.paper ## the book as one file for a reader: _paper/gptbook.epub
	@$(PY) tools/paper.py epub

pdf: $(VENV)/.paper ## the book as one file to print: _paper/gptbook.pdf
	@$(PY) tools/paper.py pdf

outputs: $(VENV)/.installed ## run chapters in place and save their outputs in them (NAME=... for some)
	@$(PY) tools/book.py outputs $(NAME)

bench: $(VENV)/.bench ## measure against other libraries, about an hour, into benchmarks/results (SUITES="train bpe": a part)
	@$(PY) benchmarks/bench.py $(SUITES)

release: $(VENV)/.installed ## raise the version in settings.ini (PART=patch, minor or major), build and check; uploads nothing
	@$(PY) tools/release.py $(PART)

hooks: $(VENV)/.installed ## once in a clone: git merges and compares notebooks cell by cell (nbdev's hooks)
	@git config --local include.path ../.gitconfig

clean: ## remove what is generated: _site, _build, caches (.venv stays: delete it by hand)
	rm -rf _site _paper _build _proc build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(VENV)/.paper: $(VENV)/.installed tools/paper.txt
	@$(PY) -m pip install --quiet --requirement tools/paper.txt
	@touch $@

$(VENV)/.bench: $(VENV)/.installed benchmarks/peers.txt benchmarks/apart.txt
	@$(PY) -m pip install -qq -c constraints.txt --no-deps -r benchmarks/peers.txt
	@$(PY) -m pip install -qq --no-deps --upgrade --target $(VENV)/apart -r benchmarks/apart.txt
	@touch $@

# Made once, and again when one of these files changes.
$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is missing or older than 3.11; say which Python to use, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PY) -c '' 2>/dev/null || { echo "making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); } || { echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing (PyTorch is large: minutes, the first time)"
	@$(PY) -m pip install -qq --upgrade pip
	@$(PY) -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@
