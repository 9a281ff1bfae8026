"""Cross-validation folds: their assignment, their file, and the training and validation images of a fold."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from pipeline.data.index import index_column
from pipeline.data.tables import read_table
from pipeline.files import atomic_write, write_text
from pipeline.fold_search import assign_greedily, improve_locally
from pipeline.schema import JsonRecord, read_json

SIZE_WEIGHT = 4  # weight of the number of images and of the coverage; each coverage bin and column value has weight 1
MAX_GROUP_SIZE = 1.5  # in mean fold sizes; a larger group is refused, unless each group is a fold
MAX_BINS = 10  # coverage bins of the non-empty images
NUM_RESTARTS = 8  # of the search for balanced folds that keep groups together
MAX_TRIALS = 3000  # groups that are moved or swapped after each start; fewer if there are many groups


def assign_folds(index: pd.DataFrame, count: int, seed: int, balance: Sequence[str] = ()) -> pd.DataFrame:
    """Assign images to folds 0 … count - 1 of nearly equal size: a table with `image_id` and `fold`.

    Images of one group stay in one fold. Balanced over the folds are empty images, deciles of coverage, each value of
    the columns `balance`, and each class if the index has columns `coverage_<class>`. Without groups and further
    columns this is scikit-learn's StratifiedKFold, otherwise a local search with restarts.

    Args:
        index: with `image_id`, `group`, `coverage` (0 to 1), and the columns `balance`.
        count: number of folds.
        seed: of the shuffle or the search.
        balance: further columns whose values are balanced.

    Raises:
        ValueError: if there are fewer groups than folds, a group is larger than a fold, or a column does not exist.
    """
    _check_feasible(index, count, balance)
    index = index.sort_values("image_id", ignore_index=True)  # folds do not depend on the order of the rows
    groups = index["group"]
    # Each bin should hold `count` groups or more, or it cannot be balanced.
    bins = min(MAX_BINS, max(1, groups.nunique() // count))
    areas = [column for column in map(str, index) if column == "coverage" or column.startswith("coverage_")]
    if groups.is_unique and not balance and areas == ["coverage"]:
        bin_of_image = _merge_rare_bins(_coverage_bins(index["coverage"].to_numpy(), bins), count)
        rows = StratifiedKFold(count, shuffle=True, random_state=seed).split(index, bin_of_image)
        fold = np.empty(len(index), dtype=np.int64)
        for number, (_, held_out) in enumerate(rows):
            fold[held_out] = number
    else:
        code, _ = pd.factorize(groups)
        fold = _search_balanced(_group_shares(index, code, areas, bins, balance), count, seed)[code]
    return pd.DataFrame({"image_id": index["image_id"], "fold": fold}).sort_values("image_id", ignore_index=True)


def _check_feasible(index: pd.DataFrame, count: int, balance: Sequence[str]) -> None:
    """Raise ValueError if there are too few groups, a group is too large, or a column does not exist."""
    sizes = index["group"].value_counts()
    if len(sizes) < count:
        what = "image" if index["group"].is_unique else "group"
        if len(sizes) < 2:
            raise ValueError(f"{len(sizes)} {what}: folds need at least 2, one to train on and one to hold out")
        raise ValueError(f"{len(sizes)} {what}s cannot fill {count} folds: lower folds.count to {len(sizes)} or less")
    # If each group is a fold of its own, the folds are as even as they can be with this number.
    if len(sizes) > count and sizes.iloc[0] > 1 and sizes.iloc[0] > MAX_GROUP_SIZE * len(index) / count:
        members = index["image_id"][index["group"] == sizes.index[0]]
        raise ValueError(
            f"group '{sizes.index[0]}' holds {sizes.iloc[0]} of {len(index)} images ({', '.join(members.head(3))}, …), "
            f"a fold of {count} about {len(index) // count}: lower folds.count, or name a finer columns.group"
        )
    for column in balance:
        index_column(index, column, "folds.balance")


def _group_shares(
    index: pd.DataFrame, code: np.ndarray, areas: Sequence[str], bins: int, balance: Sequence[str]
) -> np.ndarray:
    """The share of each feature that each group holds, (groups, features) float64: each column sums to 1.

    The features are the number of images and the coverage, SIZE_WEIGHT times, then each coverage bin of each class and
    each value of each column of `balance`.

    Args:
        code: (N,) int, the number of each image's group.
        areas: the columns of coverage.
        bins: coverage bins of each class.
    """
    ones = [np.ones(len(index)), *(index[area].to_numpy() for area in areas)]
    labels: list[Any] = [_coverage_bins(index[area].to_numpy(), bins) for area in areas]
    labels += [index_column(index, column, "folds.balance") for column in balance]
    hot = [pd.get_dummies(pd.Series(label)).to_numpy(float) for label in labels]
    table = np.column_stack([*(SIZE_WEIGHT * [*ones]), *hot])
    sums = np.zeros((code.max() + 1, table.shape[1]))
    np.add.at(sums, code, table)
    filled = sums.sum(axis=0) > 0
    return np.ascontiguousarray(sums[:, filled]) / sums.sum(axis=0)[filled]


def _search_balanced(shares: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each group, (groups,) int64: the best of several greedy starts with local search.

    The imbalance that is minimized is the sum over folds and features of (count * share - 1)².
    """
    rng = np.random.default_rng(seed)
    starts = [_search_once(shares, count, rng) for _ in range(NUM_RESTARTS)]
    return min(starts, key=lambda fold: _imbalance(shares, fold, count))


