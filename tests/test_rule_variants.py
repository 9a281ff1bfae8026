"""Variants of given rules: counts on components against `apply`, candidate by candidate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.metrics import VOID, count, metric_names, pixel_metric, stack
from pipeline.postprocess.rule_variants import _Group, _Image, rule_variants
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.shares import Histograms, Place
from tests.streams import images_let_go, search_variants

DICE = pixel_metric("mean_dice")
MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))
OPTIONS = st.builds(
    Rules,
    st.sampled_from([0.1, 0.5]),
    st.integers(0, 12),
    st.integers(0, 6),
    st.floats(0, 1),
    st.integers(0, 20),
    st.booleans(),
    st.none() | st.integers(1, 3),
    st.none(),
    share=st.none() | st.sampled_from([0.1, 0.4]),
    share_of=st.sampled_from(["pixels", "expected"]),
    share_in=st.just("image"),
    by_group=st.just(()),
)


def mask_of(*rows):
    return np.array([[sign == "#" for sign in row] for row in rows], dtype=np.uint8)


def image(*rows, target=None, fold=0):
    """Values of a mask that is the same at every threshold; its target is by default the mask."""
    mask = mask_of(*rows)
    return mask * 255, mask if target is None else mask_of(*target), fold


def count_variants(candidates, values, target):
    """The counts of rules of one threshold, or of one share of the image."""
    group, image = _Group(candidates), _Image(values, target)
    return group.count(image, group.lowest(image, Place(0), Histograms()))


RING = ("#####", "#...#", "#.#.#", "#...#", "#####")
DISC = ("#####",) * 5


# Candidates


@pytest.mark.parametrize(
    "rules",
    [
        Rules(0.5, 0),
        Rules(0.3, 9),
        Rules(0.5, 0, min_component=7),
        Rules(0.5, 0, presence_threshold=0.8, presence_area=3),
    ],
)
def test_variants_are_unique_start_with_the_given_rules_and_keep_the_threshold(rules):
    tried = rule_variants(rules)
    changes = [sum(one != other for one, other in zip(each, rules, strict=True)) for each in tried]
    assert tried[0] == rules
    assert len(set(tried)) == len(tried)
    assert changes[: len([each for each in changes if each == 1])][0] == 0
    assert {each.threshold for each in tried} == {rules.threshold}


def test_variants_keep_the_rules_that_are_already_set():
    assert {each.min_component for each in rule_variants(Rules(0.5, 0, min_component=7))} == {7}
    assert {each.min_area for each in rule_variants(Rules(0.5, 30))} == {30}
    triplet = Rules(0.5, 0, presence_threshold=0.8, presence_area=3)
    assert {each[1:2] + each[3:5] for each in rule_variants(triplet)} == {(0, 0.8, 3)}


def test_variants_combine_minimum_component_and_minimum_area():
    assert Rules(0.5, 256, min_component=7) in rule_variants(Rules(0.5, 0, min_component=7))
    assert Rules(0.5, 256, min_component=64) in rule_variants(Rules(0.5, 0))


# Counts


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(MASKS, st.data(), st.lists(OPTIONS, min_size=1, max_size=6))
def test_counts_equal_those_of_the_masks_by_apply(mask, data, candidates):
    values = mask * data.draw(arrays(np.uint8, mask.shape, elements=st.sampled_from([60, 130, 200, 255])))
    target = data.draw(arrays(np.uint8, mask.shape, elements=st.sampled_from([0, 1, VOID])))
    cut = {field: getattr(candidates[0], field) for field in ("threshold", "share", "share_of")}
    candidates = [rules._replace(**cut) for rules in candidates]
    expected = stack(count(apply(values, rules), target) for rules in candidates)
    for found, by_hand in zip(count_variants(candidates, values, target), expected, strict=True):
        assert found.tolist() == by_hand.tolist()


def test_nested_holes_are_counted_like_apply_fills_them():
    # Nested rings with noise: trees of many levels, which small random masks rarely have.
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:61, :60]
    rings = (np.maximum(abs(rows - 30), abs(columns - 30)) % 4 < 2).astype(np.uint8)
    for share in (0.0, 0.02, 0.1, 0.4):
        mask = rings ^ (rng.random(rings.shape) < share).astype(np.uint8)
        target = rng.integers(0, 2, mask.shape).astype(np.uint8)
        candidates = rule_variants(Rules(0.5, 0))
        expected = stack(count(apply(mask * 255, rules), target) for rules in candidates)
        for found, by_hand in zip(count_variants(candidates, mask * 255, target), expected, strict=True):
            assert found.tolist() == by_hand.tolist()


def test_a_component_inside_a_removed_ring_is_counted_once():
    # A block of 81 in a ring of 48 in a ring of 64, the border of the image: a minimum of 64 pixels keeps two of them.
    mask = np.zeros((17, 17), np.uint8)
    for inset, width in ((0, 1), (2, 1), (4, 9)):
        mask[inset : 17 - inset, inset : 17 - inset] = 1
        if width == 1:
            mask[inset + 1 : 16 - inset, inset + 1 : 16 - inset] = 0
    candidates = [Rules(0.5, 0, min_component=64), Rules(0.5, 0, min_component=64, fill_holes=True)]
    counts = count_variants(candidates, mask * 255, mask)
    assert counts.predicted.tolist() == [64 + 81, 17 * 17]
    assert counts.intersection.tolist() == [64 + 81, 64 + 48 + 81]


# Scores


def test_filled_ring_by_hand():
    # A ring of 16 pixels around a dot, on a disc of 25: dice 2·17/(17+25) as it is, 1 once it is filled.
    found = search_variants([image(*RING, target=DISC)], DICE, [Rules(0.5, 0)])
    assert found.score(Rules(0.5, 0)) == pytest.approx(34 / 42)
    assert found.score(Rules(0.5, 0, keep_largest=1)) == pytest.approx(32 / 41)
    assert found.score(Rules(0.5, 0, keep_largest=1, fill_holes=True)) == 1
    assert found.best(Rules(0.5, 0)) == (Rules(0.5, 0, fill_holes=True), 1.0)


def test_a_pair_of_minimum_component_and_minimum_area_is_found():
    # Four objects of 20 pixels with specks of 3 between them; on an empty image one false object of 20.
    objects = ("####.#.####", "####.#.####", "####.#.####", "####...####", "####...####", *["." * 11] * 2)
    specks = image(*objects, *objects, target=(*[row.replace(".#.", "...") for row in objects],) * 2)
    ghost = image(*["####......."] * 5, target=["." * 11] * 5)
    found = search_variants([specks, ghost], DICE, [Rules(0.5, 0)])
    assert found.best(Rules(0.5, 0)) == (Rules(0.5, 64, min_component=4), 1.0)
    assert found.score(Rules(0.5, 0, min_component=4)) == 0.5
    assert found.score(Rules(0.5, 64)) == pytest.approx((2 * 80 / 166 + 1) / 2)


def test_the_fewest_rules_win_a_tie():
    assert search_variants([image(*DISC)], DICE, [Rules(0.3, 0)]).best(Rules(0.3, 0)) == (Rules(0.3, 0), 1.0)


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
def test_scores_equal_a_loop_with_apply_on_each_fold(name):
    rng, metric = np.random.default_rng(1), pixel_metric(name)
    images = []
    for number in range(7):
        values = rng.choice(np.array([0, 90, 150, 240], np.uint8), (12, 13), p=[0.5, 0.1, 0.2, 0.2])
        images.append((values, (rng.random((12, 13)) < 0.4 * (number % 3)).astype(np.uint8), number % 2))
    candidates = [Rules(0.5, 0), Rules(0.2, 0, min_component=3), Rules(0.5, 5)]
    found = search_variants(images, metric, candidates)
    for fold in found.folds.tolist():
        of_fold = [(values, target) for values, target, number in images if number == fold]
        for rules in list(found.columns)[::7]:
            scores = metric.scores(stack(count(apply(values, rules), target) for values, target in of_fold))
            assert found.score(rules, [fold]) == pytest.approx(scores.mean(), abs=1e-12)


def test_best_variant_of_some_folds_does_not_depend_on_the_others():
    # The objects of fold 0 have no holes, those of fold 1 have.
    found = search_variants([image(*RING, target=DISC), image(*RING, fold=1)], DICE, [Rules(0.5, 0)])
    assert found.best(Rules(0.5, 0), [0])[0] == Rules(0.5, 0, fill_holes=True)
    assert found.best(Rules(0.5, 0), [1])[0] == Rules(0.5, 0)


def test_search_holds_no_image_after_the_next():
    assert search_variants(images_let_go(), DICE, [Rules(0.5, 0)]).images.tolist() == [4, 4]


def test_rules_that_are_not_variants_have_no_score():
    found = search_variants([image(*DISC)], DICE, [Rules(0.5, 0)])
    with pytest.raises(ValueError, match="was not tried"):
        found.score(Rules(0.4, 0))


def test_search_without_images_or_rules_is_refused():
    with pytest.raises(ValueError, match="no image to search on"):
        search_variants([], DICE, [Rules(0.5, 0)])
    with pytest.raises(ValueError, match="no rules to vary"):
        search_variants([image(*DISC)], DICE, [])
