"""Mask images: which files they are, and whose."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.image_folders import (
    HELD_OUT,
    MASK_WORD,
    SIDE,
    Family,
    Images,
    Rule,
    Search,
    choose_rule,
    find_families,
    find_images,
    is_held_out,
)
from pipeline.card_draft.listing import spread
from pipeline.data.formats import read_pixels
from pipeline.data.rasters import ImageError

NUM_MASKS = 30  # whose names are compared with those of images
MIN_OTHER = 0.5  # of the ids with a mask must have another one, for it to be mentioned
MIN_IMAGES = 0.9  # of the masks must have an image
MIN_MATCHED = 0.3  # of the files of a group; the others may be copies in another format, or of other annotators
MANY_FOLDERS = 10  # of them, one may be named like a part
MAX_VALUES = 32  # of a mask that no name shows
ENDING = re.compile(r"(?P<word>[_-][^_\-./]*[A-Za-z][^_\-./]*)(?P<number>[_-]\d+)?(?P<suffix>\.[\w.]+)$")
WORDS = re.compile(r"(?P<word>([_-][A-Za-z]+)+)(?P<number>[_-]\d+)?(?P<suffix>\.[\w.]+)$")  # x_label and x_inst_label
MAX_ENDINGS = 6
MIN_ENDING = 0.2  # of the files of a group
MIN_NAMED = 0.9  # of the masks of a group are named as an image, so that no ending separates them
ROLE = re.compile(r"train|test|val|image|img|scan|photo", re.IGNORECASE)
NOT_PREFERRED = re.compile(
    r"object|instance|colou?r|rgb|panoptic|(?<![a-z])(inst|aug(mented|mentation)?)(?![a-z])", re.IGNORECASE
)
IDS = re.compile(r"(?<![A-Za-z])ids?(?![A-Za-z])|(?<=[a-z])Ids")  # of label images, beside images of colours
SIDES = re.compile(r"left|right", re.IGNORECASE)
PREFERRED = re.compile(r"label|manual|annot|ground|truth|(?<![a-z])gt(?![a-z])", re.IGNORECASE)


class MaskImages(NamedTuple):
    """Mask images and the images that they are of."""

    rule: Rule
    images: Images
    count: int  # of mask files
    ids: list[str]
    others: tuple[str, ...]  # further files that could be the masks of these images, for people
    held_out: tuple[str, ...] = ()  # folders of masks of a validation or test part, for people
    candidates: frozenset[str] = frozenset()  # all files that look like masks: they are no images


def find_mask_images(root: Path, paths: Sequence[str]) -> MaskImages | None:
    """The masks of training images, by the names of folders and files, or else by their few values.

    Args:
        paths: of all image files below root.
    """
    found = _of_groups(_named_groups(paths), paths)
    if found and not _are_masks(root, found, paths):
        return found
    return _of_groups(_groups_by_content(root, paths), paths) or found


def find_candidates(root: Path, paths: Sequence[str]) -> dict[str, list[str]]:
    """The files that are masks by their names, or else by their values, by group; they may have no images."""
    return _named_groups(paths) or _groups_by_content(root, paths)


def _are_masks(root: Path, found: MaskImages, paths: Sequence[str]) -> bool:
    """Whether the images that were found are masks themselves: they have few values, and other files have many."""
    images = [each[0] for each in found.images.rule.files(paths).values()]
    return (
        bool(images)
        and all(_has_few_values(root / path) for path in spread(images, 3))
        and any(not _has_few_values(root / path) for path in spread(paths, 12))
    )


def _named_groups(paths: Sequence[str]) -> dict[str, list[str]]:
    """The groups of files that are masks by the words in their paths; none if all files have such a word."""
    shared = len(_shared_folder(paths))  # its name is of all files
    named = [path for path in paths if MASK_WORD.search(path[shared:])]
    if len(named) == len(paths):
        return {}
    known = {_stem(path) for path in set(paths) - set(named)}
    return _groups(named, known)


def _of_groups(groups: Mapping[str, Sequence[str]], paths: Sequence[str]) -> MaskImages | None:
    """The masks of the best group that has images, with those of its sibling folders if they are of other images."""
    masks = {path for group in groups.values() for path in group}
    images = [path for path in paths if path not in masks]
    for name in sorted(groups, key=lambda name: _preference(name, groups[name])):
        siblings = [each for each in groups if each == name or _are_siblings(each, name)]
        together = [path for each in siblings for path in groups[each]]
        found = _pair(together, images, unique=True) if len(siblings) > 1 else None
        used = siblings if found else [name]
        if found := found or _pair(groups[name], images):
            more = sorted(other for other in groups if other not in used)
            held_out = [other for other in more if is_held_out(other) and not is_held_out(name)]
            others = tuple(other for other in more if other not in held_out)
            parts = tuple(dict.fromkeys(map(_held_out_folder, held_out)))
            return found._replace(others=(*found.others, *others), held_out=parts, candidates=frozenset(masks))
    return None


def _held_out_folder(group: str) -> str:
    """The folder of a group up to the part whose name says that it is held out."""
    return group[: group.find("/", HELD_OUT.search(group).end())]


def _are_siblings(one: str, other: str) -> bool:
    """Whether groups are of folders beside each other, of which none is held out."""
    (parent, _, end), (other_parent, _, other_end) = (_split_name(each) for each in (one, other))
    if is_held_out(one) or is_held_out(other):
        return False
    return (bool(parent) and (parent, end) == (other_parent, other_end)) or _without_numbers(one) == _without_numbers(
        other
    )


def _without_numbers(group: str) -> str:
    """A group's name without numbers and single capital letters, which parts of a set have: 01_labels, dataA."""
    return re.sub(r"\d+|(?<=[a-z])[A-Z](?![A-Za-z])", "#", group)


