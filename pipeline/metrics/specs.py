"""All metrics in one table, and the texts that name them.

A metric is named by one text in cards, settings of runs, manifests and reports: its name, with parameters that differ
from their defaults in brackets, as in `mean_f_beta(beta=2)`. If PRESETS has a name for that text, the name is used
instead, so that each metric has exactly one text.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipeline.metrics.instances import IOU_TWENTIETHS, Matches, airbus_f2, dsb_precision, f1
from pipeline.metrics.overlap import dice, f_beta, iou, tgs_precision
from pipeline.metrics.parameters import (
    AP_IOU,
    AVERAGE,
    BETA,
    EMPTY,
    F1_IOU,
    NORMALIZE,
    SPACING,
    TOLERANCE,
    Parameter,
    Value,
)
from pipeline.metrics.pixels import Metric, class_iou, global_dice, global_f_beta, mean_over_images
from pipeline.metrics.ranked import mean_average_precision
from pipeline.metrics.volumes import Volume, mean_surface_dice, uw_madison

KINDS = ("pixels", "objects", "ranked objects", "volumes")


class MetricSpec(NamedTuple):
    """One metric: what it is computed from, how, and with which parameters."""

    kind: str  # in KINDS
    build: Callable[..., Any]  # parameters to the metric, whose type depends on the kind: see `pixel_metric` and so on
    parameters: Mapping[str, Parameter] = {}
    # Parameters to the name of the metric that chooses weights and thresholds; None: the metric itself does. A metric
    # of volumes or of ranked objects has no score of a single image, so another metric of single images stands in.
    selection: Callable[..., str] | None = None


def _nearest_f1(iou: float | list[float]) -> str:
    """F1 at the IoUs of average precision, each rounded to one of .50, .55, …, .95, where matches can be counted."""
    nearest = {int(np.clip(np.rint(20 * each), *IOU_TWENTIETHS[[0, -1]])) / 20 for each in np.atleast_1d(iou)}
    return format_metric("f1", {"iou": sorted(nearest)})


# A new metric is a function in this package and an entry here.
METRICS: dict[str, MetricSpec] = {
    "mean_dice": MetricSpec("pixels", partial(mean_over_images, dice), {"empty": EMPTY}),
    "mean_iou": MetricSpec("pixels", partial(mean_over_images, iou)),
    "tgs_precision": MetricSpec("pixels", partial(mean_over_images, tgs_precision)),
    "mean_f_beta": MetricSpec(
        "pixels",
        lambda beta, empty=1: mean_over_images(partial(f_beta, beta=beta), empty),
        {"beta": BETA, "empty": EMPTY},
    ),
    "global_f_beta": MetricSpec("pixels", global_f_beta, {"beta": BETA}),
    "global_dice": MetricSpec("pixels", global_dice),
    "class_iou": MetricSpec("pixels", class_iou),
    "dsb_precision": MetricSpec("objects", lambda: dsb_precision),
    "airbus_f2": MetricSpec("objects", lambda: airbus_f2),
    "average_precision": MetricSpec(
        "ranked objects",
        lambda iou: partial(mean_average_precision, ious=np.atleast_1d(iou).tolist()),
        {"iou": AP_IOU},
        _nearest_f1,
    ),
    "f1": MetricSpec("objects", partial(partial, f1), {"iou": F1_IOU}),
    "surface_dice": MetricSpec(
        "volumes",
        partial(partial, mean_surface_dice),
        {"tolerance": TOLERANCE, "spacing": SPACING, "average": AVERAGE},
        lambda **_: "mean_dice",
    ),
    # Its Dice part leaves out a slice and class with both masks empty.
    "uw_madison": MetricSpec(
        "volumes",
        partial(partial, uw_madison),
        {"normalize": NORMALIZE},
        lambda **_: "mean_dice_ignore_empty",
    ),
}

PRESETS = {  # names of metrics with fixed parameters
    "mean_dice_empty_0": "mean_dice(empty=0)",
    "mean_dice_ignore_empty": "mean_dice(empty=skip)",
    "global_f05": "global_f_beta(beta=0.5)",
    "ap60": "average_precision(iou=0.6)",
    "f1_60": "f1(iou=0.6)",
}


def format_metric(name: str, values: Mapping[str, Value]) -> str:
    """The text that names a metric; parameters in the order of the table, without those at their default.

    Args:
        name: a key of METRICS or PRESETS.
        values: parameters by name.

    >>> format_metric("mean_f_beta", {"beta": 2.0, "empty": 1})
    'mean_f_beta(beta=2)'
    >>> format_metric("global_f_beta", {"beta": 0.5})
    'global_f05'
    """
    known = METRICS[name].parameters if name in METRICS else {}
    given = [f"{key}={_format(values[key])}" for key in known if key in values and values[key] != known[key].default]
    text = f"{name}({', '.join(given)})" if given else name
    return next((preset for preset, full in PRESETS.items() if full == text), text)


def _format(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _format(value[0]) if len(value) == 1 else f"[{', '.join(map(_format, value))}]"
    return repr(float(value)).removesuffix(".0")


PARAMETER = r"\s*(\w+)\s*=\s*(\[[^]]*\]|[^,\[\]]+?)\s*"  # a name, and a list or one value


def parse_metric(text: str) -> tuple[str, dict[str, Value]]:
    """The key of METRICS and the parameters that a text stands for.

    >>> parse_metric("average_precision(iou=[0.5, 0.75])")
    ('average_precision', {'iou': [0.5, 0.75]})
    >>> parse_metric("ap60")
    ('average_precision', {'iou': 0.6})
    """
    name, _, inner = PRESETS.get(text, text).removesuffix(")").partition("(")
    pairs = re.findall(rf"{PARAMETER}(?:,|$)", inner)
    if not re.fullmatch(rf"({PARAMETER}(,|$))*", inner):
        raise ValueError(f"metric '{text}': expected parameters by name, as in mean_f_beta(beta=2)")
    return name, {key: _parse_value(value.strip(), text) for key, value in pairs}


def _parse_value(value: str, text: str) -> Any:
    """A parameter's value: a word, a number, or a list of numbers."""
    if value.isalpha():
        return value
    try:
        return json.loads(re.sub(r"(?<![\d.])\.(?=\d)", "0.", value))  # .5, which JSON does not allow
    except ValueError:
        raise ValueError(f"metric '{text}': {value} is no number, list of numbers or word") from None


