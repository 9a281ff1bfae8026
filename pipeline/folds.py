"""Folds: which images are held out when. The file is the ruler that every score is read on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from pipeline.data.tables import read_table
from pipeline.files import atomic_write, write_text
from pipeline.schema import JsonRecord, read_json

IMPORTANT = 4  # times that images and coverage count, against 1 of a stratum
LARGEST = 1.5  # of the images of an even fold: a larger group fills more than a fold
STRATA = 10  # coverage bins of the non-empty images
RESTARTS = 8  # of the search for folds that keep groups whole
TRIALS = 3000  # swaps and moves tried after each start, fewer where there are many groups


def assign_folds(index: pd.DataFrame, count: int, seed: int, balance: Sequence[str] = ()) -> pd.DataFrame:
    """A table `image_id, fold` with folds 0 … count-1 of near equal size.

    Images of one group stay together. Spread evenly are, all at once: empty images, each decile of coverage, and each
    value of the columns of `balance`; where the index has columns `coverage_<class>`, each class too. Without groups
    and further columns scikit-learn's StratifiedKFold does that; else a search with restarts (`_search`).

    Raises:
        ValueError: if there are fewer groups than folds, a group is larger than a fold, or a column does not exist.
    """
    _refuse_impossible(index, count, balance)
    index = index.sort_values("image_id", ignore_index=True)  # folds belong to images, not to the order of the rows
    groups = index["group"]
    # Few images per stratum cannot be spread: let the strata hold `count` groups or more each.
    bins = min(STRATA, max(1, groups.nunique() // count))
    areas = [column for column in index if column == "coverage" or str(column).startswith("coverage_")]
    if groups.is_unique and not balance and areas == ["coverage"]:
        strata = _merge_rare(_strata(index["coverage"].to_numpy(), bins), count)
        rows = StratifiedKFold(count, shuffle=True, random_state=seed).split(index, strata)
        fold = np.empty(len(index), dtype=np.int64)
        for number, (_, held_out) in enumerate(rows):
            fold[held_out] = number
    else:
        code, _ = pd.factorize(groups)
        fold = _search(_shares(index, code, areas, bins, balance), count, seed)[code]
    return pd.DataFrame({"image_id": index["image_id"], "fold": fold}).sort_values("image_id", ignore_index=True)


def _refuse_impossible(index: pd.DataFrame, count: int, balance: Sequence[str]) -> None:
    sizes = index["group"].value_counts()
    if len(sizes) < count:
        what = "image" if index["group"].is_unique else "group"
        if len(sizes) < 2:
            raise ValueError(f"{len(sizes)} {what}: folds need 2 at least, one to train on and one to hold out")
        raise ValueError(f"{len(sizes)} {what}s cannot fill {count} folds: lower folds.count to {len(sizes)} or less")
    if sizes.iloc[0] > 1 and sizes.iloc[0] > LARGEST * len(index) / count:
        members = index["image_id"][index["group"] == sizes.index[0]]
        raise ValueError(
            f"group '{sizes.index[0]}' holds {sizes.iloc[0]} of {len(index)} images ({', '.join(members.head(3))}, …), "
            f"a fold of {count} about {len(index) // count}: lower folds.count, or name a finer columns.group"
        )
    for column in balance:
        if column not in index:
            raise ValueError(f"folds.balance: no column '{column}', the index has: {', '.join(index.columns)}")


def _shares(
    index: pd.DataFrame, code: np.ndarray, areas: Sequence[str], bins: int, balance: Sequence[str]
) -> np.ndarray:
    """What each group brings to a fold, (groups, features), as shares of all: each column sums to 1.

    Features: images and coverage, which count most; then each stratum of each class, each value of each further column.
    """
    ones = [np.ones(len(index)), *(index[area].to_numpy() for area in areas)]
    labels = [_strata(index[area].to_numpy(), bins) for area in areas] + [index[column] for column in balance]
    hot = [pd.get_dummies(pd.Series(label)).to_numpy(float) for label in labels]
    table = np.column_stack([*(IMPORTANT * [*ones]), *hot])
    sums = np.zeros((code.max() + 1, table.shape[1]))
    np.add.at(sums, code, table)
    return sums[:, sums.sum(axis=0) > 0] / sums.sum(axis=0)[sums.sum(axis=0) > 0]


def _search(shares: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each group: the most even of several starts, each improved by moving and swapping groups.

    Even means: the squared differences between each fold's share of each feature and 1/count, summed.
    """
    rng = np.random.default_rng(seed)
    starts = [_improve(shares, _deal(shares, count, rng), count, rng) for _ in range(RESTARTS)]
    return min(starts, key=lambda fold: _unevenness(_fold_shares(shares, fold, count)).sum())


