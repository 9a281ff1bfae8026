"""The best rules on OOF, by the competition's metric: every candidate on every image, one image at a time.

A search keeps, per fold, the sum of the metric over images at every candidate, and no image: memory does not grow with
their number. What is best without a fold, and what that choice scores on the fold, are then two sums.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.inference.store import LEVELS
from pipeline.metrics import Counts, stack
from pipeline.postprocess.levels import HALF, THRESHOLDS, best_threshold, count_levels, is_best, level
from pipeline.postprocess.rules import Cut

Metric = Callable[[Counts], np.ndarray]
Images = Iterable[tuple[np.ndarray, np.ndarray, int]]  # values (H, W) uint8, target (H, W) 0 or 1, fold

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
    """What every candidate of one family of rules scores, summed over the images of each fold."""

    axes: dict[str, np.ndarray]  # field of Cut: values tried, ascending; in the order of the axes of `sums`
    folds: np.ndarray  # (K,) numbers of the folds, ascending
    sums: np.ndarray  # (K, A, 255), for the triplet (K, A, 255, P): the metric summed over a fold's images
    images: np.ndarray  # (K,) number of images of each fold

    @property
    def areas(self) -> np.ndarray:
        """The areas tried, (A,) pixels: the first axis."""
        return next(iter(self.axes.values()))

    def means(self, folds: Iterable[int] | None = None) -> np.ndarray:
        """The mean score of every candidate over the images of some folds, or of all: (A, 255) or (A, 255, P).

        Raises:
            ValueError: for no fold, or one without images.
        """
        rows = self._rows(self.folds if folds is None else folds)
        return self.sums[rows].sum(axis=0) / self.images[rows].sum()

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

    def _rows(self, folds: Iterable[int]) -> np.ndarray:
        rows = np.isin(self.folds, list(folds := set(folds)))
        if not folds or rows.sum() < len(folds):
            raise ValueError(f"folds {sorted(folds)}: expected some of {self.folds.tolist()}, which have images")
        return rows

    def _cut(self, place: Sequence[int]) -> Cut:
        fields = {field: tried[at].item() for (field, tried), at in zip(self.axes.items(), place, strict=True)}
        return Cut(**{"min_area": 0, **fields})

    def _place(self, cut: Cut) -> tuple[int, ...]:
        wanted = cut._asdict()
        place = tuple(int(np.abs(tried - wanted[field]).argmin()) for field, tried in self.axes.items())
        if self._cut(place) != cut:
            raise ValueError(f"{cut} was not tried, the nearest was {self._cut(place)}: use `apply` to score it")
        return place


class _Image(NamedTuple):
    """One image as the families see it."""

    values: np.ndarray  # (H, W) uint8
    target: np.ndarray  # (H, W), 0 or 1
    predicted: np.ndarray  # (255,) pixels at each threshold
    drawn: np.ndarray  # (255,) score of the mask at each threshold
    empty: np.ndarray  # score of an empty mask


def _look(values: np.ndarray, target: np.ndarray, metric: Metric) -> _Image:
    counts = count_levels(values, target)
    drawn, empty = metric(counts), metric(Counts(np.int64(0), np.int64(0), counts.target[0]))
    if not (np.isfinite(drawn).all() and np.isfinite(empty)):
        raise ValueError(
            f"the metric is not finite on an image of {values.shape} with {counts.target[0]} true pixels: "
            f"leave such images out, or define what it is there"
        )
    return _Image(values, target, counts.predicted, drawn, empty)


def _total_scores(image: _Image, metric: Metric, areas: np.ndarray) -> np.ndarray:
    return np.where(image.predicted >= areas[:, None], image.drawn, image.empty)


def _component_scores(image: _Image, metric: Metric, areas: np.ndarray) -> np.ndarray:
    from pipeline.postprocess.tree import component_counts  # numba takes half a second, and only this search needs it

    return metric(component_counts(image.values, image.target, areas))


# (255, P) position of the threshold that counts for the presence: the higher of the two.
_SUREST = np.maximum(np.arange(LEVELS)[:, None], [level(threshold) - 1 for threshold in PRESENCE_THRESHOLDS])


def _triplet_scores(image: _Image, metric: Metric, areas: np.ndarray) -> np.ndarray:
    present = image.predicted[_SUREST] >= areas[:, None, None]
    return np.where(present, image.drawn[:, None], image.empty)


class Family(NamedTuple):
    """Rules that are searched together."""

    fields: tuple[str, ...]  # of Cut: an area, the threshold, and what else there is
    scores: Callable[[_Image, Metric, np.ndarray], np.ndarray]  # of one image, at every candidate


FAMILIES = {
    "total": Family(("min_area", "threshold"), _total_scores),
    "components": Family(("min_component", "threshold"), _component_scores),
    "triplet": Family(("presence_area", "threshold", "presence_threshold"), _triplet_scores),
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
        images: values (H, W) uint8, target (H, W) 0 or 1, and the fold that the image belongs to.
        metric: of `metrics.METRICS`.
        areas: (A,) pixels, ascending; AREAS if None. Those depend on no image, so they cannot leak from one fold into
            the choice for another.
        families: names in FAMILIES.

    Raises:
        ValueError: for no image, values and target of two shapes, a score that is not finite, or areas that do not
            ascend from 0 or more.
    """
    areas = _checked(AREAS if areas is None else areas)
    families = list(families)
    sums: dict[tuple[str, int], np.ndarray] = {}
    images_of: Counter[int] = Counter()
    for values, target, fold in images:
        image, fold = _look(values, target, metric), int(fold)
        images_of[fold] += 1
        for name in families:
            scores = FAMILIES[name].scores(image, metric, areas)
            if (name, fold) in sums:
                sums[name, fold] += scores
            else:
                sums[name, fold] = scores
    if not images_of:
        raise ValueError("no image to search on: expected at least one (values, target, fold)")
    return {name: _surface(name, areas, sums, images_of) for name in families}


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


