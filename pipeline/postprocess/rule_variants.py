"""Variants of rules that a search found: a short list of further rules, scored exactly, one image at a time.

`search` tries each rule set by itself, since one histogram or one component tree gives all of its areas and thresholds
at once. Rules of two sets together (a minimum component, and a minimum total area of the components that are left),
filled holes and the k largest components are tried here, at the threshold that was found.

At one threshold, the counts of every candidate are sums over the components of one mask. A hole lies in exactly one
component, because the pixels that enclose it touch at sides or corners. Components and holes therefore form a tree,
and filling the holes of some components adds everything below them in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric
from pipeline.postprocess.rules import Rules, at_place, label_components, with_threshold
from pipeline.postprocess.search import CandidateScores, FoldSums
from pipeline.postprocess.shares import Histograms, Place, histogram_of
from pipeline.postprocess.threshold_counts import is_best, level

VARIANTS = "variants"  # the name of a rule set whose rules were varied

# Areas are in pixels, each four times the one before, so that the list is short and fits small and large images.
COMPONENTS = (4, 16, 64, 256)
TOTALS = (16, 64, 256, 1024)
TRIPLETS = tuple({"presence_threshold": prob, "presence_area": area} for prob, area in product((0.7, 0.9), (1, 16, 64)))

# The changes that are tried, field by field of the rules; the first of each is none. A rule that is set is kept.
HOLES = ({}, {"fill_holes": True})
LARGEST = ({}, *({"keep_largest": number} for number in (1, 2, 3)))
SMALLEST = ({}, *({"min_component": area} for area in COMPONENTS))
PRESENCE = ({}, *({"min_area": area} for area in TOTALS), *TRIPLETS)


def rule_variants(rules: Rules) -> list[Rules]:
    """The rules and their variants: the rules themselves first, then variants by the number of changes.

    >>> len(rule_variants(Rules(0.5, 0)))  # 2 of holes × 4 of the largest × 5 minimum components × 11 of presence
    440
    >>> len(rule_variants(Rules(0.5, 0, min_component=8))), len(rule_variants(Rules(0.5, 8)))
    (88, 40)
    """
    smallest = SMALLEST if rules.min_component <= 1 else SMALLEST[:1]
    presence = PRESENCE if rules.min_area <= 1 and rules.presence_area <= 0 else PRESENCE[:1]
    changes = [[each for each in some if each] for some in product(HOLES, LARGEST, smallest, presence)]
    changes.sort(key=len)
    return [rules._replace(**{field: value for each in some for field, value in each.items()}) for some in changes]


@dataclass(frozen=True, eq=False)
class VariantScores(CandidateScores):
    """The scores of R variants of some rules."""

    columns: dict[Rules, int]  # rules: their column, 0 … R − 1

    def best(self, rules: Rules, folds: Iterable[int] | None = None) -> tuple[Rules, float]:
        """The best of some rules and their variants on the images of some folds, or of all, and its score there.

        Of equal scores the one with the fewest changes wins.

        Raises:
            ValueError: for rules whose variants were not scored; as `means`.
        """
        variants = rule_variants(rules)
        means = self.means(folds)[[self._position(each)[0] for each in variants]]
        best = int(is_best(means).argmax())
        return variants[best], float(means[best])

    def _position(self, rules: Rules) -> tuple[int, ...]:
        if rules not in self.columns:
            raise ValueError(f"{rules} was not tried: use `apply` to score it")
        return (self.columns[rules],)


class VariantSearch:
    """The score of some rules and of all their variants, summed up one image at a time; no image is kept.

    Exact: a candidate's sum is that of the metric over the masks that `apply` gives.

    Args:
        metric: of `metrics.METRICS`.
        rules: whose variants are scored.
        histograms: of the pools of all images; only for shares of several images.

    Raises:
        ValueError: for no rules.
    """

    def __init__(self, metric: Metric, rules: Iterable[Rules], histograms: Histograms | None = None):
        tried = dict.fromkeys(variant for each in rules for variant in rule_variants(each))
        if not tried:
            raise ValueError("no rules to vary: expected at least one")
        cuts = dict.fromkeys(map(_cut, tried))
        self._groups = [_Group([each for each in tried if _cut(each) == cut]) for cut in cuts]
        self._sums, self._histograms = FoldSums(metric), histograms or Histograms()

    def add(self, values: np.ndarray, target: np.ndarray, place: Place, image_value: int | None = None) -> None:
        """Add one image, with the arguments of `RuleSearch.add`."""
        image = _Image(values, target, image_value)
        lowest = [group.lowest(image, place, self._histograms) for group in self._groups]
        counts = _concatenate([group.count(image, each) for group, each in zip(self._groups, lowest, strict=True)])
        terms = [np.asarray(term(counts), dtype=np.float64) for term in self._sums.terms]
        self._sums.add(place.fold, {VARIANTS: terms})

    def scores(self) -> VariantScores:
        """The scores of all variants.

        Raises:
            ValueError: if no image was added.
        """
        rules = [each for group in self._groups for each in group.rules]
        return VariantScores(**self._sums.stack(VARIANTS), columns={each: column for column, each in enumerate(rules)})


def _concatenate(counts: Sequence[Counts]) -> Counts:
    return Counts(*map(np.concatenate, zip(*counts, strict=True)))


def _cut(rules: Rules) -> tuple[object, ...]:
    """What decides the threshold."""
    return rules.threshold, rules.share, rules.share_of, rules.share_in, rules.by_group


class _Group:
    """Rules of one threshold, or share: their masks of an image are subsets of the same components."""

    def __init__(self, rules: list[Rules]):
        self.rules = rules
        kept = [(each.min_component, np.inf if each.keep_largest is None else each.keep_largest) for each in rules]
        subsets, self._subset = np.unique(kept, axis=0, return_inverse=True)  # many rules keep the same components
        self._subset = self._subset.reshape(-1)  # numpy 2.0 returns it with a second axis
        self._min_component, self._keep_largest = subsets.T[..., None]
        self._min_area = np.array([each.min_area for each in rules])
        self._fill_holes = np.array([each.fill_holes for each in rules])
        self._presence_level = np.array([level(each.presence_threshold) for each in rules])
        self._presence_area = np.array([each.presence_area for each in rules])
        self._gate_level = np.array([0 if each.gate is None else level(each.gate) for each in rules])

    def lowest(self, image: "_Image", place: Place, histograms: Histograms) -> int:
        """The lowest stored value of the masks of an image, 1 … 256."""
        return level(with_threshold(at_place(self.rules[0], place, histograms), image.histogram).threshold)

    def count(self, image: "_Image", at_level: int) -> Counts:
        """The counts of one image for each of the rules, (R,), equal to those of the masks that `apply` gives.

        Args:
            at_level: the lowest stored value of the masks.
        """
        components = _Components(image, at_level)
        areas, filled = components.count(self._min_component, self._keep_largest)  # (3, subsets)
        areas, filled = areas[:, self._subset], filled[:, self._subset]
        absent = image.at_least[np.maximum(self._presence_level, at_level)] < self._presence_area
        closed = self._gate_level > (MAX_VALUE if image.image_value is None else image.image_value)
        empty = absent | closed | (areas[0] < self._min_area)
        _, predicted, intersection = np.where(empty, 0, np.where(self._fill_holes, filled, areas))
        return Counts(intersection, predicted, np.full(len(self.rules), image.target))


class _Image:
    """The sums of one image that all groups share; a border of zeros is added, which no threshold reaches."""

    def __init__(self, values: np.ndarray, target: np.ndarray, image_value: int | None = None):
        self.values, self.image_value = np.pad(values, 1), image_value
        padded = np.pad(target, 1).ravel()
        self.true_before = _count_before(padded == 1)
        self.valid_before = _count_before(padded != VOID) if (target == VOID).any() else np.arange(padded.size + 1)
        self.target = self.true_before[-1]
        self.histogram = histogram_of(values)
        self.at_least = np.append(self.histogram, 0)[::-1].cumsum()[::-1]  # (257,): `level` of 1 is above all of them


def _count_before(which: np.ndarray) -> np.ndarray:
    """The number of a flat image's pixels before each position, and of all, (pixels + 1,) int64."""
    before = np.zeros(which.size + 1, np.int64)
    np.cumsum(which, out=before[1:])
    return before


