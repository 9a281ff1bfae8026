"""A sheet of the held-out images with the lowest scores, for the experiment trackers."""

from pathlib import Path

import numpy as np
from torch import nn

from pipeline.data.sample import samples_of
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.metrics import VOID
from pipeline.postprocess.threshold_counts import level
from pipeline.report.overlays import Panel, write_sheet
from pipeline.training.fold_data import FoldData
from pipeline.training.selection import Validation

COLUMNS = 4
MAX_TILED = 1 << 22  # pixels of an image that is predicted by tiles: a sheet shows little of larger ones


def draw_worst(data: FoldData, precision: str, model: nn.Module, validation: Validation, path: Path) -> None:
    """Predict the images with the lowest scores again, and draw them with the outlines of target and prediction.

    Nothing is drawn with `predict.tiles` if an image has more than MAX_TILED pixels.

    Args:
        precision: as `hardware.precision`.
        validation: of this model; the outlines are those at its best threshold.
        path: of the PNG to write.
    """
    rows = data.valid_index.set_index("image_id", drop=False).loc[[image_id for image_id, _ in validation.worst]]
    if data.tiles and (rows["height"] * rows["width"]).max() > MAX_TILED:
        return
    predictor = Predictor(
        model,
        ("identity",),
        precision,
        exclusive=data.labels.exclusive,
        tiles=data.tiles,
        batch_size=data.batch_size,
    )
    options = {"reader": data.reader, "batch_size": data.batch_size, "workers": 0, "size": data.labels.size}
    found = dict(predict_images(predictor, rows, what="worst images", **options))
    panels = []
    for sample, (_, score) in zip(samples_of(rows), validation.worst, strict=True):
        target = data.labels.read_scored(sample)
        masks = _masks(found[sample.image_id].values, validation.threshold, exclusive=data.labels.exclusive)
        title = f"{sample.image_id[:10]}  {score:.2f}"
        panels.append(Panel(title, data.reader.picture(sample), masks * (target != VOID), target))
    halves = {"lowest scores": panels[:COLUMNS], " ": panels[COLUMNS:]}
    write_sheet(path, {name: each for name, each in halves.items() if each}, COLUMNS)


def _masks(values: np.ndarray, threshold: float, *, exclusive: bool) -> np.ndarray:
    """The masks (C, H, W) of stored probabilities, 0 or 1."""
    if exclusive:
        return (values.argmax(axis=0) == np.arange(len(values))[:, None, None]).astype(np.uint8)
    return (values >= level(threshold)).astype(np.uint8)
