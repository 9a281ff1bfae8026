"""The component tree's counts against a loop of cc3d over all thresholds, and by hand."""

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.numba_jit import cached_njit
from pipeline.postprocess.component_tree import component_counts
from pipeline.postprocess.search import AREAS
from pipeline.postprocess.threshold_counts import count_levels

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=14) | st.sampled_from([(1, 1), (1, 40), (40, 1), (2, 31)])
ELEMENTS = [
    st.integers(0, 255),
    st.sampled_from([0, 1, 128, 255]),  # plateaus
    st.sampled_from([100, 101]),  # the background has no level of its own
    st.sampled_from([0, 0, 0, 200]),
]


def looped(values, target, areas):
    """(2, A, 255): pixels predicted, and those of them that are true, from 255 masks."""
    counts = np.zeros((2, len(areas), 255), dtype=np.int64)
    for k in range(1, 256):
        labels = cc3d.connected_components((values >= k).astype(np.uint8), connectivity=8)
        sizes = np.bincount(labels.ravel())
        for row, area in enumerate(areas):
            kept = (labels > 0) & (sizes[labels] >= area)
            counts[:, row, k - 1] = (kept & (target != 255)).sum(), (kept & (target == 1)).sum()
    return counts


def agrees_with_the_loop(values, target, areas):
    counts = component_counts(values, target, areas)
    expected = looped(values, target, areas)
    assert np.array_equal(counts.predicted, expected[0])
    assert np.array_equal(counts.intersection, expected[1])
    assert (counts.target == (target == 1).sum()).all()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data(), SHAPES, st.sampled_from(ELEMENTS))
def test_tree_counts_equal_those_of_a_loop_over_thresholds(data, shape, elements):
    values = data.draw(arrays(np.uint8, shape, elements=elements))
    target = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255])))
    agrees_with_the_loop(values, target, np.array([0, 1, 2, 3, 5, 9, 40]))


@pytest.mark.parametrize("blur", [1, 5])
def test_tree_counts_equal_those_of_the_loop_on_a_larger_image(blur):
    # Noise has as many components as pixels allow, its running sum few of all sizes that merge often.
    rng = np.random.default_rng(blur)
    noise = sum(np.roll(rng.normal(size=(61, 47)).cumsum(axis=0), step, axis=1) for step in range(blur))
    values = np.rint(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    agrees_with_the_loop(values, rng.integers(0, 2, values.shape).astype(np.uint8), AREAS[::4])


@pytest.mark.parametrize("value", [0, 1, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_a_constant_image_is_one_component_up_to_its_value(shape, value):
    counts = component_counts(np.full(shape, value, np.uint8), np.ones(shape, np.uint8), [0, 5, 9, 36])
    size = shape[0] * shape[1]
    expected = np.zeros((4, 255), np.int64)
    expected[:, :value] = np.where(size >= np.array([0, 5, 9, 36]), size, 0)[:, None]
    assert np.array_equal(counts.predicted, expected)
    assert np.array_equal(counts.intersection, expected)


def test_two_peaks_and_their_saddle_by_hand():
    # At 51 … 90 all four are one component; at 91 … 100 the right peak of one pixel stands beside two on the left.
    values, target = np.array([[100, 100, 50, 90]], np.uint8), np.array([[1, 0, 0, 1]], np.uint8)
    counts = component_counts(values, target, [1, 2, 3])
    at = [50 - 1, 51 - 1, 90 - 1, 91 - 1, 100 - 1, 101 - 1]
    assert counts.predicted[:, at].tolist() == [[4, 3, 3, 2, 2, 0], [4, 2, 2, 2, 2, 0], [4, 0, 0, 0, 0, 0]]
    assert counts.intersection[:, at].tolist() == [[2, 2, 2, 1, 1, 0], [2, 1, 1, 1, 1, 0], [2, 0, 0, 0, 0, 0]]


def test_pixels_that_touch_at_a_corner_are_connected():
    counts = component_counts(np.array([[9, 0], [0, 9]], np.uint8), np.ones((2, 2), np.uint8), [2])
    assert counts.predicted[0, :10].tolist() == [2] * 9 + [0]


def test_opposite_edges_of_the_image_are_not_connected():
    values = np.array([[0, 0, 8], [8, 0, 0], [0, 0, 8]], np.uint8)
    assert not component_counts(values, np.ones_like(values), [2]).predicted.any()


@given(arrays(np.uint8, (6, 9)), arrays(np.uint8, (6, 9), elements=st.integers(0, 1)))
def test_counts_of_components_of_any_size_are_the_histogram(values, target):
    counts, histogram = component_counts(values, target, [0, 1]), count_levels(values, target)
    for part, expected in zip(counts, histogram, strict=True):
        assert (part == expected).all()
        assert part.dtype == np.int64


def test_array_views_boolean_targets_and_read_only_values_are_supported():
    rng = np.random.default_rng(0)
    values, target = rng.integers(0, 256, (12, 10)).astype(np.uint8), rng.integers(0, 2, (12, 10)).astype(np.uint8)
    expected = component_counts(values[::2, 1:].copy(), target[::2, 1:].copy(), [3])
    values.flags.writeable = False
    counts = component_counts(values[::2, 1:], target[::2, 1:].astype(bool), [3])
    assert all(np.array_equal(part, other) for part, other in zip(counts, expected, strict=True))


@pytest.mark.parametrize(
    ("values", "target", "areas", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), [0], "float64.*expected stored probabilities"),
        (np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2, 3)), [0], r"\(1, 2, 3\): expected.*\(H, W\)"),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2)), [0], r"\(2, 3\) and target \(3, 2\) differ"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3)), [3, 1], r"\[3, 1\] do not ascend"),
    ],
)
def test_invalid_values_or_targets_are_refused(values, target, areas, message):
    with pytest.raises(ValueError, match=message):
        component_counts(values, target, areas)


def test_source_in_a_read_only_folder_is_compiled_without_a_cache():
    def successor(number):
        return number + 1

    successor.__code__ = successor.__code__.replace(co_filename="nowhere.py")
    assert cached_njit(successor)(1) == 2
