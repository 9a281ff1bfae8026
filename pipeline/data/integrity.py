"""Everything that is wrong with a competition's files: where the index stops at the first error, this continues."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pandas as pd

from pipeline.competition import Competition
from pipeline.data.file_index import mismatches
from pipeline.data.index import (
    add_neighbours,
    find_groups,
    first_files,
    join_meta,
    label_sources,
    labels_file,
    mask_coverage,
    read_label_texts,
    refuse_duplicates,
    test_search,
    train_search,
)
from pipeline.data.labels import Labels
from pipeline.data.reader import DEFAULT_READER, ImageError, Reader
from pipeline.data.sample import samples_of
from pipeline.data.tables import read_rows
from pipeline.rle import RLEError

SHOWN = 3  # errors of one kind that are listed

T = TypeVar("T")


def survey_train(
    card: Competition, root: Path, skip_bad: bool = False, reader: Reader = DEFAULT_READER
) -> tuple[pd.DataFrame, list[str]]:
    """The training images that can be read, and every error that `read_index` would raise.

    Args:
        card: names the files and columns.
        root: folder that the card's paths start from.
        skip_bad: do not list images that are missing or cannot be read: `read_index` leaves them out then.
        reader: of the config: sizes depend on whether images are rotated by EXIF.

    Returns:
        a table with image_id, path, height and width of images whose header can be read, and with their rle, whether it
        can be decoded or not, or their mask_paths and coverage; and the errors, one line each, grouped by kind.
    """
    errors: list[str] = []
    index = _try(lambda: read_label_texts(card, root, reader), errors)
    found = _try(lambda: label_sources(card, root, [] if index is None else index["image_id"]), errors)
    if found is None:
        return pd.DataFrame(columns=["image_id", "path", "height", "width"]), errors
    sources, files = found
    if index is None:
        index = pd.DataFrame({"image_id": sorted(sources)})  # the images can be read without their labels
    else:
        errors += mismatches(index["image_id"], files, train_search(card, root), skip_missing=skip_bad)
    index = _with_sizes(index, sources, [] if skip_bad else errors, reader)
    _try(lambda: add_neighbours(index, sources, reader), errors)
    if "rle" in index:
        errors += _shorten(_rle_errors(index, card, root))
    elif "mask_paths" in index:
        index = _with_coverage(index, Labels.of(card, exif=reader.exif), errors)
    if "rle" in index or "mask_paths" in index:
        joined = _try(lambda: join_meta(index, card, root), errors)
        if joined is not None:
            _try(lambda: find_groups(joined, card), errors)
    return index, list(dict.fromkeys(errors))


def survey_test(card: Competition, root: Path, skip_bad: bool = False, reader: Reader = DEFAULT_READER) -> list[str]:
    """Every error that `read_test_index` would raise, one line each.

    Args:
        card, root, skip_bad, reader: as for `survey_train`.
    """
    errors: list[str] = []
    path, search = root / card.files.sample_submission, test_search(card, root)
    rows = _try(lambda: read_rows(path, [card.columns], card.classes, rle=False), errors)
    hidden = skip_bad or (rows is not None and rows.empty)
    sources = _try(lambda: search.find_sources(hidden=hidden), errors)
    if rows is not None and not (card.several_rows or card.instances):
        _try(lambda: refuse_duplicates(rows, path), errors)
    if sources is None:
        return errors
    ids = pd.Series(sorted(sources) if rows is None else rows["image_id"].unique())
    if rows is not None:
        errors += mismatches(ids, first_files(sources), search, skip_missing=skip_bad)
    index = _with_sizes(pd.DataFrame({"image_id": ids}), sources, [] if skip_bad else errors, reader)
    _try(lambda: add_neighbours(index, sources, reader), errors)
    return errors


def _try(step: Callable[[], T], errors: list[str]) -> T | None:
    """The result of a step; None if it raises, with its message added to the errors."""
    try:
        return step()
    except (ValueError, FileNotFoundError) as error:
        errors.append(str(error))
        return None


def _shorten(errors: Iterable[str]) -> list[str]:
    """The first errors of one kind; the last one of them counts those left out."""
    errors = list(errors)
    more = len(errors) - SHOWN
    return [*errors[: SHOWN - 1], f"{errors[SHOWN - 1]} (and {more} more like it)"] if more > 0 else errors


def _with_sizes(
    index: pd.DataFrame, sources: dict[str, tuple[Path, ...]], errors: list[str], reader: Reader
) -> pd.DataFrame:
    """The images whose header can be read, with path, sources, height and width; the others become errors."""
    paths = index["image_id"].map(first_files(sources))
    index = index.assign(path=paths, sources=index["image_id"].map(sources)).dropna(subset="path", ignore_index=True)
    found: list[str] = []
    sizes = [_try(lambda sample=sample: reader.size(sample), found) for sample in samples_of(index)]
    errors += _shorten(found)
    is_read = [size is not None for size in sizes]
    height, width = zip(*filter(None, sizes), strict=True) if any(is_read) else ((), ())
    return index[is_read].reset_index(drop=True).assign(height=height, width=width)


def _rle_errors(index: pd.DataFrame, card: Competition, root: Path) -> Iterable[str]:
    """The masks that cannot be decoded, with file, line and id; the line is that of the image's first row."""
    path = labels_file(card, root)
    for sample in samples_of(index):
        for text in [*sample.rle, sample.rle_void or ""]:
            try:
                for line in text.split("\n"):
                    card.dialect.runs(line, sample.size)
            except RLEError as error:
                yield f"{path}: line {sample.line}, id '{sample.image_id}': {error}"


def _with_coverage(index: pd.DataFrame, labels: Labels, errors: list[str]) -> pd.DataFrame:
    """The images whose mask images can be read, with their coverage; the others become errors."""
    found, shares = [], []
    for sample in samples_of(index):
        try:
            shares.append(sum(mask_coverage(sample, labels)))
        except (ImageError, ValueError) as error:
            shares.append(None)
            found.append(str(error))
    errors += _shorten(found)
    return index.assign(coverage=shares).dropna(subset="coverage", ignore_index=True)
