"""COCO's compressed form against pycocotools, lists by hand, and decoding of whole tables against single texts."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as cocoapi

from pipeline import rle
from pipeline.rle import Dialect, RLEError, table

COCO = Dialect(form="coco")
LIST = Dialect(order="row", form="list", empty="authentic")
MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def coco_text(letters):
    return base64.b64encode(zlib.compress(letters)).decode()


@given(MASKS.filter(np.any))
def test_coco_text_equals_that_of_pycocotools_and_is_decoded(mask):
    theirs = cocoapi.encode(np.asfortranarray(mask))["counts"]
    text = COCO.encode(mask)
    assert zlib.decompress(base64.b64decode(text)) == theirs
    assert np.array_equal(COCO.decode(text, mask.shape), mask)
    assert np.array_equal(COCO.decode(coco_text(theirs), mask.shape), mask)


@pytest.mark.parametrize("shape", [(700, 900), (1, 70_000), (70_000, 1)])
def test_coco_counts_of_several_letters_equal_those_of_pycocotools(shape):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[: shape[0] // 2 + 1, shape[1] // 3 :] = 1
    mask[0, 0] = 1
    theirs = cocoapi.encode(np.asfortranarray(mask))["counts"]
    assert zlib.decompress(base64.b64decode(COCO.encode(mask))) == theirs
    assert np.array_equal(COCO.decode(coco_text(theirs), shape), mask)


def test_coco_counts_by_hand():
    # Columns of two: 0 1, 1 1, 0 0 are one 0, three 1, two 0.
    mask = np.array([[0, 1, 0], [1, 1, 0]], dtype=np.uint8)
    assert zlib.decompress(base64.b64decode(COCO.encode(mask))) == b"132"


def test_coco_encodes_an_empty_mask_as_the_empty_token():
    assert COCO.encode(np.zeros((3, 4), dtype=np.uint8)) == ""
    assert not COCO.decode("", (3, 4)).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 3", "'1 3' is not base64"),
        (base64.b64encode(b"132").decode(), "3 bytes that zlib does not inflate"),
        (base64.b64encode(zlib.compress(b"132" * 99)[:-5]).decode(), "is truncated"),
        (base64.b64encode(zlib.compress(b"132") + b"x").decode(), "followed by more"),
        (coco_text(b"1 3"), "not COCO's"),
        (coco_text(b""), "not COCO's"),
        (coco_text(b"13P"), "not COCO's"),
        (coco_text(b"1O"), "count 2 is -1"),
        (coco_text(b"133"), "counts of 7 pixels, expected the 6 of shape"),
        (coco_text(b"o" * 12 + b"1"), "more than 10 letters"),
    ],
)
def test_an_invalid_coco_text_is_refused(text, message):
    with pytest.raises(RLEError, match=message):
        COCO.decode(text, (2, 3))


def test_a_coco_decompression_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(rle.coco, "MAX_INFLATED", 1000)
    with pytest.raises(RLEError, match="over 1000 bytes"):
        COCO.runs(coco_text(b"1" * 100_000))


@pytest.mark.parametrize("wrong", [{"order": "row"}, {"base": 0}, {"relative": True}])
def test_coco_refuses_another_order_or_base(wrong):
    with pytest.raises(ValueError, match="remove order, base and relative"):
        Dialect(form="coco", **wrong)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"unknown form 'json'. Known forms: pairs, list, coco"):
        Dialect(form="json")


def test_list_by_hand():
    mask = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)
    assert LIST.encode(mask) == "[2, 3]"
    assert np.array_equal(LIST.decode("[2,3]", (2, 3)), mask)
    assert np.array_equal(LIST.decode(" [ 2 , 2, 4,1 ] ", (2, 3)), mask)
    assert LIST.encode(mask * 0) == "authentic"
    assert not LIST.decode("authentic", (2, 3)).any()


@given(MASKS)
def test_list_form_round_trip(mask):
    assert np.array_equal(LIST.decode(LIST.encode(mask), mask.shape), mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]; [4, 1]", "2 instances joined by ';': write a row for each"),
        ("1 2", "not a list of integers"),
        ("[1 2]", "not a list of integers"),
        ("[1, 2,]", "not a list of integers"),
        ("[]", "not a list of integers"),
        ("[1.5, 2]", "not a list of integers"),
        ("[1, 2, 2, 1]", r"run 2 .*character 7"),
    ],
)
def test_an_invalid_list_is_refused(text, message):
    with pytest.raises(RLEError, match=message):
        LIST.runs(text)


def test_instances_in_one_cell_are_separated():
    assert [LIST.runs(text)[0].tolist() for text in LIST.split("[1, 2]; [4, 1]")] == [[0], [3]]
    assert Dialect().split("1 2;3 4") == ["1 2;3 4"]  # only lists are joined


# Whole tables.

TEXTS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 30), max_size=8).map(lambda numbers: " ".join(map(str, numbers))),
        st.sampled_from(["", "-1", "1 0", " 1  2\t", "1 2\n4 1", "1 2 3", "5-3", "1 1e1", "1 ٣"]),
        st.sampled_from(["9" * 19, "1 " + "9" * 30]),
        st.sampled_from([f"{10**12} 1", f"{10**12 + 1} 1", "0 1", "1 40", "1 41", None, 3.5]),
    ),
    max_size=6,
)


def one_by_one(dialect, texts, shapes):
    found = []
    for number, text in enumerate(texts):
        try:
            found.append([ends.tolist() for ends in dialect.runs(text, None if shapes is None else shapes[number])])
        except RLEError as error:
            return found, number, str(error)
    return found, None, None


@pytest.mark.slow
@pytest.mark.parametrize("few", [0, 10**6], ids=["at once", "one by one"])
@pytest.mark.parametrize("bounded", [True, False])
@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, base=st.sampled_from([0, 1]), relative=st.booleans(), empty=st.sampled_from(["", "-1", "1 0"]))
def test_decoding_a_table_equals_decoding_its_texts_one_by_one(few, bounded, texts, base, relative, empty):
    dialect = Dialect(base=base, relative=relative, empty=empty)
    shapes = [(5, 8)] * len(texts) if bounded else None
    expected, wrong, message = one_by_one(dialect, texts, shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "MIN_TEXTS_FOR_NUMBA", few)
        if wrong is None:
            assert [[ends.tolist() for ends in runs] for runs in dialect.runs_of(texts, shapes)] == expected
        else:
            with pytest.raises(RLEError) as caught:
                dialect.runs_of(texts, shapes)
            assert (caught.value.number, caught.value.fault) == (wrong, message)


def test_a_table_of_several_batches_is_decoded_like_one(monkeypatch):
    texts = [f"{number} 1 {number + 2} 3" for number in range(1, 300)]
    whole = table.read(texts, np.full(len(texts), 10**6), 1, False)
    monkeypatch.setattr(table, "BATCH_CHARACTERS", 100)
    parts = table.read(texts, np.full(len(texts), 10**6), 1, False)
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert [ends.tolist() for ends in parts[-1]] == [[298, 300], [299, 303]]


def test_different_numbers_of_texts_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"2 texts, but 1 shapes"):
        Dialect().runs_of(["1 2", "1 2"], [(2, 2)])
