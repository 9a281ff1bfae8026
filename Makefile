# make demo        a submission from generated data, in minutes
# make help        everything else
CONFIG ?= demo
FOLD ?= all
SET ?=
COMPETITION ?= demo
CONFIGS ?= $(CONFIG)
export DATA

# A misspelt variable would be ignored, and its default used. Names with an underscore, such as OMP_NUM_THREADS, are not
# checked: make passes them to the environment, where libraries read them.
VARIABLES := A B BASE_PYTHON BUDGET CARD COMPETITION CONFIG CONFIGS CSVS DATA EXECUTOR FOLD FOLDS HALF IMAGES INFLATION JOBS KERNEL \
	MESSAGE METRIC NAME OOF OWNER PATTERN PHASE PYTHON PYTHON312 RETRIES SCALE SECONDS SEED SEEDS SET SKIP_BAD SOLUTION SUBMISSION \
	SUBMISSIONS TABLE TEST TRAIN WEIGHTS
OF_MAKE := MAKE MAKEFLAGS SHELL .SHELLFLAGS TMPDIR
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(if $(findstring _,$(name)),,$(name))))
unknown := $(firstword $(filter-out $(VARIABLES) $(OF_MAKE),$(given)))
ifneq ($(unknown),)
$(error unknown variable $(unknown): expected one of $(VARIABLES); see make help)
endif

# A variable that a target does not read would be ignored too.
OF_CONFIG := CONFIG DATA SET SKIP_BAD
OF_SUBMISSION := CONFIG CONFIGS FOLDS NAME
$(foreach target,augment doctor folds oof predict pseudo,$(eval READ_BY_$(target) := $(OF_CONFIG)))
READ_BY_card := DATA NAME METRIC TABLE
READ_BY_config := DATA NAME CARD SKIP_BAD
READ_BY_auto := DATA BUDGET NAME METRIC TABLE CARD SKIP_BAD
READ_BY_data := $(OF_CONFIG) COMPETITION
READ_BY_audit := $(OF_CONFIG) INFLATION
READ_BY_train := $(OF_CONFIG) FOLD
READ_BY_sweep := $(OF_CONFIG) CONFIGS FOLD SEEDS JOBS EXECUTOR RETRIES
READ_BY_import := $(OF_CONFIG) NAME OOF TEST SCALE
READ_BY_phase := $(OF_CONFIG) PHASE
READ_BY_ensemble := $(OF_CONFIG) CONFIGS FOLDS WEIGHTS
READ_BY_report := $(READ_BY_ensemble)
READ_BY_blend := $(OF_CONFIG) CSVS WEIGHTS COMPETITION NAME
READ_BY_compare := A B
READ_BY_final := SUBMISSIONS COMPETITION DATA
READ_BY_score := COMPETITION SUBMISSION SOLUTION DATA
READ_BY_bundle := $(OF_CONFIG) CONFIGS FOLDS OWNER HALF
READ_BY_rehearse := $(OF_CONFIG) CONFIGS FOLDS IMAGES PYTHON312
READ_BY_upload := $(OF_SUBMISSION) MESSAGE
READ_BY_push := $(OF_SUBMISSION) TRAIN
READ_BY_submit := $(OF_SUBMISSION) MESSAGE KERNEL DATA
READ_BY_leaderboard := COMPETITION
READ_BY_demo :=
READ_BY_competitions :=
READ_BY_encoders := PATTERN
read := $(foreach goal,$(MAKECMDGOALS),$(if $(filter undefined,$(origin READ_BY_$(goal))),$(VARIABLES),$(READ_BY_$(goal))))
unread := $(firstword $(filter-out $(read) PYTHON $(OF_MAKE),$(given)))
ifneq ($(and $(MAKECMDGOALS),$(unread)),)
$(error make $(MAKECMDGOALS) does not read $(unread), it reads $(or $(sort $(read)),none); see make help)
endif

