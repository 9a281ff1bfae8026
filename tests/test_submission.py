"""The CSV: order, ids, texts that decode back, and nothing on disk when something is off."""

import csv

import numpy as np
import pytest

from pipeline import submission
from pipeline.rle import Dialect


def decode_by_loops(text, height, width):
    """Shares nothing with rle.py: one pixel at a time, top to bottom, then left to right."""
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
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[int(image_id) % 4 :, 5] = image_id != "1"
    return mask


def test_rows_follow_the_sample_and_decode_to_the_masks(tmp_path, card, sample):
    done = submission.write_submission(tmp_path / "out.csv", card, sample, masks)
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["id", "007", "1", "05"]
    assert all(np.array_equal(decode_by_loops(text, 4, 6), masks(key)) for key, text in rows[1:])
    assert done == (3, 1)


def test_image_without_prediction_gets_the_empty_token(tmp_path, card, sample):
    card = card.model_copy(update={"dialect": Dialect(empty="-1")})
    submission.write_submission(tmp_path / "out.csv", card, sample, lambda _: None)
    assert (tmp_path / "out.csv").read_text() == "id,rle_mask\n007,-1\n1,-1\n05,-1\n"


def test_encoder_that_loses_the_last_pixel_is_caught_and_nothing_written(tmp_path, card, sample, monkeypatch):
    encode = Dialect.encode

    def loses_last(self, mask):
        mask = mask.copy()
        mask[-1, -1] = 0
        return encode(self, mask)

    monkeypatch.setattr(Dialect, "encode", loses_last)
    with pytest.raises(ValueError, match=r"out\.csv: line 2: .*differs in 1 pixels"):
        submission.write_submission(tmp_path / "out.csv", card, sample, masks)
    assert [path.name for path in tmp_path.glob("*.csv")] == ["sample.csv"]


def test_encoder_that_writes_nonsense_is_caught(tmp_path, card, sample, monkeypatch):
    monkeypatch.setattr(Dialect, "encode", lambda self, mask: "3 2 1 1")
    with pytest.raises(ValueError, match=r"line 2: the text written cannot be read back"):
        submission.write_submission(tmp_path / "out.csv", card, sample, masks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,rle_mask\n007,\n05,\n1,\n", r"line 3: id '05', the sample submission has '1' there"),
        ("id,rle_mask\n007,\n1,\n", r"2 rows, the sample submission has 3"),
        ("id,rle_mask\n7,\n1,\n05,\n", r"line 2: id '7', the sample submission has '007' there"),
    ],
)
def test_ids_that_differ_from_the_sample_are_named(tmp_path, card, text, message):
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        submission.check_ids(tmp_path / "out.csv", card, ["007", "1", "05"])


def write_pair(tmp_path, submitted, truth):
    for name, rows in (("sub.csv", submitted), ("sol.csv", truth)):
        (tmp_path / name).write_text("id,rle_mask\n" + "".join(f"{key},{text}\n" for key, text in rows))
    return tmp_path / "sub.csv", tmp_path / "sol.csv"


def test_score_by_hand_and_in_any_order(tmp_path, card):
    # a: 2·2 / (3 + 4). b: both empty, 1. c: nothing predicted, 0.
    pair = write_pair(tmp_path, [("c", ""), ("a", "1 3"), ("b", "")], [("a", "2 4"), ("b", ""), ("c", "1 5")])
    assert submission.score(card, *pair) == (pytest.approx((4 / 7 + 1 + 0) / 3), 3)


@pytest.mark.parametrize(
    ("submitted", "message"),
    [
        ([("a", "1 2 3")], r"sub\.csv: line 2, id 'a': "),
        ([("a", ""), ("a", "")], r"sub\.csv: line 3: id 'a' repeats"),
        ([("b", "")], r"differ in 2 ids, the first is 'a'"),
    ],
)
def test_score_names_what_is_off(tmp_path, card, submitted, message):
    with pytest.raises(ValueError, match=message):
        submission.score(card, *write_pair(tmp_path, submitted, [("a", "1 1")]))
