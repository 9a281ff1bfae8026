"""Mask images: which files they are, and whose."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.image_folders import (
    MASK_WORD,
    Images,
    Rule,
    choose_rule,
    find_images,
    generalised,
    is_held_out,
)
from pipeline.card_draft.listing import readable, spread, stem_of
from pipeline.card_draft.templates import SIDE, Family, Search, find_families
from pipeline.data.formats import is_jpeg, read_pixels
from pipeline.data.rasters import ImageError

NUM_MASKS = 30  # whose names are compared with those of images
MIN_OTHER = 0.5  # of the ids with a mask must have another one, for it to be mentioned
MIN_IMAGES = 0.9  # of the masks must have an image
MIN_MATCHED = 0.3  # of the files of a group; the others may be copies in another format, or of other annotators
MIN_LEFT = 0.1  # of the files of a group have no image, for it to be mentioned
MANY_FOLDERS = 10  # of them, one may be named like a part
MAX_VALUES = 32  # of a mask that no name shows
DARK, LIGHT, MAX_GREY = 64, 191, 0.05  # of a mask in JPEG: between these are few of its pixels
MAX_COLOURS = 1024  # of a mask; a picture has more
NUM_COMPARED = 4  # masks of a group, whose values are compared
MIN_SAME_PLACE = 0.9  # overlap (IoU) of masks of different images: that of fields of view, which show no objects
ENDING = re.compile(r"(?P<word>[_-][^_\-./]*[A-Za-z][^_\-./]*)(?P<number>[_-]\d+)?(?P<suffix>\.[\w.]+)$")
WORDS = re.compile(r"(?P<word>([_-][A-Za-z]+)+)(?P<number>[_-]\d+)?(?P<suffix>\.[\w.]+)$")  # x_label and x_inst_label
MAX_ENDINGS = 6
MIN_ENDING = 0.2  # of the files of a group
MIN_NAMED = 0.9  # of the masks of a group are named as an image, so that no ending separates them
ROLE = re.compile(r"train|test|val|image|img|scan|photo", re.IGNORECASE)
NOT_PREFERRED = re.compile(
    r"object|instance|colou?r|rgb|panoptic|inv(?=ids)|(?<![a-z])(inst|aug(mented|mentation)?)(?![a-z])", re.IGNORECASE
)
# In a path: masks that are no class of their own, but those of an annotator, or derived from others.
NO_CLASS = re.compile(
    r"annotator|expert|observer|reader|rater|\d(st|nd|rd)|contour|bound(ary|aries)|border|edge|outline|skelet|weight"
    r"|dist|ignore|void|(?<![a-z])(roi|fov)(?![a-z])",
    re.IGNORECASE,
)
DERIVED = re.compile(r"contour|boundar|(?<![a-z])edges?(?![a-z])|outline|skelet|background", re.IGNORECASE)
IDS = re.compile(r"(?<![A-Za-z])ids?(?![A-Za-z])|(?<=[a-z])Ids")  # of label images, beside images of colours
SIDES = re.compile(r"left|right", re.IGNORECASE)
PREFERRED = re.compile(r"label|manual|annot|truth|(?<![a-z])gt(?![a-z])", re.IGNORECASE)


class ClassFiles(NamedTuple):
    """Mask images of one class each.

    Args:
        paths: of the files of each class, with {id}, below the folder of the rule.
        above: values above it are mask; None: masks hold 0 and 1, or 0 and white.
    """

    paths: Mapping[str, str]
    above: float | None


class MaskImages(NamedTuple):
    """Mask images and the images that they are of."""

    rule: Rule
    images: Images
    count: int  # of mask files
    ids: list[str]
    others: tuple[str, ...]  # further files that could be the masks of these images, for people
    held_out: tuple[str, ...] = ()  # folders of masks of a validation or test part, for people
    candidates: frozenset[str] = frozenset()  # all files that look like masks: they are no images
    classes: ClassFiles | None = None  # if each class has files of its own


def find_mask_images(root: Path, paths: Sequence[str]) -> MaskImages | None:
    """The masks of training images, by the names of folders and files, or else by their few values.

    Args:
        paths: of all image files below root.
    """
    found = _of_groups(root, _named_groups(paths), paths)
    if found and not _are_masks(root, found, paths):
        return found
    return _of_groups(root, _groups_by_content(root, paths), paths) or found


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
    known = Counter(map(stem_of, set(paths) - set(named)))
    return _groups(named, known)


def _of_groups(root: Path, groups: Mapping[str, Sequence[str]], paths: Sequence[str]) -> MaskImages | None:
    """The masks of the best group that has images, with those of its sibling folders if they are of other images."""
    masks = {path for group in groups.values() for path in group}
    images = [path for path in paths if path not in masks]
    unlikely = {name for name in groups if len(groups) > 1 and are_no_labels(root, groups[name])}
    for name in sorted(groups, key=lambda name: (name in unlikely, *_preference(name, groups[name]))):
        siblings = [each for each in groups if each == name or _are_siblings(each, name, groups)]
        together = [path for each in siblings for path in groups[each]]
        found = pair_masks(together, images, unique=True) if len(siblings) > 1 else None
        used = siblings if found else [name]
        if found := found or pair_masks(groups[name], images):
            more = sorted(other for other in groups if other not in used)
            held_out = [other for other in more if is_held_out(other) and not is_held_out(name)]
            others = tuple(other for other in more if other not in held_out)
            parts = tuple(dict.fromkeys(map(_held_out_folder, held_out)))
            found = found._replace(rule=_narrowed(found.rule, found.ids, masks))
            found = found._replace(images=_without_masks(found, masks, images))
            return found._replace(others=(*found.others, *others), held_out=parts, candidates=frozenset(masks))
    return None


def _narrowed(rule: Rule, ids: Sequence[str], masks: Collection[str]) -> Rule:
    """A rule that takes no masks of other groups: x_color_mask.png is no mask of an image x_color."""
    text = rf"([^/]+){re.escape(rule.suffix)}" if rule.pattern is None else rule.pattern
    narrow = Rule(rule.folder, "", text.replace("([^/]+)", f"({generalised(ids)})", 1))
    wide, files = rule.files(masks).keys(), narrow.files(masks).keys()
    return narrow if set(ids) <= files < wide else rule


def _without_masks(found: MaskImages, masks: Collection[str], images: Sequence[str]) -> Images:
    """The images by a rule that takes no masks of other groups."""
    others = [path for path in masks if found.rule.id_of(path.removeprefix(f"{found.rule.folder}/")) is None]
    rule = found.images.rule
    if found.images.channels or not rule.files(others):
        return found.images
    return found.images._replace(rule=_narrowed(rule, list(rule.files(images)), [*others, *images]))


def _held_out_folder(group: str) -> str:
    """The folder of a group up to the part whose name says that it is held out."""
    parts = group.split("/")
    return "/".join(parts[: next(n for n, part in enumerate(parts) if is_held_out(part)) + 1])


def _are_siblings(one: str, other: str, groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether groups are of folders that differ in numbers or in one part of their paths, and none is held out. If that
    is not the last one, their files must have different names: copies in another format have the same.
    """
    if is_held_out(one) or is_held_out(other):
        return False
    (*folders, end), (*other_folders, other_end) = one.split("/"), other.split("/")
    if _without_numbers(one) == _without_numbers(other):
        return True
    different = [n for n, (a, b) in enumerate(zip(folders, other_folders, strict=False)) if a != b]
    if end != other_end or len(folders) != len(other_folders) or len(different) != 1:
        return False
    if different == [len(folders) - 1] and len(folders) > 1:
        return True
    return set(map(stem_of, groups[one])).isdisjoint(map(stem_of, groups[other]))


