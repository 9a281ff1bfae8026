"""Scores of a validation, and the selection score by which the best epoch, average of weights and phase are selected.

The metric at threshold .5 is not used for selection: where most masks are empty, many metrics reward an empty
prediction, and an epoch that finds objects with low confidence can score less than one that has learned nothing. So:

    selection = max(metric at the epoch's best threshold, baseline) + 0.01 · soft Dice over all pixels

The best threshold is used because the search on OOF predictions optimises the threshold later. The baseline is the
score of predicting nothing or, for exclusive classes, the most frequent class everywhere. Epochs below the baseline are
ranked by soft Dice, which grows with the probability of the objects' pixels; above it, soft Dice breaks near-ties.
Without an object in any held-out image no score beats the baseline and soft Dice is 0: the metric at threshold .5
replaces it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.metrics import Counts, DetectionRates, Metric, detection_rates, nan_to_zero
from pipeline.postprocess.threshold_counts import HALF, THRESHOLDS, best_threshold

TOLERANCE = 1e-9  # scores that differ by less are equal
WORST = 8  # images whose scores are kept, to be drawn
SOFT_DICE_WEIGHT = 0.01  # smaller than the metric's noise between epochs


class Validation(NamedTuple):
    """The scores of one set of weights on the held-out images."""

    score: float  # the metric at threshold .5
    threshold: float  # the best threshold, 0 to 1
    score_at_threshold: float  # the metric at the best threshold
    baseline: float  # the metric of predicting nothing; for exclusive classes, of the most frequent class everywhere
    soft_dice: float  # Dice of probabilities over all pixels, 0 to 1; the score at .5 if no image has an object
    found: DetectionRates  # detection rates at threshold .5
    # Ids and scores, at the best threshold, of the images with the lowest scores; without undefined scores.
    worst: tuple[tuple[str, float], ...] = ()

    @classmethod
    def from_counts(
        cls,
        counts: Counts,
        soft: Counts,
        metric: Metric,
        *,
        exclusive: bool,
        classes: int | None = None,
        image_ids: Sequence[str] = (),
    ) -> "Validation":
        """Scores, selection score and detection rates from the counts of all held-out images.

        Args:
            exclusive: one class per pixel.
            classes: number of channels that are classes; None: all. A boundary channel after them counts for the
                score, not for the detection rates.
            image_ids: of the N images; without them no worst images are found.

        Shapes:
            counts: (N, C, 255), at every threshold.
            soft: (N, C) float, without a threshold, as from `threshold_counts.count_pixels`.
        """
        scores = nan_to_zero(metric.total(counts))
        best = best_threshold(scores)
        return cls(
            float(scores[HALF]),
            float(THRESHOLDS[best]),
            float(scores[best]),
            float(nan_to_zero(metric.baseline(counts.target[..., HALF], exclusive=exclusive))),
            (detection_rates(soft).dice or 0.0) if counts.target.any() else float(scores[HALF]),
            detection_rates(counts.at(np.s_[:, :classes, HALF])),
            _worst(metric.scores(counts.at(np.s_[..., best])).per_image(), image_ids),
        )

    @property
    def selection(self) -> float:
        """The selection score; higher is better."""
        return max(self.score_at_threshold, self.baseline) + SOFT_DICE_WEIGHT * self.soft_dice

    def line(self) -> dict[str, Any]:
        """The scores as plain values, for the history."""
        return {
            "score": self.score,
            "threshold": round(self.threshold, 3),
            "score_at_threshold": self.score_at_threshold,
            "selection": self.selection,
            "baseline": self.baseline,
            **self.found._asdict(),
        }


def _worst(scores: np.ndarray, image_ids: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Ids and scores of the WORST images with the lowest scores; of equal ones, the first."""
    lowest = np.argsort(scores[: len(image_ids)], kind="stable")[:WORST]  # NaN is last
    return tuple((image_ids[number], float(scores[number])) for number in lowest if not np.isnan(scores[number]))


# The scores of a full fit: all None.
NOT_VALIDATED = dict.fromkeys(Validation(0, 0, 0, 0, 0, DetectionRates(0, 0, 0)).line())


def beats_baseline(line: dict[str, Any], score: str = "score_at_threshold") -> bool:
    """Whether a score in a line of the history is above the line's baseline.

    Args:
        score: key of the score; the default is the metric at the best threshold.
    """
    return line[score] > line["baseline"] + TOLERANCE
