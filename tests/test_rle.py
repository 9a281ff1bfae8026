"""pipeline/rle against a reference of plain loops over pixels, and texts by hand."""

import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import TypeAdapter, ValidationError

from pipeline import rle
from pipeline.rle import Dialect, RLEError, pairs, pixels

VECTORS = json.loads((Path(__file__).parent / "data" / "rle.json").read_text())
SIIM = Dialect(base=0, relative=True, empty="-1")
SENNET = Dialect(order="row", empty="1 0")
DIALECTS = [
    Dialect(order, base, relative, empty)
    for order in ("column", "row")
    for base in (0, 1)
    for relative in (False, True)
    for empty in ("", "-1")
]
SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    # Beyond the sizes at which the implementation changes its method: 2**15 pixels, 640 columns.
    st.sampled_from([(1, 700), (700, 1), (3, 641), (57, 643), (181, 183), (640, 67), (51, 1283)]),
)


# The oracle: pixels one by one.


def in_order(mask, order):
    height, width = mask.shape
    if order == "column":
        return [int(mask[row, column]) for column in range(width) for row in range(height)]
    return [int(mask[row, column]) for row in range(height) for column in range(width)]


def oracle_runs(mask, order):
    runs, start = [], None
    for number, pixel in enumerate([*in_order(mask, order), 0]):
        if pixel and start is None:
            start = number
        if not pixel and start is not None:
            runs.append((start, number))
            start = None
    return runs


def oracle_text(mask, dialect):
    words, previous = [], 0
    for start, end in oracle_runs(mask, dialect.order):
        words += [start - previous if dialect.relative else start + dialect.base, end - start]
        previous = end
    return " ".join(str(word) for word in words) if words else dialect.empty


@st.composite
def masks(draw, shapes=SHAPES):
    """Masks of all densities: rows of one value, single pixels, noise, and corners that are set."""
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9, 1.0]))
    if draw(st.booleans()):
        mask = np.repeat(mask, 5, axis=draw(st.integers(0, 1)))[: shape[0], : shape[1]]
    for corner in draw(st.lists(st.sampled_from([(0, 0), (0, -1), (-1, 0), (-1, -1)]), max_size=2)):
        mask[corner] = ~mask[corner]
    return mask.astype(draw(st.sampled_from([np.uint8, np.bool_])))


def layouts(mask):
    """The same mask with different memory layouts."""
    wide = np.zeros((mask.shape[0] * 2, mask.shape[1] * 3), dtype=mask.dtype)
    wide[::2, ::3] = mask
    shifted = np.zeros(mask.size + 1, dtype=mask.dtype)  # not aligned to words of 8 bytes
    shifted[1:] = mask.reshape(-1)
    frozen = mask.copy()
    frozen.flags.writeable = False
    return {
        "C": np.ascontiguousarray(mask),
        "Fortran": np.asfortranarray(mask),
        "strided": wide[::2, ::3],
        "backwards": np.ascontiguousarray(mask[::-1, ::-1])[::-1, ::-1],
        "unaligned": shifted[1:].reshape(mask.shape),
        "read-only": frozen,
    }


# Round trip and oracle.


@pytest.mark.parametrize("name", VECTORS["dialects"])
@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_every_test_vector_is_encoded_and_decoded(case, name):
    dialect = Dialect(**VECTORS["dialects"][name])
    mask = np.array(case["mask"], dtype=np.uint8)
    assert dialect.encode(mask) == case["rle"][name]
    assert np.array_equal(dialect.decode(case["rle"][name], mask.shape), mask)


@settings(max_examples=150, deadline=None)
@given(masks(), st.sampled_from(DIALECTS))
def test_encode_equals_the_oracle_and_decode_inverts_it(mask, dialect):
    text = dialect.encode(mask)
    assert text == oracle_text(mask, dialect)
    assert np.array_equal(dialect.decode(text, mask.shape), mask)


