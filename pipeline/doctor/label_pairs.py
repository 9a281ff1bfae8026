"""Compare labels that exist twice: a training table besides the card's mask images, or mask images besides its table.

A model can train and validate well on mask values or a pixel order that the card gives wrong. Only the second labels
of the same images show it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.file_index import find_files
from pipeline.data.formats import read_indices, read_pixels
from pipeline.data.labels import VOID, Labels
from pipeline.data.reader import ImageError
from pipeline.data.sample import Sample, samples_of
from pipeline.data.tables import read_rows
from pipeline.doctor.dialects import toml_keys
from pipeline.doctor.findings import Finding
from pipeline.rle import Dialect, RLEError

MAX_IMAGES = 24  # compared per pair of sources
MAX_PIXELS = 1 << 24  # larger images are not compared
NUM_VALUES = 256  # values of mask images that are tried for each class
MIN_IOU = 0.98  # of labels that agree; polygons drawn by two libraries differ by less


class LabelPair(NamedTuple):
    """One image with its row of a table and its mask image."""

    texts: Sequence[str]  # of each class; several RLE texts of one class are separated by line feeds
    path: Path  # the mask image
    shape: tuple[int, int]  # (H, W) of the image, pixels


def check_label_sources(card: Competition, root: Path, index: pd.DataFrame) -> list[Finding]:
    """Check whether labels that the card does not use agree with those that it does.

    Args:
        root: the data folder, which is searched for other labels.
        index: as `read_index` returns it, of a card with mask images or with a table of RLE texts.
    """
    if card.files.train_masks:
        found = _find_tables(card, root, index)
        names = ((path.name, card.files.train_masks, pairs) for path, pairs in found)
    elif card.files.train_csv:
        found = _find_mask_folders(card, root, index)
        names = ((card.files.train_csv, path.relative_to(root).as_posix(), pairs) for path, pairs in found)
    else:
        return []
    findings = (_compare(card, f"{table} and {folder}", pairs) for table, folder, pairs in names)
    return [finding for finding in findings if finding]


def _find_tables(card: Competition, root: Path, index: pd.DataFrame) -> Iterator[tuple[Path, list[LabelPair]]]:
    """Other tables with the card's columns that label at least half of the training images."""
    used = {card.files.sample_submission, card.files.train_meta, card.files.test_meta}
    for path in sorted(root.glob("*.csv")):
        if path.name in used:
            continue
        try:
            rows = read_rows(path, card.training_layouts, card.classes)
        except (ValueError, FileNotFoundError):  # not a table of labels
            continue
        rows = rows[rows["image_id"].isin(index["image_id"]) & rows["label"].isin(card.classes)]
        texts = rows.groupby(["image_id", "label"])["rle"].agg("\n".join).to_dict()
        labelled = {image_id for image_id, _ in texts}
        if len(labelled) < len(index) / 2:
            continue
        samples = [each for each in samples_of(index) if each.image_id in labelled and _is_one_file(each)]
        per_class = [tuple(texts.get((each.image_id, name), "") for name in card.classes) for each in samples]
        pairs = zip(per_class, samples, strict=True)
        yield path, [LabelPair(texts, each.mask_paths[0], each.size) for texts, each in pairs]


def _is_one_file(sample: Sample) -> bool:
    """Whether one mask image shows all classes."""
    return sample.mask_classes is None and len(sample.mask_paths) == 1


def _find_mask_folders(card: Competition, root: Path, index: pd.DataFrame) -> Iterator[tuple[Path, list[LabelPair]]]:
    """Folders with a mask image, named as the image, for at least half of the training images."""
    if len(card.classes) > 1 and not card.masks.values:
        return  # without masks.values, the values of a mask image have no meaning
    used = {(root / card.files.train_images).resolve(), (root / card.files.test_images).resolve()}
    for folder in sorted(path for path in root.rglob("*") if path.is_dir() and path.resolve() not in used):
        for suffix in dict.fromkeys([card.files.mask_suffix, card.files.suffix]):
            files = find_files(folder, suffix)
            samples = [each for each in samples_of(index) if each.image_id in files]
            if len(samples) >= len(index) / 2:
                yield folder, [LabelPair(each.rle, files[each.image_id], each.size) for each in samples]
                break


