"""Combine the stored probabilities of several members into those of one.

Every combination but stacking is a weighted sum between two functions, `inverse(Σ w · forward(level))`, where a level
is 255 · probability. A member has few levels: 256, or 255·K + 1 for the mean of its K folds. `forward` is
therefore a look-up table, and a pixel costs one look-up and one multiplication per member.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.ensemble.calibration import LEVELS, Table, log_odds
from pipeline.ensemble.stacking import Stack, StoredMeans, apply_stack, mean_around
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.postprocess.shares import Heads
from pipeline.quoting import shortened

# A stored 0 stands for probabilities up to 1/510. The logarithm of 0 is not finite, that of 1/510 is. A little below
# that half step, so that 0 comes back as 0 and 255 as 255.
FLOOR = 0.499


class Store(Protocol):
    """Stored values by image id: an `inference.prediction_store.PredictionStore`, or a substitute in memory."""

    def read(self, image_id: str) -> np.ndarray:
        """The values of one image, (C, H, W) uint8."""

    def read_image_values(self, image_id: str) -> np.ndarray | None:
        """The image head's values of one image, (C,) uint8; None without a head."""


class InMemoryStore(NamedTuple):
    """The stored values of one model for one image, as a `Store`; fields as of `StoredPrediction`."""

    values: np.ndarray
    image_values: np.ndarray | None = None

    def read(self, _image_id: str) -> np.ndarray:
        """Return the values, whatever the id."""
        return self.values

    def read_image_values(self, _image_id: str) -> np.ndarray | None:
        """Return the image head's values, whatever the id."""
        return self.image_values


class Weighting(NamedTuple):
    """How M members are combined."""

    combination: str  # in COMBINATIONS, or STACK
    weights: tuple[float, ...]  # (M,), of sum 1
    calibration: tuple[Table, ...] = ()  # a table for each member, applied before the combination; (): none
    stack: Stack | None = None  # of STACK: its coefficients; the weights are their shares, for people to read
    calibrated_by: str = ""  # the name of the calibration, in `candidate_weights.CALIBRATIONS`


class Combination(NamedTuple):
    """The two functions of a combination, each of an array."""

    forward: Callable[[np.ndarray], np.ndarray]  # from levels, 0 to 255, to the terms of the sum
    inverse: Callable[[np.ndarray], np.ndarray]  # from the sum to levels


def _identity(levels: np.ndarray) -> np.ndarray:
    return levels


def _log_odds(levels: np.ndarray) -> np.ndarray:
    return log_odds(levels, FLOOR)


def _from_log_odds(log_odds: np.ndarray) -> np.ndarray:
    return MAX_VALUE / (1 + np.exp(-log_odds))


def _log(levels: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(levels, FLOOR))


def _vote(levels: np.ndarray) -> np.ndarray:
    return np.where(levels >= MAX_VALUE / 2, MAX_VALUE, 0)


# With p the members' probabilities and w their weights:
#   mean       Σ w·p. No member moves it by more than its weight.
#   logit      the sigmoid of Σ w·logit(p), or Π p^w / (Π p^w + Π (1 − p)^w): probabilities near 0 or 1 count for more.
#   geometric  Π p^w: probabilities near 0 count for more, those near 1 do not.
#   vote       the sum of the weights of members with p ≥ .5: the distance from .5 does not count.
COMBINATIONS = {
    "mean": Combination(_identity, _identity),
    "logit": Combination(_log_odds, _from_log_odds),
    "geometric": Combination(_log, np.exp),
    "vote": Combination(_vote, _identity),
}


STACK = "stack"  # the combination by stacking


def find_combination(name: str) -> Combination:
    """The combination of a name.

    Raises:
        ValueError: for a name that is not in COMBINATIONS.
    """
    if name not in COMBINATIONS:
        raise ValueError(f"unknown combination '{shortened(name)}'. Known: {', '.join(COMBINATIONS)}")
    return COMBINATIONS[name]


def forward_table(combination: str, stores: int = 1, calibration: Table | None = None) -> np.ndarray:
    """`forward` of each sum that `stores` stored values can have, (255 · stores + 1,) float32.

    Args:
        calibration: applied to the mean of the stored values.

    >>> forward_table("mean", 2)[[0, 1, 510]].tolist()
    [0.0, 0.5, 255.0]
    """
    levels = np.arange(MAX_VALUE * stores + 1) / stores
    if calibration is not None:
        levels = np.interp(levels, LEVELS, calibration)
    return find_combination(combination).forward(levels).astype(np.float32)