def _search_once(shares: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each group, (groups,) int64: assigned about from the largest to the smallest, then improved."""
    order = np.argsort(-(shares.sum(axis=1) * rng.uniform(0.8, 1.2, len(shares))))
    fold = assign_greedily(shares, count, order)
    trials = int(np.clip(1e8 / shares.size, 100, MAX_TRIALS))
    return improve_locally(shares, count, fold, rng.integers(len(shares), size=trials))


def _imbalance(shares: np.ndarray, fold: np.ndarray, count: int) -> float:
    """The sum over folds and features of (count * share - 1)²."""
    sums = np.zeros((count, shares.shape[1]))
    np.add.at(sums, fold, shares)
    return float(((sums * count - 1) ** 2).sum(axis=1).sum())


def _coverage_bins(coverage: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each image, (N,) int64: 0 if it is empty, else 1 + the quantile bin of its coverage among the rest."""
    filled = coverage > 0
    edges = np.quantile(coverage[filled], np.linspace(0, 1, bins + 1)[1:-1]) if filled.any() else []
    return np.where(filled, 1 + np.searchsorted(edges, coverage, side="right"), 0)


def _merge_rare_bins(bins: np.ndarray, count: int) -> np.ndarray:
    """Merge bins of fewer than `count` images with the next one: StratifiedKFold needs `count` images in each."""
    merged = bins.copy()
    for value in np.unique(bins)[:-1]:
        if (merged == value).sum() < count:
            merged[merged == value] = np.unique(bins[bins > value]).min()
    last = np.unique(merged)[-2:]
    if (merged == last[-1]).sum() < count:  # the last bin is merged with the one before it
        merged[merged == last[-1]] = last[0]
    return merged


def write_folds(path: Path, folds: pd.DataFrame, index: pd.DataFrame, options: Mapping[str, Any]) -> None:
    """Write the table of folds, and a JSON file next to it that records how it was made. No file is overwritten.

    Args:
        index: the index that the folds were assigned from.
        options: the options that they were assigned with.

    Raises:
        FileExistsError: if the file exists.
    """
    if path.exists():
        raise FileExistsError(
            f"{path} already exists, and scores depend on it: set another folds.name to make other folds"
        )
    made = {
        **options,
        "images": len(index),
        "groups": index["group"].nunique(),
        "index": index_digest(index),
        "worst_deviation": round(worst_deviation(describe_folds(index, folds, options.get("balance", ()))), 4),
    }
    write_text(path.with_suffix(".json"), json.dumps(made, indent=1) + "\n")
    with atomic_write(path) as partial:
        folds.to_csv(partial, index=False, lineterminator="\n")


def index_digest(index: pd.DataFrame) -> str:
    """A short hash of ids and coverage, which changes with another version of the data."""
    table = index[["image_id", "coverage"]].sort_values("image_id")
    return hashlib.sha256(table.to_csv(index=False, float_format="%.6f").encode()).hexdigest()[:16]


def read_folds(path: Path, index: pd.DataFrame, *, subset: bool = False, compare_masks: bool = True) -> pd.DataFrame:
    """Read the folds of exactly the images in `index`: a table with `image_id` and `fold`.

    Args:
        subset: whether the file may list images that are not in the index, because they were skipped as bad; the masks
            are not compared then, since the file's digest is that of all images.
        compare_masks: refuse folds that were made from other masks of the same images.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if ids differ from the index or repeat, a fold is not a number, images of one group are in two
            folds, or the folds were made from other masks.
    """
    table = read_table(path, ["image_id", "fold"])
    if not table["fold"].str.fullmatch(r"\d+").all():
        wrong = table["fold"][~table["fold"].str.fullmatch(r"\d+")]
        raise ValueError(f"{path}: line {wrong.index[0] + 2}: fold '{wrong.iloc[0]}' is not a number from 0")
    if subset:
        table = table[table["image_id"].isin(index["image_id"])].reset_index(drop=True)
    known, listed = set(index["image_id"]), set(table["image_id"])
    if known != listed or len(table) != len(listed):
        first = min(known ^ listed, default=None) or table["image_id"][table["image_id"].duplicated()].iloc[0]
        where = "only in the data" if first in known - listed else "only in the file"
        where = where if first in known ^ listed else "repeated"
        raise ValueError(
            f"{path}: {len(table)} rows, but the data has {len(index)} training images. First difference: "
            f"'{first}' ({where}). Use the data that the folds were made from, or set another "
            f"folds.name, or name of the card"
        )
    folds = table[["image_id", "fold"]].assign(fold=table["fold"].astype(np.int64))
    _check_groups_together(path, folds, index)
    if compare_masks and not subset:
        _check_same_masks(path.with_suffix(".json"), index)
    return folds.sort_values("image_id", ignore_index=True)


class FoldsRecord(JsonRecord):
    """The required fields of the JSON file next to the folds."""

    index: str


def _check_same_masks(record: Path, index: pd.DataFrame) -> None:
    """Raise ValueError if the folds were made from other ids or coverage than those of the index."""
    if not record.exists():
        return
    remedy = "restore it, for example with git checkout, or remove it to skip the comparison of masks"
    if (expected := read_json(record, remedy, FoldsRecord)["index"]) != index_digest(index):
        raise ValueError(
            f"{record}: the folds were made from other masks of the same images (index {expected}, now "
            f"{index_digest(index)}): use the data that they were made from, or set another folds.name"
        )


def _check_groups_together(path: Path, folds: pd.DataFrame, index: pd.DataFrame) -> None:
    """Raise ValueError if images of one group are in several folds."""
    spread = folds.merge(index[["image_id", "group"]], on="image_id").groupby("group")["fold"].nunique()
    if (spread > 1).any():
        raise ValueError(
            f"{path}: group '{spread.idxmax()}' is in {spread.max()} folds, so its images would leak. Set folds.name = "
            f'"{path.stem}2" in the config: new folds keep the group together, and runs on the old folds stay'
        )


def hold_out(index: pd.DataFrame, folds: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the index into `train_index`, the images outside a fold, and `valid_index`, those inside it.

    Raises:
        ValueError: if the fold does not exist, is empty, or leaves nothing to train on.
    """
    numbers = sorted(folds["fold"].unique())
    inside = index["image_id"].isin(folds["image_id"][folds["fold"] == fold])
    if not inside.any():
        gap = "is empty" if 0 <= fold <= max(numbers) else "does not exist"
        raise ValueError(f"fold {fold} {gap}. Folds with images: {', '.join(map(str, numbers))}")
    if inside.all():
        raise ValueError(f"fold {fold} holds all images: none is left to train on")
    return index[~inside].reset_index(drop=True), index[inside].reset_index(drop=True)


QUANTILES = (0.25, 0.5, 0.75)  # of coverage, in the table of folds


def describe_folds(index: pd.DataFrame, folds: pd.DataFrame, balance: Sequence[str] = ()) -> pd.DataFrame:
    """One row per fold: images, groups, share of empty images, coverage (mean and quantiles), shares of `balance`.

    With several classes, also each class's mean coverage, `coverage_<class>`, and share of images, `with_<class>`.
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
                f"{column}={value}": (values == value).groupby(table["fold"]).mean()
                for column in balance
                for values in [table[index_column(index, column, "folds.balance").name]]
                for value in sorted(values.unique())
            },
        }
    )


def worst_deviation(described: pd.DataFrame) -> float:
    """The largest relative deviation of a fold from the mean of all folds, over the columns of `describe_folds`.

    The number of groups and the quantiles are left out.
    """
    balanced = described.drop(columns=["groups", *(f"q{100 * q:.0f}" for q in QUANTILES)])
    means = balanced.mean()
    return float((balanced[means.index[means > 0]] / means[means > 0] - 1).abs().to_numpy().max())
