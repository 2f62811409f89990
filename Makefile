# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.installed
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test lint results clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --python $(PY) -e '.[dev]'
	touch $@

demo: $(READY)  ## DATA=table.parquet LABEL=column runs it on your own table
	$(PY) -m tamis demo $(if $(DATA),--data $(DATA)) $(if $(LABEL),--label $(LABEL))

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint  ## TESTS=path narrows it
	$(PY) -m pytest -n 2 --dist worksteal $(TESTS)

results: $(READY)  ## writes benchmarks/RESULTS.md from benchmarks/results/*.json
	$(PY) -m benchmarks.tables

clean:
	rm -rf $(VENV) demo runs
