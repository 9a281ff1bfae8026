"""Unusual and damaged image files give the correct pixels, or one line that names the file."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.formats import read_pixels, read_size
from pipeline.data.mask_files import read_mask
from pipeline.data.rasters import ImageError
from pipeline.data.reader import DEFAULT_READER
from pipeline.data.sample import Sample
from pipeline.data.windows import Box, open_windows
from tests import odd_images
from tests.odd_images import ODD

LINE = 300  # characters of a message

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries warn about damaged files


def by_window(path: Path) -> np.ndarray:
    """The whole image, put together from windows."""
    with open_windows(path) as image:
        height, width, _ = image.shape
        rows = [slice(top, min(top + 20, height)) for top in range(0, height, 20)]
        columns = [slice(left, min(left + 20, width)) for left in range(0, width, 20)]
        boxes = [[Box(r.start, c.start, r.stop - r.start, c.stop - c.start) for c in columns] for r in rows]
        return np.concatenate([np.concatenate([image.read(box) for box in row], axis=1) for row in boxes])


WAYS = {
    "whole": read_pixels,
    "window": by_window,
    "labels": lambda path: read_mask(path, above=100),
    "preview": lambda path: DEFAULT_READER.preview(Sample.from_file(path), channels=1),
    "size": read_size,
}


def outcomes(path: Path) -> dict[str, object]:
    """The result of each way of reading a file; None if it is refused in one line."""
    found, said = {}, []
    for way, read in WAYS.items():
        try:
            found[way] = read(path)
        except ImageError as error:
            found[way] = None
            said.append(str(error))
    for line in said:
        assert len(line.replace(str(path), path.name)) <= LINE, line
        assert "\n" not in line
        assert path.parent.name in line
    return found


@pytest.mark.parametrize("name", ODD)
def test_unusual_files_are_read_correctly_whole_and_by_window(tmp_path, name):
    path = odd_images.write(name, tmp_path)
    expected = ODD[name].pixels
    whole, parts = read_pixels(path), by_window(path)
    assert np.array_equal(parts, whole)
    assert parts.dtype == whole.dtype
    assert read_size(path) == whole.shape[:2] == (odd_images.HEIGHT, odd_images.WIDTH)
    if expected is not None:
        assert whole.dtype == expected.dtype.newbyteorder("=")
        assert np.array_equal(whole, expected)


@pytest.mark.parametrize("name", ODD)
def test_a_truncated_file_is_refused_or_read_correctly(tmp_path, name):
    path = odd_images.write(name, tmp_path)
    file, whole = tmp_path / name, outcomes(path)
    for content in odd_images.truncations(file.read_bytes()):
        file.write_bytes(content)
        for way, found in outcomes(path).items():
            if found is not None:
                assert np.array_equal(found, whole[way]), (way, len(content))


@pytest.mark.parametrize("name", ODD)
def test_a_file_with_changed_bytes_is_refused_or_read_as_an_image(tmp_path, name):
    path = odd_images.write(name, tmp_path)
    file = tmp_path / name
    for content in odd_images.mutations(file.read_bytes(), 8):
        file.write_bytes(content)
        found = outcomes(path)
        if found["whole"] is not None:
            assert found["whole"].shape[:2] == found["size"]
            assert found["whole"].dtype.kind in "buif"
        if found["whole"] is not None and found["window"] is not None:
            assert np.array_equal(found["whole"], found["window"], equal_nan=found["whole"].dtype.kind == "f")


@pytest.mark.parametrize("name", ["grey.png", "colour.png", "deep.png", "deep-colour.png"])
def test_a_changed_pixel_of_a_png_is_detected_by_the_checksum(tmp_path, name):
    path = odd_images.write(name, tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1
    path.write_bytes(content)
    assert outcomes(path) | {"size": None} == dict.fromkeys(WAYS)
