"""What the values of mask images stand for: one class, several, objects, or shares."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from pipeline.card_draft.listing import readable, spread
from pipeline.competition import Value
from pipeline.data.formats import is_jpeg, read_header, read_indices, read_pixels
from pipeline.data.mask_files import read_mask
from pipeline.data.rasters import ImageError
from pipeline.quoting import listed, shortened

NUM_MASKS = 24  # that are read
MAX_PIXELS = 1 << 26  # larger masks are not read
MAX_CODES = 64  # of classes; more are objects or shares
MIN_COUNTED = 0.8  # of the masks hold 0, 1, … n without a gap, if they are label images
VOID_CODE = 255


class MaskCodes(NamedTuple):
    """What the values of mask images are.

    Args:
        kind: "binary": nothing need be set; "above": lossy values; "value": one value is mask; "classes": a value for
            each class; "objects": a value for each object; "soft": shares; "unknown": none could be read, or some are
            grey and others in colour.
        values: of the classes, or the one value.
        void: value of ignored pixels.
        evidence: one line.
    """

    kind: Literal["binary", "above", "value", "classes", "objects", "soft", "unknown"]
    values: tuple[Value, ...]
    void: Value | None
    evidence: str
    is_sure: bool = True


def read_codes(paths: Sequence[Path], *, of_objects: bool, num_classes: int | None) -> MaskCodes:
    """Look at the values of some mask images.

    Args:
        paths: of all mask images.
        of_objects: the metric is one of objects.
        num_classes: of the sample submission; None if it names no classes.
    """
    some = [path for file in spread(list(paths), NUM_MASKS) if (path := _small_image(file)) is not None]
    if some and all(map(_is_binary, some)):
        return MaskCodes("binary", (), None, f"0 and 1, or 0 and white, in {len(some)} of {len(some)} masks")
    found = [values for path in some if (values := _values_of(path)) is not None]
    if not found:
        return MaskCodes("unknown", (), None, "no mask image could be read", is_sure=False)
    counts = sum(found, Counter())
    shown = f"values {listed(map(_shown, sorted(counts, key=str)), 60)} in {len(found)} masks"
    if any(is_jpeg(path) for path in some):
        return MaskCodes("above", (), None, f"JPEG blurs values: {shown}")
    if any(isinstance(value, float) for value in counts):
        return MaskCodes("soft", (), None, f"shares: {shown}", is_sure=False)
    if len({isinstance(value, tuple) for value in counts}) > 1:
        return MaskCodes("unknown", (), None, f"some masks are grey, others in colour: {shown}", is_sure=False)
    return _codes(found, counts, shown, of_objects=of_objects, num_classes=num_classes)


def _codes(
    found: Sequence[Counter], counts: Mapping[Value, int], shown: str, *, of_objects: bool, num_classes: int | None
) -> MaskCodes:
    """What whole numbers, or colours, stand for."""
    is_grey = not any(isinstance(value, tuple) for value in counts)
    counted = sum(_is_counted(values) for values in found) if is_grey else 0
    many = len(counts) > MAX_CODES
    if of_objects and (not is_grey or counted >= MIN_COUNTED * len(found) or many):
        return MaskCodes("objects", (), None, f"a value for each object: {shown}")
    if many and counted >= MIN_COUNTED * len(found):
        return MaskCodes("objects", (), None, f"a value for each object, by their numbers: {shown}", is_sure=False)
    if many and is_grey:
        return MaskCodes("soft", (), None, f"shares of white: {shown}", is_sure=False)
    values = sorted(counts)
    if len(values) == 2 and num_classes in (None, 1):
        low, high = values
        background = low if low in (0, (0, 0, 0)) else max(values, key=lambda value: counts[value])
        return MaskCodes("value", (high if background == low else low,), None, shown)
    void = _void(values, num_classes)
    return MaskCodes("classes", tuple(value for value in values if value != void), void, shown)


def _void(values: Sequence[Value], num_classes: int | None) -> Value | None:
    """The value of ignored pixels: 255 beside small numbers, or the one value beyond those of the classes."""
    last = values[-1]
    if isinstance(last, tuple):
        return None
    has_gap = len(values) > 2 and last > values[-2] + 1
    if num_classes is not None:
        return last if len(values) == num_classes + 1 and has_gap else None
    return last if last == VOID_CODE and has_gap else None


def _is_counted(values: Mapping[Value, int]) -> bool:
    numbers = sorted(value for value in values if value != 0)
    return numbers == list(range(1, len(numbers) + 1))


def _small_image(file: Path) -> Path | None:
    """The image, or slice, of a mask file; None if it cannot be read, or is too large."""
    try:
        path = readable(file)
        header = read_header(path)
    except (ImageError, OSError):
        return None
    return path if header.height * header.width <= MAX_PIXELS else None


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
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    if pixels.shape[2] != 1:
        colours, counts = np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0, return_counts=True)
        return Counter(dict(zip(map(tuple, colours.tolist()), counts.tolist(), strict=True)))
    values, counts = np.unique(pixels, return_counts=True)
    whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
    numbers = [int(value) for value in values] if whole else [float(value) for value in values]
    return Counter(dict(zip(numbers, counts.tolist(), strict=True)))


def _shown(value: object) -> str:
    return shortened(list(value) if isinstance(value, tuple) else value, 20)
