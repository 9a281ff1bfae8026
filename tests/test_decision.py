"""Selection for several classes: independent if they overlap, joint if they are exclusive."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.labels import VOID
from pipeline.ensemble.multiclass import TRIED_COMBINATIONS, select_multiclass, true_class_values
from pipeline.ensemble.renderer import ARGMAX, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.ensemble.serialization import to_record
from pipeline.metrics import pixel_metric
from pipeline.postprocess.rules import Rules
from tests.test_choice import dice_by_hand, make_noise, make_oof, select_rows

DICE, IOU = pixel_metric("mean_dice"), pixel_metric("class_iou")
SIDE = 12


def make_oof_of(known, folds, members):
    return Oof(list(known), np.arange(len(known)) % folds, known.__getitem__, members, lambda items, _: items)


def overlapping(*parts):
    """OOFs of one class each, combined into one of several overlapping classes."""

    def read(image_id):
        values, targets = zip(*(part.read(image_id) for part in parts), strict=True)
        return np.stack(values, axis=1), np.stack(targets)

    return replace(parts[0], read=read)


def make_scenes(noises, images=18, folds=3, classes=3, seed=0, void=0.0, gain=70):
    """Exclusive classes in bands of random heights, under noise; `noises` are each member's, in stored levels."""
    rng, known = np.random.default_rng(seed), {}
    for number in range(images):
        bands = np.sort(rng.integers(0, SIDE, classes - 1))
        true = np.repeat(np.searchsorted(bands, np.arange(SIDE), side="right")[:, None], SIDE, axis=1)
        target = (true == np.arange(classes)[:, None, None]).astype(np.uint8)
        values = [(60 + gain * target + rng.normal(0, noise, target.shape)).clip(0, 255) for noise in noises]
        target[:, rng.random(true.shape) < void] = VOID
        known[f"{number:02}"] = np.stack(values).astype(np.uint8), target
    return make_oof_of(known, folds, len(noises))


def make_class_noise(members, seed=3):
    """Random classes: the selection is random."""
    rng, known = np.random.default_rng(seed), {}
    for number in range(20):
        true = rng.integers(3, size=(5, 5))
        values = rng.integers(256, size=(members, 3, 5, 5), dtype=np.uint8)
        known[f"{number:02}"] = values, (true == np.arange(3)[:, None, None]).astype(np.uint8)
    return make_oof_of(known, 4, members)


def iou_by_loops(pairs, classes):
    """Mean IoU over present classes of all pixels that are not void; pairs of masks (C, H, W) and targets."""
    both, either = np.zeros(classes, int), np.zeros(classes, int)
    for masks, target in pairs:
        for number, row, column in np.ndindex(target.shape):
            if target[number, row, column] != VOID:
                both[number] += masks[number, row, column] and target[number, row, column]
                either[number] += masks[number, row, column] or target[number, row, column]
    return np.mean(both[either > 0] / either[either > 0])


def render(renderer, values):
    return renderer.masks(renderer.combine(values))


def rendered(oof, renderer_of, rows=None):
    """Masks and targets of some images, each with the renderer of its fold."""
    for row in range(len(oof.image_ids)) if rows is None else rows:
        values, target = oof.read(oof.image_ids[row])
        yield render(renderer_of(oof.fold_of[row]), values), target


def argmax(combination, weights):
    return Renderer((Postprocess(combination, weights, ARGMAX),))


def of_class(oof, number):
    """The same images with one of their classes alone."""

    def read(image_id):
        values, target = oof.read(image_id)
        return values[:, [number]], target[[number]]

    return replace(oof, read=read)


def dices(pairs):
    """Dice of each image and class, (N, C)."""
    return np.array([[dice_by_hand(*each) for each in zip(*pair, strict=True)] for pair in pairs])


# ---------------------------------------------------------------------------------------------- overlapping classes


@pytest.fixture(scope="module")
def two_classes():
    """A class that the first member predicts better, and one that the second does."""
    return overlapping(make_oof([15, 300]), make_oof([300, 15], seed=1))


@pytest.fixture(scope="module")
def selected(two_classes):
    return select_multilabel(two_classes, DICE, 2)


def test_overlapping_classes_are_selected_independently(two_classes, selected):
    for number, part in enumerate(selected.renderer.parts):
        alone = select_multilabel(of_class(two_classes, number), DICE, 1)
        assert alone.renderer.parts == (part,)
        assert {fold: (each.parts[number],) for fold, each in selected.by_fold.items()} == {
            fold: each.parts for fold, each in alone.by_fold.items()
        }


