"""The generated street scenes: one class per pixel or void, reproducible, and not solved by position or colour."""

import csv

import numpy as np
import pytest
from PIL import Image

from pipeline import rle
from pipeline.demos.camvid import CLASSES, HEIGHT, POLE, VOID, WIDTH, draw_street_image, make_camvid_demo
from pipeline.demos.salt import TEST, TRAIN
from tests.test_submission import decode_by_loops


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes") / "data"
    make_camvid_demo(root, seed=0, train=12, test=4)
    return root


@pytest.fixture(scope="module")
def scenes():
    return [draw_street_image(0, TRAIN, number) for number in range(60)]


def read(path):
    return list(csv.reader(path.read_text().splitlines()))


def stems(folder):
    return {path.stem for path in folder.iterdir()}


def mean_iou(labels, targets):
    """Mean IoU by its definition, over all pixels that are not void."""
    seen = targets != VOID
    ious = [
        np.count_nonzero((labels == code) & (targets == code) & seen)
        / np.count_nonzero(((labels == code) | (targets == code)) & seen)
        for code in range(len(CLASSES))
    ]
    return np.mean(ious)


def test_layout_is_that_of_camvid_with_kaggle_tables(demo):
    names = {path.relative_to(demo).as_posix() for path in demo.rglob("*") if path.suffix != ".png"}
    tables = {"sample_submission.csv", "solution.csv"}
    assert names == {"train", "train/images", "train/labels", "test", "test/images", *tables}
    assert stems(demo / "train/images") == stems(demo / "train/labels")
    assert len(stems(demo / "train/images")) == 12
    assert len(stems(demo / "test/images")) == 4


def test_indices_of_a_label_file_are_the_codes(demo):
    for number in range(12):
        scene = draw_street_image(0, TRAIN, number)
        with Image.open(demo / "train" / "labels" / f"{scene.image_id}.png") as picture:
            assert picture.mode == "P"
            assert np.array_equal(np.asarray(picture), scene.labels)
            colours = np.asarray(picture.convert("RGB"))[scene.labels == VOID]
        assert not colours.any()  # void is shown black


def test_images_are_colour_and_not_square(demo):
    path = sorted((demo / "test/images").iterdir())[0]
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    assert HEIGHT != WIDTH


def test_the_same_seed_gives_the_same_files_and_fewer_images_are_the_first_ones(demo, tmp_path):
    again = tmp_path / "again"
    make_camvid_demo(again, seed=0, train=3, test=4)
    images = [path.relative_to(again) for path in again.rglob("*.png")]
    assert len(images) == 10
    for name in [*images, "sample_submission.csv", "solution.csv"]:
        assert (again / name).read_bytes() == (demo / name).read_bytes()


def test_another_seed_or_subset_gives_other_scenes():
    ours = draw_street_image(0, TRAIN, 3)
    for other in (draw_street_image(1, TRAIN, 3), draw_street_image(0, TEST, 3), draw_street_image(0, TRAIN, 4)):
        assert other.image_id != ours.image_id
        assert not np.array_equal(other.labels, ours.labels)


def test_ids_are_text_with_leading_zeros(demo):
    ids = stems(demo / "test/images")
    assert all(len(image_id) == 10 for image_id in ids)
    assert any(image_id.isdigit() and image_id.startswith("0") for image_id in ids)


def test_solution_gives_each_pixel_to_one_class_or_to_void(demo):
    rows = read(demo / "solution.csv")
    assert rows[0] == ["id", "class", "predicted"]
    codes = [*range(len(CLASSES)), VOID]
    for number in range(4):
        scene, its = draw_street_image(0, TEST, number), rows[1 + 7 * number : 8 + 7 * number]
        assert [row[:2] for row in its] == [[scene.image_id, name] for name in (*CLASSES, "void")]
        masks = np.array([decode_by_loops(text, HEIGHT, WIDTH) for _, _, text in its])
        assert (masks.sum(axis=0) == 1).all()
        assert np.array_equal(np.array(codes)[masks.argmax(axis=0)], scene.labels)


def test_sample_has_a_blank_row_per_class_and_none_for_void(demo):
    solution = [row for row in read(demo / "solution.csv")[1:] if row[1] != "void"]
    assert read(demo / "sample_submission.csv")[1:] == [[image_id, name, ""] for image_id, name, _ in solution]


@pytest.mark.slow
def test_void_separates_all_classes_except_poles(scenes):
    for scene in scenes:
        for a, b in ((scene.labels[1:], scene.labels[:-1]), (scene.labels[:, 1:], scene.labels[:, :-1])):
            assert not np.any((a != b) & ~np.isin(a, (VOID, POLE)) & ~np.isin(b, (VOID, POLE)))


@pytest.mark.slow
def test_some_void_regions_are_wider_than_a_boundary(scenes):
    # A 5 x 5 square of void: the bonnet of the car, or a person.
    def holds_square(void):
        return np.lib.stride_tricks.sliding_window_view(void, (5, 5)).all(axis=(2, 3)).any()

    assert 0.3 < np.mean([holds_square(scene.labels == VOID) for scene in scenes]) < 0.95


def test_classes_differ_in_frequency_more_than_tenfold(scenes):
    labels = np.array([scene.labels for scene in scenes])
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 5, 11}
    shares = np.bincount(labels.ravel())[: len(CLASSES)] / labels.size
    assert shares.max() > 10 * shares.min()
    assert shares.min() > 0.01  # or a few pixels would decide a sixth of the score
    assert 0.03 < np.mean(labels == VOID) < 0.12


def test_a_constant_and_a_mean_label_map_score_low(scenes):
    labels = np.array([scene.labels for scene in scenes])
    train, test = labels[:40], labels[40:]
    votes = np.array([(train == code).sum(axis=0) for code in range(len(CLASSES))])
    most_frequent = votes.sum(axis=(1, 2)).argmax()
    assert mean_iou(np.full_like(test, most_frequent), test) < 0.08
    assert mean_iou(np.broadcast_to(votes.argmax(axis=0), test.shape), test) < 0.45


def test_a_lookup_table_of_colours_scores_low(scenes):
    labels = np.array([scene.labels for scene in scenes])
    cubes = np.array([scene.image for scene in scenes]) // 16 @ np.array([256, 16, 1])  # 4096 colours
    votes = np.array([np.bincount(cubes[:40][labels[:40] == code], minlength=4096) for code in range(len(CLASSES))])
    assert mean_iou(votes.argmax(axis=0)[cubes[40:]], labels[40:]) < 0.35


def test_an_interrupted_generation_leaves_no_files(tmp_path, monkeypatch):
    def fails(mask):
        raise KeyboardInterrupt

    monkeypatch.setattr(rle, "encode", fails)  # the tables come after the training images
    with pytest.raises(KeyboardInterrupt):
        make_camvid_demo(tmp_path / "data", train=2, test=1)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_are_not_changed(demo):
    with pytest.raises(FileExistsError, match="remove it to generate"):
        make_camvid_demo(demo)
