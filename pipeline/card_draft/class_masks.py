"""Mask images of one class each: the files in a folder, or with an ending, for each class."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.image_folders import Rule, common_folder, is_held_out
from pipeline.card_draft.listing import spread
from pipeline.card_draft.mask_codes import MaskCodes, read_codes
from pipeline.card_draft.mask_folders import (
    NO_CLASS,
    NOT_PREFERRED,
    SIDES,
    ClassFiles,
    MaskImages,
    are_no_labels,
    find_candidates,
    mask_pixels,
    overlap,
    pair_masks,
)
from pipeline.data.file_index import path_regex

NUM_COMPARED = 4  # images whose masks of two classes are compared
MAX_OVERLAP = 0.5  # mean IoU of the masks of two classes; copies, and masks of annotators, overlap more
MIN_SHARED = 0.5  # of the images of a class also have a mask of another class
ABOVE = {"binary": None, "value": 0, "above": 127}  # masks.above by what the values of masks are


class Group(NamedTuple):
    """The mask files of what may be a class.

    Args:
        path: of the files, with {id}.
        files: the file of each id.
    """

    path: str
    files: Mapping[str, str]


def with_classes(root: Path, found: MaskImages, paths: Sequence[str], names: Sequence[str] | None) -> MaskImages:
    """The masks of all classes, if each class has files of its own; else the masks as they were found.

    Args:
        paths: of all image files below root.
        names: of the classes that the sample submission has; None without one.
    """
    groups = sorted(_groups_of(root, found, paths), key=lambda group: group.path)
    if len(groups) < 2:
        return found
    folder = common_folder([group.path.partition("{id}")[0] for group in groups])
    below = [group.path.removeprefix(f"{folder}/") for group in groups]
    classes = _names_of(below, names)
    if not classes or not _are_classes(root, groups):
        return found
    codes = [_codes_of(root, group) for group in groups]
    kinds = {each.kind for each in codes} - {"binary"}
    if len(kinds) > 1 or not kinds <= ABOVE.keys() or any(np.any(each.background) for each in codes):
        return found
    return found._replace(
        rule=Rule(folder, "", _any_of(below)),
        count=sum(len(group.files) for group in groups),
        ids=sorted({image_id for group in groups for image_id in group.files}),
        others=tuple(other for other in found.others if NOT_PREFERRED.search(other) or NO_CLASS.search(other)),
        classes=ClassFiles(dict(zip(classes, below, strict=True)), ABOVE[kinds.pop()] if kinds else None),
    )


def _groups_of(root: Path, found: MaskImages, paths: Sequence[str]) -> Iterator[Group]:
    """The groups of masks of the images that were found."""
    images = [path for path in paths if path not in found.candidates]
    known = found.images.rule.files(images)
    folder_is_held_out = is_held_out(found.rule.folder)
    named = {
        name: files
        for name, files in find_candidates(root, paths).items()
        if not (NOT_PREFERRED.search(name) or NO_CLASS.search(name))
        and is_held_out(name) == folder_is_held_out
        and not are_no_labels(root, files)
    }
    parts = [part for files in named.values() for part in (_sides(files) if len(named) > 1 else [files])]
    for part in parts if len(parts) > 1 else []:
        masks = pair_masks(part, images)
        group = masks and _as_group(masks.rule, part)
        if group and group.files.keys() <= known.keys():
            yield group


def _sides(files: Iterable[str]) -> Iterator[list[str]]:
    """The files of each side, if their paths name one, else all of them."""
    sides: dict[str, list[str]] = {}
    for path in files:
        side = SIDES.search(path)
        sides.setdefault(side[0].lower() if side else "", []).append(path)
    yield from sides.values()


def _as_group(rule: Rule, paths: Sequence[str]) -> Group | None:
    """The files of a rule by a path with {id}; None if there is no such path, or if an image has several files."""
    text = f"([^/]+){re.escape(rule.suffix)}" if rule.pattern is None else rule.pattern
    text, count = re.subn(r"(?<!\\)\((?!\?)[^()]*\)", "{id}", text)
    path = re.sub(r"\\(\W)", r"\1", text.replace(r"(?:\1)", "{id}").replace(r"\1", "{id}"))
    files = rule.files(paths)
    if count != 1 or any(len(each) > 1 for each in files.values()):
        return None
    by_path = Rule(rule.folder, "", path_regex(path))
    return Group(f"{rule.folder}/{path}".lstrip("/"), _only(files)) if by_path.files(paths) == files else None


def _only(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {image_id: paths[0] for image_id, paths in files.items()}


def _names_of(paths: Sequence[str], names: Sequence[str] | None) -> list[str]:
    """The names of classes: what the paths of their files do not have in common; [] if that does not name them.

    Args:
        names: as for `with_classes`.

    >>> _names_of(["1. Microaneurysms/{id}_MA.tif", "2. Haemorrhages/{id}_HE.tif"], None)
    ['Microaneurysms', 'Haemorrhages']
    """
    parts = [path.replace("{id}", "").rpartition(".")[0].split("/") for path in paths]
    if len({len(each) for each in parts}) != 1:
        return []
    candidates = [_words_of_own(texts) for texts in zip(*parts, strict=True)]
    candidates = [each for each in candidates if all(each) and len(set(each)) == len(each)]
    own = max(candidates, key=lambda each: sum(map(len, each)), default=[])
    if names is None:
        return own
    known = {name.casefold(): name for name in names}
    return [known[name.casefold()] for name in own] if {name.casefold() for name in own} == known.keys() else []


def _words_of_own(texts: Sequence[str]) -> list[str]:
    """The words of each text that not all of them have."""
    words = [re.findall(r"[^\W\d_]+", text) for text in texts]
    common = set.intersection(*({word.casefold() for word in each} for each in words))
    return [" ".join(word for word in each if word.casefold() not in common) for each in words]


def _are_classes(root: Path, groups: Sequence[Group]) -> bool:
    """Whether masks are of the same images, and show different things in them."""
    for group in groups:
        others = {image_id for other in groups if other is not group for image_id in other.files}
        if len(group.files.keys() & others) < MIN_SHARED * len(group.files):
            return False
    return all(_mean_overlap(root, one, other) < MAX_OVERLAP for one, other in combinations(groups, 2))


def _mean_overlap(root: Path, one: Group, other: Group) -> float:
    """The mean IoU of the masks of some images, where both show something; 0 without such an image."""
    found = []
    for image_id in spread(sorted(one.files.keys() & other.files.keys()), NUM_COMPARED):
        pixels = [mask_pixels(root / group.files[image_id]) for group in (one, other)]
        masks = [each.max(axis=2) > 0 for each in pixels if each is not None]
        if len(masks) == 2 and masks[0].shape == masks[1].shape and all(map(np.any, masks)):
            found.append(overlap(*masks))
    return float(np.mean(found)) if found else 0.0


def _codes_of(root: Path, group: Group) -> MaskCodes:
    paths = [root / path for path in group.files.values()]
    return read_codes(paths, of_objects=False, num_classes=None)


def _any_of(paths: Sequence[str]) -> str:
    """The regular expression of files of several paths with {id}, each with a group for the id."""
    patterns = [
        path_regex(path).replace("(?P<id>", "(").replace("(?P=id)", rf"(?:\{number})")  # a name may be used once
        for number, path in enumerate(paths, start=1)
    ]
    return "|".join(patterns)
