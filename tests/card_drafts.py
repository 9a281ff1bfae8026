"""Compares a drafted card with one written by hand, key by key, on the files of a competition."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.card_draft.draft import CardDraft
from pipeline.competition import Competition
from pipeline.data.index import find_groups, read_index, read_label_texts, test_search, train_sources
from pipeline.schema import parse

# What no file shows: what people read on the competition's pages, and what they decide.
UNSEEN = {"name", "title", "url", "generated", "metric", "size", "leaderboard", "unverified", "folds"}
# Keys that have their effect together with the files: equal if images, masks, groups and so on are the same.
BY_EFFECT = {
    "files.pattern": "images",
    "files.suffix": "images",
    "files.channels": "images",
    "files.channel_path": "images",
    "files.mask_pattern": "masks",
    "files.mask_suffix": "masks",
    "images_without_rows": "labels",
    "train_columns": "labels",
    "group_pattern": "groups",
    "volume_pattern": "volumes",
}


class Compared(NamedTuple):
    """One key of either card."""

    name: str
    is_equal: bool
    is_marked: bool  # as not sure in the draft


def written_keys(card: Competition) -> dict[str, Any]:
    """The dotted keys of a card that differ from their defaults, with their values."""
    keys: dict[str, Any] = {}
    for name in card.model_fields_set - UNSEEN:
        value = getattr(card, name)
        if name in ("files", "columns", "masks", "dialect"):
            of_table = getattr(value, "model_fields_set", None) or vars(value)
            keys |= {f"{name}.{key}": getattr(value, key) for key in of_table if not _is_default(value, key)}
        else:
            keys[name] = value
    return keys


def _is_default(table: Any, key: str) -> bool:
    return hasattr(table, "__dataclass_fields__") and getattr(table, key) == table.__dataclass_fields__[key].default


def effect(kind: str, card: Competition, root: Path) -> Any:
    """What keys of one kind do with the files."""
    if kind == "images":
        return train_sources(card, root), test_search(card, root).find_sources(hidden=True)
    if kind == "masks":
        return read_label_texts(card, root).filter(["image_id", "mask_paths"]).to_dict("list")
    if kind == "labels":
        labels = read_label_texts(card, root).drop(columns=["line"], errors="ignore")
        return labels.sort_values("image_id", ignore_index=True).astype(str).to_dict("list")
    index = read_index(card, root, grouped=False)
    if kind == "volumes":
        places = [card.volume_pattern and re.fullmatch(card.volume_pattern, each) for each in index["image_id"]]
        return [place and (place[1], int(place[2])) for place in places]
    return find_groups(index, card).groupby(find_groups(index, card)).ngroup().tolist()


def compare(draft: CardDraft, card: Competition, root: Path) -> Iterator[Compared]:
    """Each key that the card or the draft sets, but those of UNSEEN."""
    drafted = parse(Competition, draft.tables(), "the draft")
    ours, theirs = written_keys(drafted), written_keys(card)
    marked = {key.name.replace("columns.class", "columns.label") for key in draft.unsure}
    for name in sorted(ours.keys() | theirs.keys()):
        if kind := BY_EFFECT.get(name):
            is_equal = effect(kind, drafted, root) == effect(kind, card, root)
        else:
            is_equal = _value(drafted, name) == _value(card, name)
        yield Compared(name, is_equal, any(each == name or each.startswith(f"{name}.") for each in marked))


def _value(card: Competition, name: str) -> Any:
    value: Any = card
    for part in name.split("."):
        value = getattr(value, part)
    return value