def with_void(oof, share=0.3):
    """The same images with void pixels of each class, where members predict random values."""
    rng, known = np.random.default_rng(5), {}
    for image_id in oof.image_ids:
        values, target = oof.read(image_id)
        void = rng.random(target.shape) < share
        junk = rng.integers(256, size=values.shape, dtype=np.uint8)
        known[image_id] = np.where(void, junk, values), np.where(void, VOID, target)
    return replace(oof, read=known.__getitem__)


@pytest.mark.parametrize("members", [[15], [15, 60]], ids=["one member", "two"])
def test_void_pixels_of_overlapping_classes_are_ignored(members):
    oof = with_void(overlapping(make_oof(members, images=12), make_oof(members, images=12, seed=1)))
    selected = select_multilabel(oof, DICE, 2)
    valid = [
        (masks * (target != VOID), target * (target != VOID)) for masks, target in rendered(oof, selected.by_fold.get)
    ]
    assert selected.scores.per_image() == pytest.approx(dices(valid).mean(axis=1))
    shipped = [
        (masks * (target != VOID), target * (target != VOID))
        for masks, target in rendered(oof, lambda _: selected.renderer)
    ]
    assert selected.in_sample == pytest.approx(dices(shipped).mean())
    assert selected.baseline == 0  # every image has a disc
    if len(members) > 1:
        assert selected.renderer.weights[0] > 0.6  # as without void: the first member is better


def test_each_class_has_its_own_weights(selected):
    first, second = selected.renderer.parts
    assert first.weights[0] > 0.75
    assert second.weights[1] > 0.75
    assert selected.renderer.weights == pytest.approx(np.mean([first.weights, second.weights], axis=0))


def test_each_class_has_its_own_threshold():
    def pale(values):
        return np.where(values > 130, values // 3 + 10, values // 3).astype(np.uint8)

    oof = make_oof([5])
    other = replace(oof, read=lambda image_id: (pale(oof.read(image_id)[0]), oof.read(image_id)[1]))
    bright, dark = (part.rules.threshold for part in select_multilabel(overlapping(oof, other), DICE, 2).renderer.parts)
    assert 100 / 255 < bright < 160 / 255
    assert 35 / 255 < dark < 62 / 255


def test_selection_of_a_class_does_not_depend_on_another_class(two_classes, selected):
    swapped = select_multilabel(first_and_noise(two_classes), DICE, 2)
    assert swapped.renderer.parts[0] == selected.renderer.parts[0]
    assert swapped.renderer.parts[1] != selected.renderer.parts[1]


def first_and_noise(oof):
    """The same images, with noise in place of the second class."""
    rng = np.random.default_rng(5)
    known = {each: rng.integers(256, size=(2, 20, 20), dtype=np.uint8) for each in oof.image_ids}

    def read(image_id):
        (values, target), noise = oof.read(image_id), known[image_id]
        return np.stack([values[:, 0], noise], axis=1), np.stack([target[0], noise[0] > 200]).astype(np.uint8)

    return replace(oof, read=read)


@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 2], ids=["alone", "together"])
def test_selection_of_overlapping_classes_without_a_fold_does_not_depend_on_its_images(members):
    oof = overlapping(make_noise(members), make_noise(members, seed=2))
    by_fold = select_multilabel(oof, DICE, 2).by_fold
    assert list(by_fold) == [0, 1, 2, 3]
    for fold, renderer in by_fold.items():
        assert select_multilabel(select_rows(oof, np.flatnonzero(oof.fold_of != fold)), DICE, 2).renderer == renderer


def test_each_image_and_class_is_scored_by_the_selection_without_its_fold(two_classes, selected):
    by_hand = dices(rendered(two_classes, selected.by_fold.get))
    assert selected.scores.numerator == pytest.approx(by_hand)
    assert selected.score == pytest.approx(by_hand.mean())
    for fold, mean in selected.fold_scores.items():
        assert mean == pytest.approx(by_hand[two_classes.fold_of == fold].mean())


def test_in_sample_score_is_that_of_the_final_renderer(two_classes, selected):
    assert selected.in_sample == pytest.approx(dices(rendered(two_classes, lambda _: selected.renderer)).mean())
    assert selected.in_sample >= selected.score - 0.01


def test_baseline_of_overlapping_classes_is_an_empty_prediction(two_classes, selected):
    empty = [[float(not mask.any()) for mask in two_classes.read(each)[1]] for each in two_classes.image_ids]
    assert selected.baseline == np.mean(empty) == 0
    noise = overlapping(make_noise(1), make_noise(1, seed=2))
    assert select_multilabel(noise, DICE, 2).baseline == 0.5  # every second image has no mask
    assert selected.alternatives == {}


