"""The choice between equal and searched weights of an ensemble, by cross-validated scores."""

import numpy as np
import pytest
from calibration_weights import SCENARIOS, gain

from pipeline.ensemble import candidate_weights
from pipeline.ensemble.calibration import rank_tables, temperature_tables
from pipeline.ensemble.candidate_weights import TRIED_COMBINATIONS, equal_weighting, make_chooser, standard_error
from pipeline.ensemble.combine import Weighting
from pipeline.ensemble.weights import (
    Subsample,
    count_pixels_by_value,
    fit_threshold,
    greedy_weights,
    log_loss_weights,
    score_images,
)
from pipeline.metrics import Scores, pixel_metric

DICE = pixel_metric("mean_dice")
FOLDS = 0, 1, 2


def noise(images, members, seed):
    """Random values and targets, without any relation."""
    rng = np.random.default_rng(seed)
    return [
        Subsample(rng.integers(256, size=(members, 40), dtype=np.uint8), (rng.random(40) < 0.3).astype(np.uint8))
        for _ in range(images)
    ]


def searched(images):
    """All candidates, searched on some images."""
    equal = equal_weighting(len(images[0].values))
    weights = [equal.weights, greedy_weights(images, DICE).tolist(), log_loss_weights(images).tolist()]
    pixels = count_pixels_by_value(images)
    return [
        *(Weighting(combination, tuple(each)) for each in weights for combination in TRIED_COMBINATIONS),
        equal._replace(calibration=temperature_tables(pixels), calibrated_by="temperature"),
        equal._replace(calibration=rank_tables(pixels), calibrated_by="ranks"),
    ]


def choose_by_loops(images, fold_of, folds):
    """The weighting with the best score over the folds, each searched again without the fold, if it clearly leads."""

    def of(some):
        return [image for image, fold in zip(images, fold_of, strict=True) if fold in some]

    scores = []
    for fold in folds:
        rest = of(set(folds) - {fold})
        fitted = [fit_threshold(rest, each, DICE) for each in searched(rest)]
        scores.append([score_images(of({fold}), each, DICE).per_image() for each in fitted])
    by_candidate = np.array([np.concatenate(each) for each in zip(*scores, strict=True)])
    best = by_candidate.mean(axis=1)[1:].argmax() + 1
    lead = by_candidate[best] - by_candidate[0]
    clear = lead.mean() > 0.5 * lead.std(ddof=1) / len(lead) ** 0.5
    return searched(of(set(folds)))[best if clear else 0]


@pytest.mark.parametrize("seed", range(6))
def test_choice_equals_loops_that_search_again_without_each_fold(seed):
    images, fold_of = noise(9, 3, seed), np.arange(9) % 3
    choose = make_chooser(images, fold_of, DICE, 3).choose
    for folds in [FOLDS, (0, 1), (1, 2)]:
        assert choose(folds) == choose_by_loops(images, fold_of, folds)


def test_noise_of_other_folds_changes_no_choice():
    images, fold_of = noise(12, 3, 0), np.arange(12) % 4
    others = [image if of < 3 else noise(1, 3, 99)[0] for image, of in zip(images, fold_of, strict=True)]
    assert make_chooser(images, fold_of, DICE, 3).choose(FOLDS) == make_chooser(others, fold_of, DICE, 3).choose(FOLDS)


def test_standard_error_of_a_ratio_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    denominator = rng.uniform(1, 3, (400, 1))
    a, b = (Scores(denominator * rng.uniform(0.2, 1, (400, 1)), denominator) for _ in range(2))
    draws = [a.take(rows).mean() - b.take(rows).mean() for rows in rng.integers(0, 400, (4000, 400))]
    assert standard_error(a, b) == pytest.approx(np.std(draws), rel=0.05)


def test_the_lead_is_compared_with_the_luck_of_groups():
    # Twelve slices of each patient are one observation: as certain as one of them.
    images, fold_of = noise(9, 3, 3), np.arange(9) % 3
    patient = np.repeat(np.arange(9), 12)
    slices, fold_of_slices = [images[number] for number in patient], fold_of[patient]
    once = make_chooser(images, fold_of, DICE, 3).choose(FOLDS)
    assert once == equal_weighting(3)
    assert make_chooser(slices, fold_of_slices, DICE, 3, patient).choose(FOLDS) == once
    assert make_chooser(slices, fold_of_slices, DICE, 3).choose(FOLDS) != once


def test_one_member_or_two_folds_leave_nothing_to_choose():
    images, fold_of = noise(6, 2, 0), np.arange(6) % 2
    assert make_chooser([], fold_of, DICE, 1).choose((0, 1)) == Weighting("mean", (1.0,))
    assert make_chooser(images, fold_of, DICE, 2).choose((0,)) == Weighting("mean", (0.5, 0.5))
    assert make_chooser(images, fold_of, DICE, 2).choose((0, 1)) == Weighting("mean", (0.5, 0.5))


def test_a_metric_that_is_not_defined_leaves_equal_weights():
    empty = [image._replace(target=image.target * 0, values=image.values * 0) for image in noise(6, 2, 0)]
    choose = make_chooser(empty, np.arange(6) % 3, pixel_metric("mean_dice_ignore_empty"), 2).choose
    assert choose(FOLDS) == equal_weighting(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "least", "most"),
    [("8 equal, 30 images", -0.005, 0.01), ("10 of 12 noise", 0.15, 0.3), ("one of 3 overconfident", 0.003, 0.05)],
)
def test_gain_over_equal_weights_on_fresh_images(scenario, least, most):
    # In sample, the first loses .009: equal members need no search.
    assert least < np.mean([gain(SCENARIOS[scenario], "cross-validated", run) for run in range(12)]) < most


def test_weights_of_the_least_log_loss_are_those_of_all_images_and_are_searched_once(monkeypatch):
    images, fold_of = noise(9, 3, 0), np.arange(9) % 3
    searched = []

    def search(some, *, rows):
        searched.append(tuple(np.unique(fold_of[rows]).tolist()))
        return log_loss_weights(some, rows=rows)

    monkeypatch.setattr(candidate_weights, "log_loss_weights", search)
    chooser = make_chooser(images, fold_of, DICE, 3)
    chooser.choose(FOLDS)
    assert chooser.by_log_loss(FOLDS) == tuple(log_loss_weights(images).tolist())
    assert len(searched) == len(set(searched))
