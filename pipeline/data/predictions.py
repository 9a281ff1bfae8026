"""Predictions of other tools, by image id: arrays, images, or a CSV of RLE in the card's dialect.

A folder has a file per image, or one per image and class in subfolders named as the classes. Subfolders fold0, fold1, …
(or fold_0, …) say which fold's model made them. Files are read as data: nothing in them is executed.

    .npy .npz         (H, W), (C, H, W) or (H, W, C); one channel more is the background in front, as nnU-Net writes it
    .png .tif .tiff   one class; with the card's masks.values, or the numbers 1 to C, all classes
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.boundaries import touching_boundary
from pipeline.data.file_index import is_hidden, normalize_id
from pipeline.data.formats import read_pixels
from pipeline.data.labels import Labels
from pipeline.data.rasters import ImageError, read_or_raise
from pipeline.data.tables import read_packed_objects, read_rows
from pipeline.quoting import listed, shortened
from pipeline.rle import RLEError

ARRAYS, IMAGES = (".npy", ".npz"), (".tif", ".tiff", ".png")
SUFFIXES = (*ARRAYS, *IMAGES)  # of two files of an image, such as nnU-Net's .npz and .png, the first of these is read
NPZ_KEYS = ("probabilities", "softmax")  # nnU-Net's, of its versions 2 and 1
FOLD = re.compile(r"fold[-_ ]?(\d+)", re.IGNORECASE)
REMEDY = "write this prediction again"  # no option leaves out a damaged prediction, as --skip-bad does an image
MAX_VALUE = 255  # stored value of probability 1
ROUNDING = 1e-3  # by which a probability may exceed 1, and the sum of a softmax differ from it
ROUNDED = 1 + 1e-6  # of float32: 100 times a share of 1 may be larger than 100
OVERSHOOT = 0.1  # of probabilities that were interpolated or averaged
Size = tuple[int, int]  # height and width in pixels


class Source(NamedTuple):
    """The predictions of one fold's model, or of all models together."""

    where: Path
    ids: frozenset[str]
    are_images: bool  # PNG or TIFF, which can hold no shares of whole numbers
    read: Callable[[str, Size], np.ndarray]  # from an image's id and size to its values (C, H, W), in their own range


def open_predictions(path: Path, ids: Collection[str], card: Competition, labels: Labels) -> dict[int | None, Source]:
    """The predictions below a folder, or in a CSV, by fold; with the key None if nothing says whose fold they are.

    Args:
        ids: of the images that they may be of; a name of another image stays as it is.
        labels: of the config that they join.

    Raises:
        FileNotFoundError: for a path that does not exist, and a folder without predictions.
        ValueError: for two files of one image, or an image with the files of some classes only.
    """
    if path.is_file():
        return {None: _open_table(path, card, labels)}
    found = _find_files(path, ids, labels.channel_names)
    folds = sorted({fold for fold, _ in found}, key=lambda fold: -1 if fold is None else fold)
    if len(folds) > 1 and None in folds:
        image_id = next(image_id for fold, image_id in found if fold is None)
        raise ValueError(f"{path}: image '{shortened(image_id)}' is in no folder fold<k>, others are: sort all by fold")
    return {
        fold: _open_folder(path, {key: value for (of, key), value in found.items() if of == fold}, labels)
        for fold in folds
    }


# ---------------------------------------------------------------------------------------------- files


