"""The runs of many texts, in one compiled pass over their characters.

The pass reads texts of digits and blanks that pass all checks. `Dialect.runs` reads each other text, so errors, empty
tokens and characters beyond ASCII are handled in one place. numba compiles the pass because it is sequential: array
operations would need a pass over the characters for each check (`benchmarks/rle_table.py`).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.numba_jit import cached_njit
from pipeline.rle.runs import MAX_PIXELS, Runs

BATCH_CHARACTERS = 1 << 24  # per batch; their copy and the memory for their runs stay small compared with the table
BLANK, ZERO, NINE, TAB, NEWLINE, RETURN = b" 09\t\n\r"


def read(texts: Sequence[str], sizes: np.ndarray, base: int, relative: bool) -> list[Runs | None]:
    """The runs of each text of the form "pairs"; None for a text that is not digits and blanks, or fails a check.

    Args:
        sizes: pixels of each text's mask, (N,) int64, past which no run may end.
        base, relative: as in Dialect.
    """
    plain = [text if isinstance(text, str) and text.isascii() else "?" for text in texts]
    lengths = np.fromiter(map(len, plain), dtype=np.int64, count=len(plain))
    batches = np.cumsum(lengths) // BATCH_CHARACTERS
    borders = [0, *(np.flatnonzero(np.diff(batches)) + 1).tolist(), len(plain)]
    found: list[Runs | None] = []
    for begin, end in pairwise(borders):
        offsets = np.concatenate(([0], np.cumsum(lengths[begin:end])))
        letters = np.frombuffer("".join(plain[begin:end]).encode("ascii"), dtype=np.uint8)
        found += _read_batch(letters, offsets, sizes[begin:end], base, relative)
    return found


def _read_batch(
    letters: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, base: int, relative: bool
) -> list[Runs | None]:
    # The shortest run has four characters, "1 1 ", and a text's last run three. Unused memory is never touched.
    capacity = letters.size // 4 + sizes.size
    starts, ends = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    counts = _scan(letters, offsets, sizes, base, relative, starts, ends)
    last = np.cumsum(np.maximum(counts, 0))
    return [
        None if count < 0 else (starts[end - count : end], ends[end - count : end])
        for count, end in zip(counts.tolist(), last.tolist(), strict=True)
    ]


@cached_njit
def _is_blank(letter: int) -> bool:
    return letter in (BLANK, NEWLINE, RETURN, TAB)


@cached_njit
def _scan_text(letters: np.ndarray, size: int, base: int, relative: bool, starts: np.ndarray, ends: np.ndarray) -> int:
    """The number of runs in one text, which are written to starts and ends; -1 if a check fails."""
    numbers, start, previous, i = 0, 0, 0, 0
    while True:
        while i < letters.size and _is_blank(letters[i]):
            i += 1
        if i == letters.size:
            return numbers // 2 if numbers % 2 == 0 else -1
        value, first = 0, i
        while i < letters.size and ZERO <= letters[i] <= NINE and value <= MAX_PIXELS:
            value = 10 * value + (letters[i] - ZERO)
            i += 1
        if i == first or value > MAX_PIXELS or (i < letters.size and not _is_blank(letters[i])):
            return -1
        if numbers % 2 == 0:
            start = value + previous if relative else value - base
        elif value < 1 or start < previous or start + value > size:
            return -1
        else:
            previous = start + value
            starts[numbers // 2], ends[numbers // 2] = start, previous
        numbers += 1


@cached_njit
def _scan(
    letters: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    base: int,
    relative: bool,
    starts: np.ndarray,
    ends: np.ndarray,
) -> np.ndarray:
    """Write the runs of all texts to starts and ends, one after the other; return each text's number of runs, or -1."""
    counts = np.empty(sizes.size, np.int64)
    kept = 0
    for text in range(sizes.size):
        own = letters[offsets[text] : offsets[text + 1]]
        count = _scan_text(own, sizes[text], base, relative, starts[kept:], ends[kept:])
        counts[text] = count
        kept += max(count, 0)
    return counts
