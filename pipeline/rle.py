"""Run-length encoding: masks to the text of a submission and back, in every Kaggle dialect.

A mask is (H, W), its text a list of runs: "3 2 9 1" is pixels 3, 4 and 9. Competitions differ in how
pixels are numbered and how an empty mask is written; a `Dialect` holds these differences.

    >>> mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=np.uint8)
    >>> encode(mask)
    '3 3'
    >>> Dialect(order="row").encode(mask)
    '2 1 4 2'
    >>> decode("3 3", (3, 2)).tolist()
    [[0, 1], [0, 1], [1, 0]]
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

Runs = tuple[np.ndarray, np.ndarray]  # starts and ends, int64, 0-based, half-open, sorted, disjoint

BLOCK = 1 << 19  # bytes compared at once: the differences stay in the cache, whatever the mask's size
SMALL = 1 << 15  # pixels; below, a transposed copy costs less than renumbering and sorting
NARROW = 640  # pixels; below, one numpy call per row of a mask costs more than a transposed copy
MANY = 1000  # numbers; below, python formats them faster than numpy does
LARGEST = 10**12  # pixels; no image has more, and sums of such numbers stay far from int64's end
TOKEN = re.compile(r"[^ \t\r\n]+")
INTEGER = re.compile(r"-?[0-9]+")  # ASCII only: int() would also take "1_000" and "+5"


class RLEError(ValueError):
    """A text that is not a run-length encoding in the dialect it is read in."""


@dataclass(frozen=True)
class Dialect:
    """How one competition writes masks. The default is what most of Kaggle's competitions use.

    A run of pixels a..b-1, numbered from 0 in `order`, with the previous run ending before pixel e:

        absolute:  "{a + base} {b - a}"
        relative:  "{a - e} {b - a}", and e = 0 for the first run

    Args:
        order: "column" numbers pixels from top to bottom, then left to right; "row" from left to
            right, then top to bottom.
        base: number of the first pixel, 0 or 1. A relative text holds only distances, which are the
            same from any base, so there it changes nothing.
        relative: write the gap to the end of the previous run in place of the start.
        empty: token of a mask without a pixel. A blank text reads as an empty mask in any dialect.

    Raises:
        ValueError: for an unknown order or base, or an `empty` that a mask with pixels could have too.

    Source:
        Relative form: mask_functions.py of SIIM-ACR Pneumothorax Segmentation,
        https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data
    """

    order: Literal["column", "row"] = "column"
    base: int = 1
    relative: bool = False
    empty: str = ""

    # pydantic reads this when a card embeds a Dialect: a misspelt key is refused, not dropped.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.order not in ("column", "row"):
            raise ValueError(f"unknown order '{self.order}'. Known orders: column, row.")
        if self.base not in (0, 1):
            raise ValueError(f"base is the number of the first pixel: expected 0 or 1, got {self.base}")
        if self.empty.strip() and _is_valid(self.empty, self):
            raise ValueError(
                f"empty token '{self.empty}' is also the text of a mask with pixels, which would be read "
                "as empty: take the competition's token, or '' if it has none"
            )

    def encode(self, mask: np.ndarray) -> str:
        """The text of a mask. Takes any memory layout; C- and Fortran-contiguous need no copy.

        Shapes:
            mask: (H, W), bool or uint8, 0 or 1.

        Raises:
            ValueError: if mask has another dtype, number of axes or value, or no pixels.
        """
        edges = _edges(_checked(mask), self.order)
        if not edges.size:
            return self.empty
        numbers = edges.copy()
        numbers[1::2] -= edges[::2]
        if self.relative:
            numbers[2::2] -= edges[1:-1:2]
        else:
            numbers[::2] += self.base
        return _join(numbers)

    def decode(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        """The mask of a text: the inverse of encode.

        Args:
            shape: (H, W) of the mask, in pixels.

        Shapes:
            returns: (H, W) uint8, 0 or 1, C-contiguous.

        Raises:
            RLEError: as `runs`, and if a run ends past the last pixel.
            ValueError: if shape is not two positive numbers.
        """
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"shape {tuple(shape)}: expected (height, width), both at least 1 pixel")
        height, width = int(shape[0]), int(shape[1])
        starts, ends = self.runs(text)
        if ends.size and ends[-1] > height * width:
            run = int(np.searchsorted(ends, height * width, side="right"))
            fault = (
                f"ends {ends[run] - height * width} pixels past the last of the {height * width} pixels "
                f"of shape ({height}, {width}): check the image's (height, width) and the dialect's base"
            )
            _refuse(text, run, fault)
        if self.order == "row":
            return _paint((starts, ends), height * width).reshape(height, width)
        if width < NARROW:
            return np.ascontiguousarray(_paint((starts, ends), height * width).reshape(width, height).T)
        return _paint_columns((starts, ends), height, width)

    def runs(self, text: str) -> Runs:
        """Starts and ends of a text's runs: all that can be read and checked without the mask's shape.

        Runs may touch ("1 2 3 1"), as they do in some training files, but not overlap.

        Shapes:
            returns: (N,) and (N,) int64; run i is pixels starts[i] .. ends[i] - 1, numbered from 0
                in the dialect's order.

        Raises:
            RLEError: if text is not a str, holds something that is not an integer, an odd count of
                numbers, a length below 1, or runs that are unsorted, overlap or begin before the
                first pixel. The message names the run, counted from 1, and the place in the text,
                counted from 0: text[place:] begins with what is wrong.
        """
        if not isinstance(text, str):
            raise RLEError(
                f"an rle is a str, got {text!r} of type {type(text).__name__}: "
                "read the CSV with dtype=str and keep_default_na=False"
            )
        if text.strip() in ("", self.empty.strip()):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        return _parse(text, self)


KAGGLE = Dialect()


def encode(mask: np.ndarray) -> str:
    """The text of a (H, W) mask in Kaggle's default dialect. See Dialect.encode."""
    return KAGGLE.encode(mask)


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The (H, W) mask of a text in Kaggle's default dialect. See Dialect.decode."""
    return KAGGLE.decode(text, shape)


