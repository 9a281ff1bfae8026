"""Weights of an ensemble's members, fitted on OOF predictions that are subsampled on a grid.

Two methods, whose weights are not negative and sum to 1:

- `greedy_weights` adds members one by one by the competition's metric. With many members and few images it overfits.
- `log_loss_weights` minimises the log loss of the weighted mean, which is convex and needs no threshold. It is a check:
  where it differs widely and scores as well, the metric hardly distinguishes the members.

Both fit on some rows, so that they can be cross-fitted:

    cross_fit(
        fold_of,
        lambda rows: fit_threshold(
            images, Weighting("mean", tuple(greedy_weights(images, metric, rows=rows))), metric, rows=rows
        ),
        lambda fitted, rows: score_images(images, fitted, metric, rows=rows),
    )
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from pipeline.ensemble.combine import Weighting, blend_by, forward_table, to_values
from pipeline.ensemble.stacking import Stack, StoredMeans, apply_stack, fit_stack, mean_around
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric, Scores, nan_to_zero, ratio
from pipeline.postprocess.threshold_counts import THRESHOLDS, best_threshold, level
from pipeline.statistics.bootstrap import TIE

BLOCK = 1 << 18  # pixels processed at once: a few MiB, which fit into the cache


class Subsample(NamedTuple):
    """Every s-th row and column of an image: the members' predictions and the target."""

    values: np.ndarray  # (M, P) uint8
    target: np.ndarray  # (P,) uint8, 0 or 1
    around: np.ndarray | None = None  # (M, P) uint8, the members' means around each pixel; for stacking
    valid: np.ndarray | None = None  # (P,) bool, pixels that are not void; None: all

    def without_void(self) -> "Subsample":
        """The pixels that are not void: as true negatives, the others would count for a calibration."""
        if self.valid is None or self.valid.all():
            return self
        around = None if self.around is None else self.around[:, self.valid]
        return Subsample(self.values[:, self.valid], self.target[self.valid], around)


class FittedWeights(NamedTuple):
    """A weighted combination with a threshold."""

    weighting: Weighting
    threshold: float  # on probabilities, 0 to 1


