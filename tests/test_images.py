"""Images: what comes out, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import ImageError, Reader, read_image, read_mask, read_size, stretch, write_image

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


@pytest.mark.parametrize("white", [1, 255])
def test_mask_is_one_wherever_the_file_is_not_zero(tmp_path, white):
    mask = (GREY > 100).astype(np.uint8)
    write_image(tmp_path / "mask.png", mask * np.uint8(white))
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_size_is_height_then_width(tmp_path):
    write_image(tmp_path / "image.png", GREY)
    assert read_size(tmp_path / "image.png") == (3, 4)


def test_truncated_image_is_refused_with_its_path(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "cut.png"
    write_image(path, rng.integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ImageError, match=r"cut\.png: cannot be read.*--skip-bad"):
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
