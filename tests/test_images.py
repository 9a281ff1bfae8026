"""Images: what comes out, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import (
    ImageError,
    Reader,
    read_image,
    read_mask,
    read_size,
    stretch,
    write_image,
)
from pipeline.data.windows import Box

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_round_trip(tmp_path, suffix, pixels):
    write_image(tmp_path / f"image.{suffix}", pixels)
    back = read_image(tmp_path / f"image.{suffix}", channels=1 if pixels.ndim == 2 else 3)
    assert np.array_equal(back.squeeze(), pixels)


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 3
    Image.fromarray(smooth).save(tmp_path / "image.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "image.jpg", 1)[..., 0].astype(int) - smooth).max() <= 4


def test_grey_is_repeated_to_three_channels(tmp_path):
    write_image(tmp_path / "image.png", GREY)
    assert np.array_equal(read_image(tmp_path / "image.png", 3), np.repeat(GREY[..., None], 3, axis=-1))


def test_alpha_is_dropped_and_palette_resolved(tmp_path):
    Image.fromarray(COLOUR).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png", 3), COLOUR)
    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png", 1)[..., 0], GREY)


SQUARE = np.zeros((40, 48), np.uint8)
SQUARE[10:30, 10:30] = 1  # 400 pixels


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_zero_and_one_and_zero_and_white_are_masks(tmp_path, white, suffix):
    path, pixels = tmp_path / f"mask.{suffix}", SQUARE * np.array(white, np.uint16 if white > 255 else np.uint8)
    np.save(path, pixels) if suffix == "npy" else Image.fromarray(pixels).save(path)
    assert np.array_equal(read_mask(path), SQUARE)
    assert np.array_equal(read_mask(path, box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_masks_of_any_dtype_are_zero_and_one(tmp_path, dtype):
    np.save(tmp_path / "mask.npy", SQUARE[..., None].astype(dtype))
    assert np.array_equal(read_mask(tmp_path / "mask.npy"), SQUARE)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(tmp_path, value):
    write_image(tmp_path / "mask.png", np.full((3, 4), value, np.uint8))
    assert (read_mask(tmp_path / "mask.png") == (value > 0)).all()


@pytest.mark.parametrize(("name", "mode"), [("a.gif", "P"), ("b.png", "RGB"), ("c.png", "RGBA"), ("d.png", "1")])
def test_masks_of_black_and_white_are_masks_however_they_are_stored(tmp_path, name, mode):
    Image.fromarray(SQUARE * np.uint8(255)).convert(mode).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name), SQUARE)


def save_palette(path, codes, colours):
    image = Image.fromarray(codes)
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_whose_background_is_black_is_a_mask_by_its_indices(tmp_path, suffix):
    save_palette(tmp_path / f"voc.{suffix}", SQUARE, [(0, 0, 0), (128, 0, 0)])
    assert np.array_equal(read_mask(tmp_path / f"voc.{suffix}"), SQUARE)
    assert np.array_equal(read_mask(tmp_path / f"voc.{suffix}", box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])
    save_palette(tmp_path / f"any.{suffix}", SQUARE, [(9, 9, 9), (128, 0, 0)])
    with pytest.raises(ImageError, match=r"a mask of values \[9, 9, 9\], \[128, 0, 0\]: .*nerve = \[9, 9, 9\]"):
        read_mask(tmp_path / f"any.{suffix}", "nerve")


@pytest.mark.parametrize(
    ("pixels", "came"),
    [
        (SQUARE * np.uint8(128), "values 0, 128: expected 0 and 1, or 0 and 255"),
        (SQUARE + SQUARE[::-1, ::-1] + SQUARE[:1, :1], "values 0, 1, 2: "),
        (np.arange(1920, dtype=np.uint16).reshape(40, 48), r"values 0, 1, 2, 3, … \(1920 in all, to 1919\): "),
        (np.stack([SQUARE * np.uint8(255), SQUARE * 0, SQUARE * 0], axis=-1), r"values \[0, 0, 0\], \[255, 0, 0\]: "),
        (np.where(SQUARE, np.nan, 0.0), "values 0, nan: "),
        (SQUARE * np.int8(-1), "values -1, 0: "),
    ],
    ids=["128", "2", "numbered objects", "red", "not a number", "negative"],
)
def test_other_values_are_refused_with_what_to_write_on_the_card(tmp_path, pixels, came):
    path = tmp_path / "mask.npy"
    np.save(path, pixels)
    with pytest.raises(ImageError, match=rf"mask\.npy: a mask of {came}.*\[masks\] values = {{ mask = ") as error:
        read_mask(path)
    assert "\n" not in str(error.value)


def test_a_mask_that_jpeg_blurred_is_refused_until_the_card_says_where_to_cut(tmp_path):
    Image.fromarray(SQUARE * np.uint8(255)).save(tmp_path / "mask.jpg", quality=75)
    with pytest.raises(ImageError, match=r"mask\.jpg: .*above = 127 \(of JPEG"):
        read_mask(tmp_path / "mask.jpg")
    assert np.array_equal(read_mask(tmp_path / "mask.jpg", above=127), SQUARE)
    assert np.array_equal(read_mask(tmp_path / "mask.jpg", above=127, box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])


def test_size_is_height_then_width(tmp_path):
    write_image(tmp_path / "image.png", GREY)
    assert read_size(tmp_path / "image.png") == (3, 4)


def test_truncated_image_is_refused_with_its_path(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "cut.png"
    write_image(path, rng.integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ImageError, match=r"cut\.png: a PNG .*--skip-bad"):
        read_image(path, 1)


def test_missing_image_and_no_image_are_told_apart(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"none\.png: no such image"):
        read_image(tmp_path / "none.png", 1)
    with pytest.raises(ImageError, match=r"text\.png: not an image \(8 bytes\)"):
        read_size(tmp_path / "text.png")


def test_stretch_by_hand():
    image = np.array([[[10], [20], [30]]], dtype=np.uint8)
    assert stretch(image, (0, 100)).ravel().tolist() == [0, 128, 255]


def test_stretch_makes_exposure_vanish(tmp_path):
    write_image(tmp_path / "dark.png", GREY // 4)
    write_image(tmp_path / "light.png", GREY)
    dark, light = (Reader(1, (0, 100))(tmp_path / name).astype(int) for name in ("dark.png", "light.png"))
    assert np.abs(dark - light).max() <= 4


def test_stretch_leaves_a_constant_image():
    assert np.array_equal(stretch(np.full((2, 2, 3), 7, np.uint8), (1, 99)), np.full((2, 2, 3), 7))
