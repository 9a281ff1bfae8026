"""Parameters of metrics, as a card gives them in a table: `metric = { name = "mean_f_beta", beta = 2.0 }`.

From the card on, such a metric goes by one text, `mean_f_beta(beta=2)`: in the settings of a run, in manifests, in the
report and on the screen. Where a name without parameters says the same, it is the text, so that there is one text to
each metric and the runs of before go on.
"""

import json
import re
from collections.abc import Callable, Mapping
from operator import lt
from typing import Any, NamedTuple

import numpy as np

Value = float | str | list[float]


class Parameter(NamedTuple):
    """What a card may say of a metric."""

    expected: str
    fits: Callable[[Any], bool]
    default: Value | None = None  # None: a card has to say it


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # and no truth value, which is an int


def _are_shares(values: Any) -> bool:
    """Whether values are one number between 0 and 1, or several that rise."""
    several = values if isinstance(values, list) and values else [values]
    return all(_is_number(each) and 0 < each < 1 for each in several) and all(map(lt, several, several[1:]))


def _are_twentieths(values: Any) -> bool:
    return _are_shares(values) and set(np.atleast_1d(values)) <= {number / 20 for number in range(10, 20)}


def _is_spacing(values: Any) -> bool:
    several = values if isinstance(values, list) else []
    return len(several) == 3 and all(_is_number(each) and 0.001 <= each <= 1000 for each in several)


BETA = Parameter("a number from 0.01 to 100", lambda value: _is_number(value) and 0.01 <= value <= 100)
EMPTY = Parameter('1, 0 or "skip"', lambda value: value == "skip" or (_is_number(value) and value in (0, 1)), 1.0)

PARAMETERS: dict[str, dict[str, Parameter]] = {
    "mean_dice": {"empty": EMPTY},
    "mean_f_beta": {"beta": BETA, "empty": EMPTY},
    "global_f_beta": {"beta": BETA},
    "average_precision": {"iou": Parameter("a number between 0 and 1, or a list of such that rise", _are_shares)},
    "surface_dice": {
        "tolerance": Parameter("a number from 0 to 1000", lambda value: _is_number(value) and 0 <= value <= 1000, 0.0),
        "spacing": Parameter("three numbers from 0.001 to 1000: of slices, rows and columns", _is_spacing, [1.0] * 3),
    },
    "f1": {"iou": Parameter("one of 0.5, 0.55, …, 0.95, or a list of such that rise", _are_twentieths)},
}

NAMES = {  # without parameters, of what has some
    "mean_dice(empty=0)": "mean_dice_empty_0",
    "mean_dice(empty=skip)": "mean_dice_ignore_empty",
    "global_f_beta(beta=0.5)": "global_f05",
    "average_precision(iou=0.6)": "ap60",
    "f1(iou=0.6)": "f1_60",
}


def text_of(name: str, values: Mapping[str, Value]) -> str:
    """The text that a metric goes by; parameters in the order of PARAMETERS, without those at their default.

    >>> text_of("mean_f_beta", {"beta": 2.0, "empty": 1})
    'mean_f_beta(beta=2)'
    >>> text_of("global_f_beta", {"beta": 0.5})
    'global_f05'
    """
    known = PARAMETERS.get(name, {})
    told = [f"{key}={_shown(values[key])}" for key in known if key in values and values[key] != known[key].default]
    text = f"{name}({', '.join(told)})" if told else name
    return NAMES.get(text, text)


def parts_of(text: str) -> tuple[str, dict[str, Value]]:
    """The name and parameters of such a text; a name without parameters is one by itself.

    >>> parts_of("average_precision(iou=[0.5, 0.75])")
    ('average_precision', {'iou': [0.5, 0.75]})
    >>> parts_of("ap60")
    ('ap60', {})
    """
    name, _, inner = text.removesuffix(")").partition("(")
    pairs = re.findall(r"(\w+)=(\[[^]]*\]|[^,]+)", inner)
    return name, {key: value if value.isalpha() else json.loads(value) for key, value in pairs}


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _shown(value[0]) if len(value) == 1 else f"[{', '.join(map(_shown, value))}]"
    return repr(float(value)).removesuffix(".0")
