"""The reader: pixels and masks of images, and refused files."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydantic import ValidationError

from pipeline import config
from pipeline.data import mask_files
from pipeline.data import reader as reader_module
from pipeline.data.image_files import write_image
from pipeline.data.intensity import percentile_normalize
from pipeline.data.mask_files import read_labels, read_mask
from pipeline.data.reader import ImageError, Reader, read_size
from pipeline.data.sample import Sample
from pipeline.data.windows import Box
from tests import odd_images
from tests.odd_images import ODD

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_lossless_round_trip(tmp_path, suffix, pixels):
    write_image(tmp_path / f"image.{suffix}", pixels)
    back = Reader(1 if pixels.ndim == 2 else 3).read(Sample.from_file(tmp_path / f"image.{suffix}"))
    assert np.array_equal(back.squeeze(), pixels)


def test_jpeg_is_read_up_to_compression_errors(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 3
    Image.fromarray(smooth).save(tmp_path / "image.jpg", quality=95)
    assert np.abs(Reader(1).read(Sample.from_file(tmp_path / "image.jpg"))[..., 0].astype(int) - smooth).max() <= 4


def test_grey_is_repeated_to_three_channels(tmp_path):
    write_image(tmp_path / "image.png", GREY)
    assert np.array_equal(
        Reader(3).read(Sample.from_file(tmp_path / "image.png")), np.repeat(GREY[..., None], 3, axis=-1)
    )


def test_alpha_is_dropped_and_palette_resolved(tmp_path):
    Image.fromarray(COLOUR).convert("RGBA").save(tmp_path / "alpha.png")
    assert np.array_equal(Reader(3).read(Sample.from_file(tmp_path / "alpha.png")), COLOUR)
    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(Reader(1).read(Sample.from_file(tmp_path / "palette.png"))[..., 0], GREY)


SQUARE = np.zeros((40, 48), np.uint8)
SQUARE[10:30, 10:30] = 1  # 400 pixels


@pytest.mark.parametrize("white", [1, 255, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_masks_of_0_and_1_or_0_and_white_are_read(tmp_path, white, suffix):
    path, pixels = tmp_path / f"mask.{suffix}", SQUARE * np.array(white, np.uint16 if white > 255 else np.uint8)
    np.save(path, pixels) if suffix == "npy" else Image.fromarray(pixels).save(path)
    assert np.array_equal(read_mask(path), SQUARE)
    assert np.array_equal(read_mask(path, box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_masks_of_any_dtype_are_read(tmp_path, dtype):
    np.save(tmp_path / "mask.npy", SQUARE[..., None].astype(dtype))
    assert np.array_equal(read_mask(tmp_path / "mask.npy"), SQUARE)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_mask_of_one_value_is_empty_or_full(tmp_path, value):
    write_image(tmp_path / "mask.png", np.full((3, 4), value, np.uint8))
    assert (read_mask(tmp_path / "mask.png") == (value > 0)).all()


@pytest.mark.parametrize(("name", "mode"), [("a.gif", "P"), ("b.png", "RGB"), ("c.png", "RGBA"), ("d.png", "1")])
def test_black_and_white_masks_of_every_mode_are_read(tmp_path, name, mode):
    Image.fromarray(SQUARE * np.uint8(255)).convert(mode).save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name), SQUARE)


def save_palette(path, codes, colours):
    image = Image.fromarray(codes)
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_palette_mask_with_a_black_background_is_read_by_index(tmp_path, suffix):
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
def test_other_mask_values_are_refused_with_the_line_for_the_card(tmp_path, pixels, came):
    path = tmp_path / "mask.npy"
    np.save(path, pixels)
    with pytest.raises(ImageError, match=rf"mask\.npy: a mask of {came}.*\[masks\] values = {{ mask = ") as error:
        read_mask(path)
    assert "\n" not in str(error.value)
    assert ("above = 127" in str(error.value)) == (127 < np.nanmax(pixels) <= 255), "a threshold of 8 bits"


def test_a_jpeg_mask_is_refused_unless_the_card_has_a_threshold(tmp_path):
    Image.fromarray(SQUARE * np.uint8(255)).save(tmp_path / "mask.jpg", quality=75)
    with pytest.raises(ImageError, match=r"mask\.jpg: .*above = 127 \(JPEG blurs"):
        read_mask(tmp_path / "mask.jpg")
    assert np.array_equal(read_mask(tmp_path / "mask.jpg", above=127), SQUARE)
    assert np.array_equal(read_mask(tmp_path / "mask.jpg", above=127, box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])


def test_size_is_height_then_width(tmp_path):
    write_image(tmp_path / "image.png", GREY)
    assert read_size(tmp_path / "image.png") == (3, 4)


def test_truncated_image_is_refused_with_its_path(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "truncated.png"
    write_image(path, rng.integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ImageError, match=r"truncated\.png: cannot be read, .*SKIP_BAD=1 \(make\) or --skip-bad"):
        Reader(1).read(Sample.from_file(path))


def test_missing_and_invalid_images_have_different_messages(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"none\.png: no such image"):
        Reader(1).read(Sample.from_file(tmp_path / "none.png"))
    with pytest.raises(ImageError, match=r"text\.png: not an image \(8 bytes\)"):
        read_size(tmp_path / "text.png")


def test_percentile_normalize_by_hand():
    image = np.array([[[10], [20], [30]]], dtype=np.uint8)
    assert percentile_normalize(image, (0, 100)).ravel().tolist() == [0, 128, 255]


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_percentile_normalize_returns_float32(dtype):
    image = np.arange(12, dtype=dtype).reshape(3, 4, 1) * 100
    assert percentile_normalize(image, (1, 99)).dtype == np.float32


def test_percentile_normalize_removes_differences_in_exposure(tmp_path):
    write_image(tmp_path / "dark.png", GREY // 4)
    write_image(tmp_path / "light.png", GREY)
    dark, light = (
        Reader(1, (0, 100)).read(Sample.from_file(tmp_path / name)).astype(int) for name in ("dark.png", "light.png")
    )
    assert np.abs(dark - light).max() <= 4


def test_percentile_normalize_keeps_a_constant_image():
    assert np.array_equal(percentile_normalize(np.full((2, 2, 3), 7, np.uint8), (1, 99)), np.full((2, 2, 3), 7))


# ---------------------------------------------------------------------------------------------- non-finite pixels


@pytest.fixture
def holed(tmp_path):
    """A tiled float TIFF with four non-finite pixels from row 20, column 17; and its pixels."""
    pixels = odd_images.scene(3, np.float32)
    pixels[20:22, 17:19, 0] = [[np.nan, np.inf], [-np.inf, np.nan]]
    tifffile.imwrite(tmp_path / "holed.tif", pixels, photometric="rgb", tile=(16, 16))
    return tmp_path / "holed.tif", pixels


@pytest.mark.parametrize("reader", [Reader(3, value_range=(0, 1)), Reader(1, value_range=(0, 1)), Reader(3, (1, 99))])
def test_non_finite_pixels_are_refused_with_count_and_position(holed, reader):
    path, _ = holed
    said = r"holed\.tif: 4 of 1551 pixels are not finite \(nan\), the first at row 20, column 17: set data\.nodata"
    for read in (reader.read, lambda sample: reader.preview(sample, 1), reader.check):
        with pytest.raises(ImageError, match=said):
            read(Sample.from_file(path))


def test_non_finite_pixels_of_a_window_are_refused_with_their_position_in_the_image(holed):
    path, pixels = holed
    reader = Reader(3, value_range=(0, 1))
    assert reader.window(Sample.from_file(path), Box(0, 0, 20, 47)) == pytest.approx(pixels[:20] * 255, abs=1e-3)
    with pytest.raises(ImageError, match=r"2 of 30 pixels of this window .* at row 20, column 17"):
        reader.window(Sample.from_file(path), Box(18, 15, 3, 10))


@pytest.mark.parametrize("reader", [Reader(3, value_range=(0, 1), nodata="zero"), Reader(3, (0, 100), nodata="zero")])
def test_nodata_zero_replaces_non_finite_pixels_by_black(holed, reader):
    path, pixels = holed
    holes, found = ~np.isfinite(pixels), reader.read(Sample.from_file(path))
    assert (found[holes] == 0).all()
    assert np.isfinite(found).all()
    low, high = reader.value_range or (pixels[~holes].min(), pixels[~holes].max())
    assert found[~holes] == pytest.approx((pixels[~holes] - low) * 255 / (high - low), abs=1e-2)
    if reader.value_range:
        assert np.array_equal(reader.window(Sample.from_file(path), Box(18, 8, 9, 20)), found[18:27, 8:28])


def test_nodata_values_are_as_nan(tmp_path):
    pixels = np.array([[-32768, 100, 300], [200, 100, -9999]], np.int16)
    np.save(tmp_path / "marked.npy", pixels)
    np.save(tmp_path / "nan.npy", np.where(pixels < 0, np.nan, pixels))
    marked, nan = (Sample.from_file(tmp_path / name) for name in ("marked.npy", "nan.npy"))
    for options in ({"percentiles": (0, 100)}, {"value_range": (0, 400)}):
        reader = Reader(1, **options, nodata="mean", nodata_values=(-32768, -9999))
        assert np.array_equal(reader.read(marked), reader.read(nan))
    assert reader.read(marked)[..., 0] == pytest.approx(np.array([[175, 100, 300], [200, 100, 175]]) * 255 / 400)
    zero = Reader(1, value_range=(0, 400), nodata="zero", nodata_values=(-32768,))
    assert zero.window(marked, Box(0, 0, 1, 2))[0, :, 0] == pytest.approx([0, 63.75])
    with pytest.raises(ValidationError, match='set nodata = "zero" or "mean" as well'):
        config.Data(nodata_values=(-9999,))


def test_nodata_mean_replaces_non_finite_pixels_by_the_channel_mean(holed):
    path, pixels = holed
    found = Reader(3, value_range=(0, 1), nodata="mean").read(Sample.from_file(path))
    expected = pixels[..., 0][np.isfinite(pixels[..., 0])].mean() * 255
    assert found[20:22, 17:19, 0] == pytest.approx(expected, abs=1e-2)
    with pytest.raises(
        ImageError, match=r'data\.nodata = "mean" needs the whole image, but this image is read by window: set "zero"'
    ):
        Reader(3, value_range=(0, 1), nodata="mean").window(Sample.from_file(path), Box(0, 0, 3, 3))


def test_an_image_of_non_finite_pixels_only_is_black(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 4), np.nan))
    for nodata in ("zero", "mean"):
        assert (Reader(1, (1, 99), nodata=nodata).read(Sample.from_file(tmp_path / "a.npy")) == 0).all()
        assert (Reader(1, nodata=nodata).preview(Sample.from_file(tmp_path / "a.npy"), 3) == 0).all()


def test_a_number_beyond_float32_is_not_finite(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 1e300], [1, 2]]))
    with pytest.raises(ImageError, match=r"1 of 4 pixels are not finite \(1e\+300\), .* row 0, column 1"):
        Reader(1, (1, 99)).read(Sample.from_file(tmp_path / "a.npy"))


def test_nan_in_a_mask_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.where(SQUARE, np.nan, 0.0))
    with pytest.raises(ImageError, match="a mask with NaN at row 10, column 10"):
        read_mask(tmp_path / "a.npy", above=127)


# ---------------------------------------------------------------------------------------------- alpha and bands


@pytest.mark.parametrize(("name", "channels"), [("bands.tif", 4), ("pages.tif", 4), ("planes.tif", 4)])
def test_a_fourth_band_or_page_is_not_dropped_as_alpha(tmp_path, name, channels):
    path = odd_images.write(name, tmp_path)
    assert Reader(channels).read(Sample.from_file(path)).shape[2] == channels
    for wrong in (1, 3):
        with pytest.raises(ImageError, match=rf"4 channels, expected {wrong}: set model\.in_channels = 4"):
            Reader(wrong).read(Sample.from_file(path))
        with pytest.raises(ImageError, match=rf"4 channels, expected {wrong}"):
            Reader(wrong).window(Sample.from_file(path), Box(0, 0, 9, 9))


def test_two_channels_without_alpha_information_are_not_grey_and_alpha(tmp_path):
    pixels = odd_images.scene(2)
    np.save(tmp_path / "a.npy", pixels)
    tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="minisblack")
    for name in ("a.npy", "a.tif"):
        with pytest.raises(ImageError, match=r"2 channels, expected 1: set model\.in_channels = 2"):
            Reader(1).read(Sample.from_file(tmp_path / name))


@pytest.mark.parametrize(
    "name",
    ["alpha.tif", "layered.png", "deep-layered.png", "layered.webp", "palette-transparent.png", "transparent.gif"],
)
def test_alpha_is_dropped_if_the_file_declares_it(tmp_path, name):
    path, pixels = odd_images.write(name, tmp_path), ODD[name].pixels
    colours = pixels[..., :3] / (257 if pixels.dtype == np.uint16 else 1)
    assert Reader(3).read(Sample.from_file(path)) == pytest.approx(colours, abs=1e-3)
    assert Reader(3).window(Sample.from_file(path), Box(3, 4, 9, 9)) == pytest.approx(colours[3:12, 4:13], abs=1e-3)
    assert Reader(4).read(Sample.from_file(path)).shape[2] == 4


BRUSH = np.dstack([np.zeros((*SQUARE.shape, 3), np.uint8), SQUARE * np.uint8(255)])


@pytest.mark.parametrize("colour", [0, 255])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_a_mask_on_a_transparent_layer_is_read_from_alpha_with_a_warning(tmp_path, name, colour, caplog):
    mask_files._warn_of_alpha_masks.cache_clear()
    painted = BRUSH.copy()
    painted[..., :3] = colour
    Image.fromarray(painted).save(tmp_path / name, **{"lossless": True, "exact": True} if name == "a.webp" else {})
    for above in (None, 127):
        assert np.array_equal(read_mask(tmp_path / name, above=above), SQUARE)
    assert np.array_equal(read_mask(tmp_path / name, box=Box(5, 20, 20, 20)), SQUARE[5:25, 20:40])
    assert not read_mask(tmp_path / name, box=Box(32, 2, 4, 4)).any(), "a window with one value only"
    assert len([line for line in caplog.messages if "pixels that are not transparent are mask" in line]) == 1


def test_a_transparent_layer_is_an_empty_mask_and_an_opaque_one_is_read_by_colour(tmp_path):
    for colour in (0, 255):
        for opacity, is_mask in ((0, 0), (255, colour > 0)):
            layer = np.full((4, 4, 4), (colour, colour, colour, opacity), np.uint8)
            Image.fromarray(layer).save(tmp_path / "a.png")
            assert (read_mask(tmp_path / "a.png") == is_mask).all()


def test_a_mask_with_partial_alpha_is_refused_unless_the_card_has_a_threshold(tmp_path):
    painted = BRUSH.copy()
    painted[12, 12, 3] = 90
    Image.fromarray(painted).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="a mask of values 0, 90, 255"):
        read_mask(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", above=127).sum() == SQUARE.sum() - 1


def test_labels_that_differ_only_in_alpha_are_refused(tmp_path):
    Image.fromarray(BRUSH).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="labels of one colour, only alpha varies"):
        read_labels(tmp_path / "a.png", {(0, 0, 0): 0, (9, 9, 9): 1})


# ---------------------------------------------------------------------------------------------- one bit


@pytest.mark.parametrize("name", ["bits.png", "bits.tif", "bits.npy", "bits.bmp", "bits.pbm", "group4.tif"])
@pytest.mark.parametrize("reader", [Reader(1), Reader(1, (0, 100)), Reader(1, value_range=(0, 255))])
def test_one_bit_images_are_black_and_white(tmp_path, name, reader):
    path, white = odd_images.write(name, tmp_path), odd_images.BITS * np.uint8(255)
    assert np.array_equal(reader.read(Sample.from_file(path))[..., 0], white)
    assert np.array_equal(reader.preview(Sample.from_file(path), 3)[..., 1], white)
    assert np.array_equal(percentile_normalize(reader.preview(Sample.from_file(path), 1), (0, 100))[..., 0], white)


def test_a_one_bit_mask_is_read_with_any_threshold(tmp_path):
    for name in ("bits.png", "bits.tif", "bits.npy"):
        assert np.array_equal(read_mask(odd_images.write(name, tmp_path), above=127), odd_images.BITS)


def test_exif_orientation_is_applied_to_masks(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(SQUARE * np.uint8(255)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_mask(tmp_path / "a.png"), np.rot90(SQUARE))
    assert np.array_equal(read_mask(tmp_path / "a.png", exif=False), SQUARE)
    assert np.array_equal(read_labels(tmp_path / "a.png", {0: 0, 255: 1}), np.rot90(SQUARE))


# ---------------------------------------------------------------------------------------------- large images


def test_a_large_image_is_checked_by_window(tmp_path, monkeypatch):
    path = odd_images.write("tiles.tif", tmp_path)
    monkeypatch.setattr(reader_module, "LARGE", 100)
    monkeypatch.setattr(Reader, "read_raw", lambda *_: pytest.fail("read whole"))
    assert Reader(3).check(Sample.from_file(path)) == (odd_images.HEIGHT, odd_images.WIDTH)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-900])
    with pytest.raises(ImageError, match=r"tiles\.tif: rows 32 to 33, .* cannot be read"):
        Reader(3).check(Sample.from_file(path))
