# On a machine with Python 3.11 or newer:
#   make quickstart   install, train the narrow network on the embedded data
#   make test         install the test tools, run the fast tests
#   make test-all     run the slow tests as well, like CI
#   make lint         check style and formatting
#   make docs         write the generated tables and figures again

PYTHON ?= python3
VENV = .venv
# Two sets of versions are tested: JAX 0.10 on Python 3.11, which newer versions do
# not support, and the newest set on newer Pythons.
CONSTRAINTS := $(shell $(or $(wildcard $(VENV)/bin/python),$(PYTHON)) -c 'import sys; \
  print("constraints.txt" if sys.version_info < (3, 12) else "constraints-newest.txt")')
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
$(VENV)/installed: requirements.txt $(CONSTRAINTS)
	@test -x $(VENV)/bin/pip || $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) \
	  or sys.exit("Python 3.11 or newer is needed (this is " + sys.version.split()[0] \
	  + "); with another one: make quickstart PYTHON=python3.12")'
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing the libraries into $(VENV): 1.5 GB, a few minutes."
	$(VENV)/bin/pip install --quiet -r requirements.txt -c $(CONSTRAINTS)
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt -c $(CONSTRAINTS)
	touch $@

.PHONY: quickstart test test-slow test-all lint docs
