"""The submission CSV: order, ids, texts that decode to the masks, and no file if a check fails."""

import csv
import re

import numpy as np
import pandas as pd
import pytest

from pipeline import scoring, submission
from pipeline.competition import Columns
from pipeline.metrics import metric_names
from pipeline.rle import Dialect
from tests.miniatures import CocoText


def decode_by_loops(text, height, width):
    """Decode independently of rle.py: pixel by pixel, top to bottom, then left to right."""
    mask = [[0] * width for _ in range(height)]
    numbers = [int(word) for word in text.split()]
    for place in range(0, len(numbers), 2):
        for pixel in range(numbers[place] - 1, numbers[place] - 1 + numbers[place + 1]):
            mask[pixel % height][pixel // height] = 1
    return np.array(mask)


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample.csv"
    path.write_text("id,rle_mask\n007,1 1\n1,1 1\n05,1 1\n")
    return path


def masks(image_id):
    mask = np.zeros((1, 4, 6), dtype=np.uint8)
    mask[0, int(image_id) % 4 :, 5] = image_id != "1"
    return mask


def test_a_column_of_the_sample_without_a_name_is_left_out(tmp_path, card):
    numbered = tmp_path / "numbered.csv"
    numbered.write_text(",id,rle_mask\n0,007,1 1\n1,1,1 1\n2,05,1 1\n")
    submission.write_submission(tmp_path / "mine.csv", card, numbered, masks)
    submission.check_submission(tmp_path / "mine.csv", card, numbered, lambda _: (4, 6))
    assert (tmp_path / "mine.csv").read_text().splitlines()[:2] == ["id,rle_mask", "007,24 1"]


def test_rows_follow_the_sample_and_decode_to_the_masks(tmp_path, card, sample):
    done = submission.write_submission(tmp_path / "out.csv", card, sample, masks)
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["id", "007", "1", "05"]
    assert all(np.array_equal(decode_by_loops(text, 4, 6), masks(key)[0]) for key, text in rows[1:])
    assert done == (3, 1, 3)


def test_image_without_prediction_gets_the_empty_token(tmp_path, card, sample):
    card = card.model_copy(update={"dialect": Dialect(empty="-1")})
    submission.write_submission(tmp_path / "out.csv", card, sample, lambda _: None)
    assert (tmp_path / "out.csv").read_text() == "id,rle_mask\n007,-1\n1,-1\n05,-1\n"


def test_an_encoder_that_loses_the_last_pixel_is_detected_and_nothing_written(tmp_path, card, sample, monkeypatch):
    encode = Dialect.encode

    def loses_last(self, mask):
        mask = mask.copy()
        mask[-1, -1] = 0
        return encode(self, mask)

    monkeypatch.setattr(Dialect, "encode", loses_last)
    with pytest.raises(ValueError, match=r"out\.csv: line 2: .*differs in 1 pixels"):
        submission.write_submission(tmp_path / "out.csv", card, sample, masks)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["sample.csv"]


def test_an_encoder_that_writes_invalid_text_is_detected(tmp_path, card, sample, monkeypatch):
    monkeypatch.setattr(Dialect, "encode", lambda self, mask: "3 2 1 1")
    with pytest.raises(ValueError, match=r"line 2: the encoded text cannot be decoded"):
        submission.write_submission(tmp_path / "out.csv", card, sample, masks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,rle_mask\n007,\n05,\n1,\n", r"line 3: id '05', but the sample submission has '1' there"),
        ("id,rle_mask\n007,\n1,\n", r"2 rows, but the sample submission has 3"),
        ("id,rle_mask\n7,\n1,\n05,\n", r"line 2: id '7', but the sample submission has '007' there"),
    ],
)
def test_ids_that_differ_from_the_sample_are_refused(tmp_path, card, text, message):
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        submission.check_keys(tmp_path / "out.csv", card, pd.DataFrame({"id": ["007", "1", "05"]}))


def write_pair(tmp_path, submitted, truth):
    for name, rows in (("sub.csv", submitted), ("sol.csv", truth)):
        (tmp_path / name).write_text("id,rle_mask\n" + "".join(f"{key},{text}\n" for key, text in rows))
    return tmp_path / "sub.csv", tmp_path / "sol.csv"