def _without_numbers(group: str) -> str:
    """A group's name without numbers and single capital letters, which parts of a set have: 01_labels, dataA."""
    return re.sub(r"\d+|(?<=[a-z])[A-Z](?![A-Za-z])", "#", group)


def are_no_labels(root: Path, group: Sequence[str]) -> bool:
    """Whether files are pictures with many colours, such as previews, or show the same place in all images, such as
    fields of view.
    """
    some = [pixels for path in spread(group, NUM_COMPARED) if (pixels := mask_pixels(root / path)) is not None]
    if some and all(each.shape[2] == 3 and _num_values(each) > MAX_COLOURS for each in some):
        return True
    inside = [each.max(axis=2) > 0 for each in some if _num_values(each) <= 2]
    pairs = [(a, b) for a, b in combinations(inside, 2) if a.shape == b.shape]
    return len(inside) == NUM_COMPARED and bool(pairs) and all(overlap(a, b) >= MIN_SAME_PLACE for a, b in pairs)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The IoU of two masks of bool."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def _shared_folder(paths: Sequence[str]) -> str:
    """The folder that the first and the last of sorted paths share, and so all of them."""
    first, last = paths[0], paths[-1]
    end = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("/", 0, end) + 1]


def _preference(name: str, group: Sequence[str]) -> tuple:
    """A key that is smaller for groups that are more likely the masks of classes."""
    return (
        is_held_out(name),
        bool(DERIVED.search(name)),
        bool(NOT_PREFERRED.search(name)),
        not PREFERRED.search(name),
        not IDS.search(name),
        "train" not in name.lower(),
        -len(group),
        len(name),
        name,
    )


