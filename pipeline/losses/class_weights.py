"""Weights of classes: numbers of a config, or computed from the pixels that each class has in the training images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.quoting import listed, shortened
from pipeline.schema import did_you_mean


class ClassAreas(NamedTuple):
    """The pixels of each class in each image.

    Shapes:
        areas: (N, C), in pixels.
        sizes: (N,), pixels of the whole image.
    """

    areas: np.ndarray
    sizes: np.ndarray


def median_frequency(areas: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The median of all frequencies divided by the frequency of the class: its share of the images that contain it.

    Shapes:
        as ClassAreas; returns (C,), NaN for a class without a pixel.

    Source:
        Eigen and Fergus, https://arxiv.org/abs/1411.4734, section 6.3.2.
    """
    frequency = areas.sum(axis=0) / ((areas > 0) * sizes[:, None]).sum(axis=0)
    return np.nanmedian(frequency) / frequency


def inverse_sqrt(areas: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The inverse square root of the class's share of all pixels, divided by that of the median share.

    Shapes:
        as `median_frequency`.
    """
    share = np.where(areas.any(axis=0), areas.sum(axis=0) / sizes.sum(), np.nan)
    return np.sqrt(np.nanmedian(share) / share)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "median_frequency": median_frequency,
    "inverse_sqrt": inverse_sqrt,
}


PER_CLASS = ("positive_weight", "class_weights")  # options of losses that take one number for each class, or a method


def resolve_option(
    option: str, value: Any, classes: Sequence[str], areas: ClassAreas | None, *, exclusive: bool
) -> Any:
    """The numbers that an option of PER_CLASS stands for; None if it names a method and there are no areas.

    Args:
        value: of the config.
        classes: the name of each channel of the logits; none: the number of weights is not checked.
        areas: as `compute_weights`; channels after those of the classes, such as that of boundaries, get the weight 1.

    Raises:
        ValueError: for an unknown method, or another number of weights than of classes.
    """
    if isinstance(value, str):
        if value not in METHODS:
            raise ValueError(
                f"{option} = '{shortened(value)}': expected numbers, or a method. {did_you_mean(value, METHODS)}"
            )
        if areas is None:
            return None
        weights = compute_weights(value, areas, exclusive=exclusive)
        return (*weights, *[1.0] * (len(classes) - len(weights)))
    if isinstance(value, Sequence) and classes and len(value) != len(classes):
        raise ValueError(
            f"{option} has {len(value)} numbers, expected {len(classes)}, one for each of {listed(classes, 200)}"
        )
    return value


def compute_weights(method: str, found: ClassAreas, *, exclusive: bool) -> tuple[float, ...]:
    """A weight for each class, rounded to 4 digits; 1 for a class without a pixel.

    Exclusive classes are weighted against each other. A mask per class has two classes of its own, masked and not
    masked, and the weight is the ratio of theirs: for "median_frequency" (1 - f) / f if every image has both.

    Args:
        method: a key of METHODS.
        found: of the classes in the training images.
    """
    if not found.areas.any():
        return (1.0,) * found.areas.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        if exclusive:
            weights = METHODS[method](*found)
        else:
            both = [np.stack([area, found.sizes - area], axis=1) for area in found.areas.T]
            weights = np.array([np.divide(*METHODS[method](each, found.sizes)) for each in both])
    return tuple(float(f"{weight:.4g}") if np.isfinite(weight) else 1.0 for weight in weights)


def check_class_weights(weights: Sequence[float]) -> None:
    """Check the weights of classes; none at all is allowed.

    Raises:
        ValueError: if one is negative or not finite, or all are 0.
    """
    for weight in weights:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"class_weights must be >= 0 and finite, got {weight}")
    if weights and not any(weights):
        raise ValueError("class_weights are all 0: nothing would be learned")


def to_channels(weights: Sequence[float], logits: Tensor) -> Tensor:
    """Weights as a tensor on the device of the logits, to which nothing is copied.

    Shapes:
        logits: (N, C, H, W); returns (C,) of their dtype.

    Raises:
        ValueError: if there is not a weight for each channel.
    """
    if len(weights) != logits.shape[1]:
        raise ValueError(f"{len(weights)} class weights for logits of {logits.shape[1]} classes: expected one for each")
    return torch.stack([logits.new_full((), weight) for weight in weights])


def weighted_mean(values: Tensor, weights: Tensor, dim: int = 0) -> Tensor:
    """The weighted mean of values along an axis; 0, with a gradient of 0, where all weights are 0.

    Shapes:
        values: any float; weights: of the same shape, bool or float >= 0.

    >>> weighted_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([3.0, 1.0, 0.0]))
    tensor(1.2500)
    """
    total = weights.sum(dim=dim)
    return (values * weights).sum(dim=dim) / torch.where(total > 0, total, 1)
