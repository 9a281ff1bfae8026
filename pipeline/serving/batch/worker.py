"""The worker that predicts partitions: it loads the models of a bundle once."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.serving.batch.inputs import local_copies
from pipeline.serving.batch.neighbours import Neighbours, series_of
from pipeline.serving.batch.partitions import MaskRow
from pipeline.serving.bundle import Bundle, read_bundle
from pipeline.serving.bundle_prediction import render_or_none
from pipeline.serving.single_pass import SinglePass, Stores
from pipeline.serving.time_budget import TimeBudget


class Worker:
    """Predicts images with all models of a bundle, and applies its post-processing.

    Args:
        folder: the bundle's folder of weights.
        readers: processes that read ahead.

    Raises:
        FileNotFoundError, ValueError: as `read_bundle`.
    """

    def __init__(self, folder: Path, readers: int = 0):
        self.bundle, self.readers = read_bundle(folder), readers
        self._models = SinglePass(self.bundle, self.bundle.predictor, TimeBudget(0, None))

    def rows(self, inputs: pd.DataFrame, neighbours: Neighbours) -> list[MaskRow]:
        """The rows of the images of a partition; for one that cannot be read or predicted, a row with the problem."""
        models, count = self._models, len(inputs)
        models.problems.clear()
        with local_copies(pd.concat([inputs, neighbours.outside]), self.bundle.card.files.channel_paths) as images:
            finders = neighbours.finders(series_of(self.bundle), dict(images))
            return [
                row
                for image_id, stores in models(models.read(images[:count], self.readers, finders))
                for row in self._rows_of(image_id, stores)
            ]

    def _rows_of(self, image_id: str, stores: Stores | None) -> Iterator[MaskRow]:
        masks = render_or_none(self.bundle, self._models, image_id, stores)
        if masks is None:
            yield MaskRow(image_id, None, None, None, None, self._models.problems[image_id])
        else:
            yield from mask_rows(self.bundle, image_id, masks)


def mask_rows(bundle: Bundle, image_id: str, masks: np.ndarray) -> Iterator[MaskRow]:
    """Encode masks (C, H, W), or objects (H, W) numbered from 1, as a row each; no object at all is one empty row."""
    dialect, classes = bundle.card.dialect, bundle.card.classes
    height, width = masks.shape[-2:]
    if masks.ndim == 3:
        for label, mask in zip(classes, masks, strict=True):
            yield MaskRow(image_id, label, dialect.encode(mask), height, width)
        return
    for number in range(1, masks.max() + 1):
        yield MaskRow(image_id, classes[0], dialect.encode(masks == number), height, width)
    if not masks.max():
        yield MaskRow(image_id, classes[0], dialect.empty, height, width)
