"""Test sets for a rehearsal: the known one, and a mock hidden one.

The mock one is made from the known one, with surprises found in hidden test sets: another number of images, other image
sizes, a grey image among colour images, an image of a single row of pixels, a truncated file.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.file_index import normalize_id
from pipeline.data.formats import read_pixels
from pipeline.data.image_files import write_image
from pipeline.data.index import test_search, train_sources
from pipeline.data.series import files_beside
from pipeline.data.tables import read_table
from pipeline.files import atomic_write
from pipeline.submission import empty_rows, sample_rows

IMAGES = 24
PREFIX = "hidden_"
PLAIN = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}  # formats that can be rewritten, if they have 8 bits

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


# By position of the image; images after the last position are unchanged.
CHANGES: tuple[Change | None, ...] = (None, _smaller, _larger, _other_channels, _one_row)
TRUNCATED = len(CHANGES)  # the position of the image whose file is truncated


def write_known(card: Competition, root: Path, folder: Path) -> int:
    """Copy the known test set into a new folder, without the training images; returns its number of images."""
    images = test_search(card, root).find_sources(hidden=True)
    _copy([root / name for name in (card.files.sample_submission, card.files.test_meta) if name], root, folder)
    for paths in images.values():
        _copy([*paths, *_slices_beside(card, paths)], root, folder)
    return len(images)


def _slices_beside(card: Competition, paths: Sequence[Path]) -> list[Path]:
    """Slices in the folders of an image's files that are no images of their own."""
    pattern = card.files.slice_pattern
    return [each for path in paths for each in files_beside(path.parent, pattern).values()] if pattern else []


def _copy(paths: Iterable[Path], root: Path, folder: Path) -> None:
    """Copy the files that exist to the same places in another folder."""
    for path in filter(Path.exists, paths):
        target = folder / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def write_hidden(card: Competition, root: Path, folder: Path, images: int = IMAGES) -> int:
    """Write a mock hidden test set into a new folder, with the paths on the card; returns its number of images.

    It is made from training images if no test image is known. If ids come from nested folders, it has the ids of the
    known images, at most `images` of them; so it has if an image has several files, of which only the first changes.
    """
    files, (image_folder, known, rows) = card.files, _known_images(card, root)
    ids, keeps_names = list(rows), bool(files.pattern or files.channels)
    chosen = ids[:images] if keeps_names else [ids[position % len(ids)] for position in range(images)]
    names = chosen if keeps_names else [f"{PREFIX}{position}_{image_id}" for position, image_id in enumerate(chosen)]
    for position, (image_id, name) in enumerate(zip(chosen, names, strict=True)):
        path, *others = known[image_id]
        below = path.relative_to(image_folder) if keeps_names else Path(name + files.suffix)
        target = folder / files.test_images / below
        _copy([*others, *_slices_beside(card, known[image_id])], image_folder, folder / files.test_images)
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_changed(path, target, position if position == TRUNCATED or not others else None)
    parts = [_renamed(rows[old], card.columns.id, old, new) for old, new in zip(chosen, names, strict=True)]
    with atomic_write(folder / files.sample_submission) as partial_csv:
        pd.concat(parts).to_csv(partial_csv, index=False, lineterminator="\n")
    _write_meta(card, root, folder, dict(zip(names, chosen, strict=True)))
    return len(names)


def _write_meta(card: Competition, root: Path, folder: Path, source_of: Mapping[str, str]) -> None:
    """Write the meta table of the test images, if the known ones have one.

    Args:
        source_of: from the id of an image to that of the known one that it is made from.
    """
    if card.files.test_meta is None or not (root / card.files.test_meta).is_file():
        return
    table = read_table(root / card.files.test_meta, [card.meta_id])
    rows = dict(iter(table.groupby(table[card.meta_id].map(normalize_id), sort=False)))
    parts = [rows[old].assign(**{card.meta_id: new}) for new, old in source_of.items() if old in rows]
    with atomic_write(folder / card.files.test_meta) as partial_csv:
        pd.concat([table[:0], *parts]).to_csv(partial_csv, index=False, lineterminator="\n")


def _write_changed(path: Path, target: Path, position: int | None) -> None:
    """Write an image as the one at its position changes; None: as it is."""
    if position == TRUNCATED:
        target.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return
    change = CHANGES[position] if position is not None and position < TRUNCATED else None
    pixels = read_pixels(path) if change and path.suffix.lower() in PLAIN else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        shutil.copyfile(path, target)
        return
    changed = change(pixels)
    write_image(target, changed[..., 0] if changed.shape[2] == 1 else changed)


def _known_images(card: Competition, root: Path) -> tuple[Path, dict[str, tuple[Path, ...]], dict[str, pd.DataFrame]]:
    """Images to make a test set from: their folder, their files by id, and rows of a sample submission by id."""
    sample, known = root / card.files.sample_submission, test_search(card, root).find_sources(hidden=True)
    table, ids = read_table(sample, [card.columns.id]), sample_rows(card, sample)["image_id"]
    rows = {image_id: part for image_id, part in table.loc[ids.index].groupby(ids, sort=False) if image_id in known}
    if rows:
        return root / card.files.test_images, known, rows
    known = train_sources(card, root)
    rows = {image_id: empty_rows(card, list(table), image_id) for image_id in sorted(known)}
    return root / card.files.train_images, known, rows


def _renamed(rows: pd.DataFrame, column: str, old: str, new: str) -> pd.DataFrame:
    """The rows with another image id in a column, whose cells begin with it."""
    return rows.assign(**{column: new + rows[column].map(normalize_id).str.removeprefix(old)})
