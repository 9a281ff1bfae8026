"""Weights of an ensemble's members, fitted on OOF predictions that were thinned to a grid.

Two ways, each with weights that are not negative and sum to 1:

- `greedy_weights` adds members one by one for the competition's metric, the number that counts. Many members and few
  images, and it picks up luck.
- `log_loss_weights` minimises the log loss of the weighted mean: convex, one answer, and no threshold in it. It is a
  check: where it disagrees widely and scores as well, the metric can hardly tell the members apart.

Both fit on the rows that they are given, so that they can be cross-fitted:

    cross_fit(
        fold_of,
        lambda rows: at_best_threshold(images, greedy_weights(images, metric, rows=rows), metric, rows=rows),
        lambda fitted, rows: image_scores(images, fitted, metric, rows=rows),
    )
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from pipeline.ensemble.combine import blend, forward_table, to_values
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric, Scores, nan_to_zero, ratio
from pipeline.postprocess import THRESHOLDS, best_threshold, level

BLOCK = 1 << 18  # pixels worked on at once: a few MiB, which caches hold
TIE = 1e-12  # scores nearer than rounding errors are equal


class Reduced(NamedTuple):
    """Every s-th row and column of an image: what its members predict there, and what is true."""

    values: np.ndarray  # (M, P) uint8
    target: np.ndarray  # (P,) uint8, 0 or 1


class Fitted(NamedTuple):
    """An ensemble that can be applied."""

    weights: np.ndarray  # (M,)
    threshold: float  # on probabilities, 0 to 1
    how: str  # in COMBINATIONS


def reduce(values: np.ndarray, target: np.ndarray, pixels: int = 4096) -> Reduced:
    """An image on the finest even grid of about `pixels` points or fewer.

    A search looks at every image hundreds of times, and needs shares of pixels, not their neighbours. M members take
    (M + 1) · pixels bytes per image: 10 of them and 4096 pixels, 45 kB, so 0.9 GB for 20,000 images.

    Shapes:
        values: (M, H, W) uint8.
        target: (H, W), 0 or 1; 255 for void, which becomes what nobody predicts and is not true.

    Raises:
        ValueError: if height or width differ.
    """
    if values.shape[1:] != target.shape:
        raise ValueError(f"values {values.shape} and target {target.shape} differ in height or width")
    step = int(np.ceil((target.size / pixels) ** 0.5))
    # Margins are alike on all sides, and an axis shorter than a step keeps its middle.
    down, across = ((min(step, length) - 1) // 2 for length in target.shape)
    grid = np.s_[..., down::step, across::step]
    thinned = target[grid].ravel()
    return Reduced(values[grid].reshape(len(values), -1) * (thinned != VOID), (thinned == 1).astype(np.uint8))


# ---------------------------------------------------------------------------------------------- greedy selection


def greedy_weights(
    images: Sequence[Reduced],
    metric: Metric,
    *,
    how: str = "mean",
    rounds: int = 20,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Ensemble selection with replacement: (M,) weights, each a number of times out of at most `rounds`.

    It starts with the best single member and adds, again and again, the one that raises the score most, which may be
    in already; where none raises it, the one that lowers it least. What counts is the best of all these ensembles. The
    score of an ensemble is the mean of the metric over images at the threshold that is best for it. Of equal scores
    wins the ensemble of fewest distinct members, then of fewest picks. One member has weight 1.

    Args:
        rows: (N,) bool, the images to fit on; None takes all.

    Raises:
        ValueError: if there is no image to fit on.

    Source:
        Caruana et al., Ensemble selection from libraries of models, 2004, https://doi.org/10.1145/1015330.1015432.
    """
    chosen = _chosen(images, rows)
    picks = np.zeros(len(chosen[0].values), dtype=np.int64)
    bags, scores = [], []
    for _ in range(rounds):
        grown = _scores_of_one_more(chosen, picks, metric, how)
        best = np.flatnonzero(grown >= grown.max() - TIE)
        member = best[np.argmax(picks[best] > 0)]  # of equals, one that is in already
        picks[member] += 1
        bags.append(picks.copy())
        scores.append(grown[member])
    first = np.argmax(np.array(scores) >= max(scores) - TIE)  # an ensemble only grows: the first is the smallest
    return bags[first] / bags[first].sum()


def _scores_of_one_more(images: Sequence[Reduced], picks: np.ndarray, metric: Metric, how: str) -> np.ndarray:
    """The score of the picked ensemble with each of the M members added, (M,)."""
    table, total = forward_table(how), np.zeros((len(picks), 2, MAX_VALUE))
    for block in _blocks(images):
        slots, inside = _slots(block), np.flatnonzero(picks)
        picked = sum(table.take(block.values[member]) * np.float32(picks[member]) for member in inside)
        for member, values in enumerate(block.values):
            grown = to_values((picked + table.take(values)) / np.float32(picks.sum() + 1), how)
            total[member] += [term.sum(axis=0) for term in metric.terms(_count(grown, slots))]
    return nan_to_zero(ratio(total[:, 0, :, None], total[:, 1, :, None])).max(axis=1)


