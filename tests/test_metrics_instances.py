"""Object metrics: values by hand, a loop over pairs of masks, and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.metrics import instance_metric, metric_names
from pipeline.metrics.instances import airbus_f2, dsb_precision, match, overlaps

LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 4))
THRESHOLDS = [twentieths / 20 for twentieths in range(10, 20)]


def picture(*rows):
    """Digits are objects, a point is background."""
    return np.array([[0 if sign == "." else int(sign) for sign in row] for row in rows])


def by_loops(labels, target):
    """True positives, false positives, false negatives at each threshold, pair by pair, in exact fractions."""
    found = [labels == number for number in np.unique(labels) if number]
    true = [target == number for number in np.unique(target) if number]
    counts = []
    for twentieths in range(10, 20):
        hits = 0
        for mask in found:
            for other in true:
                both, either = int((mask & other).sum()), int((mask | other).sum())
                hits += 20 * both > twentieths * either
        counts.append((hits, len(found) - hits, len(true) - hits))
    return np.array(counts).T


@settings(max_examples=150)
@given(LABELS, LABELS)
def test_matches_equal_those_of_a_loop_over_pairs_of_masks(labels, target):
    assert np.array_equal(np.stack(match(labels, target)), by_loops(labels, target))


def test_one_true_positive_false_positive_and_false_negative_by_hand():
    target = picture("11...22", "11...22")
    labels = picture("11.3...", "11.3...")
    # One true positive, false positive and false negative at every threshold.
    assert dsb_precision(match(labels, target)) == pytest.approx(1 / 3)
    assert airbus_f2(match(labels, target)) == pytest.approx(5 / (5 + 4 + 1))


def test_an_iou_of_three_quarters_exceeds_five_thresholds():
    # IoU 3/4 exceeds .50, .55, .60, .65, .70, and not .75 itself.
    assert dsb_precision(match(picture("111."), picture("1111"))) == pytest.approx(0.5)


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_threshold_itself_is_not_exceeded(twentieths):
    target = np.ones((1, 20), dtype=int)
    labels = (np.arange(20)[None] < twentieths).astype(int)
    assert match(labels, target).true_positives.sum() == twentieths - 10


def test_two_merged_objects_match_neither():
    assert dsb_precision(match(picture("1111"), picture("1122"))) == 0


@pytest.mark.parametrize("name", metric_names("objects", complete=True))
def test_an_empty_image_scores_1_without_objects_and_0_with_any(name):
    empty, full = picture("..."), picture(".1.")
    assert instance_metric(name)(match(empty, empty)) == 1
    assert instance_metric(name)(match(full, empty)) == 0
    assert instance_metric(name)(match(empty, full)) == 0
    assert instance_metric(name)(match(full, full)) == 1


@pytest.mark.parametrize("name", metric_names("objects", complete=True))
@given(LABELS, LABELS, st.permutations([1, 2, 3, 4]))
def test_scores_do_not_depend_on_object_numbers_and_lie_between_0_and_1(name, labels, target, order):
    renumbered = np.array([0, *order])[labels] * 1000
    score = instance_metric(name)(match(labels, target))
    assert instance_metric(name)(match(renumbered, target)) == score
    assert 0 <= score <= 1


@settings(max_examples=100)
@given(LABELS, LABELS, arrays(bool, (6, 7)))
def test_void_pixels_are_removed_from_predicted_and_true_objects(labels, target, void):
    found = match(labels, np.where(void, -1, target))
    assert np.array_equal(np.stack(found), by_loops(np.where(void, 0, labels), np.where(void, 0, target)))


def test_an_object_of_void_pixels_only_is_ignored():
    target = np.array([[1, 1, 0, 0, -1, -1]])
    assert dsb_precision(match(picture("11..22"), target)) == 1
    assert dsb_precision(match(picture("11.222"), target)) == 0.5  # one pixel of it is not void: a false positive


@given(LABELS, LABELS)
def test_overlaps_have_the_areas_of_the_objects(labels, target):
    shared, predicted, true = overlaps(labels, target)
    assert predicted.tolist() == [(labels == number).sum() for number in np.unique(labels) if number]
    assert true.tolist() == [(target == number).sum() for number in np.unique(target) if number]
    assert shared.sum() == ((labels > 0) & (target > 0)).sum()


def test_a_false_negative_costs_four_times_a_false_positive_in_f2():
    two, one = picture("1.2"), picture("1..")
    assert airbus_f2(match(one, two)) == pytest.approx(5 / 9)
    assert airbus_f2(match(two, one)) == pytest.approx(5 / 6)


def test_other_shapes_and_negative_labels_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) and target \(1, 3\) differ"):
        match(picture(".."), picture("..."))
    with pytest.raises(ValueError, match="label -1"):
        match(np.array([[-1, 0]]), picture(".."))


@pytest.mark.parametrize(("found", "expected"), [(12, 0.0), (13, 1.0)])  # of 20 pixels: IoU .60, and .65
def test_f1_60_counts_objects_above_an_iou_of_0_6(found, expected):
    target = np.ones((1, 20), dtype=np.int32)
    labels = (np.arange(20)[None] < found).astype(np.int32)
    assert instance_metric("f1_60")(match(labels, target)) == expected