def _compare(card: Competition, names: str, pairs: Sequence[LabelPair]) -> Finding | None:
    """The finding on two sources of labels; None if they cannot be compared."""
    pairs = [each for each in pairs if any(each.texts) and np.prod(each.shape) <= MAX_PIXELS]
    if not pairs:
        return None
    pairs = [pairs[number] for number in np.unique(np.linspace(0, len(pairs) - 1, MAX_IMAGES).astype(int))]
    try:
        masks = [_read_mask(card, each) for each in pairs]
    except (ImageError, RLEError, ValueError):  # not mask images, such as photographs
        return None
    agreement = _agreement(pairs, masks, card.dialect)
    if agreement is not None and agreement >= MIN_IOU:
        return Finding("good", "label sources", f"{names} agree in {len(masks)} images")
    evidence = "a text cannot be read" if agreement is None else f"IoU {agreement:.2f}"
    differ = f"{names} differ ({evidence}, {len(masks)} images)"
    if values := _other_values(card, pairs):
        return Finding("bad", "label sources", f"{differ}, but agree with [masks] values = {{ {values} }}")
    if other := _other_dialect(card, pairs, masks):
        level = "look" if replace(other, base=card.dialect.base) == card.dialect else "bad"
        return Finding(level, "label sources", f"{differ}, but agree with {toml_keys(other, card.dialect)}")
    return Finding("look", "label sources", f"{differ}: look at some images to find out which labels are right")


def _read_mask(card: Competition, each: LabelPair) -> np.ndarray:
    """The mask image as the card reads it, (C, H, W) uint8."""
    labels, sample = Labels.of(card), Sample(each.path.stem, (each.path,), each.shape, mask_paths=(each.path,))
    return labels.by_class(labels.read_mask(sample)).transpose(2, 0, 1)


def _decode_texts(each: LabelPair, dialect: Dialect) -> np.ndarray:
    """The masks of the table's texts, (C, H, W) uint8.

    Raises:
        RLEError: if a text cannot be read in this dialect.
    """
    masks = [[dialect.decode(line, each.shape) for line in text.split("\n")] for text in each.texts]
    return np.stack([np.bitwise_or.reduce(lines) for lines in masks])


def _agreement(pairs: Sequence[LabelPair], masks: Sequence[np.ndarray], dialect: Dialect) -> float | None:
    """The IoU of table and mask images over all pixels of all images; None if a text cannot be read."""
    both = either = 0
    try:
        for each, mask in zip(pairs, masks, strict=True):
            table, image = (_decode_texts(each, dialect) == 1) & (mask != VOID), mask == 1
            both, either = both + int((table & image).sum()), either + int((table | image).sum())
    except RLEError:
        return None
    return both / max(either, 1)


def _other_dialect(card: Competition, pairs: Sequence[LabelPair], masks: Sequence[np.ndarray]) -> Dialect | None:
    """The dialect in which the table agrees with the mask images; None if there is none."""
    if card.dialect.form == "coco":
        return None
    options = product(("column", "row"), (card.dialect.base, 1 - card.dialect.base), (False, True))
    others = [replace(card.dialect, order=order, base=base, relative=relative) for order, base, relative in options]
    return next((each for each in others if (_agreement(pairs, masks, each) or 0) >= MIN_IOU), None)


def _other_values(card: Competition, pairs: Sequence[LabelPair]) -> str | None:
    """The `masks.values` with which the mask images agree with the table, as TOML; None if there are none."""
    if not card.masks.values or any(isinstance(value, tuple) for value in card.masks.values.values()):
        return None
    both, images, tables = np.zeros((len(card.classes), NUM_VALUES)), np.zeros(NUM_VALUES), np.zeros(len(card.classes))
    for each in pairs:
        codes = read_indices(each.path)
        codes = (read_pixels(each.path) if codes is None else codes)[..., 0].astype(np.int64)
        try:
            table = _decode_texts(each, card.dialect)
        except RLEError:
            return None
        known = (codes >= 0) & (codes < NUM_VALUES)
        images += np.bincount(codes[known], minlength=NUM_VALUES)
        tables += table.sum(axis=(1, 2))
        both += np.stack([np.bincount(codes[known & (mask == 1)], minlength=NUM_VALUES) for mask in table])
    overlap = both / np.maximum(images + tables[:, None] - both, 1)
    if (overlap.max(axis=1)[tables > 0] < MIN_IOU).any() or not (tables > 0).all():
        return None
    found = zip(card.classes, overlap.argmax(axis=1).tolist(), strict=True)
    return ", ".join(f"{name if name.isidentifier() else json.dumps(name)} = {value}" for name, value in found)
