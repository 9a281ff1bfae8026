"""The fingerprint: values that were worked out by hand, on images and masks that were planted."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import competition, rle
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.rasters import Raster
from pipeline.data.sample import Sample
from pipeline.planning import fingerprint, image_measures
from pipeline.planning.fingerprint import Quantiles, measure
from pipeline.planning.fingerprint_table import fingerprint_rows
from pipeline.planning.image_measures import spread

CARD = """
name = "planted"
title = "Planted"
classes = ["thing"]
metric = "mean_dice"

[files]
train_images = "train"
test_images = "test"
train_csv = "train.csv"

[columns]
id = "id"
rle = "rle"
"""


def apart(index, test_index):
    """Both indices with groups of their own, for the comparison of training with test images."""
    return [
        rows.assign(compared_group=[f"{part} {image_id}" for image_id in rows["image_id"]])
        for part, rows in (("train", index), ("test", test_index))
    ]


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """A function that writes images and masks, (N, H, W) or (N, H, W, 3) each, and measures them."""
    monkeypatch.chdir(tmp_path)

    def write(images, masks, card=CARD, test=()):
        for part, some in (("train", images), ("test", test)):
            Path(part).mkdir()
            for number, image in enumerate(some):
                Image.fromarray(image).save(f"{part}/{number:03}.png")
        texts = []
        for number, objects in enumerate(masks):
            each = objects if isinstance(objects, list) else [objects]
            texts += [f"{number:03},{rle.encode(mask)}" for mask in each]
        Path("train.csv").write_text("\n".join(["id,rle", *texts]) + "\n")
        Path("sample_submission.csv").write_text("\n".join(["id,rle", *(f"{n:03}," for n in range(len(test)))]) + "\n")
        Path("card.toml").write_text(card)
        loaded = competition.load("card.toml")
        index, test_index = read_index(loaded, Path()), read_test_index(loaded, Path())
        return measure(loaded, *apart(index, test_index), Labels.of(loaded))

    return write


def grey(*levels, shape=(16, 20)):
    return [np.full(shape, level, np.uint8) for level in levels]


def box(top, left, height, width, shape=(16, 20)):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def test_sizes_are_those_of_all_headers(plant):
    images = [np.zeros(shape, np.uint8) for shape in ((16, 20), (16, 20), (30, 10))]
    found = plant(images, [np.zeros(each.shape, np.uint8) for each in images[:2]] + [box(0, 0, 1, 1, (30, 10))])
    assert (found.images, found.sizes) == (3, 2)
    assert (found.shorter.smallest, found.shorter.median, found.shorter.largest) == (10, 16, 16)
    assert (found.longer.smallest, found.longer.median, found.longer.largest) == (20, 20, 30)


def test_grey_stored_as_colour_is_told_from_colour(plant):
    level = np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8)
    same, colour = np.dstack([level] * 3), np.dstack([level, level, 255 - level])
    found = plant([same, same, same, colour], [box(0, 0, 2, 2)] * 4)
    assert (found.channels, found.equal_channels) == (3, 0.75)


def test_intensities_by_hand(plant):
    # All pixels of an image have one value, so both percentiles of an image are that value.
    found = plant(grey(10, 20, 60), [box(0, 0, 16, 20), box(0, 0, 0, 0), box(0, 0, 0, 0)])
    assert (found.dtype, found.lowest.median, found.highest.largest) == ("uint8", 20, 60)
    assert found.values == (10, 60)
    assert found.masked_values == (10, 10)


def test_pixels_without_a_measurement_are_in_no_intensity():
    pixels = np.array([[-32768, 100, 300], [200, 100, -32768]], np.int16)[..., None]
    sample = Sample("a", (Path("a.npy"),), size=(2, 3))
    found = image_measures.describe_image(Raster(pixels), np.ones((2, 3, 1), np.uint8), sample)
    assert (found.dtype, found.nodata_values, found.is_finite) == ("int16", (-32768,), False)
    assert (found.low, found.high) == (100, pytest.approx(300, abs=1))
    assert sorted(found.values) == sorted(found.masked) == [100, 100, 200, 300]


def test_objects_by_hand(plant):
    # Two components in the first image: 4 × 4 and 1 × 9 pixels; one of 2 × 2 in the second.
    found = plant(grey(0, 0, 0), [box(1, 1, 4, 4) | box(10, 5, 1, 9), box(0, 0, 2, 2), box(0, 0, 0, 0)])
    assert (found.objects.smallest, found.objects.largest) == (1, 2)
    assert (found.extent.smallest, found.extent.median, found.extent.largest) == (2, 4, 9)
    assert found.diameter.largest == pytest.approx(2 * np.sqrt(16 / np.pi))
    assert found.diameter.smallest == pytest.approx(2 * np.sqrt(4 / np.pi))
    assert found.touching is None


def test_components_that_touch_at_a_corner_are_one(plant):
    found = plant(grey(0), [box(0, 0, 2, 2) | box(2, 2, 2, 2)])
    assert (found.objects.median, found.extent.median) == (1, 4)


@pytest.mark.parametrize("width", [2, 4, 6])
def test_the_thickness_of_a_line_is_its_width(plant, width):
    found = plant(grey(0, shape=(64, 200)), [box(20, 0, width, 200, (64, 200))])
    assert found.thickness.median == pytest.approx(width, rel=0.1)


def test_the_thickness_of_a_disc_is_two_thirds_of_its_diameter(plant):
    rows, columns = np.ogrid[:101, :101]
    disc = ((rows - 50) ** 2 + (columns - 50) ** 2 <= 40**2).astype(np.uint8)
    assert plant(grey(0, shape=(101, 101)), [disc]).thickness.median == pytest.approx(80 * 2 / 3, rel=0.05)


def test_coverage_and_empty_images(plant):
    found = plant(grey(0, 0, 0, 0), [box(0, 0, 16, 10), box(0, 0, 4, 20), box(0, 0, 0, 0), box(0, 0, 0, 0)])
    assert found.empty == 0.5
    assert (found.coverage.smallest, found.coverage.largest) == (0.25, 0.5)
    assert found.classes[0].images == 0.5
    assert found.classes[0].pixels == pytest.approx(0.75 / 4)


INSTANCES = CARD.replace('metric = "mean_dice"', 'metric = "dsb_precision"\ninstances = true')


def test_the_share_of_touching_objects(plant):
    # Two touch along a line, two are apart; in the second image one is alone.
    pair, apart = [box(0, 0, 4, 4), box(0, 4, 4, 4)], [box(8, 0, 4, 4), box(8, 10, 4, 4)]
    found = plant(grey(0, 0), [[*pair, *apart], [box(0, 0, 3, 5)]], INSTANCES)
    assert found.touching == pytest.approx(2 / 5)
    assert (found.objects.smallest, found.objects.largest) == (1, 4)
    assert (found.extent.smallest, found.extent.largest) == (4, 5)


def test_objects_that_do_not_touch(plant):
    assert plant(grey(0), [[box(0, 0, 4, 4), box(8, 8, 4, 4)]], INSTANCES).touching == 0


def test_slices_of_a_volume_are_compared_with_the_next_one(plant):
    # Masks of neighbours share half of their pixels, of which each has 8.
    noise = np.random.default_rng(0).integers(0, 256, (16, 20), dtype=np.uint8)
    masks = [box(0, 2 * number, 2, 4) for number in range(4)]
    found = plant(
        [noise] * 4, masks, CARD.replace('metric = "mean_dice"', "metric = \"mean_dice\"\nvolume_pattern = '(0)(.+)'")
    )
    assert (found.neighbours.series, found.neighbours.slices) == (1, 4)
    assert found.neighbours.correlation == pytest.approx(1)
    assert found.neighbours.overlap == pytest.approx(0.5)
    assert (found.groups, found.largest_group) == (1, 4)


def test_few_images_tell_neither_symmetries_nor_a_difference_from_the_test_set(plant):
    found = plant(grey(0, 0), [box(0, 0, 2, 2)] * 2, test=grey(0))
    assert found.symmetries is None
    assert found.shift is None
    assert (found.test_images, found.test_longer.median) == (1, 20)


def layered(rng, shape=(40, 40)):
    """Darker downwards: only the horizontal flip holds."""
    rows = np.mgrid[: shape[0], : shape[1]][0] * (200 / shape[0])
    return (rows + rng.integers(0, 40, shape)).astype(np.uint8)


def test_the_symmetries_that_hold(plant):
    rng = np.random.default_rng(0)
    found = plant([layered(rng) for _ in range(60)], [box(0, 0, 3, 3, (40, 40))] * 60)
    assert found.symmetries == ("flip_horizontal",)


@pytest.mark.parametrize(("thickness", "holding"), [(6, 7), (50, 0)])
def test_slices_of_one_scene_have_the_symmetries_of_their_texture_if_masks_are_fine(
    plant, monkeypatch, thickness, holding
):
    # One scene with a bright corner, seen 24 times: whole images have no symmetry, their parts all.
    monkeypatch.setattr(fingerprint, "TILE", 32)
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 80, (128, 128))
    scene[:25, :15] += 120
    images = [(scene + rng.integers(0, 40, scene.shape)).astype(np.uint8) for _ in range(24)]
    found = plant(images, [box(30, 0, thickness, 128, scene.shape)] * 24)
    assert len(found.symmetries) == holding


def test_a_difference_between_training_and_test_images_is_found(plant):
    rng = np.random.default_rng(0)
    dark, bright = ([rng.integers(low, low + 40, (16, 20)).astype(np.uint8) for _ in range(40)] for low in (0, 90))
    found = plant(dark, [box(0, 0, 2, 2)] * 40, test=bright)
    assert found.shift.differ
    assert found.shift.auc > 0.95


def test_images_are_spread_over_the_ids_and_fewer_if_they_are_large(plant, monkeypatch):
    monkeypatch.setattr(image_measures, "MAX_IMAGES", 4)
    assert plant(grey(*range(10)), [box(0, 0, 2, 2)] * 10).decoded == 4
    index = pd.DataFrame({"image_id": [f"{number:03}" for number in range(100)], "height": 10_000, "width": 10_000})
    monkeypatch.setattr(image_measures, "MIN_IMAGES", 3)
    monkeypatch.setattr(image_measures, "MAX_PIXELS", 2 * image_measures.WHOLE)
    assert spread(index)["image_id"].tolist() == ["000", "050", "099"]


def test_of_an_image_that_is_too_large_the_middle_is_measured(plant, monkeypatch):
    monkeypatch.setattr(image_measures, "WHOLE", 64)  # 8 × 8 of 16 × 20 pixels: rows 4 to 11, columns 6 to 13
    found = plant(grey(0), [box(0, 0, 2, 2) | box(5, 7, 3, 3)])
    assert (found.objects.median, found.extent.median) == (1, 3)
    assert found.shorter.median == 16


def test_quantiles_by_hand():
    assert Quantiles.of(range(11)) == (0, 1, 5, 9, 10)
    assert Quantiles.of([]) is None


def test_the_table_names_what_was_measured(plant):
    rows = {row["measured"]: row["value"] for row in fingerprint_rows(plant(grey(0, 9), [box(0, 0, 16, 20)] * 2))}
    assert rows["images"] == "2 training, 0 test; 2 decoded"
    assert rows["class thing"] == "in 100.0% of the images, 100.00% of the pixels"
    assert rows["shorter side, test"] == "none"


def test_images_of_one_bit_are_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = [box(0, number, 4, 4) for number in range(3)]
    for part in ("train", "test"):
        Path(part).mkdir()
    for number, mask in enumerate(masks):
        Image.fromarray(mask == 1).save(f"train/{number:03}.tif")
    rows = [f"{number:03},{rle.encode(mask)}" for number, mask in enumerate(masks)]
    Path("train.csv").write_text("\n".join(["id,rle", *rows]) + "\n")
    Path("sample_submission.csv").write_text("id,rle\n")
    Path("card.toml").write_text(CARD.replace('train_csv = "train.csv"', 'train_csv = "train.csv"\nsuffix = ".tif"'))
    card = competition.load("card.toml")
    index, test_index = read_index(card, Path()), read_test_index(card, Path())
    found = measure(card, *apart(index, test_index), Labels.of(card))
    assert (found.images, found.channels, found.highest.largest) == (3, 1, 1.0)
