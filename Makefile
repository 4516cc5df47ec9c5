# Everything sets itself up: the first target that needs it makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
unexport PYTHONDONTWRITEBYTECODE  # where it is set, each worker of the tests would compile 600 modules in every run

.PHONY: demo demo-emoji test check bench notebooks docs clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip  # Python 3.11's own takes 86 s of a core to find the versions, a new one 35
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready  ## train on 10,000 photos of clothes, in minutes, and write runs/demo/report.html
	$(BIN)/dinokit pretrain demo --data demo:fashion --out runs/demo

demo-emoji: $(VENV)/.ready  ## the same on emoji in two drawing styles: finds the same emoji in the other style
	$(BIN)/dinokit pretrain demo --data demo:emoji --out runs/emoji

test: $(VENV)/.ready  ## the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

check: $(VENV)/.ready  ## style, types and every test
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

bench: $(VENV)/.ready  ## the figures of docs/log.md
	$(BIN)/python benchmarks/step.py

notebooks: $(VENV)/.ready  ## run examples/ whole and keep what comes out, small
	$(BIN)/python -m tests.notebooks examples/train.ipynb $(filter-out examples/train.ipynb,$(wildcard examples/*.ipynb))

docs: $(VENV)/.ready  ## the site of docs/, in build/site/index.html
	$(BIN)/pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean:
	rm -rf $(VENV) dist build runs
