"""A drafted card: each key with its value, what shows it, and whether it is certain."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

ARRAY = "train_columns"  # a table that may be there several times; a draft has one


class Key(NamedTuple):
    """One key of the card.

    Args:
        name: dotted, as in "files.train_csv".
        value: as in a TOML file; None: the key keeps its default, and the reason says why it may need another.
        reason: what shows it, in one line.
    """

    name: str
    value: Any
    reason: str
    is_sure: bool = True


@dataclass(frozen=True)
class CardDraft:
    """The keys of a card in the order of the file, and what the files are."""

    keys: tuple[Key, ...]
    facts: tuple[tuple[str, str], ...] = ()  # of images and tables: what, and the evidence

    @property
    def unsure(self) -> list[Key]:
        """The keys to check."""
        return [key for key in self.keys if not key.is_sure]

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a key; the default if the draft leaves it out."""
        return next((key.value for key in self.keys if key.name == name and key.value is not None), default)

    def tables(self) -> dict[str, Any]:
        """The card as `tomllib` would read it."""
        card: dict[str, Any] = {}
        for key in self.keys:
            if key.value is not None:
                *parents, last = key.name.split(".")
                node = card
                for parent in parents:
                    new: Any = [{}] if parent == ARRAY else {}
                    node = node.setdefault(parent, new)
                node = node[0] if isinstance(node, list) else node
                node[last] = key.value
        return card


def joined(groups: Iterable[Iterable[Key]]) -> tuple[Key, ...]:
    """Keys of several sources in one tuple: first those of the card itself, then table by table."""
    keys = [key for group in groups for key in group]
    tables = ["", "files", "columns", ARRAY, "masks", "dialect"]
    return tuple(sorted(keys, key=lambda key: tables.index(key.name.rpartition(".")[0].partition(".")[0])))
