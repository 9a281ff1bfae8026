"""The generated slides: large, tiled, reproducible, and not solved by a threshold on darkness."""

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile

from pipeline import rle
from pipeline.data.formats import read_pixels
from pipeline.data.windows import Box, open_windows
from pipeline.demos.large import HEIGHT, TILE, WIDTH, draw_slide, make_large_demo
from pipeline.demos.salt import TEST, TRAIN

SMALL = (1500, 2000)


@pytest.fixture(scope="module")
def slide():
    return draw_slide(0, TRAIN, 0, SMALL)


def test_a_slide_depends_only_on_seed_and_number(slide):
    again = draw_slide(0, TRAIN, 0, SMALL)
    assert again.image_id == slide.image_id
    assert (again.image == slide.image).all()
    assert (again.labels == slide.labels).all()
    assert len({draw_slide(seed, part, 0, (300, 400)).image_id for seed in (0, 1) for part in (TRAIN, TEST)}) == 4


def test_glomeruli_cover_a_few_percent_and_glass_a_large_share(slide):
    count, _ = cv2.connectedComponents(slide.labels)
    assert count - 1 >= 3
    assert 0.005 < slide.labels.mean() < 0.1
    glass = (slide.image.min(axis=2) > 225).mean()
    assert 0.2 < glass < 0.8


def test_no_threshold_on_darkness_finds_the_glomeruli(slide):
    grey = cv2.GaussianBlur(slide.image[..., 1].astype(np.float32), (0, 0), 6)
    best = 0.0
    for level in np.percentile(grey, np.arange(1, 30)):
        found = grey < level
        best = max(best, 2 * (found & (slide.labels == 1)).sum() / (found.sum() + slide.labels.sum()))
    assert best < 0.75


@pytest.mark.slow
def test_files_are_tiled_and_tables_decode_at_their_size(tmp_path):
    make_large_demo(tmp_path / "large", train=1, test=1)
    train = pd.read_csv(tmp_path / "large/train.csv", dtype=str)
    test = pd.read_csv(tmp_path / "large/solution.csv", dtype=str)
    assert list(pd.read_csv(tmp_path / "large/sample_submission.csv", dtype=str)["id"]) == list(test["id"])
    path = tmp_path / f"large/train/images/{train['id'][0]}.tif"
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled
        assert file.pages[0].tile == (TILE, TILE)
    assert read_pixels(path).shape == (HEIGHT, WIDTH, 3)
    with open_windows(path) as image:
        assert image.read(Box(0, 0, 10, 10)).min() > 200, "glass"
    assert rle.decode(train["rle"][0], (HEIGHT, WIDTH)).mean() > 0.005
    with pytest.raises(FileExistsError):
        make_large_demo(tmp_path / "large", train=1, test=1)
