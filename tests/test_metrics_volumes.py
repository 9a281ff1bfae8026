"""Metrics of volumes: distances and means by hand, properties, and scipy's Hausdorff distance.

Volumes of 2 × 4 × 4 pixels have a diagonal of 6; of their axes, a step is 1/2, 1/4 and 1/4.
"""

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import directed_hausdorff

from pipeline.metrics import metric_names, volume_metric
from pipeline.metrics.volumes import hausdorff, hausdorff_score, mean_surface_dice, uw_madison

VOLUMES = arrays(np.uint8, (2, 4, 4), elements=st.integers(0, 1))


def pixels(*places, shape=(2, 4, 4)):
    """Ones at some places, zeros elsewhere."""
    mask = np.zeros(shape, dtype=np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def volume(*classes):
    """Predicted and true masks (D, C, H, W) from a pair (D, H, W) for each class."""
    mask, target = (np.stack(side, axis=1) for side in zip(*classes, strict=True))
    return mask, target


NOTHING = pixels()


# ---------------------------------------------------------------------------------------------- Hausdorff


def test_hausdorff_by_hand():
    mask, target = pixels((0, 0, 1), (0, 0, 2)), pixels((0, 0, 0), (1, 3, 2))
    # From (0, 0, 0) to (0, 0, 1) it is 1; from (1, 3, 2) to (0, 0, 2) it is √(1 + 9), and nothing is farther.
    assert hausdorff(mask, target) == pytest.approx(sqrt(10))


def test_hausdorff_is_the_larger_of_both_directions():
    few, many = pixels((0, 0, 0)), pixels((0, 0, 0), (0, 0, 3))
    # All of the few lie in the many; one of the many is 3 off.
    assert hausdorff(few, many) == hausdorff(many, few) == 3


def test_hausdorff_of_empty_masks():
    assert hausdorff(NOTHING, NOTHING) == 0
    assert hausdorff(pixels((0, 0, 0)), NOTHING) == hausdorff(NOTHING, pixels((0, 0, 0))) == inf


@given(VOLUMES, VOLUMES)
def test_hausdorff_equals_that_of_scipy(mask, target):
    if not mask.any() or not target.any():
        return
    places = np.argwhere(mask), np.argwhere(target)
    expected = max(directed_hausdorff(*places)[0], directed_hausdorff(*places[::-1])[0])
    assert hausdorff(mask, target) == pytest.approx(expected)


@given(VOLUMES, VOLUMES, VOLUMES)
def test_hausdorff_is_a_metric_distance(one, other, third):
    assert hausdorff(one, other) == hausdorff(other, one)
    assert (hausdorff(one, other) == 0) == np.array_equal(one, other)
    assert hausdorff(one, third) <= hausdorff(one, other) + hausdorff(other, third) + 1e-9


SECOND_COLUMN, LAST = pixels((0, 0, 2)), pixels((1, 3, 3))


@pytest.mark.parametrize(
    ("normalize", "near", "far"),
    [
        # The second pixel is 2 columns of 4 away; the last one 1 slice of 2, 3 rows of 4 and 3 columns of 4.
        ("axes", 2 / 4, 1.0),  # √(1/4 + 9/16 + 9/16) is more than 1
        ("cube", 2 / 4 / sqrt(3), sqrt((1 / 4 + 9 / 16 + 9 / 16) / 3)),
        ("diagonal", 2 / 6, sqrt(1 + 9 + 9) / 6),
    ],
)
def test_hausdorff_score_by_hand(normalize, near, far):
    assert hausdorff_score(pixels((0, 0, 0)), SECOND_COLUMN, normalize) == pytest.approx(1 - near)
    assert hausdorff_score(pixels((0, 0, 0)), LAST, normalize) == pytest.approx(1 - far)


@given(VOLUMES, VOLUMES)
def test_hausdorff_of_divided_positions_equals_that_of_scipy(mask, target):
    if not mask.any() or not target.any():
        return
    places = [np.argwhere(each) / mask.shape for each in (mask, target)]
    distance = max(directed_hausdorff(*places)[0], directed_hausdorff(*places[::-1])[0])
    assert hausdorff_score(mask, target) == pytest.approx(1 - min(distance, 1))
    assert hausdorff_score(mask, target, "cube") == pytest.approx(1 - distance / sqrt(3))


def test_hausdorff_score_of_one_empty_is_zero_and_of_equal_masks_one():
    mask = pixels((0, 1, 1), (1, 2, 3))
    assert hausdorff_score(mask, NOTHING) == hausdorff_score(NOTHING, mask) == 0
    assert hausdorff_score(mask, mask) == 1


@given(VOLUMES, VOLUMES)
def test_hausdorff_score_is_symmetric_and_between_zero_and_one(mask, target):
    for normalize in ("axes", "cube", "diagonal"):
        assert 0 <= hausdorff_score(mask, target, normalize) == hausdorff_score(target, mask, normalize) <= 1


# ---------------------------------------------------------------------------------------------- UW-Madison

# First slice: one pixel is shared, of three predicted and two true: Dice 2·1 / (3 + 2). The third predicted pixel is
# 2 of 4 columns from the nearest true one. The second slice is empty in both.
ROW = pixels((0, 0, 1), (0, 0, 2), (0, 0, 3)), pixels((0, 0, 0), (0, 0, 1))
ROW_SCORE = 0.4 * (2 * 1 / (3 + 2)) + 0.6 * (1 - 2 / 4)


def test_uw_madison_ignores_a_slice_that_is_empty_in_both_by_hand():
    assert uw_madison([volume(ROW)]) == pytest.approx(ROW_SCORE) == pytest.approx(0.46)


def test_uw_madison_ignores_a_class_that_is_empty_in_both():
    assert uw_madison([volume((NOTHING, NOTHING), ROW)]) == pytest.approx(ROW_SCORE)


def test_uw_madison_measures_distances_across_slices():
    # The right place, one slice of two too deep: no Dice in either slice.
    assert uw_madison([volume((pixels((0, 2, 2)), pixels((1, 2, 2))))]) == pytest.approx(0.6 * (1 - 1 / 2))


def test_uw_madison_of_a_false_positive_or_missed_class_is_0():
    full = pixels((0, 0, 0))
    assert uw_madison([volume((full, NOTHING))]) == uw_madison([volume((NOTHING, full))]) == 0


def test_uw_madison_averages_slices_of_all_volumes_and_classes_in_one():
    both = pixels((0, 1, 1), (1, 1, 1))
    # Slices: .4 of ROW, 1 and 1 of the perfect class, 1 and 1 of the perfect volume. Distances: 1/2, 1 and 1.
    score = uw_madison([volume(ROW, (both, both)), volume((NOTHING, NOTHING), (both, both))])
    assert score == pytest.approx(0.4 * (0.4 + 4) / 5 + 0.6 * (1 / 2 + 2) / 3)


def test_uw_madison_takes_volumes_of_different_sizes():
    small, large = pixels((0, 0, 0), shape=(1, 2, 2)), pixels((0, 0, 0), (0, 0, 4), shape=(1, 4, 8))
    # Dice 0 and 2·1 / (1 + 2), distances of 1 column of 2 and 4 columns of 8; of the diagonals, 1 of 3 and 4 of 9.
    shifted, half = pixels((0, 0, 1), shape=(1, 2, 2)), pixels((0, 0, 0), shape=(1, 4, 8))
    volumes = [volume((shifted, small)), volume((half, large))]
    assert uw_madison(volumes) == pytest.approx(0.4 * (0 + 2 / 3) / 2 + 0.6 * (1 / 2 + 1 / 2) / 2)
    by_diagonal = volume_metric("uw_madison(normalize=diagonal)")(volumes)
    assert by_diagonal == pytest.approx(0.4 * (0 + 2 / 3) / 2 + 0.6 * (2 / 3 + 5 / 9) / 2)


# ---------------------------------------------------------------------------------------------- surfaces

VOXEL = pixels((0, 1, 1))
VOXEL_AREA = 8 * sqrt(3) / 8  # a triangle at each of eight corners
PAIR = pixels((0, 1, 1), (0, 1, 2))
PAIR_AREA = 8 * sqrt(3) / 8 + 4 * sqrt(1 / 2)  # and an edge point on each of four edges


def test_surface_dice_is_the_mean_over_volumes_and_classes():
    # The larger perfect pair counts as much as the voxel that is not there; what is empty in both does not count.
    perfect, invented, empty = (PAIR, PAIR), (VOXEL, NOTHING), (NOTHING, NOTHING)
    assert mean_surface_dice([volume(perfect), volume(invented), volume(empty)]) == pytest.approx(1 / 2)
    assert mean_surface_dice([volume(perfect, invented, empty)]) == pytest.approx(1 / 2)


def test_surfaces_of_volumes_and_classes_can_be_pooled():
    perfect, invented = (PAIR, PAIR), (VOXEL, NOTHING)
    expected, pooled = 2 * PAIR_AREA / (2 * PAIR_AREA + VOXEL_AREA), volume_metric("surface_dice(average=surfaces)")
    assert pooled([volume(perfect), volume(invented)]) == pytest.approx(expected)
    assert pooled([volume(perfect, invented)]) == pytest.approx(expected)


def test_surface_of_one_voxel_in_two_by_hand():
    # All of the voxel's points lie on the pair's surface; of the pair's, four corners do not.
    expected = (VOXEL_AREA + PAIR_AREA - 4 * sqrt(3) / 8) / (VOXEL_AREA + PAIR_AREA)
    assert mean_surface_dice([volume((VOXEL, PAIR))]) == pytest.approx(expected)


# ---------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("name", metric_names("volumes", complete=True))
def test_volume_metrics_of_empty_target_and_prediction_are_nan(name):
    assert np.isnan(volume_metric(name)([volume((NOTHING, NOTHING))]))
    assert np.isnan(volume_metric(name)([]))


@pytest.mark.parametrize("name", metric_names("volumes", complete=True))
@settings(deadline=None)  # the first surface builds a table of all blocks
@given(masks=arrays(np.uint8, (2, 2, 3, 4), elements=st.integers(0, 1)), seed=st.integers(0, 9))
def test_volume_metrics_lie_between_0_and_1_and_are_1_if_perfect(name, masks, seed):
    target = (np.random.default_rng(seed).random(masks.shape) < 0.4).astype(np.uint8)
    there, back = volume_metric(name)([(masks, target)]), volume_metric(name)([(target, masks)])
    assert 0 <= there <= 1
    assert there == pytest.approx(back)
    assert volume_metric(name)([(target, target)]) == pytest.approx(1)
