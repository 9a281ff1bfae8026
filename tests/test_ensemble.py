"""Combination of members: properties and values by hand. Weights: loops, known mixtures, and overfitting."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import approx_fprime

from pipeline.ensemble import weights
from pipeline.ensemble.combine import COMBINATIONS, Weighting, blend, combine
from pipeline.ensemble.weights import (
    Subsample,
    fit_threshold,
    greedy_weights,
    log_loss,
    log_loss_weights,
    score_images,
    subsample,
)
from pipeline.inference.prediction_store import PredictionStore, StoreWriter, start_store
from pipeline.metrics import Counts, count, metric_names, pixel_metric, stack
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.threshold_counts import THRESHOLDS, best_threshold
from pipeline.statistics import bootstrap
from pipeline.statistics.crossfit import cross_fit

DICE = pixel_metric("mean_dice")
VALUES = arrays(np.uint8, (3, 4, 5))
INVERTIBLE = ["mean", "logit", "geometric"]


@st.composite
def on_the_simplex(draw):
    parts = np.array(draw(st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any)))
    return parts / parts.sum()


def values_of(*rows):
    return np.array(rows, dtype=np.uint8)


# ---------------------------------------------------------------------------------------------- combining


@pytest.mark.parametrize("combination", INVERTIBLE)
def test_combination_of_equal_members_is_the_member(combination):
    levels = np.arange(256, dtype=np.uint8)
    for share in (1 / 3, 0.1, 0.9):
        assert np.array_equal(blend(np.stack([levels, levels]), np.array([share, 1 - share]), combination), levels)


@pytest.mark.parametrize("combination", INVERTIBLE)
@given(VALUES, st.integers(0, 2))
def test_weight_one_for_a_member_gives_that_member(combination, values, member):
    assert np.array_equal(blend(values, np.eye(3)[member], combination), values[member])


@given(VALUES, st.integers(0, 2))
def test_vote_of_one_member_is_its_mask_at_threshold_one_half(values, member):
    assert np.array_equal(blend(values, np.eye(3)[member], "vote"), 255 * apply(values[member], Rules(0.5, 0)))


@pytest.mark.parametrize("combination", COMBINATIONS)
@given(VALUES, on_the_simplex(), st.permutations(range(3)))
def test_order_of_the_members_does_not_matter(combination, values, shares, order):
    there, back = blend(values, shares, combination), blend(values[order], shares[order], combination)
    assert np.abs(there.astype(int) - back).max() <= 1  # a sum of floats may fall on either side of a half


@pytest.mark.parametrize("combination", COMBINATIONS)
@given(VALUES, on_the_simplex())
def test_combination_lies_between_the_members_or_their_votes(combination, values, shares):
    found, chosen = blend(values, shares, combination), values[shares > 0]
    if combination == "vote":
        chosen = np.where(chosen >= 128, 255, 0)
    assert (found >= chosen.min(axis=0)).all()
    assert (found <= chosen.max(axis=0)).all()


@pytest.mark.parametrize("combination", ["mean", "logit", "vote"])
@given(VALUES, on_the_simplex())
def test_combination_treats_object_and_background_symmetrically(combination, values, shares):
    turned = 255 - blend(255 - values, shares, combination).astype(int)
    assert np.abs(turned - blend(values, shares, combination)).max() <= 1


@pytest.mark.parametrize(
    ("combination", "expected"),
    [
        ("mean", 146),  # (51 + 240) / 2 = 145.5, rounded to even
        ("logit", 170),  # odds ¼ and 16 have the geometric mean 2: p = 2/3
        ("geometric", 111),  # sqrt(51 · 240) = 110.6
        ("vote", 128),  # one of two: 127.5, rounded to even
    ],
)
def test_two_members_by_hand(combination, expected):
    assert blend(values_of([51], [240]), np.array([0.5, 0.5]), combination).tolist() == [expected]  # p = 1/5 and 16/17


def test_weighted_vote_by_hand():
    # 128 is the least value above .5.
    assert blend(values_of([127], [128], [255]), np.array([0.2, 0.3, 0.5]), "vote").tolist() == [204]


def test_a_zero_probability_dominates_only_the_geometric_mean():
    sure, not_at_all = values_of([255]), values_of([0])
    pair, half = np.stack([sure, not_at_all]), np.array([0.5, 0.5])
    assert blend(pair, half, "geometric") == 11  # sqrt(½ · 255)
    assert blend(pair, half, "logit") == blend(pair, half, "mean") == 128


@pytest.mark.parametrize(
    "shares", [[0.5, 0.6], [1.5, -0.5], [1.0], [0.5, 0.25, 0.25], [np.nan, 1.0], [[0.5, 0.5]]], ids=str
)
def test_weights_outside_the_simplex_are_refused(shares):
    with pytest.raises(ValueError, match="of 2 members: expected one each, none negative, of sum 1"):
        blend(np.zeros((2, 4), np.uint8), np.array(shares))


def test_unknown_combination_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown combination 'median'\. Known: mean, logit, geometric, vote"):
        blend(np.zeros((1, 4), np.uint8), np.ones(1), "median")


# ---------------------------------------------------------------------------------------------- stores


def store_of(folder: Path, values: np.ndarray, image_id: str = "a") -> PredictionStore:
    start_store(folder, {})
    writer = StoreWriter(folder)
    writer.write(image_id, values)
    writer.flush()
    return PredictionStore(folder)


def stores_of(folder: Path, *members: list[np.ndarray]) -> list[list[PredictionStore]]:
    return [
        [store_of(folder / f"{number}-{fold}", values) for fold, values in enumerate(member)]
        for number, member in enumerate(members)
    ]


def test_average_weights_configs_equally_for_any_number_of_folds(tmp_path):
    shape = (1, 2, 2)
    three = [np.full(shape, value, np.uint8) for value in (0, 30, 60)]
    assert np.array_equal(combine(stores_of(tmp_path, three, [np.full(shape, 100, np.uint8)]), "a"), np.full(shape, 65))


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combine_of_members_with_one_store_each_equals_blend(combination, tmp_path):
    values = np.random.default_rng(0).integers(256, size=(3, 2, 16, 16), dtype=np.uint8)
    shares = np.array([0.2, 0.5, 0.3])
    stores = stores_of(tmp_path, *([each] for each in values))
    assert np.array_equal(combine(stores, "a", combination, shares), blend(values, shares, combination))


def test_average_of_one_store_each_is_a_float32_sum(tmp_path):
    # 1/3 and 1/6 are rounded in float32, which decides how sums that end in one half are rounded.
    values = np.random.default_rng(0).integers(256, size=(6, 1, 64, 64), dtype=np.uint8)
    total = np.float32(0)
    for each in values:
        total = total + each * np.float32(1 / 6)
    assert np.array_equal(combine(stores_of(tmp_path, *([each] for each in values)), "a"), np.rint(total))


@pytest.mark.parametrize(
    ("share", "other", "expected"),
    [
        (0.6, 201, 141),  # .6 · 100.5 + .4 · 201 = 140.7; with 100 it would be 140.4
        (0.8, 200, 120),  # .8 · 100.5 + .2 · 200 = 120.4; with 101 it would be 120.8
    ],
)
def test_folds_of_a_member_are_averaged_without_rounding(share, other, expected, tmp_path):
    stores = stores_of(tmp_path, [values_of([[100]]), values_of([[101]])], [values_of([[other]])])
    assert combine(stores, "a", "mean", np.array([share, 1 - share])).item() == expected


def test_folds_of_a_member_are_averaged_as_probabilities_for_every_combination(tmp_path):
    stores = stores_of(tmp_path, [values_of([[51]]), values_of([[255]]), values_of([[0]])])
    for combination in INVERTIBLE:
        assert combine(stores, "a", combination).item() == 102
    assert combine(stores, "a", "vote").item() == 0


def test_member_of_weight_zero_is_not_read(tmp_path):
    there = store_of(tmp_path / "there", values_of([[7]]))
    lacks = store_of(tmp_path / "lacks", values_of([[9]]), image_id="b")
    assert combine([[there], [lacks]], "a", "mean", np.array([1.0, 0.0])).item() == 7


@pytest.mark.parametrize("together", [True, False])
def test_different_shapes_are_refused_within_a_member_and_between_members(together, tmp_path):
    one, other = np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 3), np.uint8)
    stores = stores_of(tmp_path, [one, other]) if together else stores_of(tmp_path, [one], [other])
    with pytest.raises(ValueError, match=r"'a'.*\(1, 2, 3\).*\(1, 2, 2\)"):
        combine(stores, "a")


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(ValueError, match="of 0 members"):
        combine([], "a")


# ---------------------------------------------------------------------------------------------- grids


def test_a_small_image_is_not_subsampled():
    values = np.random.default_rng(0).integers(256, size=(2, 5, 7), dtype=np.uint8)
    target = (values[0] > 99).astype(np.uint8)
    found = subsample(values, target, pixels=35)
    assert np.array_equal(found.values, values.reshape(2, 35))
    assert np.array_equal(found.target, target.ravel())


@pytest.mark.parametrize("size", [(256, 256), (520, 696), (101, 101), (1, 9000), (9000, 3)])
def test_subsample_has_about_the_requested_pixels_and_pairs_values_with_targets(size):
    target = np.random.default_rng(0).integers(2, size=size, dtype=np.uint8)
    found = subsample(np.stack([target * 200, target * 100]), target, pixels=1000)
    assert 500 <= found.target.size <= max(1100, 9000 // 3)  # a strip is subsampled along one axis only
    assert np.array_equal(found.values, np.stack([found.target * 200, found.target * 100]))


def test_subsample_is_a_regular_centred_grid():
    values = np.arange(81, dtype=np.uint8).reshape(1, 9, 9)
    assert subsample(values, np.zeros((9, 9)), pixels=9).values.tolist() == [[10, 13, 16, 37, 40, 43, 64, 67, 70]]


def test_void_pixels_of_a_subsample_are_set_to_0_in_values_and_target():
    target = np.array([[1, 0, 255]], np.uint8)
    found = subsample(np.array([[[200, 9, 200]], [[100, 9, 100]]], np.uint8), target)
    assert found.target.tolist() == [1, 0, 0]
    assert found.values.tolist() == [[200, 9, 0], [100, 9, 0]]


def test_subsample_of_another_shape_of_target_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(4, 3\)"):
        subsample(np.zeros((2, 3, 4), np.uint8), np.zeros((4, 3), np.uint8))


# ---------------------------------------------------------------------------------------------- weights


def random_images(number, members, seed=0, pixels=(4, 30)):
    """Members correlated with the target, in images of different sizes, one of them empty."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(*pixels, size=number)
    targets = [rng.integers(2, size=size, dtype=np.uint8) * (position > 0) for position, size in enumerate(sizes)]
    return [
        Subsample(np.clip(rng.normal(90 + 60 * target, 60, (members, target.size)), 0, 255).astype(np.uint8), target)
        for target in targets
    ]


