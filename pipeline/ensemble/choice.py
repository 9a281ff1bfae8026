"""How members become one mask: a combination with weights, and a cut; chosen on OOF, scored where it was not chosen.

Each class of several has a choice of its own: what suits a frequent large class suits a rare small one badly.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipeline.ensemble.candidate_rules import Folds, Rivals, folds_of, without_each
from pipeline.ensemble.combine import COMBINATIONS, blend
from pipeline.ensemble.weights import Reduced, at_best_threshold, greedy_weights, image_scores, log_loss_weights, reduce
from pipeline.metrics import Counts, Metric, Scores, count, stack
from pipeline.postprocess import Cut, Surface, apply
from pipeline.statistics.crossfit import CrossFitted, cross_fit

Way = tuple[str, tuple[float, ...]]  # a combination, and the members' weights


class Choice(NamedTuple):
    """All that lies between the members' stored values and a mask."""

    how: str  # in COMBINATIONS
    weights: tuple[float, ...]  # of the members, of sum 1
    rules: str  # in `rivals.RULES`: where the cut is from
    cut: Cut

    def mask(self, values: np.ndarray) -> np.ndarray:
        """The mask of one image, (H, W), of its members' values (M, H, W) uint8."""
        return apply(blend(values, np.array(self.weights), self.how), self.cut)


@dataclass(frozen=True)
class Oof:
    """What is known of the training images out of fold.

    Args:
        image_ids: of the N images.
        fold_of: (N,) int.
        read: from an image id to its members' values (M, C, H, W) uint8 and its target (C, H, W),
            255 where void.
        members: M.
        track: shows progress over N items.
    """

    image_ids: Sequence[str]
    fold_of: np.ndarray
    read: Callable[[str], tuple[np.ndarray, np.ndarray]]
    members: int
    track: Callable[[Iterable[str], str], Iterable[str]]

    def only(self, member: int) -> "Oof":
        """The same images with one member alone."""

        def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
            values, target = self.read(image_id)
            return values[member : member + 1], target

        return replace(self, read=read, members=1)

    def of_class(self, number: int) -> "Oof":
        """The same images with one class alone, without its axis: values (M, H, W), target (H, W)."""

        def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
            values, target = self.read(image_id)
            return values[:, number], target[number]

        return replace(self, read=read)


class _Chooser:
    """Choices on any folds. What depends on no choice, or only on the weights, is computed once."""

    def __init__(self, oof: Oof, metric: Metric):
        self.oof, self.metric = oof, metric
        self._rivals: dict[Way, Rivals] = {}
        alone = oof.members == 1
        self.reduced = [] if alone else [reduce(*oof.read(each)) for each in oof.track(oof.image_ids, "read members")]

    def fit(self, rows: np.ndarray) -> Choice:
        """The choice that does best on some rows, (N,) bool: all images of some folds."""
        folds = folds_of(self.oof.fold_of[rows])
        way = self._ways[folds]
        return Choice(*way, *self.rivals(way).best(folds))

    def score(self, choice: Choice, rows: np.ndarray) -> Scores:
        """The scores of some rows by a choice."""
        ids = np.array(self.oof.image_ids, dtype=object)[rows]
        return self.metric.scores(stack(self._counts(choice, ids)))

    @cached_property
    def _ways(self) -> dict[Folds, Way]:
        """What members are combined by, by the folds that it is chosen on: all, and all but each."""
        everything = folds_of(self.oof.fold_of)
        return {folds: self._way(folds) for folds in [*without_each(everything), everything]}

    def _way(self, folds: Folds) -> Way:
        """The rule and weights that do best on some folds; equal weights of the mean, if nothing beats them."""
        if self.oof.members == 1:
            return "mean", (1.0,)
        rows = np.isin(self.oof.fold_of, folds)
        tried = [("mean", np.full(self.oof.members, 1 / self.oof.members))]
        tried += [(how, greedy_weights(self.reduced, self.metric, how=how, rows=rows)) for how in COMBINATIONS]
        how, weights = max(tried, key=lambda pair: _reduced_score(self.reduced, *pair, self.metric, rows))
        return how, tuple(weights.tolist())

    def rivals(self, way: Way) -> Rivals:
        """Every cut under a combination: one pass over the images for the families, and one for what refines them."""
        if way not in self._rivals:
            fits = [folds for folds, each in self._ways.items() if each == way]
            self._rivals[way] = Rivals(lambda: self._blended(way), self.metric, fits)
        return self._rivals[way]

    def _blended(self, way: Way) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        (how, weights), folds = way, dict(zip(self.oof.image_ids, self.oof.fold_of.tolist(), strict=True))
        for image_id in self.oof.track(self.oof.image_ids, "search cuts"):
            values, target = self.oof.read(image_id)
            yield blend(values, np.array(weights), how), target, folds[image_id]

    def _counts(self, choice: Choice, ids: Iterable[str]) -> Iterator[Counts]:
        for image_id in ids:
            values, target = self.oof.read(image_id)
            yield count(choice.mask(values), target)


def _reduced_score(
    reduced: Sequence[Reduced], how: str, weights: np.ndarray, metric: Metric, rows: np.ndarray
) -> float:
    fitted = at_best_threshold(reduced, weights, metric, how=how, rows=rows)
    return image_scores(reduced, fitted, metric, rows=rows).mean()


class Chosen(NamedTuple):
    """A choice, what it is worth, and the scores of all cuts under the weights that ship."""

    fitted: CrossFitted[Choice]
    surfaces: dict[str, Surface]
    family: str  # of `surfaces`: the rules that ship, or that what ships refines
    log_loss_weights: np.ndarray  # (M,) that fit the pixels' log loss best: a check of weights that fit the metric

    @property
    def shipped(self) -> Choice:
        """What ships: chosen on all folds."""
        return self.fitted.shipped

    def at_half(self) -> float:
        """The mean score at threshold .5 without further rules."""
        return self.surfaces["total"].score(Cut(0.5, 0))


def choose(oof: Oof, metric: Metric) -> Chosen:
    """Choose rule, weights, family of rules and cut on K − 1 folds, score on the fold left out; and choose on all.

    Raises:
        ValueError: for fewer than two folds; as `crossfit.cross_fit`, `combine.blend` and `search_rules`.
    """
    chooser = _Chooser(oof, metric)
    fitted: CrossFitted[Any] = cross_fit(oof.fold_of, chooser.fit, chooser.score, image_ids=oof.image_ids)
    check = log_loss_weights(chooser.reduced) if oof.members > 1 else np.ones(1)
    rivals = chooser.rivals(fitted.shipped[:2])
    return Chosen(fitted, rivals.surfaces, rivals.family(folds_of(oof.fold_of)), check)
