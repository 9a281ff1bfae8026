"""What was handed in, and how well the own score foretold the board's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from pipeline.files import write_text
from pipeline.schema import Table, read_json

FEWEST = 3  # submissions for a rank correlation


class Entry(Table):
    """One submission of a CSV, or of a notebook's output."""

    ref: int = 0  # Kaggle's number; 0 until it is handed in
    made: str = ""  # ISO 8601; empty until Kaggle says
    message: str
    sha256: str  # of the CSV; of a notebook, the one that it left before the hidden test set
    kernel: str | None = None  # owner/slug, version
    public: float | None = None
    private: float | None = None


class Row(NamedTuple):
    """One line of the table."""

    name: str
    ref: int
    cv: float  # cross-fitted out of fold
    public: float | None
    private: float | None


class Correlation(NamedTuple):
    """Spearman's rank correlation of two kinds of score."""

    of: str
    value: float
    count: int


def entries_path(name: str) -> Path:
    """Where a submission's entries are kept."""
    return Path("submissions") / f"{name}.kaggle.json"


def read_entries(name: str) -> list[Entry]:
    """A submission's entries, oldest first."""
    path = entries_path(name)
    if not path.is_file():
        return []
    remedy = "restore it, as with git checkout: only Kaggle's site has these scores beside it"
    return [Entry(**each) for each in read_json(path, remedy, list[Entry])]


def write_entries(name: str, entries: Sequence[Entry]) -> Path:
    """Keep a submission's entries; one of a number that is there already takes its place."""
    kept = {entry.ref: entry for entry in [*read_entries(name), *entries]}
    text = json.dumps([entry.model_dump(mode="json") for entry in kept.values()], indent=1)
    write_text(entries_path(name), text + "\n")
    return entries_path(name)


def correlations(rows: Sequence[Row]) -> list[Correlation]:
    """Of own, public and private score, each pair of which at least FEWEST rows have both."""
    found = []
    for first, second in (("cv", "public"), ("cv", "private"), ("public", "private")):
        pairs = [(getattr(row, first), getattr(row, second)) for row in rows]
        both = np.array([pair for pair in pairs if None not in pair], dtype=float)
        if len(both) >= FEWEST and (np.ptp(both, axis=0) > 0).all():  # among equal scores there is no rank
            found.append(Correlation(f"{first} and {second}", float(spearmanr(*both.T).statistic), len(both)))
    return found
