"""Mutated and random folders of a competition, from which a card is drafted."""

import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.card_draft.text import to_toml
from pipeline.competition import Competition
from pipeline.schema import parse
from tests import fuzz_tables
from tests.miniatures import LAYOUTS, write_miniature
from tests.public_sets import NIFTI, SETS

T = TypeVar("T")
Files = dict[str, bytes]  # by path below the data folder
METRICS = "", "", "", "global_dice", "dsb_precision", "tgs_precision", "class_iou", "mean_f_beta(beta=2)", "x"
FOLDERS = "", "train", "train/images", "test", "masks", "labels", "train_masks", "a/b", "[x]", "é", "..x", "0"
STEMS = (
    "",
    "0",
    "001",
    "x_1",
    "x_mask",
    "a b",
    "é",
    "e\u0301",
    "[/x]",
    "{id}",
    "x" * 120,
    "slice_01",
    "(1)",
    "train",
    "\\d+",
)
SUFFIXES = ".png", ".jpg", ".PNG", ".tif", ".nii.gz", ".npy", ".dcm", ".csv", ".json", ".zip", "", ".", ".txt"
TEXTS = (
    "",
    "id,rle\n",
    "id,rle\n001,1 1\n",
    "a\nb\n",
    '{"images": [], "categories": [], "annotations": []}',
    "{}",
    "[1]",
    "\0",
)

MAX_NAME = 255  # bytes of a file's name, as file systems have it


def fuzz_folder(rng: np.random.Generator, folder: Path) -> str:
    """Draft a card from the files of a competition with some mutations, or from files with random names.

    Raises:
        AssertionError: if the text of the card is not that of the draft.
    """
    files = _random_files(rng) if rng.random() < 0.2 else files_of(_pick(rng, SOUND))
    for _ in range(rng.integers(4)):
        files = _pick(rng, MUTATIONS)(rng, files)
    root = folder / "data"
    for path, content in files.items():
        _write(root / path, content)
    draft = draft_card(list_files(root), "fuzz", _pick(rng, METRICS))
    written = tomllib.loads(to_toml(draft, "fuzzed"))
    card, drafted = (parse(Competition, tables, "the card") for tables in (written, draft.tables()))
    assert card == drafted, "the card's text differs from the draft"
    return "read"


@cache
def files_of(name: str) -> Files:
    """The files of a competition in miniature, or of the layout of a public data set."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        if name in LAYOUTS:
            write_miniature(name, root)
            (root / "solution.csv").unlink()
        else:
            SETS[name](root)
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


SOUND = [*LAYOUTS, *(name for name in SETS if name not in NIFTI)]


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless its name is too long, or that of a folder, or that of its folder is one of a file."""
    if len(path.name.encode()) > MAX_NAME or path.is_dir() or any(parent.is_file() for parent in path.parents):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items; `rng.choice` would shorten a text that ends in a zero byte."""
    return items[rng.integers(len(items))]


def _random_name(rng: np.random.Generator) -> str:
    return "/".join(filter(None, [_pick(rng, FOLDERS), _pick(rng, STEMS) + _pick(rng, SUFFIXES)])) or "x"


def _random_content(rng: np.random.Generator) -> bytes:
    """The bytes of a file of any competition, of a short text, or random ones."""
    if rng.random() < 0.6:
        files = files_of(_pick(rng, SOUND))
        return files[_pick(rng, list(files))]
    return _pick(rng, TEXTS).encode() if rng.random() < 0.7 else rng.bytes(rng.integers(100))


def _random_files(rng: np.random.Generator) -> Files:
    return {_random_name(rng): _random_content(rng) for _ in range(rng.integers(1, 20))}


def _without_file(rng: np.random.Generator, files: Files) -> Files:
    left_out = _pick(rng, list(files)) if files else ""
    return {path: content for path, content in files.items() if path != left_out}


def _without_folder(rng: np.random.Generator, files: Files) -> Files:
    """All files but those of one folder."""
    folders = sorted({path.rpartition("/")[0] for path in files})
    left_out = _pick(rng, folders) if folders else ""
    return {path: content for path, content in files.items() if path.rpartition("/")[0] != left_out}


def _some_files(rng: np.random.Generator, files: Files) -> Files:
    """About half of the files."""
    return {path: content for path, content in files.items() if rng.random() < 0.5}


def _more_files(rng: np.random.Generator, files: Files) -> Files:
    return files | {_random_name(rng): _random_content(rng) for _ in range(rng.integers(1, 4))}


def _beside_a_file(rng: np.random.Generator, files: Files) -> Files:
    """A copy of each file of a folder, with another end of its name."""
    folder = _pick(rng, [path.rpartition("/")[0] for path in files]) if files else ""
    end = _pick(rng, ["_2", "_mask", " copy", ".x", "é"])
    copies = {
        f"{path.rpartition('.')[0]}{end}.{path.rpartition('.')[2]}": content
        for path, content in files.items()
        if path.rpartition("/")[0] == folder
    }
    return files | copies


def _renamed(rng: np.random.Generator, files: Files) -> Files:
    """A part of all paths is replaced, as "train" by "x"."""
    words = sorted({word for path in files for word in path.replace("/", ".").replace("_", ".").split(".") if word})
    if not words:
        return files
    old, new = _pick(rng, words), _pick(rng, [*STEMS[1:], "TRAIN", "Test"])
    return {path.replace(old, new): content for path, content in files.items()}


def _deeper(rng: np.random.Generator, files: Files) -> Files:
    """All files in a folder."""
    return {f"{_pick(rng, STEMS[1:6])}/{path}": content for path, content in files.items()}


def _other_content(rng: np.random.Generator, files: Files) -> Files:
    return files | {_pick(rng, list(files)): _random_content(rng)} if files else files


def _other_table(rng: np.random.Generator, files: Files) -> Files:
    """A mutation of the text of a CSV or JSON."""
    texts = [path for path in files if path.endswith((".csv", ".json", ".jsonl"))]
    if not texts:
        return files
    path = _pick(rng, texts)
    return files | {path: _pick(rng, fuzz_tables.MUTATIONS)(rng, files[path])}


MUTATIONS: list[Callable[[np.random.Generator, Files], Files]] = [
    _without_file, _without_folder, _some_files, _more_files, _beside_a_file, _renamed, _deeper, _other_content,
    _other_table, _other_table,
]  # fmt: skip
