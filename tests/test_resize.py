"""Images and masks at another size: exact values, windows that equal the whole, levels of a pyramid."""

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import config
from pipeline.config import Size
from pipeline.data.crops import crop_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.resize import Resampling, Resize, resize_image
from pipeline.data.sample import Sample, samples_of
from pipeline.data.targets import read_target, resize_mask, small_objects, target_window
from pipeline.data.windows import Box
from pipeline.metrics import VOID

HALF = Resize(Size(factor=0.5))
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def random_pixels(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("resize", "size", "target"),
    [
        (Resize(), (256, 1600), (256, 1600)),
        (Resize(Size(longest=800)), (256, 1600), (128, 800)),
        (Resize(Size(longest=768)), (1601, 300), (768, 144)),
        (Resize(Size(shortest=512)), (256, 1600), (512, 3200)),
        (Resize(Size(exact=(320, 480))), (7, 9), (320, 480)),
        (Resize(Size(factor=0.5)), (101, 50), (51, 25)),
        (Resize(Size(factor=0.01)), (8, 300), (1, 3)),
        (Resize(Size(exact=(320, 480)), 1.2), (7, 9), (384, 576)),
        (Resize(None, 1.5), (101, 50), (152, 75)),
    ],
)
def test_the_size_of_the_networks_image_by_hand(resize, size, target):
    assert resize.target(size) == target


@given(size=st.tuples(st.integers(1, 9999), st.integers(1, 9999)), side=st.integers(8, 4096))
def test_the_longest_and_the_shortest_side_are_exact(size, side):
    assert max(Resize(Size(longest=side)).target(size)) == side
    assert min(Resize(Size(shortest=side)).target(size)) == side


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("768", r"data\.size: 768: expected one of \{ longest = 768 \}"),
        ("{}", r"data\.size: .*no key: expected exactly one of \{ longest = 768 \}"),
        ("{longest=768,factor=0.5}", r"data\.size: .*longest and factor: expected exactly one of"),
        ("{exact=256}", r"data\.size\.exact"),
        ("{exact=[256]}", r"data\.size\.exact"),
        ("{longest=4}", r"data\.size\.longest"),
        ("{factor=0}", r"data\.size\.factor"),
        ("{longst=768}", r"longst.*longest"),
    ],
)
def test_wrong_forms_of_a_size_are_refused_in_one_line(tiny, value, message):
    with pytest.raises(ValueError, match=message) as error:
        config.load("configs/tiny.toml", [f"data.size={value}"])
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- images


