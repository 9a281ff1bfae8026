"""Cross-fitting: what is chosen on K − 1 folds is scored on the fold left out.

A threshold, a minimum area, an ensemble's weights, a gate: each is the best of many on the images that it was searched
on. Part of that is luck, and more candidates have more luck. The cross-fitted score is free of it: the choice is made
again without each fold, and scored on that fold. The final choice is made on all images. Its score is estimated by the
mean of the cross-fitted scores, a little too low, since each of those choices saw fewer images.

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
    """A choice made on all folds, those made without each fold, and their scores on it."""

    scores: Scores  # of the N images, each by the choice made without its fold
    by_fold: dict[int, T]  # the choice made without each fold; folds ascend
    final: T  # chosen on all images
    in_sample: float  # score of `final` on the images that it was chosen on

    @property
    def score(self) -> float:
        """The cross-fitted score: over all images, as the leaderboard's, and not the mean over folds."""
        return self.scores.mean()


def cross_fit(
    fold_of: np.ndarray,
    fit: Callable[[np.ndarray], T],
    score: Callable[[T, np.ndarray], Scores | np.ndarray],
    *,
    image_ids: Sequence[str] | None = None,
) -> CrossFitted[T]:
    """Choose without each fold and score on it; then choose on all folds.

    Args:
        fit: from a mask of rows, (N,) bool, to the best choice on them. It must use no other row.
        score: from a choice and a mask of rows to the scores of these rows, in their order.
        image_ids: (N,), to name an image in an error.

    Shapes:
        fold_of: (N,) int.

    Raises:
        ValueError: for fewer than two folds, or for scores that are not finite or not one per row.
    """
    fold_of = np.asarray(fold_of)
    refuse_one_fold(fold_of)
    by_fold, parts, rows_of = {}, [], []
    for fold in np.unique(fold_of).tolist():
        held_out = fold_of == fold
        by_fold[fold] = fit(~held_out)
        parts.append(_checked(score(by_fold[fold], held_out), held_out, f"fold {fold}", image_ids))
        rows_of.append(np.flatnonzero(held_out))
    everything = np.ones(len(fold_of), dtype=bool)
    final = fit(everything)
    in_sample = _checked(score(final, everything), everything, "all folds", image_ids).mean()
    order = np.argsort(np.concatenate(rows_of))
    return CrossFitted(Scores.concat_images(parts).take(order), by_fold, final, in_sample)


def refuse_one_fold(fold_of: np.ndarray) -> None:
    """Refuse images of fewer than two folds.

    Raises:
        ValueError: naming the folds.
    """
    folds = np.unique(fold_of)
    if len(folds) < 2:
        raise ValueError(
            f"{len(fold_of)} images in {len(folds)} folds ({', '.join(map(str, folds))}): what is chosen on one fold "
            f"is scored on another, so at least 2 are needed. Train another fold"
        )


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