def test_score_by_hand_does_not_depend_on_the_order_of_rows(tmp_path, card):
    # a: 2·2 / (3 + 4). b: both empty, 1. c: nothing predicted, 0.
    pair = write_pair(tmp_path, [("c", ""), ("a", "1 3"), ("b", "")], [("a", "2 4"), ("b", ""), ("c", "1 5")])
    assert scoring.score(card, *pair) == (pytest.approx((4 / 7 + 1 + 0) / 3), 3)


@pytest.mark.parametrize(
    ("submitted", "message"),
    [
        ([("a", "1 2 3")], r"sub\.csv: line 2, id 'a': "),
        ([("a", ""), ("a", "")], r"sub\.csv: line 3: id 'a' repeats"),
        ([("b", "")], r"differ in 2 ids, the first is 'a'"),
    ],
)
def test_score_names_the_invalid_row(tmp_path, card, submitted, message):
    with pytest.raises(ValueError, match=message):
        scoring.score(card, *write_pair(tmp_path, submitted, [("a", "1 1")]))


# ---------------------------------------------------------------------------------------------- several classes

JOINED = Columns(id="Image_Class", rle="px", id_separator="_")
APART = Columns.model_validate({"id": "id", "rle": "predicted", "class": "class"})


def of_two(card, columns, **changes):
    return card.model_copy(update={"classes": ("2", "1"), "columns": columns, **changes})


def two_masks(image_id):
    """Class 2 has the first pixel, class 1 the last."""
    masks = np.zeros((2, 2, 3), dtype=np.uint8)
    masks[0, 0, 0] = masks[1, -1, -1] = 1
    return masks


@pytest.mark.parametrize(
    ("columns", "sample", "expected"),
    [
        (JOINED, "Image_Class,px\na_b.jpg_1,\na_b.jpg_2,\nc.jpg_2,\n", "a_b.jpg_1,6 1\na_b.jpg_2,1 1\nc.jpg_2,1 1\n"),
        (APART, "class,predicted,id\n1,,007\n2,,007\n2,,8\n", "1,6 1,007\n2,1 1,007\n2,1 1,8\n"),
    ],
    ids=["joined", "apart"],
)
def test_each_row_has_the_class_given_by_the_sample(tmp_path, card, columns, sample, expected):
    (tmp_path / "sample.csv").write_text(sample)
    asked = []

    def masks_of(image_id):
        asked.append(image_id)
        return two_masks(image_id)

    done = submission.write_submission(tmp_path / "out.csv", of_two(card, columns), tmp_path / "sample.csv", masks_of)
    header, _, _ = sample.partition("\n")
    assert (tmp_path / "out.csv").read_text() == f"{header}\n{expected}"
    assert done == (3, 0, 3)
    assert len(asked) == 2  # consecutive rows of an image request its masks once


def test_a_class_missing_from_the_card_is_refused_with_its_line(tmp_path, card):
    (tmp_path / "sample.csv").write_text("Image_Class,px\na_1,\na_3,\n")
    with pytest.raises(ValueError, match=r"line 3, image 'a': class '3' is not on the card"):
        submission.write_submission(tmp_path / "out.csv", of_two(card, JOINED), tmp_path / "sample.csv", two_masks)


def test_an_id_without_a_class_is_refused(tmp_path, card):
    (tmp_path / "sample.csv").write_text("Image_Class,px\na,\n")
    with pytest.raises(ValueError, match=r"line 2, image '': class 'a' is not|line 2, image 'a': class '' is not"):
        submission.write_submission(tmp_path / "out.csv", of_two(card, JOINED), tmp_path / "sample.csv", two_masks)


def write_classes(tmp_path, submitted, truth):
    for name, rows in (("sub.csv", submitted), ("sol.csv", truth)):
        (tmp_path / name).write_text("Image_Class,px\n" + "".join(f"{key},{text}\n" for key, text in rows))
    return tmp_path / "sub.csv", tmp_path / "sol.csv"


def test_score_of_classes_is_the_mean_over_images_and_classes(tmp_path, card):
    truth = [("a_1", "1 4"), ("a_2", ""), ("b_1", ""), ("b_2", "3 2")]
    pair = write_classes(tmp_path, [("a_2", ""), ("a_1", "3 4"), ("b_1", "1 1"), ("b_2", "3 2")], truth)
    # a, 1: 2·2 / 8. a, 2: both empty, 1. b, 1: 0. b, 2: 1.
    assert scoring.score(of_two(card, JOINED), *pair) == (pytest.approx((0.5 + 1 + 0 + 1) / 4), 2)


