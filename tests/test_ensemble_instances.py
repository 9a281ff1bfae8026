"""Selection for instances: the separation of touching objects, and its cross-fitted score."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.data.boundaries import touching_boundary
from pipeline.ensemble.instances import AREAS, BOUNDARIES, SADDLE_RATIOS, THRESHOLDS, select_instances
from pipeline.ensemble.renderer import INSTANCES, Postprocess, Renderer
from pipeline.ensemble.selection import Oof
from pipeline.ensemble.serialization import to_record
from pipeline.metrics import instance_metric
from pipeline.postprocess.instances import InstanceRules, label_instances
from tests.test_choice import select_rows
from tests.test_metrics_instances import by_loops

DSB, F2 = instance_metric("dsb_precision"), instance_metric("airbus_f2")
ONE, SHAPE, BOUNDARY = "touching objects as one", "separated by shape", "separated by boundary"
SIDES = 24, 40
RULES = st.builds(
    InstanceRules,
    threshold=st.sampled_from(THRESHOLDS),
    boundary=st.sampled_from([None, *BOUNDARIES]),
    saddle_ratio=st.sampled_from([None, *SADDLE_RATIOS]),
    min_area=st.just(0),
)


def two_discs(rng):
    """Label map of two touching discs; the second overlaps the first."""
    rows, columns = np.ogrid[: SIDES[0], : SIDES[1]]
    row, column, radius = rng.uniform(9, 15), rng.uniform(10, 13), rng.uniform(6, 8)
    labels = np.zeros(SIDES, np.int32)
    for number, x in ((1, column), (2, column + 2 * radius - 0.5)):
        labels[(rows - row) ** 2 + (columns - x) ** 2 <= radius**2] = number
    return labels


def two_halves(rng):
    """Label map of the two halves of a rectangle, which has no narrow place."""
    top, left, middle = rng.integers(2, 8), rng.integers(2, 8), rng.integers(16, 24)
    labels = np.zeros(SIDES, np.int32)
    labels[top : top + 12, left:middle], labels[top : top + 12, middle:36] = 1, 2
    return labels


def two_specks(rng):
    """Label map of two small true objects, far from each other."""
    labels = np.zeros(SIDES, np.int32)
    row, column = rng.integers(0, 22, 2)
    labels[row, column], labels[row, column + 10 : column + 12] = 1, 2
    return labels


def make_oof(draw, *, noises=(20,), specks=0, images=12, folds=3, boundary_width=2.0, seed=0):
    """Noisy predictions of objects and their boundaries, with false specks."""
    rng, known = np.random.default_rng(seed), {}
    for number in range(images):
        labels = draw(rng) if number % 6 else np.zeros(SIDES, np.int32)
        channels = np.stack([labels > 0, touching_boundary(labels, boundary_width)]) * 150 + 50
        channels[0].flat[rng.choice(labels.size, specks, replace=False)] = 230
        values = [(channels + rng.normal(0, noise, channels.shape)).clip(0, 255) for noise in noises]
        known[f"{number:02}"] = np.stack(values).astype(np.uint8), labels
    return Oof(list(known), np.arange(images) % folds, known.__getitem__, len(noises), lambda items, _: items)


def make_noise(seed=4):
    """Adjacent squares with so much noise that the selection is mostly random."""
    rng, known = np.random.default_rng(seed), {}
    for number in range(12):
        there = rng.random((3, 4)) < 0.4
        labels = np.kron(there * np.arange(1, 13).reshape(3, 4), np.ones((3, 3), int))
        channels = np.stack([labels > 0, touching_boundary(labels, 1)]) * 100 + 70
        values = (channels + rng.normal(0, 60, channels.shape)).clip(0, 255)[None]
        known[f"{number:02}"] = values.astype(np.uint8), labels
    return Oof(list(known), np.arange(12) % 4, known.__getitem__, 1, lambda items, _: items)


def dsb_by_loops(labels, target):
    true_positive, false_positive, false_negative = by_loops(labels, target)
    total = true_positive + false_positive + false_negative
    return np.mean([hit / of if of else 1.0 for hit, of in zip(true_positive, total, strict=True)])


def make_renderer(rules):
    """A renderer of one member."""
    return Renderer((Postprocess("mean", (1.0,), INSTANCES, rules),))


def rules_of(selection):
    (part,) = selection.renderer.parts
    return part.rules


def label(renderer, values):
    return renderer.labels(renderer.combine(values))


def scores_by_loops(oof, renderer_of):
    """The score of each image, its objects rendered by the renderer of its fold."""
    pairs = [(renderer_of(fold), *oof.read(each)) for each, fold in zip(oof.image_ids, oof.fold_of, strict=True)]
    return np.array([dsb_by_loops(label(renderer, values), target) for renderer, values, target in pairs])


@pytest.fixture(scope="module")
def discs():
    return make_oof(two_discs, specks=5)


@pytest.fixture(scope="module")
def selected(discs):
    return select_instances(discs, DSB, boundaries=True)


def test_touching_discs_are_separated_by_an_accurate_boundary(discs, selected):
    assert selected.alternatives[BOUNDARY] > selected.alternatives[ONE] + 0.3
    assert selected.score > selected.alternatives[ONE] + 0.3
    for image_id in discs.image_ids[1:6]:
        values, target = discs.read(image_id)
        assert label(selected.renderer, values).max() == target.max() == 2


def test_halves_of_a_rectangle_are_separated_by_the_boundary_only():
    others = select_instances(make_oof(two_halves, noises=(5,)), DSB, boundaries=True).alternatives
    assert others[BOUNDARY] > others[SHAPE] + 0.3
    assert others[SHAPE] == others[ONE]


def test_without_a_boundary_channel_discs_are_separated_by_shape(discs):
    def read(image_id):
        values, target = discs.read(image_id)
        return values[:, :1], target

    selection = select_instances(replace(discs, read=read), DSB, boundaries=False)
    assert list(selection.alternatives) == [ONE, SHAPE]
    assert selection.alternatives[SHAPE] > selection.alternatives[ONE] + 0.3
    assert rules_of(selection).saddle_ratio in SADDLE_RATIOS
    assert rules_of(selection).boundary is None


def test_a_boundary_channel_of_noise_is_not_used():
    def read(image_id):
        values, target = oof.read(image_id)
        noise = np.random.default_rng(int(image_id)).integers(256, size=values[:, 1:].shape, dtype=np.uint8)
        return np.concatenate([values[:, :1], noise], axis=1), target

    oof = make_oof(two_discs)
    assert rules_of(select_instances(replace(oof, read=read), DSB, boundaries=True)).boundary is None


def test_false_specks_are_removed_and_true_small_objects_are_kept(selected):
    assert rules_of(selected).min_area in AREAS[1:]
    small = select_instances(make_oof(two_specks, noises=(5,)), DSB, boundaries=True)
    assert rules_of(small).min_area == 0
    assert small.score == 1


def test_each_image_is_scored_by_the_selection_without_its_fold(discs, selected):
    scores = scores_by_loops(discs, selected.by_fold.get)
    assert selected.scores.per_image() == pytest.approx(scores)
    assert selected.score == pytest.approx(scores.mean())
    for fold, mean in selected.fold_scores.items():
        assert mean == pytest.approx(scores[discs.fold_of == fold].mean())


def test_each_image_of_noise_is_scored_by_the_selection_without_its_fold():
    oof = make_noise()
    selection = select_instances(oof, DSB, boundaries=True)
    assert len(set(selection.by_fold.values())) > 1
    assert selection.scores.per_image() == pytest.approx(scores_by_loops(oof, selection.by_fold.get))
    assert selection.in_sample == pytest.approx(scores_by_loops(oof, lambda _: selection.renderer).mean())
    at_half = scores_by_loops(oof, lambda _: make_renderer(InstanceRules(0.5)))
    assert selection.at_half == pytest.approx(at_half.mean())


def test_selection_without_a_fold_does_not_depend_on_its_images():
    oof = make_noise()
    for fold, renderer in select_instances(oof, DSB, boundaries=True).by_fold.items():
        rest = select_rows(oof, np.flatnonzero(oof.fold_of != fold))
        assert select_instances(rest, DSB, boundaries=True).renderer == renderer


def table_by_loops(oof, fields):
    """The candidates of one method of separation, and the score of each image by each, (R, N)."""
    rules = [InstanceRules(t, **each, min_area=area) for t in THRESHOLDS for each in fields for area in AREAS]
    return rules, np.stack([scores_by_loops(oof, lambda _, each=each: make_renderer(each)) for each in rules])


def cross_fit_by_loops(table, fold_of):
    """The score of each image, (N,), by the best rules on the other folds."""
    scores = np.empty(table.shape[1])
    for fold in np.unique(fold_of):
        held_out = fold_of == fold
        scores[held_out] = table[table[:, ~held_out].mean(axis=1).argmax(), held_out]
    return scores


def test_final_rules_are_the_best_of_the_method_with_the_best_cross_fitted_score():
    oof = make_noise()
    methods = [table_by_loops(oof, [{}]), table_by_loops(oof, [{"saddle_ratio": ratio} for ratio in SADDLE_RATIOS])]
    rules, table = max(methods, key=lambda method: cross_fit_by_loops(method[1], oof.fold_of).mean())
    selection = select_instances(oof, DSB, boundaries=False)
    assert selection.in_sample == pytest.approx(table.mean(axis=1).max())
    assert rules_of(selection) == rules[table.mean(axis=1).argmax()]


def test_a_method_that_is_better_in_sample_only_is_not_chosen():
    oof = make_noise(seed=2)
    (_, one), (_, shape) = (
        table_by_loops(oof, [{"saddle_ratio": r} for r in some]) for some in ([None], SADDLE_RATIOS)
    )
    assert shape.mean(axis=1).max() > one.mean(axis=1).max() + 0.02
    assert cross_fit_by_loops(shape, oof.fold_of).mean() < cross_fit_by_loops(one, oof.fold_of).mean()
    assert rules_of(select_instances(oof, DSB, boundaries=False)).saddle_ratio is None


def test_each_separation_method_is_cross_fitted_over_its_own_candidates():
    oof = make_noise()
    candidates = [InstanceRules(threshold, min_area=area) for threshold in THRESHOLDS for area in AREAS]
    table = np.stack([scores_by_loops(oof, lambda _, rules=rules: make_renderer(rules)) for rules in candidates])
    scores = []
    for fold in np.unique(oof.fold_of):
        held_out = oof.fold_of == fold
        best = table[:, ~held_out].mean(axis=1).argmax()
        scores += table[best, held_out].tolist()
    selection = select_instances(oof, DSB, boundaries=True)
    assert list(selection.alternatives) == [ONE, SHAPE, BOUNDARY]
    assert selection.alternatives[ONE] == pytest.approx(np.mean(scores))
    assert max(selection.alternatives.values()) < selection.in_sample  # the in-sample score is optimistic


def test_baseline_is_the_share_of_images_without_objects(discs, selected):
    assert selected.baseline == pytest.approx(2 / 12)
    assert select_instances(discs, F2, boundaries=True).baseline == pytest.approx(2 / 12)


def test_scores_use_the_given_metric(discs):
    found = select_instances(discs, lambda matches: float(matches.false_negatives[0]), boundaries=False)
    assert found.baseline == pytest.approx(2 * 10 / 12)  # two false negatives in each of ten images


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (2, 9, 11)), RULES, st.sampled_from(AREAS))
def test_minimum_area_removes_whole_objects_and_changes_no_others(values, rules, area):
    whole, kept = (label_instances(values, each) for each in (rules, rules._replace(min_area=area)))
    sizes = np.bincount(whole.ravel())
    assert np.array_equal(kept > 0, (whole > 0) & (sizes[whole] >= area))
    pairs = set(zip(whole[kept > 0].tolist(), kept[kept > 0].tolist(), strict=True))
    assert len(pairs) == kept.max() == (sizes[1:] >= max(area, 1)).sum()


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, (1, 2, 9, 11)), RULES)
def test_objects_never_overlap_and_their_union_is_the_mask(values, rules):
    renderer = make_renderer(rules)
    labels, masks = label(renderer, values), renderer.masks(renderer.combine(values))
    assert labels.shape == (9, 11)  # each pixel has one label
    assert np.unique(labels).tolist() == list(range(int(not (labels == 0).any()), labels.max() + 1))
    assert np.array_equal(masks, (labels > 0)[None].astype(np.uint8))
    # A stored value is kept by thresholds of at most (value - 0.5) / 255.
    assert np.array_equal(masks[0], (values[0, 0] - 0.5) / 255 >= rules.threshold - 1e-9)


def test_predictions_at_void_pixels_are_ignored(discs):
    rng, known = np.random.default_rng(1), {}
    for image_id in discs.image_ids:
        values, target = discs.read(image_id)
        void = np.zeros(SIDES, bool)
        void[:, 18:26] = True
        junk = rng.integers(256, size=values.shape, dtype=np.uint8)
        known[image_id] = np.where(void, junk, values), np.where(void, -1, target)
    oof = replace(discs, read=known.__getitem__)
    selected = select_instances(oof, DSB, boundaries=True)
    expected = []
    for image_id, fold in zip(oof.image_ids, oof.fold_of, strict=True):
        values, target = oof.read(image_id)
        labels = label(selected.by_fold[fold], values)
        expected.append(dsb_by_loops(np.where(target < 0, 0, labels), np.maximum(target, 0)))
    assert selected.scores.per_image() == pytest.approx(expected)
    assert selected.baseline == pytest.approx(2 / 12)


def test_members_have_equal_weights(discs):
    oof = make_oof(two_discs, noises=(60, 60))
    together, alone = select_instances(oof, DSB, boundaries=True), select_instances(oof.only(0), DSB, boundaries=True)
    assert together.renderer.weights.tolist() == together.log_loss_weights.tolist() == [0.5, 0.5]
    assert together.score > alone.score + 0.1
    values = np.array([[[[10]], [[30]]], [[[20]], [[50]]]], dtype=np.uint8)
    assert together.renderer.combine(values).tolist() == [[[15]], [[40]]]


def test_record_is_json_and_contains_the_separation_rules(selected):
    record = json.loads(json.dumps(to_record(selected.renderer, ["one"], ("cell",))))
    assert record["rule_set"] == "instances"
    assert record["weights"] == {"one": 1}
    assert InstanceRules(**{name: record[name] for name in InstanceRules._fields}) == rules_of(selected)


def test_one_fold_is_refused():
    with pytest.raises(ValueError, match="at least 2 are needed"):
        select_instances(make_oof(two_discs, images=6, folds=1), DSB, boundaries=True)
