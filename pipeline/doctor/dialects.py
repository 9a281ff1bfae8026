"""Is this the dialect that the masks were written in? The masks say so themselves, when they are laid on their images.

    shape      a mask read in the wrong order of pixels is shredded: its outline is many times as long
    edges      the outline of a true mask lies where the image changes; of a transposed one, anywhere
    one pixel  read from the wrong base, every run begins and ends one pixel beside the image's edge. A mask that is
               drawn too wide errs outwards at both ends, and so cannot be mistaken for a shift
    relation   a mask fits its own image better than the others', unless the rows are shuffled

Each is a comparison over many images, and asks for a difference that chance does not make: a doctor who cries
wolf is not called again.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from pipeline.doctor.measures import (
    BETTER,
    CLEAR,
    LEAST,
    MANY,
    SLACK,
    UNLIKELY,
    contrast,
    edges,
    errors,
    outline,
    relation,
    steepness,
)
from pipeline.rle import Dialect, RLEError

Sample = tuple[np.ndarray, Sequence[str]]  # a grey image (H, W) uint8, and the texts of its masks

REACH = 3  # pixels on either side of a run's end that are compared


class Fit(NamedTuple):
    """One way of reading, and how it suits the images."""

    order: str
    base: int
    relative: bool
    readable: float  # share of the texts that decode and stay inside of the image
    fit: float  # mean over images of log(gradient on the outline / in the image) − log(outline / √area)
    shift: float  # standard errors by which edges lie after (> 0) or before the ends of runs, along the run


class Verdict(NamedTuple):
    """What the doctor thinks of a dialect."""

    kind: Literal["good", "other", "unrelated", "unknown"]
    message: str  # in one line
    fits: list[Fit]  # of all readings, the best first
    better: Dialect | None = None  # which other one, if one is


def judge(samples: Sequence[Sample], declared: Dialect) -> Verdict:
    """Whether masks were written in the dialect that the card declares.

    Args:
        samples: images with at least one mask that is not empty; some dozens.
        declared: of any form but COCO's, which has one order and one base.
    """
    readings = [_Reading(samples, dialect) for dialect in _candidates(declared)]
    ours = next(reading for reading in readings if reading.dialect == declared)
    ranked = sorted(readings, key=_rank)
    fits = [each.summary() for each in ranked]
    for other in ranked:
        if other is not ours and (why := _clearly_better(other, ours)):
            said, found = in_words(declared), in_words(other.dialect)
            message = f"{said}, says the card, but {found} {why}: {_toml(other.dialect)}"
            return Verdict("other", message, fits, other.dialect)
    if ours.readable < 1:
        return Verdict("unknown", f"{1 - ours.readable:.0%} of the texts do not read as {in_words(declared)}", fits)
    if len(ours.images) < LEAST:
        return Verdict("unknown", f"{len(ours.images)} images with masks are too few to tell the dialect", fits)
    own = ours.relation()
    how = f"{own:+.1f} standard errors"
    if own >= CLEAR:
        return Verdict("good", f"{in_words(declared)}: masks lie on what is in their images ({how})", fits)
    if own < UNLIKELY and len(ours.images) >= MANY:
        why = f"masks fit other images as well as their own ({how}): are rows or ids shuffled, or images transposed?"
        return Verdict("unrelated", why, fits)
    return Verdict(
        "unknown", f"{in_words(declared)} may be right: masks show little of it in their images ({how})", fits
    )


def _candidates(declared: Dialect) -> list[Dialect]:
    """Every reading; a relative text knows no base."""
    absolute = [(order, base, False) for order, base in product(("column", "row"), (0, 1))]
    every = [*absolute, *((order, declared.base, True) for order in ("column", "row"))]
    return [replace(declared, order=order, base=base, relative=relative) for order, base, relative in every]


class _Reading:
    """The samples, read in one way."""

    def __init__(self, samples: Sequence[Sample], dialect: Dialect):
        self.dialect = dialect
        self.images, self.masks, self.places = [], [], []
        read = total = 0
        for place, (image, texts) in enumerate(samples):
            masks = [mask for text in texts if (mask := _decoded(text, image.shape, dialect)) is not None]
            read, total = read + len(masks), total + len(texts)
            mask = np.bitwise_or.reduce(masks) if masks else None
            if len(masks) == len(texts) and mask is not None and 0 < mask.mean() < 1:
                self.images.append(image)
                self.masks.append(mask)
                self.places.append(place)
        self.readable = read / total if total else 0.0
        self.fits = np.array([_fit(*pair) for pair in zip(self.images, self.masks, strict=True)])

    def of(self, places: Sequence[int]) -> np.ndarray:
        """The fits of some samples, all of which were read."""
        at = {place: number for number, place in enumerate(self.places)}
        return self.fits[[at[place] for place in places]]

    def shift(self) -> float:
        """Standard errors by which edges lie one pixel after the ends of runs, and not before."""
        along = [_shift(*pair, self.dialect.order) for pair in zip(self.images, self.masks, strict=True)]
        return errors(np.array(along))

    def relation(self) -> float:
        """Standard errors by which masks fit their own images better than others."""
        steep = [steepness(image) for image in self.images]
        return relation(
            [image.shape for image in self.images],
            lambda image, mask: edges(steep[image], self.masks[mask]) + contrast(self.images[image], self.masks[mask]),
        )

    def summary(self) -> Fit:
        fit = float(self.fits.mean()) if len(self.fits) else -np.inf
        return Fit(self.dialect.order, self.dialect.base, self.dialect.relative, self.readable, fit, self.shift())


def _rank(reading: _Reading) -> tuple:
    """For sorting: what reads all, in the order that fits, from the base that is not shifted; else the usual one."""
    fit = float(np.median(reading.fits)) if len(reading.fits) else -np.inf
    shifted = max(0.0, abs(reading.shift()) - CLEAR)
    dialect = reading.dialect
    return reading.readable < 1 - SLACK, -round(fit, 1), shifted, dialect.relative, dialect.base == 0


def _clearly_better(other: _Reading, ours: _Reading) -> str | None:
    """Why another reading is the right one; None if it is not."""
    if other.readable > 1 - SLACK and ours.readable < 1 - SLACK:
        return f"reads all texts, not {ours.readable:.0%} of them"
    both = sorted(set(other.places) & set(ours.places))
    if other.readable < 1 - SLACK or len(both) < LEAST:
        return None
    if other.dialect.order != ours.dialect.order:
        gains = other.of(both) - ours.of(both)
        if gains.mean() > BETTER and errors(gains) > CLEAR:
            how = f"{errors(gains):+.1f} standard errors"
            return f"fits the edges of the images better ({how}; or the images are transposed)"
        return None
    if other.dialect.base != ours.dialect.base:
        wanted = ours.dialect.base - other.dialect.base  # pixels by which a smaller base moves the mask onwards
        if wanted * ours.shift() > CLEAR and wanted * other.shift() < wanted * ours.shift() / 2:
            return f"puts masks on the edges, which now lie one pixel beside ({ours.shift():+.1f} standard errors)"
    return None


def _decoded(text: str, shape: tuple[int, int], dialect: Dialect) -> np.ndarray | None:
    try:
        return dialect.decode(text, shape)
    except RLEError:
        return None


def _fit(image: np.ndarray, mask: np.ndarray) -> float:
    length = outline(mask).sum()
    return edges(steepness(image), mask) - float(np.log(length / np.sqrt(mask.sum())))


def _shift(image: np.ndarray, mask: np.ndarray, order: str) -> float:
    """Whether the image changes more in the pixels after the ends of runs than in those before, −1 to 1."""
    if order == "column":
        image, mask = image.T, mask.T
    rows, columns = np.nonzero(np.diff(mask.astype(np.int8), axis=1))  # the border lies between column and column + 1
    inside = (columns >= REACH) & (columns + REACH < mask.shape[1] - 1)
    rows, columns = rows[inside], columns[inside]
    steps = np.abs(np.diff(image.astype(np.float32), axis=1))
    before, after = (
        sum(float(steps[rows, columns + side * away].sum()) for away in range(1, REACH + 1)) for side in (-1, 1)
    )
    return float((after - before) / max(after + before, 1.0))


def in_words(dialect: Dialect) -> str:
    """How a dialect numbers pixels, for people."""
    runs = "relative runs" if dialect.relative else f"pixels from {dialect.base}"
    return f"{dialect.order} order, {runs}"


def _toml(dialect: Dialect) -> str:
    return f'[dialect] order = "{dialect.order}", base = {dialect.base}, relative = {str(dialect.relative).lower()}'
