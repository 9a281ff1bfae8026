"""Metrics: values by hand, rules for empty masks, and a reference of plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, fbeta_score, jaccard_score

from pipeline.metrics import (
    Counts,
    Scores,
    count,
    dice,
    epoch_metric,
    iou,
    mean_average_precision,
    metric_names,
    pixel_metric,
    selection_metric,
    stack,
    tgs_precision,
    volume_metric,
)

PLAIN = ["mean_dice", "mean_iou", "tgs_precision"]  # means over images, of which an empty one may score 1
MASKS = arrays(np.uint8, (5, 7), elements=st.integers(0, 1))


def counts(intersection, predicted, target):
    return Counts(*(np.array([number], dtype=np.int64) for number in (intersection, predicted, target)))


def test_dice_by_hand():
    # Two of three predicted pixels are right, of four: 2·2 / (3 + 4).
    assert dice(counts(2, 3, 4))[0] == pytest.approx(4 / 7)


def test_iou_by_hand():
    assert iou(counts(2, 3, 4))[0] == pytest.approx(2 / 5)


def test_tgs_by_hand():
    # IoU .72 exceeds .50, .55, .60, .65, .70: five of the ten thresholds.
    assert tgs_precision(counts(72, 72, 100))[0] == pytest.approx(0.5)


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_tgs_threshold_itself_is_not_exceeded(twentieths):
    # .55 is not a binary fraction: in floats, 11/20 > .55 can be true.
    assert tgs_precision(counts(5 * twentieths, 5 * twentieths, 100))[0] == pytest.approx((twentieths - 10) / 10)


@pytest.mark.parametrize("name", PLAIN)
def test_two_empty_masks_score_1(name):
    assert pixel_metric(name)(counts(0, 0, 0))[0] == 1


@pytest.mark.parametrize("name", PLAIN)
def test_one_empty_mask_scores_0(name):
    assert pixel_metric(name)(counts(0, 1, 0))[0] == 0
    assert pixel_metric(name)(counts(0, 0, 1))[0] == 0


def test_the_three_rules_for_empty_masks():
    images = Counts(*np.array([[2, 3, 4], [0, 0, 0], [0, 5, 0]], dtype=np.int64).T)  # Dice 4/7; empty; invented
    assert pixel_metric("mean_dice").scores(images).mean() == pytest.approx((4 / 7 + 1 + 0) / 3)
    assert pixel_metric("mean_dice_empty_0").scores(images).mean() == pytest.approx((4 / 7 + 0 + 0) / 3)
    assert pixel_metric("mean_dice_ignore_empty").scores(images).mean() == pytest.approx((4 / 7 + 0) / 2)


SUMS = {  # of all pixels of one class, by scikit-learn
    "class_iou": jaccard_score,
    "global_dice": f1_score,
    "global_f05": lambda target, mask: fbeta_score(target, mask, beta=0.5),
}


@pytest.mark.parametrize("name", SUMS)
@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=4))
def test_pooled_metrics_equal_those_of_scikit_learn(name, pairs):
    masks, targets = (np.stack(each) for each in zip(*pairs, strict=True))
    if not masks.any() or not targets.any():
        return
    scores = pixel_metric(name).scores(stack([count(*pair) for pair in pairs]))
    assert scores.mean() == pytest.approx(SUMS[name](targets.ravel(), masks.ravel()))


@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=4))
def test_a_score_of_classes_is_the_mean_over_the_scored_classes(pairs):
    metric = pixel_metric("class_iou")
    parts = (pairs, pairs[::-1], pairs[:1] * len(pairs))
    classes = [metric.scores(stack([count(*pair) for pair in part])) for part in parts]
    together = Scores.concat_classes(classes)
    alone = [each.mean() for each in classes]
    assert together.mean() == pytest.approx(np.nanmean(alone) if not np.isnan(alone).all() else np.nan, nan_ok=True)


def test_selection_metric_and_epoch_metric_are_defined_for_every_metric():
    assert [selection_metric(name) for name in ("tgs_precision", "dsb_precision", "ap60", "uw_madison")] == [
        "tgs_precision",
        "dsb_precision",
        "f1_60",
        "mean_dice_ignore_empty",
    ]
    names, single = metric_names(complete=True), metric_names("pixels", "objects", complete=True)
    assert {epoch_metric(name) for name in names} == set(metric_names("pixels", complete=True))
    assert {selection_metric(name) for name in names} == set(single)


def test_selection_metric_of_uw_madison_ranks_predictions_like_its_dice():
    # Four slices of one organ, two of them empty. `bold` finds both and has a false positive on an empty slice; `shy`
    # finds one and has no false positive. If two empty masks scored 1, both would score 3 of 4; UW-Madison does not
    # count these slices.
    organ, nothing, pixel = np.zeros((3, 8, 8), np.uint8)
    organ[2:6, 2:6], pixel[0, 0] = 1, 1
    target, bold, shy = [organ, organ, nothing, nothing], [organ, organ, pixel, nothing], [organ, *[nothing] * 3]
    selection = pixel_metric(selection_metric("uw_madison"))
    scores = [
        selection.scores(stack([count(*pair) for pair in zip(masks, target, strict=True)])).mean()
        for masks in (bold, shy)
    ]
    assert scores == pytest.approx([2 / 3, 1 / 2])
    assert epoch_metric("uw_madison") == selection_metric("uw_madison")


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
def test_a_perfect_prediction_scores_1(name):
    assert pixel_metric(name)(counts(9, 9, 9))[0] == 1


def test_an_empty_submission_scores_the_share_of_empty_images():
    # A public implementation says .52 here, through a histogram that has one bin for a constant mask.
    target = np.array([0] * 39 + [100] * 61)
    score = tgs_precision(Counts(np.zeros(100, np.int64), np.zeros(100, np.int64), target)).mean()
    assert score == pytest.approx(0.39)


@pytest.mark.parametrize("name", PLAIN)
@given(mask=MASKS, target=MASKS)
def test_scores_are_symmetric_and_between_0_and_1(name, mask, target):
    there, back = pixel_metric(name)(count(mask, target)), pixel_metric(name)(count(target, mask))
    assert there == back
    assert 0 <= there <= 1


@given(mask=MASKS, target=MASKS)
def test_counts_and_tgs_agree_with_loops(mask, target):
    pairs = list(zip(mask.ravel().tolist(), target.ravel().tolist(), strict=True))
    both, either = sum(a and b for a, b in pairs), sum(a or b for a, b in pairs)
    # In integers (hundredths), so that the oracle does not round.
    expected = sum(100 * both > percent * either for percent in range(50, 100, 5)) / 10 if either else 1.0
    assert tgs_precision(count(mask, target)) == pytest.approx(expected)


def test_counts_exceed_24_bits_exactly():
    # float32 counts stop at 16,777,216.
    mask = np.ones((4100, 4100), dtype=np.uint8)
    assert count(mask, mask).intersection == 16_810_000


def test_void_pixels_are_ignored_by_hand():
    mask, target = np.array([[1, 1, 0, 1, 0]], np.uint8), np.array([[1, 0, 1, 255, 255]], np.uint8)
    assert count(mask, target) == (1, 2, 2)


def test_count_refuses_two_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_empty_images_count_only_in_metrics_with_a_score_for_them():
    counted = {name for name in metric_names("pixels", complete=True) if pixel_metric(name).counts_empties}
    assert counted == {"mean_dice", "mean_iou", "tgs_precision", "mean_dice_empty_0"}


@pytest.mark.parametrize(
    "name",
    [
        *metric_names("pixels", complete=True),
        "mean_f_beta(beta=2)",
        "mean_f_beta(beta=2, empty=skip)",
        "global_f_beta(beta=2)",
    ],
)
def test_empty_masks_have_the_same_score_in_total_per_image_and_by_call(name):
    metric, nothing = pixel_metric(name), Counts(*np.zeros((3, 4, 1), dtype=np.int64))
    ways = [
        metric.total(nothing),
        metric.scores(nothing).mean(),
        *metric(nothing)[:, 0],
    ]
    assert np.array_equal(ways, [ways[0]] * len(ways), equal_nan=True)
    assert np.isnan(ways[0]) != metric.counts_empties


def test_metrics_without_a_score_per_image_are_nan_for_no_images():
    assert np.isnan([volume_metric(name)([]) for name in metric_names("volumes")]).all()
    assert np.isnan(mean_average_precision([], [0.5, 0.75]))