def _find_files(
    folder: Path, ids: Collection[str], channels: Sequence[str]
) -> dict[tuple[int | None, str], list[Path]]:
    """The files of each image by fold and id: one, or one for each channel."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder or CSV")
    by_stem = {Path(image_id).stem: image_id for image_id in ids} | {image_id: image_id for image_id in ids}
    files: dict[tuple[int | None, str, str | None], Path] = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() not in SUFFIXES or any(map(is_hidden, parts)):
            continue
        name = normalize_id(path.stem)
        fold = next((int(match[1]) for part in parts[:-1] if (match := FOLD.fullmatch(part))), None)
        channel = next((part for part in parts[:-1] if part in channels), None)
        key = fold, by_stem.get(name, name), channel
        files[key] = _preferred(path, files.get(key), key[1])
    if not files:
        raise FileNotFoundError(f"{folder}: no prediction in it: expected <image id>{', '.join(SUFFIXES)}")
    return _join_channels(folder, files, channels)


def _preferred(path: Path, other: Path | None, image_id: str) -> Path:
    rank = SUFFIXES.index(path.suffix.lower())
    if other is None:
        return path
    if other.parent != path.parent or rank == SUFFIXES.index(other.suffix.lower()):
        raise ValueError(f"{path} and {other} are both predictions of image '{shortened(image_id)}': remove one")
    return path if rank < SUFFIXES.index(other.suffix.lower()) else other


def _join_channels(
    folder: Path, files: Mapping[tuple[int | None, str, str | None], Path], channels: Sequence[str]
) -> dict[tuple[int | None, str], list[Path]]:
    by_image: dict[tuple[int | None, str], dict[str | None, Path]] = {}
    for (fold, image_id, channel), path in files.items():
        by_image.setdefault((fold, image_id), {})[channel] = path
    for (_, image_id), found in by_image.items():
        if set(found) not in ({None}, set(channels)):
            missing = [name for name in channels if name not in found]
            raise ValueError(
                f"{folder}: image '{shortened(image_id)}' has files in {len(found)} folders of classes, none in "
                f"{listed(missing)}: expected one for each class, or one file with all of them"
            )
    return {
        key: [found[None]] if None in found else [found[name] for name in channels] for key, found in by_image.items()
    }


def _open_folder(folder: Path, files: Mapping[str, list[Path]], labels: Labels) -> Source:
    def read(image_id: str, size: Size) -> np.ndarray:
        paths = files[image_id]
        one_channel = len(paths) > 1  # a file for each channel
        channels, of_all = (1, None) if one_channel else (labels.channels, labels)
        values = [read_or_raise(path, lambda path: _read_file(path, size, channels, of_all), REMEDY) for path in paths]
        return np.concatenate(values) if one_channel else values[0]

    are_images = all(path.suffix.lower() in IMAGES for paths in files.values() for path in paths)
    return Source(folder, frozenset(files), are_images, read)


def _read_file(path: Path, size: Size, channels: int, labels: Labels | None) -> np.ndarray:
    """The values of one file, (channels, H, W); a .npy is mapped into memory."""
    if path.suffix.lower() in ARRAYS:
        return _as_channels(_read_array(path, size, channels), path, size, channels)
    if channels > 1 and labels.masks.values:
        return _check_size(labels.read_numbers(path) == np.arange(channels)[:, None, None], path, size)
    pixels = read_pixels(path)
    if pixels.shape[2] > 1 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    if pixels.shape[2] != 1:
        raise ImageError(f"{path}: {pixels.shape[2]} different channels: expected grey values of one class")
    if channels == 1:
        return _check_size(pixels.transpose(2, 0, 1), path, size)
    if pixels.dtype.kind == "f" or pixels.max() > channels:
        raise ImageError(
            f"{path}: values up to {pixels.max()} in one image, for {channels} channels: expected the numbers of the "
            f"classes, 1 to {channels}, a folder for each class, or an array (channels, height, width)"
        )
    return _check_size(pixels[..., 0] == np.arange(1, channels + 1)[:, None, None], path, size)


def _read_array(path: Path, size: Size, channels: int) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return _refuse_other(np.load(path, mmap_mode="r", allow_pickle=False), path)
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in NPZ_KEYS if name in file.files] or file.files
        if len(names) != 1:
            raise ImageError(f"{path}: arrays {listed(file.files)}: expected one, or one named {NPZ_KEYS[0]}")
        _check_declared(path, file, names[0], size, channels)
        return _refuse_other(file[names[0]], path)


def _check_declared(path: Path, file: np.lib.npyio.NpzFile, name: str, size: Size, channels: int) -> None:
    """Refuse a packed array of another size before it is unpacked into memory."""
    with file.zip.open(f"{name}.npy" if f"{name}.npy" in file.zip.namelist() else name) as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(member)
    if np.prod(shape, dtype=object) > (channels + 1) * size[0] * size[1]:
        raise ImageError(f"{path}: an array of {shape} for an image of {size} (height, width)")


def _refuse_other(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3, 4):
        raise ImageError(
            f"{path}: an array of {array.shape}, {array.dtype}: expected (channels, height, width) numbers"
        )
    return array


def _as_channels(array: np.ndarray, path: Path, size: Size, channels: int) -> np.ndarray:
    """An array as (channels, H, W), without the background channel in front of a softmax."""
    if array.ndim == 4 and 1 in array.shape[:2]:  # (channels, 1, H, W), as nnU-Net writes two dimensions
        array = array[:, 0] if array.shape[1] == 1 else array[0]
    if array.ndim == 2:
        array = array[None]
    if array.shape == (*size, channels) and array.shape != (channels, *size):
        array = np.moveaxis(array, -1, 0)
    if array.shape == (channels + 1, *size):
        return _without_background(array, path)
    if array.shape[0] != channels:
        raise ImageError(
            f"{path}: an array of {array.shape}: expected {(channels, *size)} (channels, height, width), or the "
            f"background and these"
        )
    return _check_size(array, path, size)


def _without_background(array: np.ndarray, path: Path) -> np.ndarray:
    total = array.sum(axis=0, dtype=np.float64)
    if array.dtype.kind != "f" or abs(total - 1).max() > 10 * ROUNDING:
        raise ImageError(
            f"{path}: {len(array)} channels, one more than classes, that do not sum to 1: expected the softmax of "
            f"the background and the classes, or the classes alone"
        )
    return array[1:]


def _check_size(values: np.ndarray, path: Path, size: Size) -> np.ndarray:
    found = values.shape[1:]
    if found != size:
        advice = ": it is transposed" if found == size[::-1] else ": crop the padding, or resize the prediction"
        raise ImageError(
            f"{path}: {found} pixels, its image has {size} (height, width): expected the image's size{advice}"
        )
    return values


# ---------------------------------------------------------------------------------------------- CSVs


def _open_table(path: Path, card: Competition, labels: Labels) -> Source:
    """The masks of a CSV; of packed objects, each pixel has the confidence of its object."""
    if card.columns.packed_objects:
        rows = read_packed_objects(path, card.columns, card.dialect.empty).assign(label=card.classes[0])
    else:
        rows = read_rows(path, [card.columns], card.classes).assign(confidence=1.0)
    by_image = dict(tuple(rows.groupby("image_id", sort=False)))

    def read(image_id: str, size: Size) -> np.ndarray:
        return _read_rows(by_image[image_id], path, size, card, labels)

    return Source(path, frozenset(by_image), False, read)


def _read_rows(rows: pd.DataFrame, path: Path, size: Size, card: Competition, labels: Labels) -> np.ndarray:
    values = np.zeros((labels.channels, *size), dtype=np.float32)
    objects = np.zeros(size, dtype=np.int32)
    for number, row in enumerate(rows.itertuples(), start=1):
        try:
            mask = card.dialect.decode(row.rle, size)
        except RLEError as error:
            raise ValueError(f"{path}: line {row.line}, image '{shortened(row.image_id)}': {error}") from None
        channel = values[card.classes.index(row.label)]
        np.maximum(channel, mask * np.float32(row.confidence), out=channel)
        objects[mask == 1] = number
    if labels.boundary is not None:
        values[-1] = touching_boundary(objects, labels.boundary)
    return values


# ---------------------------------------------------------------------------------------------- values


@dataclass
class Values:
    """The range of the values of all files of one dtype."""

    dtype: np.dtype
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True  # whole numbers only, where they exceed 1
    where: str = ""  # of the value that is farthest from 0 to 1, for messages
    _excess: float = -np.inf

    def add(self, values: np.ndarray, where: str) -> None:
        """Take the values of one image into account.

        Raises:
            ValueError: for values that are not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError(f"{where}: values that are not finite (NaN or infinite): expected probabilities")
        if max(high - 1, -low) > self._excess:
            self._excess, self.where = max(high - 1, -low), where
        self.low, self.high = min(self.low, low), max(self.high, high)
        if values.dtype.kind == "f" and high > 1:
            self.whole = self.whole and bool((values == np.rint(values)).all())