@settings(max_examples=80, deadline=None)
@given(masks(), st.sampled_from(["column", "row"]))
def test_the_memory_layout_does_not_change_the_text(mask, order):
    dialect = Dialect(order=order)
    expected = oracle_text(mask, dialect)
    for name, same in layouts(mask).items():
        before = same.copy()
        assert dialect.encode(same) == expected, name
        assert np.array_equal(same, before), f"{name}: encode changed its input"


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.integers(0, 1)))
def test_column_order_is_row_order_of_the_transposed_mask(mask):
    assert Dialect(order="column").encode(mask) == Dialect(order="row").encode(mask.T)


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (8, 8), (5, 7), (200, 301), (3, 700)], ids=str)
def test_corner_masks_equal_the_oracle(shape, dialect):
    corners = {name: np.zeros(shape, dtype=np.uint8) for name in ("empty", "first", "last", "row", "column")}
    corners["full"] = np.ones(shape, dtype=np.uint8)
    corners["first"][0, 0] = corners["last"][-1, -1] = 1
    corners["row"][-1] = corners["column"][:, -1] = 1
    for name, mask in corners.items():
        text = dialect.encode(mask)
        assert text == oracle_text(mask, dialect), name
        assert np.array_equal(dialect.decode(text, shape), mask), name


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_encode_joins_runs_across_block_borders(order, layout, monkeypatch):
    monkeypatch.setattr(pixels, "BLOCK_BYTES", 64)  # borders inside lines, and a shorter last block
    monkeypatch.setattr(pixels, "TRANSPOSE_BELOW", 0)
    mask = layout(np.random.default_rng(0).random((37, 41)) < 0.5)
    assert Dialect(order=order).encode(mask) == oracle_text(mask, Dialect(order=order))


def test_encode_keeps_a_run_that_ends_on_the_last_pixel():
    mask = np.zeros((4, 4), dtype=np.uint8)
    mask[2:, 3] = 1
    assert rle.encode(mask) == "15 2"


def test_encode_of_a_full_mask_is_one_run():
    text = rle.encode(np.ones((101, 101), dtype=np.uint8))
    assert text == "1 10201"
    starts, ends = Dialect().runs(text)
    assert (starts.tolist(), ends.tolist()) == ([0], [10201])


def test_encode_continues_a_run_from_one_column_to_the_next():
    assert rle.encode(np.array([[0, 1], [0, 1], [1, 0]], dtype=np.uint8)) == "3 3"


def test_relative_form_by_hand():
    # Pixels 2, 3, 7: two before the first run, its length, three between, length 1.
    assert SIIM.encode(np.array([[0], [0], [1], [1], [0], [0], [0], [1]], dtype=np.uint8)) == "2 2 3 1"


@pytest.mark.parametrize("shape", [(500, 600), (300, 1000)], ids=str)
def test_a_text_of_600_000_characters_is_read_back(shape):
    mask = np.indices(shape).sum(axis=0).astype(np.uint8) % 2
    text = rle.encode(mask)
    assert len(text) > 600_000
    assert np.array_equal(rle.decode(text, shape), mask)


@pytest.mark.parametrize("shape", [(5, 7), (5, 700)], ids=str)
@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("text", ["", "3 4"])
def test_decode_returns_c_contiguous_uint8_that_can_be_written_to(shape, order, text):
    mask = Dialect(order=order).decode(text, shape)
    assert (mask.dtype, mask.shape) == (np.uint8, shape)
    assert mask.flags.c_contiguous
    assert mask.flags.writeable


# What decode accepts.


@pytest.mark.parametrize("dialect", [Dialect(), SIIM, SENNET, Dialect(empty="-"), Dialect(empty="authentic")])
def test_decode_reads_blank_text_and_the_empty_token_as_an_empty_mask(dialect):
    for text in ("", " ", "\n", dialect.empty, f" {dialect.empty}", f"{dialect.empty}\n"):
        assert not dialect.decode(text, (3, 4)).any()
        assert rle.area(dialect.runs(text)) == 0


@pytest.mark.parametrize("text", ["2 3 9 1", " 2 3 9 1 ", "2  3\t9 1", "2 3\n9 1\r\n", "002 3 9 01"])
def test_decode_ignores_additional_blanks_and_leading_zeros(text):
    starts, ends = Dialect().runs(text)
    assert (starts.tolist(), ends.tolist()) == ([1, 8], [4, 9])


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("shape", [(4, 3), (9, 700)], ids=str)  # at the wide one, inside a column
def test_decode_joins_adjacent_runs(order, shape):
    dialect = Dialect(order=order)
    assert np.array_equal(dialect.decode("2 3 5 2 7 1", shape), dialect.decode("2 6", shape))


