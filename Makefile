# make demo        a submission from generated data, in minutes
# make help        everything else
CONFIG ?= demo
FOLD ?= all
SET ?=
COMPETITION ?= demo
CONFIGS ?= $(CONFIG)
export DATA

# PYTHON=/path/to/python uses an environment that exists already (conda, Kaggle); else .venv is made.
ifeq ($(PYTHON),)
override PYTHON := .venv/bin/python
VENV := .venv/.ready
VENV_DEV := .venv/.ready-dev
VENV_KAGGLE := .venv/.ready-kaggle
VENV_BENCH := .venv/.ready-bench
VENV_RAY := .venv/.ready-ray
VENV_LINT := .venv/.ready-lint
endif
# BASE_PYTHON=/path/to/python rehearses on that environment; else .venv-kaggle is made, like Kaggle's image.
ifeq ($(BASE_PYTHON),)
override BASE_PYTHON := .venv-kaggle/bin/python
BASE := .venv-kaggle/.ready
endif
STAGE = $(PYTHON) -m pipeline
quoted = '$(subst ','\'',$(1))'
OPTIONS = configs/$(CONFIG).toml $(if $(SET),--set=$(call quoted,$(SET))) $(if $(SKIP_BAD),--skip-bad)
# An ensemble of several is called a+b.
NAME = $(subst $() ,+,$(strip $(CONFIGS)))

.DEFAULT_GOAL := help
.PHONY: help setup data doctor audit competitions folds train sweep oof predict ensemble report compare final pseudo score bundle rehearse upload push submit leaderboard demo encoders bench test test-slow test-older fuzz types lint format

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  CONFIG=name       configs/name.toml (now: $(CONFIG))"
	@echo "  DATA=folder       where the competition's files lie (default: data/<competition>)"
	@echo "  FOLD=0            one fold; FOLD=all (default) every fold in turn; FOLD=full every image, no validation"
	@echo "  SET=\"a.b=1 c=['x','y']\"   override values of the config"
	@echo "  SKIP_BAD=1        list images that cannot be read and leave them out"
	@echo "  PYTHON=python     use this interpreter as it is, and make no .venv"
	@echo "  PYTHON312=path    of Python 3.12, as Kaggle has it, for rehearse and test-older"

setup: $(VENV) ## make .venv with the pinned packages

.venv/.ready: requirements.txt
	python3 -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, python3 is {v.major}.{v.minor}")'
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/.ready-dev: requirements-dev.txt requirements-kaggle.txt requirements-lint.txt .venv/.ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/.ready-bench: pyproject.toml .venv/.ready-dev
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	touch $@

.venv/.ready-kaggle: requirements-kaggle.txt .venv/.ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-kaggle.txt
	touch $@

.venv/.ready-ray: pyproject.toml .venv/.ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[ray]"
	touch $@

# Of all packages, `make lint` needs ruff alone.
.venv/.ready-lint: requirements-lint.txt
	test -x .venv/bin/python || python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-lint.txt
	touch $@

.venv-kaggle/.ready: requirements-kaggle-image.txt
	$(or $(PYTHON312),$(shell python3.12 -c "" 2> /dev/null && echo python3.12 || echo python3)) -m venv .venv-kaggle
	.venv-kaggle/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-kaggle-image.txt
	touch $@

# A competition that was named, and not only the default above, is fetched from Kaggle.
ifeq ($(origin COMPETITION),file)
data: $(VENV) ## get or make the data, and read every file once (COMPETITION=slug: fetch and unpack it from Kaggle)
	$(STAGE) data $(OPTIONS)
else
data: $(VENV) $(VENV_KAGGLE)
	$(STAGE) download $(COMPETITION)
endif

doctor: $(VENV) ## are the files what the card says? sample submission, masks, RLE dialect, images
	$(STAGE) doctor $(OPTIONS)

audit: $(VENV) ## images of one scene, within train and between train and test (INFLATION=1: what a leak is worth)
	$(STAGE) audit $(OPTIONS) $(if $(INFLATION),--inflation)

folds: $(VENV) ## folds/<competition>.csv: who is held out when
	$(STAGE) folds $(OPTIONS)

train: $(VENV) ## train FOLD=k through all phases; resumes
	$(STAGE) train $(OPTIONS) --fold $(or $(FOLD),all)

sweep: $(VENV) $(if $(filter ray,$(EXECUTOR)),$(VENV_RAY)) ## train CONFIGS="a b" SEEDS="0 1 2", every fold, JOBS=2 at a time (EXECUTOR=ray: on a cluster)
	$(STAGE) sweep $(OPTIONS) --configs "$(CONFIGS)" --fold $(or $(FOLD),all) $(if $(SEEDS),--seeds "$(SEEDS)") \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(EXECUTOR),--executor $(EXECUTOR)) $(if $(RETRIES),--retries $(RETRIES))

oof: $(VENV) ## out-of-fold predictions and scores of all folds
	$(STAGE) oof $(OPTIONS)

