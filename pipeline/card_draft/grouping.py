"""Groups and volumes that ids and columns show. Files cannot prove them, so all are proposals."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.tables import Table

GROUP_NAME = re.compile(
    r"patient|subject|case|lesion|study|series|sequence|video|clip|scene|slide|wsi|source|mosaic|volume|session|donor|"
    r"well|plate|person|animal|specimen|fragment|site|group|location|city|town",
    re.IGNORECASE,
)
SLICE_WORD = re.compile(r"slice|frame|layer|depth|^z$", re.IGNORECASE)
NUMBERED = re.compile(r"(?P<start>.+)(?P<gap>[_-])(?P<word>[A-Za-z]*)(?P<number>\d+)(?P<end>\.\w+)?")
LAST_WORD = re.compile(r"(.+)([_-][A-Za-z]+)")
YEAR = re.compile(r"(19|20)\d\d")
# Ids that end in two numbers, as the row and the column of a tile; in a number without a gap before it, as austin12; in
# a word for one of two sides, as both eyes of a person; in a random text, as augmented copies of an image.
TWO_NUMBERS = r"(.+)[_-]\d+[_-]\d+$"
NO_GAP = r"([A-Za-z][A-Za-z_-]*[A-Za-z])\d+$"
COPIED = r"(.+?)[._-](?=[a-z]*\d)[0-9a-z]{20,}$"
SIDED = r"(.*\d)[_ -]?(?:[LRlr]|OD|OS|left|right)$"
# Ids with the coordinates of a tile, as x_y0_x512; in four numbers, its corners; of the same place before and after an
# event; of a patient, whose number is followed by others.
TILES = (r"(.+?)[_-]x(?:min)?[_-]?\d+[_-]y(?:min)?[_-]?\d+.*", r"(.+)_\d+[_-]\d+[_-]\d+[_-]\d+$")
TIMED = r"(.*\d)[_-](?:pre|post|before|after)(?:[_-][A-Za-z]+)?$"
NAMED = r"((?i:patient|subject|case|sub|pat)[_-]?[A-Za-z]*\d+)[_-].+"
MIN_WORDS = 5  # series without a number in their names: fewer are kinds of images, as defects or breeds are
HEAD = re.compile(r"([A-Za-z]+[_-]?)(\d+)(?=[_-])")
MIN_GROUPS = 2
MIN_TENS = 5  # groups of ten slices
MIN_PER_GROUP = 1.5  # images, on average
MIN_CONSECUTIVE = 0.75  # of the steps between slices must be the smallest one


class Groups(NamedTuple):
    """Patterns of ids, each with its evidence; None without one."""

    group_pattern: str | None = None
    volume_pattern: str | None = None
    evidence: str = ""


def find_group_column(tables: Iterable[tuple[Table, str]], ids: Iterable[str]) -> tuple[str, str] | None:
    """A column whose name and values are those of patients, videos or mosaics; and the evidence.

    Args:
        tables: with one row for each image, or rows of one value for each image; and their column of ids.
        ids: of the training images.
    """
    wanted = set(ids)
    for table, id_column in tables:
        for name in table.columns:
            if name == id_column or not GROUP_NAME.search(name):
                continue
            pairs = {
                (key, value)
                for key, value in zip(table.values(id_column), table.values(name), strict=True)
                if key in wanted
            }
            groups = {value for _, value in pairs}
            if (
                len(pairs) == len(wanted)
                and MIN_GROUPS <= len(groups) <= len(wanted) / MIN_PER_GROUP
                and "" not in groups
            ):
                return name, f"{len(groups)} values of '{name}' in {table.name}, for {len(wanted)} images"
    return None


class Numbered(NamedTuple):
    """An id that ends in a number: its series, what is before the number, the number, and a suffix."""

    series: str
    word: str
    number: str
    end: str


def find_patterns(ids: Sequence[str], more: Sequence[str], *, one_channel: bool, medical: bool) -> Groups:
    """Patterns of ids that end in a number, as slices, frames and views do.

    Args:
        ids: of the training images.
        more: ids of the test images.
        one_channel: of the images, as slices have.
        medical: images are DICOM files.
    """
    parts = _numbered(ids)
    if tiles := _by_forms(ids, TILES):
        return tiles
    if len(parts) < len(ids) or not parts:
        return _by_forms(ids, (NO_GAP, SIDED, TIMED, NAMED, COPIED)) or Groups()
    series = {each.series for each in parts}
    if _are_slices(parts, one_channel=one_channel or medical) and _are_consecutive([*parts, *_numbered(more)]):
        return _one_volume(parts, medical=medical) if len(series) == 1 else _volumes(parts)
    if _are_groups(series, len(ids)):
        return Groups(rf"(.+){_word_pattern(parts)}\d+{_end_pattern(parts)}", None, _describe(series, len(ids)))
    return _by_forms(ids, (TWO_NUMBERS, NAMED, COPIED)) or Groups()


def _are_groups(names: Collection[str], count: int) -> bool:
    """Whether the starts of so many ids may be scenes or patients: not years, nor a few words for kinds of images."""
    if not MIN_GROUPS <= len(names) <= count / MIN_PER_GROUP or all(map(YEAR.fullmatch, names)):
        return False
    return len(names) >= MIN_WORDS or any(re.search(r"\d", name) for name in names)


def _by_forms(ids: Sequence[str], forms: Sequence[str]) -> Groups | None:
    """The groups by the first of some forms that all ids have; None without one."""
    for form in forms:
        found = [re.fullmatch(form, image_id) for image_id in ids]
        if all(found) and _are_groups(names := {each[1] for each in found}, len(ids)):
            return Groups(form, None, _describe(names, len(ids)))
    return None


def _describe(names: Collection[str], count: int) -> str:
    return f"{count} ids start in {len(names)} ways, such as '{min(names)}'"


def _numbered(ids: Sequence[str]) -> list[Numbered]:
    """The ids that end in a number; a word that all have before it, as slice, is not of the series."""
    found = [match for image_id in ids if (match := NUMBERED.fullmatch(image_id))]
    last = [LAST_WORD.fullmatch(each["start"]) for each in found]
    has_word = all(last) and len({each[2] for each in last}) == 1
    return [
        Numbered(
            end[1] if has_word else each["start"],
            (end[2] if has_word else "") + each["gap"] + each["word"],
            each["number"],
            each["end"] or "",
        )
        for each, end in zip(found, last, strict=True)
    ]


def _word_pattern(parts: Sequence[Numbered]) -> str:
    """What is between the series and the number of ids, as a regular expression."""
    texts = {each.word for each in parts}
    return re.escape(texts.pop()).replace(r"\-", "-") if len(texts) == 1 else "[_-][A-Za-z]*"


def _end_pattern(parts: Sequence[Numbered]) -> str:
    return r"\.\w+" if all(each.end for each in parts) else ""


def _are_slices(parts: Sequence[Numbered], *, one_channel: bool) -> bool:
    """Whether numbers are those of slices: by the word before them, or zeros at their start, of grey images."""
    if all(SLICE_WORD.search(each.word) or SLICE_WORD.fullmatch(each.series) for each in parts):
        return True
    widths = {len(each.number) for each in parts}
    return one_channel and len(widths) == 1 and widths != {1} and any(each.number[0] == "0" for each in parts)


def _are_consecutive(parts: Sequence[Numbered]) -> bool:
    """Whether most numbers of a series follow each other at one step."""
    series = defaultdict(set)
    for each in parts:
        series[each.series].add(int(each.number))
    steps = [np.diff(sorted(numbers)) for numbers in series.values() if len(numbers) > 1]
    every = np.concatenate(steps) if steps else np.zeros(0)
    return every.size > 0 and bool((every == every.min()).mean() >= MIN_CONSECUTIVE)


def _one_volume(parts: Sequence[Numbered], *, medical: bool) -> Groups:
    """The patterns of the slices of one series: folds need several groups, so neighbouring slices are groups."""
    is_named = all(SLICE_WORD.search(each.word + each.series) for each in parts)
    if not (medical or is_named) or len({int(each.number) // 10 for each in parts}) < MIN_TENS:
        return Groups()
    word, end = _word_pattern(parts), _end_pattern(parts)
    evidence = (
        f"{len(parts)} ids are slices of one series, '{parts[0].series}': groups of ten neighbouring slices, as folds "
        f"need several; slices of two groups are still alike"
    )
    return Groups(rf"(.+{word}\d*)\d{end}", rf"(.+){word}(\d+){end}", evidence)


def _volumes(parts: Sequence[Numbered]) -> Groups:
    """The patterns of slices: of their volumes, and of what is larger than a volume."""
    volumes = {each.series for each in parts}
    pattern = rf"(.+){_word_pattern(parts)}(\d+){_end_pattern(parts)}"
    evidence = f"{len(parts)} ids are slices of {len(volumes)} volumes, such as '{min(volumes)}'"
    heads = [HEAD.match(each.series + each.word) for each in parts]
    groups = {head[0] for head in heads if head}
    if all(heads) and len({head[1] for head in heads}) == 1 and MIN_GROUPS <= len(groups) < len(volumes):
        evidence += f", which are of {len(groups)} larger groups, such as '{min(groups)}'"
        after = {(each.series + each.word)[head.end()] for each, head in zip(parts, heads, strict=True)}
        word = re.escape(heads[0][1]).replace(r"\-", "-")
        return Groups(rf"({word}\d+){after.pop() if len(after) == 1 else '[_-]'}", pattern, evidence)
    return Groups(None, pattern, evidence)
