"""The generated steel: seven of ten images are empty, defects are small, and no baseline prediction scores well."""

import csv

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.demos.defects import COLUMNS, HEIGHT, WIDTH, draw_steel_image, make_defects_demo
from pipeline.demos.salt import TEST, TRAIN
from pipeline.metrics import Counts, count, detection_rates, pixel_metric, stack
from tests.test_submission import decode_by_loops


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("defects") / "data"
    make_defects_demo(root, seed=0, train=20, test=10)
    return root


@pytest.fixture(scope="module")
def surfaces():
    return [draw_steel_image(0, TRAIN, number) for number in range(100)]


def read(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_every_image_has_a_row_that_an_independent_decoder_reads(demo):
    assert {path.name for path in demo.iterdir()} == {
        "train",
        "test",
        "train.csv",
        "solution.csv",
        "sample_submission.csv",
    }
    for table, folder, part in (("train.csv", "train/images", TRAIN), ("solution.csv", "test/images", TEST)):
        header, *rows = read(demo / table)
        assert tuple(header) == COLUMNS
        assert {row[0] for row in rows} == {path.stem for path in (demo / folder).iterdir()}
        for number, (image_id, text) in enumerate(rows):
            example = draw_steel_image(0, part, number)
            assert image_id == example.image_id
            assert np.array_equal(decode_by_loops(text, HEIGHT, WIDTH), example.labels)
    solution = [row[0] for row in read(demo / "solution.csv")[1:]]
    assert read(demo / "sample_submission.csv")[1:] == [[image_id, ""] for image_id in solution]


def test_the_same_seed_gives_the_same_files_and_fewer_images_are_the_first_ones(demo, tmp_path):
    make_defects_demo(tmp_path / "again", seed=0, train=10, test=10)
    images = [path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.png")]
    assert len(images) == 20
    for name in [*images, "solution.csv"]:
        assert (tmp_path / "again" / name).read_bytes() == (demo / name).read_bytes()
    assert read(tmp_path / "again/train.csv") == read(demo / "train.csv")[:11]


def test_another_seed_or_subset_gives_other_images():
    assert len({draw_steel_image(seed, part, 0).image_id for seed in (0, 1) for part in (TRAIN, TEST)}) == 4


def test_images_are_grey_and_not_square(demo):
    with Image.open(sorted((demo / "train/images").iterdir())[0]) as image:
        assert (image.mode, image.size) == ("L", (WIDTH, HEIGHT))
    assert HEIGHT != WIDTH


def test_seven_of_ten_images_are_empty_and_a_defect_covers_a_third_of_a_percent(surfaces):
    filled = [surface.labels.mean() for surface in surfaces if surface.labels.any()]
    assert len(filled) == 30
    assert 0.002 < np.mean(filled) < 0.005
    assert min(filled) * HEIGHT * WIDTH >= 5


def test_an_empty_prediction_scores_0_7_and_finds_no_defect(surfaces):
    silent = stack(count(np.zeros_like(surface.labels), surface.labels) for surface in surfaces)
    silent = Counts(*(each[:, None] for each in silent))
    assert pixel_metric("mean_dice").scores(silent).mean() == pytest.approx(0.7)
    assert detection_rates(silent) == (0, 0, 1)


def test_no_threshold_on_darkness_beats_an_empty_prediction(surfaces):
    best = 0.0
    for sigma in (0.6, 1.2):
        grey = [cv2.GaussianBlur(surface.image.astype(np.float32), (0, 0), sigma) for surface in surfaces]
        dark = [(each.mean() - each) / each.std() for each in grey]  # relative to the brightness of the image
        for level in np.arange(2, 7, 0.25):
            pairs = zip(dark, surfaces, strict=True)
            counts = stack(count((each > level).astype(np.uint8), surface.labels) for each, surface in pairs)
            best = max(best, pixel_metric("mean_dice").scores(Counts(*(each[:, None] for each in counts))).mean())
    assert best < 0.75


def test_existing_data_are_not_changed(demo):
    with pytest.raises(FileExistsError, match="remove it to generate"):
        make_defects_demo(demo)
