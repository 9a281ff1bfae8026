"""Polygons of objects as rows of RLE."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.data.polygons import read_polygons
from pipeline.rle import Dialect

SQUARE = [[1, 1], [4, 1], [4, 3], [1, 3]]  # x, y: columns 1 to 4 of rows 1 to 3


@pytest.fixture
def images(tmp_path):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "a.png")
    return {"a": tmp_path / "a.png"}


def read(tmp_path, images, *lines):
    path = tmp_path / "polygons.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return read_polygons(path, images, ["vessel"], Dialect(order="row"))


def line(*objects, image_id="a"):
    return {"id": image_id, "annotations": [{"type": kind, "coordinates": rings} for kind, rings in objects]}


def test_a_polygon_is_filled_including_its_outline(tmp_path, images):
    rows = read(tmp_path, images, line(("vessel", [SQUARE])))
    mask = Dialect(order="row").decode(rows["rle"].iloc[0], (6, 9))
    expected = np.zeros((6, 9))
    expected[1:4, 1:5] = 1
    assert np.array_equal(mask, expected)
    assert rows[["image_id", "label", "line"]].to_numpy().tolist() == [["a", "vessel", 1]]


def test_a_ring_within_a_ring_is_a_hole(tmp_path, images):
    outer, inner = [[0, 0], [8, 0], [8, 5], [0, 5]], [[2, 1], [6, 1], [6, 4], [2, 4]]
    mask = Dialect(order="row").decode(read(tmp_path, images, line(("vessel", [outer, inner])))["rle"].iloc[0], (6, 9))
    expected = np.ones((6, 9))
    expected[2:4, 3:6] = 0  # the pixels of the inner ring belong to the object
    assert np.array_equal(mask, expected)


def test_each_object_has_a_row_and_other_types_and_images_have_none(tmp_path, images):
    rows = read(
        tmp_path,
        images,
        line(("vessel", [SQUARE]), ("glomerulus", [SQUARE]), ("vessel", [[[6, 0], [7, 0], [7, 1]]])),
        line(("vessel", [SQUARE]), image_id="elsewhere"),
    )
    assert rows["line"].tolist() == [1, 1]


def test_an_image_without_an_object_has_a_blank_row(tmp_path, images):
    rows = read(tmp_path, images, line(("glomerulus", [SQUARE])))
    assert rows[["image_id", "rle"]].to_numpy().tolist() == [["a", ""]]


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", '{"id": "a"}', line(("vessel", [[1, 2], [3, 4]])), line(("vessel", [[[1, "x"]]]))],
    ids=["no JSON", "a list", "no annotations", "points for rings", "a word"],
)
def test_an_invalid_line_is_reported(tmp_path, images, broken):
    with pytest.raises(ValueError, match=r"polygons.jsonl: line 2: expected"):
        read(tmp_path, images, line(("vessel", [SQUARE])), broken)


def test_a_missing_file_is_reported_with_its_expected_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="put the competition's files into"):
        read_polygons(tmp_path / "polygons.jsonl", {}, ["vessel"], Dialect())
