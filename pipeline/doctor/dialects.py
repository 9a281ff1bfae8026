"""Whether masks were written in the RLE dialect that the card declares.

syntax    each text must decode: no start before the first pixel, no run past the last, an even count of numbers
order     in the wrong pixel order, neighbouring lines of a mask that is not square have little in common, so the
          changes from line to line are many times as long. A square mask is transposed; only its image shows that
base      with the wrong number of the first pixel, runs that begin at an edge of the image begin one pixel before it
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pipeline.doctor.alignment import MIN_SHARE, Alignment, MaskCheck, downscale_labels
from pipeline.rle import Dialect, RLEError

EncodedSample = tuple[np.ndarray, Sequence[str]]  # a grey image (H, W) uint8, and the RLE texts of its masks

MIN_NON_SQUARE = 6  # the lines of fewer masks that are not square decide nothing
MIN_CHANGE_RATIO = 1.2  # of changes from line to line, as read to in the other order, on top of the aspect ratio
MIN_WRAPPED_RUNS = 5  # runs that begin on the last pixel of a line, from which on the base is doubtful


def check_dialect(samples: Sequence[EncodedSample], declared: Dialect) -> MaskCheck:
    """Check whether masks were written in the dialect that the card declares.

    Args:
        samples: some dozens of images with a mask that is not empty, in the table's order.
        declared: the card's dialect, in any form but COCO's, which has a fixed order and base.
    """
    detected = next((each for each in _candidate_dialects(declared) if _readable_share(samples, each) == 1), None)
    share = _readable_share(samples, declared)
    if detected is None:
        return MaskCheck("inconclusive", f"{1 - share:.0%} of the texts cannot be read as {format_dialect(declared)}")
    reasons = [] if detected == declared else [f"otherwise only {share:.0%} of the texts can be read"]
    decoded = _decode(samples, detected)
    alignment = Alignment([(sample.image, sample.mask) for sample in decoded])
    if reason := _detect_other_order(decoded, alignment):
        detected = replace(detected, order=_other_order(detected.order))
        reasons.append(reason)
    if reasons:
        problem = f"masks are written in {format_dialect(detected)}, not {format_dialect(declared)}"
        return MaskCheck("misread", f"{problem} ({'; '.join(reasons)}): set {toml_keys(detected, declared)}", detected)
    result = alignment.check("Compare the table's ids with the image names")
    message = f"{format_dialect(declared)}: {result.message}"
    return result._replace(message=message, warning=_check_base(samples, declared))


def _check_base(samples: Sequence[EncodedSample], declared: Dialect) -> str | None:
    """Why the first pixel may have the other number, 0 or 1; None if nothing points to it.

    A mask that reaches the first pixel of a line has a run that begins there. If the declared base is too large, this
    run begins on the last pixel of the line before. If the base is too small, a run that ends with its line ends on the
    first pixel of the next line.
    """
    early = late = begin = end = 0
    for image, texts in samples:
        line = image.shape[0 if declared.order == "column" else 1]
        for text in texts:
            try:
                starts, ends = declared.runs(text, image.shape)
            except RLEError:  # reported by check_dialect
                continue
            longer = ends - starts > 1
            early += int((longer & (starts % line == line - 1)).sum())
            late += int((longer & (ends % line == 1)).sum())
            begin, end = begin + int((starts % line == 0).sum()), end + int((ends % line == 0).sum())
    if declared.relative or max(early, late) < MIN_WRAPPED_RUNS:
        return None
    base = 0 if early > late else 1
    if base == declared.base or max(early, late) < (begin if early > late else end):
        return None
    where = "begin one pixel before" if early > late else "end one pixel after"
    evidence = f"{max(early, late)} runs {where} the image's edge, {begin if early > late else end} on it"
    return f"{evidence}: if the first pixel is {base}, set {toml_keys(replace(declared, base=base), declared)}"


def format_dialect(dialect: Dialect) -> str:
    """A dialect's pixel order and base, for messages.

    >>> format_dialect(Dialect())
    'column order, pixels from 1'
    """
    runs = "relative runs" if dialect.relative else f"pixels from {dialect.base}"
    return f"{dialect.order} order, {runs}"


class _Decoded(NamedTuple):
    image: np.ndarray  # (H, W) uint8
    mask: np.ndarray  # (h, w) uint8, as read, downscaled
    other: np.ndarray  # (h, w) uint8, the same text read in the other pixel order, downscaled
    fragmented: bool | None  # whether the mask as read has many more changes between lines; None if square


def _candidate_dialects(declared: Dialect) -> list[Dialect]:
    """The declared dialect, then others in the same order: whether a text can be read does not depend on the order."""
    others = [(declared.relative, 1 - declared.base), (not declared.relative, 1), (not declared.relative, 0)]
    return [declared, *(replace(declared, relative=relative, base=base) for relative, base in others)]


def _readable_share(samples: Sequence[EncodedSample], dialect: Dialect) -> float:
    """The share of the texts that can be read and stay inside their image, 0 to 1."""
    readable = [_is_readable(text, image.shape, dialect) for image, texts in samples for text in texts]
    return sum(readable) / len(readable) if readable else 1.0


def _is_readable(text: str, shape: tuple[int, int], dialect: Dialect) -> bool:
    try:
        dialect.runs(text, shape)
    except RLEError:
        return False
    return True


def _decode(samples: Sequence[EncodedSample], dialect: Dialect) -> list[_Decoded]:
    """The union of each image's masks, in both pixel orders; images whose union is empty or full are left out."""
    other = replace(dialect, order=_other_order(dialect.order))
    decoded = []
    for image, texts in samples:
        masks = [np.bitwise_or.reduce([each.decode(text, image.shape) for text in texts]) for each in (dialect, other)]
        if 0 < masks[0].mean() < 1:
            height, width = image.shape
            fragmented = None if height == width else _is_fragmented(*masks, dialect.order)
            decoded.append(_Decoded(image, *map(downscale_labels, masks), fragmented))
    return decoded


