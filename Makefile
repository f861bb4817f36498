# Each target makes .venv when it is missing and installs again only when the requirements changed.
#   make quickstart                              the whole chain on the embedded domain, on a CPU
#   make docs                                    docs/ as a site, in site/
#   make test ARGS="-m 'not slow' -k ppo"        ARGS goes to the command
#   make quickstart PYTHON=python3.12            another interpreter, 3.11 or newer (for a new .venv)

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
# The tested set of the interpreter in .venv; CONSTRAINTS=/dev/null takes the newest of everything.
CONSTRAINTS ?= $$($(RUN) -c "import sys; print('constraints.txt' if sys.version_info < (3, 12) else 'constraints-py313.txt')")
# Modules are compiled when they are first imported, which most never are.
INSTALL := $(RUN) -m pip install -qq --disable-pip-version-check --no-compile --constraint "$(CONSTRAINTS)"

# Images of containers often set it: each process would then compile jax and all that it imports anew, ten seconds of it.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart smollm2 test lint docs clean-env
.DELETE_ON_ERROR:

quickstart: $(VENV)/runtime
	$(RUN) -m icegrt_jax run --config=configs/quickstart.py --workdir=runs/quickstart $(ARGS)

smollm2: $(VENV)/runtime
	$(RUN) -m icegrt_jax.models.smollm2 --out=models/smollm2-135m-instruct $(ARGS)

# Test files are shared out to processes whole, so that a file's compiled functions are made once; in the order of their
# names, where the longest ones are early: by default those of few tests are last, which the longest are. At the end
# stands where the time has gone.
test: $(VENV)/test
	$(RUN) -m pytest -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=15 $(ARGS)

lint: $(VENV)/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# site/index.html, which opens from disk.
docs: $(VENV)/test
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

clean-env:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	    f'Python {v.major}.{v.minor} found, 3.11 or newer needed; say which: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)

# The stamps are younger than what was installed from; touching one means that its install succeeded.
$(VENV)/runtime: setup.py pyproject.toml $(wildcard constraints*.txt) | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/test: setup.py pyproject.toml $(wildcard constraints*.txt) | $(VENV)/bin/python
	$(INSTALL) --editable ".[test]"
	@touch $@ $(VENV)/runtime