def mean(weights):
    """The weighted mean of probabilities."""
    return Weighting("mean", tuple(weights))


def loop_scores(images, values_of_image, metric):
    """Metric of each image at each threshold, (N, 255), mask by mask."""
    return np.array(
        [
            [
                metric(count(apply(values_of_image(image), Rules(float(threshold), 0)), image.target))
                for threshold in THRESHOLDS
            ]
            for image in images
        ]
    )


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
@pytest.mark.parametrize("block", [1, 40, 1 << 18])
def test_image_scores_and_best_threshold_equal_those_of_masks(name, block, monkeypatch):
    monkeypatch.setattr(weights, "BLOCK", block)
    images, shares, metric = random_images(7, 3), np.array([0.5, 0.3, 0.2]), pixel_metric(name)
    found = fit_threshold(images, mean(shares), metric)
    masks = [
        [apply(blend(image.values, shares), Rules(float(threshold), 0)) for threshold in THRESHOLDS] for image in images
    ]
    counts = stack(stack(count(mask, image.target) for mask in row) for row, image in zip(masks, images, strict=True))
    by_threshold = [metric.scores(Counts(*(each[:, column] for each in counts))) for column in range(255)]
    best = best_threshold(np.array([scores.mean() for scores in by_threshold]))
    assert found.threshold == THRESHOLDS[best]
    scored = score_images(images, found, metric)
    assert scored.numerator == pytest.approx(by_threshold[best].numerator)
    assert scored.denominator == pytest.approx(by_threshold[best].denominator)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_greedy_selection_equals_a_loop_over_ensembles(combination):
    images, bag, bags = random_images(3, 3, seed=4), [], []

    def best_score(bag):
        # One equal weight per pick; a member may be picked twice.
        shares = np.full(len(bag), 1 / len(bag))
        return loop_scores(images, lambda image: blend(image.values[bag], shares, combination), DICE).mean(axis=0).max()

    for _ in range(4):
        score, bag = max((round(best_score([*bag, member]), 9), [*bag, member]) for member in range(3))
        bags.append((score, -len(set(bag)), -len(bag), bag))
    *_, best = max(bags)
    found = greedy_weights(images, DICE, combination=combination, rounds=4)
    assert found == pytest.approx(np.bincount(best, minlength=3) / len(best))


