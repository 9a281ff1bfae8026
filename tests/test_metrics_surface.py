"""Surface Dice: contours and surfaces by hand, properties, and the authors' package.

A square's contour runs through the points between pixels. It is 1 long around a point on its side and √½ around a
corner, which is cut; a box has 1 around a point of a face, √½ on an edge, and a triangle of √3/8 at a corner.
"""

from math import hypot, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from surface_distance import metrics as authors

from pipeline.metrics import surface as surface_module
from pipeline.metrics.surface import surface_dice, surface_sums

FLAT = arrays(np.uint8, (4, 5), elements=st.integers(0, 1))
SOLID = arrays(np.uint8, (3, 3, 4), elements=st.integers(0, 1))
PAIRS = st.one_of(st.tuples(FLAT, FLAT), st.tuples(SOLID, SOLID))
UNEVEN = (0.5, 1.0, 2.0)  # between pixels along each axis


def block(shape, *spans):
    """Ones where each axis lies in its span, the end left out."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(*span) for span in spans)] = 1
    return mask


def square(column):
    """Four by four pixels, from row 2 and a column on."""
    return block((8, 12), (2, 6), (column, column + 4))


def surface(mask, spacing=None):
    """Length or area of a mask's surface."""
    return surface_sums(mask, mask, spacing=spacing)[1] / 2


# ---------------------------------------------------------------------------------------------- by hand


def test_square_has_three_points_on_a_side_and_four_corners():
    assert surface(square(2)) == pytest.approx(4 * 3 + 4 * sqrt(1 / 2))


def test_spacing_scales_sides_and_corners():
    # Points 3 apart down, 4 across: a corner is half the diagonal of 5.
    assert surface(square(2), (3, 4)) == pytest.approx(2 * 3 * 3 + 2 * 3 * 4 + 4 * 5 / 2)


def test_box_has_faces_edges_and_corners():
    # 4 × 4 × 4 points: 2 × 2 inside each face, 2 inside each edge.
    box = block((5, 6, 7), (1, 4), (1, 4), (2, 5))
    assert surface(box) == pytest.approx(6 * 4 + 12 * 2 * sqrt(1 / 2) + 8 * sqrt(3) / 8)


def test_spacing_scales_faces_edges_and_corners():
    box, (a, b, c) = block((5, 5, 5), (1, 4), (1, 4), (1, 4)), (1.0, 2.0, 5.0)
    faces = 2 * 4 * (a * b + b * c + c * a)
    edges = 4 * 2 * (a * hypot(b, c) + b * hypot(c, a) + c * hypot(a, b)) / 2
    # A corner's triangle has its points at a/2, b/2 and c/2.
    corners = 8 * sqrt((a * b) ** 2 + (b * c) ** 2 + (c * a) ** 2) / 8
    assert surface(box, (a, b, c)) == pytest.approx(faces + edges + corners)


def test_squares_one_pixel_apart_share_half_of_their_contours():
    # Shared are top and bottom, less one end: three points on either and a corner. The sides are one pixel off.
    shared, whole = 2 * (3 + sqrt(1 / 2)), 4 * 3 + 4 * sqrt(1 / 2)
    assert surface_dice(square(2), square(3)) == pytest.approx(2 * shared / (2 * whole)) == pytest.approx(0.5)
    assert surface_dice(square(2), square(3), tolerance=0.99) == pytest.approx(0.5)
    assert surface_dice(square(2), square(3), tolerance=1) == pytest.approx(1)


def test_squares_two_pixels_apart_share_more_than_half_within_one_pixel():
    # Top and bottom: three points and a corner. Of the side that lies inside the other square, the two points next to
    # its top and bottom; the middle of it, and the outer side with its corners, are two pixels off.
    shared, whole = 2 * (3 + sqrt(1 / 2)) + 2, 4 * 3 + 4 * sqrt(1 / 2)
    assert surface_dice(square(2), square(4), tolerance=1) == pytest.approx(shared / whole)


def test_tolerance_is_in_units_of_the_spacing():
    # One column apart is 4. Top and bottom coincide: three points of 4 and a corner of 5/2 on either.
    flat, whole = 2 * (3 * 4 + 5 / 2), 2 * 3 * 3 + 2 * 3 * 4 + 4 * 5 / 2
    dice = [surface_dice(square(2), square(3), tolerance, (3, 4)) for tolerance in (0, 3, 4)]
    # Within 3, a row: two points of 3, on the side inside the other square, are next to its top and bottom.
    assert dice == pytest.approx([flat / whole, (flat + 2 * 3) / whole, 1])


def test_boxes_one_pixel_apart_by_hand():
    # Boxes of 3 × 3 × 3 pixels, 4 × 4 × 4 points. Shared are three of the four rings of points around the direction of
    # the shift: two with 8 points on faces and 4 on edges, and one around an end: 8 on edges, 4 corners.
    one, other = (block((5, 5, 8), (1, 4), (1, 4), (start, start + 3)) for start in (1, 2))
    shared = 2 * (8 + 4 * sqrt(1 / 2)) + 8 * sqrt(1 / 2) + 4 * sqrt(3) / 8
    whole = 6 * 4 + 12 * 2 * sqrt(1 / 2) + 8 * sqrt(3) / 8
    assert surface_dice(one, other) == pytest.approx(shared / whole)
    assert surface_dice(one, other, tolerance=1) == pytest.approx(1)
    assert surface_dice(one, other, tolerance=1, spacing=(1, 1, 1.5)) < 1


