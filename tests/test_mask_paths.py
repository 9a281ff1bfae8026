"""Mask images of one class each: `files.mask_paths`."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import rle
from pipeline.competition import Competition
from pipeline.data.index import read_index, train_files
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.data.windows import Box
from pipeline.schema import parse

SIZE = (20, 30)  # height, width
CLASSES = ("lung", "heart")  # not in the order of the alphabet
PATHS = {"heart": "heart/{id}.png", "lung": "lung/{id}_lung.png"}


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def masks_of(number: int) -> dict[str, np.ndarray]:
    """The masks of an image; the classes overlap. Image 3 has no heart, image 4 nothing."""
    lung, heart = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    lung[2 : 8 + number, 3:25] = number < 4
    heart[6:12, 8 : 12 + number] = number < 3
    return {"lung": lung, "heart": heart}


@pytest.fixture
def root(tmp_path):
    """Five images with a file for each class that is there, and the same masks as a table."""
    rows = []
    for number in range(5):
        write(tmp_path / f"train/{number}.png", np.full((*SIZE, 3), 40 * number, np.uint8))
        for name, mask in masks_of(number).items():
            rows.append((str(number), name, rle.Dialect().encode(mask)))
            if mask.any():
                write(tmp_path / "masks" / PATHS[name].replace("{id}", str(number)), mask * 255)
    pd.DataFrame(rows, columns=["id", "class", "rle"]).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path


def card_with(**changes) -> Competition:
    files = {"train_images": "train", "test_images": "test", "train_masks": "masks", "mask_paths": PATHS}
    card = {
        "name": "x",
        "title": "X",
        "classes": CLASSES,
        "metric": "mean_dice",
        "images_without_rows": "empty",
        "columns": {"id": "id", "rle": "rle", "class": "class"},
    }
    return parse(Competition, card | changes | {"files": files | changes.get("files", {})}, "card")


def test_a_file_for_each_class_gives_the_masks_and_the_index_of_a_table_of_the_same_masks(root):
    of_files = card_with()
    of_table = card_with(files={"train_masks": None, "mask_paths": {}, "train_csv": "train.csv"})
    index, expected = read_index(of_files, root), read_index(of_table, root)
    columns = ["image_id", "height", "width", "coverage", "coverage_lung", "coverage_heart", "empty", "group"]
    pd.testing.assert_frame_equal(index[columns], expected[columns], check_dtype=False)
    for ours, theirs in zip(samples_of(index), samples_of(expected), strict=True):
        mask = Labels.of(of_files).read(ours)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, Labels.of(of_table).read(theirs))
        np.testing.assert_array_equal(mask[..., 1], masks_of(int(ours.image_id))["heart"])


def test_a_window_is_that_part_of_the_whole_mask(root):
    card, box = card_with(), Box(5, 4, 9, 11)
    for sample in samples_of(read_index(card, root)):
        whole = Labels.of(card).read(sample)
        windowed = Labels.of(card).read(dataclasses.replace(sample, box=box))
        np.testing.assert_array_equal(windowed, whole[box.slices])


def test_values_above_a_limit_are_mask_and_a_void_value_is_ignored_in_its_class_alone(root):
    mask = np.where(masks_of(0)["lung"], 76, 0).astype(np.uint8)
    mask[0] = 9
    write(root / "masks/lung/0_lung.png", mask)
    card = card_with(masks={"above": 0, "void": 9})
    read = Labels.of(card).read(samples_of(read_index(card, root))[0])
    np.testing.assert_array_equal(read[1:, :, 0], masks_of(0)["lung"][1:])
    assert (read[0, :, 0] == 255).all()
    np.testing.assert_array_equal(read[..., 1], masks_of(0)["heart"])


def test_masks_beside_their_images_are_no_images(tmp_path):
    for number in range(3):
        write(tmp_path / f"train/{number}/{number}.png", np.full((*SIZE, 3), 90, np.uint8))
        for name, mask in masks_of(number).items():
            write(tmp_path / f"train/{number}/{number}_{name}.png", mask)
    files = {
        "train_masks": "train",
        "pattern": r"[^/]+/([^/]+)\.png",
        "mask_paths": {name: f"{{id}}/{{id}}_{name}.png" for name in CLASSES},
    }
    card = card_with(files=files)
    assert list(train_files(card, tmp_path)) == ["0", "1", "2"]
    assert read_index(card, tmp_path)["mask_classes"].tolist() == [(0, 1)] * 3


def test_an_image_without_a_file_of_any_class_is_refused_unless_its_masks_are_empty(root):
    with pytest.raises(ValueError, match=r"1 of 5 training images have no mask in masks, such as '4\.png'"):
        read_index(card_with(images_without_rows="refuse"), root)
    assert read_index(card_with(images_without_rows="ignore"), root)["image_id"].tolist() == ["0", "1", "2", "3"]


def test_a_class_without_any_file_is_refused_with_its_path(root):
    paths = PATHS | {"heart": "hearts/{id}.png"}
    with pytest.raises(ValueError, match=r"masks: no mask of the class 'heart', as mask_paths = 'hearts/\{id\}\.png'"):
        read_index(card_with(files={"mask_paths": paths}), root)


def test_a_file_of_several_values_is_refused_with_its_path(root):
    write(root / "masks/heart/1.png", np.arange(600, dtype=np.uint16).reshape(SIZE).astype(np.uint8))
    with pytest.raises(ValueError, match=r"heart/1\.png: a mask of values 0, 1, 2, 3"):
        read_index(card_with(), root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": {"mask_paths": {"lung": "lung.png", "heart": "h/{id}.png"}}}, r"mask_paths: 'lung\.png': .*\{id\}"),
        ({"files": {"mask_paths": {"lung": "l/{id}.png"}}}, r"mask_paths names lung, classes are lung, heart"),
        ({"files": {"mask_paths": dict.fromkeys(CLASSES, "{id}.png")}}, "mask_paths: two classes have the same path"),
        ({"files": {"mask_pattern": "(.+)"}}, "mask_paths are below the folder train_masks: .* leave out mask_pattern"),
        ({"files": {"train_masks": None, "train_csv": "x.csv"}}, "mask_paths are below the folder train_masks: set it"),
        ({"exclusive": True, "images_without_rows": "refuse"}, "mask_paths, .*, and exclusive contradict each other"),
        ({"several_rows": True}, "mask_paths, .*, and several_rows contradict each other"),
        ({"annotators": "mean"}, "mask_paths, .*, and annotators contradict each other"),
        ({"masks": {"values": {"lung": 1, "heart": 2}}}, r"mask_paths, .*, and masks\.values contradict each other"),
        ({"masks": {"soft": True}}, r"mask_paths, .*, and masks\.soft contradict each other"),
        ({"files": {"mask_paths": {}}}, r"set masks\.values, .*, or files\.mask_paths"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        card_with(**changes)
