"""File formats: pixel values are read as written, and a damaged file is reported."""

import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image, ImageOps
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from pipeline.data import formats, medical, rasters
from pipeline.data.augment import STRENGTHS, Augment, make_recipe
from pipeline.data.file_index import find_files
from pipeline.data.formats import read_pixels, read_size
from pipeline.data.intensity import percentile_normalize
from pipeline.data.mask_files import _numbers_of, read_labels, read_mask
from pipeline.data.reader import DEFAULT_READER, ImageError, Reader
from pipeline.data.sample import Sample
from pipeline.data.windows import Box, open_windows
from tests import odd_images
from tests.miniatures import write_dicom
from tests.odd_images import write_deep_png
from tests.test_odd_images import by_window

RNG = np.random.default_rng(0)
GREY16 = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)
COLOUR16 = RNG.integers(0, 65536, (9, 7, 3)).astype(np.uint16)
GREY8 = (GREY16 >> 8).astype(np.uint8)
FIVE = RNG.integers(0, 65536, (5, 9, 7)).astype(np.uint16)


# ---------------------------------------------------------------------------------------------- values


def preview(path, channels):
    return DEFAULT_READER.preview(Sample.from_file(path), channels)


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("grey.png", lambda path: Image.fromarray(GREY16).save(path), GREY16[..., None]),
        ("grey.tif", lambda path: tifffile.imwrite(path, GREY16), GREY16[..., None]),
        ("lzw.tiff", lambda path: tifffile.imwrite(path, COLOUR16, compression="lzw"), COLOUR16),
        ("big.tif", lambda path: tifffile.imwrite(path, GREY16, bigtiff=True), GREY16[..., None]),
        (
            "planar.tif",
            lambda path: tifffile.imwrite(path, FIVE, planarconfig="separate", photometric="minisblack"),
            FIVE.transpose(1, 2, 0),
        ),
        ("pages.tif", lambda path: tifffile.imwrite(path, FIVE, photometric="minisblack"), FIVE.transpose(1, 2, 0)),
        (
            "interleaved.tif",
            lambda path: tifffile.imwrite(
                path, np.ascontiguousarray(FIVE.transpose(1, 2, 0)), planarconfig="contig", photometric="minisblack"
            ),
            FIVE.transpose(1, 2, 0),
        ),
        ("float.TIF", lambda path: tifffile.imwrite(path, GREY16 / np.float32(7)), (GREY16 / np.float32(7))[..., None]),
        ("stack.npy", lambda path: np.save(path, FIVE.transpose(1, 2, 0)), FIVE.transpose(1, 2, 0)),
        ("flat.npy", lambda path: np.save(path, GREY8.astype(np.int16) - 9), GREY8.astype(np.int16)[..., None] - 9),
        ("image.gif", lambda path: Image.fromarray(GREY8).save(path), np.repeat(GREY8[..., None], 3, axis=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pixel_values_are_read_as_written(tmp_path, name, write, expected):
    write(tmp_path / name)
    found = read_pixels(tmp_path / name)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)
    assert read_size(tmp_path / name) == (9, 7)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["grey", "RGB", "LA", "RGBA"])
def test_png_of_16_bits_is_read_losslessly_with_and_without_alpha(tmp_path, colour, channels):
    pixels = RNG.integers(0, 65536, (9, 7, channels)).astype(np.uint16)
    write_deep_png(tmp_path / "deep.png", pixels, colour)
    found = read_pixels(tmp_path / "deep.png")
    assert found.dtype == np.uint16
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)], ids=["LA", "RGBA"])
def test_alpha_of_16_bits_is_dropped(tmp_path, colour, channels):
    pixels = RNG.integers(0, 65536, (9, 7, channels)).astype(np.uint16)
    write_deep_png(tmp_path / "deep.png", pixels, colour)
    found = Reader(channels - 1).read(Sample.from_file(tmp_path / "deep.png"))
    assert found.dtype == np.float32
    assert found == pytest.approx(pixels[..., :-1] / 65535 * 255, abs=1e-4)


