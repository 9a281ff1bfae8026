"""The index: one row per image. Competition columns get this project's names here, once.

Columns: image_id (str), path, height, width; for training images also rle or mask_path, coverage
(share of the image that is masked, 0 to 1), empty, group, and every column of the card's meta table.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.images import ImageError, read_image, read_mask, read_size
from pipeline.rle import Dialect, RLEError, area

log = logging.getLogger(__name__)


def read_index(card: Competition, root: Path, skip_bad: bool = False) -> pd.DataFrame:
    """One row per training image, sorted by id.

    Args:
        card: names the files and columns.
        root: folder that the card's paths start from.
        skip_bad: leave out, and list, images that cannot be read; else the first one is an error.

    Raises:
        FileNotFoundError: if a table or folder is missing, with what to do.
        ValueError: for duplicate ids, ids without an image, images without a row, an RLE that does
            not decode, a mask of another size than its image.
    """
    index = _read_labels(card, root)
    index["path"] = _match_images(index["image_id"], root / card.files.train_images, card.files.suffix, skip_bad)
    index = _measure(index, skip_bad)
    index["coverage"] = _coverage(index, card, root)
    index["empty"] = np.where(index["coverage"] == 0, "yes", "no")
    index = _join_meta(index, card, root)
    index["group"] = index[_group_column(index, card)]
    return index.sort_values("image_id", ignore_index=True)


def read_test_index(card: Competition, root: Path, skip_bad: bool = False) -> pd.DataFrame:
    """One row per test image, in the order of the sample submission.

    With `skip_bad`, an image that cannot be read stays out: its row of the submission will be empty.

    Raises:
        As `read_index`.
    """
    ids = read_table(root / card.files.sample_submission, [card.columns.id])[card.columns.id]
    index = pd.DataFrame({"image_id": ids})
    _refuse_duplicates(index, root / card.files.sample_submission)
    index["path"] = _match_images(index["image_id"], root / card.files.test_images, card.files.suffix, skip_bad)
    return _measure(index, skip_bad)


def read_table(path: Path, columns: Sequence[str], *, only: bool = False) -> pd.DataFrame:
    """A CSV as text: ids keep their zeros, a blank stays a blank.

    Args:
        columns: that must be there.
        only: keep no others in memory.

    Raises:
        FileNotFoundError: with what to do.
        ValueError: if a column is missing, with the columns that are there.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Put the competition's files into {path.parent}/, or say where they are "
            f"with DATA=folder (make) or --data folder"
        )
    try:
        wanted = (lambda name: name.strip() in columns) if only else None
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=wanted)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV: {error}") from None
    table.columns = table.columns.str.strip()  # SIIM's header has a leading space
    for column in columns:
        if column not in table:
            raise ValueError(f"{path}: no column '{column}', it has: {', '.join(table.columns)}")
    return table


def read_target(row: object, dialect: Dialect) -> np.ndarray:
    """The mask of one row of the index, (H, W) uint8 0 or 1."""
    if hasattr(row, "rle"):
        return dialect.decode(row.rle, (row.height, row.width))
    return read_mask(row.mask_path)


def _read_labels(card: Competition, root: Path) -> pd.DataFrame:
    if card.files.train_csv is None:
        masks = _files(root / card.files.train_masks, card.files.mask_suffix)
        return pd.DataFrame({"image_id": sorted(masks), "mask_path": [masks[key] for key in sorted(masks)]})
    path = root / card.files.train_csv
    table = read_table(path, [card.columns.id, card.columns.rle])
    index = pd.DataFrame({"image_id": table[card.columns.id], "rle": table[card.columns.rle]})
    if card.columns.group in table:
        index[card.columns.group] = table[card.columns.group]
    _refuse_duplicates(index, path)
    return index.assign(line=np.arange(2, len(index) + 2))  # the line in the file, whose first is the header


def _refuse_duplicates(index: pd.DataFrame, path: Path) -> None:
    twice = index["image_id"][index["image_id"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} of {len(index)} rows repeat an id, the first is '{twice.iloc[0]}' "
            f"(line {twice.index[0] + 2}): expected one row per image"
        )


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: unpack the competition's images there")
    return {path.name.removesuffix(suffix): path for path in folder.iterdir() if path.name.endswith(suffix)}


