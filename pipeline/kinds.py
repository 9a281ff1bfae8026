"""Folds of whole kinds of images: what a model scores on kinds that are not in its training set.

A kind is a combination of values of columns, such as the microscopy and the height. Folds that share the kinds show
neither that a test set has others, nor which augmentation helps there.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from pipeline.data.index import index_column
from pipeline.quoting import listed


def join_kinds(index: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The index with its kinds as groups: images of one kind have one group, named after it, such as "stained/256".

    Kinds that have images of one group are joined, because a group stays in one fold too; they have the name of the
    first of them.

    Args:
        index: with `group` and the columns.
        columns: none leaves the index as it is.

    Raises:
        ValueError: if a column does not exist.
    """
    if not columns:
        return index
    values = [index_column(index, column, "folds.hold_out").astype(str) for column in columns]
    names = ["/".join(row) for row in zip(*values, strict=True)]
    sets = DisjointSet([(0, name) for name in names])
    for name, group in zip(names, index["group"], strict=True):
        sets.add((1, group))
        sets.merge((0, name), (1, group))
    joined = {member: min(members)[1] for members in sets.subsets() for member in members}
    return index.assign(group=[joined[0, name] for name in names])


def assign_kinds(index: pd.DataFrame, count: int, columns: Sequence[str]) -> pd.DataFrame:
    """Assign whole kinds to folds 0 … count - 1: a table with `image_id` and `fold`, sorted by id.

    Each kind, from the largest to the smallest, goes to the fold with the fewest images, so that the largest kinds have
    folds of their own.

    Args:
        index: with `image_id`, `group` and the columns.
        count: number of folds.
        columns: as for `join_kinds`.

    Raises:
        ValueError: if there are fewer kinds than folds, or a column does not exist.
    """
    group = join_kinds(index, columns)["group"]
    sizes = group.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    if len(sizes) < count:
        kinds = f"{len(sizes)} {'kind' if len(sizes) == 1 else 'kinds'} ({listed(list(sizes.index), 100)})"
        remedy = "name other columns" if len(sizes) < 2 else f"set folds.count to {len(sizes)} or less"
        raise ValueError(
            f"folds.hold_out: {kinds} cannot fill {count} folds; kinds with images of one group count as one: {remedy}"
        )
    images, fold_of_kind = np.zeros(count, dtype=np.int64), {}
    for kind, size in sizes.items():
        fold_of_kind[kind] = int(images.argmin())
        images[fold_of_kind[kind]] += size
    table = pd.DataFrame({"image_id": index["image_id"], "fold": group.map(fold_of_kind)})
    return table.sort_values("image_id", ignore_index=True)


def kinds_by_fold(index: pd.DataFrame, folds: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """The kinds of each fold with their numbers of images, such as "stained/256 (107)"; the largest first."""
    table = join_kinds(index, columns).merge(folds, on="image_id")
    return table.groupby("fold")["group"].agg(
        lambda kinds: listed([f"{kind} ({count})" for kind, count in kinds.value_counts().items()])
    )
