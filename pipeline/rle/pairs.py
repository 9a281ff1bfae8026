"""Runs as pairs of numbers, `start length`, absolute or relative.

All numbers are read and checked at once. Only a text with an error is split into words, to report the run and the
character.
"""

import re
from typing import NoReturn

import numpy as np

from pipeline.rle.runs import MAX_PIXELS, RLEError, Runs

MIN_NUMBERS_FOR_NUMPY = 1000  # below, Python formats numbers faster than numpy
TOKEN = re.compile(r"[^ \t\r\n]+")
INTEGER = re.compile(r"-?[0-9]+")  # ASCII only: int() would also take "1_000" and "+5"


def numbers_of_runs(runs: Runs, base: int, relative: bool) -> np.ndarray:
    """The numbers start, length, start, length, ... of runs in a dialect, (2N,) int64."""
    starts, ends = runs
    numbers = np.empty(2 * starts.size, dtype=np.int64)
    numbers[1::2] = ends - starts
    numbers[::2] = starts + (0 if relative else base)
    if relative:
        numbers[2::2] -= ends[:-1]
    return numbers


def format_numbers(numbers: np.ndarray) -> str:
    """Numbers (N,) int64 >= 0 as text, separated by blanks."""
    if numbers.size < MIN_NUMBERS_FOR_NUMPY:
        # One format call over Python ints: 1.7 times as fast as " ".join(map(str, ...)).
        return ("%d " * numbers.size % tuple(numbers.tolist()))[:-1]
    width = len(str(numbers.max()))
    letters = np.full((numbers.size, width + 1), ord(" "), dtype=np.uint8)
    kept = np.ones(letters.shape, dtype=bool)
    rest: np.ndarray = numbers.astype(np.uint32 if numbers.max() < 1 << 32 else np.uint64)
    for place in range(width - 1, -1, -1):  # all numbers at once, from the last digit to the first
        shorter = rest // 10
        letters[:, place] = ord("0") + (rest - 10 * shorter)
        kept[:, place] = (rest > 0) | (place == width - 1)  # no leading zeros, but a single 0 is kept
        rest = shorter
    return letters[kept][:-1].tobytes().decode("ascii")


def read(text: str, base: int, relative: bool, shape: tuple[int, int] | None) -> Runs:
    """The runs of a text that is not blank.

    Raises:
        RLEError: as Dialect.runs.
    """
    numbers = _parse_numbers(text)
    if numbers.size % 2:
        fault = f"no length: expected pairs 'start length', got {numbers.size} numbers. Is the text truncated?"
        _raise_error(text, numbers.size // 2, fault)
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
        _raise_error(
            text, run, _describe_fault(run, int(lengths[run]), int(previous[run] - starts[run]), base, relative)
        )
    if shape is not None and ends[-1] > shape[0] * shape[1]:
        _raise_past_the_end(text, ends, shape)
    return starts, ends


def _parse_numbers(text: str) -> np.ndarray:
    """The integers of a text, (N,) int64, at most MAX_PIXELS.

    Raises:
        RLEError: if a token is not an integer, or a number exceeds MAX_PIXELS.
    """
    # fromstring is 7 times as fast as int() for each number, but reads "5-3" as two numbers and 10**30 as 2**63 - 1.
    # So it reads only texts of digits and blanks, and the limit is checked afterwards.
    if text.isascii() and not text.encode().translate(None, b"0123456789 \t\r\n"):
        numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    else:
        numbers = np.array([_parse_integer(text, i, t.group()) for i, t in enumerate(TOKEN.finditer(text))])
    if numbers.max() > MAX_PIXELS:
        fault = f"no image has more than {MAX_PIXELS} pixels: is a blank missing?"
        _raise_error(text, int(numbers.argmax()) // 2, fault)
    return numbers


def _parse_integer(text: str, position: int, token: str) -> int:
    """One number of a text with characters that are not digits."""
    if not INTEGER.fullmatch(token):
        fault = f"{token!r} is not an integer: expected 'start length' with blanks between, no '.' or ','"
        _raise_error(text, position // 2, fault)
    # Through float, which is exact up to MAX_PIXELS: int() raises its own error for 5000 digits.
    return int(max(-MAX_PIXELS, min(float(token), MAX_PIXELS + 1)))


def _describe_fault(run: int, length: int, back: int, base: int, relative: bool) -> str:
    """What is wrong with a run that has a length below 1, or starts `back` pixels too early."""
    if length < 1:
        return (
            f"length {length}, expected at least 1: drop the run, or, if this is how the competition "
            "writes an empty mask, set it as the dialect's `empty`"
        )
    if relative:
        return f"gap {-back}, expected at least 0: is this text absolute? Then set relative = false"
    if run == 0:
        return f"starts before the first pixel, which is {base}: check the dialect's base"
    return (
        f"starts {back} pixels before the previous run has ended: sort the runs and join those that overlap. "
        "Is this text relative? Then set relative = true"
    )


def _raise_error(text: str, run: int, fault: str) -> NoReturn:
    """Raise RLEError for a run, which is counted from 0 here and from 1 in the message."""
    tokens = list(TOKEN.finditer(text))[2 * run : 2 * run + 2]
    place = tokens[0].start()
    excerpt = text[place : tokens[-1].end()]
    excerpt = excerpt if len(excerpt) <= 40 else excerpt[:40] + "..."
    raise RLEError(f"run {run + 1} ({excerpt!r}, character {place}): {fault}")


def _raise_past_the_end(text: str, ends: np.ndarray, shape: tuple[int, int]) -> NoReturn:
    height, width = map(int, shape)
    size = height * width
    run = int(np.searchsorted(ends, size, side="right"))
    fault = (
        f"ends {ends[run] - size} pixels past the last of the {size} pixels of shape ({height}, {width}): "
        "check the image's (height, width) and the dialect's base"
    )
    _raise_error(text, run, fault)