def test_decode_accepts_a_run_up_to_the_last_pixel_and_refuses_one_beyond_it():
    assert rle.decode("12 1", (3, 4))[-1, -1] == 1
    with pytest.raises(RLEError, match="ends 1 pixels past the last of the 12 pixels of shape"):
        rle.decode("12 2", (3, 4))
    with pytest.raises(RLEError, match=r"run 2 \('13 1', character 5\)"):
        rle.decode("10 3 13 1", (3, 4))


# What decode refuses.


FAULTS = [
    ("1 3 5", r"run 2 \('5', character 4\): no length: expected pairs 'start length', got 3 numbers"),
    ("5", r"run 1 \('5', character 0\): no length"),
    ("1.0 3", r"run 1 \('1.0 3', character 0\): '1.0' is not an integer"),
    ("1 3 9 2.5", r"run 2 \('9 2.5', character 4\): '2.5' is not an integer"),
    ("1 nan", "'nan' is not an integer"),
    ("1,3", "'1,3' is not an integer: .* no '.' or ','"),
    ("5-3 2", "'5-3' is not an integer"),
    ("5 - 3 2", "'-' is not an integer"),
    ("+5 2", r"'\+5' is not an integer"),
    ("1_0 2", "'1_0' is not an integer"),
    ("0x1 2", "'0x1' is not an integer"),
    ("1e3 2", "'1e3' is not an integer"),
    ("\u0661 \u0662", "'\u0661' is not an integer"),
    ("1\u00a03", "is not an integer"),
    ("1\0 3", "is not an integer"),
    ("[1, 3]", r"'\[1,' is not an integer"),
    ("-1", r"run 1 \('-1', character 0\): no length"),
    ("1 3 10 0", r"run 2 \('10 0', character 4\): length 0, expected at least 1: drop the run"),
    ("1 3  10 -1", r"run 2 \('10 -1', character 5\): length -1, expected at least 1"),
    ("1 0", "set it as the dialect's `empty`"),
    ("0 2", r"run 1 \('0 2', character 0\): starts before the first pixel, which is 1"),
    ("-4 2", r"run 1 \('-4 2', character 0\): starts before the first pixel"),
    ("9 2 1 3", r"run 2 \('1 3', character 4\): starts 10 pixels before the previous run has ended: sort"),
    ("1 3 3 2", r"run 2 \('3 2', character 4\): starts 1 pixels before the previous run has ended"),
    ("1 3 1 3", "starts 3 pixels before the previous run has ended"),
    ("1 3 -9 3", "starts 13 pixels before the previous run has ended"),
    (
        "1 3 9999999999999 3",
        r"run 2 \('9999999999999 3', character 4\): no image has more than 1000000000000",
    ),
    ("1 9223372036854775807", "no image has more than"),
    ("1 3 " + "9" * 5000 + " 3", "no image has more than"),
    ("1 3 " + "9" * 5000 + " -3", "no image has more than"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=[text[:20] for text, _ in FAULTS])
def test_decode_refuses_an_invalid_text_with_run_and_position(text, message):
    with pytest.raises(RLEError, match=message):
        Dialect().runs(text)
    with pytest.raises(RLEError, match=message):
        rle.decode(text, (100, 100))


@pytest.mark.parametrize("order", ["column", "row"])
def test_decode_refuses_a_run_beyond_the_last_pixel_with_the_shape(order):
    with pytest.raises(RLEError, match=r"run 2 \('11 4', character 4\): ends 2 .* of shape \(3, 4\): check"):
        Dialect(order=order).decode("1 3 11 4 20 1", (3, 4))
    with pytest.raises(RLEError, match=r"run 2 \('4 3', character 4\): ends 1 pixels past"):
        Dialect(order=order, relative=True).decode("2 4 4 3", (3, 4))


def test_decode_refuses_a_negative_gap():
    with pytest.raises(RLEError, match=r"run 2 \('-1 3', character 4\): gap -1, expected at least 0"):
        SIIM.runs("2 4 -1 3")


def test_base_0_accepts_pixel_0_and_base_1_refuses_it():
    assert Dialect(base=0).decode("0 1", (2, 2))[0, 0] == 1
    with pytest.raises(RLEError, match="first pixel, which is 1: check the dialect's base"):
        Dialect(base=1).decode("0 1", (2, 2))


def test_decode_refuses_an_absolute_text_read_as_relative():
    mask = np.zeros((10, 10), dtype=np.uint8)
    mask[3:7, 2:9] = 1
    with pytest.raises(RLEError, match="past the last of the 100 pixels"):
        SIIM.decode(rle.encode(mask), mask.shape)


def test_decode_refuses_the_empty_token_of_another_dialect():
    with pytest.raises(RLEError, match="'-' is not an integer"):
        Dialect().runs("-")
    with pytest.raises(RLEError, match="'authentic' is not an integer"):
        SIIM.runs("authentic")


def test_decode_refuses_nan_with_the_options_of_read_csv():
    with pytest.raises(RLEError, match="got nan of type float: read the CSV with dtype=str and keep_default_na"):
        rle.decode(float("nan"), (3, 4))


def test_a_long_excerpt_is_shortened_in_the_message():
    with pytest.raises(RLEError, match=r"run 1 \('x{40}\.\.\.', character 0\)"):
        Dialect().runs("x" * 60 + " 1")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789 -.,", max_size=12))
def test_decode_refuses_a_text_or_returns_exactly_its_pixels(text):
    try:
        mask = rle.decode(text, (4, 5))
    except RLEError:
        return
    words = [int(word) for word in text.split()]
    painted = [pixel for start, length in zip(words[::2], words[1::2], strict=True)
               for pixel in range(start - 1, start - 1 + length)]  # fmt: skip
    assert painted == np.flatnonzero(mask.T.reshape(-1)).tolist()


@pytest.mark.parametrize("shape", [(0, 4), (4, -1), (4,), (4, 4, 1)], ids=str)
def test_decode_refuses_a_shape_that_is_not_two_positive_numbers(shape):
    with pytest.raises(ValueError, match=r"expected \(height, width\)"):
        rle.decode("", shape)


# What encode refuses.


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8, np.uint16])
def test_encode_refuses_other_dtypes(dtype):
    with pytest.raises(ValueError, match=f"mask is {np.dtype(dtype)}, expected bool or uint8: threshold"):
        rle.encode(np.zeros((3, 4), dtype=dtype))


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4), ()], ids=str)
def test_encode_refuses_other_numbers_of_axes(shape):
    with pytest.raises(ValueError, match=r"expected \(H, W\), so encode one channel at a time"):
        rle.encode(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)], ids=str)
