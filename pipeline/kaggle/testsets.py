"""Test sets to rehearse on: the known one, and one that the author never saw.

The second is made of the first, with what hidden ones have been found to hold: other images in number and size, a grey
one among colours, one of a single row of pixels, a file cut short.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.formats import read_pixels
from pipeline.data.images import write_image
from pipeline.data.places import as_id, find_files
from pipeline.data.tables import read_table
from pipeline.files import whole
from pipeline.submission import sample_rows

IMAGES = 24
PREFIX = "hidden_"
PLAIN = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}  # what can be written anew, if it is 8 bits deep

Change = Callable[[np.ndarray], np.ndarray]  # of pixels (H, W, C) uint8


def _smaller(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[: max(1, height * 2 // 3), : max(1, width // 2)]


def _larger(pixels: np.ndarray) -> np.ndarray:
    return np.pad(pixels, ((0, pixels.shape[0] // 3), (0, pixels.shape[1] // 2), (0, 0)), mode="symmetric")


def _other_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., :1] if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)


def _one_row(pixels: np.ndarray) -> np.ndarray:
    return pixels[:1]


# By the place of an image; those after the last are as they were.
CHANGES: tuple[Change | None, ...] = (None, _smaller, _larger, _other_channels, _one_row)
CUT = len(CHANGES)  # the place of the image whose file is cut short


def write_known(card: Competition, root: Path, folder: Path) -> int:
    """Copy the known test set, and nothing else, into a new folder; returns its number of images."""
    files = card.files
    paths = find_files(root / files.test_images, files.suffix, files.pattern).values()
    for path in [root / files.sample_submission, *paths]:
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return len(paths)


def write_hidden(card: Competition, root: Path, folder: Path, images: int = IMAGES) -> int:
    """Write a hidden test set into a new folder, laid out as the card says; returns its number of images.

    Where ids come from folders of folders, they are those of the known images, and fewer.
    """
    sample = root / card.files.sample_submission
    rows, files = sample_rows(card, sample), card.files
    known = find_files(root / files.test_images, files.suffix, files.pattern)
    ids = [image_id for image_id in rows["image_id"].unique() if image_id in known]
    chosen = ids[:images] if files.pattern else [ids[place % len(ids)] for place in range(images)]
    names = chosen if files.pattern else [f"{PREFIX}{place}_{image_id}" for place, image_id in enumerate(chosen)]
    for place, (image_id, name) in enumerate(zip(chosen, names, strict=True)):
        relative = known[image_id].relative_to(root)
        target = folder / (relative if files.pattern else relative.with_name(name + files.suffix))
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_changed(known[image_id], target, place)
    _write_sample(card, sample, folder / files.sample_submission, dict(zip(names, chosen, strict=True)))
    return len(names)


def _write_changed(path: Path, target: Path, place: int) -> None:
    if place == CUT:
        target.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    change = CHANGES[place] if place < CUT else None
    pixels = read_pixels(path) if change and path.suffix.lower() in PLAIN else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        shutil.copyfile(path, target)
        return
    changed = change(pixels)
    write_image(target, changed[..., 0] if changed.shape[2] == 1 else changed)


def _write_sample(card: Competition, sample: Path, target: Path, known_as: dict[str, str]) -> None:
    """The sample's rows of each chosen image, under the image's new name."""
    table = read_table(sample, [card.columns.id])
    ids = sample_rows(card, sample)["image_id"]
    of_image = dict(tuple(table.loc[ids.index].groupby(ids, sort=False)))
    parts = [_renamed(of_image[image_id], card.columns.id, image_id, name) for name, image_id in known_as.items()]
    with whole(target) as unfinished:
        pd.concat(parts).to_csv(unfinished, index=False, lineterminator="\n")


def _renamed(rows: pd.DataFrame, column: str, old: str, new: str) -> pd.DataFrame:
    return rows.assign(**{column: rows[column].map(as_id).str.replace(old, new, regex=False)})
