"""The generated scenes: neither band shows the crop, their ratio does."""

import numpy as np
import pytest
from scipy.stats import rankdata

from pipeline import competition, config
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.demos.bands import CROP_SHARE, SHAPE, draw_scene, make_bands_demo
from pipeline.demos.salt import TEST, TRAIN


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(0, TRAIN, number) for number in range(20)]


def area_under_curve(values, mask):
    """The probability that a pixel of the mask has a higher value than another pixel."""
    ranks, positive = rankdata(values), mask.sum()
    return (ranks[mask == 1].sum() - positive * (positive + 1) / 2) / (positive * (mask.size - positive))


def test_neither_band_shows_the_crop(scenes):
    for band in (0, 1):
        areas = [area_under_curve(scene.image[..., band].ravel(), scene.labels.ravel()) for scene in scenes]
        assert np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_the_ratio_shows_the_crop(scenes):
    for scene in scenes:
        red, nir = np.moveaxis(scene.image.astype(float), 2, 0)
        found = np.abs(np.log(nir / red)) < 0.11
        assert 2 * (found & (scene.labels == 1)).sum() / (found.sum() + scene.labels.sum()) > 0.95


def test_light_varies_by_more_than_twenty(scenes):
    for scene in scenes:
        low, high = np.percentile(scene.image[..., 0], [1, 99])
        assert high > 20 * low
        assert scene.image.max() < 65535 or (scene.image == 65535).mean() < 0.01
        assert scene.labels.mean() == pytest.approx(CROP_SHARE, abs=0.01)


def test_scenes_are_the_same_for_the_same_numbers_and_differ_otherwise():
    first, again = draw_scene(0, TRAIN, 3), draw_scene(0, TRAIN, 3)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, draw_scene(0, TEST, 3).image)
    assert first.image.shape == (*SHAPE, 2)


def test_the_files_have_the_drawn_scenes_and_the_config_their_ratio(tmp_path):
    make_bands_demo(tmp_path / "data", train=4, test=2)
    card, cfg = competition.load("bands_demo"), config.load("configs/bands_demo.toml")
    reader = Reader.of(cfg, card)
    index = read_index(card, tmp_path / "data", reader=reader)
    drawn = {each.image_id: each for each in (draw_scene(0, TRAIN, number) for number in range(4))}
    assert set(index["image_id"]) == set(drawn)
    for sample in samples_of(index):
        scene = drawn[sample.image_id]
        red, nir = np.moveaxis(scene.image.astype(np.float32), 2, 0)
        assert reader.read(sample)[..., 0] == pytest.approx(np.clip((nir / red - 0.5) * 170, 0, 255), abs=1e-3)
        assert np.array_equal(Labels.of(card).read(sample)[..., 0], scene.labels)