def to_values(weighted_sum: np.ndarray, combination: str) -> np.ndarray:
    """The stored values, uint8, nearest to `inverse` of a weighted sum of `forward`."""
    return np.rint(find_combination(combination).inverse(weighted_sum)).astype(np.uint8)


def blend(
    values: np.ndarray,
    weights: np.ndarray | Sequence[float],
    combination: str = "mean",
    calibration: Sequence[Table] = (),
    stack: Stack | None = None,
) -> np.ndarray:
    """Combine the stored values of M members into those of one.

    Args:
        calibration: a table for each member, or none.
        stack: of stacking; it ignores weights and calibration.

    Shapes:
        values: (M, ...) uint8, 0 … 255; of stacking the last two axes are those of an image.
        weights: (M,), not negative, of sum 1.
        returns: (...) uint8.

    Raises:
        ValueError: for other weights, or a name that is not in COMBINATIONS.
    """
    if stack:
        levels = list(map(StoredMeans, values))
        return apply_stack(levels, map(mean_around, levels), stack)
    shares = _checked(weights, len(values))
    tables = [forward_table(combination, 1, each) for each in calibration] or [forward_table(combination)] * len(values)
    parts = zip(values, shares, tables, strict=True)
    return to_values(sum(table.take(part) * share for part, share, table in parts if share), combination)


def blend_by(weighting: Weighting, values: np.ndarray) -> np.ndarray:
    """As `blend`, with all that a weighting says."""
    return blend(values, weighting.weights, weighting.combination, weighting.calibration, weighting.stack)


def combine(
    members: Sequence[Sequence[Store]],
    image_id: str,
    combination: str = "mean",
    weights: np.ndarray | Sequence[float] | None = None,
    calibration: Sequence[Table] = (),
    stack: Stack | None = None,
) -> np.ndarray:
    """Combine the stored values of one image over all members, rounded once at the end.

    The stores of a member hold the predictions of one model trained on different folds; they are averaged by the mean
    of probabilities. The members are then combined. A member of weight 0 is not read.

    Args:
        members: for each config, its stores: one per fold for the test set, one for OOF predictions.
        weights: (M,), not negative, of sum 1; None weighs members equally, whatever their number of stores.
        calibration: a table for each member, or none.
        stack: of stacking; it ignores weights and calibration.

    Shapes:
        returns: (C, H, W) uint8.

    Raises:
        ValueError: if the stores' arrays of this image differ in shape; else as `blend`.
    """
    if stack:
        used = [stores for stores, use in zip(members, stack.used, strict=True) if use]
        means = [StoredMeans(_sum_of_stores(stores, image_id), len(stores)) for stores in used]
        return apply_stack(means, map(mean_around, means), stack.of_used())
    shares = _checked(np.ones(len(members)) / len(members) if weights is None else weights, len(members))
    total: np.ndarray | None = None
    for stores, share, table in zip(members, shares, calibration or [None] * len(members), strict=True):
        if share:
            part = forward_table(combination, len(stores), table).take(_sum_of_stores(stores, image_id)) * share
            total = part if total is None else total + _same_shape(part, total, image_id)
    return to_values(total, combination)


def combine_by(weighting: Weighting, members: Sequence[Sequence[Store]], image_id: str) -> np.ndarray:
    """As `combine`, with all that a weighting says."""
    combination, weights, calibration, stack, _ = weighting
    return combine(members, image_id, combination, weights, calibration, stack)


def read_heads(members: Sequence[Sequence[Store]], image_id: str) -> Heads:
    """What the members' image heads say about one image: the mean over each member's stores, which may be none."""
    found = ([store.read_image_values(image_id) for store in stores] for stores in members)
    return tuple(_mean_of_heads(each) for each in found)


def _mean_of_heads(values: Sequence[np.ndarray | None]) -> tuple[float, ...] | None:
    present = [each for each in values if each is not None]
    return tuple(np.mean(present, axis=0).tolist()) if present and len(present) == len(values) else None


def _sum_of_stores(stores: Sequence[Store], image_id: str) -> np.ndarray:
    """The sum of one member's stored values, as integers: nothing is rounded before the look-up."""
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


def _checked(weights: np.ndarray | Sequence[float], members: int) -> np.ndarray:
    """The weights in float32, if there is one per member, none is negative and their sum is 1."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (members,) or not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6:
        raise ValueError(
            f"weights {np.round(weights, 6).tolist()} of {members} members: expected one each, none negative, of sum 1"
        )
    return weights.astype(np.float32)