# PYTHON=/path/to/python uses an existing environment (conda, Kaggle) instead of .venv.
ifeq ($(PYTHON),)
override PYTHON := .venv/bin/python
VENV := .venv/.ready
VENV_DEV := .venv/.ready-dev
VENV_KAGGLE := .venv/.ready-kaggle
VENV_BENCH := .venv/.ready-bench
VENV_RAY := .venv/.ready-ray
VENV_LINT := .venv/.ready-lint
endif
# BASE_PYTHON=/path/to/python rehearses on that environment instead of .venv-kaggle, which is like Kaggle's image.
ifeq ($(BASE_PYTHON),)
override BASE_PYTHON := .venv-kaggle/bin/python
BASE := .venv-kaggle/.ready
endif
STAGE = $(PYTHON) -m pipeline
quoted = '$(subst ','\'',$(1))'
OPTIONS = configs/$(CONFIG).toml $(if $(SET),--set=$(call quoted,$(SET))) $(if $(SKIP_BAD),--skip-bad)
MEMBERS = --configs "$(CONFIGS)" $(if $(FOLDS),--folds "$(FOLDS)")
# The ensemble of configs a and b is called a+b; of their folds 0 and 1, a+b-fold0-fold1.
NAME = $(subst $() ,+,$(strip $(CONFIGS)))$(if $(FOLDS),$(subst $() ,,$(addprefix -fold,$(shell printf '%s\n' $(FOLDS) | sort -nu))))
# An option of the command line, if its variable is set: NAME only if it is given, because it has a default.
option = $(if $($(1)), --$(2) $(call quoted,$($(1))))
NAMED = $(if $(filter command,$(firstword $(origin NAME))), --name $(call quoted,$(NAME)))

.DEFAULT_GOAL := help
.PHONY: help setup auto card data augment doctor audit competitions config folds train sweep oof predict import phase ensemble blend report compare final pseudo score bundle rehearse upload push submit leaderboard demo encoders bench test test-slow test-older fuzz types lint format

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  CONFIG=name       configs/name.toml (now: $(CONFIG))"
	@echo "  DATA=folder       folder of the competition's files (default: data/<competition>)"
	@echo "  FOLD=0            one fold; FOLD=all (default) every fold in turn; FOLD=full every image, no validation"
	@echo "  FOLDS=\"0 1\"       ensemble, report, bundle: use only these folds (default: all)"
	@echo "  SET=\"a.b=1 c=['x','y']\"   override values of the config"
	@echo "  SKIP_BAD=1        list images that cannot be read and leave them out"
	@echo "  PYTHON=python     use this interpreter instead of .venv"
	@echo "  PYTHON312=path    of Python 3.12, as Kaggle has it, for rehearse and test-older"

setup: $(VENV) ## make .venv with the pinned packages

.venv/.ready: requirements.txt
	python3 -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, python3 is {v.major}.{v.minor}")'
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/.ready-dev: requirements-dev.txt requirements-encoders.txt requirements-kaggle.txt requirements-lint.txt .venv/.ready
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

# If COMPETITION is given on the command line, `make data` downloads it from Kaggle.
ifeq ($(origin COMPETITION),file)
data: $(VENV) ## generate a demo's data, and read every file once (COMPETITION=slug: download and unpack the files from Kaggle)
	$(STAGE) data $(OPTIONS)
else
data: $(VENV) $(VENV_KAGGLE)
	$(STAGE) download $(COMPETITION)
endif

card: $(VENV) ## draft cards/<name>.toml from the files of DATA=folder, zipped or not (NAME=x METRIC=mean_dice TABLE=train.csv)
	$(STAGE) card$(NAMED)$(call option,METRIC,metric)$(call option,TABLE,table)

augment: $(VENV) ## print the augmentation of each phase as a list for the config, and draw what the network sees
	$(STAGE) augment $(OPTIONS)

doctor: $(VENV) ## check the files against the card: sample submission, masks, RLE dialect, images
	$(STAGE) doctor $(OPTIONS)

