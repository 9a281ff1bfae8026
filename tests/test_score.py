"""`python -m pipeline score`: each metric on CSVs against its value by hand."""

import re
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.metrics import metric_names
from pipeline.rle import Dialect

CARD = """
name = "by-hand"
title = "By hand"
metric = "{metric}"
classes = {classes}
{more}

[files]
train_images = "train"
test_images = "test"
{labels}

[columns]
id = "id"
rle = "rle"
{columns}
"""

# Pixels run from top to bottom, then left to right: of 4 x 4 images, 1 to 4 is the first column.
# Image a: 8 pixels of which 6 are right, of 8 true ones; b: empty in both; c: 4 predicted, none true.
MASKS = ["a,1 8", "b,", "c,1 4"], ["a,3 8", "b,", "c,"]
CLASSES = (
    ["a,x,1 8", "a,y,9 8", "b,x,1 4", "b,y,5 12"],
    ["a,x,1 8", "a,y,9 8", "b,x,1 8", "b,y,9 8"],
)
# Image a: two objects of 4 pixels, one found exactly, one as 3 of its pixels (IoU 3/4); and one false positive.
# Image b: no objects, none predicted.
OBJECTS = ["a,1 4", "a,9 3", "a,16 1", "b,"], ["a,1 4", "a,9 4", "b,"]
# Two slices of 4 x 4 of one volume; the first is right, the second's first column is predicted as its second one.
SLICES = ["v_1,1 4", "v_2,5 4"], ["v_1,1 4,4,4", "v_2,1 4,4,4"]

VALUES = {
    "mean_dice": (2 * 6 / 16 + 1 + 0) / 3,
    "mean_iou": (6 / 10 + 1 + 0) / 3,
    "tgs_precision": (2 / 10 + 1 + 0) / 3,  # .6 exceeds .50 and .55
    "mean_dice_empty_0": (2 * 6 / 16 + 0 + 0) / 3,
    "mean_dice_ignore_empty": (2 * 6 / 16 + 0) / 2,  # b is skipped
    "global_dice": 2 * 6 / (12 + 8),
    "global_f05": 1.25 * 6 / (12 + 0.25 * 8),
    "class_iou": ((8 + 4) / 16 + (8 + 8) / 20) / 2,  # of x, 4 of b's 8 pixels are missed; y has them besides its own
    "dsb_precision": ((5 * 2 / 3 + 5 * 1 / 4) / 10 + 1) / 2,  # IoU 3/4 exceeds .50 to .70
    "airbus_f2": ((5 * 5 * 2 / (5 * 2 + 1) + 5 * 5 * 1 / (5 * 1 + 4 * 1 + 2)) / 10 + 1) / 2,
    "f1_60": (2 * 2 / (2 * 2 + 1) + 1) / 2,
    "ap60": 1 / 2 * 1 + 1 / 2 * 2 / 3,  # a hit, a miss, a hit
    "uw_madison": 0.4 * (1 + 0) / 2 + 0.6 * (1 - 1 / 4),  # one of four columns
    "surface_dice": None,  # tested below
}


def write(name, header, rows):
    Path(name).write_text("\n".join([header, *rows]) + "\n")


def lay_out(metric):
    """Write the card, submission.csv and solution.csv for a metric."""
    options = {"metric": metric, "classes": '["x"]', "more": "", "labels": 'train_csv = "train.csv"', "columns": ""}
    header, (found, true) = "id,rle", MASKS
    if metric == "class_iou":
        options |= {"classes": '["x", "y"]', "columns": 'class = "class"'}
        header, (found, true) = "id,class,rle", CLASSES
    elif metric == "ap60":
        options |= {
            "more": "instances = true\ndialect = { form = 'coco' }",
            "columns": 'packed_objects = "{confidence} {mask}"',
        }
        found, true = CELLS
    elif metric in ("dsb_precision", "airbus_f2", "f1_60"):
        options |= {"more": "instances = true"}
        found, true = OBJECTS
    elif metric in ("uw_madison", "surface_dice"):
        options |= {"more": "volume_pattern = '(.+)_([0-9]+)'"}
        found, true = SLICES
    Path("card.toml").write_text(CARD.format(**options))
    write("submission.csv", header, found)
    write("solution.csv", header + (",height,width" if metric in ("uw_madison", "surface_dice") else ""), true)


