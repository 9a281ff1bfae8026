"""Surface Dice: by hand, by its laws, and beside its authors' own package."""

import numpy as np
import pytest
import surface_distance as authors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline.metrics.surface import surface_dice, surface_sums

FLAT = arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 1))
SOLID = arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3), elements=st.integers(0, 1))
MASKS = st.one_of(FLAT, SOLID)
TOLERANCE = st.sampled_from([0, 1, 1.5, 3])
OF_THE_PACKAGE = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def square(shape, corner, side):
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(start, start + side) for start in corner)] = 1
    return mask


def blobs(shape, seed):
    """Two masks of smooth blobs that differ a little."""
    rng = np.random.default_rng(seed)
    ours = ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    theirs = ours + 0.3 * ndimage.gaussian_filter(rng.standard_normal(shape), 2.0)
    return (ours > 0.02).astype(np.uint8), (theirs > 0.02).astype(np.uint8)


def by_the_authors(mask, target, tolerance, spacing):
    # Their edges are cut off where a mask reaches the image's: a border of zeros gives both the same surface.
    padded = [np.pad(each.astype(bool), 2) for each in (mask, target)]
    distances = authors.compute_surface_distances(*padded, spacing)
    return authors.compute_surface_dice_at_tolerance(distances, tolerance)


def test_length_of_a_square_is_its_sides_with_cut_corners():
    # A contour through the middle of a block's sides: 4 sides of 2 straight steps, and 4 corners of √½.
    shared, possible = surface_sums(square((9, 9), (3, 3), 3), square((9, 9), (3, 3), 3))
    assert possible == pytest.approx(2 * (4 * 2 + 4 * np.sqrt(0.5)))
    assert shared == pytest.approx(possible)


def test_two_squares_one_pixel_apart():
    one, other = square((9, 9), (3, 3), 3), square((9, 9), (4, 3), 3)
    # Left and right, both contours pass three blocks: there each has two straight steps of 1 and a corner of √½.
    corner, whole = np.sqrt(0.5), 4 * 2 + 4 * np.sqrt(0.5)
    assert surface_dice(one, other) == pytest.approx(2 * 2 * (2 + corner) / (2 * whole))
    assert surface_dice(one, other, tolerance=1) == 1


def test_spacing_stretches_distances():
    one, other = square((9, 9), (3, 3), 3), square((9, 9), (4, 3), 3)
    assert surface_dice(one, other, tolerance=1, spacing=(2, 1)) < 1
    assert surface_dice(one, other, tolerance=2, spacing=(2, 1)) == 1


def test_boxes_in_three_dimensions():
    one, other = square((7, 7, 7), (2, 2, 2), 3), square((7, 7, 7), (3, 2, 2), 3)
    assert surface_dice(one, one) == 1
    assert 0 < surface_dice(one, other) < 1
    assert surface_dice(one, other, tolerance=1) == 1
    assert surface_dice(one, square((7, 7, 7), (0, 0, 0), 1)) == 0


def test_a_mask_has_a_surface_at_the_images_edge():
    full = np.ones((4, 5), np.uint8)
    assert surface_sums(full, full)[1] == pytest.approx(2 * (2 * 3 + 2 * 4 + 4 * np.sqrt(0.5)))


def test_without_any_surface_it_is_not_defined():
    empty = np.zeros((4, 5), np.uint8)
    assert np.isnan(surface_dice(empty, empty))
    assert surface_dice(empty, np.ones((4, 5), np.uint8)) == 0


@settings(max_examples=80, deadline=None)
@given(MASKS, TOLERANCE, st.randoms(use_true_random=False))
def test_it_is_symmetric_between_zero_and_one_and_grows_with_the_tolerance(mask, tolerance, random):
    target = np.roll(mask, random.randint(0, 2), axis=random.randint(0, mask.ndim - 1))
    shared, possible = surface_sums(mask, target, tolerance)
    assert surface_sums(target, mask, tolerance) == pytest.approx((shared, possible))
    assert -1e-9 <= shared <= possible + 1e-9
    assert surface_sums(mask, target, tolerance + 1)[0] >= shared - 1e-9


@settings(max_examples=40, deadline=None)
@given(MASKS)
def test_a_mask_is_its_own_surface(mask):
    shared, possible = surface_sums(mask, mask)
    assert shared == pytest.approx(possible)


@OF_THE_PACKAGE
@pytest.mark.parametrize("tolerance", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1, 1), (2, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_in_two_dimensions_it_is_the_authors(seed, spacing, tolerance):
    mask, target = blobs((40, 50), seed)
    assert surface_dice(mask, target, tolerance, spacing) == pytest.approx(
        by_the_authors(mask, target, tolerance, spacing), abs=1e-9
    )


@OF_THE_PACKAGE
@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_in_three_dimensions_it_is_the_authors_but_for_how_triangles_are_cut(seed, tolerance):
    # Theirs come from a table of their own: where a block's surface is not flat, its area depends on how it is cut.
    mask, target = blobs((14, 18, 16), seed)
    assert surface_dice(mask, target, tolerance) == pytest.approx(
        by_the_authors(mask, target, tolerance, (1, 1, 1)), abs=0.003
    )


@pytest.mark.parametrize("shapes", [((4, 5), (5, 4)), ((4,), (4,)), ((2, 2, 2, 2),) * 2])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match=r"expected one shape, \(H, W\) or \(D, H, W\)"):
        surface_dice(*(np.ones(shape, np.uint8) for shape in shapes))
