"""Mask files as arrays whose values have one meaning: in the mask, out of it or ignored, a class, or an object."""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from pipeline.competition import Value
from pipeline.data.formats import is_jpeg, read_indices, read_raster
from pipeline.data.intensity import with_channels
from pipeline.data.rasters import ImageError
from pipeline.data.windows import Box, open_windows
from pipeline.metrics import VOID, VOID_OBJECT

log = logging.getLogger(__name__)

UNKNOWN = 1 << 15  # in a lookup table: above every number of a class, and VOID
SHOWN = 4  # values that an error message lists


def read_mask(
    path: Path,
    name: str = "mask",
    above: float | None = None,
    *,
    void: Value | None = None,
    box: Box | None = None,
    exif: bool = True,
) -> np.ndarray:
    """Read a mask image of one class, or one window of it.

    Without `above`, the file must hold 0 and 1, or 0 and the white of its dtype (255 for 8 bits), beside void; or the
    indices 0 and 1 of a palette whose first colour is black. Other values could be classes, object ids, or edges
    blurred by JPEG: they are refused. If the file has one colour only and alpha varies, alpha is the mask.

    Args:
        name: of the class, for the card's line in the error message.
        above: values above it are mask, whatever other values there are; in a 1-bit file, white is 255.
        void: value of pixels that are ignored: grey value, palette index, or colour.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) uint8, 0 or 1, VOID (255) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for other values, with the lines to write on the card.
    """
    if void is not None:
        return _mask_with_void(path, name, above, void, box, exif=exif)
    pixels = _mask_channels(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a mask of {pixels.shape[2]} channels: expected grey, a palette or colour")
    if above is not None:
        return _is_above(pixels, above, path).astype(np.uint8)
    if _is_two_valued(pixels):
        return (pixels[..., 0] != 0).astype(np.uint8)
    indices = _indices(path, box, exif=exif)
    if indices is not None and _is_two_valued(indices) and not pixels[indices[..., 0] == 0].any():
        return (indices[..., 0] != 0).astype(np.uint8)
    raise ImageError(f"{path}: {_describe_values(pixels, name)}")


def _mask_with_void(
    path: Path, name: str, above: float | None, void: Value, box: Box | None, *, exif: bool
) -> np.ndarray:
    codes = _codes(path, box, colours=isinstance(void, tuple), exif=exif)
    valid = ~(codes == np.atleast_1d(void)).all(axis=2)
    rest = codes[valid]
    if above is not None:
        mask = _is_above(codes, above, path)
    elif not rest.size or _is_two_valued(rest):
        mask = codes[..., 0] != 0
    else:
        raise ImageError(f"{path}: {_describe_values(rest, name)}")
    return np.where(valid, mask, VOID).astype(np.uint8)


def _is_above(pixels: np.ndarray, above: float, path: Path) -> np.ndarray:
    """Where grey values are above a threshold, (H, W) bool; in a 1-bit file, white is 255. Above 0 is every colour but
    black.
    """
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f" and np.isnan(pixels).any():  # a comparison with NaN is false: it would be background
        row, column, _ = np.argwhere(np.isnan(pixels))[0]
        raise ImageError(f"{path}: a mask with NaN at row {row}, column {column}: expected grey values")
    if above == 0 and pixels.shape[2] == 3:  # the grey value of a dark colour may be rounded to 0
        return pixels.max(axis=2) > 0
    return with_channels(pixels, 1, path, alpha=False)[..., 0] > above


def _mask_channels(path: Path, box: Box | None, *, exif: bool) -> np.ndarray:
    """The channels of a mask image that hold the mask: its colours, or alpha if all colours are one."""
    pixels, alpha = read_pixels(path, box, exif=exif)
    if not alpha:
        return pixels
    whole = pixels if box is None else read_raster(path, exif=exif).pixels  # a window may show one of several colours
    opacity = whole[..., -1:]
    opaque = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
    if _is_constant(whole[..., :-1]) and (opacity != opaque).any():
        _warn_of_alpha_masks(path.parent)
        return pixels[..., -1:]
    return pixels[..., :-1]


@functools.cache
def _warn_of_alpha_masks(folder: Path) -> None:
    log.warning("%s: the masks have one colour and vary in alpha: pixels that are not transparent are mask", folder)


def _is_constant(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def read_pixels(path: Path, box: Box | None, *, exif: bool) -> tuple[np.ndarray, bool]:
    """The whole image or one window of it, (H, W, C), and whether its last channel is alpha."""
    if box is None:
        return read_raster(path, exif=exif)[:2]
    with open_windows(path, exif=exif) as image:
        return image.read(box), image.alpha


def _indices(path: Path, box: Box | None, *, exif: bool) -> np.ndarray | None:
    """The palette indices of the whole image or one window, (H, W, 1); None without a palette."""
    indices = read_indices(path, exif=exif)
    return indices if indices is None or box is None else indices[box.slices]


def _is_two_valued(pixels: np.ndarray) -> bool:
    """Whether all values are 0 and 1, or 0 and white, the same in all channels."""
    high = pixels.max()
    white = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 255
    grey = pixels[..., :1]
    return high in (0, 1, 255, white) and bool(((grey == 0) | (grey == high)).all() and (pixels == grey).all())


def _describe_values(colours: np.ndarray, name: str) -> str:
    """The end of an error message: which values came, what was expected, and what to write on the card."""
    if colours.shape[-1] == 1:
        values, counts = np.unique(colours, return_counts=True)  # counts all NaN as one value, unlike unique rows
        values = values[:, None]
    else:
        values, counts = np.unique(colours.reshape(-1, 3), axis=0, return_counts=True)
    shown = [_format_value(value) for value in values]
    frequent = _format_value(values[np.where(values.any(axis=1), counts, 0).argmax()])
    key = name if name.replace("-", "_").isidentifier() else f'"{name}"'
    more = f", … ({len(shown)} in all, to {shown[-1]})" if len(shown) > SHOWN else ""
    shares = "or soft = true (values are shares of a class); " if len(shown) > 2 * SHOWN else ""
    blurred = "above = 127 (JPEG blurs values), or " if 127 < colours.max() <= 255 else ""  # else no pixel is above it
    return (
        f"a mask of values {', '.join(shown[:SHOWN])}{more}: expected 0 and 1, or 0 and 255. Set on the card which are "
        f"mask: [masks] values = {{ {key} = {frequent} }}, or {blurred}above = 0 (all but 0); {shares}or which are "
        f"ignored: void"
    )


def _format_value(value: np.ndarray) -> str:
    return f"{value[0]:g}" if len(value) == 1 else str(value.tolist())


def read_labels(
    path: Path, values: dict[Value, int], void: Value | None = None, *, box: Box | None = None, exif: bool = True
) -> np.ndarray:
    """Read a mask image whose values stand for classes, or one window of it.

    Args:
        values: from a pixel's value (grey value, palette index, or colour) to the number of its class.
        void: value of pixels that are ignored.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) uint8 class numbers, VOID (255) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for a value that is neither in `values` nor void, with its place.
    """
    codes = dict(values) if void is None else {**values, void: VOID}
    pixels = _codes(path, box, colours=any(isinstance(value, tuple) for value in codes), exif=exif)
    numbers, known = _numbers_of(pixels, codes)
    if not known.all():
        row, column = np.argwhere(~known)[0]
        came = pixels[row, column].tolist()
        raise ImageError(
            f"{path}: value {came[0] if len(came) == 1 else came} at row {row}, column {column} ({(~known).sum()} "
            f"pixels) is none of the card's: add it to masks.values, or set it as masks.void"
        )
    return numbers


def _numbers_of(pixels: np.ndarray, codes: Mapping[Value, int]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's value, and whether the value has one.

    Args:
        codes: from values to numbers.

    Shapes:
        pixels: (H, W, 1), or colours (H, W, 3); returned as (H, W) uint8, and (H, W) bool.
    """
    if pixels.dtype == np.uint8:
        table = _lookup_table(tuple(codes.items()))
        values = pixels[..., 0]
        if pixels.shape[2] == 3:  # red · 65536 + green · 256 + blue, in one pass
            values = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGRA).view("<u4")[..., 0] & 0xFFFFFF
        numbers = table.take(values)
        return numbers.astype(np.uint8), numbers != UNKNOWN
    numbers, known = np.zeros(pixels.shape[:2], np.uint8), np.zeros(pixels.shape[:2], bool)
    for value, number in codes.items():
        here = (pixels == np.atleast_1d(value)).all(axis=2)
        numbers[here], known[here] = number, True
    return numbers, known


@functools.lru_cache(maxsize=2)
def _lookup_table(codes: tuple[tuple[Value, int], ...]) -> np.ndarray:
    """The number of every grey value, (256,), or every colour, (2²⁴,), uint16; UNKNOWN where a value has none."""
    colours = any(isinstance(value, tuple) for value, _ in codes)
    table = np.full(1 << 24 if colours else 256, UNKNOWN, np.uint16)
    for value, number in codes:
        red, green, blue = np.broadcast_to(value, 3).tolist()
        if 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
            table[red << 16 | green << 8 | blue if colours else value] = number
    return table


def _codes(path: Path, box: Box | None, *, colours: bool, exif: bool) -> np.ndarray:
    """What masks.values refers to: colours (H, W, 3); or single values (H, W, 1), for a palette its indices."""
    if not colours and (indices := _indices(path, box, exif=exif)) is not None:
        return indices
    pixels, alpha = read_pixels(path, box, exif=exif)
    if alpha:
        pixels, opacity = pixels[..., :-1], pixels[..., -1:]
        if _is_constant(pixels) and not _is_constant(opacity):
            raise ImageError(f"{path}: labels of one colour, only alpha varies: expected a colour or value per class")
    if colours:
        return with_channels(pixels, 3, path, alpha=False)
    if pixels.shape[2] != 1:
        raise ImageError(
            f"{path}: {pixels.shape[2]} channels, but masks.values are single values: set colours [red, green, blue]"
        )
    return pixels


def read_objects(path: Path, void: Value | None = None, *, box: Box | None = None, exif: bool = True) -> np.ndarray:
    """Read a label image, in which each value is one object, or one window of it.

    0, or black, is the background. The other values become 1, 2, … in ascending order: grey values of any dtype,
    indices of a palette whose first colour is black, or colours.

    Args:
        void: value of pixels that are ignored.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) int32, 0 for background, VOID_OBJECT (-1) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for values that cannot be object ids.
    """
    if is_jpeg(path):
        raise ImageError(f"{path}: a label image as JPEG, which blurs values: save objects as PNG or TIFF")
    pixels, indices = _mask_channels(path, box, exif=exif), _indices(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a label image of {pixels.shape[2]} channels: expected grey, a palette or colour")
    ignored = np.zeros(pixels.shape[:2], bool)
    if void is not None:
        codes = pixels if indices is None or isinstance(void, tuple) else indices
        ignored = (codes == np.atleast_1d(void)).all(axis=2)
    if indices is not None and pixels[(indices[..., 0] == 0) & ~ignored].any():
        raise ImageError(
            f"{path}: objects as a palette whose first colour is not black: expected index 0 as background"
        )
    ids = _object_ids(pixels if indices is None else indices, path)
    ids[ignored] = 0
    values, labels = np.unique(ids, return_inverse=True)
    labels = labels.reshape(ids.shape).astype(np.int32) + np.int32(values[0] != 0)
    labels[ignored] = VOID_OBJECT
    return labels


def _object_ids(pixels: np.ndarray, path: Path) -> np.ndarray:
    """One integer per pixel, (H, W) int64, 0 or more: the grey value, or the three values of a colour combined."""
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    with np.errstate(invalid="ignore"):  # NaN becomes some integer, which differs from NaN below
        ids = pixels.astype(np.int64)
    if (ids != pixels).any() or ids.min() < 0 or (pixels.shape[2] == 3 and pixels.dtype != np.uint8):
        raise ImageError(
            f"{path}: a label image of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}: expected whole "
            f"numbers from 0, the background, or colours of 8 bits"
        )
    return ids @ (1 << 8 * np.arange(pixels.shape[2])[::-1])
