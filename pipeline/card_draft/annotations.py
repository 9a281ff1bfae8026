"""JSON files with the outlines of objects: COCO's, or one object per line."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from pipeline.card_draft.image_folders import is_held_out
from pipeline.data.file_index import normalize_id


class Annotations(NamedTuple):
    """One JSON file of outlines.

    Args:
        kind: of the card's key: train_coco, or train_polygons.
        name: path below the data folder.
        images: ids, or names of files.
        classes: by their number of objects, the most frequent first.
        has_empty: whether an image without an object of the most frequent class is listed too.
        elsewhere: images of files whose names say that they are held out.
    """

    kind: Literal["train_coco", "train_polygons"]
    name: str
    images: tuple[str, ...]
    classes: tuple[tuple[str, int], ...]
    has_empty: bool
    elsewhere: tuple[str, ...] = ()


def find_annotations(root: Path, names: tuple[str, ...]) -> list[Annotations]:
    """The JSON files of training outlines; of those whose names say that they are held out, none if others exist."""
    found = [each for name in names if (each := _read(root / name, name)) is not None]
    held_out = [each for each in found if is_held_out(each.name)]
    if len(held_out) == len(found):
        return found
    elsewhere = tuple(name for each in held_out for name in each.images)
    return [each._replace(elsewhere=elsewhere) for each in found if each not in held_out]


def _read(path: Path, name: str) -> Annotations | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if '"categories"' in text and '"images"' in text and '"annotations"' in text:
            return _coco(json.loads(text), name)
        lines = [json.loads(line) for line in text.split("\n") if line.strip()]
        return _lines(lines, name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return None  # another kind of JSON


def _coco(content: dict[str, Any], name: str) -> Annotations | None:
    labels = {each["id"]: str(each["name"]) for each in content["categories"]}
    counts = Counter(labels[each["category_id"]] for each in content["annotations"] if each.get("segmentation"))
    if not counts:  # no outlines: boxes, or the list of the test images
        return None
    files = _names([normalize_id(each["file_name"].replace("\\", "/")) for each in content["images"]])
    annotated = {each["image_id"] for each in content["annotations"]}
    has_empty = any(each["id"] not in annotated for each in content["images"])
    return Annotations("train_coco", name, files, tuple(counts.most_common()), has_empty)


def _names(files: Sequence[str]) -> tuple[str, ...]:
    """The names of files; if they repeat in folders, the folders and the name, joined by "_", as ids of a card are."""
    names = tuple(PurePosixPath(file).name for file in files)
    return names if len(set(names)) == len(set(files)) else tuple(file.replace("/", "_") for file in files)


def _lines(lines: list[dict[str, Any]], name: str) -> Annotations | None:
    kinds = [[each["type"] for each in line["annotations"] if each["coordinates"]] for line in lines]
    counts = Counter(kind for each in kinds for kind in each)
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    ids = tuple(normalize_id(str(line["id"])) for line in lines)
    return Annotations(
        "train_polygons", name, ids, tuple(counts.most_common()), any(most not in each for each in kinds)
    )
