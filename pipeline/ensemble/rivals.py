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
        cuts = {self.surfaces[self._family[folds]].best(part)[0] for folds, part in parts}
        self._refinements = search_refinements(images(), metric, sorted(cuts)) if cuts else None

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
    """The score of rules when their cut is chosen without each of the folds in turn."""
    if len(folds) < 2:
        return rival.best(folds)[1]
    images = dict(zip(rival.folds.tolist(), rival.images.tolist(), strict=True))
    parts = zip(folds, without_each(folds), strict=True)
    scores = [rival.score(rival.best(part)[0], [fold]) for fold, part in parts]
    return float(np.average(scores, weights=[images[fold] for fold in folds]))


def folds_of(fold_of: np.ndarray) -> Folds:
    """The folds of some images, each once."""
    return tuple(np.unique(fold_of).tolist())


def without_each(folds: Folds) -> list[Folds]:
    """The other folds of each."""
    return [tuple(each for each in folds if each != left_out) for left_out in folds]
