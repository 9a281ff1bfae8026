"""The best rules on OOF, by the competition's metric: every candidate on every image, one image at a time.

A search keeps, per fold, the sums of what the images gained and what was possible at every candidate, and no image:
memory does not grow with their number. What is best without a fold, and what that choice scores on the fold, are then
two sums.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric, Term
from pipeline.postprocess.rules import Cut
from pipeline.postprocess.threshold_counts import THRESHOLDS, count_levels, is_best, level

Images = Iterable[tuple[np.ndarray, np.ndarray, int]]  # values (H, W) uint8, target (H, W) 0, 1 or 255 for void; fold

# 0 leaves the presence to `threshold`; the others are every eighth level, .029 to .971.
PRESENCE_THRESHOLDS = np.array([0.0, *THRESHOLDS[7:-1:8]])


def area_grid(pixels: float) -> np.ndarray:
    """Areas to try: 0, and the powers of √2 from one pixel to 5% of an image of so many pixels, rounded.

    They lie on one ladder whatever the size, so that grids of two sizes agree as far as the smaller one goes.

    >>> area_grid(20 * 20).tolist()
    [0, 1, 2, 3, 4, 6, 8, 11, 16]
    """
    steps = int(np.log2(max(1.0, 0.05 * pixels)) * 2 + 1e-9)
    return np.unique([0, *np.rint(2 ** (np.arange(steps + 1) / 2))]).astype(np.int64)


AREAS = area_grid(2048 * 2048)  # 36 of them: costs little, and needs no look at the images before the search


class Surface(NamedTuple):
    """What every candidate of one family of rules gains and could gain, summed over the images of each fold."""

    axes: dict[str, np.ndarray]  # field of Cut: values tried, ascending; in the order of the axes of `sums`
    folds: np.ndarray  # (K,) numbers of the folds, ascending
    sums: np.ndarray  # (K, A, 255), for the triplet (K, A, 255, P): what a fold's images gained
    possible: np.ndarray  # and what was possible; of a mean over images (K, 1, 1), their number
    images: np.ndarray  # (K,) number of images of each fold

    @property
    def areas(self) -> np.ndarray:
        """The areas tried, (A,) pixels: the first axis."""
        return next(iter(self.axes.values()))

    def area(self, cut: Cut) -> int:
        """What a cut has on the first axis, in pixels."""
        return int(getattr(cut, next(iter(self.axes))))

    def plane(self, cut: Cut) -> np.ndarray:
        """The score of every area and threshold, (A, 255), with what else the family has as in a cut.

        Raises:
            ValueError: as `score`.
        """
        return self.means()[(..., *self._place(cut)[2:])]

    def is_defined(self, folds: Iterable[int]) -> bool:
        """Whether any candidate has a score on the images of some folds."""
        return bool((self.possible[rows_of(self.folds, folds)] > 0).any())

    def means(self, folds: Iterable[int] | None = None) -> np.ndarray:
        """The score of every candidate on the images of some folds, or of all: (A, 255) or (A, 255, P).

        Raises:
            ValueError: for no fold, one without images, or images of which none counts for the metric.
        """
        rows = rows_of(self.folds, folds)
        return mean_scores(self.folds[rows], self.sums[rows], self.possible[rows], self.images[rows])

    def best(self, folds: Iterable[int] | None = None) -> tuple[Cut, float]:
        """The best cut on the images of some folds, or of all, and its mean score there.

        Of equal scores the smallest area wins, then the threshold nearest to .5, then the lowest presence_threshold.

        Raises:
            ValueError: as `means`.
        """
        means = self.means(folds)
        nearest = np.argsort(np.abs(THRESHOLDS - 0.5), kind="stable")
        place = list(np.unravel_index(is_best(means)[:, nearest].argmax(), means.shape))
        place[1] = nearest[place[1]]
        return self._cut(place), float(means[tuple(place)])

    def score(self, cut: Cut, folds: Iterable[int] | None = None) -> float:
        """The mean score of a cut over the images of some folds, or of all.

        Raises:
            ValueError: for a cut that is not among the candidates, and as `means`.
        """
        return float(self.means(folds)[self._place(cut)])

    def _cut(self, place: Sequence[int]) -> Cut:
        fields = {field: tried[at].item() for (field, tried), at in zip(self.axes.items(), place, strict=True)}
        return Cut(**{"min_area": 0, **fields})

    def _place(self, cut: Cut) -> tuple[int, ...]:
        wanted = cut._asdict()
        place = tuple(int(np.abs(tried - wanted[field]).argmin()) for field, tried in self.axes.items())
        if self._cut(place) != cut:
            raise ValueError(f"{cut} was not tried, the nearest was {self._cut(place)}: use `apply` to score it")
        return place


def rows_of(all_folds: np.ndarray, folds: Iterable[int] | None) -> np.ndarray:
    """Which of the folds (K,) are among some of them, (K,) bool; None for all.

    Raises:
        ValueError: for no fold, or one that is not there.
    """
    wanted = set(all_folds.tolist() if folds is None else folds)
    rows = np.isin(all_folds, list(wanted))
    if not wanted or rows.sum() < len(wanted):
        raise ValueError(f"folds {sorted(wanted)}: expected some of {all_folds.tolist()}, which have images")
    return rows


def mean_scores(folds: np.ndarray, sums: np.ndarray, possible: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The score of every candidate on the images of these folds together.

    Shapes:
        folds, images: (K,).
        sums: (K, ...), what the images of each gained; possible: as it, or (K, 1, ...).
        returns: (...).

    Raises:
        ValueError: for images of which none counts for the metric.
    """
    total = possible.sum(axis=0)
    if (total <= 0).all():
        raise ValueError(
            f"the metric is not defined on folds {folds.tolist()}: of {images.sum()} images none counts for it. "
            f"Make folds that spread the images with a mask, or fewer of them"
        )
    return np.divide(sums.sum(axis=0), total, out=np.zeros(sums.shape[1:]), where=total > 0)