def _match_images(ids: pd.Series, folder: Path, suffix: str, skip_bad: bool) -> list[Path]:
    """The file of each id; ids and files must be the same set, but for lost files with `skip_bad`."""
    files = _files(folder, suffix)
    without = sorted(set(ids) - set(files))
    if without and not skip_bad:
        raise ValueError(
            f"{folder}: no image for {len(without)} of {len(ids)} ids of the CSV, the first is '{without[0]}' "
            f"(looked for '{without[0]}{suffix}'): get the file, or leave it out with --skip-bad"
        )
    strangers = sorted(set(files) - set(ids))
    if strangers:
        raise ValueError(
            f"{folder}: {len(strangers)} of {len(files)} images have no row in the CSV, the first is "
            f"'{strangers[0]}{suffix}': add a row or remove the file"
        )
    return [folder / f"{image_id}{suffix}" for image_id in ids]


def _measure(index: pd.DataFrame, skip_bad: bool) -> pd.DataFrame:
    """Add height and width, from the headers; with `skip_bad`, decode too, and drop what cannot be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path in index["path"]:
        try:
            sizes[path] = read_image(path, channels=1).shape[:2] if skip_bad else read_size(path)
        except ImageError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
    index = index[index["path"].isin(list(sizes))].reset_index(drop=True)
    height, width = zip(*(sizes[path] for path in index["path"]), strict=True) if len(index) else ((), ())
    return index.assign(height=height, width=width)


def _coverage(index: pd.DataFrame, card: Competition, root: Path) -> list[float]:
    """The masked share of each image; decodes every label on the way, so that none fails in the night."""
    if card.files.train_csv is None:
        return [_mask_coverage(row) for row in index.itertuples()]
    path = root / card.files.train_csv
    return [_rle_coverage(row, card.dialect, path) for row in index.itertuples()]


def _rle_coverage(row: object, dialect: Dialect, path: Path) -> float:
    pixels = row.height * row.width
    try:
        runs = dialect.runs(row.rle)
        if len(runs[1]) and runs[1][-1] > pixels:
            dialect.decode(row.rle, (row.height, row.width))  # says which run leaves the image
    except RLEError as error:
        raise ValueError(f"{path}: line {row.line}, id '{row.image_id}': {error}") from None
    return area(runs) / pixels


def _mask_coverage(row: object) -> float:
    mask = read_mask(row.mask_path)
    if mask.shape != (row.height, row.width):
        raise ValueError(
            f"{row.mask_path}: mask of {mask.shape}, its image {row.path} is ({row.height}, {row.width}): "
            f"expected one size (height, width)"
        )
    return float(mask.mean())


def _group_column(index: pd.DataFrame, card: Competition) -> str:
    """The index's column that says which images belong together; without groups, each image is its own.

    Raises:
        ValueError: if the card names a column that no table has.
    """
    group = card.columns.group
    if group is not None and group not in index:
        where = " or ".join(filter(None, (card.files.train_csv, card.files.train_meta)))
        raise ValueError(
            f"card {card.name}: no column '{group}' (columns.group) in {where}: images would leak over folds"
        )
    return group or "image_id"


def _join_meta(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """Add the meta table's columns; a name that the index already uses keeps the index's own value."""
    if card.files.train_meta is None:
        return index
    path = root / card.files.train_meta
    if not path.exists() and (card.columns.group is None or card.columns.group in index):
        return index  # nothing that the card says depends on it
    meta = read_table(path, [card.columns.id]).rename(columns={card.columns.id: "image_id"})
    _refuse_duplicates(meta, path)
    without = sorted(set(index["image_id"]) - set(meta["image_id"]))
    if without:
        raise ValueError(f"{path}: no row for {len(without)} training images, the first is '{without[0]}'")
    reserved = {"rle", "mask_path", "line", "fold", "group"} - {card.columns.group}
    extra = [column for column in meta if column == "image_id" or column not in reserved.union(index.columns)]
    return index.merge(meta[extra], on="image_id", how="left", validate="one_to_one")
