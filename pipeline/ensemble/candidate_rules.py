"""Which rules win: families of them, and refinements of the best family's cut, each scored where it was not chosen.

Rules with more to choose from always look better on the images that they were searched on. So each competes with what
its cut scores when it is chosen without each of the folds in turn.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from pipeline.metrics import Metric
from pipeline.postprocess import FAMILIES, Cut, Images, Refined, search_refinements, search_rules

REFINED = "refined"  # the best family's cut, with further rules
RULES = (*FAMILIES, REFINED)

Folds = tuple[int, ...]  # that something is chosen on, ascending


class Rival(Protocol):
    """Rules to choose from: a `Surface`, or `Refined`."""

    folds: np.ndarray
    images: np.ndarray

    def is_defined(self, folds: Iterable[int]) -> bool:
        """Whether the metric is defined on the images of some folds."""

    def best(self, folds: Iterable[int]) -> tuple[Cut, float]:
        """The best cut on the images of some folds, and its mean score there."""

    def score(self, cut: Cut, folds: Iterable[int]) -> float:
        """The mean score of a cut over the images of some folds."""


class Rivals:
    """All rules under one combination of members, competing for each of some sets of folds.

    The images are gone through twice: for the families, and for what refines the cuts that won.

    Args:
        images: gives the images of a search, from the first on.
        fits: the sets of folds that something will be chosen on.
    """

    def __init__(self, images: Callable[[], Images], metric: Metric, fits: Sequence[Folds]):
        self.surfaces = search_rules(images(), metric)
        self._family = {folds: _winner(self.surfaces, folds) for folds in fits}
        parts = [(folds, part) for folds in fits if len(folds) > 1 for part in [folds, *without_each(folds)]]
        cuts = {
            surface.best(part)[0]
            for folds, part in parts
            for surface in [self.surfaces[self._family[folds]]]
            if surface.is_defined(part)
        }
        self._refinements = search_refinements(images(), metric, sorted(cuts)) if cuts else None

    def family(self, folds: Folds) -> str:
        """The family that wins on some folds: the rules that a refinement refines."""
        return self._family[folds]

    def best(self, folds: Folds) -> tuple[str, Cut]:
        """The rules that win on some folds, and their cut there."""
        rivals = self.rivals(folds)
        rules = _winner(rivals, folds)
        return rules, rivals[rules].best(folds)[0]

    def rivals(self, folds: Folds) -> dict[str, Rival]:
        """The family that wins on some folds, and what refines its cuts."""
        family = self._family[folds]
        if len(folds) < 2:  # nothing is held out, and what has more to choose from would always win
            return {family: self.surfaces[family]}
        return {family: self.surfaces[family], REFINED: Refined(self.surfaces[family], self._refinements)}


def _winner(rivals: Mapping[str, Rival], folds: Folds) -> str:
    return max(rivals, key=lambda name: _honest(rivals[name], folds))  # of equals, the simplest: the first


def _honest(rival: Rival, folds: Folds) -> float:
    """The score of rules when their cut is chosen without each of the folds in turn.

    A fold on which the metric is not defined, as where a rare class is missing, says nothing and is passed over.
    """
    parts = zip(folds, without_each(folds), strict=True)
    said = {fold: part for fold, part in parts if part and all(map(rival.is_defined, ([fold], part)))}
    if not said:
        return rival.best(folds)[1]
    images = dict(zip(rival.folds.tolist(), rival.images.tolist(), strict=True))
    scores = [rival.score(rival.best(part)[0], [fold]) for fold, part in said.items()]
    return float(np.average(scores, weights=[images[fold] for fold in said]))


def folds_of(fold_of: np.ndarray) -> Folds:
    """The folds of some images, each once."""
    return tuple(np.unique(fold_of).tolist())


def without_each(folds: Folds) -> list[Folds]:
    """The other folds of each."""
    return [tuple(each for each in folds if each != left_out) for left_out in folds]
