"""Files of one image at several resolutions, such as bands of a satellite: the smaller ones repeat their pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.rasters import ImageError
from pipeline.data.windows import Box, Windows


def scale_factors(sizes: Sequence[tuple[int, int]], files: Sequence[Path]) -> list[int]:
    """The factor that enlarges each file to the size of the largest one.

    Args:
        sizes: height and width of each file in pixels.

    Raises:
        ImageError: if it is no whole number, or another one for height and width; with both sizes.
    """
    height, width = largest = max(sizes)
    factors = [height // each[0] for each in sizes]
    for size, factor, path in zip(sizes, factors, files, strict=True):
        if (size[0] * factor, size[1] * factor) != largest:
            raise ImageError(
                f"{path}: {size[0]} × {size[1]} pixels, but {files[sizes.index(largest)].name} has {height} × {width}: "
                f"expected the same size, or a whole part of it, such as {height // 2} × {width // 2}"
            )
    return factors


def enlarge(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each pixel of an image (H, W, C) `factor` times in both directions.

    >>> enlarge(np.array([[[1], [2]]]), 2)[..., 0]
    array([[1, 1, 2, 2],
           [1, 1, 2, 2]])
    """
    return pixels if factor == 1 else pixels.repeat(factor, axis=0).repeat(factor, axis=1)


class EnlargedWindows:
    """The open files of one image, read as if all had the size of the largest one.

    Args:
        images: opened, one per channel.
        files: their paths, for messages.

    Attributes:
        shape: height, width and number of channels of all files.
        alpha: whether the first file declares its last channel as transparency.
    """

    def __init__(self, images: Sequence[Windows], files: Sequence[Path]):
        sizes = [image.shape[:2] for image in images]
        self._images, self._factors = images, scale_factors(sizes, files)
        self.shape = (*max(sizes), sum(image.shape[2] for image in images))
        self.alpha = images[0].alpha

    def read_each(self, box: Box) -> list[np.ndarray]:
        """The pixels of a box of each file, (box.height, box.width, C) in the file's own dtype.

        Raises:
            ImageError: as `Windows.read`.
        """
        return [_read_enlarged(image, box, factor) for image, factor in zip(self._images, self._factors, strict=True)]


def _read_enlarged(image: Windows, box: Box, factor: int) -> np.ndarray:
    top, left = box.top // factor, box.left // factor
    bottom, right = -(-(box.top + box.height) // factor), -(-(box.left + box.width) // factor)
    pixels = enlarge(image.read(Box(top, left, bottom - top, right - left)), factor)
    down, across = box.top - top * factor, box.left - left * factor
    return pixels[down : down + box.height, across : across + box.width]