def subsample(values: np.ndarray, target: np.ndarray, pixels: int = 4096) -> Subsample:
    """An image on the finest even grid of about `pixels` points or fewer.

    A search visits every image hundreds of times, and needs shares of pixels, and of their neighbours the mean only. M
    members take (2·M + 1) · pixels bytes per image and class: 10 of them and 4096 pixels, 86 kB, so 1.7 GB for 20,000
    images.

    Shapes:
        values: (M, H, W) uint8.
        target: (H, W), 0 or 1; 255 for void, which becomes a true negative of all members.

    Raises:
        ValueError: if height or width differ.
    """
    if values.shape[1:] != target.shape:
        raise ValueError(f"values {values.shape} and target {target.shape} differ in height or width")
    step = int(np.ceil((target.size / pixels) ** 0.5))
    # The grid is centred: equal margins on all sides; an axis shorter than a step is sampled at its middle.
    top, left = ((min(step, length) - 1) // 2 for length in target.shape)
    grid = np.s_[..., top::step, left::step]
    sampled = target[grid].ravel()
    valid = sampled != VOID
    own = values[grid].reshape(len(values), -1) * valid
    means = (mean_around(StoredMeans(each)) for each in values)
    around = np.stack([np.rint(sums[grid] / count).astype(np.uint8).ravel() for sums, count in means]) * valid
    return Subsample(own, (sampled == 1).astype(np.uint8), around, valid)


def stack_weights(images: Sequence[Subsample], *, rows: np.ndarray | None = None) -> Stack:
    """The coefficients of stacking, fitted on the rows, (N,) bool.

    Args:
        images: with their means around each pixel.
    """
    chosen = [image.without_void() for image in _take(images, rows)]
    return fit_stack(*zip(*((image.values, image.around, image.target) for image in chosen), strict=True))


# ---------------------------------------------------------------------------------------------- greedy selection


def greedy_weights(
    images: Sequence[Subsample],
    metric: Metric,
    *,
    combination: str = "mean",
    rounds: int = 20,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Ensemble selection with replacement: (M,) weights, each a number of picks out of at most `rounds`.

    The search starts with the best single member. In each round it adds the member that gives the highest score, which
    may have been added before. The result is the best of all these ensembles. The score of an ensemble is the mean of
    the metric over images at the threshold that is best for it. Of equal scores the ensemble of fewest distinct
    members wins, then the one of fewest picks. A single member has weight 1.

    Args:
        rows: (N,) bool, the images to fit on; None takes all.

    Raises:
        ValueError: if there is no image to fit on.

    Source:
        Caruana et al., Ensemble selection from libraries of models, 2004, https://doi.org/10.1145/1015330.1015432.
    """
    chosen = _take(images, rows)
    picks = np.zeros(len(chosen[0].values), dtype=np.int64)
    ensembles, scores = [], []
    for _ in range(rounds):
        larger = _scores_of_one_more(chosen, picks, metric, combination)
        best = np.flatnonzero(larger >= larger.max() - TIE)
        member = best[np.argmax(picks[best] > 0)]  # of equals, one that was picked before
        picks[member] += 1
        ensembles.append(picks.copy())
        scores.append(larger[member])
    first = np.argmax(np.array(scores) >= max(scores) - TIE)  # an ensemble only grows: the first is the smallest
    return ensembles[first] / ensembles[first].sum()


def _scores_of_one_more(images: Sequence[Subsample], picks: np.ndarray, metric: Metric, combination: str) -> np.ndarray:
    """The score of the picked ensemble with each of the M members added, (M,)."""
    table, total = forward_table(combination), np.zeros((len(picks), 2, MAX_VALUE))
    for block in _blocks(images):
        slots, picked = _slots(block), np.flatnonzero(picks)
        base = sum(table.take(block.values[member]) * np.float32(picks[member]) for member in picked)
        for member, values in enumerate(block.values):
            larger = to_values((base + table.take(values)) / np.float32(picks.sum() + 1), combination)
            total[member] += [term.sum(axis=0) for term in metric.terms(_count(larger, slots))]
    return nan_to_zero(ratio(total[:, 0, :, None], total[:, 1, :, None])).max(axis=1)


def fit_threshold(
    images: Sequence[Subsample], weighting: Weighting, metric: Metric, *, rows: np.ndarray | None = None
) -> FittedWeights:
    """A weighting with its best threshold on the rows, (N,) bool; of equals, the one nearest to .5."""
    chosen = _take(images, rows)
    numerator, denominator = (
        sum(each.sum(axis=0) for each in term) for term in zip(*_block_terms(chosen, weighting, metric), strict=True)
    )
    scores = nan_to_zero(ratio(numerator[:, None], denominator[:, None]))
    return FittedWeights(weighting, float(THRESHOLDS[best_threshold(scores)]))


def score_images(
    images: Sequence[Subsample], fitted: FittedWeights, metric: Metric, *, rows: np.ndarray | None = None
) -> Scores:
    """The scores of the images of the rows, (N,) bool, at the fitted threshold."""
    column = level(fitted.threshold) - 1
    chosen = _take(images, rows)
    terms = zip(*_block_terms(chosen, fitted.weighting, metric), strict=True)
    return Scores(*(np.concatenate([each[:, [column]] for each in term]) for term in terms))


def _block_terms(
    images: Sequence[Subsample], weighting: Weighting, metric: Metric
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Block by block, the metric's numerator and denominator of its images at all thresholds, (n, 255) each."""
    for block in _blocks(images):
        yield metric.terms(_count(_combine(block, weighting), _slots(block)))


def _combine(block: "Block", weighting: Weighting) -> np.ndarray:
    if weighting.stack:
        return apply_stack(list(map(StoredMeans, block.values)), map(StoredMeans, block.around), weighting.stack)
    return blend_by(weighting, block.values)


def count_pixels_by_value(images: Sequence[Subsample]) -> np.ndarray:
    """The number of pixels of each member by stored value, outside and inside of the target, (M, 256, 2); no void."""
    total = np.zeros((len(images[0].values), 2 * (MAX_VALUE + 1)), dtype=np.int64)
    for image in (each.without_void() for each in images):
        for member, values in enumerate(image.values):
            total[member] += np.bincount(2 * values.astype(np.int64) + image.target, minlength=total.shape[1])
    return total.reshape(len(total), -1, 2)


# ---------------------------------------------------------------------------------------------- log loss


def log_loss_weights(images: Sequence[Subsample], *, rows: np.ndarray | None = None) -> np.ndarray:
    """The (M,) weights whose weighted mean of probabilities has the least log loss.

    With q a member's probability of the true label, the loss is the mean of −log Σ w·q: convex in w, with the gradient
    mean of −q / Σ w·q. Sequential quadratic programming takes ten to fifty iterations.

    Args:
        rows: (N,) bool, the images to fit on; None takes all.

    Raises:
        ValueError: if there is no image to fit on.
    """
    chosen = _take(images, rows)
    members = len(chosen[0].values)
    found = minimize(
        lambda weights: log_loss(chosen, weights),
        np.full(members, 1 / members),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
        options={"ftol": 1e-8, "maxiter": 200},
    )
    weights = np.clip(found.x, 0, 1)  # it may overstep a bound by a rounding error
    return weights / weights.sum()


def log_loss(images: Sequence[Subsample], weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The log loss of the weighted mean of probabilities, in nats, and its gradient, (M,).

    It is the mean over images of the mean over pixels. A stored 0 counts as 1/510, and 255 as 1 − 1/510.
    """
    probs = np.clip(np.arange(MAX_VALUE + 1) / MAX_VALUE, 0.5 / MAX_VALUE, 1 - 0.5 / MAX_VALUE).astype(np.float32)
    loss, gradient = 0.0, np.zeros(len(weights))
    for block in _blocks(images):
        true = probs.take(np.where(block.target, block.values, MAX_VALUE - block.values))  # of the true label
        mean = np.float32(weights) @ true
        shares = np.repeat(1 / block.sizes, block.sizes) / len(images)
        loss -= np.log(mean, dtype=np.float64) @ shares
        gradient -= true @ (shares / mean).astype(np.float32)
    return float(loss), gradient


# ---------------------------------------------------------------------------------------------- blocks of images


class Block(NamedTuple):
    """Several images, concatenated."""

    values: np.ndarray  # (M, P) uint8
    target: np.ndarray  # (P,) uint8
    sizes: np.ndarray  # pixels of each image
    around: np.ndarray | None = None  # (M, P) uint8, if all images have it


def _take(images: Sequence[Subsample], rows: np.ndarray | None) -> Sequence[Subsample]:
    chosen = images if rows is None else [images[row] for row in np.flatnonzero(rows)]
    if not chosen:
        raise ValueError(f"none of {len(images)} images is chosen: there is nothing to fit or to score")
    return chosen


def _blocks(images: Sequence[Subsample]) -> Iterator[Block]:
    """The images, as many at a time as BLOCK holds."""
    sizes = np.array([image.target.size for image in images])
    number = np.cumsum(sizes) // BLOCK
    edges = np.flatnonzero(np.diff(number)) + 1
    for start, stop in zip([0, *edges], [*edges, len(number)], strict=True):
        values, targets, around, _ = zip(*images[start:stop], strict=True)
        means = None if any(each is None for each in around) else np.concatenate(around, axis=1)
        yield Block(np.concatenate(values, axis=1), np.concatenate(targets), sizes[start:stop], means)


def _slots(block: Block) -> np.ndarray:
    """Where a pixel's histogram begins, (P,): each image has 256 levels outside of its target and 256 inside."""
    slots = np.repeat(np.arange(len(block.sizes)) * 512, block.sizes)
    slots += block.target.astype(np.int64) << 8
    return slots


def _count(levels: np.ndarray, slots: np.ndarray) -> Counts:
    """The counts of each image at all 255 thresholds, (n, 255): `threshold_counts.count_levels` for many at once."""
    images = slots[-1] // 512 + 1
    pixels = np.bincount(slots + levels, minlength=images * 512).reshape(images, 2, 256)
    outside, inside = pixels[..., :0:-1].cumsum(axis=-1)[..., ::-1].swapaxes(0, 1)  # at level k or above, k = 1 … 255
    target = np.broadcast_to(pixels[:, 1].sum(axis=-1)[:, None], inside.shape)
    return Counts(inside, inside + outside, target)
