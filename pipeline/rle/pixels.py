"""Conversion between masks and runs."""

import numpy as np

from pipeline.rle.runs import Runs, no_runs

BLOCK_BYTES = 1 << 19  # compared at once, so that the differences stay in the CPU's cache
TRANSPOSE_BELOW = 1 << 15  # pixels; below, a transposed copy is faster than renumbering and sorting
MIN_WIDTH_FOR_ROWS = 640  # pixels; below, one numpy call per row is slower than a transposed copy


def _validated(mask: np.ndarray) -> np.ndarray:
    """The mask as uint8, contiguous in one of the two directions. Values are checked in _changes."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"mask of shape {mask.shape}: expected (H, W), so encode one channel at a time")
    if mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(
            f"mask is {mask.dtype}, expected bool or uint8: threshold probabilities (probs > threshold), "
            "compare labels (labels == 1)"
        )
    if not mask.size:
        raise ValueError(f"mask of shape {mask.shape} has no pixels: expected at least (1, 1)")
    if not (mask.flags.c_contiguous or mask.flags.f_contiguous):
        mask = np.ascontiguousarray(mask)
    return mask.view(np.uint8)


def runs_of_mask(mask: np.ndarray, order: str) -> Runs:
    """The runs of a (H, W) mask, bool or uint8, 0 or 1, from its changes along the pixel order.

    The pixels outside the mask count as 0, so a run that begins on the first pixel has a start and
    one that reaches the last pixel has an end.

    Raises:
        ValueError: if mask has another dtype, number of axes or value, or no pixels.
    """
    mask = _validated(mask)
    if not mask.view(
        np.bool_
    ).any():  # ten times faster than the search for changes, and most masks of most test sets are empty
        return no_runs()
    along_memory = mask.flags.c_contiguous if order == "row" else mask.flags.f_contiguous
    lines = mask if mask.flags.c_contiguous else mask.T  # (lines, line), C-contiguous
    if not along_memory and mask.size < TRANSPOSE_BELOW:
        lines, along_memory = np.ascontiguousarray(lines.T), True
    flat = lines.reshape(-1)
    changes = _changes(flat, 1) if along_memory else _changes_across(lines)
    first = np.flatnonzero(flat[:1])
    last = np.flatnonzero(flat[-1:]) + flat.size
    edges = np.concatenate((first, changes, last))
    return edges[::2], edges[1::2]


def _changes_across(lines: np.ndarray) -> np.ndarray:
    """The changes along a pixel order that runs across the lines in memory, (N,) int64, sorted.

    Neighbours along the order are one line apart in memory. They are compared in memory order, and only the few that
    differ are renumbered and sorted: 3 ms for 5000 x 5000 pixels, while a transposed copy takes 88 ms.

    Shapes:
        lines: (lines, line), C-contiguous; pixel (i, j) has number j * lines + i.
    """
    count, length = lines.shape
    i, j = np.divmod(_changes(lines.reshape(-1), length), length)
    # The last line's pixel j - 1 is followed by the first line's pixel j: a run may continue there.
    turns = np.flatnonzero(lines[0, 1:] != lines[-1, :-1]) + 1
    # stable: each line's numbers are ascending already, which makes merge sort fast.
    return np.sort(np.concatenate((j * count + i, turns * count)), kind="stable")


def _changes(flat: np.ndarray, shift: int) -> np.ndarray:
    """The p >= shift with flat[p] != flat[p - shift], ascending. (P,) uint8 to (N,) int64.

    Raises:
        ValueError: if flat holds other values than 0 and 1. All are 0 or 1 exactly if the first `shift` values are,
            and each XOR with the value `shift` before is, so this check is almost free.
    """
    _check_binary(flat[:shift])
    count = flat.size - shift
    differs = np.empty(min(BLOCK_BYTES, -(-count // 8) * 8), dtype=np.uint8)
    words = differs.view(np.uint64)  # eight pixels at a time: nearly all words are 0
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, count, BLOCK_BYTES):
        size = min(BLOCK_BYTES, count - start)
        before = flat[start : start + size]
        np.bitwise_xor(flat[start + shift : start + shift + size], before, out=differs[:size])
        differs[size:] = 0
        hits = (words != 0).nonzero()[0]  # != 0 first: numpy searches bool 3 times as fast as uint64
        pixels = words[hits].view(np.uint8)
        _check_binary(pixels)
        at = pixels.view(bool).nonzero()[0]
        found.append(hits[at >> 3] * 8 + (at & 7) + (start + shift))
    return np.concatenate(found)


def _check_binary(values: np.ndarray) -> None:
    if values.size and values.max() > 1:
        raise ValueError("mask holds values other than 0 and 1: write `mask > 0` if 255 stands for 1")


def mask_of_runs(runs: Runs, shape: tuple[int, int], order: str) -> np.ndarray:
    """The (H, W) uint8 mask with these runs, which must be inside it; C-contiguous."""
    height, width = shape
    if order == "row":
        return _paint(runs, height * width).reshape(height, width)
    if width < MIN_WIDTH_FOR_ROWS:
        return np.ascontiguousarray(_paint(runs, height * width).reshape(width, height).T)
    return _paint_columns(runs, height, width)


def _paint(runs: Runs, size: int) -> np.ndarray:
    """The pixels in the runs' order, (size,) uint8. Between touching runs there are 0 zeros."""
    starts, ends = runs
    borders = np.zeros(2 * starts.size + 2, dtype=np.int64)
    borders[1:-1:2] = starts
    borders[2:-1:2] = ends
    borders[-1] = size
    values = np.zeros(borders.size - 1, dtype=np.uint8)
    values[1::2] = 1
    return np.repeat(values, np.diff(borders))


def _paint_columns(runs: Runs, height: int, width: int) -> np.ndarray:
    """The (H, W) uint8 mask of runs in column order, without a transposed copy.

    Each start and end of a run sets a 1 in an empty mask. Then each row is XORed with the row above: a pixel is 1 if
    an odd number of starts and ends is at or above it.
    """
    starts, ends = runs
    mask = np.zeros((height, width), dtype=np.uint8)
    for borders in (starts, ends):
        column, row = np.divmod(borders, height)
        inside = row > 0  # row 0 is set below, and the end of a run on the last pixel is outside the mask
        # ^= and not = 1: where two runs touch, an end and a start cancel.
        mask.reshape(-1)[row[inside] * width + column[inside]] ^= 1
    tops = np.arange(width) * height
    begun, ended = (np.searchsorted(borders, tops, side="right") for borders in runs)
    mask[0] = begun - ended
    above = mask[0]
    for line in mask[1:]:
        np.bitwise_xor(line, above, out=line)
        above = line
    return mask
