# On a machine with Python 3.11 or newer:
#   make quickstart   install, train the narrow network on the embedded data
#   make test         install the test tools, run the fast tests
#   make test-all     run the slow tests as well, as CI does
#   make lint         check style and formatting

PYTHON ?= python3
VENV = .venv

quickstart: $(VENV)/installed
	$(VENV)/bin/python -m alexnet_jax.main --config=configs/quickstart.py

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q -m "not slow"

test-slow: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -q -m slow

test-all: test test-slow

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/installed: requirements.txt constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

.PHONY: quickstart test test-slow test-all lint
