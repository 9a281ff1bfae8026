"""What is wrong, or worth a look, in the sample submission, in masks and images: pure functions of what was read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import coverage_columns
from pipeline.data.tables import parted_cell
from pipeline.metrics import judge_of, of_pixels

FULL = 0.999  # share of an image above which a mask is called full
PAD = 0.05  # share of a side that a constant stripe must have to be called one


class Finding(NamedTuple):
    """One line of the doctor's table."""

    level: Literal["good", "look", "bad"]  # bad spoils a submission
    what: str
    found: str  # in one line; of what is bad, with what to do


def name_metric(card: Competition) -> Finding:
    """The card's metric with its parameters, to compare with Kaggle's page, and what stands for it while choosing."""
    stands = {"weights and cuts": judge_of(card.metric), "epochs": of_pixels(card.metric)}
    others = [f"{what} by {name}" for what, name in stands.items() if name != card.metric]
    return Finding("good", "metric", "; ".join([card.metric, *others]))


def check_sample(card: Competition, sample: pd.DataFrame, rows: pd.DataFrame) -> list[Finding]:
    """The sample submission against the card.

    Args:
        sample: the file as it is, text in all columns.
        rows: as `tables.read_rows` reads it.
    """
    expected = card.columns.header
    header = list(sample.columns)
    findings = [
        Finding("good", "sample's header", ", ".join(header))
        if sorted(header) == sorted(expected)
        else Finding("bad", "sample's header", f"{', '.join(header)}: the card writes {', '.join(expected)}")
    ]
    if sample.empty:
        return [*findings, Finding("look", "sample's rows", "none: the test data are hidden, or the file was cut")]
    return [*findings, _rows(card, rows), *_of_board(card, rows["image_id"].nunique()), _placeholder(card, sample)]


def _rows(card: Competition, rows: pd.DataFrame) -> Finding:
    """Whether there is a row for each image and class; where objects or parts have rows, any number is right."""
    images, classes = rows["image_id"].nunique(), len(card.classes)
    shown = f"{len(rows)}, {classes} classes of {images} images" if classes > 1 else f"{len(rows)}, of {images} images"
    asked = rows.groupby("image_id")["label"].nunique()
    if short := int((asked < classes).sum()):
        return Finding("look", "sample's rows", f"{shown}: {short} of {images} images ask for fewer than all classes")
    if len(rows) != images * classes and not (card.instances or card.several_rows):
        return Finding("look", "sample's rows", f"{shown}: expected {images * classes}, some rows repeat")
    return Finding("good", "sample's rows", shown)


def _of_board(card: Competition, images: int) -> list[Finding]:
    """Whether the sample has as many images as the card says there are on the board."""
    known = card.leaderboard.images
    if known in (None, images):
        return []
    why = "is this sample a part of the test set, or leaderboard.images wrong?"
    return [Finding("look", "sample's images", f"{images}, and the card's leaderboard has {known}: {why}")]


def _placeholder(card: Competition, sample: pd.DataFrame) -> Finding:
    if card.columns.rle not in sample:
        return Finding("bad", "sample's placeholder", f"no column '{card.columns.rle}'")
    texts = Counter(sample[card.columns.rle])
    text, often = texts.most_common(1)[0]
    shown = f"'{text}' in {often} of {len(sample)} rows" if len(text) <= 40 else f"a text of {len(text)} characters"
    try:
        if card.columns.packed_objects:
            masks = [rle for _, rle in parted_cell(text, card.columns.packed_objects.split(), "a cell")]
        else:
            masks = card.dialect.split(text)
        for mask in masks:
            card.dialect.runs(mask)
    except ValueError as error:
        return Finding("bad", "sample's placeholder", f"{shown} does not read in the card's dialect: {error}")
    return Finding("good", "sample's placeholder", shown)


