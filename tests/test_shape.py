"""Touching objects are separated where their mask is narrow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.postprocess.instances import components
from pipeline.postprocess.shape import _merge_basins, split_by_shape

VALUES = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 255))
SADDLE_RATIO = st.floats(0, 1)
THRESHOLD = st.integers(1, 255).map(lambda k: (k - 0.5) / 255)


def discs(shape, *places):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    union = [(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x, radius in places]
    return np.any(union, axis=0).astype(np.uint8) * 255


def dumbbell(bar, length=40, radius=20):
    """Two discs with a bar of `bar` pixels in height between them."""
    values = discs((61, 121), (30, 30, radius), (30, 30 + length + radius, radius))
    values[30 - bar // 2 : 30 + bar // 2 + 1, 30 : 30 + length + radius] = 255
    return values


@settings(max_examples=150, deadline=None)
@given(VALUES, THRESHOLD, SADDLE_RATIO)
def test_instances_partition_the_mask(values, threshold, ratio):
    labels, whole = split_by_shape(values, threshold, ratio), components(values, threshold)
    assert np.array_equal(labels > 0, values > 255 * threshold)
    for number in range(1, labels.max() + 1):  # each instance is connected, and inside one component
        assert components((labels == number).astype(np.uint8) * 255, 0.5).max() == 1
        assert len(np.unique(whole[labels == number])) == 1


@settings(max_examples=80, deadline=None)
@given(VALUES, THRESHOLD)
def test_a_saddle_ratio_of_0_gives_connected_components(values, threshold):
    assert np.array_equal(split_by_shape(values, threshold, 0), components(values, threshold))


@settings(max_examples=80, deadline=None)
@given(VALUES, THRESHOLD, SADDLE_RATIO, SADDLE_RATIO)
def test_a_larger_saddle_ratio_separates_more(values, threshold, one, other):
    few, many = (split_by_shape(values, threshold, ratio) for ratio in sorted((one, other)))
    pairs = set(zip(many.ravel().tolist(), few.ravel().tolist(), strict=True))
    assert len(pairs) == many.max() + (few == 0).any()  # each of the many lies in one of the few


def test_two_slightly_overlapping_discs_are_separated_between_them():
    values = discs((40, 70), (20, 20, 14), (20, 46, 14))
    assert components(values, 0.5).max() == 1
    labels = split_by_shape(values, 0.5, 0.9)
    assert labels.max() == 2
    assert (labels[:, :33] != 2).all()
    assert (labels[:, 34:] != 1).all()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_separation_does_not_depend_on_object_size(scale):
    values = np.kron(discs((40, 70), (20, 20, 12), (20, 42, 12)), np.ones((scale, scale), np.uint8))
    assert split_by_shape(values, 0.5, 0.9).max() == 2
    assert split_by_shape(values, 0.5, 0.3).max() == 1


def test_a_narrow_bar_between_discs_is_separated():
    # The distance transform is about 20 in the discs and 11 in a bar of 21 pixels: a saddle ratio of .55.
    assert split_by_shape(dumbbell(21), 0.5, 0.7).max() == 2
    assert split_by_shape(dumbbell(21), 0.5, 0.4).max() == 1


def test_a_disc_and_an_ellipse_are_not_separated():
    rows, columns = np.ogrid[:60, :120]
    ellipse = ((rows - 30) / 12) ** 2 + ((columns - 60) / 50) ** 2 <= 1
    for values in (discs((60, 60), (30, 30, 20)), ellipse.astype(np.uint8) * 255):
        assert split_by_shape(values, 0.5, 0.9).max() == 1


def test_a_speck_beside_a_large_object_is_an_object():
    values = discs((40, 40), (20, 20, 12))
    values[20, 34] = 255  # the smoothed distance between them is above its own
    assert split_by_shape(values, 0.5, 0.9).max() == 2
    assert split_by_shape(values, 0.5, 0.9, min_area=2).max() == 1


def test_a_full_mask_is_one_instance_and_an_empty_one_none():
    assert split_by_shape(np.full((9, 12), 255, np.uint8), 0.5, 0.9).tolist() == np.ones((9, 12)).tolist()
    assert not split_by_shape(np.zeros((9, 12), np.uint8), 0.5, 0.9).any()


def test_basins_are_merged_at_the_highest_saddle_first():
    basins = np.array([[1, 1, 2, 2, 3]])
    distance = np.array([[10, 5.5, 6, 5.45, 8]])
    # Both saddles of the middle basin are above .9 of its peak of 6. It is merged at the higher saddle; after that the
    # lower saddle separates two peaks of 10 and 8.
    labels = _merge_basins(basins, distance, 0.9)
    assert len(set(labels[0, :4])) == 1
    assert labels[0, 4] != labels[0, 0]
