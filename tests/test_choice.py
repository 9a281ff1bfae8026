"""Selection of weights and rules for one class: fitted on some folds, scored on the others."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.ensemble.renderer import Postprocess
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.metrics import pixel_metric
from pipeline.postprocess.rules import Rules, apply
from tests.streams import search_rules

DICE = pixel_metric("mean_dice")


def make_oof(members, images=24, folds=4, seed=0):
    """Noisy discs; `members` are the standard deviations of each member's noise, in stored levels."""
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


def make_noise(members, seed=9):
    """Random values and targets: the selection is random, and changes with every image that it uses."""
    rng, ids = np.random.default_rng(seed), [f"{number:02}" for number in range(20)]
    values = rng.integers(256, size=(20, members, 5, 5), dtype=np.uint8)
    targets = ((rng.random((20, 5, 5)) < 0.4) & (np.arange(20) % 2 == 1)[:, None, None]).astype(np.uint8)
    known = dict(zip(ids, zip(values, targets, strict=True), strict=True))
    return Oof(ids, np.arange(20) // 2 % 4, known.__getitem__, members, lambda items, _: items)


def select_rows(oof, rows):
    """The images of an OOF at these positions, in this order."""
    return replace(oof, image_ids=[oof.image_ids[row] for row in rows], fold_of=oof.fold_of[rows])


def dice_by_hand(mask, target):
    total = int(mask.sum()) + int(target.sum())
    return 2 * int((mask & target).sum()) / total if total else 1.0


def select(oof):
    """The selection for one class, from images without a class axis."""

    def read(image_id):
        values, target = oof.read(image_id)
        return values[:, None], target[None]

    return select_multilabel(replace(oof, read=read), DICE, 1)


def final_part(selection):
    """The post-processing of the single class, chosen on all folds."""
    (part,) = selection.renderer.parts
    return part


def search(oof):
    """The scores of each rule set for a single member."""
    return search_rules(((values[0], target, place.fold) for values, target, place in oof.images("")), DICE)


def test_the_threshold_that_separates_discs_from_noise_is_found():
    chosen = select(make_oof([10]))
    assert final_part(chosen).rules.threshold == pytest.approx(130 / 255, abs=0.1)
    assert chosen.score > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2], ids=["alone", "together"])
def test_selection_without_a_fold_does_not_depend_on_its_images(members):
    oof = make_noise(members)
    for fold, renderer in select(oof).by_fold.items():
        assert select(select_rows(oof, np.flatnonzero(oof.fold_of != fold))).renderer == renderer


def test_each_image_is_scored_by_the_selection_without_its_fold():
    oof = make_oof([45, 60])
    chosen = select(oof)
    for image_id, fold, score in zip(oof.image_ids, oof.fold_of, chosen.scores.per_image(), strict=True):
        values, target = oof.read(image_id)
        assert score == pytest.approx(dice_by_hand(chosen.by_fold[fold].parts[0].mask(values), target))
    shipped = [dice_by_hand(final_part(chosen).mask(values), target) for values, target in map(oof.read, oof.image_ids)]
    assert chosen.in_sample == pytest.approx(np.mean(shipped))


def test_score_at_half_uses_the_final_combination_without_further_rules():
    oof = make_oof([60])
    masks = [(apply(values[0], Rules(0.5, 0)), target) for values, target in map(oof.read, oof.image_ids)]
    assert select(oof).at_half == pytest.approx(np.mean([dice_by_hand(*each) for each in masks]))


def test_score_at_half_uses_the_weights_that_were_chosen_without_each_fold():
    oof = make_noise(3, seed=10)
    chosen = select(oof)
    assert len({each.parts[0].weighting for each in chosen.by_fold.values()}) > 1
    scores = []
    for image_id, fold in zip(oof.image_ids, oof.fold_of.tolist(), strict=True):
        values, target = oof.read(image_id)
        part = chosen.by_fold[fold].parts[0]._replace(rules=Rules(0.5, 0))
        scores.append(dice_by_hand(part.mask(values), target))
    assert chosen.at_half == pytest.approx(np.mean(scores))


@pytest.mark.slow
def test_order_of_the_images_changes_only_the_order_of_the_scores():
    oof, rows = make_oof([45, 60]), np.random.default_rng(1).permutation(24)
    one, other = select(oof), select(select_rows(oof, rows))
    assert other.renderer == one.renderer
    assert np.allclose(other.scores.per_image(), one.scores.per_image()[rows])


def test_members_whose_errors_cancel_are_averaged_with_equal_weights():
    oof = make_oof([30])

    def read(image_id):
        target = oof.read(image_id)[1]
        error = np.random.default_rng(int(image_id)).integers(-90, 91, target.shape)
        return np.stack([80 + 90 * target + error, 80 + 90 * target - error]).clip(0, 255).astype(np.uint8), target

    both = replace(oof, read=read, members=2)
    chosen = select(both)
    assert final_part(chosen)[:2] == ("mean", (0.5, 0.5))
    assert chosen.score > max(select(both.only(member)).score for member in range(2)) + 0.05


def test_a_larger_rule_set_is_not_selected_on_noise():
    # Noise: the triplet, which has 32 times as many candidates, scores best in sample.
    grids = search(make_noise(1))
    assert grids["triplet"].best()[1] > grids["total"].best()[1]
    assert final_part(select(make_noise(1))).rule_set == "total"


def test_specks_beside_the_discs_are_removed_by_a_smallest_component():
    oof = make_oof([60])
    chosen = select(oof)
    assert final_part(chosen).rules.min_component > 5


def test_rule_variants_are_selected_where_their_cross_fitted_score_is_higher():
    # Noisy discs have holes, which only rule variants fill.
    oof = make_oof([60])
    chosen = select(oof)
    assert final_part(chosen).rule_set == "variants"
    assert final_part(chosen).rules.fill_holes
    plain = search(oof)["components"]
    rules = {fold: plain.best([each for each in range(4) if each != fold])[0] for fold in range(4)}
    without = [plain.score(chosen_rules, [fold]) for fold, chosen_rules in rules.items()]
    assert chosen.score > np.mean(without) + 0.05


def test_two_members_with_independent_noise_beat_each_alone():
    oof = make_oof([45, 45])
    together, first, second = select(oof), select(oof.only(0)), select(oof.only(1))
    assert together.score > max(first.score, second.score) + 0.01
    assert min(together.renderer.weights) > 0.2


def test_a_member_of_noise_gets_little_weight_and_does_not_lower_the_score():
    oof = make_oof([30, 400])
    together, best = select(oof), select(oof.only(0))
    assert together.renderer.weights[0] > 0.75
    assert together.log_loss_weights[0] > 0.75
    assert together.score > best.score - 0.01


def test_only_returns_the_values_of_one_member():
    oof = make_oof([30, 60])
    assert np.array_equal(oof.only(1).read("000")[0], oof.read("000")[0][1:])


def test_mask_is_the_thresholded_combination():
    values = np.array([[[0, 100, 200]], [[0, 200, 240]]], dtype=np.uint8)
    assert Postprocess("mean", (0.5, 0.5), "total", Rules(0.6, 0)).mask(values).tolist() == [[0, 0, 1]]
    assert Postprocess("mean", (0.0, 1.0), "total", Rules(0.6, 0)).mask(values).tolist() == [[0, 1, 1]]


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least 2 are needed"):
        select(make_oof([10], folds=1))
