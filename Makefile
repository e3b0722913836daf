# `make demo` and `make test` each need nothing but Python 3.11 or later and a network: they build .venv from requirements/lock.txt.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo test env docs wheel clean
# Empty is unset: without the bytecode that the first import leaves behind, every process compiles its libraries anew,
# which is more than half of its start.
export PYTHONDONTWRITEBYTECODE :=

# The lock is resolved for 3.11, so that one is preferred where several are installed.
PYTHON ?= $(shell python3.11 -V >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV := .venv
TOOLS := .venv-tools
STAMP := $(VENV)/.installed-from-lock

demo: $(STAMP)
	mkdir -p out
	$(VENV)/bin/dtm-hf demo -o out/demo.wav

# A process a core and one more, for tests that wait for other processes, four at most: each takes gigabytes. One torch thread
# each: several beside each other wait for cores. What took longest is told at the end.
test: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
		--durations 40

env: $(STAMP)

# The site of docs/ in out/site; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# The wheel in dist/, installed alone in a fresh environment, speaks in a folder without the repository.
wheel: $(STAMP)
	rm -rf build dist
	$(VENV)/bin/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	ls -l dist
	fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv "$$fresh/venv"; \
	uv=$$(command -v uv || echo $(TOOLS)/bin/uv); \
	if "$$uv" --version > /dev/null 2>&1; then install="$$uv pip install --quiet --python $$fresh/venv/bin/python"; \
	else install="$$fresh/venv/bin/python -m pip install --quiet"; fi; \
	$$install --no-deps -r requirements/lock.txt; \
	$$install --no-deps dist/*.whl; \
	cd "$$fresh"; PYTHONSAFEPATH=1 venv/bin/dtm-hf demo -o demo.wav; ls -l demo.wav demo.png

# uv from PATH, else uv of its own in $(TOOLS), else plain pip. Never `pip install --user`: Debian marks its Python as
# externally managed and refuses it, while a virtual environment or a `--target` folder is always allowed.
# --no-deps: the lock is complete, and its webrtcvad-wheels stands in for the webrtcvad that resemblyzer names, which has
# no wheels and would need a C compiler.
$(STAMP): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dtm-hf needs Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) -V 2>&1); try make PYTHON=python3.11" >&2; exit 1; }
	@uv=$$(command -v uv || true); \
	if [ -z "$$uv" ] || ! "$$uv" --version >/dev/null 2>&1; then \
		echo "uv not found: installing it in $(TOOLS)"; \
		[ -x $(TOOLS)/bin/uv ] \
			|| { $(PYTHON) -m venv $(TOOLS) && $(TOOLS)/bin/python -m pip install --quiet uv; } \
			|| $(PYTHON) -m pip install --quiet --target $(TOOLS) uv || true; \
		uv=; if $(TOOLS)/bin/uv --version >/dev/null 2>&1; then uv=$(TOOLS)/bin/uv; fi; \
	fi; \
	if [ -n "$$uv" ]; then \
		[ -x $(VENV)/bin/python ] || "$$uv" venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
		install="$$uv pip install --python $(VENV)/bin/python"; \
	else \
		echo "uv cannot be had: installing with pip, which takes longer"; \
		[ -x $(VENV)/bin/pip ] || $(PYTHON) -m venv $(VENV); \
		install="$(VENV)/bin/python -m pip install"; \
	fi; \
	$$install --no-deps -r requirements/lock.txt; \
	$$install --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) $(TOOLS) build dist out *.egg-info .pytest_cache .ruff_cache
