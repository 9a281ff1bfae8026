"""Evaluation of a renderer as it is, on out-of-fold predictions; nothing is chosen here."""

import numpy as np

from pipeline.ensemble.pooling import renderer_at
from pipeline.ensemble.renderer import Renderer
from pipeline.ensemble.selection import Oof
from pipeline.metrics import (
    VOID,
    VOID_OBJECT,
    Counts,
    Matches,
    count,
    instance_metric,
    match_overlaps,
    overlaps,
    pixel_metric,
    stack,
)
from pipeline.postprocess.threshold_counts import count_argmax


def mean_score(renderer: Renderer, oof: Oof, metric: str) -> float:
    """The mean score of the masks, or instances, that a renderer makes of OOF predictions.

    Args:
        metric: the name of a metric of single images, see `metrics.selection_metric`.
    """
    combined = ((image_id, renderer.combine(oof.read(image_id)[0])) for image_id in oof.image_ids)
    renderer_of = renderer_at(renderer, oof.places, combined)
    if renderer.kind == "instances":
        score = instance_metric(metric)
        matches = (_match(renderer, *oof.read(image_id)) for image_id in oof.image_ids)
        return float(np.mean([score(each) for each in matches]))
    counts = stack(count_masks(renderer_of(image_id), *oof.read(image_id)) for image_id in oof.image_ids)
    return pixel_metric(metric).scores(counts).mean()


def _match(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> Matches:
    return match_overlaps(*overlaps(renderer.labels(renderer.combine(values)), target))


def count_masks(renderer: Renderer, values: np.ndarray, target: np.ndarray) -> Counts:
    """The pixel counts of one image's masks, (C,); of instances, those of their union, (1,).

    Args:
        values, target: as `Oof.read` returns them.
    """
    combined = renderer.combine(values)
    if renderer.kind == "instances":
        target = np.where(target == VOID_OBJECT, VOID, target > 0)[None]
    if renderer.kind == "multiclass":
        return count_argmax(combined, target)
    return stack(map(count, renderer.masks(combined), target))
