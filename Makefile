# make demo   set everything up, then train a small real pool and make soups of it
# make test   set everything up, then run the tests
# make lint   style and types
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint format clean

demo: $(READY)
	$(VENV)/bin/soup demo soup-demo

test: $(READY)
	$(VENV)/bin/python -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Rebuilt when what is asked for changes; about 2 minutes and 7 GB (torch and VLMEvalKit).
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) soup-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