def at_best_threshold(
    images: Sequence[Reduced],
    weights: np.ndarray,
    metric: Metric,
    *,
    how: str = "mean",
    rows: np.ndarray | None = None,
) -> Fitted:
    """Weights with the threshold that suits them best on the rows; of equals, the one nearest to .5."""
    chosen = _chosen(images, rows)
    gained, possible = (
        sum(each.sum(axis=0) for each in term) for term in zip(*_block_terms(chosen, weights, metric, how), strict=True)
    )
    scores = nan_to_zero(ratio(gained[:, None], possible[:, None]))
    return Fitted(np.asarray(weights), float(THRESHOLDS[best_threshold(scores)]), how)


def image_scores(
    images: Sequence[Reduced], fitted: Fitted, metric: Metric, *, rows: np.ndarray | None = None
) -> Scores:
    """The scores of the images of the rows, by an ensemble and its threshold."""
    column = level(fitted.threshold) - 1
    terms = zip(*_block_terms(_chosen(images, rows), fitted.weights, metric, fitted.how), strict=True)
    return Scores(*(np.concatenate([each[:, [column]] for each in term]) for term in terms))


def _block_terms(
    images: Sequence[Reduced], weights: np.ndarray, metric: Metric, how: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a block's images gained and what was possible at all thresholds, (n, 255) each."""
    for block in _blocks(images):
        yield metric.terms(_count(blend(block.values, weights, how), _slots(block)))


# ---------------------------------------------------------------------------------------------- log loss


def log_loss_weights(images: Sequence[Reduced], *, rows: np.ndarray | None = None) -> np.ndarray:
    """The (M,) weights whose weighted mean of probabilities has the least log loss.

    With q the probability that a member gives to what is true, the loss is the mean of −log Σ w·q: convex in w, and its
    gradient is the mean of −q / Σ w·q. Sequential quadratic programming takes some ten to fifty passes.

    Args:
        rows: (N,) bool, the images to fit on; None takes all.

    Raises:
        ValueError: if there is no image to fit on.
    """
    chosen = _chosen(images, rows)
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


def log_loss(images: Sequence[Reduced], weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The log loss of the weighted mean of probabilities, in nats, and its gradient, (M,).

    It is the mean over images of the mean over pixels. A stored 0 counts as 1/510, and 255 as 1 − 1/510.
    """
    probs = np.clip(np.arange(MAX_VALUE + 1) / MAX_VALUE, 0.5 / MAX_VALUE, 1 - 0.5 / MAX_VALUE).astype(np.float32)
    loss, gradient = 0.0, np.zeros(len(weights))
    for block in _blocks(images):
        given = probs.take(np.where(block.target, block.values, MAX_VALUE - block.values))  # to what is true
        mixed = np.float32(weights) @ given
        shares = np.repeat(1 / block.sizes, block.sizes) / len(images)
        loss -= np.log(mixed, dtype=np.float64) @ shares
        gradient -= given @ (shares / mixed).astype(np.float32)
    return float(loss), gradient


# ---------------------------------------------------------------------------------------------- blocks of images


class Block(NamedTuple):
    """Several images, end to end."""

    values: np.ndarray  # (M, P) uint8
    target: np.ndarray  # (P,) uint8
    sizes: np.ndarray  # pixels of each image


def _chosen(images: Sequence[Reduced], rows: np.ndarray | None) -> Sequence[Reduced]:
    chosen = images if rows is None else [images[row] for row in np.flatnonzero(rows)]
    if not chosen:
        raise ValueError(f"none of {len(images)} images is chosen: there is nothing to fit or to score")
    return chosen


def _blocks(images: Sequence[Reduced]) -> Iterator[Block]:
    """The images, as many at a time as BLOCK holds."""
    sizes = np.array([image.target.size for image in images])
    number = np.cumsum(sizes) // BLOCK
    for start, stop in _stretches(number):
        values, targets = zip(*images[start:stop], strict=True)
        yield Block(np.concatenate(values, axis=1), np.concatenate(targets), sizes[start:stop])


def _stretches(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of each stretch of equal numbers."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    return zip([0, *edges], [*edges, len(numbers)], strict=True)


def _slots(block: Block) -> np.ndarray:
    """Where a pixel's histogram begins, (P,): each image has 256 levels outside of its target and 256 inside."""
    slots = np.repeat(np.arange(len(block.sizes)) * 512, block.sizes)
    slots += block.target.astype(np.int64) << 8
    return slots


def _count(levels: np.ndarray, slots: np.ndarray) -> Counts:
    """The counts of each image at all 255 thresholds, (n, 255): `postprocess.count_levels` of many at once."""
    images = slots[-1] // 512 + 1
    pixels = np.bincount(slots + levels, minlength=images * 512).reshape(images, 2, 256)
    outside, inside = pixels[..., :0:-1].cumsum(axis=-1)[..., ::-1].swapaxes(0, 1)  # at level k or above, k = 1 … 255
    target = np.broadcast_to(pixels[:, 1].sum(axis=-1)[:, None], inside.shape)
    return Counts(inside, inside + outside, target)