def area(runs: Runs) -> int:
    """Pixels in the runs of one mask, as Dialect.runs returns them."""
    starts, ends = runs
    return int((ends - starts).sum())


def overlap(a: Runs, b: Runs) -> int:
    """Pixels that two masks share, from their runs alone: a CSV is scored without its images.

    With B(x) the number of b's pixels before pixel x:

        overlap = sum over the runs of a of B(end) - B(start)

    Both must be numbered in the same order, in an image of the same shape. Takes
    O((|a| + |b|) log |b|) steps, whatever the size of the image.
    """
    starts, ends = a
    return int((_pixels_before(ends, b) - _pixels_before(starts, b)).sum())


def _pixels_before(pixels: np.ndarray, runs: Runs) -> np.ndarray:
    """How many pixels of the runs come before each of the given pixels, (N,) to (N,)."""
    starts, ends = runs
    if not starts.size:
        return np.zeros_like(pixels)
    total = np.concatenate(([0], np.cumsum(ends - starts)))
    begun = np.searchsorted(starts, pixels)  # runs that begin before the pixel; the last may go on past it
    unfinished = np.maximum(ends[begun - 1] - pixels, 0) * (begun > 0)
    return total[begun] - unfinished


# Encoding: find the pixels that differ from the one before them, without touching the pixels that do not.


def _checked(mask: np.ndarray) -> np.ndarray:
    """The mask as uint8, contiguous in one of the two directions. Values are checked in _edges."""
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


