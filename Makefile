# Everything sets itself up: Python 3.11 to 3.13 with pip, and make, are enough.
PYTHON ?= python3
JOBS ?= 2
SCALE ?= cpu
ONLY ?=
GRID ?= staged

VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help course test site lab lint refresh compare publish explanations clean

help:
	@echo "make course    run every lesson at cpu scale and write pages and figures to build/course/"
	@echo "make lab       open the lessons in JupyterLab"
	@echo "make site      all lessons, exercises and pages as a site to read, in build/site/"
	@echo "make test      lint, unit tests, and every lesson at smoke scale"
	@echo "make lint      ruff only"
	@echo "make compare   all systems on the built-in corpus, 5 seeds each, into build/compare/ (GRID=meld: MELD)"
	@echo "make publish   take what make compare found into results/, renew the README's tables and lesson 09"
	@echo "make explanations  hold every method against every criterion on what make compare trained (an hour)"
	@echo "make refresh   run the lessons again and renew their committed outputs and figures"
	@echo "make clean     remove build/, caches and .venv/"
	@echo "Options: PYTHON=python3.12, SCALE=smoke|cpu|gpu, ONLY=02 (course and refresh), JOBS=2 (course and test)"

# The first line of defence is one sentence; uv is fast, pip is the way out where uv finds no packages.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "mer_lab needs Python 3.11, 3.12 or 3.13: there is no '$(PYTHON)' here; name one with PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "mer_lab needs Python 3.11, 3.12 or 3.13: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another with PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes on a slow line)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -e ".[course,site,test]" -c constraints.txt \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[course,site,test]" -c constraints.txt
	@touch $@

course: $(READY)
	@$(BIN)/python -m mer_lab.lessons build --out build/course --scale $(SCALE) --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

# Without JupyterLab's own news: a course asks nobody on the net for anything.
lab: $(READY)
	@$(BIN)/python -m jupyterlab notebooks --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

site: $(READY)
	@$(BIN)/python -m mer_lab.site --out build/site

lint: $(READY)
	@$(BIN)/python -m ruff check .

# One thread a worker: two workers on two cores beat one worker with two threads. A file stays with one
# worker, so that what its tests share is made once.
test: lint
	@OMP_NUM_THREADS=1 MER_LAB_SCALE=smoke $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -q --nbmake --nbmake-timeout=600 tests notebooks/[0-9]*.ipynb

refresh: $(READY)
	@$(BIN)/python -m mer_lab.lessons refresh $(if $(ONLY),--only $(ONLY))

compare: $(READY)
	@$(BIN)/python -m mer_lab compare $(GRID) --out build/compare

publish: $(READY)
	@$(BIN)/python -m mer_lab.publish $(if $(wildcard build/compare),--runs build/compare)
	@$(BIN)/python -m mer_lab.cards
	@$(BIN)/python -m mer_lab.lessons refresh --only 09

explanations: $(READY)
	@$(BIN)/python -m mer_lab.explain.record --runs build/compare --out build/explanations
	@$(BIN)/python -m mer_lab.lessons refresh --only 10

clean:
	rm -rf build $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
