"""The generated volumes: a slice alone does not show its tubes, its neighbours do."""

import numpy as np
import pytest

from pipeline import competition
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.demos.salt import TEST, TRAIN
from pipeline.demos.volumes import SHAPE, SLICES, draw_slice, make_volumes_demo


@pytest.fixture(scope="module")
def volumes():
    """Images and masks, (volumes, SLICES, H, W) each."""
    slices = [draw_slice(0, TRAIN, number) for number in range(6 * SLICES)]
    images, masks = (np.stack([getattr(each, key) for each in slices]) for key in ("image", "labels"))
    return images.reshape(6, SLICES, *SHAPE), masks.reshape(6, SLICES, *SHAPE)


def dice(mask, target):
    return 2 * (mask & (target == 1)).sum() / (mask.sum() + target.sum())


def test_tubes_are_no_brighter_than_the_blobs(volumes):
    images, masks = volumes
    bright = images > 130
    assert bright[masks == 1].mean() > 0.8
    assert masks[bright].mean() < 0.3
    tube, blob = images[bright & (masks == 1)].mean(), images[bright & (masks == 0)].mean()
    assert tube == pytest.approx(blob, rel=0.05)


def test_the_median_of_five_slices_shows_the_tubes_and_one_slice_does_not(volumes):
    images, masks = volumes
    five = np.median([images[:, start : SLICES - 4 + start] for start in range(5)], axis=0)
    assert dice(five > 120, masks[:, 2:-2]) > 0.75
    assert max(dice(images > level, masks) for level in range(100, 180, 5)) < 0.4


def test_slices_are_the_same_for_the_same_numbers_and_differ_otherwise():
    first, again, other = (draw_slice(0, TRAIN, number) for number in (13, 13, 14))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.image_id[:-3] == other.image_id[:-3], "the same volume"
    assert [each[-3:] for each in (first.image_id, other.image_id)] == ["_01", "_02"]
    assert not np.array_equal(first.image, draw_slice(0, TEST, 13).image)


def test_the_files_have_the_drawn_slices(tmp_path):
    make_volumes_demo(tmp_path / "data", train=2 * SLICES, test=SLICES)
    card = competition.load("volumes_demo")
    index = read_index(card, tmp_path / "data")
    drawn = {each.image_id: each for each in (draw_slice(0, TRAIN, number) for number in range(2 * SLICES))}
    assert set(index["image_id"]) == set(drawn)
    assert index["group"].nunique() == 2
    for sample in samples_of(index):
        assert np.array_equal(Reader(1).read(sample)[..., 0], drawn[sample.image_id].image)
        assert np.array_equal(Labels.of(card).read(sample)[..., 0], drawn[sample.image_id].labels)
