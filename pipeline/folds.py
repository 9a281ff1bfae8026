"""Folds: which images are held out when. The file is the ruler that every score is read on."""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline.data.index import read_table
from pipeline.files import whole

STRATA = 10  # coverage bins of the non-empty images


def assign_folds(index: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """A table `image_id, fold` with folds 0 … count-1 of near equal size.

    Empty images and each decile of coverage are spread evenly. Images of one group stay together;
    with groups the spread is as even as whole groups allow.

    Raises:
        ValueError: if there are fewer groups than folds: a fold would be empty.
    """
    groups = index["group"]
    if groups.nunique() < count:
        what = "images" if groups.is_unique else "groups"
        raise ValueError(f"{groups.nunique()} {what} cannot fill {count} folds: lower folds.count")
    # Few images per stratum cannot be spread: let the strata hold `count` groups or more each.
    strata = _strata(index["coverage"].to_numpy(), bins=min(STRATA, max(1, groups.nunique() // count)))
    strata = _merge_rare(strata, count)
    if groups.is_unique:
        rows = StratifiedKFold(count, shuffle=True, random_state=seed).split(index, strata)
    else:
        rows = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(index, strata, groups)
    fold = np.empty(len(index), dtype=np.int64)
    for number, (_, held_out) in enumerate(rows):
        fold[held_out] = number
    return pd.DataFrame({"image_id": index["image_id"], "fold": fold}).sort_values("image_id", ignore_index=True)


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


def write_folds(path: Path, folds: pd.DataFrame) -> None:
    """Write `image_id,fold`; an existing file is never changed.

    Raises:
        FileExistsError: if the file exists.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists, and scores were read on it: remove it yourself to split again")
    with whole(path) as partial:
        folds.to_csv(partial, index=False, lineterminator="\n")


def read_folds(path: Path, index: pd.DataFrame, *, subset: bool = False) -> pd.DataFrame:
    """The folds of exactly the images in `index`.

    Args:
        subset: the file may list images that are not in the index: those that were left out as bad.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if ids differ from the index (naming the first), repeat, or a fold is no number; if
            images of one group lie in two folds.
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
    return folds.sort_values("image_id", ignore_index=True)


def _refuse_leak(path: Path, folds: pd.DataFrame, index: pd.DataFrame) -> None:
    spread = folds.merge(index[["image_id", "group"]], on="image_id").groupby("group")["fold"].nunique()
    if (spread > 1).any():
        raise ValueError(f"{path}: group '{spread.idxmax()}' lies in {spread.max()} folds: its images would leak")


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


def describe(index: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """One row per fold: images, groups, share of empty images, mean coverage."""
    table = index[["image_id", "group", "coverage"]].merge(folds, on="image_id")
    table["empty_share"] = table["coverage"] == 0
    return table.groupby("fold").agg(
        images=("image_id", "size"),
        groups=("group", "nunique"),
        empty=("empty_share", "mean"),
        coverage=("coverage", "mean"),
    )
