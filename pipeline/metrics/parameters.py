"""Parameters of metrics: which values a card may give."""

from collections.abc import Callable
from operator import lt
from typing import Any, NamedTuple

import numpy as np

Value = float | str | list[float]


class Parameter(NamedTuple):
    """One parameter of a metric."""

    expected: str  # the valid values, for error messages
    is_valid: Callable[[Any], bool]
    default: Value | None = None  # None: the card must give a value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # not isinstance: bool is a subclass of int


def _is_between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and low <= value <= high


def _are_shares(values: Any) -> bool:
    """Whether the value is one number between 0 and 1, or a rising list of them."""
    several = values if isinstance(values, list) and values else [values]
    return all(_is_number(each) and 0 < each < 1 for each in several) and all(map(lt, several, several[1:]))


def _are_coco_thresholds(values: Any) -> bool:
    return _are_shares(values) and set(np.atleast_1d(values)) <= {number / 20 for number in range(10, 20)}


def _is_one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _is_spacing(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(map(_is_between(0.001, 1000), values))


BETA = Parameter("a number from 0.01 to 100", _is_between(0.01, 100))
EMPTY = Parameter('1, 0 or "skip"', lambda value: value == "skip" or (_is_number(value) and value in (0, 1)), 1.0)
AP_IOU = Parameter("a number between 0 and 1, or a list of such that rise", _are_shares)
F1_IOU = Parameter("one of 0.5, 0.55, …, 0.95, or a list of such that rise", _are_coco_thresholds)
TOLERANCE = Parameter("a number from 0 to 1000", _is_between(0, 1000), 0.0)
SPACING = Parameter("three numbers from 0.001 to 1000: of slices, rows and columns", _is_spacing, [1.0] * 3)
NORMALIZE = Parameter('"axes", "cube" or "diagonal"', _is_one_of("axes", "cube", "diagonal"), "axes")
AVERAGE = Parameter('"volumes" or "surfaces"', _is_one_of("volumes", "surfaces"), "volumes")
