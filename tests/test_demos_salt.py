"""The generated salt images: reproducible, in Kaggle's layout, and not solved by a threshold on grey values."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import rle
from pipeline.demos.salt import SIZE, TEST, TRAIN, draw_salt_image, make_salt_demo
from tests.test_submission import decode_by_loops


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "data"
    make_salt_demo(root, seed=0, train=60, test=8)
    return root


def read(path):
    return list(csv.reader(path.read_text().splitlines()))


def tgs_by_loops(mask, target):
    union = np.count_nonzero(mask | target)
    if union == 0:
        return 1.0
    iou = np.count_nonzero(mask & target) / union
    return np.mean([iou > threshold / 100 for threshold in range(50, 100, 5)])


def test_layout_is_that_of_kaggle(demo):
    assert sorted(path.name for path in demo.iterdir()) == [
        "sample_submission.csv",
        "solution.csv",
        "test",
        "train",
        "train.csv",
    ]
    for name in ("train.csv", "sample_submission.csv", "solution.csv"):
        assert read(demo / name)[0] == ["id", "rle_mask"]
    sample, solution = read(demo / "sample_submission.csv"), read(demo / "solution.csv")
    assert [row[0] for row in sample] == [row[0] for row in solution]
    assert {row[1] for row in sample[1:]} == {"1 1"}
    assert {row[0] for row in read(demo / "train.csv")[1:]} == {path.stem for path in (demo / "train/images").iterdir()}


def test_the_same_seed_gives_the_same_files_and_fewer_images_are_the_first_ones(demo, tmp_path):
    again = tmp_path / "again"
    make_salt_demo(again, seed=0, train=10, test=8)
    images = [path.relative_to(again) for path in again.rglob("*.png")]
    assert len(images) == 18
    for name in [*images, "sample_submission.csv", "solution.csv"]:
        assert (again / name).read_bytes() == (demo / name).read_bytes()
    assert read(again / "train.csv") == read(demo / "train.csv")[:11]


def test_another_seed_gives_other_images():
    assert not np.array_equal(draw_salt_image(0, TRAIN, 3).image, draw_salt_image(1, TRAIN, 3).image)


def test_ids_are_text_with_leading_zeros(demo):
    ids = [row[0] for row in read(demo / "train.csv")[1:]]
    assert all(len(image_id) == 10 for image_id in ids)
    assert any(image_id.isdigit() and image_id.startswith("0") for image_id in ids)


@pytest.mark.parametrize(("name", "part"), [("train.csv", TRAIN), ("solution.csv", TEST)])
def test_an_independent_decoder_reads_the_masks(demo, name, part):
    rows = read(demo / name)[1:20]
    assert any(text for _, text in rows)
    for number, (image_id, text) in enumerate(rows):
        example = draw_salt_image(0, part, number)
        assert image_id == example.image_id
        assert np.array_equal(decode_by_loops(text, SIZE, SIZE), example.labels)


def test_about_39_percent_of_the_masks_are_empty():
    empty = [not draw_salt_image(0, TRAIN, number).labels.any() for number in range(200)]
    assert 0.29 < np.mean(empty) < 0.49  # three standard deviations of a share of 200


def test_a_threshold_on_grey_values_scores_low():
    demos = [draw_salt_image(0, TRAIN, number) for number in range(100)]
    all_empty = np.mean([not demo.labels.any() for demo in demos])
    best = max(
        np.mean([tgs_by_loops(sign * demo.image.astype(int) > sign * level, demo.labels > 0) for demo in demos])
        for level in range(20, 250, 10)
        for sign in (1, -1)
    )
    assert best < all_empty + 0.05


def test_an_interrupted_generation_leaves_no_files(tmp_path, monkeypatch):
    calls = []

    def fails_later(mask):
        calls.append(mask)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(rle, "encode", fails_later)
    with pytest.raises(KeyboardInterrupt):
        make_salt_demo(tmp_path / "data", train=10, test=2)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_are_not_changed(demo):
    with pytest.raises(FileExistsError, match="remove it to generate it again"):
        make_salt_demo(demo)


def test_images_are_grey_and_of_the_competitions_size(demo):
    with Image.open(next(iter(sorted(Path(demo / "train/images").iterdir())))) as image:
        assert (image.mode, image.size) == ("L", (SIZE, SIZE))