def _groups(
    paths: Sequence[str], known: Mapping[str, int] | None = None, *, by_extension: bool = False
) -> dict[str, list[str]]:
    """Paths by their folder, with "*" for folders that stand for images, and by a name that all those have.

    Folders and names that differ in the words left and right only are one group.

    Args:
        known: how often other files have a name, without their extension.
        by_extension: files of another extension are another group.
    """
    known = known or {}
    children: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")[:-1]
        for depth, part in enumerate(parts):
            children.setdefault("/".join(parts[:depth]), set()).add(part)
    varying = {parent for parent in children if _stand_for_images(parent, children)}
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(_starred(path.split("/")[:-1], varying), []).append(path)
    kinds: dict[str, list[str]] = {}
    for folder, members in folders.items():
        for kind, of_kind in _by_kind(folder, members, known).items():
            kinds.setdefault(SIDES.sub("?", kind), []).extend(of_kind)
    found: dict[str, list[str]] = {}
    for folder, members in kinds.items():
        names = Counter(path.rpartition("/")[2] for path in members)
        forms = Counter(re.sub(r"\d+", "#", name) for name in names)
        repeated, places = sum(count > 1 for count in names.values()), {path.rpartition("/")[0] for path in members}
        for path in members:
            name = path.rpartition("/")[2]
            # More repeated names than folders are ids, and the folders are places with images of their own.
            is_fixed = (
                "*" in folder
                and 0 < repeated <= len(places)
                and names[name] > 1
                and forms[re.sub(r"\d+", "#", name)] == 1
            )
            extension = f".{path.rpartition('.')[2]}" if by_extension else ""
            found.setdefault(f"{folder}/{name if is_fixed else f'*{extension}'}", []).append(path)
    return {name: group for each in found.items() for name, group in _by_ending(*each, known).items()}


def _by_kind(folder: str, members: Sequence[str], known: Mapping[str, int]) -> dict[str, list[str]]:
    """Files in folders that stand for images; or, if more of them than images have the same name, in folders that stand
    for kinds of masks, as heart/x.png and lung/x.png.

    Args:
        folder: with "*" for parts that differ.
        known: as for `_groups`.
    """
    same = defaultdict[str, list[str]](list)
    for path in members:
        same[known_start(path, known)].append(path)
    repeated = [each for name, each in same.items() if name and len({stem_of(path) for path in each}) < len(each)]
    several = [each for each in repeated if len(each) > known[known_start(each[0], known)]]
    if "*" not in folder or 2 * len(several) < len(same):
        return {folder: list(members)}
    depths = {
        depth
        for each in several
        for depth, parts in enumerate(zip(*(path.split("/")[:-1] for path in each), strict=False))
        if len(set(parts)) > 1
    }
    found: dict[str, list[str]] = {}
    for path in members:
        parts = [
            own if depth in depths else part
            for depth, (part, own) in enumerate(zip(folder.split("/"), path.split("/"), strict=False))
        ]
        found.setdefault("/".join(parts), []).append(path)
    return found


def known_start(path: str, known: Collection[str]) -> str:
    """The longest start of a file's name, up to a word's end, that is the name of an image; "" without one."""
    name = stem_of(path)
    while name and name not in known:
        name = re.sub(r"[_\-. ]?[^_\-. ]*$", "", name)
    return name


