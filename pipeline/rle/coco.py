"""COCO's compressed runs, deflated and in base64: what some competitions take in place of numbers.

A mask is a list of counts, in column order: zeros, ones, zeros, ones, ... up to the last pixel. From the fourth on,
a count stands as its difference to the one two before it, and each becomes characters of five bits, the lowest first,
with a sixth bit that says "more follow" and 48 added to make it a letter:

    mask    0 1 1 1 0 0      counts  1 3 2      letters  "132"

Source:
    rleToString and rleFrString of cocoapi, https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.
    zlib and base64 around it: HuBMAP - Hacking the Human Vasculature, evaluation page (from memory; not verified).
"""

import base64
import binascii
import zlib

import numpy as np

from pipeline.rle.runs import LARGEST, RLEError, Runs

INFLATED = 1 << 26  # bytes; a mask of 10,000 x 10,000 pixels of noise has fewer, a bomb more


def write(runs: Runs, size: int) -> str:
    """The text of the runs of a mask of `size` pixels."""
    borders = np.stack(runs, axis=1).reshape(-1)
    counts = np.diff(borders, prepend=0, append=size)
    if counts[-1] == 0:  # the last pixel is set: no zeros follow
        counts = counts[:-1]
    counts[3:] -= counts[1:-2].copy()
    return base64.b64encode(zlib.compress(_letters(counts), zlib.Z_BEST_COMPRESSION)).decode("ascii")


def read(text: str, shape: tuple[int, int] | None) -> Runs:
    """Runs of a text, and that its counts fill the shape where one is given.

    Touching runs, which a count of 0 inside makes, are read as they stand; a run of 0 pixels is dropped.

    Raises:
        RLEError: for text that is not base64, bytes that zlib does not inflate, a letter outside of COCO's 64, a
            text that ends within a count, a negative count, or counts that do not add up to the pixels of shape.
    """
    return runs_of_counts(counts_of_letters(_inflated(text)), shape)


def runs_of_counts(counts: np.ndarray, shape: tuple[int, int] | None) -> Runs:
    """Runs of counts, (N,) int64: zeros, ones, zeros, …; as `read`, and refused as there."""
    wrong = np.flatnonzero((counts < 0) | (counts > LARGEST))
    if wrong.size:
        fault = f"is {counts[wrong[0]]}, expected 0 to {LARGEST}: is this COCO's compressed form?"
        raise RLEError(f"count {wrong[0] + 1} {fault}")
    borders = np.cumsum(counts)
    if shape is not None and (total := counts.sum()) != shape[0] * shape[1]:
        raise RLEError(
            f"counts of {total} pixels, expected the {shape[0] * shape[1]} of shape {tuple(shape)}: "
            "check the image's (height, width)"
        )
    starts = borders[: borders.size // 2 * 2 : 2]
    ends = borders[1::2]
    kept = ends > starts
    return starts[kept], ends[kept]


def _inflated(text: str) -> bytes:
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RLEError(f"'{text[:40]}' is not base64 ({error}): is the text cut off, or of another form?") from None
    inflater = zlib.decompressobj()
    try:
        letters = inflater.decompress(data, INFLATED)
    except zlib.error as error:
        raise RLEError(f"base64 of {len(data)} bytes that zlib does not inflate ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise RLEError(f"base64 of {len(data)} bytes: zlib's stream is cut off, over {INFLATED} bytes, or goes on")
    return letters


def _letters(numbers: np.ndarray) -> bytes:
    """Each number as groups of five bits, the lowest first, until the rest is only its sign."""
    groups = 1 + np.sum([~_fits(numbers, 5 * k) for k in range(1, 10)], axis=0)
    places = np.arange(groups.max(initial=1))
    letters = (numbers[:, None] >> (5 * places)) & 31
    letters += 32 * (places + 1 < groups[:, None]) + 48
    return letters[places < groups[:, None]].astype(np.uint8).tobytes()


def _fits(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Whether a number is one of `bits` bits, in two's complement."""
    return (numbers >= -(1 << (bits - 1))) & (numbers < 1 << (bits - 1))


def counts_of_letters(letters: bytes) -> np.ndarray:
    """The counts behind COCO's letters, (N,) int64.

    Raises:
        RLEError: for a letter outside of COCO's 64, and a text that ends within a count.
    """
    codes = np.frombuffer(letters, dtype=np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise RLEError(f"letters {letters[:20]!r} are not COCO's: expected '0' to 'o', the last below 'P'")
    last = np.flatnonzero(~codes & 32)  # the letter that ends a number
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() > 9:
        raise RLEError(f"letters {letters[:20]!r}: a count of more than 10 letters, which no image has")
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    signs = codes[last] & 16  # the last group's highest bit
    numbers -= (signs > 0) * (np.int64(1) << (5 * (last - first + 1)))
    # A difference to the count two before: a running sum of every other one. The first has none before it, and the
    # third's is left out by COCO.
    counts = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    return counts
