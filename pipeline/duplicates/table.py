"""The file of related images, and what it means for groups."""

from pathlib import Path

import pandas as pd

from pipeline.data.tables import read_table
from pipeline.files import atomic_write

COLUMNS = ["first", "first_part", "second", "second_part", "kind", "view", "down", "right", "score"]


def write_duplicates(path: Path, pairs: pd.DataFrame) -> None:
    """Write a table with COLUMNS, whole or not at all."""
    with atomic_write(path) as partial:
        pairs[COLUMNS].to_csv(partial, index=False, lineterminator="\n", float_format="%.3f")


def read_duplicates(path: Path) -> pd.DataFrame:
    """The table that `write_duplicates` wrote; ids stay text.

    Raises:
        ValueError: if a column is missing, or a number is none.
    """
    table = read_table(path, COLUMNS)
    try:
        return table.astype({"down": int, "right": int, "score": float})
    except ValueError as error:
        raise ValueError(f"{path}: {error}: remove the file, and `make audit` writes it again") from None


def merge_groups(index: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The group of each row of the index after joining those that hold a pair.

    Test images join as well: two training images beside one test image are of one scene. A joined group goes by the
    first of its groups' names.

    Args:
        index: with `image_id` and `group`.
        pairs: with COLUMNS; training images that the index has not (left out as bad) are links like any other.
    """
    group = dict(zip(index["image_id"], index["group"], strict=True))
    joined = _Joined()
    for row in pairs.itertuples():
        ends = ((row.first_part, row.first), (row.second_part, row.second))
        joined.join(
            *((0, group[name]) if part == "train" and name in group else (1, part, name) for part, name in ends)
        )
    return index["group"].map(lambda name: joined.leader((0, name))[1])


class _Joined:
    """Disjoint sets; the leader of a set is its least member, so known groups (0, name) lead strangers (1, …)."""

    def __init__(self) -> None:
        self._above: dict[tuple, tuple] = {}

    def leader(self, member: tuple) -> tuple:
        while (above := self._above.get(member, member)) != member:
            member = above
        return member

    def join(self, first: tuple, second: tuple) -> None:
        low, high = sorted((self.leader(first), self.leader(second)))
        if low != high:
            self._above[high] = low
