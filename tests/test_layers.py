"""The layers of the package: a module imports only from layers above its own in this list, and from its own package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline

# Packages and modules of one layer do not import each other.
LAYERS = [
    {"numba_jit", "quoting", "symmetries"},
    {"files", "schema", "rle", "metrics", "hardware", "progress", "prefetch", "ray_cluster"},
    {"config", "competition", "manifest", "statistics", "fold_search"},
    {"data"},
    {"demos", "folds", "kinds", "duplicates", "doctor"},
    {"card_draft"},
    {"models", "losses"},
    {"inference"},
    {"postprocess", "planning"},
    {"pseudo_labels"},
    {"training", "ensemble", "submission", "scoring", "report"},
    {"serving"},
    {"kaggle", "sweep"},
    {"stages"},
    {"notebook_support"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
ROOT = Path(pipeline.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
# Libraries that only these packages import.
OWNERS = {
    "tomllib": {"schema"},
    "PIL": {"data", "demos"},
    "tifffile": {"data", "demos"},
    "pydicom": {"data"},
    "albumentations": {"data"},
    "safetensors": {"inference", "models", "training"},
    "kaggle.api": {"kaggle"},
    "requests": {"kaggle"},
}


def package_of(path: Path) -> str:
    """The package, or the top-level module, that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_packages(path: Path) -> set[str]:
    """Packages and top-level modules of ours that a file imports, inside functions too."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pipeline.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            parts = node.module.split(".")
            packages |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return packages - {"__version__"}


def imports_at_module_level(path: Path) -> Iterator[str]:
    """Top-level names of the packages that importing a file imports."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def test_every_module_has_a_layer():
    assert {package_of(path) for path in MODULES} - {"competitions"} == set(LAYER_OF)


def test_modules_import_only_from_higher_layers():
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in MODULES
        for other in imported_packages(path) - {package_of(path)}
        if LAYER_OF[other] >= LAYER_OF[package_of(path)]
    ]
    assert not wrong


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_is_imported_by_its_listed_packages_only(library):
    statements = (f"import {library}", f"from {library}")
    users = {package_of(path) for path in MODULES if any(each in path.read_text("utf-8") for each in statements)}
    assert users == OWNERS[library]


def test_the_kaggle_client_is_not_imported_at_module_level():
    # It is an optional package, and it looks for a token as soon as it is imported.
    wrong = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if {"kaggle", "kagglesdk", "requests", "tenacity"} & set(imports_at_module_level(path))
    ]
    assert not wrong


def test_no_module_has_a_generic_name():
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts}
    assert not names & {"utils", "core", "base", "helpers", "misc", "common"}
