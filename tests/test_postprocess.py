"""Threshold and area: the one-pass search against loops over masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.ensemble import average
from pipeline.inference.store import LEVELS, PredictionStore, StoreWriter, quantise, start_store
from pipeline.metrics import METRICS, Counts, count
from pipeline.postprocess import THRESHOLDS, Cut, apply, best_threshold, count_levels, level, search

VALUES = arrays(np.uint8, (6, 9))
TARGET = arrays(np.uint8, (6, 9), elements=st.integers(0, 1))


@given(VALUES, TARGET)
def test_histogram_counts_what_each_mask_would(values, target):
    counts = count_levels(values, target)
    for k in (1, 2, 77, 128, 254, 255):
        expected = count((values >= k).astype(np.uint8), target)
        assert tuple(part[k - 1] for part in counts) == expected


def test_thresholds_lie_between_levels_and_half_is_one_of_them():
    assert THRESHOLDS[127] == 0.5
    assert [level(threshold) for threshold in THRESHOLDS] == list(range(1, 256))


@given(st.floats(0, 1), st.sampled_from(range(LEVELS)))
def test_rounding_moves_no_pixel_over_a_threshold(prob, number):
    if abs(prob - THRESHOLDS[number]) > 1e-6:
        kept = apply(quantise(np.array([[prob]])), Cut(float(THRESHOLDS[number]), 0))[0, 0]
        assert bool(kept) == (prob >= THRESHOLDS[number])


def test_mask_below_the_smallest_area_becomes_empty():
    values = np.array([[255, 255, 0]], dtype=np.uint8)
    assert apply(values, Cut(0.5, 2)).sum() == 2
    assert apply(values, Cut(0.5, 3)).sum() == 0


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(VALUES, TARGET), min_size=1, max_size=4))
def test_search_scores_what_a_loop_over_cuts_would(name, images):
    found = search(images, METRICS[name])
    for row, area in enumerate(found.areas[::5]):
        for k in (0, 100, 127, 254):
            masks = [apply(values, Cut(float(THRESHOLDS[k]), int(area))) for values, _ in images]
            pairs = zip(masks, (target for _, target in images), strict=True)
            expected = np.mean([METRICS[name](count(mask, target)) for mask, target in pairs])
            assert found.scores[row * 5, k] == pytest.approx(expected)
    assert found.score == pytest.approx(found.scores.max())


def test_search_finds_the_level_and_the_area_that_are_right():
    # Salt has 200 and more, a speck of 3 pixels on the empty image has 220: only an area of 4 removes it.
    salt, empty = np.full((10, 10), 90, np.uint8), np.full((10, 10), 90, np.uint8)
    target = np.zeros((10, 10), np.uint8)
    target[2:8, 2:8] = 1
    salt[target == 1] = 200
    empty[0, :3] = 220
    found = search([(salt, target), (empty, np.zeros_like(target))], METRICS["tgs_precision"])
    assert found.score == 1
    assert found.cut.threshold == 0.5  # of all that are right, the nearest to .5
    assert found.cut.min_area == 4


def test_without_a_positive_prediction_only_area_zero_is_tried():
    found = search([(np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))], METRICS["mean_dice"])
    assert found.areas.tolist() == [0]
    assert found.score == 1


def test_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count_levels(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def store_of(folder, values):
    start_store(folder, {})
    writer = StoreWriter(folder)
    writer.write("a", values)
    writer.flush()
    return PredictionStore(folder)


def test_average_weighs_configs_equally_however_many_folds_they_have(tmp_path):
    shape = (1, 2, 2)
    three = [
        store_of(tmp_path / f"fold{fold}", np.full(shape, value, np.uint8)) for fold, value in enumerate((0, 30, 60))
    ]
    one = store_of(tmp_path / "other", np.full(shape, 100, np.uint8))
    assert np.array_equal(average([three, [one]], "a"), np.full(shape, 65))


def test_average_of_two_shapes_is_refused(tmp_path):
    one = store_of(tmp_path / "one", np.zeros((1, 2, 2), np.uint8))
    other = store_of(tmp_path / "other", np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"'a'.*\(1, 2, 3\).*\(1, 2, 2\)"):
        average([[one], [other]], "a")


def test_counts_are_integers_of_64_bits():
    assert all(part.dtype == np.int64 for part in count_levels(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)))
    assert isinstance(count_levels(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)), Counts)


def test_best_threshold_of_equals_is_the_one_nearest_to_half():
    scores = np.zeros(255)
    assert best_threshold(scores) == 127
    scores[[10, 100, 240]] = 1
    assert best_threshold(scores) == 100
