"""Checks of the sample submission, the masks and the images: pure functions of what was read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import coverage_columns
from pipeline.data.tables import split_packed_objects
from pipeline.metrics import epoch_metric, selection_metric

FULL_COVERAGE = 0.999  # a mask that covers a larger share of its image counts as full
MOSTLY_MASKED = 0.7  # share of the pixels of all images; masks may be inverted
STRIPE_WIDTH = 0.05  # of a constant stripe along a side, as a share of the image's height or width


class Finding(NamedTuple):
    """One line of the doctor's table."""

    level: Literal["good", "look", "bad"]  # no problem; a possible problem; a problem that spoils a submission
    check: str
    message: str  # one line; of a problem: what is wrong, where, and how to fix it


def describe_metric(card: Competition) -> Finding:
    """The card's metric with its parameters, and the metrics that select weights, rules and epochs if they differ."""
    selection = {"weights and rules": selection_metric(card.metric), "epochs": epoch_metric(card.metric)}
    others = [f"{what} selected by {name}" for what, name in selection.items() if name != card.metric]
    return Finding("good", "metric", "; ".join([card.metric, *others]))


def check_sample(card: Competition, sample: pd.DataFrame, rows: pd.DataFrame) -> list[Finding]:
    """Compare the sample submission with the card.

    Args:
        sample: the file's table, all columns as text.
        rows: its rows as `tables.read_rows` returns them.
    """
    expected = card.columns.header
    header = list(sample.columns)
    findings = [
        Finding("good", "sample's header", ", ".join(header))
        if sorted(header) == sorted(expected)
        else Finding("bad", "sample's header", f"{', '.join(header)}: the card expects {', '.join(expected)}")
    ]
    if sample.empty:
        return [*findings, Finding("look", "sample's rows", "none: the test set is hidden, or the file is truncated")]
    return [
        *findings,
        _check_rows(card, rows),
        *_check_leaderboard_size(card, rows["image_id"].nunique()),
        _check_placeholder(card, sample),
    ]


def _check_rows(card: Competition, rows: pd.DataFrame) -> Finding:
    """Check for one row per image and class; with rows per object or part, any number of rows is right."""
    images, classes = rows["image_id"].nunique(), len(card.classes)
    shown = f"{len(rows)} rows of {images} images" + (f" and {classes} classes" if classes > 1 else "")
    per_image = rows.groupby("image_id")["label"].nunique()
    if incomplete := int((per_image < classes).sum()):
        return Finding("look", "sample's rows", f"{shown}: {incomplete} of {images} images lack rows for some classes")
    if len(rows) != images * classes and not (card.instances or card.several_rows):
        return Finding("look", "sample's rows", f"{shown}: expected {images * classes} rows, some rows are repeated")
    return Finding("good", "sample's rows", shown)


def _check_leaderboard_size(card: Competition, images: int) -> list[Finding]:
    """Compare the sample's number of images with `leaderboard.images` of the card."""
    expected = card.leaderboard.images
    if expected in (None, images):
        return []
    advice = "check leaderboard.images, and whether the sample covers the whole test set"
    return [Finding("look", "sample's images", f"{images}, but leaderboard.images of the card is {expected}: {advice}")]


def _check_placeholder(card: Competition, sample: pd.DataFrame) -> Finding:
    """Check that the most frequent text of the RLE column can be read in the card's dialect."""
    if card.columns.rle not in sample:
        return Finding("bad", "sample's placeholder", f"no column '{card.columns.rle}'")
    texts = Counter(sample[card.columns.rle])
    text, count = texts.most_common(1)[0]
    shown = f"'{text}' in {count} of {len(sample)} rows" if len(text) <= 40 else f"a text of {len(text)} characters"
    try:
        if card.columns.packed_objects:
            masks = [rle for _, rle in split_packed_objects(text, card.columns.packed_objects.split(), "a cell")]
        else:
            masks = card.dialect.split(text)
        for mask in masks:
            card.dialect.runs(mask)
    except ValueError as error:
        return Finding("bad", "sample's placeholder", f"{shown} cannot be read in the card's dialect: {error}")
    return Finding("good", "sample's placeholder", shown)


def check_masks(index: pd.DataFrame, card: Competition) -> list[Finding]:
    """Check the coverage of the training masks, class by class: all empty, or the whole image."""
    findings = []
    for name, column in zip(card.classes, coverage_columns(card.classes), strict=True):
        of_class = f"masks of {name}" if len(card.classes) > 1 else "masks"
        coverage = index[column].to_numpy()
        if not coverage.any():
            findings.append(Finding("bad", of_class, f"all {len(index)} are empty: this class cannot be learned"))
            continue
        empty, full = (coverage == 0).mean(), np.flatnonzero(coverage > FULL_COVERAGE)
        findings.append(Finding("good", of_class, f"{coverage.mean():.2%} of the pixels, {empty:.1%} of them empty"))
        if card.files.train_masks and len(card.classes) == 1 and coverage.mean() > MOSTLY_MASKED:
            advice = f"set masks.values = {{ {name} = 0 }}, and masks.background to the other value"
            of_all = f"{coverage.mean():.0%} of the pixels"
            findings.append(Finding("look", of_class, f"{of_all}: if the object is black in the mask files, {advice}"))
        if len(full):
            first = index["image_id"].iloc[full[0]]
            findings.append(Finding("look", of_class, f"{len(full)} cover the whole image, such as '{first}'"))
    return findings