def check_masks(index: pd.DataFrame, card: Competition) -> list[Finding]:
    """Coverage of the training masks: all empty, or full to the border."""
    findings = []
    for name, column in zip(card.classes, coverage_columns(card.classes), strict=True):
        of_class = f"masks of {name}" if len(card.classes) > 1 else "masks"
        coverage = index[column].to_numpy()
        if not coverage.any():
            findings.append(Finding("bad", of_class, f"all {len(index)} are empty: nothing can be learned of it"))
            continue
        empty, full = (coverage == 0).mean(), np.flatnonzero(coverage > FULL)
        findings.append(Finding("good", of_class, f"{coverage.mean():.2%} of the pixels, {empty:.1%} of them empty"))
        if len(full):
            first = index["image_id"].iloc[full[0]]
            findings.append(Finding("look", of_class, f"{len(full)} cover the whole image, the first is '{first}'"))
    return findings


def check_objects(counts: Sequence[int]) -> list[Finding]:
    """How many objects each of some images has: one at most may be a mask of all objects in one."""
    if not counts:
        return []
    shown = f"{min(counts)} to {max(counts)} in each of {len(counts)} images with a mask"
    if max(counts) > 1:
        return [Finding("good", "objects", shown)]
    return [Finding("look", "objects", f"{shown}: does one row, value or file hold all objects of an image?")]


def check_sizes(train: pd.DataFrame, test: pd.DataFrame) -> Finding:
    """Sizes of the images, and test images of a size that training never saw."""
    sizes = [set(zip(part["height"], part["width"], strict=True)) for part in (train, test)]
    known, new = sizes[0], sorted(sizes[1] - sizes[0])
    shown = ", ".join(f"{height}×{width}" for height, width in sorted(known)[:4]) + (" …" if len(known) > 4 else "")
    if new:
        height, width = new[0]
        return Finding("look", "sizes", f"train {shown}; {len(new)} more in test, as {height}×{width}")
    return Finding("good", "sizes", f"{len(known)}: {shown}")


def check_pixels(pictures: Mapping[str, np.ndarray]) -> list[Finding]:
    """Value ranges of some images, (H, W, C) in their files' own dtype, and those with nothing in them."""
    dtypes = Counter(str(pixels.dtype) for pixels in pictures.values())
    channels = sorted({pixels.shape[2] for pixels in pictures.values()})
    low, high = np.array([_ends(pixels) for pixels in pictures.values()], dtype=float).T
    shown = f"{', '.join(dtypes)}, {low.min():g} to {high.max():g}, {'/'.join(map(str, channels))} channels"
    findings = [Finding("good", "values", f"{shown} (in {len(pictures)} images)")]
    if len(dtypes) > 1:
        findings.append(Finding("look", "values", "several dtypes: data.window or data.percentiles makes them alike"))
    if set(dtypes) == {"uint8"} and high.max() <= 1:
        findings.append(Finding("look", "values", "8 bits, but 0 and 1 only: set data.percentiles = [0, 100]"))
    if set(dtypes) == {"uint16"} and high.max() < 1 << 14:
        findings.append(
            Finding(
                "look", "values", f"16-bit images that use {high.max() / 655.35:.0f}% of their range: set data.window"
            )
        )
    constant = [name for name, least, most in zip(pictures, low, high, strict=True) if least == most]
    if constant:
        findings.append(Finding("look", "constant images", f"{len(constant)}, the first is '{constant[0]}'"))
    striped = [name for name, pixels in pictures.items() if name not in constant and stripe(pixels)]
    if striped:
        where = stripe(pictures[striped[0]])
        findings.append(Finding("look", "stripes", f"{len(striped)} images, the first is '{striped[0]}' ({where})"))
    return findings


def _ends(pixels: np.ndarray) -> tuple[float, float]:
    """The least and the largest value, of those that are numbers."""
    finite = pixels[np.isfinite(pixels)]
    return (finite.min(), finite.max()) if finite.size else (0, 0)


def stripe(pixels: np.ndarray) -> str | None:
    """The side along which an image is one constant stripe, as padding leaves it; None if there is none."""
    height, width = pixels.shape[:2]
    sides: Sequence[tuple[str, np.ndarray]] = (
        ("top", pixels[: max(2, round(PAD * height))]),
        ("bottom", pixels[-max(2, round(PAD * height)) :]),
        ("left", pixels[:, : max(2, round(PAD * width))]),
        ("right", pixels[:, -max(2, round(PAD * width)) :]),
    )
    return next((name for name, part in sides if (part == part[0, 0]).all()), None)