def test_skipped_empties_and_global_dice_by_hand(tmp_path, card):
    truth = [("a_1", "1 4"), ("b_1", ""), ("a_2", "1 1"), ("b_2", "3 3")]
    pair = write_classes(tmp_path, [("a_1", "3 4"), ("b_1", ""), ("a_2", ""), ("b_2", "3 3")], truth)
    # Class 1: only a counts, ½. Class 2: 0 and 1.
    filled = of_two(card, JOINED, metric="mean_dice_ignore_empty")
    assert scoring.score(filled, *pair)[0] == pytest.approx((0.5 + 0.5) / 2)
    # Class 1: 2·2 / 8. Class 2: 2·3 / (3 + 4).
    everything = of_two(card, JOINED, metric="global_dice")
    assert scoring.score(everything, *pair)[0] == pytest.approx((0.5 + 6 / 7) / 2)


def test_a_class_without_a_row_in_the_solution_is_not_scored(tmp_path, card):
    pair = write_classes(tmp_path, [("a_1", "1 1"), ("b_2", "")], [("a_1", "1 1"), ("b_2", "3 1")])
    assert scoring.score(of_two(card, JOINED), *pair) == (pytest.approx((1 + 0) / 2), 2)


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
def test_every_metric_scores_a_perfect_submission_as_one(tmp_path, card, name):
    rows = [("a", "1 3"), ("b", "4 2")]
    pair = write_pair(tmp_path, rows, rows)
    assert scoring.score(card.model_copy(update={"metric": name}), *pair)[0] == pytest.approx(1)


# Ranked objects; the objects of an image in one cell.

CELLS = {
    "instances": True,
    "metric": "ap60",
    "dialect": Dialect(form="coco"),
    "columns": Columns(id="id", copied=("height", "width"), rle="objects", packed_objects="0 {confidence} {mask}"),
}


def squares(*places):
    """Objects of 3 x 3 pixels on an image of (6, 9), numbered from 1."""
    labels = np.zeros((6, 9), dtype=np.int32)
    for number, (row, column) in enumerate(places, start=1):
        labels[row : row + 3, column : column + 3] = number
    return labels


def cell(*objects):
    """The cell of objects (confidence, row, column), written by COCO's own library."""
    text = CocoText()
    return " ".join(f"0 {sure} {text.write((squares((y, x)) > 0).astype(np.uint8))}" for sure, y, x in objects)


def write_cells(path, **cells):
    path.write_text("id,height,width,objects\n" + "".join(f"{name},6,9,{text}\n" for name, text in cells.items()))
    return path


def test_objects_of_an_image_are_written_into_one_cell_with_confidences(tmp_path, card):
    of_cells = card.model_copy(update=CELLS)
    sample = write_cells(tmp_path / "sample.csv", a="", b="", c="")
    found = {"a": squares((0, 0), (3, 5)), "b": squares(), "c": None}
    path = tmp_path / "out.csv"
    summary = submission.write_submission(
        path, of_cells, sample, found.get, lambda image_id, labels: np.array([0.75, 0.5])
    )
    assert summary == (3, 2, 3)
    expected = cell((0.75, 0, 0), (0.5, 3, 5)).split()
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [row[:3] for row in rows] == [["id", "height", "width"], ["a", "6", "9"], ["b", "6", "9"], ["c", "6", "9"]]
    words = rows[1][3].split()
    assert [words[0], float(words[1]), words[3], float(words[4])] == ["0", 0.75, "0", 0.5]
    text = CocoText()
    for word, known in ((words[2], expected[2]), (words[5], expected[5])):
        assert np.array_equal(text.read(word, (6, 9)), text.read(known, (6, 9)))
    assert [rows[2][3], rows[3][3]] == ["", ""]


