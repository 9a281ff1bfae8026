"""What a drawer scores on images, as it is: to compare ways of predicting with each other."""

import numpy as np

from pipeline.ensemble.choice import Oof
from pipeline.ensemble.decision import Drawer, Exclusive, blender
from pipeline.ensemble.instances import Objects
from pipeline.metrics import (
    VOID,
    VOID_OBJECT,
    Counts,
    count,
    instance_metric,
    match_overlaps,
    overlaps,
    pixel_metric,
    stack,
)
from pipeline.postprocess import count_argmax


def score_drawn(drawer: Drawer, oof: Oof, judge: str) -> float:
    """The mean score of the masks that a drawer makes of OOF predictions; nothing is chosen here.

    Args:
        judge: a metric of single images, as `metrics.judge_of` names it.
    """
    if isinstance(drawer, Objects):
        return float(np.mean([_score_objects(drawer, *oof.read(image_id), judge) for image_id in oof.image_ids]))
    counts = stack(count_drawn(drawer, *oof.read(image_id)) for image_id in oof.image_ids)
    return pixel_metric(judge).scores(counts).mean()


def _score_objects(drawer: Objects, values: np.ndarray, target: np.ndarray, judge: str) -> float:
    return instance_metric(judge)(match_overlaps(*overlaps(drawer.labels(blender(values)), target)))


def count_drawn(drawer: Drawer, values: np.ndarray, target: np.ndarray) -> Counts:
    """The pixel counts of one image's masks, (C,); of objects, of their union.

    Args:
        values, target: as `Oof.read` gives them.
    """
    if isinstance(drawer, Objects):
        target = np.where(target == VOID_OBJECT, VOID, target > 0)[None]
    if isinstance(drawer, Exclusive):
        return count_argmax(drawer.blended(blender(values)), target)
    return stack(count(*pair) for pair in zip(drawer.masks(blender(values)), target, strict=True))
