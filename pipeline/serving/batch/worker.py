"""What predicts a partition: the models of a bundle, loaded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.serving.batch.inputs import Input, brought_here
from pipeline.serving.batch.partitions import Row
from pipeline.serving.bundle import Bundle, read_bundle
from pipeline.serving.bundle_prediction import draw
from pipeline.serving.single_pass import OnePass, in_one_line, read_all
from pipeline.serving.time_budget import Watch


class Worker:
    """Predicts images with everything in a bundle, and draws them as it was chosen on OOF.

    Args:
        folder: of the bundle's weights.
        ahead: processes that read ahead.

    Raises:
        FileNotFoundError, ValueError: as `read_bundle`.
    """

    def __init__(self, folder: Path, ahead: int = 0):
        self.bundle, self.ahead = read_bundle(folder), ahead
        self._models = OnePass(self.bundle, self.bundle.predictor, Watch(0, None))

    def rows(self, inputs: Sequence[Input]) -> list[Row]:
        """The masks of some images; of one that cannot be read or predicted, a row that says why."""
        models = self._models
        models.problems.clear()
        with brought_here(inputs) as places:
            return [
                row
                for image_id, stores in models(read_all(places, models.readers, self.ahead))
                for row in self._rows_of(image_id, stores)
            ]

    def _rows_of(self, image_id: str, stores: list | None) -> Iterator[Row]:
        drawn = None
        if stores is not None:
            try:
                drawn = draw(self.bundle, stores)
            except Exception as error:  # one odd image must not cost the others
                self._models.note(image_id, in_one_line(error))
        if drawn is None:
            yield Row(image_id, None, None, None, None, self._models.problems[image_id])
        else:
            yield from rows_of(self.bundle, image_id, drawn)


def rows_of(bundle: Bundle, image_id: str, drawn: np.ndarray) -> Iterator[Row]:
    """The rows of masks (C, H, W), or of objects (H, W), numbered from 1: one each, and one without any if none is."""
    dialect, classes = bundle.card.dialect, bundle.card.classes
    height, width = drawn.shape[-2:]
    if drawn.ndim == 3:
        for label, mask in zip(classes, drawn, strict=True):
            yield Row(image_id, label, dialect.encode(mask), height, width)
        return
    for number in range(1, drawn.max() + 1):
        yield Row(image_id, classes[0], dialect.encode(drawn == number), height, width)
    if not drawn.max():
        yield Row(image_id, classes[0], dialect.empty, height, width)