def test_encode_refuses_a_mask_without_pixels(shape):
    with pytest.raises(ValueError, match="has no pixels"):
        rle.encode(np.zeros(shape, dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(masks(), st.data())
def test_encode_refuses_a_value_above_1_at_any_position(mask, data):
    mask = mask.astype(np.uint8)
    mask[data.draw(st.integers(0, mask.shape[0] - 1)), data.draw(st.integers(0, mask.shape[1] - 1))] = data.draw(
        st.sampled_from([2, 3, 128, 254, 255])
    )
    for same in layouts(mask).values():
        for order in ("column", "row"):
            with pytest.raises(ValueError, match="values other than 0 and 1: write `mask > 0`"):
                Dialect(order=order).encode(same)


def test_encode_refuses_a_mask_of_0_and_255_and_one_of_255_only():
    for mask in (np.eye(9, dtype=np.uint8) * 255, np.full((9, 9), 255, dtype=np.uint8)):
        with pytest.raises(ValueError, match="if 255 stands for 1"):
            rle.encode(mask)


# The dialect.


def test_a_dialect_refuses_an_unknown_order_or_base():
    with pytest.raises(ValueError, match=r"unknown order 'F'. Known orders: column, row"):
        Dialect(order="F")
    with pytest.raises(ValueError, match="expected 0 or 1, got 2"):
        Dialect(base=2)


def test_a_dialect_refuses_an_empty_token_that_a_mask_could_have():
    # '1 1' is a placeholder in some sample files, but also the text of a mask of the first pixel.
    with pytest.raises(ValueError, match="'1 1' is also the text of a mask with pixels"):
        Dialect(empty="1 1")
    assert SENNET.empty == "1 0"
    with pytest.raises(ValueError, match="'0 1' is also the text"):
        Dialect(base=0, empty="0 1")
    assert Dialect(base=1, empty="0 1").empty == "0 1"


def test_a_dialect_is_immutable_and_hashable():
    with pytest.raises(FrozenInstanceError):
        Dialect().base = 0
    assert {Dialect(): 1}[Dialect()] == 1


def test_pydantic_parses_a_dialect_and_refuses_an_unknown_key():
    adapter = TypeAdapter(Dialect)
    assert adapter.validate_python({"order": "row", "empty": "1 0"}) == SENNET
    with pytest.raises(ValidationError, match="ordr"):
        adapter.validate_python({"ordr": "row"})
    with pytest.raises(ValidationError, match="expected 0 or 1, got 2"):
        adapter.validate_python({"base": 2})


# Scores from runs alone.


@settings(max_examples=100, deadline=None)
@given(masks(), st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]), st.integers(0, 2**32 - 1), st.sampled_from(DIALECTS))
def test_overlap_and_area_equal_those_of_the_masks(a, density, seed, dialect):
    b = np.random.default_rng(seed).random(a.shape) < density
    runs_a, runs_b = (dialect.runs(dialect.encode(mask)) for mask in (a, b))
    shared = int((a.astype(bool) & b).sum())
    assert rle.overlap(runs_a, runs_b) == rle.overlap(runs_b, runs_a) == shared
    assert rle.area(runs_a) == int(a.sum())
    assert rle.overlap(runs_a, runs_a) == rle.area(runs_a)


