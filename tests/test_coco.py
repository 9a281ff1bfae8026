"""COCO's polygons and runs, compared with pycocotools."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as cocoapi

from pipeline.data.coco import fill
from pipeline.rle import RLEError, mask_of_counts
from tests.odd_labels import SHAPE, SQUARE, SQUARE_COUNTS, SQUARE_LETTERS

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))


def star(rng):
    """A polygon of 3 to 12 corners around a point, (N, 2), within an image of 48×64."""
    corners = rng.integers(3, 13)
    angles, reach = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(5, 15, corners)
    return rng.uniform(16, 32, 2) + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def theirs(points, shape):
    with warnings.catch_warnings(action="ignore"):  # the library's warnings about numpy 2
        return cocoapi.decode(cocoapi.merge(cocoapi.frPyObjects([points.ravel().tolist()], *shape)))


def test_polygons_equal_those_of_coco_except_for_pixels_on_their_edges():
    rng, excess, lengths = np.random.default_rng(0), [], []
    for _ in range(200):
        points = star(rng)
        ours, coco = fill(points, (48, 64)), theirs(points, (48, 64))
        edges = np.hypot(*(points - np.roll(points, -1, axis=0)).T).sum()
        assert (ours != coco).sum() <= 0.2 * edges  # pixels with a centre very close to the edge
        excess.append(int(ours.sum()) - int(coco.sum()))
        lengths.append(edges)
    assert abs(sum(excess)) / sum(lengths) < 0.005  # masks are neither wider nor narrower


@given(st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 20)), min_size=3, max_size=9))
@settings(max_examples=100, deadline=None)
def test_a_pixel_is_filled_if_a_ray_from_its_centre_crosses_an_odd_number_of_edges(points):
    height, width = 9, 12
    expected = np.zeros((height, width), np.uint8)
    for row in range(height):
        for column in range(width):
            y, x = row + 0.5, column + 0.5
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                (y0, x0), (y1, x1) = sorted([(y0, x0), (y1, x1)])
                if y0 <= y < y1 and x0 + (y - y0) / (y1 - y0) * (x1 - x0) <= x:
                    expected[row, column] ^= 1
    assert np.array_equal(fill(np.array(points), (height, width)), expected)


def test_polygons_that_share_an_edge_have_no_common_pixel_and_no_gap():
    left = np.array([[0, 0], [4.5, 0], [2.5, 6], [0, 6]])
    right = np.array([[4.5, 0], [9, 0], [9, 6], [2.5, 6]])
    assert (fill(left, (6, 9)) + fill(right, (6, 9)) == 1).all()


@given(MASKS)
def test_runs_written_by_coco_are_decoded(mask):
    letters = cocoapi.encode(np.asfortranarray(mask))["counts"].decode()
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    assert np.array_equal(mask_of_counts(letters, mask.shape), mask)
    assert np.array_equal(mask_of_counts(counts, mask.shape), mask)


def test_runs_by_hand():
    assert np.array_equal(mask_of_counts(SQUARE_COUNTS, SHAPE), SQUARE)
    assert np.array_equal(mask_of_counts(SQUARE_LETTERS, SHAPE), SQUARE)


@pytest.mark.parametrize("counts", [[1.5, 52.5], [True, 53], [10**400, 1], "é", None, [], {}])
def test_invalid_counts_are_refused(counts):
    with pytest.raises(RLEError):
        mask_of_counts(counts, SHAPE)
