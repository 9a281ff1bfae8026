"""Calibration of an ensemble's members: tables by temperature and by ranks."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.ensemble.calibration import LEVELS, fit_temperature, rank_tables, temperature_tables
from pipeline.ensemble.combine import blend, combine, forward_table
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.serialization import from_record, to_record
from pipeline.ensemble.weights import Subsample, count_pixels_by_value
from pipeline.postprocess.rules import Rules

IDENTITY = tuple(map(float, LEVELS))
TABLES = tuple(float(255 * (level / 255) ** 2) for level in LEVELS), IDENTITY


def drawn(temperature, pixels=400_000, seed=0):
    """Pixels of a member whose log-odds are the true ones times a temperature, (256, 2)."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, pixels)
    inside = rng.random(pixels) < 1 / (1 + np.exp(-true))
    values = np.rint(255 / (1 + np.exp(-true * temperature))).astype(int)
    return np.bincount(values * 2 + inside, minlength=512).reshape(256, 2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_temperature_of_an_overconfident_member_is_recovered(temperature):
    assert fit_temperature(drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_temperature_table_by_hand():
    (table,) = temperature_tables(drawn(1.8)[None])
    odds = (204 / 51) ** (1 / fit_temperature(drawn(1.8)))
    assert table[204] == pytest.approx(255 * odds / (1 + odds), abs=0.06)
    assert table[0] + table[255] == pytest.approx(255, abs=0.11)  # both sides alike


def test_ranks_by_hand():
    # Two members of four pixels: the second has twice the values of the first, in another order.
    pixels = np.zeros((2, 256, 2), int)
    pixels[0, [10, 20, 30, 40], 0] = 1
    pixels[1, [20, 40, 60, 80], 1] = 1
    one, other = rank_tables(pixels)
    assert [one[value] for value in (10, 20, 30, 40)] == [15, 30, 45, 60]
    assert [other[value] for value in (20, 40, 60, 80)] == [15, 30, 45, 60]


def test_members_of_one_distribution_keep_their_values():
    pixels = np.stack([drawn(1.0), drawn(1.0)])
    assert np.abs(np.array(rank_tables(pixels)) - LEVELS).max() <= 0.05 + 1e-9


@given(st.integers(0, 2**31))
def test_tables_rise_and_stay_within_the_stored_values(seed):
    pixels = np.random.default_rng(seed).poisson(0.3, (3, 256, 2)) + np.eye(256, 2, dtype=int)
    for table in (*rank_tables(pixels), *temperature_tables(pixels)):
        assert len(table) == 256
        assert list(table) == sorted(table)
        assert 0 <= table[0] <= table[-1] <= 255


def test_a_member_that_is_a_rising_function_of_another_gets_its_calibrated_values():
    values = np.random.default_rng(0).integers(0, 16, 1000).astype(np.uint8)
    both = np.stack([values, values**2])
    one, other = rank_tables(count_pixels_by_value([Subsample(both, np.zeros(1000, np.uint8))]))
    assert [one[value] for value in values] == [other[value] for value in values**2]


def test_pixels_are_counted_by_value_and_target():
    images = [
        Subsample(np.array([[3, 3, 9]], np.uint8), np.array([0, 1, 1], np.uint8)),
        Subsample(np.array([[3, 9]], np.uint8), np.array([1, 0], np.uint8)),
    ]
    found = count_pixels_by_value(images)
    assert found[0, 3].tolist() == [1, 2]
    assert found[0, 9].tolist() == [1, 1]
    assert found.sum() == 5


@given(arrays(np.uint8, (2, 7)))
def test_an_identity_table_changes_nothing(values):
    for name in ("mean", "logit", "geometric"):
        assert np.array_equal(blend(values, (0.3, 0.7), name, (IDENTITY,) * 2), blend(values, (0.3, 0.7), name))


def test_values_are_calibrated_before_they_are_averaged():
    values = np.array([[0, 51, 255], [0, 51, 255]], np.uint8)
    assert blend(values, (0.5, 0.5), "mean", TABLES).tolist() == [0, 31, 255]  # (255 · .04 + 51) / 2


def test_the_mean_of_a_members_folds_is_calibrated_between_two_values():
    class Stored:
        def __init__(self, value):
            self.value = value

        def read(self, _):
            return np.full((1, 1, 1), self.value, np.uint8)

    # Two folds with 100 and 101: the mean, 100.5, lies between two entries of the table.
    expected = (TABLES[0][100] + TABLES[0][101]) / 2
    assert forward_table("mean", 2, TABLES[0])[201] == pytest.approx(expected)
    assert combine([[Stored(100), Stored(101)]], "a", "mean", (1.0,), TABLES[:1]).item() == round(expected)


def calibrated():
    return Renderer((Postprocess("mean", (0.5, 0.5), "total", Rules(0.5, 0), TABLES),))


def test_a_calibration_is_written_and_read():
    record = json.loads(json.dumps(to_record(calibrated(), ["a", "b"], ["cat"])))
    back = from_record(record, ["a", "b"], ["cat"])
    assert np.allclose(back.parts[0].calibration, TABLES, atol=1e-3)
    swapped = from_record(record, ["b", "a"], ["cat"])
    assert swapped.parts[0].calibration == back.parts[0].calibration[::-1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3", "expected 256 numbers for each member"),
        (" ".join(["x"] * 256), "calibration has 'x'"),
        (" ".join(["-1"] * 256), "-1"),
        (" ".join(map(str, range(255, -1, -1))), "rising"),
    ],
)
def test_a_record_of_a_wrong_calibration_is_refused(text, match):
    record = to_record(calibrated(), ["a", "b"], ["cat"])
    record["calibration"]["b"] = text
    with pytest.raises(ValueError, match=match):
        from_record(record, ["a", "b"], ["cat"])
