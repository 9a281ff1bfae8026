"""The choice of weights and cut: made on some folds, scored on others."""

import numpy as np
import pytest

from pipeline.ensemble import Choice, Oof, choose
from pipeline.metrics import METRICS
from pipeline.postprocess import Cut

DICE = METRICS["mean_dice"]


def make_oof(members, images=24, folds=4, seed=0):
    """Discs under noise; `members` are standard deviations of each one's noise, in stored levels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:20, :20]
    known = {}
    for number in range(images):
        row, column = rng.uniform(6, 14, 2)
        target = ((rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(3, 6) ** 2).astype(np.uint8)
        values = [(90 + 80 * target + rng.normal(0, noise, target.shape)).clip(0, 255) for noise in members]
        known[f"{number:03}"] = np.stack(values).astype(np.uint8), target
    ids = list(known)
    return Oof(ids, np.arange(images) % folds, known.__getitem__, len(members), lambda items, _: items)


def test_the_cut_is_found_and_the_honest_score_is_of_images_that_it_was_not_found_on():
    chosen = choose(make_oof([10]), DICE)
    assert chosen.shipped.cut.threshold == pytest.approx(130 / 255, abs=0.1)
    assert chosen.fitted.honest > 0.98
    for fold, choice in zip(chosen.fitted.folds, chosen.fitted.chosen, strict=True):
        others = make_oof([10])
        rows = [image_id for image_id, of in zip(others.image_ids, others.fold_of, strict=True) if of != fold]
        alone = Oof(rows, others.fold_of[others.fold_of != fold], others.read, 1, others.track)
        assert choose(alone, DICE).shipped == choice  # it depends on no image of its fold


def test_two_members_with_independent_noise_beat_each_alone():
    oof = make_oof([45, 45])
    together, first, second = choose(oof, DICE), choose(oof.only(0), DICE), choose(oof.only(1), DICE)
    assert together.fitted.honest > max(first.fitted.honest, second.fitted.honest) + 0.01
    assert min(together.shipped.weights) > 0.2


def test_a_member_of_noise_gets_little_weight_and_costs_nothing():
    oof = make_oof([30, 400])
    together, best = choose(oof, DICE), choose(oof.only(0), DICE)
    assert together.shipped.weights[0] > 0.75
    assert together.log_loss_weights[0] > 0.75
    assert together.fitted.honest > best.fitted.honest - 0.01


def test_only_one_member_sees_what_the_ensemble_of_it_does():
    oof = make_oof([30, 60])
    assert np.array_equal(oof.only(1).read("000")[0], oof.read("000")[0][1:])


def test_mask_is_the_cut_of_the_blend():
    values = np.array([[[0, 100, 200]], [[0, 200, 240]]], dtype=np.uint8)
    assert Choice("mean", (0.5, 0.5), "total", Cut(0.6, 0)).mask(values).tolist() == [[0, 0, 1]]
    assert Choice("mean", (0.0, 1.0), "total", Cut(0.6, 0)).mask(values).tolist() == [[0, 1, 1]]


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least 2 are needed"):
        choose(make_oof([10], folds=1), DICE)