def test_greedy_selection_selects_complementary_members_and_no_noise():
    target = np.repeat([0, 1, 1], 8).astype(np.uint8)
    left, right = np.repeat(values_of([20, 200, 20], [20, 20, 200]), 8, axis=1)
    noise = np.random.default_rng(0).integers(256, size=24, dtype=np.uint8)
    found = greedy_weights([Subsample(np.stack([left, noise, right]), target)], DICE)
    assert found.tolist() == [0.5, 0, 0.5]


def test_the_ensemble_with_fewest_members_wins_a_tie():
    image = random_images(2, 1)[1]
    twins = Subsample(np.repeat(image.values, 3, axis=0), image.target)
    assert greedy_weights([twins], DICE).tolist() == [1, 0, 0]
    # Two of the first and one of the last are best; the second, a copy of the first, is not selected.
    images = [Subsample(each.values[[0, 0, 1]], each.target) for each in random_images(3, 2, seed=2)]
    assert greedy_weights(images, DICE) == pytest.approx([2 / 3, 0, 1 / 3])


@pytest.mark.parametrize("fit", [lambda images: greedy_weights(images, DICE), log_loss_weights])
def test_ensemble_of_one_has_weight_one(fit):
    assert fit(random_images(3, 1)).tolist() == [1]


@pytest.mark.parametrize("fit", [lambda *given, **more: greedy_weights(*given, DICE, **more), log_loss_weights])
def test_weights_do_not_depend_on_excluded_rows(fit):
    images, rows = random_images(8, 3), np.arange(8) % 3 > 0
    spoilt = [
        image if row else Subsample(255 - image.values, image.target) for image, row in zip(images, rows, strict=True)
    ]
    kept = [image for image, row in zip(images, rows, strict=True) if row]
    assert fit(spoilt, rows=rows).tolist() == fit(kept).tolist()
    assert fit(spoilt, rows=rows).tolist() != fit(spoilt).tolist()