def _edges(mask: np.ndarray, order: str) -> np.ndarray:
    """Where the mask changes along the pixel order: start, end, start, end, ... (2N,) int64, sorted.

    The pixels outside the mask count as 0, so a run that begins on the first pixel has a start and
    one that reaches the last pixel has an end.
    """
    along_memory = mask.flags.c_contiguous if order == "row" else mask.flags.f_contiguous
    lines = mask if mask.flags.c_contiguous else mask.T  # (lines, line), C-contiguous
    if not along_memory and mask.size < SMALL:
        lines, along_memory = np.ascontiguousarray(lines.T), True
    flat = lines.reshape(-1)
    edges = _changes(flat, 1) if along_memory else _changes_across(lines)
    first = np.flatnonzero(flat[:1])
    last = np.flatnonzero(flat[-1:]) + flat.size
    return np.concatenate((first, edges, last))


def _join(numbers: np.ndarray) -> str:
    """The numbers with blanks between them. (N,) int64 >= 0 to text."""
    if numbers.size < MANY:
        # One format call over python ints: 1.7 times as fast as " ".join(map(str, ...)).
        return ("%d " * numbers.size % tuple(numbers.tolist()))[:-1]
    width = len(str(numbers.max()))
    letters = np.full((numbers.size, width + 1), ord(" "), dtype=np.uint8)
    kept = np.ones(letters.shape, dtype=bool)
    rest = numbers.astype(np.uint32 if numbers.max() < 1 << 32 else np.uint64)
    for place in range(width - 1, -1, -1):  # all numbers at once, from the last digit to the first
        shorter = rest // 10
        letters[:, place] = ord("0") + (rest - 10 * shorter)
        kept[:, place] = (rest > 0) | (place == width - 1)  # no zeros in front, but a 0 alone is a digit
        rest = shorter
    return letters[kept][:-1].tobytes().decode("ascii")


def _changes_across(lines: np.ndarray) -> np.ndarray:
    """Where the pixel order runs across the lines in memory, the changes in it. (N,) int64, sorted.

    A transposed copy of 5000 x 5000 pixels takes 88 ms, this 3 ms: neighbours along the order lie
    one line apart in memory, so they are compared in memory order, and only the few that differ
    are renumbered and sorted.

    Shapes:
        lines: (lines, line), C-contiguous; pixel (i, j) has number j * lines + i.
    """
    count, length = lines.shape
    i, j = np.divmod(_changes(lines.reshape(-1), length), length)
    # The last line's pixel j - 1 is followed by the first line's pixel j: a run may go on there.
    turns = np.flatnonzero(lines[0, 1:] != lines[-1, :-1]) + 1
    # stable: each line's numbers are ascending already, and the merge sort behind it makes use of that.
    return np.sort(np.concatenate((j * count + i, turns * count)), kind="stable")


