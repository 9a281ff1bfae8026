"""The runs of many texts, from one pass over their characters.

The pass keeps what is plainly right and leaves the rest to `Dialect.runs`, text by text: so a fault, an empty token
and a character beyond ASCII have one owner. Compiled by numba, because every number waits for the one before it:
array operations need a pass over the characters for each check (`benchmarks/rle_table.py`).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipeline.numba_jit import cached_njit
from pipeline.rle.runs import LARGEST, Runs

BATCH = 1 << 24  # characters; their copy and the room for their runs stay small beside the table
BLANK, ZERO, NINE, TAB, NEWLINE, RETURN = b" 09\t\n\r"


def read(texts: Sequence[str], sizes: np.ndarray, base: int, relative: bool) -> list[Runs | None]:
    """The runs of each text of pairs, None where it is not plainly right: digits and blanks, all checks passed.

    Args:
        sizes: pixels of each text's mask, (N,) int64. No run goes past them.
        base, relative: as in Dialect.
    """
    plain = [text if isinstance(text, str) and text.isascii() else "?" for text in texts]
    lengths = np.fromiter(map(len, plain), dtype=np.int64, count=len(plain))
    batches = np.cumsum(lengths) // BATCH
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
    # The shortest run has four characters, "1 1 ", and a text's last has three. Room left unused costs nothing.
    room = letters.size // 4 + sizes.size
    starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
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
    """The count of runs in one text, -1 at the first thing that is not plainly right."""
    numbers, start, previous, i = 0, 0, 0, 0
    while True:
        while i < letters.size and _is_blank(letters[i]):
            i += 1
        if i == letters.size:
            return numbers // 2 if numbers % 2 == 0 else -1
        value, first = 0, i
        while i < letters.size and ZERO <= letters[i] <= NINE and value <= LARGEST:
            value = 10 * value + (letters[i] - ZERO)
            i += 1
        if i == first or value > LARGEST or (i < letters.size and not _is_blank(letters[i])):
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
    """Fill starts and ends with the runs of one text after the other; return each text's count, -1 if not plain."""
    counts = np.empty(sizes.size, np.int64)
    kept = 0
    for text in range(sizes.size):
        own = letters[offsets[text] : offsets[text + 1]]
        count = _scan_text(own, sizes[text], base, relative, starts[kept:], ends[kept:])
        counts[text] = count
        kept += max(count, 0)
    return counts
