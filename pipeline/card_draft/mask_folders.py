"""Mask images: which files they are, and whose."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.image_folders import (
    HELD_OUT,
    MASK_WORD,
    Images,
    Rule,
    choose_rule,
    find_families,
    find_images,
)
from pipeline.card_draft.listing import spread
from pipeline.data.formats import read_pixels
from pipeline.data.rasters import ImageError

NUM_MASKS = 30  # whose names are compared with those of images
MIN_OTHER = 0.5  # of the ids with a mask must have another one, for it to be mentioned
MIN_IMAGES = 0.9  # of the masks must have an image
MANY_FOLDERS = 10  # of them, one may be named like a part
MAX_VALUES = 32  # of a mask that no name shows
ENDING = re.compile(r"[_-][^_\-./]*[A-Za-z][^_\-./]*\.[\w.]+$")
MAX_ENDINGS = 6
MIN_ENDING = 0.2  # of the files of a group
ROLE = re.compile(r"train|test|val|image|img|scan|photo", re.IGNORECASE)
NOT_PREFERRED = re.compile(r"object|instance|colou?r", re.IGNORECASE)
PREFERRED = re.compile(r"label|manual|annot|ground|truth|(?<![a-z])gt(?![a-z])", re.IGNORECASE)


class MaskImages(NamedTuple):
    """Mask images and the images that they are of."""

    rule: Rule
    images: Images
    count: int  # of mask files
    ids: list[str]
    others: tuple[str, ...]  # further folders of masks, for people


def find_mask_images(root: Path, paths: Sequence[str]) -> MaskImages | None:
    """The masks of training images, by the names of folders and files, or else by their few values.

    Args:
        paths: of all image files below root.
    """
    if not paths:
        return None
    shared = len(_shared_folder(paths))  # its name is of all files
    named = [path for path in paths if MASK_WORD.search(path[shared:])]
    groups = _groups(named if len(named) < len(paths) else []) or _groups_by_content(root, paths)
    masks = {path for group in groups.values() for path in group}
    images = [path for path in paths if path not in masks]
    for name in sorted(groups, key=lambda name: _preference(name, groups[name]), reverse=True):
        if found := _pair(groups[name], images):
            others = tuple(sorted(other for other in groups if other != name))
            return found._replace(others=(*found.others, *others))
    return None


def _shared_folder(paths: Sequence[str]) -> str:
    """The folder that the first and the last of sorted paths share, and so all of them."""
    first, last = paths[0], paths[-1]
    end = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("/", 0, end) + 1]


def _preference(name: str, group: Sequence[str]) -> tuple:
    is_other = bool(NOT_PREFERRED.search(name))
    return (
        not HELD_OUT.search(name),
        not is_other,
        bool(PREFERRED.search(name)),
        "train" in name.lower(),
        len(group),
        name,
    )


def _groups(paths: Sequence[str]) -> dict[str, list[str]]:
    """Paths by their folder, with "*" for folders that stand for images, and by a name that all those have."""
    children: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")[:-1]
        for depth, part in enumerate(parts):
            children.setdefault("/".join(parts[:depth]), set()).add(part)
    varying = {parent for parent in children if _stand_for_images(parent, children)}
    folders: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")[:-1]
        starred = ["*" if "/".join(parts[:depth]) in varying else part for depth, part in enumerate(parts)]
        folders.setdefault("/".join(starred), []).append(path)
    found: dict[str, list[str]] = {}
    for folder, members in folders.items():
        names = Counter(path.rpartition("/")[2] for path in members)
        for path in members:
            name = path.rpartition("/")[2]
            is_fixed = "*" in folder and names[name] > 1
            found.setdefault(f"{folder}/{name if is_fixed else '*'}", []).append(path)
    return {name: group for each in found.items() for name, group in _by_ending(*each).items()}


def _by_ending(name: str, group: Sequence[str]) -> dict[str, list[str]]:
    """A group in parts, where names end in few words, each of them frequent, as x_color.png and x_labelIds.png."""
    endings: dict[str, list[str]] = {}
    for path in group:
        found = ENDING.search(path)
        endings.setdefault(found[0] if found else "", []).append(path)
    if not 1 < len(endings) <= MAX_ENDINGS or min(map(len, endings.values())) < MIN_ENDING * len(group):
        return {name: list(group)}
    return {f"{name}{ending}": paths for ending, paths in endings.items()}


def _stand_for_images(parent: str, children: Mapping[str, Collection[str]]) -> bool:
    """Whether the folders in a folder are those of images, patients or places: not of parts such as train and masks.

    Args:
        children: the names of the folders in each folder.
    """
    names = children[parent]
    roles = sum(bool(ROLE.search(name) or MASK_WORD.search(name)) for name in names)
    below = [frozenset(children.get(f"{parent}/{name}".lstrip("/"), ())) for name in names]
    are_alike = len(names) > 1 and len(set(below)) == 1 and bool(below[0])
    return (are_alike and not roles) or (len(names) > 2 and roles <= len(names) // MANY_FOLDERS)


def _groups_by_content(root: Path, paths: Sequence[str]) -> dict[str, list[str]]:
    """The groups of files with few values, if other files have many."""
    groups: dict[str, list[str]] = {}
    for name, group in _groups(paths).items():
        for path in group:
            groups.setdefault(f"{name} {path.rpartition('.')[2]}", []).append(path)
    few = {
        name: group for name, group in groups.items() if all(map(_has_few_values, [root / p for p in spread(group, 3)]))
    }
    return few if len(few) < len(groups) else {}


def _has_few_values(path: Path) -> bool:
    try:
        pixels = read_pixels(path)
    except (ImageError, OSError):
        return False
    values = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels[..., 0].size // 100_000)]
    return len(np.unique(values, axis=0)) <= MAX_VALUES


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _before_mask_word(path: str) -> str:
    found = MASK_WORD.search(_stem(path))
    return _stem(path)[: found.start()].rstrip("_-. ") if found else ""


def _without_end(path: str) -> str:
    return re.sub(r"[_\-. ][^_\-. ]*$", "", _stem(path))


def _without_two_ends(path: str) -> str:
    return re.sub(r"([_\-. ][^_\-. ]*){2}$", "", _stem(path))


def _without_start(path: str) -> str:
    return re.sub(r"^[^_\-. \d]*[_\-. ]?", "", _stem(path))


def _folder_name(path: str) -> str:
    return (["", "", *path.split("/")])[-2]


def _parent_folder_name(path: str) -> str:
    return (["", "", "", *path.split("/")])[-3]


# What of a mask's path may be the id of its image, the most likely first.
ID_FORMS: tuple[Callable[[str], str], ...] = (
    _stem,
    _before_mask_word,
    _without_end,
    _without_two_ends,
    _without_start,
    _folder_name,
    _parent_folder_name,
)


def _with_numbers(rule: Rule, masks: Sequence[str]) -> Rule:
    """The rule, or one for names that may end in a number, as x_mask.png and x_mask_1.png, if it fits more masks."""
    text = rule.pattern or f"([^/]+){re.escape(rule.suffix)}"
    numbered = Rule(rule.folder, "", re.sub(r"((\\\.\w+)+)$", r"(?:_\\d+)?\1", text))
    counts = [sum(map(len, each.files(masks).values())) for each in (rule, numbered)]
    return numbered if counts[1] > counts[0] and set(numbered.files(masks)) <= set(rule.files(masks)) else rule


def _pair(masks: Sequence[str], images: Sequence[str]) -> MaskImages | None:
    """The images of masks: those whose paths contain what is the id in a mask's path."""
    for id_of in ID_FORMS:
        ids = list(dict.fromkeys(filter(None, map(id_of, spread(masks, NUM_MASKS)))))
        if len(ids) < 2 and len(masks) > 1:
            continue
        found = find_families(ids, images)
        if not found.families or found.families[0].ids < MIN_IMAGES * len(ids):
            continue
        every = list(dict.fromkeys(map(id_of, masks)))
        of_masks = find_families(every, masks)
        if not of_masks.families:
            continue
        rule = _with_numbers(choose_rule(of_masks.families[0], of_masks, every, masks), masks)
        files = rule.files(masks)
        others = tuple(each.shown for each in of_masks.families[1:] if each.ids >= MIN_OTHER * of_masks.families[0].ids)
        return MaskImages(rule, find_images(every, images), sum(map(len, files.values())), sorted(files), others)
    return None