class _Components:
    """The components of a mask, with the pixels of each: all, those that are not void, and true ones. Number 0 is none.

    Along the rows, runs of the mask alternate with runs of background; the image begins and ends with background. Each
    run lies in one component or in one region of background, so that areas are sums over runs and not over pixels.
    """

    def __init__(self, image: _Image, at_level: int):
        mask = (image.values >= at_level).view(np.uint8)
        flat = mask.ravel()
        bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
        runs = np.stack([np.diff(each) for each in (bounds, image.valid_before[bounds], image.true_before[bounds])])
        component = label_components(mask, connectivity=8).ravel()[bounds[1:-1:2]]  # of every second run
        region = label_components(1 - mask, connectivity=4).ravel()[bounds[:-1:2]]  # of the others: 1 is the outside
        self.areas = _sum_runs(component, runs[:, 1::2])
        self._rank = np.full(self.areas.shape[1], len(flat))
        self._rank[1:] = np.argsort(np.argsort(-self.areas[0, 1:], kind="stable"))
        self._parent, self._filled = np.zeros(self.areas.shape[1], np.int64), self.areas
        if region.max() > 1:
            self._fill(component, region, _sum_runs(region, runs[:, ::2]))

    def _fill(self, component: np.ndarray, region: np.ndarray, backgrounds: np.ndarray) -> None:
        """Find the component that encloses each component, and the area of each with everything that it encloses."""
        owner = np.zeros(backgrounds.shape[1], np.int64)  # of a hole: the component of the run before its first run
        owner[2:] = component[_first_runs(region)[2:] - 1]
        self._parent = owner[region[_first_runs(component)]]  # the owner of the background run before its first run
        self._filled = self.areas.copy()
        np.add.at(self._filled, (slice(None), owner[2:]), backgrounds[:, 2:])
        for number in np.flatnonzero(self._parent)[::-1]:  # the innermost first: it begins further down
            self._filled[:, self._parent[number]] += self._filled[:, number]

    def count(self, min_component: np.ndarray, keep_largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels, those not void, and true ones, of the components kept; and with their holes. (3, subsets) each.

        Shapes:
            min_component, keep_largest: (subsets, 1), the minimum area and the number of components that are kept.
        """
        kept = (self.areas[0] >= np.maximum(min_component, 1)) & (self._rank < keep_largest)
        return _sum_kept(kept, self.areas), _sum_kept(kept & ~self._enclosed(kept), self._filled)

    def _enclosed(self, kept: np.ndarray) -> np.ndarray:
        """Which components lie in a hole of one that is kept, at any depth; (subsets, components) bool."""
        enclosed = np.zeros_like(kept)
        if not self._parent.any():
            return enclosed
        while True:
            deeper = (kept | enclosed)[:, self._parent]
            if np.array_equal(deeper, enclosed):
                return enclosed
            enclosed = deeper


def _sum_kept(kept: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(3, subsets) int64; float64 holds whole numbers of pixels exactly, and its products are faster."""
    return np.rint(areas.astype(np.float64) @ kept.T).astype(np.int64)


def _sum_runs(labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Sums over the runs of each label, row by row of (3, runs): (3, labels) int64."""
    return np.stack([np.bincount(labels, row, minlength=1) for row in runs]).astype(np.int64)


def _first_runs(labels: np.ndarray) -> np.ndarray:
    """Number of the first run of each label; 0 for label 0, which has none."""
    first = np.zeros(labels.max() + 1, np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]  # the last of several writes stays: the first run
    return first