def _split_name(group: str) -> tuple[str, str, str]:
    """The folder above a group's folder, the folder, and the form of its names."""
    folder, _, end = group.rpartition("/")
    parent, _, last = folder.rpartition("/")
    return parent, last, end


def _shared_folder(paths: Sequence[str]) -> str:
    """The folder that the first and the last of sorted paths share, and so all of them."""
    first, last = paths[0], paths[-1]
    end = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("/", 0, end) + 1]


def _preference(name: str, group: Sequence[str]) -> tuple:
    """A key that is smaller for groups that are more likely the masks of classes."""
    return (
        is_held_out(name),
        bool(NOT_PREFERRED.search(name)),
        not PREFERRED.search(name),
        not IDS.search(name),
        "train" not in name.lower(),
        -len(group),
        len(name),
        name,
    )


def _groups(paths: Sequence[str], known: Collection[str] = (), *, by_extension: bool = False) -> dict[str, list[str]]:
    """Paths by their folder, with "*" for folders that stand for images, and by a name that all those have.

    Folders and names that differ in the words left and right only are one group.

    Args:
        known: names of other files, without their extension.
        by_extension: files of another extension are another group.
    """
    children: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")[:-1]
        for depth, part in enumerate(parts):
            children.setdefault("/".join(parts[:depth]), set()).add(part)
    varying = {parent for parent in children if _stand_for_images(parent, children)}
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(SIDES.sub("?", _starred(path.split("/")[:-1], varying)), []).append(path)
    found: dict[str, list[str]] = {}
    for folder, members in folders.items():
        names = Counter(path.rpartition("/")[2] for path in members)
        forms = Counter(re.sub(r"\d+", "#", name) for name in names)
        for path in members:
            name = path.rpartition("/")[2]
            is_fixed = "*" in folder and names[name] > 1 and forms[re.sub(r"\d+", "#", name)] == 1
            extension = f".{path.rpartition('.')[2]}" if by_extension else ""
            found.setdefault(f"{folder}/{name if is_fixed else f'*{extension}'}", []).append(path)
    return {name: group for each in found.items() for name, group in _by_ending(*each, known).items()}


def _starred(parts: Sequence[str], varying: Collection[str]) -> str:
    """A folder with "*" for the parts that stand for images, and for their names in the parts below them."""
    starred: list[str] = []
    for depth, part in enumerate(parts):
        above = parts[depth - 1] if starred and starred[-1] == "*" else ""
        is_image = "/".join(parts[:depth]) in varying
        starred.append("*" if is_image else part.replace(above, "*") if above else part)
    return "/".join(starred)


