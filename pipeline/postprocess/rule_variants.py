"""Further rules around a cut that a search found: a short list of them, scored exactly, one image at a time.

`search` tries each family by itself, since all its areas and thresholds at once come from one histogram or one tree.
Rules of two families together (a smallest component, and a smallest total area of what it leaves), filled holes and the
k largest are tried here, at the threshold that is found already.

At one threshold, all candidates are sums over the components of one mask. A hole lies in exactly one component, because
what encloses it touches at sides or corners; so components and holes form a tree, and filling the holes of some
components adds all that lies below them in it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric, Term
from pipeline.postprocess.rules import Cut, label_components
from pipeline.postprocess.search import Images, Surface, mean_scores, rows_of
from pipeline.postprocess.threshold_counts import is_best, level

# Areas are in pixels; four times as large each, so that the list stays short and fits small and large images.
COMPONENTS = (4, 16, 64, 256)
TOTALS = (16, 64, 256, 1024)
SUREST = tuple({"presence_threshold": prob, "presence_area": area} for prob, area in product((0.7, 0.9), (1, 16, 64)))

# What is tried, field by field of a cut; the first of each is the cut's own. A rule that the cut has stays as it is.
HOLES = ({}, {"fill_holes": True})
LARGEST = ({}, *({"keep_largest": number} for number in (1, 2, 3)))
SMALLEST = ({}, *({"min_component": area} for area in COMPONENTS))
PRESENCE = ({}, *({"min_area": area} for area in TOTALS), *SUREST)


def refinements(cut: Cut) -> list[Cut]:
    """A cut and all that is tried around it, the cut first, and what changes fewer rules before what changes more.

    >>> len(refinements(Cut(0.5, 0)))  # 2 of holes × 4 of the largest × 5 smallest components × 11 of presence
    440
    >>> len(refinements(Cut(0.5, 0, min_component=8))), len(refinements(Cut(0.5, 8)))
    (88, 40)
    """
    smallest = SMALLEST if cut.min_component <= 1 else SMALLEST[:1]
    presence = PRESENCE if cut.min_area <= 1 and cut.presence_area <= 0 else PRESENCE[:1]
    changes = [[each for each in some if each] for some in product(HOLES, LARGEST, smallest, presence)]
    changes.sort(key=len)
    return [cut._replace(**{field: value for each in some for field, value in each.items()}) for some in changes]


class Refinements(NamedTuple):
    """What the refinements of some cuts gain and could gain, summed over the images of each fold."""

    cuts: tuple[Cut, ...]  # each once
    folds: np.ndarray  # (K,) numbers of the folds, ascending
    sums: np.ndarray  # (K, R): what a fold's images gained
    possible: np.ndarray  # and what was possible; of a mean over images (K, 1), their number
    images: np.ndarray  # (K,) number of images of each fold

    def best(self, cut: Cut, folds: Iterable[int] | None = None) -> tuple[Cut, float]:
        """The best of a cut and its refinements on the images of some folds, or of all, and its mean score there.

        Of equal scores wins what changes fewest rules.

        Raises:
            ValueError: for a cut that was not searched around; as `Surface.means`.
        """
        among = refinements(cut)
        means = self._means(folds)[[self._place(each) for each in among]]
        best = int(is_best(means).argmax())
        return among[best], float(means[best])

    def score(self, cut: Cut, folds: Iterable[int] | None = None) -> float:
        """The mean score of a cut over the images of some folds, or of all.

        Raises:
            ValueError: as `best`.
        """
        return float(self._means(folds)[self._place(cut)])

    def _means(self, folds: Iterable[int] | None) -> np.ndarray:
        rows = rows_of(self.folds, folds)
        return mean_scores(self.folds[rows], self.sums[rows], self.possible[rows], self.images[rows])

    def _place(self, cut: Cut) -> int:
        if cut not in self.cuts:
            raise ValueError(f"{cut} was not tried: use `apply` to score it")
        return self.cuts.index(cut)


class Refined(NamedTuple):
    """A family of rules whose cuts are refined: to choose from, and to score, as the family's own surface is."""

    surface: Surface
    refinements: Refinements  # of all cuts that the surface may find best

    @property
    def folds(self) -> np.ndarray:
        """(K,) numbers of the folds, ascending."""
        return self.refinements.folds

    @property
    def images(self) -> np.ndarray:
        """(K,) number of images of each fold."""
        return self.refinements.images

    def is_defined(self, folds: Iterable[int]) -> bool:
        """Whether the metric is defined on the images of some folds."""
        return self.surface.is_defined(folds)

    def best(self, folds: Iterable[int] | None = None) -> tuple[Cut, float]:
        """The best refinement, on the images of some folds, of the cut that the surface finds best there."""
        return self.refinements.best(self.surface.best(folds)[0], folds)

    def score(self, cut: Cut, folds: Iterable[int] | None = None) -> float:
        """The mean score of a cut over the images of some folds, or of all."""
        return self.refinements.score(cut, folds)