def _other_order(order: str) -> str:
    return "row" if order == "column" else "column"


def _detect_other_order(decoded: Sequence[_Decoded], alignment: Alignment) -> str | None:
    """Why masks were written in the other pixel order; None if they were not, or if nothing shows it."""
    votes = [sample.fragmented for sample in decoded if sample.fragmented is not None]
    if len(votes) >= MIN_NON_SQUARE and sum(votes) >= MIN_SHARE * len(votes):
        return (
            f"otherwise neighbouring lines have little in common in {sum(votes)} of {len(votes)} images; "
            "or images are transposed"
        )
    found = alignment.find_correction({"in the other order": [sample.other for sample in decoded]})
    return f"masks then fit better in {found[1]}; or images are transposed" if found else None


def _is_fragmented(mask: np.ndarray, other: np.ndarray, order: str) -> bool:
    """Whether a mask changes clearly more from line to line, as read, than in the other pixel order.

    A mask of whole lines, such as all pixels above a horizon, is one of whole lines in both orders. Its numbers of
    changes then differ by the image's aspect ratio.
    """
    aspect = max(mask.shape) / min(mask.shape)
    return _count_changes(mask, order) > MIN_CHANGE_RATIO * aspect * _count_changes(other, _other_order(order))


def _count_changes(mask: np.ndarray, order: str) -> int:
    """The number of pixels that differ from their neighbour in the next line."""
    return int(np.count_nonzero(np.diff(mask, axis=1 if order == "column" else 0)))


def toml_keys(dialect: Dialect, declared: Dialect) -> str:
    """The keys of a card's [dialect] that change the declared dialect into another.

    >>> toml_keys(Dialect(order="row"), Dialect())
    '[dialect] order = "row"'
    """
    keys = [
        f"{key} = {json.dumps(value)}"
        for key in ("order", "base", "relative")
        if (value := getattr(dialect, key)) != getattr(declared, key)
    ]
    return f"[dialect] {', '.join(keys)}"
