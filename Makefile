# On a machine with Python 3.11 or newer:
#   make quickstart   install, train the narrow network on the embedded data
#   make test         install the test tools, run the fast tests
#   make test-all     run the slow tests as well, like CI
#   make lint         check style and formatting
#   make docs         write the generated tables and figures again

PYTHON ?= python3
VENV = .venv
# Processes that share the tests. One of them keeps about one and a half cores
# busy, two of them keep two cores busy.
JOBS ?= 2
# A file's tests stay in one process, so that its fixtures are made once. Files start
# in their order: by default a long file with one test would start last.
PYTEST = $(VENV)/bin/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

quickstart: $(VENV)/installed
	$(VENV)/bin/python -m alexnet_jax.main --config=configs/quickstart.py

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

test-all: test test-slow

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(VENV)/installed-dev
	$(VENV)/bin/python -m docs.generate

# The files `installed` and `installed-dev` record when pip ran last.
$(VENV)/installed: requirements.txt constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

.PHONY: quickstart test test-slow test-all lint docs