def test_mask_at_the_edge_of_the_image_has_a_surface_there():
    assert surface(np.ones((4, 4), np.uint8)) == pytest.approx(surface(square(2)))
    assert surface_dice(np.ones((3, 4, 5), np.uint8), np.ones((3, 4, 5), np.uint8)) == 1


def test_diagonal_pixels_and_diagonal_holes_are_separated():
    apart = block((4, 4, 4), (1, 2), (1, 2), (1, 2)) | block((4, 4, 4), (1, 2), (2, 3), (2, 3))
    assert surface(apart) == pytest.approx(2 * sqrt(3))
    assert surface(1 - apart) - surface(np.ones_like(apart)) == pytest.approx(2 * sqrt(3))


# ---------------------------------------------------------------------------------------------- borders


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_two_empty_masks_are_nan_and_one_empty_mask_scores_0(shape):
    empty = np.zeros(shape, np.uint8)
    mask = empty.copy()
    mask[(1,) * len(shape)] = 1
    assert isnan(surface_dice(empty, empty))
    assert surface_dice(mask, empty, tolerance=100) == surface_dice(empty, mask, tolerance=100) == 0


def test_other_shapes_axes_and_spacings_are_refused():
    flat, solid = np.zeros((2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"mask \(2, 3\) and target \(3, 2\)"):
        surface_dice(flat, flat.T)
    with pytest.raises(ValueError, match=r"expected one shape, \(H, W\) or \(D, H, W\)"):
        surface_dice(flat[0], flat[0])
    with pytest.raises(ValueError, match=r"expected one shape, \(H, W\) or \(D, H, W\)"):
        surface_dice(solid[None], solid[None])
    with pytest.raises(ValueError, match=r"spacing \(1, 1\) for a mask of shape \(2, 2, 3\): expected 3 numbers"):
        surface_dice(solid, solid, spacing=(1, 1))


# ---------------------------------------------------------------------------------------------- properties


@settings(deadline=None)
@given(PAIRS, st.sampled_from([0, 1, 1.5]))
def test_surface_dice_is_symmetric_between_0_and_1_and_1_for_equal_masks(pair, tolerance):
    mask, target = pair
    there, back = surface_dice(mask, target, tolerance), surface_dice(target, mask, tolerance)
    assert there == pytest.approx(back, nan_ok=True)
    assert isnan(there) == (not mask.any() and not target.any())
    assert isnan(there) or 0 <= there <= 1
    assert surface_dice(mask, mask, tolerance) == 1 or not mask.any()


@settings(deadline=None)  # the first time builds a table of all blocks
@given(PAIRS)
def test_a_larger_tolerance_never_lowers_the_score(pair):
    shares = [surface_sums(*pair, tolerance, UNEVEN[: pair[0].ndim])[0] for tolerance in (0, 0.5, 1, 2, 3, 100)]
    assert shares == sorted(shares)


@settings(max_examples=50, deadline=None)
@given(PAIRS, st.permutations([0, 1, 2]))
def test_transformed_volumes_score_the_same(pair, order):
    axes = [axis for axis in order if axis < pair[0].ndim]
    mask, target = (np.flip(each.transpose(axes), 0) for each in pair)
    turned = surface_sums(mask, target, 1.0, tuple(UNEVEN[axis] for axis in axes))
    assert turned == pytest.approx(surface_sums(*pair, 1.0, UNEVEN[: pair[0].ndim]))


@settings(deadline=None)
@given(st.one_of(FLAT, SOLID))
def test_a_mask_and_its_complement_have_the_same_surface(mask):
    framed = np.pad(mask, 1)
    assert surface(1 - framed) - surface(np.ones_like(framed)) == pytest.approx(surface(framed))


# ---------------------------------------------------------------------------------------------- the authors' package


def blobs(shape, seed):
    """Two smooth masks: independent, or, for an odd seed, equal except for some inverted pixels."""
    rng = np.random.default_rng(seed)
    one, other = (gaussian_filter(rng.normal(size=shape), 1.2) > 0 for _ in range(2))
    return one, one ^ (rng.random(shape) < 0.03) if seed % 2 else other


# SciPy's older names, which the package uses, still work and warn.
@pytest.mark.filterwarnings("ignore:.*namespace is deprecated:DeprecationWarning")
@pytest.mark.parametrize("tolerance", [0, 1, 1.6])
@pytest.mark.parametrize("spacing", [(1, 1), (2.0, 0.7), (1, 1, 1), (2.0, 1.0, 0.7)], ids=str)
def test_surface_dice_equals_that_of_the_authors_package(spacing, tolerance):
    for seed in range(6):
        mask, target = blobs((11, 12, 13)[: len(spacing)], seed)
        distances = authors.compute_surface_distances(target, mask, spacing)
        expected = authors.compute_surface_dice_at_tolerance(distances, tolerance)
        assert surface_dice(mask, target, tolerance, spacing) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("depth", [1, 15, 16, 17, 40])
def test_a_volume_in_slabs_has_the_surface_of_the_whole(monkeypatch, depth):
    rng = np.random.default_rng(depth)
    mask, target = ((rng.random((depth, 5, 6)) < 0.4).astype(np.uint8) for _ in range(2))
    in_slabs = surface_sums(mask, target)
    monkeypatch.setattr(surface_module, "SLAB", 1000)
    assert in_slabs == pytest.approx(surface_sums(mask, target), rel=1e-12)