def search_refinements(images: Images, metric: Metric, cuts: Iterable[Cut]) -> Refinements:
    """The score of some cuts and of all their refinements; each image is read once, and none is kept.

    Exact: a candidate's sum is that of the metric on what `apply` makes of the images.

    Args:
        images: as of `search_rules`.
        metric: of `metrics.METRICS`.

    Raises:
        ValueError: for no image, or no cut.
    """
    tried = dict.fromkeys(each for cut in cuts for each in refinements(cut))
    if not tried:
        raise ValueError("no cut to refine: expected at least one")
    groups = [_Group([cut for cut in tried if cut.threshold == threshold]) for threshold in _thresholds(tried)]
    terms, images_of = [term for term in metric if term], Counter[int]()
    sums: dict[int, np.ndarray] = {}
    for values, target, fold in images:
        image = _Image(values, target)
        counts = _joined([group.count(image) for group in groups])
        images_of[int(fold)] += 1
        sums[int(fold)] = sums.get(int(fold), 0) + np.stack([_term(each, counts) for each in terms])
    if not images_of:
        raise ValueError("no image to search on: expected at least one (values, target, fold)")
    folds = sorted(images_of)
    gained, *possible = np.stack([sums[fold] for fold in folds], axis=1)
    number = np.array([images_of[fold] for fold in folds])
    return Refinements(
        tuple(cut for group in groups for cut in group.cuts),
        np.array(folds),
        gained,
        possible[0] if possible else number[:, None],
        number,
    )


def _thresholds(cuts: Iterable[Cut]) -> list[float]:
    return list(dict.fromkeys(cut.threshold for cut in cuts))


def _term(term: Term, counts: Counts) -> np.ndarray:
    return np.asarray(term(counts), dtype=np.float64)


def _joined(counts: Sequence[Counts]) -> Counts:
    return Counts(*map(np.concatenate, zip(*counts, strict=True)))


class _Group:
    """Cuts of one threshold: what they draw of an image are choices among the same components."""

    def __init__(self, cuts: list[Cut]):
        self.cuts, self.level = cuts, level(cuts[0].threshold)
        kept = [(cut.min_component, np.inf if cut.keep_largest is None else cut.keep_largest) for cut in cuts]
        ways, self._way = np.unique(kept, axis=0, return_inverse=True)  # many cuts keep the same components
        self._way = self._way.reshape(-1)  # numpy 2.0 gives it another axis
        self._smallest, self._largest = ways.T[..., None]
        self._min_area = np.array([cut.min_area for cut in cuts])
        self._filled = np.array([cut.fill_holes for cut in cuts])
        self._surest = [level(max(cut.presence_threshold, cut.threshold)) for cut in cuts]
        self._presence_area = np.array([cut.presence_area for cut in cuts])

    def count(self, image: "_Image") -> Counts:
        """The counts of one image by each of the cuts, (R,), as of what `apply` draws."""
        areas, filled = _Components(image, self.level).count(self._smallest, self._largest)  # (3, ways)
        areas, filled = areas[:, self._way], filled[:, self._way]
        empty = (image.at_least[self._surest] < self._presence_area) | (areas[0] < self._min_area)
        _, predicted, shared = np.where(empty, 0, np.where(self._filled, filled, areas))
        return Counts(shared, predicted, np.full(len(self.cuts), image.target))


