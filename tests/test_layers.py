"""The rooms of the house: imports point up this list, never down."""

import ast
from pathlib import Path

import pytest

import pipeline

# A module may import those above it, and its own room. Rooms on one line do not know each other.
FLOORS = [
    {"numba_jit", "quoting"},
    {"files", "schema", "rle", "metrics", "hardware", "progress", "prefetch", "ray_cluster"},
    {"config", "competition", "manifest", "statistics"},
    {"data"},
    {"demos", "folds", "duplicates", "doctor"},
    {"models", "losses"},
    {"inference"},
    {"postprocess"},
    {"pseudo_labels"},
    {"training", "ensemble", "submission", "scoring", "report"},
    {"serving"},
    {"kaggle", "sweep"},
    {"stages"},
    {"notebook_support"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOT = Path(pipeline.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pipeline.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up(path):
    # The first floor's modules lean on nothing but each other's neighbours named here.
    for other in imported_rooms(path) - {room(path)}:
        assert FLOOR[other] < FLOOR[room(path)], f"{path.name} imports {other}, which lies below or beside it"


def test_every_module_has_a_floor():
    assert {room(path) for path in MODULES} - {"competitions"} == set(FLOOR)


@pytest.mark.parametrize(
    ("word", "owner"),
    [
        ("tomllib", "schema"),
        ("PIL", ("data", "demos")),
        ("tifffile", ("data", "demos")),
        ("pydicom", "data"),
        ("albumentations", "data"),
        ("safetensors", ("inference", "training")),
        ("kaggle.api", "kaggle"),
        ("requests", "kaggle"),
    ],
)
def test_a_library_has_one_owner(word, owner):
    owners = {owner} if isinstance(owner, str) else set(owner)
    users = {room(path) for path in MODULES if f"import {word}" in (text := path.read_text()) or f"from {word}" in text}
    assert users == owners


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_kaggles_client_is_imported_only_where_it_is_called(path):
    # It is installed for those who hand in only, and looks for a token as soon as it is imported.
    statements = ast.parse(path.read_text(encoding="utf-8")).body
    names = [each.module or "" for each in statements if isinstance(each, ast.ImportFrom)]
    names += [alias.name for each in statements if isinstance(each, ast.Import) for alias in each.names]
    assert not {name.partition(".")[0] for name in names} & {"kaggle", "kagglesdk", "requests"}


def test_no_room_is_called_after_nothing():
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts}
    assert not names & {"utils", "core", "base", "helpers", "misc", "common"}