audit: $(VENV) ## find near-duplicates within train and between train and test (INFLATION=1: how much a leak inflates the score)
	$(STAGE) audit $(OPTIONS) $(if $(INFLATION),--inflation)

config: $(VENV) ## measure the data and draft configs/NAME.toml, each option with its reason (CARD=name; default: cards/NAME.toml)
	$(STAGE) config$(if $(filter command,$(firstword $(origin NAME))), $(call quoted,$(NAME)))$(call option,CARD,card)$(if $(SKIP_BAD), --skip-bad)

auto: $(VENV) ## from a folder to a submission: DATA=folder BUDGET=2h (NAME=x METRIC=mean_dice TABLE=train.csv CARD=name)
	$(STAGE) auto --budget $(call quoted,$(BUDGET))$(NAMED)$(call option,METRIC,metric)$(call option,TABLE,table)$(call option,CARD,card)$(if $(SKIP_BAD), --skip-bad)

folds: $(VENV) ## assign images to folds: folds/<competition>.csv
	$(STAGE) folds $(OPTIONS)

train: $(VENV) ## train FOLD=k in all phases; resumes
	$(STAGE) train $(OPTIONS) --fold $(or $(FOLD),all)

sweep: $(VENV) $(if $(filter ray,$(EXECUTOR)),$(VENV_RAY)) ## train every fold of CONFIGS="a b" with SEEDS="0 1 2", JOBS=2 at a time (EXECUTOR=ray: on a cluster)
	$(STAGE) sweep $(OPTIONS) --configs "$(CONFIGS)" --fold $(or $(FOLD),all) $(if $(SEEDS),--seeds "$(SEEDS)") \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(EXECUTOR),--executor $(EXECUTOR)) $(if $(RETRIES),--retries $(RETRIES))

oof: $(VENV) ## out-of-fold predictions and scores of all folds
	$(STAGE) oof $(OPTIONS)

predict: $(VENV) ## test-set probabilities of all folds
	$(STAGE) predict $(OPTIONS)

import: $(VENV) ## make a member NAME=x of another tool's predictions: TEST=folder, OOF=folder (also CSVs; SCALE=255)
	$(STAGE) import $(OPTIONS)$(NAMED) $(if $(OOF),--oof $(call quoted,$(OOF))) \
		$(if $(TEST),--test $(call quoted,$(TEST))) $(if $(SCALE),--scale $(SCALE))

ensemble: $(VENV) ## run all missing stages and write submissions/<name>.csv (CONFIGS="a b": an ensemble of several)
	$(STAGE) ensemble $(OPTIONS) $(MEMBERS) $(if $(WEIGHTS),--weights "$(WEIGHTS)")

phase: $(VENV) ## make a member of an earlier phase's networks, of a trained config: CONFIG=x PHASE=1
	$(STAGE) phase $(OPTIONS) $(if $(PHASE),--phase $(PHASE))

blend: $(VENV) ## weighted vote of submissions of any origin: CSVS="a.csv b.csv" WEIGHTS="2 1" (NAME=x: its name)
	$(STAGE) blend $(OPTIONS) --csvs $(call quoted,$(CSVS)) $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(filter command,$(firstword $(origin COMPETITION))),--competition $(COMPETITION))$(NAMED)

report: $(VENV) ## reports/<name>.html: scores, plots, worst images, recommendations (CONFIGS="a b": of an ensemble)
	$(STAGE) report $(OPTIONS) $(MEMBERS) $(if $(WEIGHTS),--weights "$(WEIGHTS)")

compare: $(VENV) ## test whether A=x is better than B=y: paired bootstrap of their cross-fitted OOF scores
	$(STAGE) compare $(A) $(B)

final: $(VENV) ## final selection among SUBMISSIONS="a b c" to COMPETITION=slug, by simulated public and private splits
	$(STAGE) final $(SUBMISSIONS) --competition $(COMPETITION)

pseudo: $(VENV) ## train on pseudo-labelled test images without leaking the held-out fold; reports the change in score
	$(STAGE) pseudo $(OPTIONS)

