"""The choice between rule sets, and between the variants of the best one, by cross-validated scores.

A rule set with more candidates always scores better on the images that it was searched on. Rule sets are therefore
compared by the score of their best rules when these are chosen without each of the folds in turn.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from pipeline.metrics import Metric
from pipeline.postprocess.rule_variants import VARIANTS, VariantScores, VariantSearch
from pipeline.postprocess.rules import Rules
from pipeline.postprocess.search import GROUP, CandidateScores, RuleSearch, ScoreGrid
from pipeline.postprocess.search import RULE_SETS as GRID_RULE_SETS
from pipeline.postprocess.shares import Histograms, Place

RULE_SETS = (*GRID_RULE_SETS, VARIANTS)
# That a threshold of a group is chosen on. On simulated discs of varying brightness, the threshold chosen on 10 images
# scores .024 below the best one on others, on 20 .017, on 40 .012; a common one, chosen on 200, .005.
MIN_GROUP_IMAGES = 20
MIN_GROUP_FOLDS = 3  # with two, a choice without one of them has no fold left to be scored on

Folds = tuple[int, ...]  # the folds that something is chosen on, ascending
K = TypeVar("K", bound=Hashable)
# From the keys of some searches to the images of each: key, and the arguments of `RuleSearch.add`.
ImagesOf = Callable[[Collection[K]], Iterator[tuple[K, np.ndarray, np.ndarray, Place, int | None]]]


class Candidate(NamedTuple):
    """A rule set; with variants, followed by the choice of one of them."""

    grid: ScoreGrid
    variants: VariantScores | None = None  # of all rules that the grid may find best

    @property
    def scores(self) -> CandidateScores:
        """The scores of the rules that may be chosen."""
        return self.variants or self.grid

    def best(self, folds: Folds) -> tuple[Rules, float]:
        """The best rules on the images of some folds, and their score there."""
        rules, score = self.grid.best(folds)
        return self.variants.best(rules, folds) if self.variants else (rules, score)


@dataclass(frozen=True)
class CandidateRules:
    """The scores of all rules under one combination of members.

    Args:
        grids: by name of the rule set.
        scores_of: for each set of folds that rules will be chosen on, the cross-validated score of each rule set.
        variants: of the base's best rules; None if no set has two folds.
        histograms: of the volumes and folds, for shares of them.
    """

    grids: dict[str, ScoreGrid]
    scores_of: dict[Folds, dict[str, float]]
    variants: VariantScores | None
    histograms: Histograms

    @property
    def base_of(self) -> dict[Folds, str]:
        """For each set of folds that rules will be chosen on, the name of the best rule set."""
        return {folds: _first_best(scores) for folds, scores in self.scores_of.items()}

    def gain_of_groups(self, folds: Folds) -> float | None:
        """By how much the cross-validated score of thresholds by group exceeds the best of the other rule sets.

        None if no group may have a threshold of its own.
        """
        others = dict(self.scores_of[folds])
        own = others.pop(GROUP, None)
        return None if own is None else own - max(others.values())

    def best(self, folds: Folds) -> tuple[str, Rules]:
        """The best rule set on some folds, and its best rules there."""
        candidates = self.candidates(folds)
        rule_set = _first_best(_cross_validate_all(candidates, folds))
        return rule_set, candidates[rule_set].best(folds)[0]

    def base(self, folds: Folds) -> ScoreGrid:
        """The scores of the rule set that is best on some folds, without variants."""
        return self.grids[self.base_of[folds]]

    def candidates(self, folds: Folds) -> dict[str, Candidate]:
        """The rule set that is best on some folds, and its variants."""
        base = self.base(folds)
        found = {base.rule_set: Candidate(base)}
        if len(folds) > 1:  # else no fold can be held out, and the variants would always win
            found[VARIANTS] = Candidate(base, self.variants)
        return found


def search_candidates(
    images_of: ImagesOf,
    metric: Metric,
    fits: Mapping[K, Sequence[Folds]],
    rule_sets: Collection[str] = tuple(GRID_RULE_SETS),
    groups: Collection[str] = (),
) -> dict[K, CandidateRules]:
    """Score the candidate rules of several classes, or combinations, in two passes over the images.

    The first pass scores the rule sets, the second the variants of the rules that are best in the first.

    Args:
        images_of: called once per pass.
        fits: of each key, the sets of folds that rules will be chosen on.
        rule_sets: names of `search.RULE_SETS`.
        groups: that may have a threshold of their own, see `large_groups`.

    Raises:
        ValueError: as `RuleSearch`.
    """
    searches = _run({key: RuleSearch(metric, rule_sets=rule_sets, groups=groups) for key in fits}, images_of)
    grids, histograms = {}, {}
    for key in fits:
        search = searches.pop(key)  # its sums are as large as the grids
        grids[key], histograms[key] = search.grids(), search.histograms
    candidates = {key: {name: Candidate(grid) for name, grid in grids[key].items()} for key in fits}
    scores_of = {key: {folds: _cross_validate_all(candidates[key], folds) for folds in fits[key]} for key in fits}
    found = {key: _best_rules(grids[key], scores_of[key]) for key in fits}
    searches = _run({k: VariantSearch(metric, rules, histograms[k]) for k, rules in found.items() if rules}, images_of)
    variants = {key: search.scores() for key, search in searches.items()}
    return {key: CandidateRules(grids[key], scores_of[key], variants.get(key), histograms[key]) for key in fits}


def _run(searches: dict[K, RuleSearch | VariantSearch], images_of: ImagesOf) -> dict:
    if searches:
        for key, *image in images_of(searches):
            searches[key].add(*image)
    return searches


def large_groups(places: Iterable[Place]) -> tuple[str, ...]:
    """The groups that may have a threshold of their own, sorted.

    They have MIN_GROUP_IMAGES images or more without any one of the folds, since each choice is scored on a fold that
    it was made without. A group whose images are all in one fold would have a threshold that was never scored.
    """
    places = list(places)
    if len({place.fold for place in places}) < MIN_GROUP_FOLDS:
        return ()
    counts: dict[str, Counter[int | None]] = {}
    for place in places:
        if place.group is not None:
            counts.setdefault(place.group, Counter())[place.fold] += 1
    return tuple(sorted(each for each, of in counts.items() if of.total() - max(of.values()) >= MIN_GROUP_IMAGES))


def _best_rules(grids: Mapping[str, ScoreGrid], scores_of: Mapping[Folds, Mapping[str, float]]) -> list[Rules]:
    """All rules whose variants a choice on some folds, or a cross-validation within them, may ask for."""
    parts = [
        (_first_best(scores), part)
        for folds, scores in scores_of.items()
        if len(folds) > 1
        for part in [folds, *without_each(folds)]
    ]
    return list(dict.fromkeys(grids[base].best(part)[0] for base, part in parts if grids[base].is_defined(part)))


def _cross_validate_all(candidates: Mapping[str, Candidate], folds: Folds) -> dict[str, float]:
    return {name: _cross_validate(candidate, folds) for name, candidate in candidates.items()}


def _first_best(scores: Mapping[str, float]) -> str:
    return max(scores, key=scores.__getitem__)  # of equals the first, simplest


def _cross_validate(candidate: Candidate, folds: Folds) -> float:
    """The score of a candidate when its rules are chosen without each of the folds in turn.

    A fold on which the metric is not defined, such as one without a rare class, is left out.
    """
    grid, parts = candidate.grid, zip(folds, without_each(folds), strict=True)
    defined = {fold: part for fold, part in parts if part and all(map(grid.is_defined, ([fold], part)))}
    if not defined:
        return candidate.best(folds)[1]
    images = dict(zip(grid.folds.tolist(), grid.images.tolist(), strict=True))
    held_out = [candidate.scores.score(candidate.best(part)[0], [fold]) for fold, part in defined.items()]
    return float(np.average(held_out, weights=[images[fold] for fold in defined]))


def folds_of(fold_of: np.ndarray) -> Folds:
    """The folds of some images, ascending, each once."""
    return tuple(np.unique(fold_of).tolist())


def without_each(folds: Folds) -> list[Folds]:
    """For each fold, the others."""
    return [tuple(each for each in folds if each != left_out) for left_out in folds]