def check_objects(counts: Sequence[int]) -> list[Finding]:
    """Check the number of objects per image: if it is never above 1, objects may be merged into one mask.

    Args:
        counts: objects in each of some images with a mask; empty for a card without instances.
    """
    if not counts:
        return []
    shown = f"{min(counts)} to {max(counts)} per image in {len(counts)} images with a mask"
    if max(counts) > 1:
        return [Finding("good", "objects", shown)]
    advice = "check that rows, values or files hold one object each, not all objects of an image"
    return [Finding("look", "objects", f"{shown}: {advice}")]


def check_sizes(train: pd.DataFrame, test: pd.DataFrame) -> Finding:
    """List the image sizes (height × width, pixels), and warn of test sizes that are not in the training set."""
    sizes = [set(zip(part["height"], part["width"], strict=True)) for part in (train, test)]
    known, new = sizes[0], sorted(sizes[1] - sizes[0])
    shown = ", ".join(f"{height}×{width}" for height, width in sorted(known)[:4]) + (" …" if len(known) > 4 else "")
    if new:
        height, width = new[0]
        only = f"{len(new)} sizes only in the test set, such as {height}×{width}"
        return Finding("look", "sizes", f"train {shown}; {only}")
    return Finding("good", "sizes", f"{len(known)}: {shown}")


def check_pixels(pictures: Mapping[str, np.ndarray], *, scaled: bool = False) -> list[Finding]:
    """Check the dtypes, channels and value ranges of some images, and look for constant images and stripes.

    Args:
        pictures: by image id, the pixels (H, W, C) in the file's own dtype.
        scaled: the config says which values become 0 and 255.
    """
    dtypes = Counter(str(pixels.dtype) for pixels in pictures.values())
    channels = sorted({pixels.shape[2] for pixels in pictures.values()})
    low, high = np.array([_finite_range(pixels) for pixels in pictures.values()], dtype=float).T
    shown = f"{', '.join(dtypes)}, {low.min():g} to {high.max():g}, {'/'.join(map(str, channels))} channels"
    looks = []
    if len(dtypes) > 1 and not scaled:
        looks.append(("values", "several dtypes: set data.window or data.percentiles to bring them to one range"))
    if set(dtypes) == {"uint8"} and high.max() <= 1 and not scaled:
        looks.append(("values", "uint8 with only 0 and 1: set data.percentiles = [0, 100]"))
    if set(dtypes) == {"uint16"} and high.max() < 1 << 14 and not scaled:
        share = f"{high.max() / 655.35:.0f}%"
        looks.append(("values", f"16-bit images that use {share} of their range: set data.window"))
    constant = [name for name, least, most in zip(pictures, low, high, strict=True) if least == most]
    if constant:
        looks.append(("constant images", f"{len(constant)}, such as '{constant[0]}'"))
    stripes = {name: find_stripe(pixels) for name, pixels in pictures.items() if name not in constant}
    striped = [(name, where) for name, where in stripes.items() if where]
    if striped:
        such_as = "'{}' ({})".format(*striped[0])
        looks.append(("stripes", f"{len(striped)} images with a constant stripe, such as {such_as}"))
    values = Finding("good", "values", f"{shown} (in {len(pictures)} images)")
    return [values, *(Finding("look", *look) for look in looks)]


def _finite_range(pixels: np.ndarray) -> tuple[float, float]:
    """The least and the largest finite value."""
    finite = pixels[np.isfinite(pixels)]
    return (finite.min(), finite.max()) if finite.size else (0, 0)


def find_stripe(pixels: np.ndarray) -> str | None:
    """The side along which an image (H, W, C) has a constant stripe, as padding leaves it; None if there is none."""
    height, width = pixels.shape[:2]
    sides: Sequence[tuple[str, np.ndarray]] = (
        ("top", pixels[: max(2, round(STRIPE_WIDTH * height))]),
        ("bottom", pixels[-max(2, round(STRIPE_WIDTH * height)) :]),
        ("left", pixels[:, : max(2, round(STRIPE_WIDTH * width))]),
        ("right", pixels[:, -max(2, round(STRIPE_WIDTH * width)) :]),
    )
    return next((name for name, part in sides if (part == part[0, 0]).all()), None)