# COCO's form of objects of 4 x 4 images, from pycocotools 2.0.11: columns 1, 3 and 4, pixels counted from none.
COLUMN_1, COLUMN_3, COLUMN_4 = "eJwzMLEBAAE3AKE=", "eJyzMDEBAAFHAKE=", "eJyzMQEAAK4AcQ=="
CELLS = (
    [f"a,0.9 {COLUMN_1} 0.5 {COLUMN_3}", f"b,0.7 {COLUMN_4}"],
    [f"a,1 {COLUMN_1} 1 {COLUMN_3}", "b,"],
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def scored(capsys, first="submission.csv", second="solution.csv"):
    assert main(["score", "card.toml", first, second]) == 0
    name, value = re.match(r"(\S+) (\S+)  \(\d images", capsys.readouterr().out).groups()
    return name, float(value)


def test_every_metric_has_an_expected_value():
    assert set(VALUES) == set(metric_names(complete=True))


@pytest.mark.parametrize("metric", [name for name, value in VALUES.items() if value is not None])
def test_score_equals_the_value_by_hand(folder, capsys, metric):
    lay_out(metric)
    assert scored(capsys) == (metric, pytest.approx(VALUES[metric], abs=5e-5))


@pytest.mark.parametrize("metric", VALUES)
def test_the_solution_scores_1(folder, capsys, metric):
    lay_out(metric)
    if metric == "mean_dice_empty_0":  # two of its three images are empty
        assert scored(capsys, "solution.csv") == (metric, pytest.approx(1 / 3, abs=5e-5))
    else:
        assert scored(capsys, "solution.csv") == (metric, 1)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("submission.csv", ["v_1,1 4", "v_2,5 4", "v_1,6 1"], "submission.csv: line 4: id 'v_1' repeats"),
        ("solution.csv", ["v_1,1 4,4,4", "v_2,1 4,four,4"], "solution.csv: line 3: height 'four': expected pixels"),
        ("solution.csv", ["v_1,1 4,4,4", "v_2,1 4,4,"], "solution.csv: line 3: width '': expected pixels"),
        ("solution.csv", ["v_1,1 4,4,4", "v_2,1 4,2,8"], "solution.csv: line 3, id 'v_2': height and width 2 and 8"),
    ],
)
def test_an_invalid_row_of_a_volume_is_named(folder, capsys, name, rows, message):
    lay_out("uw_madison")
    write(name, "id,rle" + (",height,width" if name == "solution.csv" else ""), rows)
    assert main(["score", "card.toml", "submission.csv", "solution.csv"]) == 2
    assert message in capsys.readouterr().err


# Image a: 10 pixels predicted, among them all 8 true ones; b and c as above.
TABLES = {
    '{ name = "mean_f_beta", beta = 2.0 }': ("mean_f_beta(beta=2)", (5 * 8 / (10 + 4 * 8) + 1 + 0) / 3),
    '{ name = "mean_f_beta", beta = 0.5 }': ("mean_f_beta(beta=0.5)", (1.25 * 8 / (10 + 8 / 4) + 1 + 0) / 3),
    '{ name = "mean_f_beta", beta = 2, empty = "skip" }': (
        "mean_f_beta(beta=2, empty=skip)",
        (5 * 8 / (10 + 4 * 8) + 0) / 2,
    ),
    '{ name = "global_f_beta", beta = 2 }': ("global_f_beta(beta=2)", 5 * 8 / (14 + 4 * 8)),
    '{ name = "global_f_beta", beta = 0.5 }': ("global_f05", 1.25 * 8 / (14 + 8 / 4)),
    '{ name = "mean_dice", empty = 1 }': ("mean_dice", (2 * 8 / 18 + 1 + 0) / 3),
    '{ name = "mean_dice", empty = 0 }': ("mean_dice_empty_0", (2 * 8 / 18 + 0 + 0) / 3),
    '{ name = "mean_dice", empty = "skip" }': ("mean_dice_ignore_empty", (2 * 8 / 18 + 0) / 2),
    '"mean_dice(empty=skip)"': ("mean_dice_ignore_empty", (2 * 8 / 18 + 0) / 2),  # as reports print it
}


def give_parameters(table):
    card = Path("card.toml")
    card.write_text(re.sub('metric = ".*"', lambda _: f"metric = {table}", card.read_text()))


@pytest.mark.parametrize("table", TABLES)
def test_score_of_a_metric_with_parameters_equals_the_value_by_hand(folder, capsys, table):
    lay_out("mean_dice")
    give_parameters(table)
    write("submission.csv", "id,rle", ["a,1 10", "b,", "c,1 4"])
    assert main(["score", "card.toml", "submission.csv", "solution.csv"]) == 0
    text, value = TABLES[table]
    assert capsys.readouterr().out.startswith(f"{text} {value:.4f}  (3 images")