score: $(VENV) ## score SUBMISSION=file.csv against SOLUTION=file.csv of COMPETITION=slug
	$(STAGE) score $(COMPETITION) $(call quoted,$(SUBMISSION)) $(call quoted,$(SOLUTION))

bundle: $(VENV) ## dist/kaggle/<name>/: wheels, weights and notebooks for Kaggle (OWNER=your Kaggle name, HALF=1: bfloat16)
	$(STAGE) bundle $(OPTIONS) $(MEMBERS) $(if $(OWNER),--owner $(OWNER)) $(if $(HALF),--half)

rehearse: $(VENV) $(BASE) ## run the bundle's notebook as Kaggle does: no network, a fresh environment, a hidden test set
	$(STAGE) rehearse $(OPTIONS) $(MEMBERS) --base $(BASE_PYTHON) $(if $(IMAGES),--images $(IMAGES))

upload: $(VENV) $(VENV_KAGGLE) ## upload the bundle's two datasets to Kaggle, or update them (MESSAGE="what changed")
	$(STAGE) upload $(NAME) $(if $(MESSAGE),--message=$(call quoted,$(MESSAGE)))

push: $(VENV) $(VENV_KAGGLE) ## push the bundle's notebook to Kaggle and wait for its run (TRAIN=1: the training notebook)
	$(STAGE) push $(NAME) $(if $(TRAIN),--train)

submit: $(VENV) $(VENV_KAGGLE) ## submit submissions/<name>.csv with MESSAGE="…"; wait for score and rank (KERNEL=1: the notebook's output)
	$(STAGE) submit $(NAME) --message=$(call quoted,$(MESSAGE)) $(if $(KERNEL),--kernel)

leaderboard: $(VENV) $(VENV_KAGGLE) ## OOF, public and private score of every submission to COMPETITION=slug, and their rank correlation
	$(STAGE) leaderboard $(COMPETITION)

demo: $(VENV) ## generated data to a scored submission, in minutes
	DATA= $(STAGE) ensemble configs/demo.toml
	$(STAGE) score demo submissions/demo.csv data/demo/solution.csv

competitions: $(VENV) ## list the competitions with a card, and what each one expects
	$(STAGE) competitions

encoders: $(VENV) ## list the timm encoders that work (PATTERN=resnet)
	$(STAGE) encoders $(PATTERN)

bench: $(VENV) $(VENV_DEV) $(VENV_BENCH) ## run the benchmarks (DATA=folder of nuclei: prediction too)
	@set -e; for file in rle rle_table instances thresholds postprocess memory train loader inputs allocator narrow_convolutions lovasz $(if $(DATA),predict); do echo "== benchmarks/$$file.py"; $(PYTHON) benchmarks/$$file.py; done

test: $(VENV) $(VENV_DEV) ## the fast tests, a few minutes; installs a browser for the tests of the report if there is none
	$(PYTHON) -m tests.browser
	$(PYTHON) -m pytest -n auto --dist loadgroup -m "not slow"

test-slow: $(VENV) $(VENV_DEV) ## the slow tests: Ray, notebooks, torchrun, rehearsal, kills, all architectures
	$(PYTHON) -m tests.browser
	$(PYTHON) -m pytest -n auto --dist loadgroup -m slow --timeout=900

test-older: ## all tests with Python 3.12 and Kaggle's older packages, in .venv-older (PYTHON312=python3.12)
	PYTHON312="$(PYTHON312)" .ci/older .venv-older

fuzz: $(VENV) $(VENV_DEV) ## mutated images, tables, TOML files and folders, for SECONDS=60
	$(PYTHON) -m tests.fuzzing --seconds $(or $(SECONDS),60) --seed $(or $(SEED),0)

types: $(VENV) $(VENV_DEV) ## mypy, strict, on the packages that pyproject.toml lists
	$(PYTHON) -m mypy

lint: $(VENV_LINT) ## ruff: check the code and its format
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: $(VENV_LINT) ## ruff: fix the code and its format
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
