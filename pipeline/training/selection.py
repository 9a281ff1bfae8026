"""What a validation says, and the one score by which epochs, averages of weights and phases are chosen.

The metric at threshold .5 must not choose: where most masks are empty, many metrics pay for predicting nothing, and an
epoch that has learned to find objects, but is not sure of them yet, scores less than one that has learned nothing. So:

    selection = max(metric at the epoch's best threshold, baseline) + 0.01 · soft Dice over all pixels

The best threshold is what the search on OOF will look for too. Below the baseline, the score of predicting nothing (or
the most frequent class, of exclusive ones), the metric tells no epochs apart: soft Dice does, which grows with the
probability of the objects' pixels. Elsewhere it decides between epochs whose metric is all but equal. Where no image
held out has an object, no score is above the baseline, and soft Dice is 0: the metric at threshold .5 takes its place.
"""

from typing import Any, NamedTuple

from pipeline.metrics import Counts, DetectionRates, Metric, detection_rates, nan_to_zero
from pipeline.postprocess import HALF, THRESHOLDS, best_threshold

ROUNDING = 1e-9  # below it two scores are one
SOFT = 0.01  # weight of soft Dice; the metric's own noise between epochs is larger


class Validation(NamedTuple):
    """One validation of one set of weights."""

    score: float  # the metric at threshold .5
    threshold: float  # the best, 0 to 1
    score_at_threshold: float  # the metric there
    baseline: float  # the metric of predicting nothing; of exclusive classes, of the most frequent one everywhere
    soft_dice: float  # over all pixels, of probabilities; 0 to 1; the score at .5 where no image has an object
    found: DetectionRates  # at threshold .5

    @classmethod
    def from_counts(
        cls, counts: Counts, soft: Counts, metric: Metric, *, exclusive: bool, classes: int | None = None
    ) -> "Validation":
        """Scores, selection score and detection rates from the counts of all held-out images.

        Args:
            exclusive: one class per pixel.
            classes: number of channels that are classes; None: all. A boundary channel after them counts for the
                score, not for the detection rates.

        Shapes:
            counts: (N, C, 255), at every threshold.
            soft: (N, C) float, as from `postprocess.count_soft`.
        """
        scores = nan_to_zero(metric.total(counts))
        best = best_threshold(scores)
        return cls(
            float(scores[HALF]),
            float(THRESHOLDS[best]),
            float(scores[best]),
            float(nan_to_zero(metric.baseline(counts.target[..., HALF], exclusive=exclusive))),
            (detection_rates(soft).dice or 0.0) if counts.target.any() else float(scores[HALF]),
            detection_rates(Counts(*(each[:, :classes, HALF] for each in counts))),
        )

    @property
    def selection(self) -> float:
        """What is compared between epochs; the higher, the better."""
        return max(self.score_at_threshold, self.baseline) + SOFT * self.soft_dice

    def line(self) -> dict[str, Any]:
        """As plain values, for the history."""
        return {
            "score": self.score,
            "threshold": round(self.threshold, 3),
            "score_at_threshold": self.score_at_threshold,
            "selection": self.selection,
            "baseline": self.baseline,
            **self.found._asdict(),
        }


NOT_VALIDATED = dict.fromkeys(Validation(0, 0, 0, 0, 0, DetectionRates(0, 0, 0)).line())  # the line of a full fit


def beats_baseline(line: dict[str, Any], score: str = "score_at_threshold") -> bool:
    """Whether a score of a line of the history, by default that at the best threshold, is above its baseline."""
    return line[score] > line["baseline"] + ROUNDING
