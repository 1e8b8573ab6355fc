# Every target makes the virtual environment it needs, from nothing. Start with `make demo` or `make test`.
PYTHON ?= python3
# What installs PyTorch, before anything that depends on it. Pip's own choice on Linux may be a CUDA build of gigabytes; for the small CPU build:
#   make test TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
test docs nbs results: export OMP_NUM_THREADS ?= 1

DEV  := .venv
DEMO := .venv-demo
PY   := $(DEV)/bin/python

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(DEMO)/.done  ## Learn a mask on the packaged MiniLM, in an environment of its own (no download at run time)
	$(DEMO)/bin/adaptprune demo --out demo-out

test: $(DEV)/.done  ## Check that modules and README are in step with the notebooks, then run every test and notebook, on up to four cores
	$(PY) tools/check_export.py
	$(PY) tools/readme.py --check
	$(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal -rs --durations=5

docs: $(DEV)/.docs  ## Build the documentation in _site/ (open _site/index.html)
	$(PY) tools/docs.py

nbs: $(DEV)/.done  ## Execute all the notebooks in place, or those of NB='a.ipynb b.ipynb'
	$(PY) tools/execute.py $(NB)

results: $(DEV)/.done  ## Make the tables and figures of the experiments again, from the files in results/
	$(PY) tools/execute.py $(sort $(wildcard nbs/experiments/*.ipynb))

export: $(DEV)/.done  ## Export the notebooks to adaptprune/, clean them, and bring README.md and the sidebar up to date
	$(DEV)/bin/nbdev_export
	$(DEV)/bin/nbdev_clean
	$(PY) tools/docs.py --sidebar
	$(PY) tools/readme.py

readme: $(DEV)/.done  ## Make README.md from nbs/index.ipynb
	$(PY) tools/readme.py

style: $(DEV)/.done  ## Check the style of notebooks, tools and tests
	$(DEV)/bin/chkstyle nbs tools tests

clean:  ## Remove the environments and all that is built
	rm -rf $(DEV) $(DEMO) _proc _docs _site .cache build dist *.egg-info demo-out .pytest_cache .hypothesis

$(DEMO)/.done: pyproject.toml $(wildcard adaptprune/*.py)
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install -q $(TORCH)
	rm -rf build
	$(DEMO)/bin/pip install -q '.[offline]'
	@touch $@

$(DEV)/.done: pyproject.toml
	$(PYTHON) -m venv --clear $(DEV)
	$(DEV)/bin/pip install -q $(TORCH)
	$(DEV)/bin/pip install -q -e '.[dev,offline]'
	@touch $@

$(DEV)/.docs: $(DEV)/.done
	$(DEV)/bin/pip install -q -e '.[docs]'
	@touch $@

.PHONY: help demo test docs nbs results export readme style clean