def test_threshold_and_scores_of_rows_equal_those_of_these_images_alone():
    images, rows = random_images(8, 3), np.arange(8) % 3 > 0
    kept = [image for image, row in zip(images, rows, strict=True) if row]
    weighting = Weighting("mean", (0.2, 0.2, 0.6))
    found = fit_threshold(images, weighting, DICE, rows=rows)
    assert found.threshold == fit_threshold(kept, weighting, DICE).threshold
    assert (
        score_images(images, found, DICE, rows=rows).per_image().tolist()
        == score_images(kept, found, DICE).per_image().tolist()
    )


def test_an_empty_set_of_rows_is_refused():
    with pytest.raises(ValueError, match="none of 3 images is chosen"):
        greedy_weights(random_images(3, 2), DICE, rows=np.zeros(3, bool))


# ---------------------------------------------------------------------------------------------- log loss


def test_log_loss_and_its_gradient_by_hand():
    # p = .2 and .8 of a pixel that is positive: the mean is .5, and q over it is .4 and 1.6.
    loss, gradient = log_loss([Subsample(values_of([51], [204]), values_of(1))], np.array([0.5, 0.5]))
    assert loss == pytest.approx(np.log(2))
    assert gradient == pytest.approx([-0.4, -1.6])


def test_gradient_of_the_log_loss_equals_finite_differences():
    images, shares = random_images(5, 3), np.array([0.5, 0.3, 0.2])
    slope = approx_fprime(shares, lambda at: log_loss(images, at)[0], 1e-3)  # float32 allows no smaller step
    assert log_loss(images, shares)[1] == pytest.approx(slope, abs=2e-3)


def test_log_loss_weights_images_equally_for_any_size():
    # −log .8 on a pixel, −log .2 on each of three: the mean of the two images, not of the four pixels.
    small, large = Subsample(values_of([204]), values_of(1).ravel()), Subsample(values_of([51] * 3), values_of(1, 1, 1))
    loss, _ = log_loss([small, large], np.ones(1))
    assert loss == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2)