def _by_ending(name: str, group: Sequence[str], known: Collection[str]) -> dict[str, list[str]]:
    """A group in parts, where names end in few words, each of them frequent, as x_color.png and x_labelIds.png.

    Names that are those of images, and names of which no two start alike, have no such ending.
    """
    if sum(_stem(path) in known for path in group) >= MIN_NAMED * len(group):
        return {name: list(group)}
    found = next(filter(None, (_endings(group, form) for form in (ENDING, WORDS))), {"": list(group)})
    return {f"{name}{ending}": paths for ending, paths in found.items()}


def _endings(group: Sequence[str], form: re.Pattern) -> dict[str, list[str]] | None:
    """The paths of each ending of a form; None if they are not few, or if no two names start alike."""
    endings: dict[str, list[str]] = {}
    starts = set()
    for path in group:
        found = form.search(path)
        endings.setdefault(found["word"] + found["suffix"] if found else "", []).append(path)
        starts.add(path[: found.start()] + (found["number"] or "") if found else path.partition(".")[0])
    if not 1 < len(endings) <= MAX_ENDINGS or min(map(len, endings.values())) < MIN_ENDING * len(group):
        return None
    return endings if len(starts) < len(group) else None


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
    """The groups of files with few values, if other files have many; first with folders that stand for images."""
    plain: dict[str, list[str]] = {}
    for path in paths:
        plain.setdefault(f"{path.rpartition('/')[0]}/*.{path.rpartition('.')[2]}", []).append(path)
    for groups in (_groups(paths, by_extension=True), plain):
        few = {
            name: group for name, group in groups.items() if all(_has_few_values(root / p) for p in spread(group, 3))
        }
        if few and len(few) < len(groups):
            return few
    return {}


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


def _without_middle(path: str) -> str:
    """The name without a word between its start and a number at its end: um_road_000001 is um_000001."""
    return re.sub(r"[_\-][^\W\d_]+(?=[_\-]\d+$)", "", _stem(path))


def _without_inner_mask_word(path: str) -> str:
    """The name without a word of masks between others: 2018_label_front_07 is 2018_front_07."""
    return re.sub(rf"[_\-][^\W\d_]*(?:{MASK_WORD.pattern})[^\W\d_]*(?=[_\-])", "", _stem(path), count=1, flags=re.I)


def _whole_stem(path: str) -> str:
    """The name up to the last dot: x.rf.1a2b of x.rf.1a2b.png."""
    return path.rpartition("/")[2].rpartition(".")[0]


def _whole_before_mask_word(path: str) -> str:
    stem = _whole_stem(path)
    found = MASK_WORD.search(stem)
    return stem[: found.start()].rstrip("_-. ") if found else ""


def _without_mask_word(path: str) -> str:
    return _before_mask_word(path) or _stem(path)


def _folder_name(path: str) -> str:
    return (["", "", *path.split("/")])[-2]


def _parent_folder_name(path: str) -> str:
    return (["", "", "", *path.split("/")])[-3]


IdForm = Callable[[str], str]
# What of a mask's path may be the id of its image, the most likely first.
ID_FORMS: tuple[IdForm, ...] = (
    _stem,
    _before_mask_word,
    _without_end,
    _without_two_ends,
    _without_start,
    _without_middle,
    _without_inner_mask_word,
    _without_mask_word,
    _whole_stem,
    _whole_before_mask_word,
)
FOLDER_FORMS: tuple[IdForm, ...] = (_folder_name, _parent_folder_name)


def _id_forms(masks: Sequence[str]) -> Iterator[IdForm]:
    """What may be the id: the name, a folder, or, if names repeat, the folders that differ and the name."""
    yield from ID_FORMS
    yield from FOLDER_FORMS
    depths = zip(*(path.split("/")[:-1] for path in masks), strict=False)
    different = [depth for depth, parts in enumerate(depths) if len(set(parts)) > 1]
    if different:
        yield from (partial(_with_folders, form=form, depths=different) for form in ID_FORMS)


def _with_folders(path: str, form: IdForm, depths: Sequence[int]) -> str:
    parts, name = path.split("/"), form(path)
    return "_".join([*(parts[depth] for depth in depths if depth < len(parts) - 1), name]) if name else ""


