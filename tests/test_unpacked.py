"""Files that have to be decoded whole are decoded once for all windows, and their windows do not change."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from torch.utils.data import DataLoader

from pipeline import rle
from pipeline.config import Crops
from pipeline.data import unpacked as unpacked_module
from pipeline.data import windows
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.crops import crop_index
from pipeline.data.dataset import MaskedImages
from pipeline.data.labels import Labels
from pipeline.data.rasters import ORIENTATION, ImageError
from pipeline.data.reader import Reader
from pipeline.data.unpacked import Decoded, Unpacked, unpacking
from pipeline.data.windows import Box, can_read_windows, open_windows

RNG = np.random.default_rng(0)
BOXES = [Box(0, 0, 30, 40), Box(3, 5, 7, 11), Box(29, 39, 1, 1)]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """The system's temporary folder."""
    (tmp_path / "temporary").mkdir()
    # Only for this module: torch's workers need a short path for their sockets.
    monkeypatch.setattr(unpacked_module, "tempfile", SimpleNamespace(gettempdir=lambda: str(tmp_path / "temporary")))
    return tmp_path / "temporary"


def colours(channels, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max, (30, 40, channels)).astype(dtype)


def rotated(path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(colours(3)).save(path, exif=exif)


KINDS = {
    "colour.png": lambda path: Image.fromarray(colours(3)).save(path),
    "alpha.png": lambda path: Image.fromarray(colours(4)).save(path),
    "deep.png": lambda path: Image.fromarray(colours(1, np.uint16)[..., 0]).save(path),
    "photo.jpg": lambda path: Image.fromarray(colours(3)).save(path),
    "rotated.jpg": rotated,
    "strips.tif": lambda path: tifffile.imwrite(path, colours(3), rowsperstrip=4, compression="deflate"),
    "strips16.tif": lambda path: tifffile.imwrite(path, colours(1, np.uint16), rowsperstrip=4, compression="deflate"),
}


@pytest.mark.parametrize("name", KINDS)
def test_windows_are_those_of_an_image_that_is_not_unpacked(tmp_path, name, monkeypatch):
    KINDS[name](tmp_path / name)
    assert not can_read_windows(tmp_path / name)
    decoded, original = [], windows.read_raster
    monkeypatch.setattr(
        windows, "read_raster", lambda path, **options: decoded.append(path) or original(path, **options)
    )
    with open_windows(tmp_path / name) as image:
        size, dtype, alpha = image.shape, image.dtype, image.alpha
        boxes = [*BOXES[1:], Box(0, 0, *size[:2])]
        expected = [image.read(box) for box in boxes if box.left + box.width <= size[1]]
    decoded.clear()
    with unpacking() as unpacked:
        for _ in range(3):
            with open_windows(tmp_path / name, unpacked=unpacked) as image:
                assert (image.shape, image.dtype, image.alpha) == (size, dtype, alpha)
                found = [image.read(box) for box in boxes if box.left + box.width <= size[1]]
                assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
        assert len(list(unpacked.folder.glob("*.npy"))) == 1
    assert len(decoded) == (0 if name.startswith("strips") else 1)
    assert not unpacked.folder.exists()


def test_files_that_can_be_read_by_window_are_not_unpacked(tmp_path):
    tifffile.imwrite(tmp_path / "tiled.tif", colours(3), tile=(16, 16), photometric="rgb")
    tifffile.imwrite(tmp_path / "plain.tif", colours(3), photometric="rgb")
    np.save(tmp_path / "array.npy", colours(3))
    with unpacking() as unpacked:
        for name in ("tiled.tif", "plain.tif", "array.npy"):
            assert can_read_windows(tmp_path / name)
            with open_windows(tmp_path / name, unpacked=unpacked) as image:
                image.read(BOXES[0])
        assert not list(unpacked.folder.iterdir())


@pytest.fixture
def photos(tmp_path, card):
    """Three images and masks as PNG, their index and labels."""
    rows = []
    for number in range(3):
        Image.fromarray(colours(1)[..., 0]).save(tmp_path / f"{number}.png")
        mask = RNG.integers(0, 2, (30, 40), dtype=np.uint8)
        Image.fromarray(mask * 255).save(tmp_path / f"{number}-mask.png")
        size = {"height": 30, "width": 40, "rle": rle.encode(mask)}
        rows.append({"image_id": str(number), "path": tmp_path / f"{number}.png", "empty": "no", **size})
    index = pd.DataFrame(rows)
    masks = index.drop(columns="rle").assign(mask_paths=[(tmp_path / f"{number}-mask.png",) for number in range(3)])
    return {"rle": index, "mask images": masks}, Labels.of(card)


@pytest.mark.parametrize("kind", ["rle", "mask images"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_decodes_each_file_once_and_sees_the_same_windows(photos, kind, workers, monkeypatch, tmp_path):
    (indices, labels), original = photos, windows.read_raster

    def noted(path, **options):
        with (tmp_path / "decoded").open("a") as file:
            file.write(f"{path.name}\n")
        return original(path, **options)

    def epochs(unpacked):
        reader = Reader(1, unpacked=unpacked)
        mine = replace(labels, unpacked=unpacked)
        crops = crop_index(indices[kind], mine, Crops(size=16, stride=8))
        data = MaskedImages(crops, mine, reader, Augment(make_recipe("none", None, 1)))
        data.cache = None
        loader = DataLoader(data, batch_size=4, sampler=[(n, 0) for n in range(len(data))], num_workers=workers)
        return [[each.clone() for each in batch] for _ in range(2) for batch in loader]

    expected = epochs(None)
    monkeypatch.setattr(windows, "read_raster", noted)
    with unpacking() as unpacked:
        found = epochs(unpacked)
        arrays = 3 if kind == "rle" else 6
        assert len(list(unpacked.folder.glob("*.npy"))) == arrays
    assert sorted((tmp_path / "decoded").read_text().split()) == ["0.png", "1.png", "2.png"]
    for one, other in zip(expected, found, strict=True):
        assert all(first.equal(second) for first, second in zip(one, other, strict=True))


def test_too_little_space_is_one_line(tmp_path, monkeypatch):
    KINDS["colour.png"](tmp_path / "a.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 3 << 10))
    with (
        unpacking() as unpacked,
        pytest.raises(ImageError, match=r"a.png: windows .* 0 MiB are free in .*: free some space, or set TMPDIR"),
        open_windows(tmp_path / "a.png", unpacked=unpacked),
    ):
        pass


def test_a_folder_of_a_killed_process_is_removed(temporary_folder):
    code = (
        "import os, signal, tempfile, sys; tempfile.tempdir = sys.argv[1];"
        "from pipeline.data.unpacked import unpacking\n"
        "with unpacking() as unpacked: (unpacked.folder / 'a.npy').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(temporary_folder)], cwd=Path(__file__).parents[1], check=False)
    (left,) = temporary_folder.iterdir()
    with unpacking() as unpacked:
        assert list(temporary_folder.iterdir()) == [unpacked.folder]
    assert not left.exists()


def test_parts_are_written_one_after_the_other(tmp_path):
    parts = [np.full((rows, 2, 1), rows, ">u2") for rows in (1, 3, 2)]
    decoded = Decoded((6, 2, 1), np.dtype("<u2"), iter(parts))
    found = Unpacked(tmp_path).open(Path("a.tif"), "key", lambda: decoded)
    assert np.array_equal(found, np.concatenate(parts))
    assert not found.flags.writeable
    again = Unpacked(tmp_path).open(Path("a.tif"), "key", None)
    assert np.array_equal(again, found)
