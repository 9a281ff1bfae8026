"""Declared, pinned and imported packages agree; `make test-older` tests the lowest supported versions."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.kaggle.wheels import MISSING

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]]
NAMES = {canonicalize_name(requirement.name) for requirement in DECLARED}


def pins(file):
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    pinned = [Requirement(line) for line in lines if "==" in line]
    return {canonicalize_name(each.name): Version(str(each.specifier)[2:]) for each in pinned}


PINNED, BASE = pins("requirements.txt"), pins("requirements-kaggle-image.txt")
EXTRAS = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
OPTIONAL = pins("requirements-kaggle.txt").keys()
OPTIONAL |= {canonicalize_name(requirement.name) for requirement in EXTRAS}
OPTIONAL |= {"requests"}  # used by Kaggle's client


def imported():
    """Packages that the code imports, inside functions too, and where."""
    owners = packages_distributions()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"pipeline"}:
                yield path.name, {canonicalize_name(name) for name in owners[module]}


def test_every_package_that_is_imported_is_declared():
    missing = {(path, *found) for path, found in imported() if not found & (NAMES | OPTIONAL)}
    assert not missing


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_lowest_version_is_that_of_the_base_or_bundle_and_the_pinned_one_satisfies_it(requirement):
    name = canonicalize_name(requirement.name)
    lowest = {Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")}
    assert lowest == {BASE.get(name, PINNED[name])}
    assert PINNED[name] in requirement.specifier


def test_the_bundle_contains_exactly_the_packages_missing_in_the_base():
    assert NAMES - set(BASE) == set(MISSING)
