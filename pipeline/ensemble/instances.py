"""The choice for objects: thresholds, whether touching ones are parted, and the smallest one; by the metric of objects.

One pass over the images tries every candidate on each and keeps its score: what is best without a fold is a mean.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np

from pipeline.ensemble.choice import Oof
from pipeline.ensemble.decision import Blender, Decision, blender
from pipeline.metrics import Matches, match_overlaps, overlaps
from pipeline.postprocess.instances import SplitCut, components, confidences, split
from pipeline.postprocess.rules import Count, Share
from pipeline.postprocess.shape import split_by_shape
from pipeline.statistics.crossfit import CrossFitted, cross_fit

Score = Callable[[Matches], float]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
BOUNDARIES = (0.2, 0.35, 0.5)  # probabilities from which on a pixel is no seed
NECKS = (0.8, 0.9)  # of the lower summit, see `split_by_shape`
AREAS = (0, 4, 8, 16, 32, 64, 128)  # pixels; smaller objects are removed


class ObjectCut(NamedTuple):
    """What turns stored values into objects."""

    threshold: Share  # on the mask's probabilities
    boundary: Share | None = None  # on the border's probabilities: parts there
    neck: Share | None = None  # parts where the mask narrows; with neither, touching objects are one
    min_area: Count = 0  # pixels

    def labels(self, values: np.ndarray) -> np.ndarray:
        """The objects of one image, (H, W) int32, of its values (C, H, W) uint8: the mask, and its borders."""
        if self.boundary is not None:
            return split(values[:2], SplitCut(self.threshold, self.boundary, min_area=self.min_area))
        if self.neck is not None:
            return split_by_shape(values[0], self.threshold, self.neck, self.min_area)
        return components(values[0], self.threshold, self.min_area)


class Objects(NamedTuple):
    """The mean of the members, and a cut."""

    members: int
    cut: ObjectCut

    def blended(self, blend_by: Blender) -> np.ndarray:
        """The combined values of one image, (C, H, W) uint8."""
        return blend_by("mean", (1 / self.members,) * self.members)

    def labels(self, blend_by: Blender) -> np.ndarray:
        """The objects of one image, (H, W) int32, none overlapping."""
        return self.cut.labels(self.blended(blend_by))

    def confidences(self, blend_by: Blender, labels: np.ndarray) -> np.ndarray:
        """How sure each object of those labels is, (N,), 0 to 1."""
        return confidences(self.blended(blend_by)[0], labels)

    def masks(self, blend_by: Blender) -> np.ndarray:
        """The union of the objects, (1, H, W) uint8."""
        return (self.labels(blend_by) > 0).astype(np.uint8)[None]

    @property
    def weights(self) -> np.ndarray:
        """The members' weights, (M,)."""
        return np.full(self.members, 1 / self.members)

    def record(self, members: list[str], classes: tuple[str, ...]) -> dict[str, Any]:
        """As plain values, for people and other programs."""
        weights = dict(zip(members, self.weights.tolist(), strict=True))
        return {"combination": "mean", "weights": weights, "objects": classes[0], **self.cut._asdict()}


def decide_objects(oof: Oof, score: Score, *, boundaries: bool) -> Decision:
    """Choose the cut on K − 1 folds, score on the fold left out; and choose on all folds what ships.

    Objects that touch are parted only if that scores better; the decision's `others` hold the cross-fitted scores of
    each way to part them, and of none.

    Args:
        oof: of which `read` gives values (M, C, H, W), and the true objects (H, W), numbered, -1 where void.
        score: of one image, from its matches.
        borders: whether the second channel is the border between objects.

    Raises:
        ValueError: for fewer than two folds.
    """
    ways = {"touching objects as one": [{}], "parted by shape": [{"neck": neck} for neck in NECKS]}
    if boundaries:
        ways["parted by their border"] = [{"boundary": boundary} for boundary in BOUNDARIES]
    among = {
        name: [ObjectCut(t, **way, min_area=area) for t, way, area in product(THRESHOLDS, some, AREAS)]
        for name, some in ways.items()
    }
    cuts = list(chain.from_iterable(among.values()))
    tracked = oof.track(oof.image_ids, "part objects")
    scores = np.array([list(_scores(oof, image_id, cuts, score)) for image_id in tracked])
    fitted = _fit(oof, scores, cuts, cuts)
    folds = fitted.folds.tolist()
    return Decision(
        fitted.scores,
        fitted.in_sample,
        float(scores[:, cuts.index(ObjectCut(0.5))].mean()),
        dict(zip(folds, fitted.fold_means.tolist(), strict=True)),
        Objects(oof.members, fitted.shipped),
        {fold: Objects(oof.members, cut) for fold, cut in zip(folds, fitted.chosen, strict=True)},
        np.full(oof.members, 1 / oof.members),
        trivial=float(np.mean([_nothing(oof.read(image_id)[1], score) for image_id in oof.image_ids])),
        others={name: _fit(oof, scores, cuts, some).honest for name, some in among.items()},
    )


def _nothing(target: np.ndarray, score: Score) -> float:
    """The score of an image without a predicted object."""
    return score(match_overlaps(*overlaps(np.zeros_like(target), target)))


def _fit(oof: Oof, scores: np.ndarray, cuts: list[ObjectCut], among: Sequence[ObjectCut]) -> CrossFitted[ObjectCut]:
    """Cross-fitted choice among some of the cuts, of which scores (N, cuts) has a column each; of equals the first."""
    column = {cut: number for number, cut in enumerate(cuts)}
    columns = [column[cut] for cut in among]

    def best(rows: np.ndarray) -> ObjectCut:
        means = scores[np.ix_(rows, columns)].mean(axis=0)
        return among[int(np.argmax(means >= means.max() - 1e-12))]

    return cross_fit(oof.fold_of, best, lambda cut, rows: scores[rows, column[cut]], image_ids=list(oof.image_ids))


def _scores(oof: Oof, image_id: str, cuts: list[ObjectCut], score: Score) -> Iterator[float]:
    """The score of an image by each cut: objects are drawn once, and smaller ones left out of the count."""
    values, target = oof.read(image_id)
    blended = Objects(oof.members, cuts[0]).blended(blender(values))
    found = {}
    for cut in cuts:
        way = cut._replace(min_area=0)
        if way not in found:
            labels = way.labels(blended)
            found[way] = *overlaps(labels, target), np.bincount(labels.ravel())[1:]
        shared, counted, true, areas = found[way]
        kept = areas >= cut.min_area
        yield score(match_overlaps(shared[kept], counted[kept], true))
