"""The choice for classes of which each pixel has one: how members are combined, and with which weights."""

import numpy as np

from pipeline.data.labels import VOID
from pipeline.ensemble.choice import Oof
from pipeline.ensemble.decision import Decision, Exclusive, blender, scores_of_folds
from pipeline.ensemble.weights import Reduced, log_loss_weights, reduce
from pipeline.metrics import Metric, Scores, stack
from pipeline.postprocess import count_argmax
from pipeline.statistics.crossfit import cross_fit

RULES = ("mean", "logit", "geometric")  # a vote at .5 says nothing where no class reaches it


def decide_exclusive(oof: Oof, metric: Metric) -> Decision:
    """Equal weights, or those of the least log loss, by the rule that scores best; on K − 1 folds, and on all.

    Of one member nothing is chosen, so that its in-sample score is honest too.

    Raises:
        ValueError: for fewer than two folds, or one of which no pixel counts.
    """
    chooser = _Chooser(oof, metric)
    fitted = cross_fit(oof.fold_of, chooser.fit, chooser.score, image_ids=oof.image_ids)
    return Decision(
        fitted.scores,
        fitted.in_sample,
        fitted.in_sample,
        scores_of_folds(oof, fitted.scores),
        fitted.shipped,
        dict(zip(fitted.folds.tolist(), fitted.chosen, strict=True)),
        chooser.log_loss_weights(np.ones(len(oof.fold_of), dtype=bool)),
        trivial=metric.baseline(np.stack(chooser.areas), exclusive=True),
    )


class _Chooser:
    def __init__(self, oof: Oof, metric: Metric):
        self.oof, self.metric = oof, metric
        self._scores: dict[Exclusive, Scores] = {}
        self.given = [] if oof.members == 1 else [given_to_truth(*oof.read(each)) for each in oof.image_ids]

    def fit(self, rows: np.ndarray) -> Exclusive:
        equal = (1 / self.oof.members,) * self.oof.members
        if self.oof.members == 1:
            return Exclusive("mean", equal)
        fitted = tuple(self.log_loss_weights(rows).tolist())
        tried = [Exclusive(how, weights) for how in RULES for weights in (equal, fitted)]
        return max(tried, key=lambda choice: self.score(choice, rows).mean())

    def score(self, choice: Exclusive, rows: np.ndarray) -> Scores:
        if choice not in self._scores:
            counts = []
            for image_id in self.oof.track(self.oof.image_ids, "score classes"):
                values, target = self.oof.read(image_id)
                counts.append(count_argmax(choice.blended(blender(values)), target))
            self._scores[choice] = self.metric.scores(stack(counts))
            self.areas = [image.target for image in counts]
        return self._scores[choice].take(rows)

    def log_loss_weights(self, rows: np.ndarray) -> np.ndarray:
        return log_loss_weights(self.given, rows=rows) if self.given else np.ones(1)


def given_to_truth(values: np.ndarray, target: np.ndarray) -> Reduced:
    """What each member gives to the true class of each pixel, on a grid: all that the log loss needs.

    Shapes:
        values: (M, C, H, W) uint8; target: (C, H, W), 0 or 1, or 255 for void, which counts as fully right.
    """
    true, valid = target.argmax(axis=0), target[0] != VOID
    given = np.take_along_axis(values, true[None, None], axis=1)[:, 0]
    return reduce(np.where(valid, given, 255).astype(np.uint8), np.ones_like(true, dtype=np.uint8))
