"""The table of near-duplicate pairs, and the groups that these pairs merge."""

from pathlib import Path

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from pipeline.data.tables import read_table
from pipeline.files import atomic_write

PAIR_COLUMNS = ["first", "first_part", "second", "second_part", "kind", "view", "down", "right", "score"]


def write_duplicates(path: Path, pairs: pd.DataFrame) -> None:
    """Write a table with PAIR_COLUMNS atomically."""
    with atomic_write(path) as partial:
        pairs[PAIR_COLUMNS].to_csv(partial, index=False, lineterminator="\n", float_format="%.3f")


def read_duplicates(path: Path) -> pd.DataFrame:
    """Read a table that `write_duplicates` wrote; ids stay text.

    Raises:
        ValueError: if a column is missing, or a number cannot be read.
    """
    table = read_table(path, PAIR_COLUMNS)
    try:
        return table.astype({"down": int, "right": int, "score": float})
    except ValueError as error:
        raise ValueError(f"{path}: {error}: remove the file and run `make audit` to write it again") from None


def merge_groups(index: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The group of each row of the index, after merging all groups that a pair connects.

    Test images connect groups too: two training images that are near-duplicates of one test image show one scene. A
    merged group has the smallest of its groups' names.

    Args:
        index: with `image_id` and `group`, of the training images.
        pairs: with PAIR_COLUMNS. Training images that are not in the index (skipped as bad) connect groups too.
    """
    return _merge(index.assign(part="train"), pairs)


def merge_groups_of_both(
    train: pd.DataFrame, test: pd.DataFrame, pairs: pd.DataFrame | None
) -> tuple[pd.Series, pd.Series]:
    """The groups of training and of test images, after merging those that a pair connects, also across the two.

    Groups of one name in both are two groups unless a pair connects them: both parts may be numbered from 1.

    Args:
        train, test: with `image_id` and `group`.
        pairs: as for `merge_groups`; None merges nothing.
    """
    parts = {"train": train, "test": test}
    both = pd.concat(
        {part: rows.assign(part=part, group=rows["group"].map(f"{part} {{}}".format)) for part, rows in parts.items()}
    )
    groups = both["group"] if pairs is None else _merge(both, pairs)
    of_train, of_test = (groups[both["part"] == part].droplevel(0) for part in parts)
    return of_train, of_test


def _merge(index: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The merged group of each row of an index with `image_id`, `part` and `group`."""
    group = dict(zip(zip(index["part"], index["image_id"], strict=True), index["group"], strict=True))
    sets = DisjointSet()
    for row in pairs.itertuples():
        images = (row.first_part, row.first), (row.second_part, row.second)
        ends = [(0, group[each]) if each in group else (1, *each) for each in images]  # groups come before images
        for end in ends:
            sets.add(end)
        sets.merge(*ends)
    merged = {member: min(members)[-1] for members in sets.subsets() for member in members}
    return index["group"].map(lambda name: merged.get((0, name), name))