@pytest.mark.parametrize("name", ["deep.ppm", "deep.jp2"])
def test_colours_of_16_bits_in_ppm_and_jpeg_2000_are_read_losslessly(tmp_path, name):
    colours = RNG.integers(0, 65536, (64, 48, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / name), colours[..., ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert np.array_equal(read_pixels(tmp_path / name), colours)
    cv2.imwrite(str(tmp_path / name), colours[..., 0], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert np.array_equal(read_pixels(tmp_path / name)[..., 0], colours[..., 0])


def save_palette(path, codes):
    """Write codes (9, 7) as indices of a palette in which 0 and 2 look the same."""
    image = Image.new("P", (7, 9))
    image.putdata(codes.ravel().tolist())
    image.putpalette([0, 0, 0, 200, 10, 10, 0, 0, 0] + [0] * 759)
    image.save(path)


def test_palette_tiff_is_read_as_colours_and_as_label_indices(tmp_path):
    codes = RNG.integers(0, 3, (9, 7)).astype(np.uint8)
    save_palette(tmp_path / "labels.tif", codes)
    colours = np.array([[0, 0, 0], [200, 10, 10], [0, 0, 0]], np.uint8)[codes]
    assert np.array_equal(read_pixels(tmp_path / "labels.tif"), colours)
    assert np.array_equal(read_labels(tmp_path / "labels.tif", {0: 1, 1: 0}, void=2), np.array([1, 0, 255])[codes])
    with open_windows(tmp_path / "labels.tif") as image:
        assert np.array_equal(image.read(Box(2, 1, 4, 3)), colours[2:6, 1:4])


def test_tiff_with_white_as_zero_is_inverted(tmp_path):
    for name, pixels, turned in (
        ("eight.tif", GREY8, 255 - GREY8),
        ("deep.tif", GREY16, 65535 - GREY16),
        ("bits.tif", GREY8 > 99, GREY8 <= 99),
    ):
        tifffile.imwrite(tmp_path / name, pixels, photometric="miniswhite")
        assert np.array_equal(read_pixels(tmp_path / name)[..., 0], turned)
        with open_windows(tmp_path / name) as image:
            assert np.array_equal(image.read(Box(2, 1, 4, 3))[..., 0], turned[2:6, 1:4])


@pytest.mark.parametrize(("name", "mode"), [("inks.jpg", "CMYK"), ("inks.tif", "CMYK"), ("raw.tif", "YCbCr")])
def test_colour_spaces_other_than_grey_palette_and_rgb_are_refused(tmp_path, name, mode):
    Image.fromarray((COLOUR16 >> 8).astype(np.uint8)).convert(mode).save(tmp_path / name)
    expected = rf"{name}: colours of kind (CMYK|SEPARATED|YCBCR): expected grey, a palette or RGB: save it as RGB$"
    with pytest.raises(ImageError, match=expected):
        read_pixels(tmp_path / name)
    with pytest.raises(ImageError, match=expected), open_windows(tmp_path / name):
        pass


def test_dicom_slope_and_intercept_are_applied(tmp_path):
    stored = RNG.integers(-1000, 2000, (9, 7)).astype(np.int16)
    write_dicom(tmp_path / "ct.dcm", stored, slope=2.5, intercept=-1024)
    assert np.array_equal(read_pixels(tmp_path / "ct.dcm")[..., 0], stored * np.float32(2.5) - 1024)
    write_dicom(tmp_path / "plain.dcm", GREY8, bits=8)
    assert np.array_equal(read_pixels(tmp_path / "plain.dcm")[..., 0], GREY8)
    assert read_size(tmp_path / "plain.dcm") == (9, 7)


def test_dicom_with_white_as_zero_is_inverted(tmp_path):
    write_dicom(tmp_path / "inverted.dcm", GREY8, inverted=True, bits=8)
    assert np.array_equal(read_pixels(tmp_path / "inverted.dcm")[..., 0], 255 - GREY8)
    twelve = (GREY16 >> 4).astype(np.uint16)
    write_dicom(tmp_path / "twelve.dcm", twelve, inverted=True, bits=12)
    assert np.array_equal(read_pixels(tmp_path / "twelve.dcm")[..., 0], 4095 - twelve)


# ---------------------------------------------------------------------------------------------- ranges


def test_neighbouring_16_bit_values_remain_distinct(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    tifffile.imwrite(tmp_path / "every.tif", every)
    found = Reader(1).read(Sample.from_file(tmp_path / "every.tif"))
    assert found.dtype == np.float32
    assert len(np.unique(found)) == 65536
    assert (found.min(), found.max()) == (0, 255)


def test_eight_bit_values_are_not_changed(tmp_path):
    Image.fromarray(GREY8).save(tmp_path / "eight.png")
    found = Reader(1).read(Sample.from_file(tmp_path / "eight.png"))
    assert found.dtype == np.uint8
    assert np.array_equal(found[..., 0], GREY8)


def test_window_is_in_the_units_of_the_file(tmp_path):
    write_dicom(tmp_path / "ct.dcm", np.array([[-2000, -1000], [-300, 400], [500, 0]], np.int16), slope=1)
    found = Reader(1, value_range=(-1000, 400)).read(Sample.from_file(tmp_path / "ct.dcm"))[..., 0]
    assert found == pytest.approx(np.array([[0, 0], [127.5, 255], [255, 255 * 1000 / 1400]]))


def test_percentiles_of_wide_values_are_not_rounded():
    image = np.array([[[100.0], [100.25], [101.0]]], dtype=np.float32)
    assert percentile_normalize(image, (0, 100)).ravel() == pytest.approx([0, 63.75, 255])
    assert percentile_normalize(np.full((2, 2, 1), 7.5, np.float32), (1, 99)).tolist() == [[[0], [0]], [[0], [0]]]


def test_values_without_a_range_are_refused_with_what_to_set(tmp_path):
    np.save(tmp_path / "kelvin.npy", np.full((3, 4), 273.5))
    with pytest.raises(ImageError, match=r"kelvin\.npy: values of float64, 273\.5 to 273\.5.*set data\.window"):
        Reader(1).read(Sample.from_file(tmp_path / "kelvin.npy"))


def test_a_wrong_number_of_channels_is_refused_with_what_to_set(tmp_path):
    np.save(tmp_path / "five.npy", FIVE.transpose(1, 2, 0))
    with pytest.raises(ImageError, match=r"five\.npy: 5 channels, expected 3: set model\.in_channels = 5"):
        Reader(3).read(Sample.from_file(tmp_path / "five.npy"))
    assert Reader(5).read(Sample.from_file(tmp_path / "five.npy")).shape == (9, 7, 5)


def test_previews_of_any_values_are_uint8_with_full_contrast(tmp_path):
    np.save(tmp_path / "five.npy", FIVE.transpose(1, 2, 0).astype(np.float64) - 3000)
    for channels in (1, 3):
        found = preview(tmp_path / "five.npy", channels)
        assert (found.shape, found.dtype) == ((9, 7, channels), np.uint8)
        assert np.ptp(found) == 255


# ---------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("name", ["mask.gif", "mask.png", "mask.tif", "mask.npy"])
@pytest.mark.parametrize("white", [1, 255])
def test_mask_is_one_wherever_the_file_is_not_zero(tmp_path, name, white):
    mask = (GREY8 > 100).astype(np.uint8)
    path = tmp_path / name
    np.save(path, mask * white) if name.endswith("npy") else Image.fromarray(mask * np.uint8(white)).save(path)
    assert np.array_equal(read_mask(path), mask)


def test_palette_png_labels_are_read_by_index(tmp_path):
    codes = RNG.integers(0, 3, (9, 7)).astype(np.uint8)
    save_palette(tmp_path / "labels.png", codes)
    found = read_labels(tmp_path / "labels.png", {0: 1, 1: 0}, void=2)
    assert np.array_equal(found, np.array([1, 0, 255])[codes])


def test_colours_are_read_as_classes(tmp_path):
    colours = np.array([[128, 0, 0], [0, 128, 0], [9, 9, 9]], np.uint8)
    codes = RNG.integers(0, 3, (9, 7))
    Image.fromarray(colours[codes]).save(tmp_path / "labels.png")
    values = {tuple(colour): number for number, colour in enumerate(colours[:2].tolist())}
    found = read_labels(tmp_path / "labels.png", values, void=(9, 9, 9))
    assert np.array_equal(found, np.array([0, 1, 255])[codes])


def test_a_value_missing_from_the_card_is_reported_with_its_position(tmp_path):
    codes = np.zeros((3, 4), np.uint8)
    codes[1, 2] = codes[2, 0] = 7
    Image.fromarray(codes).save(tmp_path / "labels.png")
    with pytest.raises(ImageError, match=r"labels\.png: value 7 at row 1, column 2 \(2 pixels\) is none of the card's"):
        read_labels(tmp_path / "labels.png", {0: 0})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize(
    ("codes", "channels"),
    [
        ({0: 0, 7: 1, 255: 2}, 1),
        ({(0, 0, 0): 3, (1, 2, 3): 0, (3, 2, 1): 1, (255, 255, 255): 2}, 3),
        ({0: 255, (1, 2, 3): 0, (255, 0, 255): 1}, 3),  # void as one value means grey
        ({300: 1, -1: 2, 7: 0}, 1),
        ({(300, 0, 0): 1, (1, 2, 3): 0}, 3),
    ],
)
def test_values_become_class_numbers_as_in_a_loop_over_them(dtype, codes, channels):
    rng = np.random.default_rng(0)
    values = np.array([np.broadcast_to(value, channels) for value in (*codes, 9)]).clip(0, 255).astype(dtype)
    pixels = values[rng.integers(0, len(values), (20, 30))]
    numbers, known = _numbers_of(pixels, codes)
    for row, column in np.ndindex(20, 30):
        found = [number for value, number in codes.items() if (pixels[row, column] == value).all()]
        assert bool(found) == known[row, column]
        assert not found or found == [numbers[row, column]]


# ---------------------------------------------------------------------------------------------- damage


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("truncated.tif", lambda path: tifffile.imwrite(path, RNG.integers(0, 255, (64, 64)).astype(np.uint8))),
        ("truncated.png", lambda path: Image.fromarray(RNG.integers(0, 255, (64, 64)).astype(np.uint8)).save(path)),
        ("truncated.npy", lambda path: np.save(path, RNG.integers(0, 255, (64, 64)))),
        ("truncated.dcm", lambda path: write_dicom(path, RNG.integers(0, 255, (64, 64)).astype(np.uint8), bits=8)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_truncated_file_is_reported_and_not_read_partially(tmp_path, name, write):
    write(tmp_path / name)
    truncate(tmp_path / name)
    with pytest.raises(ImageError, match=rf"{name}: .*get the file again") as error:
        read_pixels(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_dicom_without_pixels_is_reported(tmp_path):
    write_dicom(tmp_path / "empty.dcm", GREY8, bits=8)
    header = pydicom.dcmread(tmp_path / "empty.dcm")
    del header.PixelData
    header.save_as(tmp_path / "empty.dcm")
    with pytest.raises(ImageError, match=r"empty\.dcm: cannot be read, a DICOM without pixel data"):
        read_pixels(tmp_path / "empty.dcm")


@pytest.mark.parametrize("name", ["text.tif", "text.dcm", "text.npy", "text.png"])
def test_text_files_and_missing_files_are_reported(tmp_path, name):
    with pytest.raises(ImageError, match=rf"{name}: no such image"):
        read_size(tmp_path / name)
    (tmp_path / name).write_text("no image")
    with pytest.raises(ImageError, match=rf"{name}: not an image \(8 bytes\): get the file again"):
        read_pixels(tmp_path / name)


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("pydicom", "imagecodecs")))  # None: as if not installed
from pathlib import Path
from pipeline.data import formats, reader
for name in sys.argv[1:]:
    try:
        formats.read_pixels(Path(name))
    except reader.ImageError as error:
        print(error)
    else:
        print(name, "read")
"""


@pytest.mark.slow
def test_a_missing_optional_package_is_named_when_a_file_needs_it(tmp_path):
    tifffile.imwrite(tmp_path / "plain.tif", GREY16)
    tifffile.imwrite(tmp_path / "lzw.tif", GREY16, compression="lzw")
    write_dicom(tmp_path / "grey.dcm", GREY8, bits=8)
    command = [sys.executable, "-c", WITHOUT, *(str(tmp_path / name) for name in ("plain.tif", "lzw.tif", "grey.dcm"))]
    plain, lzw, dicom = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert plain.endswith("plain.tif read")
    assert re.search(r"lzw\.tif: cannot be read, .*imagecodecs.*: pip install imagecodecs$", lzw)
    assert dicom.endswith("grey.dcm: a DICOM needs a package that is not installed: pip install pydicom")


def test_a_compressed_dicom_without_its_decoder_names_the_package_to_install(tmp_path):
    write_dicom(tmp_path / "lossless.dcm", GREY8, bits=8)
    header = pydicom.dcmread(tmp_path / "lossless.dcm")
    header.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    header.PixelData = encapsulate([GREY8.tobytes()])
    header.save_as(tmp_path / "lossless.dcm")
    with pytest.raises(ImageError, match=r"lossless\.dcm: cannot be read, .*: pip install pylibjpeg") as error:
        read_pixels(tmp_path / "lossless.dcm")
    assert "get the file again" not in str(error.value)


def test_pickled_array_is_not_unpickled(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match=r"pickled\.npy: an array of object: expected numbers"):
        read_pixels(tmp_path / "pickled.npy")


# ---------------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize("strength", STRENGTHS)
def test_float_images_of_many_channels_are_augmented_within_their_range(strength):
    image = RNG.uniform(0, 255, (40, 48, 8)).astype(np.float32)
    mask = RNG.integers(0, 2, (40, 48, 1)).astype(np.uint8)
    for seed in range(8):
        augmented, target = Augment(make_recipe(strength, 32, 8))(image, mask, seed)
        assert (augmented.shape, augmented.dtype) == ((32, 32, 8), np.float32)
        assert 0 <= augmented.min() <= augmented.max() <= 255.01
        assert target.shape == (32, 32, 1)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_float_values_are_augmented_like_uint8_values(strength):
    image = RNG.integers(0, 256, (40, 48, 3)).astype(np.uint8)
    mask = (image[..., :1] > 128).astype(np.uint8)
    for seed in range(6):
        narrow, target = Augment(make_recipe(strength, 32, 3))(image, mask, seed)
        wide, same = Augment(make_recipe(strength, 32, 3))(image.astype(np.float32), mask, seed)
        assert np.array_equal(target, same)
        assert np.median(np.abs(wide - narrow)) < 3


# ---------------------------------------------------------------------------------------------- content, not name


@pytest.mark.parametrize(
    ("name", "written"),
    [("grey.png", "a.tif"), ("grey.jpg", "a.png"), ("tiles.tif", "a.png"), ("grey.npy", "a.dcm"), ("grey.dcm", "a")],
)
def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path, name, written):
    expected = read_pixels(odd_images.write(name, tmp_path))
    (tmp_path / name).rename(tmp_path / written)
    assert np.array_equal(read_pixels(tmp_path / written), expected)
    assert read_size(tmp_path / written) == expected.shape[:2]
    with open_windows(tmp_path / written) as image:
        assert np.array_equal(image.read(Box(3, 5, 20, 9)), expected[3:23, 5:14])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a pointer of Git LFS: get the file itself"),
        (b"<!DOCTYPE html><title>log in</title>", "a web page or XML: get the file again"),
        (b"PK\x03\x04", "a ZIP archive: unpack it"),
        (b"\0\0\0\x18ftypheic", "HEIC: save it as PNG or JPEG"),
    ],
)
def test_a_file_of_another_type_is_named_with_its_type(tmp_path, content, said):
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_pixels, read_size):
        with pytest.raises(ImageError, match=rf"a\.png: not an image but {said}"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [12, 16])
def test_an_inverted_dicom_of_signed_values_is_inverted_within_its_range(tmp_path, bits):
    stored = RNG.integers(-(1 << bits - 1), 1 << bits - 1, (9, 7)).astype(np.int16)
    write_dicom(tmp_path / "a.dcm", stored, inverted=True, bits=bits)
    assert np.array_equal(read_pixels(tmp_path / "a.dcm")[..., 0], -1 - stored)


def test_slices_of_a_volume_are_read_as_images(tmp_path):
    volume = RNG.integers(-900, 900, (7, 9, 5)).astype(np.int16)  # columns, rows, slices
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
    files = find_files(tmp_path, ".nii") | find_files(tmp_path, ".nii.gz")
    assert sorted(files) == [f"{name}_{number:03}" for name in "ab" for number in range(5)]
    for image_id, path in files.items():
        assert np.array_equal(read_pixels(path)[..., 0], volume[..., int(image_id[-3:])].T)
        assert read_size(path) == (9, 7)
    with pytest.raises(ImageError, match=r"a\.nii: a NIfTI volume is read slice by slice"):
        read_pixels(tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"slice 5 of 5: expected 0 to 4"):
        read_pixels(tmp_path / "a.nii" / "005")


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"version https://git-lfs"], ids=["empty", "other", "pointer"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_damaged_volume_is_refused_when_its_slices_are_listed(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\{suffix}: cannot be read, .*get the file again"):
        find_files(tmp_path, suffix)


def test_a_compressed_volume_is_unpacked_once_for_its_slices_and_not_for_sizes(tmp_path, monkeypatch):
    for name in ("images", "masks"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((7, 9, 5), np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    volumes = [tmp_path / f"{name}.nii.gz" for name in ("images", "masks")]
    medical._volume.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"all of {path} is read"))
        assert {read_size(volume / f"{number:03}") for number in range(5) for volume in volumes} == {(9, 7)}
    for number in range(5):  # an image and its mask, as training reads them
        for volume in volumes:
            read_pixels(volume / f"{number:03}")
    assert medical._volume.cache_info().misses == 2


def test_slope_and_intercept_of_a_volume_are_applied(tmp_path):
    volume = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.eye(4))
    volume.header.set_slope_inter(2, -1000)
    nibabel.save(volume, tmp_path / "ct.nii")
    raw = nibabel.load(tmp_path / "ct.nii")
    found = read_pixels(tmp_path / "ct.nii" / "001")
    assert found == pytest.approx(raw.get_fdata()[..., 1].T[..., None])


# ---------------------------------------------------------------------------------------------- as it is seen

SEEN = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, 3),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_exif_orientation_is_applied_unless_disabled(tmp_path, name, orientation):
    stored = odd_images.COLOUR
    if name == "a.tif":
        tifffile.imwrite(tmp_path / name, stored, photometric="rgb", extratags=[(274, 3, 1, orientation)])
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / name, exif=exif, **{"lossless": True} if name == "a.webp" else {})
    for exif, expected in ((True, SEEN[orientation](stored)), (False, stored)):
        assert np.array_equal(read_pixels(tmp_path / name, exif=exif), expected)
        assert read_size(tmp_path / name, exif=exif) == expected.shape[:2]
        with open_windows(tmp_path / name, exif=exif) as image:
            assert np.array_equal(image.read(Box(2, 4, 20, 17)), expected[2:22, 4:21])
    sample, seen = Sample.from_file(tmp_path / name), SEEN[orientation](stored)
    assert np.array_equal(Reader(3, exif=False).read(sample), stored)
    assert Reader(3).read(sample).shape[:2] == Reader(3).size(sample) == seen.shape[:2]


def test_exif_orientation_is_applied_like_in_pillow_and_opencv(tmp_path):
    path = odd_images.write("turned.jpg", tmp_path)
    assert np.array_equal(read_pixels(path), np.asarray(ImageOps.exif_transpose(Image.open(path))))
    assert read_pixels(path).shape == cv2.imread(str(path)).shape == odd_images.COLOUR.shape


def test_an_orientation_after_the_pixels_of_a_png_is_applied(tmp_path):
    stored = odd_images.COLOUR
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    exif = Image.Exif()
    exif[0x0112] = 6
    header = struct.pack(">IIBBBBB", stored.shape[1], stored.shape[0], 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"eXIf", exif.tobytes()[6:])
    odd_images.write_png(tmp_path / "late.png", *chunks)
    assert np.array_equal(read_pixels(tmp_path / "late.png"), SEEN[6](stored))
    assert read_size(tmp_path / "late.png") == SEEN[6](stored).shape[:2]


def test_the_size_of_a_png_is_read_from_its_header_only(tmp_path, monkeypatch):
    stored = odd_images.COLOUR
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in stored))
    header = struct.pack(">IIBBBBB", stored.shape[1], stored.shape[0], 8, 2, 0, 0, 0)
    pieces = [(b"IDAT", rows[place : place + 1]) for place in range(len(rows))]
    odd_images.write_png(tmp_path / "many.png", (b"IHDR", header), *pieces)
    walked = []
    chunks = formats._png_chunks
    monkeypatch.setattr(formats, "_png_chunks", lambda file: (walked.append(each) or each for each in chunks(file)))
    assert read_size(tmp_path / "many.png") == stored.shape[:2]
    assert len(walked) <= 2 < len(pieces)


# ---------------------------------------------------------------------------------------------- declared sizes


def _write_huge_header(path, name, write):
    write(path)
    content = bytearray(path.read_bytes())
    huge = 65500
    match name:
        case "jpg":
            place = content.index(b"\xff\xc0") + 5
            content[place : place + 4] = struct.pack(">HH", huge, huge)
        case "png":
            content[16:24] = struct.pack(">II", huge, huge)
            content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
        case "bmp":
            content[18:26] = struct.pack("<ii", huge, huge)
        case "gif":
            content[6:10] = struct.pack("<HH", huge, huge)
        case "npy":
            header = io.BytesIO()
            shape = {"descr": "|u1", "fortran_order": False, "shape": (9_000_000, 7_000_000)}
            np.lib.format.write_array_header_1_0(header, shape)
            content = header.getvalue() + bytes(content[-63:])
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["jpg", "png", "bmp", "gif", "npy"])
def test_a_header_with_a_size_beyond_the_file_is_refused_before_memory_is_allocated(tmp_path, name):
    path = tmp_path / f"a.{name}"
    _write_huge_header(
        path, name, lambda path: np.save(path, GREY8) if name == "npy" else Image.fromarray(GREY8).save(path)
    )
    tracemalloc.start()
    for read in (
        read_pixels,
        lambda path: preview(path, 1),
        lambda path: read_mask(path, above=9),
    ):
        with pytest.raises(ImageError, match=rf"a\.{name}: cannot be read, .*(declares|expected)"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "jpeg"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_tiff_with_a_size_beyond_its_data_is_refused(tmp_path, compression, tile):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY8.repeat(4, 0), compression=compression, tile=tile, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(60000)
    for read in (read_pixels, lambda path: preview(path, 1), by_window):
        with pytest.raises(ImageError, match=r"a\.tif: "):
            read(path)


def test_an_image_that_does_not_fit_into_memory_is_refused_with_what_to_do(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((8200, 8200), np.uint8)).save(tmp_path / "large.png")
    assert read_pixels(tmp_path / "large.png").shape == (8200, 8200, 1)
    monkeypatch.setattr(rasters, "free_memory", lambda: 100 << 20)
    with pytest.raises(ImageError, match=r"large\.png: its 64\.1 MiB of pixels do not fit .* \(predict\.tiles"):
        read_pixels(tmp_path / "large.png")
    assert read_size(tmp_path / "large.png") == (8200, 8200), "a size takes no memory"


def test_free_memory_is_positive_and_at_most_the_physical_memory():
    assert 0 < rasters.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