class _Image:
    """One image as the families see it."""

    def __init__(self, values: np.ndarray, target: np.ndarray):
        self.values, self.target = values, target  # (H, W) uint8, and 0, 1 or void
        self.counts = count_levels(values, target)  # (255,) at each threshold
        self.drawn = self.counts.predicted  # with void pixels: areas are of what is drawn
        if (target == VOID).any():
            self.drawn = count_levels(values, np.zeros_like(target)).predicted
        self._components: Counts | None = None

    def totals(self, term: Term) -> tuple[np.ndarray, np.ndarray]:
        """A term of the masks that the thresholds draw, (255,), and of an empty one."""
        drawn, empty = (
            np.asarray(term(counts), dtype=np.float64)
            for counts in (self.counts, Counts(np.int64(0), np.int64(0), self.counts.target[0]))
        )
        if not (np.isfinite(drawn).all() and np.isfinite(empty)):
            raise ValueError(
                f"the metric is not finite on an image of {self.values.shape} with {self.counts.target[0]} true "
                f"pixels: leave such images out, or define what it is there"
            )
        return drawn, empty

    def components(self, areas: np.ndarray) -> Counts:
        """Counts without the components smaller than an area, (A, 255)."""
        if self._components is None:
            from pipeline.postprocess.component_tree import component_counts

            self._components = component_counts(self.values, self.target, areas)
        return self._components


def _total_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    drawn, empty = image.totals(term)
    return np.where(image.drawn >= areas[:, None], drawn, empty)


def _component_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    image.totals(term)  # refuses what is not finite
    return np.asarray(term(image.components(areas)), dtype=np.float64)


# (255, P) position of the threshold that counts for the presence: the higher of the two.
_SUREST = np.maximum(np.arange(MAX_VALUE)[:, None], [level(threshold) - 1 for threshold in PRESENCE_THRESHOLDS])


def _triplet_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    drawn, empty = image.totals(term)
    present = image.drawn[_SUREST] >= areas[:, None, None]
    return np.where(present, drawn[:, None], empty)