def _changes(flat: np.ndarray, shift: int) -> np.ndarray:
    """The p >= shift with flat[p] != flat[p - shift], ascending. (P,) uint8 to (N,) int64.

    Raises:
        ValueError: if flat holds anything but 0 and 1. All values are 0 or 1 exactly if the first
            `shift` are and each XOR with the value `shift` before is, so this check costs nothing.
    """
    _refuse_other_than_binary(flat[:shift])
    count = flat.size - shift
    differs = np.empty(min(BLOCK, -(-count // 8) * 8), dtype=np.uint8)
    words = differs.view(np.uint64)  # eight pixels at a time: nearly all words are 0
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        before = flat[start : start + size]
        np.bitwise_xor(flat[start + shift : start + shift + size], before, out=differs[:size])
        differs[size:] = 0
        hits = (words != 0).nonzero()[0]  # != 0 first: numpy searches bool 3 times as fast as uint64
        pixels = words[hits].view(np.uint8)
        _refuse_other_than_binary(pixels)
        at = pixels.view(bool).nonzero()[0]
        found.append(hits[at >> 3] * 8 + (at & 7) + (start + shift))
    return np.concatenate(found)


def _refuse_other_than_binary(values: np.ndarray) -> None:
    if values.size and values.max() > 1:
        raise ValueError("mask holds values other than 0 and 1: write `mask > 0` if 255 stands for 1")


# Decoding: read the numbers, check them all at once, and look for words only if one is wrong.


def _is_valid(text: str, dialect: Dialect) -> bool:
    try:
        _parse(text, dialect)
    except RLEError:
        return False
    return True


def _parse(text: str, dialect: Dialect) -> Runs:
    """Runs of a text that is not an empty mask. Raises RLEError, see Dialect.runs."""
    numbers = _numbers(text)
    if numbers.size % 2:
        fault = f"no length: expected pairs 'start length', got {numbers.size} numbers. Is the text cut off?"
        _refuse(text, numbers.size // 2, fault)
    lengths = numbers[1::2]
    if dialect.relative:
        ends = np.cumsum(numbers)[1::2]
        starts = ends - lengths
    else:
        starts = numbers[::2] - dialect.base
        ends = starts + lengths
    previous = np.concatenate(([0], ends[:-1]))
    wrong = (lengths < 1) | (starts < previous)
    if wrong.any():
        run = int(wrong.argmax())
        _refuse(text, run, _fault(run, int(lengths[run]), int(previous[run] - starts[run]), dialect))
    return starts, ends


def _numbers(text: str) -> np.ndarray:
    """The integers of a text, (N,) int64, none beyond LARGEST.

    Raises:
        RLEError: for anything that is not an integer, or one beyond LARGEST.
    """
    # fromstring is 7 times as fast as int() on each, but reads "5-3" as two numbers and 10**30 as
    # 2**63 - 1: it gets text of digits and blanks only, and the limit is checked after it.
    if text.isascii() and not text.encode().translate(None, b"0123456789 \t\r\n"):
        numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    else:
        numbers = np.array([_integer(text, i, t.group()) for i, t in enumerate(TOKEN.finditer(text))])
    if numbers.max() > LARGEST:
        fault = f"no image has more than {LARGEST} pixels: is a blank missing?"
        _refuse(text, int(numbers.argmax()) // 2, fault)
    return numbers


def _integer(text: str, position: int, token: str) -> int:
    """One number, the slow way, for texts with a character that is not a digit."""
    if not INTEGER.fullmatch(token):
        fault = f"'{token}' is not an integer: expected 'start length' with blanks between, no '.' or ','"
        _refuse(text, position // 2, fault)
    # By way of float, which is exact up to LARGEST: int() refuses 5000 digits in its own words.
    return int(max(-LARGEST, min(float(token), LARGEST + 1)))


def _fault(run: int, length: int, back: int, dialect: Dialect) -> str:
    """What is wrong with a run that has a length below 1, or starts `back` pixels too early."""
    if length < 1:
        return (
            f"length {length}, expected at least 1: drop the run, or, if this is how the competition "
            "writes an empty mask, name it in the dialect's `empty`"
        )
    if dialect.relative:
        return f"gap {-back}, expected at least 0: is this text absolute? Then set relative = false"
    if run == 0:
        return f"starts before the first pixel, which is {dialect.base}: check the dialect's base"
    return (
        f"starts {back} pixels before the previous run has ended: sort the runs and join those that overlap. "
        "Is this text relative? Then set relative = true"
    )


def _refuse(text: str, run: int, fault: str) -> NoReturn:
    """Raise RLEError for a run, counted from 0 here and from 1 in the message."""
    tokens = list(TOKEN.finditer(text))[2 * run : 2 * run + 2]
    place = tokens[0].start()
    excerpt = text[place : tokens[-1].end()]
    excerpt = excerpt if len(excerpt) <= 40 else excerpt[:40] + "..."
    raise RLEError(f"run {run + 1} ('{excerpt}', character {place}): {fault}")


def _paint(runs: Runs, size: int) -> np.ndarray:
    """Pixels in the order of the runs, (size,) uint8. Touching runs become stretches of 0 zeros."""
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

    Each border of a run becomes a 1 in an empty mask. Then every row is XORed with the row above:
    a pixel is 1 if an odd number of borders lies at or above it.
    """
    starts, ends = runs
    mask = np.zeros((height, width), dtype=np.uint8)
    for borders in (starts, ends):
        column, row = np.divmod(borders, height)
        inside = row > 0  # row 0 is below, and the end of a run on the last pixel lies outside
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