def _starred(parts: Sequence[str], varying: Collection[str]) -> str:
    """A folder with "*" for the parts that stand for images, and for their names in the parts below them."""
    starred: list[str] = []
    for depth, part in enumerate(parts):
        above = parts[depth - 1] if starred and starred[-1] == "*" else ""
        is_image = "/".join(parts[:depth]) in varying
        starred.append("*" if is_image else part.replace(above, "*") if above else part)
    return "/".join(starred)


def _by_ending(name: str, group: Sequence[str], known: Mapping[str, int]) -> dict[str, list[str]]:
    """A group in parts, where names end in few words, each of them frequent, as x_color.png and x_labelIds.png.

    Names that are those of images, names of which no two start alike, and names that end as those of images do, have no
    such ending.
    """
    if by_image := _by_ending_of_image(name, group, known):
        return by_image
    if sum(stem_of(path) in known for path in group) >= MIN_NAMED * len(group):
        return {name: list(group)}
    of_images = {found["word"] for each in spread(list(known), NUM_MASKS) if (found := ENDING.search(f"{each}.x"))}
    if of_images >= {found["word"] for path in group if (found := ENDING.search(path))}:
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


def _by_ending_of_image(name: str, group: Sequence[str], known: Mapping[str, int]) -> dict[str, list[str]]:
    """A group in parts by what follows the names of images, as x_MA.tif and x_HE.tif of x.jpg; {} if files do not begin
    with these names, or if most images have one of several endings. A number at the end does not count: it is a part's.
    """
    endings: dict[str, list[str]] = {}
    of_image: dict[str, set[str]] = {}
    for path in group:
        if not (start := known_start(path, known)):
            return {}
        ending = re.sub(r"[_-]?\d+$", "", stem_of(path)[len(start) :]) + f".{path.rpartition('.')[2]}"
        endings.setdefault(ending, []).append(path)
        of_image.setdefault(start, set()).add(ending)
    if len(endings) == 1 and not all(stem_of(path) in known for path in group):
        return {name: list(group)}
    several = sum(len(each) > 1 for each in of_image.values())
    if not 1 < len(endings) <= MAX_ENDINGS or 2 * several < len(of_image):
        return {}
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
    """Whether a file has few values, or, as a mask that JPEG has blurred, few that are not nearly black or white."""
    pixels = mask_pixels(path)
    if pixels is None:
        return False
    if _num_values(pixels) <= MAX_VALUES:
        return True
    is_grey = (pixels > DARK) & (pixels < LIGHT)
    return bool(pixels.max() >= LIGHT and is_grey.mean() <= MAX_GREY) and is_jpeg(path)


def mask_pixels(path: Path) -> np.ndarray | None:
    """The pixels (H, W, C) of a file, or of a volume's middle slice; None if it cannot be read."""
    try:
        return read_pixels(readable(path))
    except (ImageError, OSError):
        return None


def _num_values(pixels: np.ndarray) -> int:
    """How many values, or colours, some of the pixels have."""
    values = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels[..., 0].size // 100_000)]
    return len(np.unique(values, axis=0))


def _before_mask_word(path: str) -> str:
    found = MASK_WORD.search(stem_of(path))
    return stem_of(path)[: found.start()].rstrip("_-. ") if found else ""


def _without_end(path: str) -> str:
    return re.sub(r"[_\-. ][^_\-. ]*$", "", stem_of(path))


def _without_two_ends(path: str) -> str:
    return re.sub(r"([_\-. ][^_\-. ]*){2}$", "", stem_of(path))


def _without_start(path: str) -> str:
    return re.sub(r"^[^_\-. \d]*[_\-. ]?", "", stem_of(path))


def _without_middle(path: str) -> str:
    """The name without a word between its start and a number at its end: um_road_000001 is um_000001."""
    return re.sub(r"[_\-][^\W\d_]+(?=[_\-]\d+$)", "", stem_of(path))


def _without_inner_mask_word(path: str) -> str:
    """The name without a word of masks between others: 2018_label_front_07 is 2018_front_07."""
    return re.sub(rf"[_\-][^\W\d_]*(?:{MASK_WORD.pattern})[^\W\d_]*(?=[_\-])", "", stem_of(path), count=1, flags=re.I)