class _Image:
    """One image as all groups see it, with a border of zeros, which no threshold draws."""

    def __init__(self, values: np.ndarray, target: np.ndarray):
        self.values = np.pad(values, 1)
        padded = np.pad(target, 1).ravel()
        self.true_before = _before(padded == 1)
        self.valid_before = _before(padded != VOID) if (target == VOID).any() else np.arange(padded.size + 1)
        self.target = self.true_before[-1]
        of_level = np.bincount(values.ravel(), minlength=MAX_VALUE + 2)  # one more: `level` of 1 is above all of them
        self.at_least = of_level[::-1].cumsum()[::-1]


def _before(which: np.ndarray) -> np.ndarray:
    """How many of a flat image's pixels come before each, and in all, (pixels + 1,) int64."""
    before = np.zeros(which.size + 1, np.int64)
    np.cumsum(which, out=before[1:])
    return before


class _Components:
    """The components that a threshold draws, each with its pixels, those that are not void, and true ones; 0 is none.

    Along the rows, runs of drawn pixels alternate with runs of background, which both begin and end the image; each
    lies in one component or in one region of background, and has its pixels at once.
    """

    def __init__(self, image: _Image, at_level: int):
        mask = (image.values >= at_level).view(np.uint8)
        flat = mask.ravel()
        bounds = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
        runs = np.stack([np.diff(each) for each in (bounds, image.valid_before[bounds], image.true_before[bounds])])
        drawn = label_components(mask, connectivity=8).ravel()[bounds[1:-1:2]]  # component of every second run
        around = label_components(1 - mask, connectivity=4).ravel()[bounds[:-1:2]]  # of the others: 1 leads out
        self.areas = _sums_of(drawn, runs[:, 1::2])
        self._rank = np.full(self.areas.shape[1], len(flat))
        self._rank[1:] = np.argsort(np.argsort(-self.areas[0, 1:], kind="stable"))
        self._inside, self._filled = np.zeros(self.areas.shape[1], np.int64), self.areas
        if around.max() > 1:
            self._fill(drawn, around, _sums_of(around, runs[:, ::2]))

    def _fill(self, drawn: np.ndarray, around: np.ndarray, backgrounds: np.ndarray) -> None:
        """Find what encloses each component, and its area with all that it encloses."""
        owner = np.zeros(backgrounds.shape[1], np.int64)  # of a hole the component that ends where it first begins
        owner[2:] = drawn[_first_runs(around)[2:] - 1]
        self._inside = owner[around[_first_runs(drawn)]]  # of a component the owner of what ends where it first begins
        self._filled = self.areas.copy()
        np.add.at(self._filled, (slice(None), owner[2:]), backgrounds[:, 2:])
        for component in np.flatnonzero(self._inside)[::-1]:  # the innermost first: it begins further down
            self._filled[:, self._inside[component]] += self._filled[:, component]

    def count(self, smallest: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels, those not void, and true ones, of the components kept; and with the holes in them. (3, ways) each.

        Shapes:
            smallest, largest: (ways, 1), the least area and the number of components that are kept.
        """
        kept = (self.areas[0] >= np.maximum(smallest, 1)) & (self._rank < largest)
        return _sums(kept, self.areas), _sums(kept & ~self._covered(kept), self._filled)

    def _covered(self, kept: np.ndarray) -> np.ndarray:
        """Which components lie in a hole of one that is kept, at any depth; (ways, components) bool."""
        covered = np.zeros_like(kept)
        if not self._inside.any():
            return covered
        while True:
            deeper = (kept | covered)[:, self._inside]
            if np.array_equal(deeper, covered):
                return covered
            covered = deeper


def _sums(kept: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(3, ways) int64; floats hold whole numbers of pixels exactly, and their products are faster."""
    return np.rint(areas.astype(np.float64) @ kept.T).astype(np.int64)


def _sums_of(labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Pixels, those not void, and true ones of each label, from those of its runs: (3, labels) int64."""
    return np.stack([np.bincount(labels, row, minlength=1) for row in runs]).astype(np.int64)


def _first_runs(labels: np.ndarray) -> np.ndarray:
    """Number of the first run of each label; 0 for label 0, which has none."""
    first = np.zeros(labels.max() + 1, np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]  # the last of several writes stays: the first run
    return first