def metric_kind(text: str) -> str:
    """What a metric is computed from, one of KINDS."""
    return METRICS[parse_metric(text)[0]].kind


def metric_names(*kinds: str, complete: bool = False) -> list[str]:
    """The names of metrics in alphabetical order.

    Args:
        kinds: of KINDS; none: all.
        complete: only the names that need no parameters.
    """
    incomplete = {
        name for name, spec in METRICS.items() if any(each.default is None for each in spec.parameters.values())
    }
    names = (name for name in (*METRICS, *PRESETS) if metric_kind(name) in (kinds or KINDS))
    return sorted(name for name in names if not (complete and name in incomplete))


def _build(text: str) -> Any:
    name, values = parse_metric(text)
    return METRICS[name].build(**values)


def pixel_metric(text: str) -> Metric:
    """The metric of kind "pixels" that a text names."""
    return _build(text)


def instance_metric(text: str) -> Callable[[Matches], float]:
    """The metric of kind "objects" that a text names: from the matches of one image to its score in [0, 1]."""
    return _build(text)


def ranked_metric(text: str) -> Callable[[Iterable[tuple[np.ndarray, np.ndarray]]], float]:
    """The metric of kind "ranked objects" that a text names, from images as `mean_average_precision` takes them."""
    return _build(text)


def volume_metric(text: str) -> Callable[[Iterable[Volume]], float]:
    """The metric of kind "volumes" that a text names, from volumes to their score in [0, 1]."""
    return _build(text)


def selection_metric(text: str) -> str:
    """The text of the metric that chooses weights and thresholds: the official one, or one of single images.

    >>> selection_metric("average_precision(iou=0.63)")
    'f1(iou=0.65)'
    """
    name, values = parse_metric(text)
    stand_in = METRICS[name].selection
    return stand_in(**values) if stand_in else text


def epoch_metric(text: str) -> str:
    """The text of the metric of pixels that scores epochs: the selection metric, or mean Dice if that is of objects."""
    selection = selection_metric(text)
    return selection if metric_kind(selection) == "pixels" else "mean_dice"
