"""The choice for objects: thresholds, whether touching ones are parted, and the smallest one; by the metric of objects.

One pass over the images tries every candidate on each and keeps its score: what is best without a fold is a mean.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from pipeline.crossfit import CrossFitted, cross_fit
from pipeline.ensemble.choice import Oof
from pipeline.ensemble.decision import Blender, Decision, blender
from pipeline.metrics import Matches, match_overlaps, overlaps
from pipeline.postprocess.instances import SplitCut, components, split

Score = Callable[[Matches], float]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
BORDERS = (0.2, 0.35, 0.5)  # probabilities from which on a pixel is no seed
AREAS = (0, 4, 8, 16, 32, 64, 128)  # pixels; smaller objects are removed


class ObjectCut(NamedTuple):
    """What turns stored values into objects."""

    threshold: float  # on the mask's probabilities
    border: float | None  # on the border's; None: connected components, touching objects are one
    min_area: int  # pixels

    def labels(self, values: np.ndarray) -> np.ndarray:
        """The objects of one image, (H, W) int32, of its values (C, H, W) uint8: the mask, and its borders."""
        if self.border is None:
            return components(values[0], self.threshold, self.min_area)
        return split(values[:2], SplitCut(self.threshold, self.border, min_area=self.min_area))


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


def decide_objects(oof: Oof, score: Score, *, borders: bool) -> Decision:
    """Choose the cut on K − 1 folds, score on the fold left out; and choose on all folds what ships.

    Objects that touch are parted only if that scores better where it was not chosen on; the decision's `others` hold
    the cross-fitted scores of both ways.

    Args:
        oof: of which `read` gives values (M, C, H, W), and the true objects (H, W), numbered.
        score: of one image, from its matches.
        borders: whether the second channel is the border between objects.

    Raises:
        ValueError: for fewer than two folds.
    """
    cuts = [ObjectCut(*each) for each in product(THRESHOLDS, (None, *(BORDERS if borders else ())), AREAS)]
    tracked = oof.track(oof.image_ids, "part objects")
    scores = np.array([list(_scores(oof, image_id, cuts, score)) for image_id in tracked])
    ways = {"touching objects as one": [cut.border is None for cut in cuts]}
    if borders:
        ways["touching objects parted"] = [cut.border is not None for cut in cuts]
    fitted = _fit(oof, scores, cuts, np.ones(len(cuts), dtype=bool))
    folds = fitted.folds.tolist()
    return Decision(
        fitted.scores,
        fitted.in_sample,
        float(scores[:, cuts.index(ObjectCut(0.5, None, 0))].mean()),
        dict(zip(folds, fitted.fold_means.tolist(), strict=True)),
        Objects(oof.members, fitted.shipped),
        {fold: Objects(oof.members, cut) for fold, cut in zip(folds, fitted.chosen, strict=True)},
        np.full(oof.members, 1 / oof.members),
        trivial=float(np.mean([_nothing(oof.read(image_id)[1], score) for image_id in oof.image_ids])),
        others={name: _fit(oof, scores, cuts, np.array(among)).honest for name, among in ways.items()},
    )


def _nothing(target: np.ndarray, score: Score) -> float:
    """The score of an image without a predicted object."""
    return score(match_overlaps(*overlaps(np.zeros_like(target), target)))


def _fit(oof: Oof, scores: np.ndarray, cuts: list[ObjectCut], among: np.ndarray) -> CrossFitted[ObjectCut]:
    """Cross-fitted choice among some of the cuts; of equal ones the first."""

    def best(rows: np.ndarray) -> ObjectCut:
        means = np.where(among, scores[rows].mean(axis=0), -np.inf)
        return cuts[int(np.argmax(means >= means.max() - 1e-12))]

    return cross_fit(oof.fold_of, best, lambda cut, rows: scores[rows, cuts.index(cut)], image_ids=list(oof.image_ids))


def _scores(oof: Oof, image_id: str, cuts: list[ObjectCut], score: Score) -> Iterator[float]:
    """The score of an image by each cut: objects are drawn once, and smaller ones left out of the count."""
    values, target = oof.read(image_id)
    blended = Objects(oof.members, cuts[0]).blended(blender(values))
    found = {}
    for cut in cuts:
        way = cut._replace(min_area=0)
        if way not in found:
            found[way] = overlaps(way.labels(blended), target)
        shared, areas, true = found[way]
        kept = areas >= cut.min_area
        yield score(match_overlaps(shared[kept], areas[kept], true))