def _without_mask_word(path: str) -> str:
    return _before_mask_word(path) or stem_of(path)


def _folder_name(path: str) -> str:
    return (["", "", *path.split("/")])[-2]


def _parent_folder_name(path: str) -> str:
    return (["", "", "", *path.split("/")])[-3]


IdForm = Callable[[str], str]
# What of a mask's path may be the id of its image, the most likely first.
ID_FORMS: tuple[IdForm, ...] = (
    stem_of,
    _before_mask_word,
    _without_end,
    _without_two_ends,
    _without_start,
    _without_middle,
    _without_inner_mask_word,
    _without_mask_word,
)
FOLDER_FORMS: tuple[IdForm, ...] = (_folder_name, _parent_folder_name)


def _id_forms(masks: Sequence[str], known: Collection[str]) -> Iterator[IdForm]:
    """What may be the id: the name, a folder, or, if names repeat, the folders that differ and the name.

    Args:
        known: names of other files, without their extension.
    """
    yield stem_of
    yield partial(known_start, known=known)
    yield from ID_FORMS[1:]
    yield from FOLDER_FORMS
    depths = zip(*(path.split("/")[:-1] for path in masks), strict=False)
    different = [depth for depth, parts in enumerate(depths) if len(set(parts)) > 1]
    if different:
        yield from (partial(_with_folders, form=form, depths=different) for form in ID_FORMS)


def _with_folders(path: str, form: IdForm, depths: Sequence[int]) -> str:
    parts, name = path.split("/"), form(path)
    return "_".join([*(parts[depth] for depth in depths if depth < len(parts) - 1), name]) if name else ""


def _with_numbers(rule: Rule, masks: Sequence[str]) -> Rule:
    """The rule, or one for names that end in a number, as x_mask_1.png or x_1.png, if it fits more masks."""
    text = rule.pattern or f"([^/]+){re.escape(rule.suffix)}"
    forms = re.sub(r"((\\\.\w+)+)$", r"(?:_\\d+)?\1", text), re.sub(r"_\d+((\\\.\w+)+)$", r"_\\d+\1", text)
    ids, rules = set(rule.files(masks)), [Rule(rule.folder, "", form) for form in forms]
    fitting = [each for each in rules if set(each.files(masks)) <= ids]
    return max([rule, *fitting], key=lambda each: sum(map(len, each.files(masks).values())))


def pair_masks(masks: Sequence[str], images: Sequence[str], *, unique: bool = False) -> MaskImages | None:
    """The images of masks: those whose paths contain what is the id in a mask's path.

    Of several readings of the masks' paths, that which finds an image for most masks.

    Args:
        unique: each mask has an image, and each image one mask.
    """
    best: MaskImages | None = None
    for id_of in _id_forms(masks, set(map(stem_of, images))):
        found = _pair_by(id_of, masks, images)
        if found is None or (unique and not len(masks) == found.count == len(found.ids)):
            continue
        if best is None or found.count > best.count:
            best = found
        if set(found.ids) >= set(map(id_of, masks)) and not _left_out(masks, _paths(found.rule.files(masks))):
            break
    return best


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
    if _paths(rule.files(images)) & _paths(known):
        return None  # a rule that takes images for masks
    is_repeated = count > len(files) and (of_images.channels or any(len(known.get(each, ())) > 1 for each in files))
    if is_repeated or count < MIN_MATCHED * len(masks) or len(files.keys() & known.keys()) < MIN_IMAGES * len(files):
        return None
    first = of_masks.families[0]
    others = [each.shown for each in of_masks.families[1:] if MIN_OTHER * first.ids <= each.ids < len(every)]
    if len(left := _left_out(masks, _paths(files))) >= MIN_LEFT * len(masks) and not others:
        others.append(f"{len(left)} such as {left[0]}")
    return MaskImages(rule, of_images, count, sorted(files), tuple(others))


def _left_out(masks: Sequence[str], taken: Collection[str]) -> list[str]:
    """The masks that are not taken, without copies in another format."""
    suffixes = {path.rpartition(".")[2] for path in taken}
    return [path for path in masks if path not in taken and path.rpartition(".")[2] in suffixes]


def _paths(files: Mapping[str, Sequence[str]]) -> set[str]:
    return {path for each in files.values() for path in each}


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