def test_average_precision_of_cells_by_hand(tmp_path, card):
    of_cells = card.model_copy(update=CELLS)
    solution = write_cells(tmp_path / "solution.csv", a=cell((1, 0, 0), (1, 3, 5)), b=cell((1, 2, 2)), c="")
    # In falling confidence: a hit in a, a miss in c, a hit in b that is one pixel off (IoU 6 / 12), so a miss; a hit.
    found = write_cells(
        tmp_path / "found.csv", a=cell((0.9, 0, 0), (0.3, 3, 5)), b=cell((0.5, 2, 3)), c=cell((0.8, 1, 1))
    )
    assert scoring.score(of_cells, found, solution) == (pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 4), 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5", "line 2, id 'a': 2 words: expected 3 words for each object, '0 {confidence} {mask}'"),
        ("0 high eJw=", "line 2, id 'a': could not convert string to float: 'high'"),
        ("0 0.5 eJw", "line 2, id 'a': "),
    ],
)
def test_an_invalid_cell_is_refused(tmp_path, card, text, message):
    files = [write_cells(tmp_path / f"{number}.csv", a=text) for number in range(2)]
    with pytest.raises(ValueError, match=re.escape(message)):
        scoring.score(card.model_copy(update=CELLS), *files)


def test_an_image_with_two_cells_is_refused(tmp_path, card):
    path = write_cells(tmp_path / "found.csv", a="")
    path.write_text(path.read_text() + "a,6,9,\n")
    with pytest.raises(ValueError, match="line 3: id 'a' repeats"):
        scoring.score(card.model_copy(update=CELLS), path, path)


# ---------------------------------------------------------------------------------------------- check of a CSV


SIZES = {"007": (4, 6), "1": (4, 6)}  # the image of 05 cannot be read


def check(card, sample, text):
    path = sample.with_name("mine.csv")
    path.write_text(text)
    submission.check_submission(path, card, sample, SIZES.get)


def test_a_written_submission_passes_the_check(tmp_path, card, sample):
    submission.write_submission(tmp_path / "mine.csv", card, sample, masks)
    submission.check_submission(tmp_path / "mine.csv", card, sample, SIZES.get)


def test_the_text_of_the_sample_passes_the_check_unread(card, sample):
    sample.write_text("id,rle_mask\n007,a mask\n1,a mask\n05,a mask\n")
    check(card, sample, "id,rle_mask\n007,a mask\n1,1 1\n05,a mask\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,rle_mask,more\n007,,\n1,,\n05,,\n",
            "columns id, rle_mask, more, but the sample submission has id",
        ),
        ("id,mask\n007,\n1,\n05,\n", "no column 'rle_mask'"),
        ("id,rle_mask\n007,\n05,\n1,\n", "line 3: id '05', but the sample submission has '1' there"),
        ("id,rle_mask\n007,\n1,\n", "2 rows, but the sample submission has 3"),
        ("id,rle_mask\n7,\n1,\n05,\n", "line 2: id '7'"),
        ("id,rle_mask\n007,\n1,24 2\n05,\n", "line 3, id '1': "),  # an image of 24 pixels
        ("id,rle_mask\n007,3 2 1 1\n1,\n05,\n", "line 2, id '007': "),
    ],
)
def test_a_csv_that_kaggle_would_refuse_is_refused_with_its_line(card, sample, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(card, sample, text)


def test_objects_that_share_a_pixel_are_refused_with_their_lines(card, sample):
    objects = card.model_copy(update={"instances": True})
    check(objects, sample, "id,rle_mask\n007,1 2\n007,3 2\n1,\n05,\n")
    check(card, sample, "id,rle_mask\n007,1 2\n1,2 2\n05,\n")  # of different images
    message = "mine.csv: image '1': the objects of lines 4 and 5 overlap: expected one object per pixel"
    with pytest.raises(ValueError, match=re.escape(message)):
        check(objects, sample, "id,rle_mask\n007,1 2\n1,20 1\n1,1 3\n1,3 2\n05,\n")


def test_any_text_passes_for_an_unreadable_image(card, sample):
    check(card, sample, "id,rle_mask\n007,\n1,\n05,9999 1\n")


def test_an_image_without_prediction_keeps_the_samples_text_if_configured(tmp_path, card, sample):
    submission.write_submission(
        tmp_path / "out.csv", card, sample, lambda key: None if key == "1" else masks(key), placeholders=True
    )
    rows = dict(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert rows["1"] == "1 1"
    assert rows["007"] == Dialect().encode(masks("007")[0])
