# `make quickstart` and `make test` do everything on a fresh machine. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
TABLE ?= quickstart
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: quickstart test test-slow gpu lint bench kernels families notebooks reference docs results table clean

# Every second of the table's ten languages; see docs/how-to/first_sweep.md.
quickstart: $(VENV)/installed
	$(BIN)/python scripts/reproduce_table.py table=quickstart launcher=parallel seeds=[1,2,3] \
		"table.columns=[eng,fao,eus,gla,hau,uig]"

test: $(VENV)/installed-test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slow: $(VENV)/installed-test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# On a machine with a GPU: every kernel and a run of each method there, then the benchmarks. XLT_GPU_DEVICE=cpu tries it,
# XLT_GPU_DEVICE=second_device as on a device of its own.
gpu: $(VENV)/installed-test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m gpu tests/gpu
	mkdir -p outputs/bench
	$(BIN)/python scripts/bench_llm.py --size llama2_7b --batch 16 --output outputs/bench/llm.json

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-test
	mkdir -p outputs/bench
	$(BIN)/python scripts/bench_modules.py --output outputs/bench/modules.json
	$(BIN)/python scripts/bench_training.py --size small --output outputs/bench/training.json
	$(BIN)/python scripts/bench_peers.py --size small --output outputs/bench/peers.json
	$(BIN)/python scripts/bench_switching.py --output outputs/bench/switching.json
	$(BIN)/python scripts/bench_dropout.py --output outputs/bench/dropout.json
	$(BIN)/python scripts/bench_loader.py --output outputs/bench/loader.json
	$(BIN)/python scripts/bench_serving.py --output outputs/bench/serving.json
	$(BIN)/python scripts/bench_flix.py --output outputs/bench/flix.json
	$(BIN)/python scripts/bench_distillation.py --size small --output outputs/bench/distillation.json

# Compiles every Triton kernel for five architectures of GPUs, and shows what registers and memory each needs.
kernels: $(VENV)/installed-test
	$(BIN)/python scripts/compile_kernels.py --output outputs/bench/kernels.json

# Tries every family of models with every method and task, and writes docs/families.md.
families: $(VENV)/installed-test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 XLT_WRITE_DOCS=1 $(BIN)/python -m pytest -m slow tests/xlt/models/test_every_family.py

# Runs the notebooks of docs/notebooks and writes what their cells print.
notebooks: $(VENV)/installed-test
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 XLT_WRITE_DOCS=1 $(BIN)/python -m pytest -m slow tests/runs/test_notebooks.py

# Makes docs/results: every claim that can be tested here, and the tables behind it. It takes hours and can be stopped.
# make results ARGS="data_dir=... model.path=..." has the tables on real data, too.
results: $(VENV)/installed-test
	$(BIN)/python scripts/results.py seeds=[1,2,3] launcher=parallel $(ARGS)

# Writes the pages of docs/reference that are made from the code: keys, commands, tables.
reference: $(VENV)/installed
	$(BIN)/python scripts/write_reference.py

# Builds the documentation into site/, and stops at a warning, such as a link to nothing.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# make table TABLE=pos_unseen ARGS="data_dir=... model.path=..."
table: $(VENV)/installed-test
	$(BIN)/python scripts/reproduce_table.py table=$(TABLE) $(ARGS)

# What is installed, in parts: the quickstart needs the first; tests, and tables of any method, also the second, with all
# optional packages; lint also the third. torch comes first and in its own step: the constraints name one build for it
# and for everything after it. pip shows what it loads.
PIP = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "make: 1 of 3: a virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "make: 2 of 3: PyTorch, which is large: some minutes"
	$(PIP) torch
	@echo "make: 3 of 3: xlt and the other packages that it needs: a few minutes"
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "make: what the tests need in addition: a few minutes"
	$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	@echo "make: ruff and mypy"
	$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@echo "make: what builds the documentation"
	$(PIP) --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) outputs site .pytest_cache .ruff_cache .mypy_cache
