"""Windows of training images: crops contain the pixels and masks of their images."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from pipeline import config, rle, stages
from pipeline.config import Crops
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.crops import crop_index, window_starts
from pipeline.data.dataset import MaskedImages
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from tests.conftest import draw

CROPS = Crops(size=24, stride=16)


@pytest.fixture(params=["rle", "mask images"])
def large(request, tmp_path, card):
    """Three images with masks, their index, and their labels."""
    rng, rows = np.random.default_rng(0), []
    for name, size in (("a", (60, 70)), ("b", (20, 100)), ("c", (64, 64))):
        image, mask = draw(rng, *size, empty=name == "c")
        mask[-1, -1] = name == "a"
        tifffile.imwrite(tmp_path / f"{name}.tif", image, tile=(16, 16), photometric="minisblack")
        label = {"rle": rle.encode(mask)}
        if request.param == "mask images":
            Image.fromarray(mask * 255).save(tmp_path / f"{name}.png")
            label = {"mask_paths": (tmp_path / f"{name}.png",)}
        shape = {"height": size[0], "width": size[1], "coverage": mask.mean(), "empty": "no", "kind": name}
        rows.append({"image_id": name, "path": tmp_path / f"{name}.tif", **shape, **label})
    return pd.DataFrame(rows), Labels.of(card)


def test_windows_cover_each_image_and_lie_inside_it():
    for length, size, stride in ((70, 24, 16), (24, 24, 16), (25, 24, 16), (100, 24, 24)):
        found = window_starts(length, size, stride)
        covered = np.zeros(length, bool)
        for start in found:
            assert 0 <= start <= length - size
            covered[start : start + size] = True
        assert covered.all()
        assert len(set(found)) == len(found)


def test_a_crop_is_a_window_of_its_image_and_of_its_mask(large):
    index, labels = large
    crops = crop_index(index, labels, CROPS)
    images = MaskedImages(crops, labels, Reader(1), Augment(make_recipe("none", None, 1)))
    wholes = {sample.image_id: (Reader(1).read(sample), labels.read(sample)) for sample in samples_of(index)}
    assert set(crops["image_id"]) == {"a", "b", "c"}
    for position, (row, sample) in enumerate(zip(crops.itertuples(), samples_of(crops), strict=True)):
        image, mask = images[position, 0]
        whole = wholes[row.image_id]
        assert (image.numpy().transpose(1, 2, 0) == whole[0][row.box.slices]).all()
        assert (mask.numpy().transpose(1, 2, 0) == whole[1][row.box.slices]).all()
        assert Reader(1).target(sample) == image.shape[1:]
        assert row.coverage == pytest.approx(mask.numpy().mean())
        assert row.empty == ("no" if mask.any() else "yes")
        assert row.kind == row.image_id, "what the image's row says goes with it"
    assert set(crops["empty"]) == {"yes", "no"}


def test_an_image_smaller_than_a_window_is_one_row_of_windows(large):
    index, labels = large
    boxes = crop_index(index[index["image_id"] == "b"], labels, CROPS)["box"]
    assert {box.height for box in boxes} == {20}
    assert [box.left for box in boxes] == window_starts(100, 24, 16)


@pytest.mark.slow
def test_options_that_crops_do_not_support_are_refused_before_training(tiny, card):
    def check(*pairs):
        stages.check(config.load("configs/tiny.toml", ["data.crops.size=64", *pairs]))

    check("train.phases.0.crop=64", "train.phases.1.crop=32")
    with pytest.raises(
        ValueError, match=r"data.crops.size is 64 pixels, but train.phases.1.crop is None: expected at most"
    ):
        check("train.phases.0.crop=32")
    with pytest.raises(ValueError, match=r"train.phases.0.crop is 96"):
        check("train.phases.0.crop=96", "train.phases.1.crop=32")
    with pytest.raises(ValueError, match=r"percentiles need the whole image.*set data.window"):
        check("data.percentiles=[1, 99]")


@pytest.mark.slow
def test_a_fold_trains_on_crops_and_is_predicted_in_tiles(tiny, caplog):
    pairs = (
        "data.crops.size=32",
        "data.crops.stride=16",
        "train.balance=empty",
        "train.phases.0.crop=32",
        "train.phases.1.crop=32",
        "train.phases.0.repeats=2",
        "predict.tiles.size=32",
        "predict.tiles.stride=24",
    )
    with caplog.at_level(logging.INFO, logger="pipeline"):
        trained = stages.train(config.load("configs/tiny.toml", pairs), 0)
    (line,) = [each for each in caplog.messages if "cannot be read by window: each is decoded once" in each]
    assert not Path(line.partition(" in ")[2].removesuffix(" (TMPDIR)")).exists(), "removed after the training"
    alone = stages.train(config.load("configs/tiny.toml", ["name=whole"]), 0)
    assert trained.oof > max(0.5, alone.oof), "windows with discs are drawn as often as those without"
