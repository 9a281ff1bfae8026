"""Records submissions and their scores, and measures how well the OOF score predicts the leaderboard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from pipeline.files import write_text
from pipeline.schema import Table, read_json

MIN_SUBMISSIONS = 3  # for a rank correlation
LABELS = {"oof": "OOF", "public": "public", "private": "private"}


class Entry(Table):
    """One submission of a CSV, or of a notebook's output."""

    ref: int = 0  # Kaggle's number; 0 until it is submitted
    made: str = ""  # ISO 8601; empty until Kaggle reports it
    message: str
    sha256: str  # of the CSV; for a notebook, of its output on the known test set
    kernel: str | None = None  # owner/slug, version
    public: float | None = None
    private: float | None = None


class Row(NamedTuple):
    """One submission with its scores."""

    name: str
    ref: int
    oof: float | None  # cross-fitted; None of a blend
    public: float | None
    private: float | None


class Correlation(NamedTuple):
    """Spearman's rank correlation of two scores over all submissions that have both."""

    of: str
    value: float
    count: int


def entries_path(name: str) -> Path:
    """The file of a submission's entries."""
    return Path("submissions") / f"{name}.kaggle.json"


def read_entries(name: str) -> list[Entry]:
    """Read a submission's entries, oldest first."""
    path = entries_path(name)
    if not path.is_file():
        return []
    remedy = "restore it, for example with git checkout: only Kaggle's site has a copy of these scores"
    return [Entry(**each) for each in read_json(path, remedy, list[Entry])]


def write_entries(name: str, entries: Sequence[Entry]) -> Path:
    """Write a submission's entries; an entry replaces an earlier one with the same number. Returns the path."""
    by_ref = {entry.ref: entry for entry in [*read_entries(name), *entries]}
    text = json.dumps([entry.model_dump(mode="json") for entry in by_ref.values()], indent=1)
    write_text(entries_path(name), text + "\n")
    return entries_path(name)


def correlations(rows: Sequence[Row]) -> list[Correlation]:
    """Correlate OOF, public and private score, where at least MIN_SUBMISSIONS rows have both."""
    found = []
    for first, second in (("oof", "public"), ("oof", "private"), ("public", "private")):
        pairs = [(getattr(row, first), getattr(row, second)) for row in rows]
        both = np.array([pair for pair in pairs if None not in pair], dtype=float)
        if len(both) >= MIN_SUBMISSIONS and (np.ptp(both, axis=0) > 0).all():  # equal scores have no rank
            found.append(
                Correlation(f"{LABELS[first]} and {LABELS[second]}", float(spearmanr(*both.T).statistic), len(both))
            )
    return found
