"""Is this the dialect that the masks were written in?

facts     every text must read: no start before the first pixel, no run past the last, no odd count of numbers
order     read in the wrong order of pixels, the lines of a mask that is not square have nothing in common: their
          borders are many times as long. A square mask is transposed, which only the images can tell
base      read from the wrong one, runs that begin at an edge of the image begin one pixel before it instead
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pipeline.doctor.placement import MOST, Placement, Verdict, reduced_labels
from pipeline.rle import Dialect, RLEError

Sample = tuple[np.ndarray, Sequence[str]]  # a grey image (H, W) uint8, and the texts of its masks

FEWEST = 6  # images that are not square, below which their lines decide nothing
LONGER = 1.2  # times as long are the borders between the lines of a mask in the wrong order, beyond the image's aspect
WRAPPED = 5  # runs at least that go on from the last pixel of a line, for the base to be in doubt


def judge(samples: Sequence[Sample], declared: Dialect) -> Verdict:
    """Whether masks were written in the dialect that the card declares.

    Args:
        samples: images with a mask that is not empty; some dozens, in the table's order.
        declared: of any form but COCO's, which has one order and one base.
    """
    read = next((each for each in _candidates(declared) if _readable(samples, each) == 1), None)
    share = _readable(samples, declared)
    if read is None:
        return Verdict("unknown", f"{1 - share:.0%} of the texts do not read as {in_words(declared)}")
    reasons = [] if read == declared else [f"else only {share:.0%} of the texts read"]
    pairs = _decoded(samples, read)
    placement = Placement([(pair.image, pair.mask) for pair in pairs])
    if why := _why_other_order(pairs, placement, read):
        read = replace(read, order=_other(read.order))
        reasons.append(why)
    if reasons:
        words = f"masks are in {in_words(read)}, not {in_words(declared)}"
        return Verdict("other", f"{words} ({'; '.join(reasons)}): set {toml(read, declared)}", read)
    verdict = placement.judge("Compare the table's ids with the images' names")
    return verdict._replace(message=f"{in_words(declared)}: {verdict.message}", doubt=_doubt_base(samples, declared))


def _doubt_base(samples: Sequence[Sample], declared: Dialect) -> str | None:
    """Why pixels may be numbered from the other base; None if nothing says so.

    A mask that reaches the first pixel of a line begins there. Read from a base that is too large, it begins on the
    last pixel of the line before, and from one that is too small, it ends on the first of the line after.
    """
    early = late = begin = end = 0
    for image, texts in samples:
        line = image.shape[0 if declared.order == "column" else 1]
        for text in texts:
            try:
                starts, ends = declared.runs(text, image.shape)
            except RLEError:  # a fact, which the judgement says
                continue
            longer = ends - starts > 1
            early += int((longer & (starts % line == line - 1)).sum())
            late += int((longer & (ends % line == 1)).sum())
            begin, end = begin + int((starts % line == 0).sum()), end + int((ends % line == 0).sum())
    if declared.relative or max(early, late) < WRAPPED:
        return None
    base = 0 if early > late else 1
    if base == declared.base or max(early, late) < (begin if early > late else end):
        return None
    what = "begin one pixel before" if early > late else "end one pixel after"
    edge = f"{max(early, late)} runs {what} the image's edge, {begin if early > late else end} on it"
    return f"{edge}: is the first pixel {base}? Then set {toml(replace(declared, base=base), declared)}"


def in_words(dialect: Dialect) -> str:
    """How a dialect numbers pixels, for people."""
    runs = "relative runs" if dialect.relative else f"pixels from {dialect.base}"
    return f"{dialect.order} order, {runs}"


class _Pair(NamedTuple):
    image: np.ndarray  # (H, W) uint8
    mask: np.ndarray  # (h, w) uint8, as read, reduced
    other: np.ndarray  # the same text, read in the other order, reduced
    shattered: bool | None  # whether it is, as read; None of a square one, which cannot be


def _candidates(declared: Dialect) -> list[Dialect]:
    """The declared dialect, then others of its order: whether a text reads does not depend on the order."""
    others = [(declared.relative, 1 - declared.base), (not declared.relative, 1), (not declared.relative, 0)]
    return [declared, *(replace(declared, relative=relative, base=base) for relative, base in others)]


def _readable(samples: Sequence[Sample], dialect: Dialect) -> float:
    """Share of the texts that read and stay inside of the image."""
    read = [_reads(text, image.shape, dialect) for image, texts in samples for text in texts]
    return sum(read) / len(read) if read else 1.0


def _reads(text: str, shape: tuple[int, int], dialect: Dialect) -> bool:
    try:
        dialect.runs(text, shape)
    except RLEError:
        return False
    return True


def _decoded(samples: Sequence[Sample], dialect: Dialect) -> list[_Pair]:
    """Images with the union of their masks in either order, where there is a border in it."""
    across = replace(dialect, order=_other(dialect.order))
    pairs = []
    for image, texts in samples:
        masks = [np.bitwise_or.reduce([each.decode(text, image.shape) for text in texts]) for each in (dialect, across)]
        if 0 < masks[0].mean() < 1:
            height, width = image.shape
            shattered = None if height == width else _is_shattered(*masks, dialect.order)
            pairs.append(_Pair(image, *map(reduced_labels, masks), shattered))
    return pairs


def _other(order: str) -> str:
    return "row" if order == "column" else "column"


def _why_other_order(pairs: Sequence[_Pair], placement: Placement, dialect: Dialect) -> str | None:
    """Why masks were written in the other order; None if they were not, or if nothing tells."""
    telling = [pair.shattered for pair in pairs if pair.shattered is not None]
    if len(telling) >= FEWEST and sum(telling) >= MOST * len(telling):
        return f"else lines have little in common, in {sum(telling)} of {len(telling)} images; or images are transposed"
    found = placement.better({"in the other order": [pair.other for pair in pairs]})
    return f"so they fit {found[1]} better; or images are transposed" if found else None


def _is_shattered(mask: np.ndarray, other: np.ndarray, order: str) -> bool:
    """Whether the borders between the lines of a mask, as read, are clearly longer than in the other order.

    A mask of whole lines, such as all above a horizon, is one in either order: there the borders are to each other as
    the image's height and width.
    """
    aspect = max(mask.shape) / min(mask.shape)
    return _borders(mask, order) > LONGER * aspect * _borders(other, _other(order))


def _borders(mask: np.ndarray, order: str) -> int:
    """Pixels that differ from the one beside them in the next line."""
    return int(np.count_nonzero(np.diff(mask, axis=1 if order == "column" else 0)))


def toml(dialect: Dialect, declared: Dialect) -> str:
    """What to write on a card that declares another dialect."""
    keys = [
        f"{key} = {json.dumps(value)}"
        for key in ("order", "base", "relative")
        if (value := getattr(dialect, key)) != getattr(declared, key)
    ]
    return f"[dialect] {', '.join(keys)}"
