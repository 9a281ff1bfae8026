"""Runs as pairs of numbers, `start length`, absolute or relative: read, checked all at once, and written.

Words are looked for only in a text that is wrong, to name the run and the place.
"""

import re
from typing import NoReturn

import numpy as np

from pipeline.rle.runs import LARGEST, RLEError, Runs

MANY = 1000  # numbers; below, python formats them faster than numpy does
TOKEN = re.compile(r"[^ \t\r\n]+")
INTEGER = re.compile(r"-?[0-9]+")  # ASCII only: int() would also take "1_000" and "+5"


def numbers_of(runs: Runs, base: int, relative: bool) -> np.ndarray:
    """start, length, start, length, ... as a dialect numbers them. (2N,) int64."""
    starts, ends = runs
    numbers = np.empty(2 * starts.size, dtype=np.int64)
    numbers[1::2] = ends - starts
    numbers[::2] = starts + (0 if relative else base)
    if relative:
        numbers[2::2] -= ends[:-1]
    return numbers


def join(numbers: np.ndarray) -> str:
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


def read(text: str, base: int, relative: bool, shape: tuple[int, int] | None) -> Runs:
    """Runs of a text that is not blank. Raises RLEError, see Dialect.runs."""
    numbers = _numbers(text)
    if numbers.size % 2:
        fault = f"no length: expected pairs 'start length', got {numbers.size} numbers. Is the text cut off?"
        _refuse(text, numbers.size // 2, fault)
    lengths = numbers[1::2]
    if relative:
        ends = np.cumsum(numbers)[1::2]
        starts = ends - lengths
    else:
        starts = numbers[::2] - base
        ends = starts + lengths
    previous = np.concatenate(([0], ends[:-1]))
    wrong = (lengths < 1) | (starts < previous)
    if wrong.any():
        run = int(wrong.argmax())
        _refuse(text, run, _fault(run, int(lengths[run]), int(previous[run] - starts[run]), base, relative))
    if shape is not None and ends[-1] > shape[0] * shape[1]:
        _refuse_past_the_end(text, ends, shape)
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
        fault = f"{token!r} is not an integer: expected 'start length' with blanks between, no '.' or ','"
        _refuse(text, position // 2, fault)
    # By way of float, which is exact up to LARGEST: int() refuses 5000 digits in its own words.
    return int(max(-LARGEST, min(float(token), LARGEST + 1)))


def _fault(run: int, length: int, back: int, base: int, relative: bool) -> str:
    """What is wrong with a run that has a length below 1, or starts `back` pixels too early."""
    if length < 1:
        return (
            f"length {length}, expected at least 1: drop the run, or, if this is how the competition "
            "writes an empty mask, name it in the dialect's `empty`"
        )
    if relative:
        return f"gap {-back}, expected at least 0: is this text absolute? Then set relative = false"
    if run == 0:
        return f"starts before the first pixel, which is {base}: check the dialect's base"
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
    raise RLEError(f"run {run + 1} ({excerpt!r}, character {place}): {fault}")


def _refuse_past_the_end(text: str, ends: np.ndarray, shape: tuple[int, int]) -> NoReturn:
    height, width = map(int, shape)
    size = height * width
    run = int(np.searchsorted(ends, size, side="right"))
    fault = (
        f"ends {ends[run] - size} pixels past the last of the {size} pixels of shape ({height}, {width}): "
        "check the image's (height, width) and the dialect's base"
    )
    _refuse(text, run, fault)
