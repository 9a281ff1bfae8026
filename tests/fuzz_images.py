"""Damaged image files."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.data.formats import read_pixels, read_size
from pipeline.data.reader import DEFAULT_READER
from pipeline.data.sample import Sample
from pipeline.data.windows import Box, open_windows
from tests import odd_images


@cache
def _sound(name: str) -> tuple[bytes, np.ndarray]:
    """The bytes of a file, and its pixels."""
    with TemporaryDirectory() as folder:
        path = odd_images.write(name, Path(folder))
        return (Path(folder) / name).read_bytes(), read_pixels(path)


def fuzz_image(rng: np.random.Generator, folder: Path) -> str:
    """Truncate or change a file of any format, and read it whole, as a preview, by window and for its size.

    Raises:
        AssertionError: if a truncated file is not read as the whole image, or if two ways of reading differ in their
            sizes or pixels.
    """
    name = list(odd_images.ODD)[rng.integers(len(odd_images.ODD))]
    content, whole = _sound(name)
    truncated = rng.random() < 0.3
    if truncated:
        damaged = content[: rng.integers(len(content))]
    else:
        *_, damaged = odd_images.mutations(content, 2, seed=int(rng.integers(1 << 32)))
    (folder / name).write_bytes(damaged)
    path = odd_images.ODD[name].path(folder)
    height, width = read_size(path)
    pixels = read_pixels(path)
    assert pixels.shape[:2] == (height, width), f"{name}: {pixels.shape[:2]}, its header says {(height, width)}"
    assert not truncated or np.array_equal(pixels, whole), f"{name}: a truncated file is read as another image"
    assert DEFAULT_READER.preview(Sample.from_file(path), channels=3).shape == (height, width, 3)
    top, left = int(rng.integers(height)), int(rng.integers(width))
    box = Box(top, left, height - top, width - left)
    with open_windows(path) as image:
        part = image.read(box)
    assert np.array_equal(part, pixels[box.slices], equal_nan=pixels.dtype.kind == "f"), f"{name}: {box} differs"
    return "read"
