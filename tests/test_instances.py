"""Boundaries between instances, and the instances that a mask and boundaries give."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline.data.boundaries import touching_boundary
from pipeline.postprocess.instances import components, split_by_boundary

LABELS = arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 9)), elements=st.integers(0, 3))
VALUES = arrays(np.uint8, st.tuples(st.just(2), st.integers(1, 10), st.integers(1, 9)), elements=st.integers(0, 255))
# Between two stored levels, so that a comparison is exact.
THRESHOLD = st.integers(1, 255).map(lambda k: (k - 0.5) / 255)


class Options(NamedTuple):
    """Arguments of `split_by_boundary`."""

    threshold: float
    boundary_threshold: float
    min_seed: int
    min_area: int


OPTIONS = st.builds(Options, THRESHOLD, THRESHOLD, min_seed=st.integers(1, 6), min_area=st.integers(1, 9))
TURNS = {
    "transposed": lambda a: a.swapaxes(-1, -2),
    "upside down": lambda a: a[..., ::-1, :],
    "left to right": lambda a: a[..., ::-1],
}


def split(values, options):
    return split_by_boundary(values, **options._asdict())


def disc(shape, y, x, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def perfect(labels, width=1.5):
    """Stored values of a perfect prediction."""
    return np.stack([labels > 0, touching_boundary(labels, width)]).astype(np.uint8) * 255


def border_by_loops(labels, width):
    """The boundary by its definition, by loops over pixels and neighbours."""
    height, across = labels.shape
    result = np.zeros_like(labels)
    for y, x in np.ndindex(labels.shape):
        seen = {
            int(labels[i, j])
            for i, j in np.ndindex(height, across)
            if (i - y) ** 2 + (j - x) ** 2 <= width**2 and labels[i, j]
        }
        result[y, x] = len(seen) >= 2
    return result


# boundary


@settings(max_examples=60, deadline=None)
@given(LABELS, st.sampled_from([1, 1.5, 2, 2.9, 4]))
def test_boundary_equals_its_definition(labels, width):
    result = touching_boundary(labels, width)
    assert result.dtype == np.uint8
    assert np.array_equal(result, border_by_loops(labels, width))


def test_boundary_of_two_touching_instances_by_hand():
    labels = np.repeat([[1, 1, 1, 2, 2, 2]], 3, axis=0)
    assert touching_boundary(labels, 1).tolist() == [[0, 0, 1, 1, 0, 0]] * 3
    assert touching_boundary(labels, 2).tolist() == [[0, 1, 1, 1, 1, 0]] * 3


def test_boundary_includes_narrow_gaps():
    labels = np.repeat([[1, 1, 0, 0, 2, 2]], 3, axis=0)
    assert not touching_boundary(labels, 1).any()
    assert touching_boundary(labels, 2).tolist() == [[0, 0, 1, 1, 0, 0]] * 3
    assert touching_boundary(labels, 3).tolist() == [[0, 1, 1, 1, 1, 0]] * 3


def test_a_single_instance_has_no_boundary():
    labels = disc((20, 22), 9, 9, 6).astype(np.int32)
    assert not touching_boundary(labels, 3).any()
    assert not touching_boundary(np.zeros((4, 5), np.int32), 3).any()


def test_boundary_distinguishes_labels_above_two_million():
    labels = np.array([[2**24 - 1, 2**24]])
    assert touching_boundary(labels, 1).tolist() == [[1, 1]]


@pytest.mark.parametrize("width", [0, 0.5, float("nan")])
def test_a_boundary_width_below_one_pixel_is_refused(width):
    with pytest.raises(ValueError, match="expected 1 or more"):
        touching_boundary(np.zeros((3, 3), np.int32), width)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((3, 3)), "float64 of shape"),
        (np.zeros((2, 3, 3), np.int32), "(2, 3, 3)"),
        (np.full((3, 3), -1), "-1 … -1"),
        (np.full((3, 3), 2**24 + 1), "16777217"),
    ],
)
def test_invalid_labels_are_refused(labels, said):
    with pytest.raises(ValueError, match="labels") as error:
        touching_boundary(labels, 1)
    assert said in str(error.value)


# components


@settings(max_examples=60, deadline=None)
@given(VALUES, st.integers(1, 6))
def test_components_equal_those_of_scipy_without_small_ones(values, min_area):
    mask = values[0] >= 128
    oracle, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = ndimage.sum_labels(mask, oracle, range(1, count + 1))
    labels = components(values[0], 0.5, min_area)
    kept = [k for k, size in enumerate(sizes, start=1) if size >= min_area]
    assert labels.dtype == np.int32
    assert labels.max() == len(kept)
    for number, k in enumerate(kept, start=1):  # scipy also numbers by the first pixel
        assert np.array_equal(labels == number, oracle == k)


def test_mask_includes_values_at_or_above_the_threshold():
    values = np.array([[127, 0, 128, 0, 129]], np.uint8)
    assert components(values, 0.5).tolist() == [[0, 0, 1, 0, 2]]


def test_touching_instances_are_one_component():
    labels = np.repeat([[1, 1, 2, 2, 0, 3]], 3, axis=0)
    assert components(perfect(labels)[0], 0.5).tolist() == [[1, 1, 1, 1, 0, 2]] * 3


# split


@settings(max_examples=150, deadline=None)
@given(VALUES, OPTIONS)
def test_union_of_instances_is_the_mask_without_small_instances(values, options):
    labels = split(values, options)
    mask = values[0] > options.threshold * 255
    whole = split(values, options._replace(min_area=1))
    assert labels.shape == mask.shape
    assert labels.dtype == np.int32
    assert np.array_equal(whole > 0, mask)
    small = [k for k in range(1, whole.max() + 1) if np.count_nonzero(whole == k) < options.min_area]
    assert np.array_equal(labels > 0, mask & ~np.isin(whole, small))


@settings(max_examples=150, deadline=None)
@given(VALUES, OPTIONS)
def test_instances_are_numbered_consecutively_by_their_first_pixel(values, options):
    labels = split(values, options)
    numbers, first = np.unique(labels[labels > 0], return_index=True)
    assert numbers.tolist() == list(range(1, labels.max() + 1))
    assert (np.diff(first) > 0).all()


@settings(max_examples=100, deadline=None)
@given(VALUES, OPTIONS)
def test_each_instance_is_one_component(values, options):
    labels = split(values, options)
    for k in range(1, labels.max() + 1):
        assert ndimage.label(labels == k, np.ones((3, 3)))[1] == 1


@settings(max_examples=100, deadline=None)
@given(VALUES, OPTIONS)
def test_each_instance_contains_exactly_one_seed(values, options):
    labels = split(values, options._replace(min_area=1))
    inside = (values[0] > options.threshold * 255) & (values[1] < options.boundary_threshold * 255)
    seeds, count = ndimage.label(inside)
    owners = [set(labels[seeds == k].tolist()) for k in range(1, count + 1) if (seeds == k).sum() >= options.min_seed]
    assert all(len(owner) == 1 for owner in owners)
    assert len(set().union(*owners)) == len(owners)


@settings(max_examples=60, deadline=None)
@given(VALUES, OPTIONS)
def test_without_boundaries_instances_are_components(values, options):
    values[1] = 0
    options = options._replace(min_seed=1, boundary_threshold=0.99)
    joined = components(values[0], options.threshold, options.min_area)
    # Components that touch only at a corner have two seeds.
    alone = ndimage.label(values[0] > options.threshold * 255)[1]
    if alone == components(values[0], options.threshold).max():
        assert np.array_equal(split(values, options), joined)


@pytest.mark.parametrize("turn", TURNS)
@settings(max_examples=60, deadline=None)
@given(VALUES, OPTIONS)
def test_a_transformed_image_has_the_same_number_of_instances(turn, values, options):
    # The pixels are also the same, except those that two seeds reach at the same level.
    options = options._replace(min_area=1)
    turned = split(np.ascontiguousarray(TURNS[turn](values)), options)
    assert turned.max() == split(values, options).max()
    assert np.array_equal(turned > 0, TURNS[turn](split(values, options)) > 0)


@pytest.mark.parametrize("turn", TURNS)
def test_a_transformed_image_has_the_same_instances_without_ties(turn):
    values = np.zeros((2, 7, 9), np.uint8)
    values[0, 1:6, 1:8] = 255
    values[1, :, 3:6] = [100, 250, 200]  # a ridge with a unique maximum
    labels, turned = (split_by_boundary(np.ascontiguousarray(v), 0.5, 0.3) for v in (values, TURNS[turn](values)))
    pairs = set(zip(TURNS[turn](labels).ravel().tolist(), turned.ravel().tolist(), strict=True))
    assert len(pairs) == 3  # background, and two instances, each paired with one


def test_two_touching_discs_are_separated():
    left, right = disc((30, 44), 14, 13, 9), disc((30, 44), 15, 30, 9)
    labels = np.where(right, 2, left)
    assert components(perfect(labels)[0], 0.5).max() == 1
    found = split_by_boundary(perfect(labels), 0.5, 0.5)
    assert found.max() == 2
    assert np.count_nonzero(found != labels) <= 2  # pixels at equal distance


def test_perfect_maps_give_the_instances_except_for_their_boundary_pixels():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, (60, 80), (25, 2))
    rows, columns = np.mgrid[:60, :80]
    nearest = np.hypot(rows[..., None] - places[:, 0], columns[..., None] - places[:, 1])
    labels = np.where(nearest.min(axis=2) < 9, nearest.argmin(axis=2) + 1, 0)  # cells without gaps
    found = split_by_boundary(perfect(labels), 0.5, 0.5)
    assert np.array_equal(found > 0, labels > 0)
    away = (labels > 0) & (touching_boundary(labels, 1.5) == 0)
    pairs = set(zip(labels[away].tolist(), found[away].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_a_diagonal_boundary_of_one_pixel_separates_instances():
    values = np.zeros((2, 8, 8), np.uint8)
    values[0] = 255
    np.fill_diagonal(values[1], 255)
    assert split_by_boundary(values, 0.5, 0.5).max() == 2


def test_boundary_includes_values_at_or_above_the_threshold():
    values = np.full((2, 3, 7), 255, np.uint8)
    for crest, count in ((127, 1), (128, 2)):  # .5 lies between the two
        values[1] = [0, 0, 0, crest, 0, 0, 0]
        assert split_by_boundary(values, 0.5, 0.5).max() == count


def test_boundary_pixels_connected_at_a_corner_belong_to_that_seed():
    values = np.array([[[255, 0], [0, 255]], [[0, 0], [0, 255]]], np.uint8)
    assert split_by_boundary(values, 0.5, 0.5).tolist() == [[1, 0], [0, 1]]


def test_an_object_of_boundary_pixels_only_is_one_instance():
    values = np.zeros((2, 5, 9), np.uint8)
    values[0, 1:4, 1:3] = values[0, 1:4, 5:8] = 255
    values[1, :, 5:8] = 255
    labels = split_by_boundary(values, 0.5, 0.5)
    assert labels[2].tolist() == [0, 1, 1, 0, 0, 2, 2, 2, 0]
    assert np.array_equal(split_by_boundary(values, 0.5, 0.5, min_seed=0, min_area=0), labels)


def test_a_small_seed_is_merged_into_its_neighbour():
    values = np.zeros((2, 5, 9), np.uint8)
    values[0] = 255
    values[1, :, 6] = 255
    values[1, :, 8] = 255  # between them, 5 pixels of seed
    assert split_by_boundary(values, 0.5, 0.5, min_seed=5).max() == 2
    assert split_by_boundary(values, 0.5, 0.5, min_seed=6).max() == 1


def test_instances_meet_at_the_ridge_of_the_boundary():
    values = np.zeros((2, 3, 11), np.uint8)
    values[0] = 255
    values[1] = [0, 0, 130, 140, 150, 160, 170, 180, 250, 0, 0]
    assert split_by_boundary(values, 0.5, 0.5)[1].tolist()[:8] == [1] * 8


def test_an_empty_image_has_no_instance():
    values = np.zeros((2, 6, 7), np.uint8)
    values[1] = 255
    assert not split_by_boundary(values, 0.5, 0.5).any()
    assert not components(values[0], 0.5).any()


def test_values_without_a_boundary_channel_are_refused():
    with pytest.raises(ValueError, match="a mask and its boundaries"):
        split_by_boundary(np.zeros((1, 6, 7), np.uint8), 0.5, 0.5)