def test_masks_by_hand():
    values = np.array([[[[0, 100, 200]], [[0, 100, 200]]], [[[0, 200, 240]], [[0, 200, 240]]]], dtype=np.uint8)
    first, second = (Postprocess("mean", weights, "total", Rules(0.5, 0)) for weights in ((1.0, 0.0), (0.0, 1.0)))
    both = Renderer((first, second))
    assert both.combine(values).tolist() == [[[0, 100, 200]], [[0, 200, 240]]]
    assert render(both, values).tolist() == [[[0, 0, 1]], [[0, 1, 1]]]


def test_record_of_several_classes_names_each_class(selected):
    record = json.loads(json.dumps(to_record(selected.renderer, ["one", "two"], ["disc", "ring"])))
    assert list(record["classes"]) == ["disc", "ring"]
    assert record["classes"]["ring"]["weights"]["two"] > 0.75
    assert 0 < record["classes"]["disc"]["threshold"] < 1
    alone = to_record(Renderer(selected.renderer.parts[:1]), ["one", "two"], ["disc"])
    assert alone == record["classes"]["disc"]


def count_reads(oof):
    """The same images, and the number of reads of each."""
    reads = Counter()

    def read(image_id):
        reads[image_id] += 1
        return oof.read(image_id)

    return replace(oof, read=read), reads


@pytest.mark.slow
def test_each_image_is_read_once_per_pass_for_any_number_of_classes_members_and_folds():
    parts = [make_oof([15, 60, 80], images=15, folds=5, seed=seed) for seed in range(4)]
    oof, reads = count_reads(overlapping(*parts))
    select_multilabel(oof, DICE, 4)
    assert reads == dict.fromkeys(oof.image_ids, 4)  # weights, rule sets, variants, scores
    oof, reads = count_reads(make_scenes([40, 60, 90], images=15, folds=5, classes=4))
    select_multiclass(oof, IOU)
    assert reads == dict.fromkeys(oof.image_ids, 2)  # weights, scores


# ---------------------------------------------------------------------------------------------- folds without a score

OF_FILLED = pixel_metric("mean_dice_ignore_empty")


def without_masks(oof, fold):
    """The same images, but those of one fold have empty targets and predictions."""

    def read(image_id):
        values, target = oof.read(image_id)
        return (values * 0, target * 0) if oof.fold_of[oof.image_ids.index(image_id)] == fold else (values, target)

    return replace(oof, read=read)


def test_a_fold_without_a_scored_image_is_refused_with_its_images():
    oof = overlapping(without_masks(make_oof([20]), 2))
    with pytest.raises(
        ValueError, match=r"fold 2 has no score: .* none of its 6 images \(002, 006, 010, …\): they have"
    ):
        select_multilabel(oof, OF_FILLED, 1)
    # Where empty images count, that fold is scored like any other.
    assert set(select_multilabel(oof, DICE, 1).fold_scores) == {0, 1, 2, 3}


def test_a_fold_of_void_pixels_only_is_refused_with_its_images():
    oof = make_scenes([20])

    def read(image_id):
        values, target = oof.read(image_id)
        return values, np.full_like(target, VOID) if int(image_id) % 3 == 1 else target

    with pytest.raises(ValueError, match=r"fold 1 has no score: .* 6 images \(01, 04, 07, …\)"):
        select_multiclass(replace(oof, read=read), IOU)


def test_a_class_that_is_missing_from_a_fold_is_not_scored_there():
    disc, rare = make_oof([20]), without_masks(make_oof([20], seed=1), 2)
    selection = select_multilabel(overlapping(disc, rare), OF_FILLED, 2)
    assert selection.fold_scores[2] == pytest.approx(select_multilabel(overlapping(disc), OF_FILLED, 1).fold_scores[2])
    assert not selection.scores.denominator[disc.fold_of == 2, 1].any()


# ---------------------------------------------------------------------------------------------- exclusive classes


def test_each_pixel_has_exactly_one_class_even_if_values_are_equal():
    values = np.random.default_rng(0).integers(0, 3, (2, 4, 9, 9), dtype=np.uint8)  # few levels: many ties
    for combination in TRIED_COMBINATIONS:
        masks = render(argmax(combination, (0.3, 0.7)), values)
        assert masks.dtype == np.uint8
        assert (masks.sum(axis=0) == 1).all()


def test_the_first_of_equal_classes_is_used():
    values = np.array([[[[7, 0, 9]], [[7, 5, 9]], [[3, 5, 10]]]], dtype=np.uint8)
    assert render(argmax("mean", (1.0,)), values).argmax(axis=0).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_scaling_the_values_of_all_classes_equally_does_not_change_the_masks(scale):
    values = np.random.default_rng(0).integers(0, 43, (2, 3, 9, 9), dtype=np.uint8) * 4  # so that no mean is rounded
    equal = argmax("mean", (0.5, 0.5))
    scaled = render(equal, (values * scale).astype(np.uint8))
    assert np.array_equal(scaled, render(equal, values))


