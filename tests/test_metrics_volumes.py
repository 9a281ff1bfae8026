"""Metrics of whole volumes: by hand, and beside scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import directed_hausdorff

from pipeline.metrics.surface import surface_sums
from pipeline.metrics.volumes import hausdorff, hausdorff_score, mean_surface_dice, uw_madison

MASKS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1))


def points(shape, *places):
    mask = np.zeros(shape, np.uint8)
    for place in places:
        mask[place] = 1
    return mask


@settings(max_examples=100, deadline=None)
@given(MASKS, MASKS)
def test_hausdorff_is_scipys_in_both_directions(mask, target):
    if mask.any() and target.any():
        sets = np.argwhere(mask), np.argwhere(target)
        expected = max(directed_hausdorff(*sets)[0], directed_hausdorff(*reversed(sets))[0])
        assert hausdorff(mask, target) == pytest.approx(expected)
    assert hausdorff(mask, target) == hausdorff(target, mask)
    assert hausdorff(mask, mask) == 0


def test_hausdorff_by_hand():
    # Far apart in one direction only: what is predicted lies in the truth, but a pixel of the truth is 5 away from it.
    assert hausdorff(points((1, 6, 6), (0, 0, 0)), points((1, 6, 6), (0, 0, 0), (0, 3, 4))) == 5


def test_hausdorff_of_nothing():
    empty, one = points((2, 3, 3)), points((2, 3, 3), (0, 0, 0))
    assert hausdorff(empty, empty) == 0
    assert hausdorff(empty, one) == float("inf")
    assert hausdorff_score(empty, one) == 0
    assert hausdorff_score(empty, empty) == 1


def test_hausdorff_score_is_of_the_diagonal():
    mask, target = points((1, 3, 4), (0, 0, 0)), points((1, 3, 4), (0, 2, 0))
    assert hausdorff_score(mask, target) == pytest.approx(1 - 2 / np.sqrt(1 + 9 + 16))


def of_one_class(*slices):
    """A volume (D, 1, H, W) of slices (H, W)."""
    return np.stack(slices)[:, None]


def test_uw_madison_by_hand():
    row, empty = np.array([[1, 1, 0, 0]], np.uint8), np.zeros((1, 4), np.uint8)
    moved = np.array([[0, 1, 1, 0]], np.uint8)
    # Slice 1: Dice 2·1 / 4; slice 2: empty in both, left out; slice 3: predicted where nothing is, 0. Hausdorff: the
    # pixels of slice 3 are 2 slices and, at the least, 0 pixels away from those of slice 1.
    volume = of_one_class(moved, empty, row), of_one_class(row, empty, empty)
    distance = 2.0
    expected = 0.4 * (0.5 + 0) / 2 + 0.6 * (1 - distance / np.sqrt(3**2 + 1 + 4**2))
    assert uw_madison([volume]) == pytest.approx(expected)


def test_uw_madison_means_go_over_all_slices_and_all_volumes_and_classes():
    row, other = np.array([[1, 1, 0, 0]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8)
    perfect, wrong = (of_one_class(row, row), of_one_class(row, row)), (of_one_class(row), of_one_class(other))
    # Dice 1, 1 and 0 over three slices; Hausdorff 1 and 1 − 2 / √(1 + 1 + 16) over two volumes.
    expected = 0.4 * 2 / 3 + 0.6 * (1 + 1 - 2 / np.sqrt(18)) / 2
    assert uw_madison([perfect, wrong]) == pytest.approx(expected)
    both = np.concatenate([perfect[0], perfect[0]], axis=1), np.concatenate([perfect[1], perfect[1]], axis=1)
    assert uw_madison([both, wrong]) == pytest.approx(0.4 * 4 / 5 + 0.6 * (2 + 1 - 2 / np.sqrt(18)) / 3)


def test_surfaces_of_all_volumes_are_one():
    small, large = np.ones((1, 1, 2, 2), np.uint8), np.ones((3, 1, 6, 6), np.uint8)
    missed = np.zeros_like(small)
    one, whole = surface_sums(small[:, 0], missed[:, 0])[1], surface_sums(large[:, 0], large[:, 0])[1]
    assert mean_surface_dice([(missed, small), (large, large)]) == pytest.approx(whole / (whole + one))


@pytest.mark.parametrize("metric", [uw_madison, mean_surface_dice])
def test_a_metric_of_nothing_is_refused(metric):
    empty = np.zeros((2, 1, 3, 3), np.uint8)
    with pytest.raises(ValueError, match="no volume holds a mask"):
        metric([(empty, empty)])


@pytest.mark.parametrize("metric", [uw_madison, mean_surface_dice])
@settings(max_examples=30, deadline=None)
@given(mask=MASKS, target=MASKS)
def test_a_metric_of_volumes_lies_between_zero_and_one_and_is_one_for_the_truth(metric, mask, target):
    if not (mask.any() and target.any()):
        return
    mask, target = mask[:, None], target[:, None]
    assert 0 <= metric([(mask, target)]) <= 1
    assert metric([(target, target)]) == pytest.approx(1)
