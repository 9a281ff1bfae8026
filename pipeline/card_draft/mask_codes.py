"""What the values of mask images stand for: one class, several, objects, or shares."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.card_draft.listing import spread
from pipeline.card_draft.mask_folders import DARK, LIGHT
from pipeline.competition import Value
from pipeline.data.formats import is_jpeg, read_header, read_indices, read_pixels
from pipeline.data.mask_files import read_mask
from pipeline.data.medical import is_nifti_name, slices_of
from pipeline.data.rasters import ImageError
from pipeline.quoting import listed, shortened

NUM_MASKS = 24  # that are read first
MAX_PIXELS = 1 << 26  # larger masks are not read
SOME_PIXELS = 3e8  # of the slices of the volumes that are read first; MIN_SLICES of each at least
MIN_SLICES = 8
ALL_PIXELS = 2e9  # of all masks of classes that are read: a rare class may be in few of them
MAX_CODES = 64  # of classes; more are objects or shares, unless each mask has few of them
MAX_CLASSES = 256
MAX_IN_MASK = 32  # values in a mask of classes (median)
MIN_OTHERS = 0.1  # of the pixels of such a mask have none of its two most frequent values; a blurred edge has less
MIN_COUNTED = 0.8  # of the masks hold 0, 1, … n without a gap, if they are label images
MIN_NUMBERS = 4  # different n, the largest at least MIN_OBJECTS: a number of objects varies, one of classes does not
MIN_OBJECTS = 6
VOID_CODE = 255
VOID_STEP = 1.1  # times the largest step between classes: 0, 128 and 255 are three classes
MIN_BLACK_OR_WHITE = 0.9  # of the pixels of JPEG masks of one class
NEAR_GREY, MIN_NEAR_GREY = 8, 0.5  # a value in JPEG, and the share of the greys that are so near to one
MAX_COLOUR = 4  # channels of a mask, with alpha; a file of more is a stack
SOFT_NAME = re.compile(r"(?i:(?<![a-z])(soft(map|mask)?s?|probs?|probabilit(y|ies))(?![a-z]))|Soft(?=[Mm])")


class MaskCodes(NamedTuple):
    """What the values of mask images are.

    Args:
        kind: "binary": nothing need be set; "above": lossy values; "value": one value is mask; "classes": a value for
            each class; "objects": a value for each object; "soft": shares; "unknown": none could be read, or some are
            grey and others in colour.
        values: of the classes, or the one value.
        void: value of ignored pixels.
        evidence: one line.
        background: with "value", the other value.
    """

    kind: Literal["binary", "above", "value", "classes", "objects", "soft", "unknown"]
    values: tuple[Value, ...]
    void: Value | None
    evidence: str
    is_sure: bool = True
    background: Value = 0


def read_codes(paths: Sequence[Path], *, of_objects: bool, num_classes: int | None) -> MaskCodes:
    """Look at the values of some mask images.

    Args:
        paths: of all mask images.
        of_objects: the metric is one of objects.
        num_classes: of the sample submission; None if it names no classes.

    Raises:
        ValueError: for a mask image that is a stack of several.
    """
    paths = list(paths)
    some = _small_images(spread(paths, NUM_MASKS), SOME_PIXELS)
    if some and all(map(_is_binary, some)):
        return MaskCodes("binary", (), None, f"0 and 1, or 0 and white, in {len(some)} of {len(some)} masks")
    values = {path: _values_of(path) for path in some}
    found = [each for each in values.values() if each is not None]
    if not found:
        return MaskCodes("unknown", (), None, "no mask image could be read", is_sure=False)
    codes = _codes_of(some, found, of_objects=of_objects, num_classes=num_classes)
    if codes.kind != "classes":
        return codes
    every = _all_images(paths, some)
    values |= {path: _values_of(path) for path in every if path not in values}
    found = [each for path in every if (each := values[path]) is not None]
    return _codes_of(some, found, of_objects=of_objects, num_classes=num_classes)


def _all_images(paths: Sequence[Path], some: Sequence[Path]) -> list[Path]:
    """The images of as many masks as are read in some minutes at most."""
    pixels = max(1, *(header.height * header.width for header in map(read_header, some)))
    return _small_images(spread(paths, max(NUM_MASKS, int(ALL_PIXELS // pixels))), ALL_PIXELS)


def _codes_of(
    some: Sequence[Path], found: Sequence[Counter], *, of_objects: bool, num_classes: int | None
) -> MaskCodes:
    """What values stand for.

    Args:
        some: of the masks.
        found: how often each value is in each mask.
    """
    counts = sum(found, Counter())
    values = sorted(counts, key=lambda value: (isinstance(value, tuple), value))
    shown = f"values {listed(map(_shown, values), 60)} in {len(found)} masks"
    if any(is_jpeg(path) for path in some):
        return _lossy(counts, shown)
    is_named_soft = all(SOFT_NAME.search(path.name) for path in some) and not any(isinstance(v, tuple) for v in counts)
    if is_named_soft or any(isinstance(value, float) for value in counts):
        return MaskCodes("soft", (), None, f"shares: {shown}", is_sure=False)
    if len({isinstance(value, tuple) for value in counts}) > 1:
        return MaskCodes("unknown", (), None, f"some masks are grey, others in colour: {shown}", is_sure=False)
    return _codes(found, counts, shown, of_objects=of_objects, num_classes=num_classes)


def _lossy(counts: Mapping[Value, int], shown: str) -> MaskCodes:
    """One class in JPEG: black and white with blurred edges; blurred values of several classes are not read."""
    light = sum(count for value, count in counts.items() if np.min(value) >= LIGHT)
    dark = sum(count for value, count in counts.items() if np.max(value) <= DARK)
    if light and light + dark >= MIN_BLACK_OR_WHITE * sum(counts.values()) and not _has_grey_level(counts):
        return MaskCodes("above", (), None, f"JPEG blurs values: {shown}")
    why = f"JPEG blurs values, and these are not black and white: save masks of classes as PNG: {shown}"
    return MaskCodes("unknown", (), None, why, is_sure=False)


def _has_grey_level(counts: Mapping[Value, int]) -> bool:
    """Whether most pixels between black and white are near one value, as those of a class; at blurred edges they are
    spread over all values.
    """
    greys = [(int(np.mean(value)), count) for value, count in counts.items() if DARK < np.mean(value) < LIGHT]
    near = np.zeros(256 + 2 * NEAR_GREY)
    for value, count in greys:
        near[value : value + 2 * NEAR_GREY + 1] += count
    return bool(near.max() > MIN_NEAR_GREY * max(1, sum(count for _, count in greys)))


def _codes(
    found: Sequence[Counter], counts: Mapping[Value, int], shown: str, *, of_objects: bool, num_classes: int | None
) -> MaskCodes:
    """What whole numbers, or colours, stand for."""
    is_grey = not any(isinstance(value, tuple) for value in counts)
    numbers = [set(map(_number, values)) - {0} for values in found]
    is_counted = sum(each == set(range(1, len(each) + 1)) for each in numbers) >= MIN_COUNTED * len(found)
    varies = len(set(map(len, numbers))) >= MIN_NUMBERS and max(map(len, numbers)) >= MIN_OBJECTS
    many = len(counts) > MAX_CODES and not _have_few_each(found)
    if of_objects and (not is_grey or is_counted or many):
        return MaskCodes("objects", (), None, f"a value for each object: {shown}")
    if is_counted and (many or varies):
        return MaskCodes("objects", (), None, f"a value for each object, by their numbers: {shown}", is_sure=False)
    if many and is_grey:
        return MaskCodes("soft", (), None, f"shares of white: {shown}", is_sure=False)
    if many:
        why = f"more colours than classes have, are they blurred? {shown}"
        return MaskCodes("unknown", (), None, why, is_sure=False)
    values = sorted(counts)
    if len(values) == 2 and num_classes in (None, 1):
        low, high = values
        background = low if low in (0, (0, 0, 0)) else max(values, key=lambda value: counts[value])
        return MaskCodes("value", (high if background == low else low,), None, shown, background=background)
    void = _void(values, num_classes)
    if void is not None and sum(set(each) <= {0, void} for each in found if void in each) > len(found) / 2:
        void = None  # most masks have no class beside it
    return MaskCodes("classes", tuple(value for value in values if value != void), void, shown)


def _void(values: Sequence[Value], num_classes: int | None) -> Value | None:
    """The value of ignored pixels: a negative one, 255 beside small numbers, or the one value beyond those of classes.

    Greys at equal steps up to 255 are classes.
    """
    last = values[-1]
    if isinstance(last, tuple):
        return None
    if num_classes is None and values[0] < 0:
        return values[0]
    if len(values) < 3:
        return None
    *steps, last_step = np.diff(values)
    has_gap = last_step > max(1, VOID_STEP * max(steps))
    if num_classes is not None:
        return last if len(values) == num_classes + 1 and has_gap else None
    return last if last == VOID_CODE and has_gap else None


def _have_few_each(found: Sequence[Mapping[Value, int]]) -> bool:
    """Whether many values are those of many classes, of which each mask has few, and not shares or blurred edges."""
    typical = np.median([len(values) for values in found])
    others = [1 - sum(sorted(values.values())[-2:]) / sum(values.values()) for values in found]
    every = {value for values in found for value in values}
    return bool(len(every) <= MAX_CLASSES and typical <= MAX_IN_MASK and np.median(others) >= MIN_OTHERS)


def _number(value: Value) -> int:
    """A value as one number; of a colour of which one channel is not 0, that channel."""
    if isinstance(value, int):
        return value
    return max(value) if sum(map(bool, value)) <= 1 else sum(each << 8 * n for n, each in enumerate(value[::-1]))


def _small_images(files: Sequence[Path], pixels: float) -> list[Path]:
    """The images of mask files, or slices that are evenly spread over volumes.

    Those that cannot be read, or are too large, are left out.

    Args:
        pixels: of all slices together, about.
    """
    found = []
    for file in files:
        try:
            slices = list(slices_of(file).values()) if is_nifti_name(file) else [file]
            header = read_header(slices[0])
        except (ImageError, OSError):
            continue
        area = header.height * header.width
        if area <= MAX_PIXELS:
            found += spread(slices, max(MIN_SLICES, int(pixels // (len(files) * area))))
    return found


def _is_binary(path: Path) -> bool:
    try:
        read_mask(path)
    except ImageError:
        return False
    return True


def _values_of(path: Path) -> Counter | None:
    """The pixels of each value of a mask: grey values, palette indices, colours, or floats; None if unreadable."""
    try:
        indices = read_indices(path)
        pixels = read_pixels(path) if indices is None else indices
    except (ImageError, OSError):
        return None
    if pixels.shape[2] > MAX_COLOUR and pixels.dtype.kind != "f":
        raise ValueError(
            f"{path}: a mask of {pixels.shape[2]} pages, or channels: expected one mask in a file: save each page, of "
            f"images too, as a file of its own"
        )
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        packed, counts = np.unique(pixels.astype(np.int32) @ (1 << 8 * np.arange(3)[::-1]), return_counts=True)
        colours = [(value >> 16, value >> 8 & 255, value & 255) for value in packed.tolist()]
        return Counter(dict(zip(colours, counts.tolist(), strict=True)))
    if pixels.shape[2] != 1 and pixels.dtype.kind == "f":
        if not (pixels == np.rint(pixels)).all():  # shares of several classes: no value stands for one
            return None
        pixels = pixels.astype(np.int64)
    if pixels.shape[2] != 1:
        colours, counts = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0, return_counts=True)
        return Counter(dict(zip(map(tuple, colours.tolist()), counts.tolist(), strict=True)))
    values, counts = np.unique(pixels, return_counts=True)
    whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
    numbers = [int(value) for value in values] if whole else [float(value) for value in values]
    return Counter(dict(zip(numbers, counts.tolist(), strict=True)))


def _shown(value: object) -> str:
    return shortened(list(value) if isinstance(value, tuple) else value, 20)
