"""Soft masks: each pixel's share of a class, 0 to 1, from files of fractions or from the masks of several annotators.

A soft target is float32, 0 … 1, and VOID (255.0) where a pixel is ignored: float32 holds fractions of 8 and 16 bits and
means of annotators without rounding to a coarser step, and 255 means the same as in a mask of 0 and 1.

Losses learn the shares. Coverage, folds, validation and every metric are of the mask that they stand for: the pixels
whose share is above one half. For annotators that is the majority.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.competition import Value
from pipeline.data.mask_files import read_pixels
from pipeline.data.rasters import ImageError
from pipeline.data.windows import Box
from pipeline.metrics import VOID

HALF = 0.5  # a pixel of a larger share is in the mask
WIDEST = 2  # bytes of an unsigned integer whose full range stands for 0 … 1
COLOURS = 3  # channels of a grey image stored as colours


def harden(target: np.ndarray) -> np.ndarray:
    """The mask that a target stands for: 1 where its share is above one half.

    Shapes:
        target: any, uint8 of 0, 1 and VOID, which is returned unchanged; or float32 of 0 … 1 and VOID.
        returns: the same shape, uint8 of 0, 1 and VOID.

    >>> harden(np.array([0.25, 0.5, 0.75, 255], dtype=np.float32)).tolist()
    [0, 0, 1, 255]
    """
    return target if target.dtype == np.uint8 else np.where(target == VOID, VOID, target > HALF).astype(np.uint8)


def split_void(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares, 0 where ignored, and whether a pixel is ignored, 0 or 1: both can be averaged over areas.

    Shapes:
        target: any, float32 of 0 … 1 and VOID; returned twice in the same shape, float32.
    """
    void = (target == VOID).astype(np.float32)
    return np.where(void == 1, np.float32(0), target), void


def join_void(shares: np.ndarray, void: np.ndarray) -> np.ndarray:
    """The soft target of averaged shares: the mean over what is not ignored; VOID where more than half is.

    Shapes:
        shares, void: of one shape, float32, averages of what `split_void` returns.
        returns: the same shape, float32 of 0 … 1 and VOID.
    """
    mean = (shares / np.maximum(1 - void, HALF)).clip(0, 1)
    return np.where(void > HALF, np.float32(VOID), mean)


def combine(
    masks: Sequence[np.ndarray], how: Literal["mean", "majority", "union"], num_annotators: int | None = None
) -> np.ndarray:
    """One target from the masks of several annotators.

    An annotator who ignores a pixel (VOID) has no vote there; a pixel is ignored if all of them ignore it.

    Args:
        masks: one or more, of one annotator each.
        how: "mean": the share of annotators who mask a pixel; "majority": whether more than half of them do; "union":
            whether one does.
        num_annotators: if more than the masks: the others mask nothing.

    Shapes:
        masks: of one shape, uint8 of 0, 1 and VOID; for "mean" also float32 of 0 … 1 and VOID.
        returns: the same shape, float32 for "mean", else uint8.

    >>> one, other = np.array([1, 0, 0, 255], dtype=np.uint8), np.array([1, 1, 0, 0], dtype=np.uint8)
    >>> [combine([one, other], how).tolist() for how in ("mean", "majority", "union")]
    [[1.0, 0.5, 0.0, 0.0], [1, 0, 0, 0], [1, 1, 0, 0]]
    """
    stack = np.stack(masks)
    valid = stack != VOID
    votes = np.where(valid, stack, 0).sum(axis=0, dtype=np.float32)
    voters = valid.sum(axis=0) + max(0, (num_annotators or 0) - len(masks))
    if how == "mean":
        share = votes / np.maximum(voters, 1).astype(np.float32)
        return np.where(voters == 0, np.float32(VOID), share)
    masked = votes > voters / 2 if how == "majority" else votes > 0
    return np.where(voters == 0, VOID, masked).astype(np.uint8)


def read_shares(path: Path, void: Value | None = None, *, box: Box | None = None, exif: bool = True) -> np.ndarray:
    """Read a mask image of shares, or one window of it.

    0 and the white of 8 or 16 bits stand for 0 and 1, of a 1-bit file black and white; floats are the shares.

    Args:
        void: grey value of pixels that are ignored.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) float32 of 0 … 1, VOID where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for colours, a dtype without a range, and floats outside 0 … 1.
    """
    pixels = _planes(path, box, exif=exif)
    grey = pixels[..., 0]
    if pixels.shape[2] > 1 and (pixels != pixels[..., :1]).any():
        raise ImageError(f"{path}: a soft mask of {pixels.shape[2]} channels that differ: expected grey values")
    ignored = np.zeros(grey.shape, bool) if void is None else grey == void
    return np.where(ignored, np.float32(VOID), _to_share(grey, path, ignored))


def _to_share(grey: np.ndarray, path: Path, ignored: np.ndarray) -> np.ndarray:
    """Values as shares, (H, W) float32; those that are ignored may be any."""
    if grey.dtype == bool:
        return grey.astype(np.float32)
    if grey.dtype.kind == "u" and grey.dtype.itemsize <= WIDEST:
        return grey.astype(np.float32) / np.float32(np.iinfo(grey.dtype).max)
    if grey.dtype.kind != "f":
        raise ImageError(
            f"{path}: a soft mask of {grey.dtype}, which has no range: expected 8 or 16 bits without a sign, or floats "
            f"from 0 to 1"
        )
    with np.errstate(invalid="ignore"):
        outside = ~((grey >= 0) & (grey <= 1)) & ~ignored  # true for NaN
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ImageError(
            f"{path}: a soft mask with {grey[row, column]:g} at row {row}, column {column} ({outside.sum()} such "
            f"pixels): expected floats from 0 to 1"
        )
    return grey.astype(np.float32)


def read_annotators(path: Path, *, box: Box | None = None, exif: bool = True) -> list[np.ndarray] | None:
    """Read the masks of a file with one plane per annotator; None if it is a single mask.

    Planes are the channels of an array. Three equal ones are a single mask: a grey image stored as colours. For three
    annotators who agree, which look the same, that is their mask too.

    Args:
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W, 1) uint8 each, 0 or 1.

    Raises:
        ImageError: as `formats.read_raster`; for planes of other values than 0 and 1, or 0 and the white of their type.
    """
    planes = _planes(path, box, exif=exif)
    count = planes.shape[2]
    if count == 1 or (count == COLOURS and (planes == planes[..., :1]).all()):
        return None
    white = np.iinfo(planes.dtype).max if planes.dtype.kind == "u" else 1
    if not np.isin(planes, (0, 1)).all() and not np.isin(planes, (0, white)).all():
        raise ImageError(
            f"{path}: {count} planes of values {planes.min():g} to {planes.max():g}: expected 0 and 1 in the "
            f"plane of each annotator"
        )
    return [(plane != 0).astype(np.uint8)[..., None] for plane in np.moveaxis(planes, 2, 0)]


def _planes(path: Path, box: Box | None, *, exif: bool) -> np.ndarray:
    """The whole image or one window of it, (H, W, C), without alpha."""
    pixels, alpha = read_pixels(path, box, exif=exif)
    return pixels[..., :-1] if alpha else pixels
