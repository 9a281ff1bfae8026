"""COCO's compressed runs, deflated and in base64.

A mask is a list of counts in column order: zeros, ones, zeros, ones, ... up to the last pixel. From the fourth count
on, the difference to the count two before it is stored. Each number becomes characters of five bits, the lowest first,
with a sixth bit that is set if more follow, plus 48:

    mask    0 1 1 1 0 0      counts  1 3 2      letters  "132"

Source:
    rleToString and rleFrString of cocoapi, https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c.
    zlib and base64 around it: HuBMAP - Hacking the Human Vasculature, evaluation page (from memory; not verified).
"""

import base64
import binascii
import zlib

import numpy as np

from pipeline.rle.runs import MAX_PIXELS, RLEError, Runs

MAX_INFLATED = 1 << 26  # bytes; a mask of 10,000 x 10,000 pixels of noise has fewer, a decompression bomb more


def write(runs: Runs, size: int) -> str:
    """The text of the runs of a mask of `size` pixels."""
    borders = np.stack(runs, axis=1).reshape(-1)
    counts = np.diff(borders, prepend=0, append=size)
    if counts[-1] == 0:  # the last pixel is set: no zeros follow
        counts = counts[:-1]
    counts[3:] -= counts[1:-2].copy()
    return base64.b64encode(zlib.compress(_format_letters(counts), zlib.Z_BEST_COMPRESSION)).decode("ascii")


def read(text: str, shape: tuple[int, int] | None) -> Runs:
    """The runs of a text. A count of 0 makes touching runs or a run without pixels; the latter is dropped.

    Args:
        shape: (H, W) of the mask, which the counts must fill; None skips this check.

    Raises:
        RLEError: if the text is not base64, zlib does not inflate it, a letter is not one of COCO's 64, the text ends
            within a count, a count is negative, or the counts do not add up to the pixels of shape.
    """
    return runs_of_counts(counts_of_letters(_inflate(text)), shape)


def runs_of_counts(counts: np.ndarray, shape: tuple[int, int] | None) -> Runs:
    """The runs of counts, (N,) int64: zeros, ones, zeros, …

    Args:
        shape: (H, W) of the mask, which the counts must fill; None skips this check.

    Raises:
        RLEError: if a count is negative or too large, or the counts do not add up to the pixels of shape.
    """
    wrong = np.flatnonzero((counts < 0) | (counts > MAX_PIXELS))
    if wrong.size:
        fault = f"is {counts[wrong[0]]}, expected 0 to {MAX_PIXELS}: is this COCO's compressed form?"
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


def _inflate(text: str) -> bytes:
    try:
        data = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RLEError(f"'{text[:40]}' is not base64 ({error}): is the text truncated, or in another form?") from None
    inflater = zlib.decompressobj()
    try:
        letters = inflater.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise RLEError(f"base64 of {len(data)} bytes that zlib does not inflate ({error})") from None
    if not inflater.eof or inflater.unused_data:
        raise RLEError(
            f"base64 of {len(data)} bytes: zlib's stream is truncated, over {MAX_INFLATED} bytes, or followed by more"
        )
    return letters


def _format_letters(numbers: np.ndarray) -> bytes:
    """Each number, (N,) int64, as groups of five bits, the lowest first, until only the sign is left."""
    groups = 1 + np.sum([~_fits_in_bits(numbers, 5 * k) for k in range(1, 10)], axis=0)
    places = np.arange(groups.max(initial=1))
    letters = (numbers[:, None] >> (5 * places)) & 31
    letters += 32 * (places + 1 < groups[:, None]) + 48
    return letters[places < groups[:, None]].astype(np.uint8).tobytes()


def _fits_in_bits(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Whether each number fits in `bits` bits, in two's complement."""
    return (numbers >= -(1 << (bits - 1))) & (numbers < 1 << (bits - 1))


def counts_of_letters(letters: bytes) -> np.ndarray:
    """The counts of COCO's letters, (N,) int64.

    Raises:
        RLEError: if a letter is not one of COCO's 64, or the text ends within a count.
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
    # Differences to the count two before are undone by a running sum of every other number. The first count has no
    # predecessor, and COCO stores the third as it is.
    counts = numbers.copy()
    counts[1::2] = np.cumsum(numbers[1::2])
    counts[2::2] = np.cumsum(numbers[2::2])
    return counts