predict: $(VENV) ## test-set probabilities of all folds
	$(STAGE) predict $(OPTIONS)

ensemble: $(VENV) ## all that is missing, up to submissions/<name>.csv (CONFIGS="a b" averages several)
	$(STAGE) ensemble $(OPTIONS) --configs "$(CONFIGS)"

report: $(VENV) ## reports/<name>.html: everything to look at (CONFIGS="a b": of an ensemble)
	$(STAGE) report $(OPTIONS) --configs "$(CONFIGS)"

compare: $(VENV) ## whether A=x beats B=y: paired bootstrap of their cross-fitted OOF scores
	$(STAGE) compare $(A) $(B)

final: $(VENV) ## which two of SUBMISSIONS="a b c" to choose in COMPETITION=slug, by simulated boards
	$(STAGE) final $(SUBMISSIONS) --competition $(COMPETITION)

pseudo: $(VENV) ## train on test images that models labelled which never saw the fold; says what it changed
	$(STAGE) pseudo $(OPTIONS)

score: $(VENV) ## score SUBMISSION=file.csv against SOLUTION=file.csv of COMPETITION=slug
	$(STAGE) score $(COMPETITION) $(SUBMISSION) $(SOLUTION)

bundle: $(VENV) ## dist/kaggle/<name>/: what an offline notebook on Kaggle needs (OWNER=your Kaggle name, HALF=1: bfloat16)
	$(STAGE) bundle $(OPTIONS) --configs "$(CONFIGS)" $(if $(OWNER),--owner $(OWNER)) $(if $(HALF),--half)

rehearse: $(VENV) $(BASE) ## run the bundle's notebook as Kaggle does: no network, a fresh environment, a hidden test set
	$(STAGE) rehearse $(OPTIONS) --configs "$(CONFIGS)" --base $(BASE_PYTHON) $(if $(IMAGES),--images $(IMAGES))

upload: $(VENV) $(VENV_KAGGLE) ## the bundle's two datasets to Kaggle, new or renewed (MESSAGE="what changed")
	$(STAGE) upload $(NAME) $(if $(MESSAGE),--message=$(call quoted,$(MESSAGE)))

push: $(VENV) $(VENV_KAGGLE) ## the bundle's notebook to Kaggle, which runs it; waits for it (TRAIN=1: the one that trains)
	$(STAGE) push $(NAME) $(if $(TRAIN),--train)

submit: $(VENV) $(VENV_KAGGLE) ## hand in submissions/<name>.csv with MESSAGE="…"; score and place (KERNEL=1: the notebook's)
	$(STAGE) submit $(NAME) --message=$(call quoted,$(MESSAGE)) $(if $(KERNEL),--kernel)

leaderboard: $(VENV) $(VENV_KAGGLE) ## OOF, public and private score of every submission to COMPETITION=slug, and how alike they rank
	$(STAGE) leaderboard $(COMPETITION)

demo: $(VENV) ## generated data to a scored submission, in minutes
	DATA= $(STAGE) ensemble configs/demo.toml
	$(STAGE) score demo submissions/demo.csv data/demo/solution.csv

competitions: $(VENV) ## the cards that ship, and what each competition wants
	$(STAGE) competitions

encoders: $(VENV) ## the timm encoders that work (PATTERN=resnet)
	$(STAGE) encoders $(PATTERN)

bench: $(VENV) $(VENV_DEV) $(VENV_BENCH) ## the measured claims, as ratios from one run (DATA=folder of nuclei: prediction too)
	@set -e; for file in rle rle_table instances thresholds postprocess memory train lovasz $(if $(DATA),predict); do echo "== benchmarks/$$file.py"; $(PYTHON) benchmarks/$$file.py; done

test: $(VENV) $(VENV_DEV) ## the fast tests, a few minutes; installs a browser for the tests of the report if there is none
	$(PYTHON) -m tests.browser
	$(PYTHON) -m pytest -n auto --dist loadgroup -m "not slow"

test-slow: $(VENV) $(VENV_DEV) ## the slow tests: Ray, notebooks, torchrun, rehearsal, kills, all architectures
	$(PYTHON) -m tests.browser
	$(PYTHON) -m pytest -n auto --dist loadgroup -m slow

test-older: ## all tests with Python 3.12 and Kaggle's older packages, in .venv-older (PYTHON312=python3.12)
	PYTHON312="$(PYTHON312)" .ci/older .venv-older

fuzz: $(VENV) $(VENV_DEV) ## mutated images, tables and TOML files, for SECONDS=60
	$(PYTHON) -m tests.fuzzing --seconds $(or $(SECONDS),60) --seed $(or $(SEED),0)

types: $(VENV) $(VENV_DEV) ## mypy, strict, on the packages that pyproject.toml lists
	$(PYTHON) -m mypy

lint: $(VENV_LINT) ## ruff: check the code and its format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(VENV_LINT) ## ruff: fix the code and its format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