def test_exclusive_classes_are_scored_by_the_selection_without_the_images_fold():
    oof = make_scenes([40, 90], void=0.1)
    selection = select_multiclass(oof, IOU)
    assert selection.score == pytest.approx(iou_by_loops(rendered(oof, selection.by_fold.get), 3))
    assert selection.in_sample == pytest.approx(iou_by_loops(rendered(oof, lambda _: selection.renderer), 3))
    for fold, score in selection.fold_scores.items():
        rows = np.flatnonzero(oof.fold_of == fold)
        assert score == pytest.approx(iou_by_loops(rendered(oof, selection.by_fold.get, rows), 3))


def test_void_pixels_of_exclusive_classes_are_ignored():
    oof, rng = make_scenes([40, 40], void=0.3), np.random.default_rng(1)
    junk = {each: rng.integers(256, size=(2, 3, SIDE, SIDE), dtype=np.uint8) for each in oof.image_ids}

    def read(image_id):
        values, target = oof.read(image_id)
        return np.where(target[0] == VOID, junk[image_id], values).astype(np.uint8), target

    one, other = select_multiclass(oof, IOU), select_multiclass(replace(oof, read=read), IOU)
    assert other.score == one.score
    assert other.baseline == one.baseline
    assert other.renderer == one.renderer
    assert other.log_loss_weights == pytest.approx(one.log_loss_weights)


def test_selection_of_exclusive_classes_without_a_fold_does_not_depend_on_its_images():
    oof = make_class_noise(2)
    selection = select_multiclass(oof, DICE)
    assert len(set(selection.by_fold.values())) > 1  # on noise, the selections differ
    for fold, renderer in selection.by_fold.items():
        rest = select_rows(oof, np.flatnonzero(oof.fold_of != fold))
        assert select_multiclass(rest, DICE).renderer == renderer


def test_a_single_member_has_no_optimism_because_nothing_is_selected():
    selection = select_multiclass(make_scenes([60]), IOU)
    assert set(selection.by_fold.values()) == {selection.renderer} == {argmax("mean", (1.0,))}
    assert selection.in_sample == selection.score == selection.at_half


def test_a_member_of_noise_gets_little_weight():
    oof = make_scenes([30, 300])
    together, best = select_multiclass(oof, IOU), select_multiclass(oof.only(0), IOU)
    assert together.renderer.weights[0] > 0.75
    assert together.log_loss_weights[0] > 0.75
    assert together.score > best.score - 0.01


def test_two_members_with_independent_noise_beat_each_alone():
    oof = make_scenes([60, 60])
    together, one, other = (select_multiclass(each, IOU) for each in (oof, oof.only(0), oof.only(1)))
    assert together.score > max(one.score, other.score) + 0.05


def test_baseline_of_exclusive_classes_is_the_most_frequent_class_everywhere():
    oof = make_scenes([60], void=0.2)
    targets = [oof.read(each)[1] for each in oof.image_ids]
    most = np.sum([(target == 1).sum(axis=(1, 2)) for target in targets], axis=0).argmax()
    everywhere = np.zeros((3, SIDE, SIDE), np.uint8)
    everywhere[most] = 1
    baseline = iou_by_loops([(everywhere, target) for target in targets], 3)
    assert select_multiclass(oof, IOU).baseline == pytest.approx(baseline)


def test_values_of_the_true_class_by_hand():
    values = np.array([[[[10, 20, 30]], [[200, 100, 50]]]], dtype=np.uint8)
    target = np.array([[[1, 0, VOID]], [[0, 1, VOID]]], dtype=np.uint8)
    given = true_class_values(values, target)
    assert given.values.tolist() == [[10, 100, 255]]
    assert given.target.tolist() == [1, 1, 1]


def test_record_of_exclusive_classes_has_a_combination_and_no_threshold():
    record = json.loads(json.dumps(to_record(argmax("logit", (0.25, 0.75)), ["one", "two"], ["sky", "road", "car"])))
    assert record == {
        "combination": "logit",
        "weights": {"one": 0.25, "two": 0.75},
        "rule_set": "argmax",
    }


@pytest.mark.parametrize("select", [select_multiclass, lambda oof, metric: select_multilabel(oof, metric, 3)])
def test_one_fold_is_refused(select):
    with pytest.raises(ValueError, match="at least 2 are needed"):
        select(make_scenes([10], folds=1), IOU)
