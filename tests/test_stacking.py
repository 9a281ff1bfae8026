"""Stacking: a logistic regression on the members' log-odds at a pixel and around it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from pipeline.ensemble.candidate_weights import make_chooser
from pipeline.ensemble.combine import STACK, Weighting, blend_by, combine, combine_by
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.serialization import from_record, to_record
from pipeline.ensemble.stacking import SIDE, Stack, StoredMeans, apply_stack, fit_stack, mean_around
from pipeline.ensemble.weights import count_pixels_by_value, stack_weights, subsample
from pipeline.metrics import VOID, pixel_metric
from pipeline.postprocess.rules import Rules

DICE = pixel_metric("mean_dice")
MEMBERS = ["a", "b"]
STACKED = Stack(-0.5, (1.2, -0.2), (0.3, 0.4))


def to_values(log_odds):
    return np.rint(255 / (1 + np.exp(-log_odds))).astype(np.uint8)


def speckled(count, seed):
    """Images of squares that two members see through noise from pixel to pixel: the mean around a pixel tells more."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        target = np.kron(rng.random((3, 3)) < 0.4, np.ones((12, 12))).astype(np.uint8)
        noise = rng.normal(0, 3, (2, *target.shape))
        images.append((to_values(2.0 * target - 1 + noise), target))
    return images


def stacked(own, around, stack):
    return apply_stack(list(map(StoredMeans, own)), map(StoredMeans, around), stack)


def test_one_member_alone_keeps_its_values():
    values = np.arange(1, 255, dtype=np.uint8)[None].repeat(2, 0)
    assert np.array_equal(stacked(values, values, Stack(0.0, (1.0, 0.0), (0.0, 0.0))), values[0])


def test_stacked_values_by_hand():
    # Log-odds of 204 are log 4, of 51 −log 4: 1.2 · log 4 + .2 · log 4 + (.3 + .4) · log 4 − .5
    own, around = np.array([[204], [51]], np.uint8), np.array([[204], [204]], np.uint8)
    expected = 255 / (1 + np.exp(-(2.1 * np.log(4) - 0.5)))
    assert stacked(own, around, STACKED).tolist() == [round(expected)]


def test_large_coefficients_of_pixels_that_can_be_told_apart_do_not_overflow():
    values = np.array([[0, 255], [0, 255]], np.uint8)
    assert stacked(values, values, Stack(0.0, (40.0, 0.0), (40.0, 0.0))).tolist() == [0, 255]


@pytest.mark.parametrize("folds", [1, 5])
def test_mean_around_mirrors_the_border(folds):
    dtype = np.uint8 if folds == 1 else np.int64
    sums = np.random.default_rng(0).integers(0, 255 * folds + 1, (2, 3, 20, 31)).astype(dtype)
    expected = uniform_filter(sums / folds, (0, 0, SIDE, SIDE), mode="mirror")
    found, denominator = mean_around(StoredMeans(sums, folds))
    assert np.allclose(found / denominator, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("folds", [1, 5])
def test_stacked_means_of_folds_equal_the_formula(folds):
    rng = np.random.default_rng(0)
    stores = rng.integers(0, 256, (2, folds, 1, 20, 31)).astype(np.uint8)
    members = [[SimpleNamespace(read=lambda _, each=each: each) for each in member] for member in stores]
    log_odds = STACKED.intercept
    for own, around, means in zip(STACKED.own, STACKED.around, stores.mean(axis=1), strict=True):
        for weight, levels in ((own, means), (around, uniform_filter(means, (0, SIDE, SIDE), mode="mirror"))):
            clipped = levels.clip(0.5, 254.5)
            log_odds = log_odds + weight * np.log(clipped / (255 - clipped))
    expected = 255 / (1 + np.exp(-log_odds))
    found = combine_by(Weighting(STACK, (0.5, 0.5), (), STACKED), members, "a")
    assert np.abs(found - expected).max() < 0.5 + 1e-3


def test_shares_of_the_members_by_hand():
    assert STACKED.shares == pytest.approx((1.5 / 1.7, 0.2 / 1.7))
    assert Stack(0.0, (1.0, -2.0), (0.0, 0.5)).shares == (1.0, 0.0)
    assert Stack(0.0, (0.0, 0.0), (0.0, 0.0)).shares == (0.5, 0.5)


def test_a_member_with_a_negative_coefficient_is_used_and_one_without_coefficients_is_not_read():
    negative = Stack(0.1, (4.5, -4.2, 0.0), (8.5, -7.1, 0.0))
    part = Postprocess.of(Weighting(STACK, negative.shares, (), negative), "total", Rules(0.5, 0))
    assert part.weights == (1.0, 0.0, 0.0)
    assert Renderer((part,)).used.tolist() == [True, True, False]
    values = np.random.default_rng(0).integers(0, 256, (3, 1, 6, 7)).astype(np.uint8)
    stores = [[SimpleNamespace(read=lambda _, member=member: member)] for member in values[:2]]
    assert np.array_equal(combine_by(part.weighting, [*stores, []], "a"), blend_by(part.weighting, values))


def test_a_stack_without_coefficients_reads_all_members():
    assert Stack(0.3, (0.0, 0.0), (0.0, 0.0)).used.tolist() == [True, True]


def test_void_pixels_do_not_count_for_a_stack_or_a_calibration():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (2, 30, 30)).astype(np.uint8)
    target = (values[0] > 128).astype(np.uint8)
    void = target.copy()
    void[:, 15:] = VOID
    image = subsample(values, void)
    assert count_pixels_by_value([image]).sum() == 2 * 30 * 15
    kept = image.without_void()
    assert kept.target.tolist() == target[:, :15].ravel().tolist()
    assert stack_weights([image]) == fit_stack([kept.values], [kept.around], [kept.target])