@pytest.mark.parametrize(("iou", "value"), [("0.7", 1), ("0.75", 1), ("0.76", 1 / 4), ("[0.7, 0.8]", 5 / 8)])
def test_average_precision_at_other_ious_by_hand(folder, capsys, iou, value):
    # The most confident object is three quarters of a true one: above .75 it is a miss, before the only hit.
    lay_out("ap60")
    give_parameters(f'{{ name = "average_precision", iou = {iou} }}')
    part = Dialect(form="coco").encode(np.array([[1, 1, 1, 0], *[[0] * 4] * 3], dtype=np.uint8).T)
    write("submission.csv", "id,rle", [f"a,0.9 {part} 0.5 {COLUMN_3}", "b,"])
    assert main(["score", "card.toml", "submission.csv", "solution.csv"]) == 0
    assert capsys.readouterr().out.startswith(f"average_precision(iou={iou}) {value:.4f}  (2 images")


@pytest.mark.parametrize(
    ("more", "text", "value"),
    [
        # A voxel and one two columns on: their blocks lie 2 columns from each other.
        ("tolerance = 0", "surface_dice", 0),
        ("tolerance = 2", "surface_dice(tolerance=2)", 1),
        ("tolerance = 1, spacing = [1, 1, 0.5]", "surface_dice(tolerance=1, spacing=[1, 1, 0.5])", 1),
        ("tolerance = 1, spacing = [1, 0.5, 2]", "surface_dice(tolerance=1, spacing=[1, 0.5, 2])", 0),
    ],
)
def test_tolerance_of_surface_dice_is_in_units_of_the_spacing(folder, capsys, more, text, value):
    lay_out("surface_dice")
    give_parameters(f'{{ name = "surface_dice", {more} }}')
    write("submission.csv", "id,rle", ["v_1,2 1"])
    write("solution.csv", "id,rle,height,width", ["v_1,10 1,4,4"])
    assert main(["score", "card.toml", "submission.csv", "solution.csv"]) == 0
    assert capsys.readouterr().out.startswith(f"{text} {value:.4f}  (1 images")


def test_pixels_of_the_ignore_class_are_ignored(folder, capsys):
    lay_out("class_iou")
    card = Path("card.toml")
    card.write_text(card.read_text().replace('title = "By hand"', 'title = "By hand"\nignore_class = "void"'))
    write("submission.csv", "id,class,rle", ["a,x,1 9", "a,y,10 7"])
    write("solution.csv", "id,class,rle", ["a,x,1 8", "a,y,9 6", "a,void,15 2"])
    # Of y, 7 are found and 2 of them are void; 5 of the other 5 are right, of 6.
    assert scored(capsys) == ("class_iou", pytest.approx((8 / 9 + 5 / 6) / 2, abs=5e-5))


def test_a_pixel_of_a_class_counts_even_if_a_row_of_the_ignore_class_has_it_too(folder, capsys):
    lay_out("mean_dice")
    card = Path("card.toml")
    card.write_text(card.read_text().replace('title = "By hand"', 'title = "By hand"\nignore_class = "void"'))
    card.write_text(card.read_text().replace('rle = "rle"', 'rle = "rle"\nclass = "class"'))
    write("submission.csv", "id,class,rle", ["a,x,1 12"])
    write("solution.csv", "id,class,rle", ["a,x,1 8", "a,void,6 4", "a,void,12 1"])
    # Predicted are pixels 1 to 12, of which 9 and 12 are ignored.
    assert scored(capsys) == ("mean_dice", pytest.approx(2 * 8 / (10 + 8), abs=5e-5))


def test_several_rows_of_a_mask_are_its_parts_if_the_card_says_so(folder, capsys):
    lay_out("mean_dice")
    write("solution.csv", "id,rle", ["a,1 4", "a,3 6", "b,", "c,"])
    assert main(["score", "card.toml", "submission.csv", "solution.csv"]) == 2
    assert "solution.csv: line 3: id 'a' repeats" in capsys.readouterr().err
    card = Path("card.toml")
    card.write_text(card.read_text().replace('title = "By hand"', 'title = "By hand"\nseveral_rows = true'))
    assert scored(capsys) == ("mean_dice", pytest.approx(2 / 3, abs=5e-5))


def test_surface_dice_by_hand(folder, capsys):
    # Alone in a volume of one slice, a voxel and its neighbour: 4 of the 8 blocks around each are around both, and in
    # each a corner of the octahedron is cut off, an eighth of its surface.
    lay_out("surface_dice")
    write("submission.csv", "id,rle", ["v_1,6 1"])
    write("solution.csv", "id,rle,height,width", ["v_1,7 1,4,4"])
    assert scored(capsys) == ("surface_dice", 0.5)
