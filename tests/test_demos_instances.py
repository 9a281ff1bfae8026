"""The generated cells: one row per connected cell, and many touching cells that components do not separate."""

import csv

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import rle
from pipeline.data.boundaries import touching_boundary
from pipeline.demos.instances import (
    HEIGHT,
    MAX_CELLS,
    MIN_AREA,
    WIDTH,
    draw_cell_image,
    make_instances_demo,
    rles_of_instances,
)
from pipeline.demos.salt import TEST, TRAIN
from pipeline.postprocess.instances import components, split_by_boundary
from tests.test_submission import decode_by_loops


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("instances") / "data"
    make_instances_demo(root, seed=0, train=24, test=4)
    return root


@pytest.fixture(scope="module")
def cultures():
    return [draw_cell_image(0, TRAIN, number) for number in range(40)]


def read(path):
    return list(csv.reader(path.read_text().splitlines()))


def precision_by_loops(labels, target):
    """DSB 2018's score of an image: the mean of TP / (TP + FP + FN) over ten thresholds of IoU, one pair at a time."""
    ours = [labels == k for k in range(1, labels.max() + 1)]
    theirs = [target == k for k in range(1, target.max() + 1)]
    if not ours and not theirs:
        return 1.0
    ious = [np.count_nonzero(a & b) / np.count_nonzero(a | b) for a in ours for b in theirs if (a & b).any()]
    hits = [sum(iou > threshold / 100 for iou in ious) for threshold in range(50, 100, 5)]
    return np.mean([tp / (len(ours) + len(theirs) - tp) for tp in hits])


def test_layout_is_that_of_dsb_2018(demo):
    tables = {"train.csv", "sample_submission.csv", "solution.csv"}
    assert {path.name for path in demo.iterdir()} == {"train", "test", *tables}
    for name in tables:
        assert read(demo / name)[0] == ["ImageId", "EncodedPixels"]
    for table, folder in (("train.csv", "train/images"), ("solution.csv", "test/images")):
        assert {row[0] for row in read(demo / table)[1:]} == {path.stem for path in (demo / folder).iterdir()}
    solution = [row[0] for row in read(demo / "solution.csv")[1:]]
    assert read(demo / "sample_submission.csv")[1:] == [[image_id, ""] for image_id in dict.fromkeys(solution)]


def test_each_cell_has_a_row_and_an_image_without_cells_a_blank_row(demo):
    rows = {}
    for image_id, text in read(demo / "train.csv")[1:]:
        rows.setdefault(image_id, []).append(text)
    assert [texts for texts in rows.values() if "" in texts] == [[""], [""]]
    for number, (image_id, texts) in enumerate(rows.items()):
        example = draw_cell_image(0, TRAIN, number)
        assert image_id == example.image_id
        labels = sum(k * decode_by_loops(text, HEIGHT, WIDTH) for k, text in enumerate(texts, start=1))
        assert np.array_equal(labels, example.labels)  # a pixel in two rows would hold the sum of two numbers


def test_images_are_grey_and_not_square(demo):
    with Image.open(sorted((demo / "train/images").iterdir())[0]) as image:
        assert (image.mode, image.size) == ("L", (WIDTH, HEIGHT))
    assert HEIGHT != WIDTH


def test_the_same_seed_gives_the_same_files_and_fewer_images_are_the_first_ones(demo, tmp_path):
    again = tmp_path / "again"
    make_instances_demo(again, seed=0, train=3, test=4)
    images = [path.relative_to(again) for path in again.rglob("*.png")]
    assert len(images) == 7
    for name in [*images, "sample_submission.csv", "solution.csv"]:
        assert (again / name).read_bytes() == (demo / name).read_bytes()


def test_another_seed_or_subset_gives_other_images():
    ours = draw_cell_image(0, TRAIN, 3)
    for other in (draw_cell_image(1, TRAIN, 3), draw_cell_image(0, TEST, 3), draw_cell_image(0, TRAIN, 4)):
        assert other.image_id != ours.image_id
        assert not np.array_equal(other.image, ours.image)


def test_ids_are_text_with_leading_zeros(demo):
    ids = {row[0] for row in read(demo / "train.csv")[1:]}
    assert all(len(image_id) == 10 for image_id in ids)
    assert any(image_id.isdigit() and image_id.startswith("0") for image_id in ids)


def test_each_cell_is_one_component_of_a_minimum_size(cultures):
    for culture in cultures:
        for label in range(1, culture.labels.max() + 1):
            cell = (culture.labels == label).astype(np.uint8)
            assert cell.sum() >= MIN_AREA
            assert cv2.connectedComponents(cell, connectivity=4)[0] == 2


def test_images_hold_none_or_3_to_30_cells(cultures):
    counts = np.array([culture.labels.max() for culture in cultures])
    assert np.count_nonzero(counts == 0) == 4  # one in ten
    assert counts[counts > 0].min() >= 3
    assert 25 < counts.max() <= MAX_CELLS


def test_components_of_the_true_mask_score_far_below_separated_cells(cultures):
    joined, separated = [], []
    for culture in cultures:
        values = np.stack([culture.labels > 0, touching_boundary(culture.labels, 2)]).astype(np.uint8) * 255
        joined.append(precision_by_loops(components(values[0], 0.5), culture.labels))
        separated.append(precision_by_loops(split_by_boundary(values, 0.5, 0.5), culture.labels))
    assert np.mean(joined) < 0.5
    assert np.mean(separated) > 0.9
    assert np.mean(np.array(joined) < np.array(separated) - 0.2) > 0.7  # of the images


def test_a_threshold_on_grey_values_scores_low(cultures):
    scores = [
        np.mean([precision_by_loops(components(sign_of(culture.image), 0.5), culture.labels) for culture in cultures])
        for sign_of in (lambda image: image, lambda image: 255 - image)
    ]
    assert max(scores) < 0.25


def test_instance_rles_by_hand():
    labels = np.array([[2, 0, 1], [2, 0, 1]])
    assert rles_of_instances(labels) == ["5 2", "1 2"]
    assert rles_of_instances(np.zeros((2, 3), int)) == [""]


def test_an_interrupted_generation_leaves_no_files(tmp_path, monkeypatch):
    calls = []

    def fails_later(mask):
        calls.append(mask)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(rle, "encode", fails_later)
    with pytest.raises(KeyboardInterrupt):
        make_instances_demo(tmp_path / "data", train=8, test=2)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_are_not_changed(demo):
    with pytest.raises(FileExistsError, match="remove it to generate"):
        make_instances_demo(demo)
