"""Numbers that did not see their own answer: what is chosen on K − 1 folds is scored on the fold left out.

A threshold, a smallest area, an ensemble's weights, a gate: each is the best of many on the images that it was searched
on, and so partly luck, and the more there are to choose from the luckier. Choosing it again without a fold, and scoring
it on that fold, takes the luck away. What ships is chosen on all images; of it, the mean over the folds is the honest
number, and a little careful: each choice saw fewer images than the one that ships.

Source:
    Stone, Cross-validatory choice and assessment of statistical predictions, 1974,
    https://doi.org/10.1111/j.2517-6161.1974.tb00994.x.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class CrossFitted(NamedTuple, Generic[T]):
    """What was chosen, and how it scores where it was not chosen."""

    scores: np.ndarray  # (N,) of each image by the choice made without its fold
    chosen: list[T]  # per fold, in order of `folds`: the choice made without it
    shipped: T  # chosen on all images
    in_sample: float  # mean score of `shipped` on the images that it was chosen on
    folds: np.ndarray  # (K,) numbers of the folds, ascending
    fold_means: np.ndarray  # (K,) mean score of each fold's images by the choice made without them

    @property
    def honest(self) -> float:
        """The number to report: the mean over images, as the leaderboard's, and not over folds."""
        return float(self.scores.mean())

    @property
    def optimism(self) -> float:
        """What the choice seemed to be worth, and is not."""
        return self.in_sample - self.honest


def cross_fit(
    fold_of: np.ndarray,
    fit: Callable[[np.ndarray], T],
    score: Callable[[T, np.ndarray], np.ndarray],
    *,
    image_ids: Sequence[str] | None = None,
) -> CrossFitted[T]:
    """Choose without each fold, score on it; and choose on all.

    Args:
        fit: from a mask of rows, (N,) bool, to what is best on them. It must look at no other row.
        score: from a choice and a mask of rows to the score of each of these rows, in their order.
        image_ids: (N,), to name an image in an error.

    Shapes:
        fold_of: (N,) int.

    Raises:
        ValueError: for fewer than two folds, or for scores that are not finite or not one per row.
    """
    fold_of = np.asarray(fold_of)
    folds = np.unique(fold_of)
    if len(folds) < 2:
        raise ValueError(
            f"{len(fold_of)} images in {len(folds)} folds ({', '.join(map(str, folds))}): what is chosen on one fold "
            f"is scored on another, so at least 2 are needed. Train another fold"
        )
    scores, chosen = np.empty(len(fold_of)), []
    for fold in folds:
        held_out = fold_of == fold
        chosen.append(fit(~held_out))
        scores[held_out] = _checked(score(chosen[-1], held_out), held_out, f"fold {fold}", image_ids)
    everything = np.ones(len(fold_of), dtype=bool)
    shipped = fit(everything)
    in_sample = float(_checked(score(shipped, everything), everything, "all folds", image_ids).mean())
    fold_means = np.array([scores[fold_of == fold].mean() for fold in folds])
    return CrossFitted(scores, chosen, shipped, in_sample, folds, fold_means)


def _checked(scores: np.ndarray, rows: np.ndarray, where: str, image_ids: Sequence[str] | None) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    positions = np.flatnonzero(rows)
    if scores.shape != positions.shape:
        raise ValueError(f"{where}: scores of shape {scores.shape} for {len(positions)} images: expected one per image")
    bad = positions[~np.isfinite(scores)]
    if len(bad):
        first = f"number {bad[0]}" if image_ids is None else f"'{image_ids[bad[0]]}'"
        raise ValueError(
            f"{where}: the score of {len(bad)} of {len(positions)} images is not finite, the first is image {first}. "
            f"Leave these images out, or choose a metric that is defined on them"
        )
    return scores
