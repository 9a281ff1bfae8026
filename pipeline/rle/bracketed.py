"""Runs as a JSON list, `[start, length, ...]`, one list per instance, joined by semicolons.

Source:
    Recod.ai scientific image forgery detection, 2025 (from a copy of its text; not verified).
"""

import re

import numpy as np

from pipeline.rle import pairs
from pipeline.rle.runs import RLEError

LIST = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*-?[0-9]+[ \t\r\n]*(,[ \t\r\n]*-?[0-9]+[ \t\r\n]*)*\][ \t\r\n]*")
BLANKS = str.maketrans("[],", "   ")  # of equal length: positions in the text stay the same


def format_numbers(numbers: np.ndarray) -> str:
    """Numbers (N,) int64 >= 0 as the text of a list."""
    return f"[{pairs.format_numbers(numbers).replace(' ', ', ')}]"


def strip_brackets(text: str) -> str:
    """The text with brackets and commas replaced by blanks, so that each number keeps its position.

    Raises:
        RLEError: if the text holds several lists, or is not a list of integers.
    """
    if ";" in text:
        raise RLEError(f"{text.count(';') + 1} instances joined by ';': write a row for each")
    if not LIST.fullmatch(text):
        raise RLEError(f"'{text[:40]}' is not a list of integers: expected '[start, length, ...]'")
    return text.translate(BLANKS)
