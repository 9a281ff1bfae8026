"""The data sets of `auto.py`, each as a newcomer to a competition has it: a folder of files, and no description.

    files/           images, training table or mask images, sample_submission.csv
    card.toml        the card that a person wrote: for scores and for `plain_script.py`
    solution.csv     the truth of the test images
    groups.csv       of the test images: those of one group (a patient, a mosaic) are resampled together

- Real sets: their own test images have no known truth, so a fifth of the training images is the test set. It holds
  whole groups and near-duplicates, and is balanced by coverage and image size; of a series of slices it is the middle.
- Demos: `pipeline/demos/`, without their cards.
- Generated sets: `auto_generated.py`.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_generated import SPECS, Spec, card_text, make_generated

from pipeline import competition
from pipeline.competition import Competition
from pipeline.data.index import read_index
from pipeline.data.tables import read_table
from pipeline.demos.salt import write_table
from pipeline.duplicates import merge_groups, read_duplicates
from pipeline.files import atomic_folder
from pipeline.folds import assign_folds
from pipeline.stages.preparing import GENERATORS

ROOT = Path(__file__).resolve().parent.parent
PARTS = 5  # one of them is the test set


class RealSet(NamedTuple):
    """A real data set.

    Args:
        card: a name, or a path from the project's folder.
        duplicates: name of the near-duplicates in folds/.
        is_series: whether the sorted images are one series of slices.
    """

    card: str
    duplicates: str | None = None
    is_series: bool = False


REAL = {
    "nuclei": RealSet("nuclei", duplicates="nuclei"),
    "heart": RealSet("heart", duplicates="heart"),
    "cells-16bit": RealSet("benchmarks/cards/cells-16bit.toml"),
    "liver-ct": RealSet("benchmarks/cards/liver-ct.toml", is_series=True),
    "membranes": RealSet("benchmarks/cards/membranes.toml"),
}
DEMOS = tuple(GENERATORS)
GENERATED = {spec.name: spec for spec in SPECS}
NAMES = (*REAL, *DEMOS, *GENERATED)
PERCENTILES = 1.0, 99.8  # of an image's values, for files of more than 8 bits
RANGES = {  # options of the plain script's reader: what a person knows about the values
    "liver-ct": {"value_range": (-100.0, 300.0)},  # Hounsfield units
    **{name: {"percentiles": PERCENTILES} for name in ("cells-16bit", "bands_demo", "exposures")},
}


class AutoSet(NamedTuple):
    """A data set on disk."""

    name: str
    folder: Path

    @property
    def files(self) -> Path:
        """What a newcomer has."""
        return self.folder / "files"

    @property
    def card_file(self) -> Path:
        """The card that a person wrote."""
        return self.folder / "card.toml"

    @property
    def card(self) -> Competition:
        """The same, loaded."""
        return competition.load(str(self.card_file))

    @property
    def solution(self) -> Path:
        """The truth of the test images."""
        return self.folder / "solution.csv"

    def groups(self, image_ids: Sequence[str]) -> list[str]:
        """The group of each test image."""
        table = read_table(self.folder / "groups.csv", ["image_id", "group"])
        group = dict(zip(table["image_id"], table["group"], strict=True))
        return [group[image_id] for image_id in image_ids]


def make_set(name: str, folder: Path, given: dict[str, Path]) -> AutoSet:
    """A data set in a folder, made if it is missing; the same files for the same code.

    Args:
        name: one of NAMES.
        given: the folders of real sets.

    Raises:
        ValueError: for an unknown name, and a real set without a folder, with what to do.
    """
    made = AutoSet(name, folder)
    if folder.is_dir():
        return made
    write = _writer(name, given)
    with atomic_folder(folder) as partial_folder:
        write(AutoSet(name, partial_folder))
    return made


def _writer(name: str, given: dict[str, Path]) -> Callable[[AutoSet], None]:
    if name in GENERATED:
        return partial(_write_generated, GENERATED[name])
    if name in DEMOS:
        return _write_demo
    if name not in REAL:
        raise ValueError(f"unknown data set '{name}': expected one of {', '.join(NAMES)}")
    if name not in given:
        raise ValueError(f"no data for {name}: give its folder with --data {name}=FOLDER, or leave it out with --only")
    return partial(_hold_out, REAL[name], given[name])


# ---------------------------------------------------------------------------------------------- generated


def _write_generated(spec: Spec, made: AutoSet) -> None:
    made.files.mkdir()
    make_generated(made.files, spec)
    made.card_file.write_text(card_text(spec), encoding="utf-8")
    _hide_solution(made)


def _write_demo(made: AutoSet) -> None:
    GENERATORS[made.name](made.files)
    shutil.copyfile(competition.card_path(made.name), made.card_file)
    _hide_solution(made)


def _hide_solution(made: AutoSet) -> None:
    """Move the solution out of the files."""
    (made.files / "solution.csv").rename(made.solution)
    card = made.card
    ids = read_table(made.solution, [card.columns.id])[card.columns.id].unique()
    volumes = [re.fullmatch(card.volume_pattern, each)[1] for each in ids] if card.volume_pattern else ids
    write_table(made.folder / "groups.csv", ("image_id", "group"), zip(ids, volumes, strict=True))


# ---------------------------------------------------------------------------------------------- real


def _hold_out(real: RealSet, source: Path, made: AutoSet) -> None:
    """Make a test set of a fifth of the training images of a folder."""
    card_file = competition.card_path(str(ROOT / real.card) if real.card.endswith(".toml") else real.card)
    shutil.copyfile(card_file, made.card_file)
    card = made.card
    index = read_index(card, source)
    if real.duplicates:
        pairs = read_duplicates(ROOT / "folds" / f"{real.duplicates}.duplicates.csv")
        index["group"] = merge_groups(index, pairs)
    test = set(_middle(index) if real.is_series else _balanced(index))
    held_out = index["image_id"].isin(test)
    for folder, rows in (("train_images", index[~held_out]), ("test_images", index[held_out])):
        target = made.files / getattr(card.files, folder)
        target.mkdir(parents=True)
        for path in rows["path"]:
            _link(path, target / path.name)
    _split_tables(card, source, made, test)
    write_table(made.folder / "groups.csv", ("image_id", "group"), index[held_out][["image_id", "group"]].to_numpy())


def _middle(index: pd.DataFrame) -> list[str]:
    """The ids of the middle part of the sorted images."""
    count = len(index) // PARTS
    start = (len(index) - count) // 2
    return sorted(index["image_id"])[start : start + count]


def _balanced(index: pd.DataFrame) -> list[str]:
    """The ids of one of PARTS parts of whole groups, balanced by coverage and image size."""
    sizes = index["height"].astype(str) + "x" + index["width"].astype(str)
    parts = assign_folds(index.assign(size=sizes), PARTS, seed=0, balance=("size",))
    return parts["image_id"][parts["fold"] == 0].tolist()


def _split_tables(card: Competition, source: Path, made: AutoSet, test: set[str]) -> None:
    """Write the tables of a set: the rows of the training images, a sample of the test images, and their solution."""
    labels = read_table(source / card.files.train_csv, card.columns.header)
    held_out = labels[card.columns.id].isin(test)
    _write_csv(made.files / card.files.train_csv, labels[~held_out])
    _write_csv(made.solution, labels[held_out])
    _write_csv(made.files / card.files.sample_submission, labels[held_out].assign(**{card.columns.rle: ""}))
    if card.files.train_meta:
        meta = read_table(source / card.files.train_meta, [card.columns.id])
        _write_csv(made.files / card.files.train_meta, meta[~meta[card.columns.id].isin(test)])


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, lineterminator="\n")


def _link(source: Path, target: Path) -> None:
    """A hard link to a file, or a copy where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