def test_an_image_smaller_than_the_neighbourhood_has_a_mean():
    assert mean_around(StoredMeans(np.full((1, 2, 1), 7, np.uint8))).numerators.tolist() == [[[7 * SIDE**2]] * 2]


def test_coefficients_of_generated_pixels_are_recovered():
    rng = np.random.default_rng(1)
    own, around = rng.integers(20, 236, (2, 2, 150_000)).astype(np.uint8)
    log_odds = STACKED.intercept + sum(
        weight * np.log(values / (255.0 - values))
        for weight, values in zip(STACKED.own + STACKED.around, [*own, *around], strict=True)
    )
    target = (rng.random(len(log_odds)) < 1 / (1 + np.exp(-log_odds))).astype(np.uint8)
    found = fit_stack([own], [around], [target])
    assert found.intercept == pytest.approx(STACKED.intercept, abs=0.03)
    assert found.own == pytest.approx(STACKED.own, abs=0.03)
    assert found.around == pytest.approx(STACKED.around, abs=0.03)


def test_images_without_an_object_give_the_mean_of_log_odds():
    values = np.zeros((2, 9), np.uint8)
    assert fit_stack([values], [values], [np.zeros(9, np.uint8)]) == Stack(0.0, (0.5, 0.5), (0.0, 0.0))


def test_subsampled_pixels_get_the_values_of_the_whole_image():
    ((values, target),) = speckled(1, 0)
    image = subsample(values, target, pixels=100)
    whole = blend_by(Weighting(STACK, (0.5, 0.5), (), STACKED), values)
    expected = whole[1::4, 1::4].ravel().astype(int)  # 36 × 36 pixels, every fourth
    assert np.abs(stacked(image.values, image.around, STACKED).astype(int) - expected).max() <= 2  # rounded means


def test_stores_of_one_fold_give_the_values_of_the_members():
    ((values, _),) = speckled(1, 0)
    stores = [[SimpleNamespace(read=lambda _, member=member: member[None])] for member in values]
    weighting = Weighting(STACK, (0.5, 0.5), (), STACKED)
    assert np.array_equal(combine_by(weighting, stores, "a")[0], blend_by(weighting, values))


def test_the_folds_of_a_member_are_averaged_before_stacking():
    folds = [np.full((1, 3, 3), value, np.uint8) for value in (100, 101)]
    stores = [[SimpleNamespace(read=lambda _, values=values: values) for values in folds]]
    found = combine(stores, "a", STACK, (1.0,), (), Stack(0.0, (3.0,), (0.0,)))
    odds = (100.5 / 154.5) ** 3
    assert (found == round(255 * odds / (1 + odds))).all()


def test_stacking_is_chosen_where_the_neighbourhood_helps_and_not_on_noise():
    fold_of = np.arange(12) % 3
    images = [subsample(values, target) for values, target in speckled(12, 0)]
    chosen = make_chooser(images, fold_of, DICE, 2).choose((0, 1, 2))
    assert chosen.combination == STACK
    assert chosen.stack == stack_weights(images)
    assert sum(chosen.stack.around) > sum(chosen.stack.own)
    rng = np.random.default_rng(0)
    noise = [
        subsample(rng.integers(0, 256, (2, 12, 12)).astype(np.uint8), (rng.random((12, 12)) < 0.5).astype(np.uint8))
        for _ in range(12)
    ]
    assert make_chooser(noise, fold_of, DICE, 2).choose((0, 1, 2)).stack is None


def test_the_pixels_of_a_fit_are_of_all_columns():
    # 64 × 64 pixels of 3,100 images: every 64th is fitted on. The members are right in the first column alone.
    target = np.tile([[0], [1]], (32, 64)).astype(np.uint8)
    values = np.where(target, 25, 230).astype(np.uint8)
    values[:, 0] = 255 - values[:, 0]
    image = values.reshape(1, -1)
    fitted = fit_stack([image] * 3100, [image] * 3100, [target.ravel()] * 3100)
    assert fitted.own[0] + fitted.around[0] < 0


def record():
    part = Postprocess.of(Weighting(STACK, (0.5, 0.5), (), STACKED), "total", Rules(0.5, 0))
    return to_record(Renderer((part,)), MEMBERS, ["cat"])


def test_a_stack_is_written_and_read_by_the_names_of_its_members():
    written = json.loads(json.dumps(record()))
    assert from_record(written, MEMBERS, ["cat"]).parts[0].stack == STACKED
    assert from_record(written, MEMBERS[::-1], ["cat"]).parts[0].stack == Stack(-0.5, (-0.2, 1.2), (0.4, 0.3))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stack": None}, "expected intercept, own and around"),
        ({"stack": {"intercept": 0, "own": {"a": 1.0}, "around": {"a": 0, "b": 0}}}, "stack.own of a: expected"),
        ({"stack": {"intercept": 0.0, "own": {"a": 1.0, "b": "x"}, "around": {"a": 0.0, "b": 0.0}}}, "'x'"),
    ],
)
def test_a_wrong_stack_is_refused(change, match):
    with pytest.raises(ValueError, match=match):
        from_record({**record(), **change}, MEMBERS, ["cat"])
