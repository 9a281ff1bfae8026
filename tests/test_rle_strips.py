"""RLE of strips and of windows equals that of the whole mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.rle import Dialect
from pipeline.rle.strips import runs_of_strips, window_of_runs

DIALECTS = [
    Dialect(),
    Dialect(order="row", empty="-1"),
    Dialect(base=0, relative=True),
    Dialect(form="list"),
    Dialect(form="coco"),
]
MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


def split_into_strips(mask, dialect, borders):
    """Split a mask into strips of whole columns, or rows."""
    lines = mask if dialect.order == "row" else mask.T
    parts = np.split(lines, sorted({border % len(lines) for border in borders} - {0}))
    return [part if dialect.order == "row" else part.T for part in parts]


@pytest.mark.parametrize("dialect", DIALECTS)
@given(mask=MASKS, borders=st.lists(st.integers(0, 100), max_size=4))
def test_encoding_strips_equals_encoding_the_whole_mask(dialect, mask, borders):
    assert dialect.encode_strips(split_into_strips(mask, dialect, borders)) == dialect.encode(mask)


def test_a_run_across_two_strips_is_one_run():
    full = np.ones((3, 2), dtype=bool)
    (starts, ends), pixels = runs_of_strips([full, full, full], "column")
    assert (starts.tolist(), ends.tolist(), pixels) == ([0], [18], 18)
    assert Dialect().encode_strips([full, full]) == "1 12"


def test_strips_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="strips of 3 and 4 pixels across: expected one mask, in whole columns"):
        runs_of_strips([np.zeros((3, 2), bool), np.zeros((4, 2), bool)], "column")


@pytest.mark.parametrize("dialect", DIALECTS)
@given(mask=MASKS, corners=st.tuples(*[st.integers(0, 100)] * 4))
def test_a_window_of_runs_equals_the_window_of_the_mask(dialect, mask, corners):
    height, width = mask.shape
    top, left = corners[0] % height, corners[1] % width
    window = slice(top, top + 1 + corners[2] % (height - top)), slice(left, left + 1 + corners[3] % (width - left))
    runs = dialect.runs(dialect.encode(mask), mask.shape)
    assert (dialect.window(runs, mask.shape, window) == mask[window]).all()


def test_a_window_of_adjacent_runs_contains_all_pixels():
    runs = Dialect().runs("2 2 4 3 9 1", (3, 3))
    painted = window_of_runs(runs, (3, 3), (slice(1, 3), slice(0, 3)), "column")
    assert painted.tolist() == [[1, 1, 0], [1, 1, 1]]