def _fold_shares(shares: np.ndarray, fold: np.ndarray, count: int) -> np.ndarray:
    sums = np.zeros((count, shares.shape[1]))
    np.add.at(sums, fold, shares)
    return sums


def _unevenness(sums: np.ndarray) -> np.ndarray:
    """Of each fold, summed over features."""
    return ((sums * len(sums) - 1) ** 2).sum(axis=1)


def _deal(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The groups, large ones first, each to the fold that stays the most even with it."""
    order = np.argsort(-(shares.sum(axis=1) * rng.uniform(0.8, 1.2, len(shares))))
    sums, fold = np.zeros((count, shares.shape[1])), np.empty(len(shares), dtype=np.int64)
    for group in order:
        gain = _unevenness(sums + shares[group]) - _unevenness(sums)
        fold[group] = gain.argmin()
        sums[fold[group]] += shares[group]
    return fold


def _improve(shares: np.ndarray, fold: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Try for one random group after another the best swap with any group, and the best move to any fold."""
    fold, sums = fold.copy(), _fold_shares(shares, fold, count)
    trials = int(np.clip(1e8 / shares.size, 100, TRIALS))
    for group in rng.integers(len(shares), size=trials):
        here, own = fold[group], shares[group]
        before = _unevenness(sums)
        # With a row of zeros at the end, a move to a fold is a swap with nothing.
        others = np.concatenate([np.flatnonzero(fold != here), -1 - np.arange(count)])
        there = np.where(others >= 0, fold[others], -1 - others)
        theirs = np.where(others[:, None] >= 0, shares[others], 0)
        after_here = (((sums[here] - own + theirs) * count - 1) ** 2).sum(axis=1)
        after_there = (((sums[there] + own - theirs) * count - 1) ** 2).sum(axis=1)
        change = np.where(there == here, 0, after_here + after_there - before[here] - before[there])
        best = change.argmin()
        if change[best] < -1e-12:
            sums[here] += theirs[best] - own
            sums[there[best]] += own - theirs[best]
            fold[group] = there[best]
            if others[best] >= 0:
                fold[others[best]] = here
    return fold


def _strata(coverage: np.ndarray, bins: int) -> np.ndarray:
    """0 for an empty image, else 1 + the quantile bin of its coverage among the non-empty ones."""
    filled = coverage > 0
    edges = np.quantile(coverage[filled], np.linspace(0, 1, bins + 1)[1:-1]) if filled.any() else []
    return np.where(filled, 1 + np.searchsorted(edges, coverage, side="right"), 0)


def _merge_rare(strata: np.ndarray, count: int) -> np.ndarray:
    """Strata of fewer than `count` images joined to their neighbour; the splitters want that many."""
    merged = strata.copy()
    for value in np.unique(strata)[:-1]:
        if (merged == value).sum() < count:
            merged[merged == value] = np.unique(strata[strata > value]).min()
    last = np.unique(merged)[-2:]
    if (merged == last[-1]).sum() < count:  # nothing lies above it: the neighbour below takes it
        merged[merged == last[-1]] = last[0]
    return merged


def write_folds(path: Path, folds: pd.DataFrame, index: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Write `image_id,fold`, and beside it in JSON how they were made; an existing file is never changed.

    Args:
        index: that the folds were made from.
        options: that they were made with.

    Raises:
        FileExistsError: if the file exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists, and scores are read on it: for other folds, set another folds.name")
    made = {
        **options,
        "images": len(index),
        "groups": index["group"].nunique(),
        "index": index_digest(index),
        "worst_deviation": round(worst_deviation(describe(index, folds, options.get("balance", ()))), 4),
    }
    write_text(path.with_suffix(".json"), json.dumps(made, indent=1) + "\n")
    with atomic_write(path) as partial:
        folds.to_csv(partial, index=False, lineterminator="\n")


def index_digest(index: pd.DataFrame) -> str:
    """A short hash of ids and coverage: what folds are made from, and what another version of the data changes."""
    table = index[["image_id", "coverage"]].sort_values("image_id")
    return hashlib.sha256(table.to_csv(index=False, float_format="%.6f").encode()).hexdigest()[:16]


def read_folds(path: Path, index: pd.DataFrame, *, subset: bool = False) -> pd.DataFrame:
    """The folds of exactly the images in `index`.

    Args:
        subset: the file may list images that are not in the index: those that were left out as bad.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if ids differ from the index (naming the first), repeat, or a fold is no number; if
            images of one group lie in two folds; if the folds were made from other masks.
    """
    table = read_table(path, ["image_id", "fold"])
    if subset:
        table = table[table["image_id"].isin(index["image_id"])].reset_index(drop=True)
    known, listed = set(index["image_id"]), set(table["image_id"])
    if known != listed or len(table) != len(listed):
        first = min(known ^ listed, default=None) or table["image_id"][table["image_id"].duplicated()].iloc[0]
        where = "only in the data" if first in known - listed else "only there" if first in listed - known else "twice"
        raise ValueError(
            f"{path}: {len(table)} rows, but the data has {len(index)} training images. First difference: "
            f"'{first}' ({where}). Use the data that the folds were made from, or another folds.name"
        )
    if not table["fold"].str.fullmatch(r"\d+").all():
        wrong = table["fold"][~table["fold"].str.fullmatch(r"\d+")]
        raise ValueError(f"{path}: line {wrong.index[0] + 2}: fold '{wrong.iloc[0]}' is not a number from 0")
    folds = table[["image_id", "fold"]].assign(fold=table["fold"].astype(np.int64))
    _refuse_leak(path, folds, index)
    if not subset:
        _refuse_other_index(path.with_suffix(".json"), index)
    return folds.sort_values("image_id", ignore_index=True)


class Made(JsonRecord):
    """What must be in the JSON beside the folds."""

    index: str


def _refuse_other_index(made: Path, index: pd.DataFrame) -> None:
    if not made.exists():
        return
    remedy = "restore it, as with git checkout, or remove it: the folds themselves stay, and are not compared with it"
    if (expected := read_json(made, remedy, Made)["index"]) != index_digest(index):
        raise ValueError(
            f"{made}: the folds were made from other masks of the same images (index {expected}, now "
            f"{index_digest(index)}): use the data that they were made from, or another folds.name"
        )


def _refuse_leak(path: Path, folds: pd.DataFrame, index: pd.DataFrame) -> None:
    spread = folds.merge(index[["image_id", "group"]], on="image_id").groupby("group")["fold"].nunique()
    if (spread > 1).any():
        raise ValueError(
            f"{path}: group '{spread.idxmax()}' lies in {spread.max()} folds: its images would leak. Set folds.name = "
            f'"{path.stem}2" in the config: new folds keep the group together, runs on these stay'
        )


def hold_out(index: pd.DataFrame, folds: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`train_index` and `valid_index`: the images outside fold `fold`, and those inside it.

    Raises:
        ValueError: for a fold that does not exist, is empty, or leaves nothing to train on.
    """
    numbers = sorted(folds["fold"].unique())
    inside = index["image_id"].isin(folds["image_id"][folds["fold"] == fold])
    if not inside.any():
        gap = "is empty" if 0 <= fold <= max(numbers) else "does not exist"
        raise ValueError(f"fold {fold} {gap}. Folds with images: {', '.join(map(str, numbers))}")
    if inside.all():
        raise ValueError(f"fold {fold} holds every image: nothing is left to train on")
    return index[~inside].reset_index(drop=True), index[inside].reset_index(drop=True)


QUANTILES = (0.25, 0.5, 0.75)


def describe(index: pd.DataFrame, folds: pd.DataFrame, balance: Sequence[str] = ()) -> pd.DataFrame:
    """One row per fold: images, groups, share of empty images, coverage (mean and quantiles), shares of `balance`.

    Of several classes also each one's mean coverage, `coverage_<class>`, and share of the images, `with_<class>`.
    """
    table = index.merge(folds, on="image_id").assign(empty=lambda rows: rows["coverage"] == 0)
    by_fold = table.groupby("fold")
    areas = [str(column) for column in index if str(column).startswith("coverage_")]
    return pd.DataFrame(
        {
            "images": by_fold.size(),
            "groups": by_fold["group"].nunique(),
            "empty": by_fold["empty"].mean(),
            **{area: by_fold[area].mean() for area in ["coverage", *areas]},
            **{
                area.replace("coverage_", "with_", 1): (table[area] > 0).groupby(table["fold"]).mean() for area in areas
            },
            **{f"q{100 * q:.0f}": by_fold["coverage"].quantile(q) for q in QUANTILES},
            **{
                f"{column}={value}": (table[column] == value).groupby(table["fold"]).mean()
                for column in balance
                for value in sorted(table[column].unique())
            },
        }
    )


def worst_deviation(described: pd.DataFrame) -> float:
    """The largest relative distance of a fold from the mean of all, in number of images, shares and mean coverage."""
    even = described.drop(columns=["groups", *(f"q{100 * q:.0f}" for q in QUANTILES)])
    means = even.mean()
    return float((even[means.index[means > 0]] / means[means > 0] - 1).abs().to_numpy().max())
