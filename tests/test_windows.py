"""Reading by window: a window equals the same part of the whole image."""

import logging
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.data import rasters, windows
from pipeline.data.formats import read_pixels
from pipeline.data.rasters import ImageError
from pipeline.data.windows import Box, open_windows

HEIGHT, WIDTH = 203, 301
KINDS = {
    "grey": ((HEIGHT, WIDTH), np.uint8, {"photometric": "minisblack"}),
    "colour": ((HEIGHT, WIDTH, 3), np.uint8, {"photometric": "rgb"}),
    "planes": ((3, HEIGHT, WIDTH), np.uint8, {"photometric": "rgb", "planarconfig": "separate"}),
    "pages": ((4, HEIGHT, WIDTH), np.uint8, {"photometric": "minisblack"}),
    "sixteen bits": ((HEIGHT, WIDTH), np.uint16, {"photometric": "minisblack"}),
    "big-endian": ((HEIGHT, WIDTH), np.uint16, {"photometric": "minisblack", "byteorder": ">"}),
}
LAYOUTS = {
    "tiles": {"tile": (64, 48)},
    "tiles deflate": {"tile": (64, 48), "compression": "deflate"},
    "tiles lzw": {"tile": (64, 48), "compression": "lzw"},
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "strips deflate": {"rowsperstrip": 7, "compression": "deflate"},
}


def boxes(count=25, seed=0):
    """The whole image, its corners, and random boxes."""
    rng = np.random.default_rng(seed)
    yield from (Box(0, 0, HEIGHT, WIDTH), Box(0, 0, 1, 1), Box(HEIGHT - 1, WIDTH - 1, 1, 1), Box(0, 48, HEIGHT, 48))
    for _ in range(count):
        top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
        yield Box(*map(int, (top, left, rng.integers(1, HEIGHT - top + 1), rng.integers(1, WIDTH - left + 1))))


def assert_windows_show_the_whole(path):
    whole = read_pixels(path)
    with open_windows(path) as image:
        assert (image.shape, image.dtype) == (whole.shape, whole.dtype)
        for box in boxes():
            assert (image.read(box) == whole[box.slices]).all(), box


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiff_of_any_layout_is_read_by_window(tmp_path, kind, layout):
    shape, dtype, options = KINDS[kind]
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options, **LAYOUTS[layout])
    assert_windows_show_the_whole(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tiff_that_does_not_fit_into_memory_is_read_by_window(tmp_path, monkeypatch, layout):
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **LAYOUTS[layout])
    monkeypatch.setattr(rasters, "UNCHECKED_BYTES", 0)
    monkeypatch.setattr(rasters, "free_memory", lambda: pixels.nbytes // 2)
    box = Box(20, 30, 40, 50)
    with open_windows(tmp_path / "a.tif") as image:
        assert np.array_equal(image.read(box), pixels[box.slices])
    with pytest.raises(ImageError, match="read it by window"):
        read_pixels(tmp_path / "a.tif")


def test_a_tiff_of_jpeg_tiles_is_read_by_window(tmp_path):
    ramp = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)) // 3
    pixels = np.stack([ramp, 200 - ramp // 2, ramp // 2], axis=2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 48), compression="jpeg")
    assert_windows_show_the_whole(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_other_formats_are_read_by_window(tmp_path, suffix):
    pixels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    np.save(path, pixels) if suffix == ".npy" else Image.fromarray(pixels).save(path)
    assert_windows_show_the_whole(path)


def test_a_pyramid_is_read_at_full_size(tmp_path):
    fine = np.random.default_rng(0).integers(0, 256, (128, 96)).astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(fine, tile=(32, 32), subifds=1, photometric="minisblack")
        file.write(fine[::2, ::2], tile=(32, 32), subfiletype=1, photometric="minisblack")
    with open_windows(tmp_path / "a.tif") as image:
        assert (image.read(Box(0, 0, 128, 96))[..., 0] == fine).all()


@pytest.fixture
def damaged(tmp_path):
    """A TIFF of six tiles, of which the fourth (rows 64 to 128, columns 0 to 64) is damaged."""
    pixels = np.random.default_rng(0).integers(1, 256, (100, 150)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="deflate", photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        offset, size = file.pages[0].dataoffsets[3], file.pages[0].databytecounts[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    return path, pixels


def test_a_tile_that_cannot_be_decoded_is_refused_with_its_position(damaged):
    path, pixels = damaged
    with open_windows(path) as image:
        assert (image.read(Box(0, 0, 64, 150))[..., 0] == pixels[:64]).all(), "the other tiles are unchanged"
        with pytest.raises(ImageError, match=r"a.tif: rows 64 to 100, columns 0 to 64 cannot be read .*--skip-bad"):
            image.read(Box(60, 60, 8, 8))


def test_a_lenient_reader_reads_a_damaged_tile_as_0_with_one_warning(damaged, caplog):
    path, pixels = damaged
    expected = pixels.copy()
    expected[64:, :64] = 0
    caplog.set_level(logging.WARNING)
    with open_windows(path, lenient=True) as image:
        for _ in range(2):
            assert (image.read(Box(0, 0, 100, 150))[..., 0] == expected).all()
    assert [
        line for line in caplog.messages if "columns 0 to 64" in line and "are read as 0" in line
    ] == caplog.messages
    assert len(caplog.messages) == 1, "one warning for several reads"


def test_a_truncated_file_is_refused_with_the_missing_rows(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((100, 150), np.uint8), tile=(64, 64), photometric="minisblack")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    with open_windows(path) as image, pytest.raises(ImageError, match=r"rows 64 to 100, .* bytes are there"):
        image.read(Box(0, 0, 100, 150))


def test_a_tiff_without_tiles_is_decoded_into_a_temporary_file_and_logged(tmp_path, caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150)).astype(np.uint8)
    for name, options in (("packed", {"compression": "deflate"}), ("plain", {})):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, rowsperstrip=7, photometric="minisblack", **options)
        with open_windows(tmp_path / f"{name}.tif") as image:
            assert (image.read(Box(3, 5, 90, 80))[..., 0] == pixels[3:93, 5:85]).all()
    assert len(caplog.messages) == 1, "uncompressed data is memory-mapped"
    assert "packed.tif: a TIFF without tiles: decoded into a file in" in caplog.messages[0]


def test_the_cache_of_decoded_tiles_has_a_maximum_size(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "CACHE_BYTES", 3 * 64 * 64)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((512, 512), np.uint8), tile=(64, 64), photometric="minisblack")
    with open_windows(tmp_path / "a.tif") as image:
        for left in range(0, 512, 64):
            image.read(Box(0, left, 512, 64))
            assert image._image.tile.cache_info().currsize <= 3


def test_missing_and_invalid_files_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"gone.tif: no such image"), open_windows(tmp_path / "gone.tif"):
        pass
    shutil.copy(__file__, tmp_path / "text.tif")
    with pytest.raises(ImageError, match=r"text.tif: not an image"), open_windows(tmp_path / "text.tif"):
        pass


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a\nb"), IndexError(), AttributeError("x" * 5000), AssertionError()]
)
def test_any_error_of_a_decoder_is_reported_in_one_line(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), tile=(16, 16), photometric="minisblack")
    monkeypatch.setattr(windows, "_paste", fail)
    with (
        open_windows(tmp_path / "a.tif") as image,
        pytest.raises(ImageError, match=r"a\.tif: cannot be read, ") as found,
    ):
        image.read(Box(0, 0, 9, 9))
    assert "\n" not in str(found.value)
    assert len(str(found.value).replace(str(tmp_path), "")) <= 300
