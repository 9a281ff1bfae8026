"""Predictions that wait in a temporary file until the last image is predicted: the thresholds depend on all of them."""

import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.ensemble.pooling import RendererOf, renderer_at
from pipeline.ensemble.renderer import Renderer
from pipeline.postprocess.shares import Place

log = logging.getLogger(__name__)

FAST = 1  # level of zlib: smooth probabilities shrink to a few percent, at 100 MB/s


class Spool:
    """Images with their combined values, compressed, in a file without a name: it is gone with the process."""

    def __init__(self) -> None:
        # Not buffered: what a failed write left in a buffer would fail again with the next image.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __iter__
        self._images: list[tuple[str, tuple[int, ...] | None, int]] = []  # id, shape, bytes; None: no prediction
        self._bytes = 0  # of all images

    def write(self, image_id: str, values: np.ndarray | None) -> None:
        """Add the combined values (C, H, W) uint8 of an image; None if it has none.

        Raises:
            OSError: if the disk is full; the image is not added.
        """
        data = b"" if values is None else zlib.compress(np.ascontiguousarray(values), FAST)
        self._file.seek(self._bytes)  # over what a failed write left
        if self._file.write(data) != len(data):
            raise OSError(f"{len(data)} bytes do not fit")
        self._bytes += len(data)
        self._images.append((image_id, None if values is None else values.shape, len(data)))

    def __iter__(self) -> Iterator[tuple[str, np.ndarray | None]]:
        """The images in the order in which they were added, once: the file is closed behind the last."""
        with self._file as file:
            file.seek(0)
            for image_id, shape, size in self._images:
                data = file.read(size)
                yield image_id, None if shape is None else np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)


def spool(
    images: Iterator[tuple[str, np.ndarray | None]],
    renderer: Renderer,
    place_of: Callable[[str], Place],
    add_problem: Callable[[str, str], None],
) -> tuple[Iterator[tuple[str, np.ndarray | None]], RendererOf]:
    """Read all images, and return them again, with the renderer of each.

    Args:
        images: id and combined values (C, H, W) uint8, or None, of each image.
        place_of: from the id of an image that was read to its place.
        add_problem: is told the id of an image that cannot be kept, and why; it is returned without values.
    """
    log.info("a threshold is a share of several images: masks are made after the last prediction")
    kept, places = Spool(), {}

    def predicted() -> Iterator[tuple[str, np.ndarray]]:
        for image_id, combined in images:
            try:
                kept.write(image_id, combined)
            except OSError as error:
                add_problem(image_id, f"temporary file {tempfile.gettempdir()}: {error}")
                kept.write(image_id, None)
                continue
            if combined is not None:
                places[image_id] = place_of(image_id)
                yield image_id, combined

    renderer_of = renderer_at(renderer, places, predicted())
    return iter(kept), renderer_of