def test_log_loss_of_a_confident_error_is_finite():
    assert log_loss([Subsample(values_of([0]), values_of(1).ravel())], np.ones(1))[0] == pytest.approx(np.log(510))


def mixture(shares, pixels=300_000, seed=0):
    """Targets sampled with the probabilities of a known mixture of members."""
    rng = np.random.default_rng(seed)
    values = rng.integers(256, size=(len(shares), pixels), dtype=np.uint8)
    target = (rng.random(pixels) < np.array(shares) @ values / 255).astype(np.uint8)
    return [Subsample(values[:, part], target[part]) for part in np.split(np.arange(pixels), 3)]


@pytest.mark.parametrize("shares", [[0.2, 0.8], [0.6, 0.0, 0.3, 0.1], [1.0, 0.0, 0.0]])
def test_log_loss_weights_recover_the_mixture_that_generated_the_data(shares):
    assert log_loss_weights(mixture(shares)) == pytest.approx(shares, abs=0.015)


def test_log_loss_weights_are_better_than_each_member_and_than_equal_weights():
    images = random_images(30, 4)
    found = log_loss(images, log_loss_weights(images))[0]
    others = [*np.eye(4), np.full(4, 0.25), np.random.default_rng(0).dirichlet(np.ones(4))]
    assert all(found < log_loss(images, np.asarray(other))[0] for other in others)


def test_log_loss_weights_satisfy_the_optimality_condition():
    # The loss is convex: the possible gain is at most the largest negative gradient minus the mean one, which is 1.
    images = random_images(30, 5)
    found = log_loss_weights(images)
    assert found.sum() == pytest.approx(1)
    assert found.min() >= 0
    assert -log_loss(images, found)[1].min() - 1 < 1e-3


# ---------------------------------------------------------------------------------------------- overfitting


def noisy_members(number, rng, noise=200):
    """Images of 16 pixels, one member correlated with the target, and many members of noise."""
    targets = rng.integers(2, size=(number, 16), dtype=np.uint8)
    real = 1 / (1 + np.exp(0.5 - targets + rng.normal(size=targets.shape)))
    values = rng.integers(256, size=(number, 1 + noise, 16), dtype=np.uint8)
    values[:, 0] = np.rint(255 * real)
    return [Subsample(*each) for each in zip(values, targets, strict=True)]


class Tuned(NamedTuple):
    """Dice of weights tuned on 30 images, and of the one real member with a tuned threshold only."""

    cross_fitted: np.ndarray  # (30,)
    in_sample: float
    fresh: float  # on 2000 new images: the true score
    alone: float
    alone_fresh: float


def tune(seed):
    rng = np.random.default_rng(seed)
    images, unseen = noisy_members(30, rng), noisy_members(2000, rng)
    found = cross_fit(
        np.arange(30) % 5,
        lambda rows: fit_threshold(images, mean(greedy_weights(images, DICE, rounds=5, rows=rows)), DICE, rows=rows),
        lambda fitted, rows: score_images(images, fitted, DICE, rows=rows),
    )
    alone = fit_threshold(images, mean(np.eye(201)[0]), DICE)
    fresh, alone_here, alone_fresh = [
        score_images(given, fitted, DICE).mean()
        for given, fitted in ((unseen, found.final), (images, alone), (unseen, alone))
    ]
    return Tuned(found.scores.per_image(), found.in_sample, fresh, alone_here, alone_fresh)


@pytest.mark.slow
def test_in_sample_score_is_inflated_by_200_noise_members_and_the_cross_fitted_score_is_not():
    scores, in_sample, fresh, alone, alone_fresh = zip(*map(tune, range(3)), strict=True)
    in_sample, fresh, alone, alone_fresh = map(np.mean, (in_sample, fresh, alone, alone_fresh))
    interval = bootstrap.interval(np.concatenate(scores))
    # In sample, noise members gain two points of Dice; on new images they lose as much.
    assert in_sample > alone + 0.01
    assert fresh < alone_fresh - 0.01
    assert in_sample > fresh + 0.04
    # The cross-fitted interval contains the true score and excludes the in-sample one; its mean is below the single
    # member's score.
    assert interval.low < fresh < interval.high < in_sample
    assert abs(interval.mean - fresh) < (in_sample - fresh) / 2
    assert interval.mean < alone