def find_scale(values: Values, *, images: bool, scale: float | None = None) -> float:
    """The value that stands for probability 1: 1, or the white of an image of 8 or 16 bits; else `scale`.

    Args:
        images: the values are of PNG or TIFF files, which cannot hold shares.
        scale: given by a person.

    Raises:
        ValueError: for other values, with what they look like.
    """
    if scale is not None:
        if values.low < 0 or values.high > scale * (1 + ROUNDING):
            raise ValueError(f"{values.where}: values {_range(values)}: expected 0 to {scale:g}, as SCALE says")
        return scale
    if values.low >= 0 and values.high <= 1 + ROUNDING:
        return 1
    white = {"uint8": 255, "uint16": 65535}.get(values.dtype.name)
    if images and white and values.high > 100 * white / 255:
        return white
    raise ValueError(f"{values.where}: values {_range(values)}: expected probabilities from 0 to 1: {_guess(values)}")


def _range(values: Values) -> str:
    return f"from {values.low:g} to {values.high:g} ({values.dtype})"


def _guess(values: Values) -> str:
    """What values look like, and what to do."""
    if values.low >= -OVERSHOOT and values.high <= 1 + OVERSHOOT:
        return "they overshoot, as probabilities do after a bicubic interpolation: clip them to 0 and 1"
    if values.low < 0 or (not values.whole and values.high <= 30):
        return "they look like logits: apply the sigmoid, or the softmax, first"
    if values.high <= 100 * ROUNDED:
        return (
            "they look like 0-100, or numbers of classes or objects: of percent, divide them by 100 or give SCALE=100"
        )
    if values.high <= 255 * ROUNDED:
        return "they look like 0-255: divide them by 255, or give SCALE=255"
    return (
        f"they look like 0-{65535 if values.high <= 65535 else 'more'}: SCALE=<the value of probability 1> reads them"
    )


def to_stored(values: np.ndarray, scale: float) -> np.ndarray:
    """Values as a prediction store holds them, uint8: the nearest to 255 · probability."""
    if values.dtype == np.uint8 and scale == MAX_VALUE:
        return np.array(values)
    shares = np.asarray(values, dtype=np.float32 if values.dtype.itemsize <= 4 else np.float64)
    return np.rint(np.clip(shares * (MAX_VALUE / scale), 0, MAX_VALUE)).astype(np.uint8)