def _surface(name: str, areas: np.ndarray, sums: dict[tuple[str, int], np.ndarray], images_of: Counter[int]) -> Surface:
    grids = {"threshold": THRESHOLDS, "presence_threshold": PRESENCE_THRESHOLDS}
    folds = sorted(images_of)
    return Surface(
        {field: grids.get(field, areas) for field in FAMILIES[name].fields},
        np.array(folds),
        np.stack([sums[name, fold] for fold in folds]),
        np.array([images_of[fold] for fold in folds]),
    )


class Search(NamedTuple):
    """The best cut of an in-sample search, and all that were tried."""

    cut: Cut
    score: float
    areas: np.ndarray  # (A,) pixels
    scores: np.ndarray  # (A, 255), mean over images
    image_scores: np.ndarray  # (N,) of the best cut, in the order in which the images came


def search(images: Iterable[tuple[np.ndarray, np.ndarray]], metric: Metric) -> Search:
    """The threshold and smallest total area with the best mean score on these images: in-sample, without folds.

    Of equal scores the smallest area wins, then the threshold nearest to .5.

    Args:
        images: pairs of values (uint8) and target (0 or 1).
        metric: of `metrics.METRICS`.
    """
    counts = stack(count_levels(*image) for image in images)
    areas = _areas_of(counts.predicted[:, HALF])
    scores = np.stack([metric(_without_small(counts, area)).mean(axis=0) for area in areas])
    row = int(is_best(scores).any(axis=1).argmax())
    column = best_threshold(scores[row])
    image_scores = metric(_without_small(counts, areas[row]))[:, column]
    cut = Cut(float(THRESHOLDS[column]), int(areas[row]))
    return Search(cut, float(scores[row, column]), areas, scores, image_scores)


def _areas_of(predicted: np.ndarray) -> np.ndarray:
    """Areas to try: 0, then some two dozen from one pixel to the median of the predicted areas."""
    found = predicted[predicted > 0]
    if not len(found):
        return np.zeros(1, dtype=np.int64)
    return np.unique([0, *np.geomspace(1, max(1, np.median(found)), 24).astype(np.int64)])


def _without_small(counts: Counts, area: int) -> Counts:
    kept = counts.predicted >= area
    return Counts(counts.intersection * kept, counts.predicted * kept, counts.target)
