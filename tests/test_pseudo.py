"""Pseudo-labels: what a prediction promises, what it kept out of fold, and whose models may label for whom."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.inference.store import PredictionStore
from pipeline.pseudo import (
    Labelling,
    calibrate,
    confidence,
    expected_scores,
    read_labels,
    refuse_other_fold,
    soft_label,
    write_labels,
)

RNG = np.random.default_rng(0)


def values(*rows):
    return np.array(rows, dtype=np.uint8)


def dice(mask, truth):
    total = mask.sum() + truth.sum()
    return 2 * (mask & truth).sum() / total if total else 1.0


def test_confidence_by_hand():
    # m = 1 1 0 0, p = 1 .8 .4 0: 2 · 1.8 / (2.2 + 2).
    assert confidence(values([255, 204, 102, 0])) == pytest.approx(3.6 / 4.2)


def test_confidence_of_a_sure_mask_is_one_and_of_a_sure_empty_too():
    assert confidence(values([255, 255, 0])) == 1.0
    assert confidence(values([0, 0, 0])) == 1.0


def test_confidence_in_an_empty_mask_falls_with_the_most_probable_pixel_however_many_there_are():
    assert confidence(values([51, 0, 0])) == confidence(np.full((300, 300), 51, np.uint8)) == pytest.approx(0.8)


def test_confidence_takes_the_mask_at_the_threshold_asked_for():
    pixels = values([204, 102])
    assert confidence(pixels, 0.5) == pytest.approx(1.6 / 2.2)
    assert confidence(pixels, 0.3) == pytest.approx(2.4 / 3.2)
    assert confidence(pixels, 0.9) == pytest.approx(0.2)


def test_confidence_does_not_overflow_on_a_large_image():
    assert confidence(np.full((4096, 4096), 255, np.uint8)) == 1.0


def test_confidence_is_near_the_mean_dice_of_truths_drawn_from_the_probabilities():
    pixels = RNG.integers(0, 256, (40, 40)).astype(np.uint8)
    mask = pixels >= 128
    drawn = [dice(mask, RNG.random(pixels.shape) < pixels / 255) for _ in range(300)]
    assert confidence(pixels) == pytest.approx(np.mean(drawn), abs=0.005)


def test_expected_scores_by_hand():
    # .9 after .6 rises; .4 and .2 are out of order and share their mean.
    sure, scores = np.array([0.1, 0.2, 0.5, 0.8]), np.array([0.4, 0.2, 0.6, 0.9])
    assert expected_scores(sure, scores, sure) == pytest.approx([0.3, 0.3, 0.6, 0.9])
    assert expected_scores(sure, scores, np.array([0.0, 0.65, 1.0])) == pytest.approx([0.3, 0.75, 0.9])


def pooled(scores):
    """Isotonic regression by the slow definition: the largest of the least means."""
    count = len(scores)
    return [
        max(min(np.mean(scores[start : end + 1]) for end in range(i, count)) for start in range(i + 1))
        for i in range(count)
    ]


def test_expected_scores_are_those_of_the_definition_and_never_fall():
    sure, scores = np.sort(RNG.random(30)), RNG.random(30)
    fitted = expected_scores(sure, scores, sure)
    assert fitted == pytest.approx(pooled(scores))
    assert (np.diff(fitted) >= 0).all()


def test_cut_is_the_least_confidence_whose_expected_score_reaches_the_floor():
    sure, scores = np.array([0.8, 0.1, 0.5, 0.2]), np.array([0.9, 0.4, 0.6, 0.2])  # in no order
    assert calibrate(sure, scores, 0.6) == 0.5
    assert calibrate(sure, scores, 0.61) == 0.8
    assert calibrate(sure, scores, 0.0) == 0.1


def test_one_lucky_image_in_the_middle_does_not_lower_the_cut():
    sure, scores = np.arange(10) / 10, np.array([0.1] * 3 + [1.0] + [0.1] * 4 + [0.9, 0.9])
    assert calibrate(sure, scores, 0.9) == 0.8


def test_no_confidence_is_enough_for_a_floor_that_no_score_reaches():
    assert calibrate(np.array([0.5, 0.9]), np.array([0.5, 0.6]), 0.7) == float("inf")


@pytest.mark.parametrize(
    ("sure", "scores", "message"),
    [
        ([0.5], [0.5, 0.6], "1 confidences and 2 scores"),
        ([], [], "0 confidences and 0 scores"),
        ([0.5, 0.6], [0.5, np.nan], "OOF image number 1 has confidence 0.6 and score nan"),
    ],
)
def test_what_cannot_be_calibrated_on_is_named(sure, scores, message):
    with pytest.raises(ValueError, match=message):
        calibrate(np.array(sure), np.array(scores), 0.5)


def test_soft_label_is_void_between_low_and_high():
    # .3 lies at 76.5 of 255, .7 at 178.5: thresholds between stored values leave no doubt.
    pixels = values([0, 76, 77, 128, 178, 179, 255])
    assert soft_label(pixels, 0.3, 0.7).tolist() == [[0, 0, 255, 255, 255, 1, 1]]


def test_soft_label_of_equal_ends_is_the_mask():
    pixels = RNG.integers(0, 256, (2, 9, 9)).astype(np.uint8)
    assert np.array_equal(soft_label(pixels, 0.5, 0.5), pixels >= 128)


LABELLING = Labelling(np.array([0.2, 0.5, 0.9]), np.array([0.3, 0.6, 0.95]), floor=0.9, low=0.3, high=0.7)
SURE, UNSURE = np.full((1, 2, 3), 250, np.uint8), np.full((1, 2, 3), 140, np.uint8)


def test_labels_round_trip_and_the_unsure_have_none(tmp_path):
    table = write_labels(tmp_path / "fold1", 1, [("007", SURE), ("008", UNSURE), ("009", SURE)], LABELLING, {})
    assert list(table["image_id"]) == ["007", "009"]
    assert table["confidence"].tolist() == pytest.approx([confidence(SURE[0])] * 2)
    assert table["score_expected"].tolist() == pytest.approx([0.95] * 2)
    read = read_labels(tmp_path / "fold1", 1)
    assert list(read["image_id"]) == ["007", "009"]  # with their zeros
    store = PredictionStore(tmp_path / "fold1")
    assert store.ids() == {"007", "009"}
    assert np.array_equal(store.read("007"), np.ones_like(SURE))


def test_confidence_of_several_classes_is_their_mean(tmp_path):
    both = np.concatenate([SURE, UNSURE])
    labelling = Labelling(np.array([0.5, 1.0]), np.array([0.5, 1.0]), floor=0.5, low=0.3, high=0.7)
    table = write_labels(tmp_path, 0, [("1", both)], labelling, {})
    assert table["confidence"].item() == pytest.approx((confidence(SURE[0]) + confidence(UNSURE[0])) / 2)
    assert PredictionStore(tmp_path).read("1")[:, 0, 0].tolist() == [1, 255]


def test_where_nothing_is_good_enough_nothing_is_labelled_and_it_says_so(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="pipeline"):
        table = write_labels(tmp_path, 2, [("1", UNSURE)], LABELLING, {})
    assert len(table) == len(read_labels(tmp_path, 2)) == len(PredictionStore(tmp_path)) == 0
    assert "fold 2: no test image is expected to score 0.900" in caplog.text


def test_labels_for_another_fold_are_refused(tmp_path):
    write_labels(tmp_path / "fold1", 1, [("1", SURE)], LABELLING, {"from": "x"})
    made_by = json.loads((tmp_path / "fold1" / "store.json").read_text())
    assert (made_by["fold"], made_by["from"], made_by["floor"]) == (1, "x", 0.9)
    with pytest.raises(ValueError, match=r"fold1: labels by models that held out fold 1, not fold 0: they have seen"):
        read_labels(tmp_path / "fold1", 0)
    with pytest.raises(ValueError, match="held out fold 1, not fold full"):
        refuse_other_fold(tmp_path / "fold1", "full")
    with pytest.raises(ValueError, match="no pseudo-labels there"):
        refuse_other_fold(tmp_path / "fold2", 2)


def test_a_killed_labelling_goes_on_and_is_not_read_before_it_is_done(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def until_killed():
        yield "1", SURE
        raise Killed

    monkeypatch.setattr("pipeline.inference.store.SHARD_IMAGES", 1)
    with pytest.raises(Killed):
        write_labels(tmp_path, 0, until_killed(), LABELLING, {})
    with pytest.raises(ValueError, match="the labels are not done"):
        read_labels(tmp_path, 0)
    write_labels(tmp_path, 0, [("1", SURE), ("2", SURE)], LABELLING, {})
    assert list(read_labels(tmp_path, 0)["image_id"]) == ["1", "2"]
    assert PredictionStore(tmp_path).ids() == {"1", "2"}


def test_labels_by_other_weights_replace_what_was_there(tmp_path):
    write_labels(tmp_path, 0, [("1", SURE)], LABELLING, {"weights": "a"})
    write_labels(tmp_path, 0, [("2", SURE)], LABELLING, {"weights": "b"})
    assert PredictionStore(tmp_path).ids() == {"2"}


@pytest.mark.parametrize(
    "change", [{"floor": 0.5}, {"low": 0.6}, {"high": 0.8}, {"threshold": 0.4}, {"scores": np.array([0.3, 0.6, 0.96])}]
)
def test_labels_by_another_labelling_replace_what_was_there(tmp_path, change):
    write_labels(tmp_path, 0, [("1", SURE)], LABELLING, {})
    write_labels(tmp_path, 0, [("2", SURE)], replace(LABELLING, **change), {})
    assert PredictionStore(tmp_path).ids() == {"2"}
