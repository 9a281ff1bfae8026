"""Runs as a JSON list, `[start, length, ...]`, one list per instance, joined by semicolons.

Source:
    Recod.ai scientific image forgery detection, 2025 (from a copy of its text; not verified).
"""

import re

import numpy as np

from pipeline.rle import pairs
from pipeline.rle.runs import RLEError

LIST = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*-?[0-9]+[ \t\r\n]*(,[ \t\r\n]*-?[0-9]+[ \t\r\n]*)*\][ \t\r\n]*")
BLANKS = str.maketrans("[],", "   ")  # one for one: a place in the text stays that place


def join(numbers: np.ndarray) -> str:
    """The numbers as a list. (N,) int64 >= 0 to text."""
    return f"[{pairs.join(numbers).replace(' ', ', ')}]"


def plain(text: str) -> str:
    """The list without its marks, every number where it was.

    Raises:
        RLEError: for several lists, or what is not a list of integers.
    """
    if ";" in text:
        raise RLEError(
            f"{text.count(';') + 1} instances joined by ';', expected one: take them apart with Dialect.split"
        )
    if not LIST.fullmatch(text):
        raise RLEError(f"'{text[:40]}' is not a list of integers: expected '[start, length, ...]'")
    return text.translate(BLANKS)
