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

from pipeline.metrics import Scores

T = TypeVar("T")


class CrossFitted(NamedTuple, Generic[T]):
    """What was chosen, and how it scores where it was not chosen."""

    scores: Scores  # of the N images, each by the choice made without its fold
    chosen: list[T]  # per fold, in order of `folds`: the choice made without it
    shipped: T  # chosen on all images
    in_sample: float  # score of `shipped` on the images that it was chosen on
    folds: np.ndarray  # (K,) numbers of the folds, ascending
    fold_means: np.ndarray  # (K,) score of each fold's images by the choice made without them

    @property
    def honest(self) -> float:
        """The number to report: over all images, as the leaderboard's, and not the mean over folds."""
        return self.scores.mean()

    @property
    def optimism(self) -> float:
        """What the choice seemed to be worth, and is not."""
        return self.in_sample - self.honest


def cross_fit(
    fold_of: np.ndarray,
    fit: Callable[[np.ndarray], T],
    score: Callable[[T, np.ndarray], Scores | np.ndarray],
    *,
    image_ids: Sequence[str] | None = None,
) -> CrossFitted[T]:
    """Choose without each fold, score on it; and choose on all.

    Args:
        fit: from a mask of rows, (N,) bool, to what is best on them. It must look at no other row.
        score: from a choice and a mask of rows to the scores of these rows, in their order.
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
    chosen, parts, places = [], [], []
    for fold in folds:
        held_out = fold_of == fold
        chosen.append(fit(~held_out))
        parts.append(_checked(score(chosen[-1], held_out), held_out, f"fold {fold}", image_ids))
        places.append(np.flatnonzero(held_out))
    everything = np.ones(len(fold_of), dtype=bool)
    shipped = fit(everything)
    in_sample = _checked(score(shipped, everything), everything, "all folds", image_ids).mean()
    fold_means = np.array([part.mean() for part in parts])
    order = np.argsort(np.concatenate(places))
    return CrossFitted(Scores.concat_images(parts).take(order), chosen, shipped, in_sample, folds, fold_means)


def _checked(scores: Scores | np.ndarray, rows: np.ndarray, where: str, image_ids: Sequence[str] | None) -> Scores:
    scores, positions = Scores.from_values(scores), np.flatnonzero(rows)
    if len(scores) != len(positions):
        raise ValueError(f"{where}: {len(scores)} scores for {len(positions)} images: expected one per image")
    bad = positions[~np.isfinite(scores.numerator).all(axis=1)]
    if len(bad):
        first = f"number {bad[0]}" if image_ids is None else f"'{image_ids[bad[0]]}'"
        raise ValueError(
            f"{where}: the score of {len(bad)} of {len(positions)} images is not finite, the first is image {first}. "
            f"Leave these images out, or choose a metric that is defined on them"
        )
    return scores