def test_pixels_of_half_an_image_are_the_means_of_four():
    pixels = random_pixels((6, 8, 3), np.float32)
    expected = pixels.reshape(3, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(resize_image(pixels, (3, 4)), expected)


def test_a_pixel_is_the_mean_of_the_part_of_the_axis_that_it_covers():
    row = np.array([30, 60, 90, 120, 150], np.float32).reshape(1, 5, 1)
    # Five pixels on two: 2.5 each. 30 + 60 + 90/2 = 135, 90/2 + 120 + 150 = 315.
    np.testing.assert_allclose(resize_image(row, (1, 2))[0, :, 0], [135 / 2.5, 315 / 2.5])


def test_an_axis_that_grows_is_bilinear_and_the_other_one_is_judged_apart():
    pixels = np.array([[0, 80], [40, 120]], np.float32)[..., None]
    # Rows: the mean of both. Columns: centres at .25, .75, 1.25, 1.75 of two pixels whose centres are .5 and 1.5.
    np.testing.assert_allclose(resize_image(pixels, (1, 4))[0, :, 0], [20, 40, 80, 100])


def test_8_bits_are_rounded_to_the_nearest():
    pixels = np.array([[10, 11, 11, 11]], np.uint8)[..., None]
    assert resize_image(pixels, (1, 1)).tolist() == [[[11]]]  # 10.75


@settings(deadline=None)
@given(source=SIZES, target=SIZES)
def test_shrinking_equals_opencv_by_area(source, target):
    target = tuple(map(min, zip(source, target, strict=True)))
    pixels = random_pixels((*source, 3), np.float32)
    expected = cv2.resize(pixels, target[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resize_image(pixels, target), expected.reshape(*target, 3), atol=0.01)


@settings(deadline=None)
@given(source=SIZES, more=SIZES)
def test_growing_equals_opencv_bilinear(source, more):
    target = tuple(map(sum, zip(source, more, strict=True)))
    pixels = random_pixels((*source, 3), np.float32)
    expected = cv2.resize(pixels, target[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_image(pixels, target), expected.reshape(*target, 3), atol=0.01)


def boxes(size, seed, count=4):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        top, left = (int(rng.integers(length)) for length in size)
        yield Box(top, left, int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1)))


@settings(deadline=None)
@given(source=SIZES, target=SIZES, seed=st.integers(0, 99), dtype=st.sampled_from([np.uint8, np.float32]))
def test_a_box_of_a_resized_image_equals_the_whole_bit_for_bit(source, target, seed, dtype):
    pixels = random_pixels((*source, 2), dtype, seed)
    whole, resampling = resize_image(pixels, target), Resampling(source, target)
    for box in boxes(target, seed):
        place = resampling.source_box(box)
        np.testing.assert_array_equal(resampling.resize(pixels[place.slices], place, box), whole[box.slices])


@pytest.mark.parametrize("factor", [0.5, 0.37, 1.6])
def test_windows_of_a_tiled_tiff_equal_the_resized_image(tmp_path, factor):
    pixels = random_pixels((301, 203, 3))
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), photometric="rgb", compression="deflate")
    reader, sample = Reader(3, resize=Resize(Size(factor=factor))), Sample.from_file(tmp_path / "a.tif")
    whole = reader.read(sample)
    assert whole.shape[:2] == reader.target(sample) == reader.resize.target((301, 203))
    with reader.open_windows(sample) as image:
        assert image.shape == whole.shape[:2]
        for box in [*boxes(image.shape, 0, 20), Box(0, 0, *image.shape)]:
            np.testing.assert_array_equal(image.read(box), whole[box.slices])


def test_reading_a_window_decodes_only_the_rows_of_a_band_at_once():
    class Counted:
        shape, largest = (4096, 4096), 0

        def read(self, box):
            self.largest = max(self.largest, box.height * box.width)
            return np.zeros((box.height, box.width, 1), np.uint8)

    from pipeline.data.resize import BAND, ResizedWindows

    image = Counted()
    assert ResizedWindows(image, (512, 512)).read(Box(0, 0, 512, 64)).shape == (512, 64, 1)
    assert image.largest <= (BAND + 1) * 8 * (64 + 1) * 8