def test_overlap_by_hand():
    # 1 2 3 4 . . 7 8 9 . with . . 3 4 5 6 7 . . 10: pixels 3, 4 and 7.
    assert rle.overlap(Dialect().runs("1 4 7 3"), Dialect().runs("3 5 10 1")) == 3
    assert rle.overlap(Dialect().runs("1 4"), Dialect().runs("5 4")) == 0


def test_overlap_of_adjacent_runs_counts_each_pixel_once():
    assert rle.overlap(Dialect().runs("1 2 3 2"), Dialect().runs("2 2")) == 2


@pytest.mark.parametrize(("a", "b"), [("", ""), ("", "1 4"), ("1 4", "")])
def test_overlap_with_an_empty_mask_is_0(a, b):
    assert rle.overlap(Dialect().runs(a), Dialect().runs(b)) == 0


@settings(max_examples=60, deadline=None)
@given(masks(), st.sampled_from(["column", "row"]))
def test_runs_equal_those_of_the_oracle(mask, order):
    dialect = Dialect(order=order)
    starts, ends = dialect.runs(dialect.encode(mask))
    assert (starts.dtype, ends.dtype) == (np.int64, np.int64)
    assert list(zip(starts.tolist(), ends.tolist(), strict=True)) == oracle_runs(mask, order)


@pytest.mark.parametrize("size", [1, 999, 1000, 5000])
def test_format_numbers_equals_str_of_each_number(size):
    rng = np.random.default_rng(size)
    numbers = (10 ** rng.uniform(0, 12, size)).astype(np.int64) - 1  # from 0, of 1 to 12 digits
    assert pairs.format_numbers(numbers) == " ".join(map(str, numbers.tolist()))
    small = numbers % 100
    assert pairs.format_numbers(small) == " ".join(map(str, small.tolist()))


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), max_size=4))
def test_find_overlap_names_the_two_masks_of_the_first_shared_pixel(values):
    runs = [rle.Dialect().runs(rle.encode(np.array(each, dtype=np.uint8).reshape(2, 4))) for each in values]
    columns = [[number for number, mask in enumerate(values) if mask[x::4][y]] for x in range(4) for y in range(2)]
    shared = [numbers for numbers in columns if len(numbers) > 1]  # in column order
    found = rle.find_overlap(runs)
    assert (found is None) == (not shared)
    if found:
        assert set(found) <= set(shared[0])
        assert found[0] < found[1]


@given(st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4))
def test_union_and_difference_of_runs_are_those_of_the_masks(values):
    masks = [np.array(each, dtype=np.uint8).reshape(3, 4) for each in values]
    runs = [rle.Dialect().runs(rle.encode(mask), (3, 4)) for mask in masks]
    together, first_alone = rle.union(runs), rle.without(runs[0], runs[-1])
    expected = rle.Dialect().runs(rle.encode(np.maximum.reduce(masks)), (3, 4))
    assert [each.tolist() for each in together] == [each.tolist() for each in expected]
    np.testing.assert_array_equal(pixels.mask_of_runs(first_alone, (3, 4), "column"), masks[0] & (1 - masks[-1]))
