# Every target makes the virtual environment it needs, from nothing. Start with `make demo` or `make test`.
PYTHON ?= python3
# What installs PyTorch, before anything that depends on it. Pip's own choice on Linux may be a CUDA build of gigabytes; for the small CPU build:
#   make test TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
test users docs try nbs results gpu: export OMP_NUM_THREADS ?= 1

DEV   := .venv
DEMO  := .venv-demo
USERS := .venv-users
PY   := $(DEV)/bin/python

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(DEMO)/.done  ## Five ways to solve a small task, in an environment of its own (no download at run time)
	$(DEMO)/bin/adaptprune demo --out demo-out

test: $(DEV)/.done  ## Check that modules and README are in step with the notebooks, then run every test and notebook, on up to four cores
	$(PY) tools/check_export.py
	$(PY) tools/readme.py --check
	$(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal -rs --durations=5

users: $(USERS)/.done  ## Run every command and Python block that the documentation prints, and the pages offered in Colab, on the wheel with the newest versions of its dependencies
	$(USERS)/bin/python tools/users.py

gpu: $(DEV)/.done  ## Run the tests marked gpu and the benchmarks of a GPU, and record them in results/; without a GPU, say so
	$(PY) benchmarks/gpu.py

docs: $(DEV)/.docs  ## Build the documentation in _site/ (open _site/index.html)
	$(PY) tools/docs.py

try: $(DEV)/.done  ## Make what the page Try it loads (some minutes of learning; GLUE='PATH' or GLUE=hub for SST-2 and STS-B): then make docs
	$(PY) tools/try_page.py $(if $(GLUE),--glue-dir '$(GLUE)')

nbs: $(DEV)/.done  ## Execute all the notebooks in place, or those of NB='a.ipynb b.ipynb'
	$(PY) tools/execute.py $(NB)

results: $(DEV)/.done  ## Make the tables and figures of the experiments and case studies again, from the files in results/
	$(PY) tools/execute.py $(sort $(wildcard nbs/experiments/*.ipynb nbs/case_studies/*.ipynb))

export: $(DEV)/.done  ## Export the notebooks to adaptprune/, clean them, and bring README.md, the sidebar and the picture of the floors up to date
	$(DEV)/bin/nbdev_export
	$(DEV)/bin/nbdev_clean
	$(PY) tools/docs.py --sidebar
	$(PY) tools/readme.py
	$(PY) tools/floors.py

readme: $(DEV)/.done  ## Make README.md from nbs/index.ipynb
	$(PY) tools/readme.py

style: $(DEV)/.done  ## Measure the style of code and prose, and check that of notebooks, tools and tests
	$(PY) tools/style.py
	$(DEV)/bin/chkstyle nbs tools tests

clean:  ## Remove the environments and all that is built
	rm -rf $(DEV) $(DEMO) $(USERS) _proc _docs _site .cache build dist *.egg-info demo-out .pytest_cache .hypothesis

$(DEMO)/.done: pyproject.toml $(wildcard adaptprune/*.py)
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install -q $(TORCH)
	rm -rf build
	$(DEMO)/bin/pip install -q '.[offline,onnx]'
	@touch $@

# No development pins here: what pip chooses today is what users get today. torch alone is given, as its plain wheel brings gigabytes for a GPU:
# TORCH=torch takes the newest.
$(USERS)/.done: pyproject.toml $(wildcard adaptprune/*.py)
	$(PYTHON) -m venv --clear $(USERS)
	$(USERS)/bin/pip install -q $(TORCH)
	rm -rf build dist/users
	$(USERS)/bin/pip wheel -q --no-deps -w dist/users .
	$(USERS)/bin/pip install -q "$$(echo dist/users/*.whl)[offline,onnx]" peft nbclient ipykernel pytest hypothesis
	@touch $@

$(DEV)/.done: pyproject.toml
	$(PYTHON) -m venv --clear $(DEV)
	$(DEV)/bin/pip install -q $(TORCH)
	$(DEV)/bin/pip install -q -e '.[dev,offline]'
	@touch $@

$(DEV)/.docs: $(DEV)/.done
	$(DEV)/bin/pip install -q -e '.[docs]'
	@touch $@

.PHONY: help demo test users gpu docs try nbs results export readme style clean