def test_values_are_scaled_before_images_are_resized_and_pictures_keep_the_size_of_the_file(tmp_path):
    pixels = random_pixels((40, 60), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    plain, half = Reader(1, (1, 99)), Reader(1, (1, 99), resize=HALF)
    sample = Sample.from_file(tmp_path / "a.png")
    np.testing.assert_array_equal(half.read(sample), resize_image(plain.read(sample), (20, 30)))
    np.testing.assert_array_equal(half.picture(sample), plain.picture(sample))


# ---------------------------------------------------------------------------------------------- pyramids


def write_pyramid(path, fine, levels=(2, 4)):
    """A tiled TIFF with smaller copies, whose pixels are means of the full size's."""
    with tifffile.TiffWriter(path) as file:
        options = {"tile": (32, 32), "photometric": "minisblack", "compression": "deflate"}
        file.write(fine, subifds=len(levels), **options)
        for level in levels:
            size = tuple(length // level for length in fine.shape)
            small = resize_image(fine[..., None], size)[..., 0]
            file.write(small, subfiletype=1, **options)


@pytest.fixture
def bytes_read(monkeypatch):
    """The sum of the bytes of tiles and strips that are read from TIFFs."""
    from tifffile import FileHandle

    counted, read = [], FileHandle.read

    def count(self, size=-1, /):
        found = read(self, size)
        counted.append(len(found))
        return found

    monkeypatch.setattr(FileHandle, "read", count)
    return counted


@pytest.mark.parametrize(("factor", "share"), [(0.5, 1 / 4), (0.25, 1 / 16), (0.3, 1 / 4), (0.7, 1)])
def test_the_smallest_level_of_a_pyramid_that_is_large_enough_is_read(tmp_path, bytes_read, factor, share):
    write_pyramid(tmp_path / "a.tif", random_pixels((512, 384)))
    sample, read = Sample.from_file(tmp_path / "a.tif"), {}
    for name, resize in (("full", Resize()), ("small", Resize(Size(factor=factor)))):
        bytes_read.clear()
        with Reader(1, resize=resize).open_windows(sample) as image:
            image.read(Box(0, 0, *image.shape))
        read[name] = sum(bytes_read)
    assert read["small"] == pytest.approx(share * read["full"], rel=0.15)


def test_a_level_of_the_wanted_size_is_returned_as_it_is_by_window_and_whole(tmp_path):
    fine, level = random_pixels((64, 48)), random_pixels((32, 24), seed=1)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(fine, tile=(16, 16), subifds=1, photometric="minisblack")
        file.write(level, tile=(16, 16), subfiletype=1, photometric="minisblack")
    sample, reader = Sample.from_file(tmp_path / "a.tif"), Reader(1, resize=HALF)
    np.testing.assert_array_equal(reader.read(sample)[..., 0], level)
    np.testing.assert_array_equal(reader.window(sample, Box(3, 5, 20, 10))[..., 0], level[3:23, 5:15])
    np.testing.assert_array_equal(Reader(1).read(sample)[..., 0], fine)


@pytest.mark.parametrize("factor", [0.3, 0.11])
def test_windows_between_the_levels_of_a_pyramid_equal_the_whole_image(tmp_path, factor):
    write_pyramid(tmp_path / "a.tif", random_pixels((507, 389)))
    reader, sample = Reader(1, resize=Resize(Size(factor=factor))), Sample.from_file(tmp_path / "a.tif")
    whole = reader.read(sample)
    with reader.open_windows(sample) as image:
        for box in boxes(image.shape, 0, 20):
            np.testing.assert_array_equal(image.read(box), whole[box.slices])


@pytest.mark.parametrize(
    ("shape", "dtype", "photometric"),
    [
        ((32, 40), np.uint8, "minisblack"),
        ((32, 32), np.uint16, "minisblack"),
        ((32, 32), np.uint8, "miniswhite"),
        ((32, 32, 3), np.uint8, "rgb"),
    ],
)
def test_a_smaller_copy_of_another_shape_or_meaning_is_no_level(tmp_path, shape, dtype, photometric):
    fine, path = random_pixels((64, 64)), tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(fine, tile=(32, 32), subifds=1, photometric="minisblack")
        file.write(random_pixels(shape, dtype, 1), tile=(32, 32), subfiletype=1, photometric=photometric)
    with tifffile.TiffFile(path) as file:
        assert len(file.series[0].levels) == 2, "tifffile calls it a level"
    expected = resize_image(fine[..., None], (32, 32))
    np.testing.assert_array_equal(Reader(1, resize=HALF).read(Sample.from_file(path)), expected)


def test_a_pyramid_that_is_stored_rotated_is_read_at_full_size(tmp_path):
    fine = random_pixels((64, 64))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        turned = [(0x0112, 3, 1, 6, True)]  # shown after a quarter turn clockwise; the level does not say so
        file.write(fine, tile=(32, 32), subifds=1, photometric="minisblack", extratags=turned)
        file.write(fine[::2, ::2], tile=(32, 32), subfiletype=1, photometric="minisblack")
    expected = resize_image(np.rot90(fine, -1)[..., None], (32, 32))
    np.testing.assert_array_equal(Reader(1, resize=HALF).read(Sample.from_file(tmp_path / "a.tif")), expected)


# ---------------------------------------------------------------------------------------------- masks


def mask_of(*rows):
    """A mask of one channel from rows of digits; "v" is ignored."""
    return np.array([[VOID if each == "v" else int(each) for each in row] for row in rows], np.uint8)[..., None]


def half_of(*rows, exclusive=False):
    mask = mask_of(*rows)
    resized = resize_mask(mask, tuple(length // 2 for length in mask.shape[:2]), exclusive=exclusive)
    return ["".join("v" if each == VOID else str(each) for each in row) for row in resized[..., 0]]


def test_a_pixel_is_masked_if_half_of_it_is():
    assert half_of("11000000", "11000000", "10000000", "00000000") == ["1000", "0000"], "a quarter is not enough"
    assert half_of("11100000", "11100000") == ["1100"]
    assert half_of("11100000", "11000000") == ["1000"]


def test_an_object_of_one_pixel_stays_at_the_pixel_that_contains_it():
    assert half_of("00000000", "00000100", "00000000", "00000000") == ["0010", "0000"]
    single = np.zeros((90, 90, 1), np.uint8)
    single[50, 30] = 1
    for target in ((9, 9), (40, 35), (7, 61), (100, 130)):
        rows, columns, _ = np.nonzero(resize_mask(single, target, exclusive=False))
        assert (rows[0], columns[0]) == (int(50.5 * target[0] / 90), int(30.5 * target[1] / 90))
        assert len(rows) == 1


def test_a_thin_line_stays_connected():
    line = np.zeros((100, 100, 1), np.uint8)
    line[np.arange(100), np.arange(100)] = 1
    resized = resize_mask(line, (30, 30), exclusive=False)[..., 0]
    assert cv2.connectedComponents(resized, connectivity=8)[0] == 2
    assert (resized.any(axis=0) & resized.any(axis=1)).all(), "it still goes from corner to corner"


def test_outlines_of_large_objects_are_not_widened_by_the_rule_for_small_ones():
    rows, columns = np.ogrid[:200, :200]
    disc = ((rows - 100) ** 2 + (columns - 97) ** 2 < 60**2).astype(np.uint8)[..., None]
    for target in ((70, 70), (33, 50), (300, 260)):
        assert resize_mask(disc, target, exclusive=False).mean() == pytest.approx(disc.mean(), rel=0.015)


@settings(deadline=None)
@given(source=SIZES, target=SIZES, seed=st.integers(0, 999))
def test_a_mask_is_empty_after_resizing_only_if_it_was_before(source, target, seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((*source, 2)) < rng.choice([0, 0.01, 0.5])).astype(np.uint8)
    resized = resize_mask(mask, target, exclusive=False)
    assert resized.shape == (*target, 2)
    assert (resized.any(axis=(0, 1)) == mask.any(axis=(0, 1))).all()


def test_ignored_pixels_do_not_count_and_stay_ignored_where_they_are_the_most():
    assert half_of("vv00", "v000") == ["v0"]
    assert half_of("v100", "v000") == ["10"], "half of the pixel is known, and half of that is masked"
    assert half_of("v000", "v000") == ["00"]
    assert half_of("v111", "v011") == ["11"], "the same beside a larger object"
    assert half_of("vv00", "v100") == ["10"], "the only masked pixel"


def test_an_exclusive_class_of_one_pixel_stays_and_others_go_by_their_share():
    assert half_of("0011", "0111", "0011", "0012", exclusive=True) == ["01", "02"]
    assert half_of("0101", "1010", exclusive=True) == ["00"], "equal shares and numbers of pixels: the lower number"
    assert half_of("vv01", "v111", exclusive=True) == ["v0"], "the only pixel of class 0"
    assert half_of("vv11", "vv11", exclusive=True) == ["v1"]


def test_a_class_that_is_all_ignored_stays_so():
    assert (resize_mask(np.full((6, 6, 1), VOID, np.uint8), (3, 4), exclusive=True) == VOID).all()


def test_masks_of_probabilities_learned_at_another_size_come_back_to_their_place():
    """The outlines of image and mask lie at the same place after resizing: no shift by half a pixel."""
    image = np.zeros((120, 80, 1), np.float32)
    image[30:75, 21:52] = 255
    for target in ((60, 40), (47, 31), (180, 200)):
        resized = resize_image(image, target)[..., 0] > 127.4
        mask = resize_mask((image > 0).astype(np.uint8), target, exclusive=False)[..., 0]
        assert (resized == mask).mean() > 0.995


@pytest.fixture
def labelled(tmp_path, card):
    """A tiled TIFF of 100 × 130 pixels with discs and single pixels, as a sample, and the labels."""
    from pipeline import rle

    rng = np.random.default_rng(5)
    mask = (rng.random((100, 130)) < 0.01).astype(np.uint8)
    cv2.circle(mask, (60, 40), 17, 1, -1)
    image = rng.integers(0, 100, mask.shape).astype(np.uint8) + 100 * mask
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(16, 16), photometric="minisblack")
    return Sample("a", (tmp_path / "a.tif",), mask.shape, (rle.encode(mask),)), Labels.of(card), mask


@pytest.mark.parametrize("factor", [0.5, 0.37, 1.3])
def test_a_window_of_a_target_equals_the_resized_mask(labelled, factor):
    sample, labels, mask = labelled
    resize = Resize(Size(factor=factor))
    whole = read_target(labels, sample, resize)
    np.testing.assert_array_equal(whole, resize_mask(mask[..., None], resize.target(mask.shape), exclusive=False))
    for box in boxes(whole.shape[:2], 1, 30):
        np.testing.assert_array_equal(target_window(labels, sample, box, resize), whole[box.slices])


def test_crops_are_windows_of_the_resized_image_and_mask(labelled):
    import pandas as pd

    sample, labels, mask = labelled
    row = {"image_id": "a", "path": sample.path, "height": 100, "width": 130, "rle": sample.rle[0]}
    index = pd.DataFrame([row | {"coverage": mask.mean(), "empty": "no"}])
    reader = Reader(1, resize=HALF)
    crops = crop_index(index, labels, config.Crops(size=24, stride=16), HALF)
    assert {(box.height, box.width) for box in crops["box"]} == {(24, 24)}
    assert sorted({box.left for box in crops["box"]}) == [0, 16, 32, 41], "of 65 columns"
    whole, target = reader.read(sample), read_target(labels, sample, HALF)
    for row, each in zip(crops.itertuples(), samples_of(crops), strict=True):
        np.testing.assert_array_equal(reader.read(each), whole[row.box.slices])
        np.testing.assert_array_equal(read_target(labels, each, HALF), target[row.box.slices])
        assert row.coverage == pytest.approx(target[row.box.slices].mean())


def test_objects_smaller_than_a_pixel_are_counted_by_hand():
    mask = np.zeros((20, 20, 1), np.uint8)
    mask[0, 0] = mask[5, 5:7] = 1  # areas 1 and 2
    mask[10:12, 10:12] = 1  # 4
    assert small_objects(mask, (10, 10), exclusive=False) == (2, 3, False)  # a pixel covers 4
    assert small_objects(mask, (8, 10), exclusive=False) == (3, 3, True)  # 5
    assert small_objects(mask, (20, 20), exclusive=False) == (0, 3, False)
    assert small_objects(mask * 0, (5, 5), exclusive=False) == (0, 0, False)
    assert small_objects(mask, (10, 10), exclusive=True) == (2, 4, False), "the background is a class"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_an_image_that_is_stored_rotated_is_resized_as_it_is_shown(tmp_path, suffix):
    pixels = np.add.outer(np.arange(0, 240, 6), np.arange(0, 120, 4)).astype(np.uint8)[..., None]  # 40 × 30
    if suffix == ".jpg":
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn clockwise
        Image.fromarray(np.rot90(pixels[..., 0])).save(tmp_path / "a.jpg", exif=exif, quality=100)
    else:
        turned = np.ascontiguousarray(np.rot90(pixels[..., 0]))
        tifffile.imwrite(
            tmp_path / "a.tif", turned, tile=(16, 16), photometric="minisblack", extratags=[(0x0112, 3, 1, 6, True)]
        )
    reader, sample = Reader(1, resize=Resize(Size(exact=(20, 30)))), Sample.from_file(tmp_path / f"a{suffix}")
    found = reader.read(sample)
    assert found.shape == (20, 30, 1)
    assert np.abs(found.astype(int) - resize_image(pixels, (20, 30))).max() <= 3
    np.testing.assert_array_equal(reader.window(sample, Box(3, 4, 9, 20)), found[3:12, 4:24])
