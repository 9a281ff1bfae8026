"""make passes values unchanged to the command line."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pipeline import config
from pipeline.cli.terminal import app
from pipeline.schema import split_pairs

ROOT = Path(__file__).parent.parent


def make(*words: str) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "DATA")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(["make", "-f", str(ROOT / "Makefile"), *words], capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("predict.views=['identity','transpose']", ["predict.views=['identity','transpose']"]),
        ("predict.views=['identity', 'transpose'] seed=1", ["predict.views=['identity', 'transpose']", "seed=1"]),
        ("train.batch_size=8 seed=1", ["train.batch_size=8", "seed=1"]),
        ('a="x y=z" b=2', ['a="x y=z"', "b=2"]),
        ("a={x = 1, y = [1, 2]}  b=2", ["a={x = 1, y = [1, 2]}", "b=2"]),
        ("data.root=/a folder/of mine seed=1", ["data.root=/a folder/of mine", "seed=1"]),
        ("", []),
        ("  ", []),
    ],
)
def test_pairs_are_separated_by_blanks_outside_quotes_and_brackets(text, pairs):
    assert split_pairs(text) == pairs


@pytest.mark.parametrize("target", ["train", "oof", "ensemble", "doctor", "bundle", "sweep", "report"])
@pytest.mark.parametrize(
    "text", ["predict.views=['identity','transpose'] seed=1", "a=\"two words\" b='#1' c=`x`", "a=1"]
)
def test_make_passes_set_options_unchanged(target, text):
    words = shlex.split(make("-n", target, "PYTHON=python", f"SET={text}").stdout.replace("\\\n", " "))
    assert [word for word in words if word.startswith("--set")] == [f"--set={text}"]


def test_every_target_with_the_common_options_accepts_them():
    recipes = (ROOT / "Makefile").read_text().splitlines()
    commands = {line.split()[1] for line in recipes if line.startswith("\t$(STAGE)") and "$(OPTIONS)" in line}
    assert {"train", "ensemble", "bundle", "rehearse"} <= commands
    known = typer.main.get_command(app).commands
    for name in commands:
        options = {text for parameter in known[name].params for text in parameter.opts}
        assert {"--set", "--skip-bad"} <= options, name


@pytest.mark.slow
def test_make_passes_a_list_to_a_stage(tiny):
    text = "predict.views=['identity','sideways'] seed=1"
    done = make("folds", "CONFIG=tiny", f"PYTHON={sys.executable}", f"SET={text}")
    assert "unknown view 'sideways'" in done.stderr


def test_one_option_may_have_several_pairs(tiny):
    cfg = config.load("configs/tiny.toml", ["predict.views=['identity', 'transpose'] seed=3", "train.batch_size=2"])
    assert (cfg.predict.views, cfg.seed, cfg.train.batch_size) == (("identity", "transpose"), 3, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["NAME=mine"], ["mine"]),
        (["NAME=mine", "CARD=cards/a b.toml", "SKIP_BAD=1"], ["mine", "--card", "cards/a b.toml", "--skip-bad"]),
        ([], []),  # the name of an ensemble, which NAME has by default, is no name for a config
    ],
)
def test_make_config_passes_the_name_that_was_given(given, words):
    said = make("-n", "config", "PYTHON=python", *given).stdout.replace("\\\n", " ")
    assert shlex.split(said) == ["python", "-m", "pipeline", "config", *words]


def test_a_misspelt_variable_is_refused_before_its_default_is_used():
    done = make("-n", "train", "PYTHON=python", "CONFG=nuclei")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown variable CONFG: expected one of A B " in done.stderr


@pytest.mark.parametrize(
    ("goals", "variable"),
    [
        (["train"], "FOLDS"),
        (["ensemble"], "FOLD"),
        (["oof"], "CONFIGS"),
        (["auto"], "SET"),
        (["folds", "oof"], "FOLD"),
    ],
)
def test_a_variable_that_no_target_reads_is_refused(goals, variable):
    done = make("-n", *goals, "PYTHON=python", f"{variable}=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"make {' '.join(goals)} does not read {variable}, it reads " in done.stderr


def test_a_variable_that_one_of_the_targets_reads_is_accepted():
    assert make("-n", "folds", "train", "PYTHON=python", "FOLD=0").returncode == 0


def test_each_variable_in_a_recipe_is_read_by_its_target():
    text = (ROOT / "Makefile").read_text()
    macros = {"OPTIONS": "CONFIG SET SKIP_BAD", "MEMBERS": "CONFIGS FOLDS", "NAMED": "NAME"}
    used = {}
    for target, recipe in re.findall(r"^([a-z]+): [^\n]*\n((?:\t[^\n]*\n)+)", text, re.MULTILINE):
        words = re.findall(r"\$\((?:\w+ )?([A-Z][A-Z_0-9]*)[),]|call option,([A-Z]+),", recipe)
        names = {name for pair in words for each in pair if each for name in macros.get(each, each).split()}
        used[target] = names - {"STAGE", "PYTHON", "BASE_PYTHON"}
    assert used["train"] == {"CONFIG", "SET", "SKIP_BAD", "FOLD"}
    assert used["card"] == {"NAME", "METRIC", "TABLE"}
    for target, names in used.items():
        for name in names:
            assert make("-n", target, "PYTHON=python", f"{name}=1").returncode == 0, (target, name)


@pytest.mark.parametrize(
    "word", ["-j2", "-k", "SHELL=/bin/bash", "MAKEFLAGS=-k", ".SHELLFLAGS=-ec", "CONFIG:=nuclei", "OMP_NUM_THREADS=1"]
)
def test_variables_of_make_itself_and_of_the_environment_are_accepted(word):
    done = make("-n", "train", "PYTHON=python", word)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_variable_that_a_recipe_reads_may_be_given():
    text = (ROOT / "Makefile").read_text()
    read = set(re.findall(r"\$\((?:\w+ )?([A-Z][A-Z_0-9]*)[),]", text)) - {"MAKEFILE_LIST", "MAKECMDGOALS"}
    set_here = set(re.findall(r"^\s*([A-Z_0-9]+) :?= ", text, re.MULTILINE))
    default = set(re.findall(r"^([A-Z_0-9]+) \?=", text, re.MULTILINE))
    options = (read | default) - set_here | {"NAME", "PYTHON"}
    assert {"CONFIG", "SEED", "RETRIES", "MESSAGE"} <= options
    assert make("help", *(f"{name}=1" for name in sorted(options))).returncode == 0