class Family(NamedTuple):
    """Rules that are searched together."""

    fields: tuple[str, ...]  # of Cut: an area, the threshold, and what else there is
    terms: Callable[[_Image, Term, np.ndarray], np.ndarray]  # a term of the metric of one image, at every candidate


FAMILIES = {
    "total": Family(("min_area", "threshold"), _total_terms),
    "components": Family(("min_component", "threshold"), _component_terms),
    "triplet": Family(("presence_area", "threshold", "presence_threshold"), _triplet_terms),
}


def search_rules(
    images: Images, metric: Metric, areas: np.ndarray | None = None, *, families: Iterable[str] = tuple(FAMILIES)
) -> dict[str, Surface]:
    """The score of every candidate of some families of rules; each image is read once, and none is kept.

        total        255 thresholds × smallest total area
        components   255 thresholds × smallest component
        triplet      255 thresholds × 32 presence thresholds × presence area; all of `total` is among them

    Exact: a candidate's sum is that of the metric on what `apply` makes of the images.

    Args:
        images: values (H, W) uint8, target (H, W) 0 or 1, or 255 for void, which is drawn and not counted; and the fold
            that the image belongs to.
        metric: of `metrics.METRICS`.
        areas: (A,) pixels, ascending; AREAS if None. Those depend on no image, so they cannot leak from one fold into
            the choice for another.
        families: names in FAMILIES.

    Raises:
        ValueError: for no image, values and target of two shapes, a score that is not finite, or areas that do not
            ascend from 0 or more.
    """
    areas = _checked(AREAS if areas is None else areas)
    names = list(families)
    sums: dict[tuple[str, int], list[np.ndarray]] = {}
    images_of: Counter[int] = Counter()
    for values, target, fold in images:
        image, fold = _Image(values, target), int(fold)
        images_of[fold] += 1
        for name in names:
            terms = [FAMILIES[name].terms(image, term, areas) for term in metric if term]
            if (name, fold) in sums:
                for total, added in zip(sums[name, fold], terms, strict=True):
                    total += added
            else:
                sums[name, fold] = terms
    if not images_of:
        raise ValueError("no image to search on: expected at least one (values, target, fold)")
    return {name: _surface(name, areas, sums, images_of) for name in names}


def search_total(images: Images, metric: Metric, areas: np.ndarray | None = None) -> Surface:
    """`search_rules` of thresholds and smallest total areas alone: a histogram per image."""
    return search_rules(images, metric, areas, families=["total"])["total"]


def search_components(images: Images, metric: Metric, areas: np.ndarray | None = None) -> Surface:
    """`search_rules` of thresholds and smallest components alone: a component tree per image."""
    return search_rules(images, metric, areas, families=["components"])["components"]


def search_triplet(images: Images, metric: Metric, areas: np.ndarray | None = None) -> Surface:
    """`search_rules` of triplets alone: a histogram per image."""
    return search_rules(images, metric, areas, families=["triplet"])["triplet"]


def _checked(areas: np.ndarray) -> np.ndarray:
    areas = np.asarray(areas, dtype=np.int64)
    if areas.ndim != 1 or not len(areas) or areas[0] < 0 or (np.diff(areas) <= 0).any():
        raise ValueError(f"areas {areas.tolist()}: expected pixels that ascend from 0 or more, each once")
    return areas


def _surface(
    name: str, areas: np.ndarray, sums: dict[tuple[str, int], list[np.ndarray]], images_of: Counter[int]
) -> Surface:
    grids = {"threshold": THRESHOLDS, "presence_threshold": PRESENCE_THRESHOLDS}
    folds = sorted(images_of)
    fields = FAMILIES[name].fields
    images = np.array([images_of[fold] for fold in folds])
    gained, *possible = (np.stack(term) for term in zip(*(sums[name, fold] for fold in folds), strict=True))
    return Surface(
        {field: grids.get(field, areas) for field in fields},
        np.array(folds),
        gained,
        possible[0] if possible else images.reshape(-1, *[1] * len(fields)),
        images,
    )
