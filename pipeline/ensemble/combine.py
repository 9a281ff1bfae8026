"""Stored probabilities of several members as those of one.

Every rule is a weighted sum between two functions, `inverse(Σ w · forward(level))`, where a level is 255 · probability.
A member's levels are few: 256, or 255·K + 1 for the mean of its K folds. So `forward` is a look-up table, and a pixel
costs one look-up and one multiplication per member.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE

# A stored 0 stands for anything up to 1/510, which has a logarithm as 0 has not. A hair inside of that half step, so
# that 0 comes back as 0 and 255 as 255.
FLOOR = 0.499


class Store(Protocol):
    """Stored values by image id: an `inference.prediction_store.PredictionStore`, or what is like one in memory."""

    def read(self, image_id: str) -> np.ndarray:
        """The values of one image, (C, H, W) uint8."""


class Combination(NamedTuple):
    """A rule's two functions, each of an array."""

    forward: Callable[[np.ndarray], np.ndarray]  # from levels, 0 to 255, to what is summed
    inverse: Callable[[np.ndarray], np.ndarray]  # and back


def _same(levels: np.ndarray) -> np.ndarray:
    return levels


def _log_odds(levels: np.ndarray) -> np.ndarray:
    clipped = np.clip(levels, FLOOR, MAX_VALUE - FLOOR)
    return np.log(clipped / (MAX_VALUE - clipped))


def _from_log_odds(log_odds: np.ndarray) -> np.ndarray:
    return MAX_VALUE / (1 + np.exp(-log_odds))


def _log(levels: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(levels, FLOOR))


def _vote(levels: np.ndarray) -> np.ndarray:
    return np.where(levels >= MAX_VALUE / 2, MAX_VALUE, 0)


# With p the members' probabilities and w their weights:
#   mean       Σ w·p. Nobody moves it by more than a weight.
#   logit      the sigmoid of Σ w·logit(p), or Π p^w / (Π p^w + Π (1 − p)^w): who is sure, of either, counts for more.
#   geometric  Π p^w alone: who is sure that there is nothing counts for more, who is sure of something does not.
#   vote       the sum of the weights of members with p ≥ .5: how sure they are does not count.
COMBINATIONS = {
    "mean": Combination(_same, _same),
    "logit": Combination(_log_odds, _from_log_odds),
    "geometric": Combination(_log, np.exp),
    "vote": Combination(_vote, _same),
}


def combination(how: str) -> Combination:
    """A rule by its name.

    Raises:
        ValueError: for a name that is not in COMBINATIONS.
    """
    if how not in COMBINATIONS:
        raise ValueError(f"unknown combination '{how}'. Known: {', '.join(COMBINATIONS)}")
    return COMBINATIONS[how]


def forward_table(how: str, stores: int = 1) -> np.ndarray:
    """`forward` of each sum that `stores` stored values can have, (255 · stores + 1,) float32.

    >>> forward_table("mean", 2)[[0, 1, 510]].tolist()
    [0.0, 0.5, 255.0]
    """
    return combination(how).forward(np.arange(MAX_VALUE * stores + 1) / stores).astype(np.float32)


def to_values(summed: np.ndarray, how: str) -> np.ndarray:
    """What a weighted sum of `forward` stands for, as the nearest stored value, uint8."""
    return np.rint(combination(how).inverse(summed)).astype(np.uint8)


def blend(values: np.ndarray, weights: np.ndarray, how: str = "mean") -> np.ndarray:
    """The stored values of M members as those of one.

    Shapes:
        values: (M, ...) uint8.
        weights: (M,), not negative, of sum 1.
        returns: (...) uint8.

    Raises:
        ValueError: for other weights, or a rule that is not in COMBINATIONS.
    """
    table = forward_table(how)
    shares = _shares(weights, len(values))
    return to_values(sum(table.take(part) * share for part, share in zip(values, shares, strict=True) if share), how)


def combine(
    members: Sequence[Sequence[Store]],
    image_id: str,
    how: str = "mean",
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """One image's stored values over all members, rounded once at the end.

    Within a member, whose stores are one model trained on different folds, it is the mean of probabilities; across
    members it is the rule. A member of weight 0 is not read.

    Args:
        members: for each config, its stores: for the test set one per fold, for OOF one in all.
        weights: (M,), not negative, of sum 1; None weighs members equally, however many stores they have.

    Shapes:
        returns: (C, H, W) uint8.

    Raises:
        ValueError: if the stores' arrays of this image differ in shape; else as `blend`.
    """
    shares = _shares(np.ones(len(members)) / len(members) if weights is None else weights, len(members))
    total: np.ndarray | None = None
    for stores, share in zip(members, shares, strict=True):
        if share:
            part = forward_table(how, len(stores)).take(_sum_of_stores(stores, image_id)) * share
            total = part if total is None else total + _same_shape(part, total, image_id)
    return to_values(total, how)


def average(members: Sequence[Sequence[Store]], image_id: str) -> np.ndarray:
    """`combine` by the mean with equal weights."""
    return combine(members, image_id)


def _sum_of_stores(stores: Sequence[Store], image_id: str) -> np.ndarray:
    """The sum of one member's stored values, in whole numbers: nothing is rounded before the table."""
    first, *others = [store.read(image_id) for store in stores]
    total = first if not others else first.astype(np.int64)
    for other in others:
        total += _same_shape(other, total, image_id)
    return total


def _same_shape(values: np.ndarray, others: np.ndarray, image_id: str) -> np.ndarray:
    if values.shape != others.shape:
        raise ValueError(
            f"image '{image_id}': one model predicts {values.shape}, another {others.shape} "
            f"(classes, height, width): combine configs of one competition only"
        )
    return values


def _shares(weights: np.ndarray, members: int) -> np.ndarray:
    """The weights in float32, if they are on the simplex."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (members,) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"weights {np.round(weights, 6).tolist()} of {members} members: expected one each, none negative, of sum 1"
        )
    return weights.astype(np.float32)
