"""What is wrong with a competition's files, all of it: where the index stops at the first fault, this goes on."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pipeline.competition import Competition
from pipeline.data.file_index import mismatches
from pipeline.data.index import (
    group_of,
    join_meta,
    labels_file,
    mask_coverage,
    read_label_texts,
    refuse_repeats,
    test_search,
    train_search,
)
from pipeline.data.index import train_files as files_of
from pipeline.data.labels import Labels, texts_of
from pipeline.data.reader import AS_SEEN, ImageError, Reader
from pipeline.data.tables import read_rows
from pipeline.rle import RLEError

SHOWN = 3  # faults of one kind that have a line each

T = TypeVar("T")


def survey_train(
    card: Competition, root: Path, skip_bad: bool = False, reader: Reader = AS_SEEN
) -> tuple[pd.DataFrame, list[str]]:
    """The training images that can be looked at, and everything that `read_index` would refuse, a line each.

    Args:
        skip_bad: say nothing of images that are lost or cannot be read, as `read_index` leaves them out then.
        reader: as the config wants its images: turned or as stored.

    Returns:
        image_id, path, height and width of images whose header reads; with their rle, whether it decodes or not, or
        with the mask_paths and coverage of masks that do. Then the faults, those of one kind beside each other.
    """
    faults: list[str] = []
    index = _tried(lambda: read_label_texts(card, root, reader), faults)
    files = _tried(lambda: files_of(card, root), faults)
    if files is None:
        return pd.DataFrame(columns=["image_id", "path", "height", "width"]), faults
    if index is None:
        index = pd.DataFrame({"image_id": sorted(files)})  # the images can be looked at all the same
    else:
        if card.images_without_rows == "ignore":
            files = {key: path for key, path in files.items() if key in set(index["image_id"])}
        faults += mismatches(index["image_id"], files, train_search(card, root), skip_lost=skip_bad)
    index = _measured(index, files, [] if skip_bad else faults, reader)
    if "rle" in index:
        faults += _some(_wrong_texts(index, card, root))
    elif "mask_paths" in index:
        index = _with_masks(index, Labels.of(card, exif=reader.exif), faults)
    if "rle" in index or "mask_paths" in index:
        joined = _tried(lambda: join_meta(index, card, root), faults)
        if joined is not None:
            _tried(lambda: group_of(joined, card), faults)
    return index, list(dict.fromkeys(faults))


def survey_test(card: Competition, root: Path, skip_bad: bool = False, reader: Reader = AS_SEEN) -> list[str]:
    """Everything that `read_test_index` would refuse, a line each."""
    faults: list[str] = []
    path, search = root / card.files.sample_submission, test_search(card, root)
    rows = _tried(lambda: read_rows(path, [card.columns], card.classes, rle=False), faults)
    hidden = skip_bad or (rows is not None and rows.empty)
    files = _tried(lambda: search.find(hidden=hidden), faults)
    if rows is not None and not (card.several_rows or card.instances):
        _tried(lambda: refuse_repeats(rows, path), faults)
    if files is None:
        return faults
    ids = pd.Series(sorted(files) if rows is None else rows["image_id"].unique())
    if rows is not None:
        faults += mismatches(ids, files, search, skip_lost=skip_bad)
    _measured(pd.DataFrame({"image_id": ids}), files, [] if skip_bad else faults, reader)
    return faults


def _tried(step: Callable[[], T], faults: list[str]) -> T | None:
    """What a step gives; None if it refuses, with what it says among the faults."""
    try:
        return step()
    except (ValueError, FileNotFoundError) as error:
        faults.append(str(error))
        return None


def _some(faults: Iterable[str]) -> list[str]:
    """The first of faults of one kind, the last of them with how many more there are."""
    faults = list(faults)
    more = len(faults) - SHOWN
    return [*faults[: SHOWN - 1], f"{faults[SHOWN - 1]} (and {more} more like it)"] if more > 0 else faults


def _measured(index: pd.DataFrame, files: dict[str, Path], faults: list[str], reader: Reader) -> pd.DataFrame:
    """The images that are there and whose header reads, with path, height and width."""
    index = index.assign(path=index["image_id"].map(files)).dropna(subset="path", ignore_index=True)
    wrong: list[str] = []
    sizes = [_tried(lambda path=path: reader.size(path), wrong) for path in index["path"]]
    faults += _some(wrong)
    read = [size is not None for size in sizes]
    height, width = zip(*filter(None, sizes), strict=True) if any(read) else ((), ())
    return index[read].reset_index(drop=True).assign(height=height, width=width)


def _wrong_texts(index: pd.DataFrame, card: Competition, root: Path) -> Iterable[str]:
    """The masks that do not decode, with file, line and id; the line is that of the image's first row."""
    path = labels_file(card, root)
    for row in index.itertuples():
        for text in [*texts_of(row.rle), getattr(row, "rle_void", "")]:
            try:
                for line in text.split("\n"):
                    card.dialect.runs(line, (row.height, row.width))
            except RLEError as error:
                yield f"{path}: line {row.line}, id '{row.image_id}': {error}"


def _with_masks(index: pd.DataFrame, labels: Labels, faults: list[str]) -> pd.DataFrame:
    """The images whose mask image reads, with its coverage."""
    wrong, shares = [], []
    for row in index.itertuples():
        try:
            shares.append(sum(mask_coverage(row, labels)))
        except (ImageError, ValueError) as error:
            shares.append(None)
            wrong.append(str(error))
    faults += _some(wrong)
    return index.assign(coverage=shares).dropna(subset="coverage", ignore_index=True)