def _with_numbers(rule: Rule, masks: Sequence[str]) -> Rule:
    """The rule, or one for names that may end in a number, as x_mask.png and x_mask_1.png, if it fits more masks."""
    text = rule.pattern or f"([^/]+){re.escape(rule.suffix)}"
    numbered = Rule(rule.folder, "", re.sub(r"((\\\.\w+)+)$", r"(?:_\\d+)?\1", text))
    counts = [sum(map(len, each.files(masks).values())) for each in (rule, numbered)]
    return numbered if counts[1] > counts[0] and set(numbered.files(masks)) <= set(rule.files(masks)) else rule


def _pair(masks: Sequence[str], images: Sequence[str], *, unique: bool = False) -> MaskImages | None:
    """The images of masks: those whose paths contain what is the id in a mask's path.

    Of several readings of the masks' paths, that which finds an image for most masks.

    Args:
        unique: each mask has an image, and each image one mask.
    """
    best: MaskImages | None = None
    for id_of in _id_forms(masks):
        found = _pair_by(id_of, masks, images)
        if found is None or (unique and not len(masks) == found.count == len(found.ids)):
            continue
        if best is None or found.count > best.count:
            best = found
        if set(found.ids) >= set(map(id_of, masks)) and _are_copies(found, masks):
            break
    return best


def _are_copies(found: MaskImages, masks: Sequence[str]) -> bool:
    """Whether the masks that are none of the rule's, if there are some, are in another format."""
    paths = {path for each in found.rule.files(masks).values() for path in each}
    suffixes = {path.rpartition(".")[2] for path in paths}
    return not any(path.rpartition(".")[2] in suffixes for path in set(masks) - paths)


def _pair_by(id_of: IdForm, masks: Sequence[str], images: Sequence[str]) -> MaskImages | None:
    """The masks that have an image, by one reading of their paths; None if too few have one."""
    ids = list(dict.fromkeys(filter(None, map(id_of, spread(masks, NUM_MASKS)))))
    if not ids or (len(ids) < 2 and len(masks) > 1):
        return None
    found = find_families(ids, images)
    if found.share < MIN_IMAGES:
        return None
    every = list(dict.fromkeys(filter(None, map(id_of, masks))))
    of_masks = find_families(every, masks)
    if not of_masks.families:
        return None
    rule = _mask_rule(of_masks, every, masks)
    files, of_images = rule.files(masks), find_images(every, images, masks[0].split("/")[:-1])
    count = sum(map(len, files.values()))
    known = of_images.rule.files(images)
    is_repeated = count > len(files) and (of_images.channels or any(len(known.get(each, ())) > 1 for each in files))
    if is_repeated or count < MIN_MATCHED * len(masks) or len(files.keys() & known.keys()) < MIN_IMAGES * len(files):
        return None
    first = of_masks.families[0]
    others = tuple(each.shown for each in of_masks.families[1:] if MIN_OTHER * first.ids <= each.ids < len(every))
    return MaskImages(rule, of_images, count, sorted(files), others)


def _mask_rule(search: Search, ids: Sequence[str], masks: Sequence[str]) -> Rule:
    """The rule of mask files: of both sides, with an ending that some have, or with a number at the end."""
    first, *others = search.families
    if any(SIDES.sub(SIDE, each.template) == SIDES.sub(SIDE, first.template) for each in others):
        return choose_rule(Family(SIDES.sub(SIDE, first.template), first.ids), search, ids, masks)
    rule = _with_numbers(choose_rule(first, search, ids, masks), masks)
    return next((each for each in _with_optional_ending(rule, ids, others, search, masks)), rule)


def _with_optional_ending(
    rule: Rule, ids: Sequence[str], others: Sequence[Family], search: Search, masks: Sequence[str]
) -> Iterator[Rule]:
    """Rules for files of a folder of which some end in a word, as x.png and y_mask.png, if they fit all ids."""
    for other in others:
        more = choose_rule(other, search, ids, masks)
        suffix, longer = sorted((rule.suffix, more.suffix), key=len)
        if rule.pattern or more.pattern or rule.folder != more.folder or not longer.endswith(suffix):
            continue
        ending = re.escape(longer.removesuffix(suffix))
        either = Rule(rule.folder, "", f"([^/]+?)(?:{ending})?{re.escape(suffix)}")
        if ending and either.files(masks).keys() == set(ids):
            yield either
