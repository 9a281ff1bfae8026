"""Post-processing rules and their search: masks by hand, properties, and the search against loops over masks."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.inference.prediction_store import MAX_VALUE, probs_to_uint8
from pipeline.metrics import VOID, Counts, Metric, count, metric_names, pixel_metric, stack
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.search import AREAS, area_grid
from pipeline.postprocess.threshold_counts import THRESHOLDS, best_threshold, count_levels, level
from tests.streams import OF_ONE_IMAGE, images_let_go, search_rules

VALUES = arrays(np.uint8, (6, 9))
TARGET = arrays(np.uint8, (6, 9), elements=st.sampled_from([0, 1, VOID]))
MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1))
OPTIONS = st.fixed_dictionaries(
    {
        "min_component": st.integers(0, 6),
        "presence_threshold": st.floats(0, 1),
        "presence_area": st.integers(0, 20),
        "fill_holes": st.booleans(),
        "keep_largest": st.none() | st.integers(1, 3),
    }
)
DICE = pixel_metric("mean_dice")


def search_total(images, metric, areas=AREAS):
    return search_rules(images, metric, areas, rule_sets=["total"])["total"]


def picture(*rows):
    """Stored values from text: '#' is 255, a digit d is 25 d, '.' is 0."""
    level_of = {"#": 255, ".": 0, **{str(digit): 25 * digit for digit in range(10)}}
    return np.array([[level_of[sign] for sign in row] for row in rows], dtype=np.uint8)


def mask_of(*rows):
    return (picture(*rows) > 0).astype(np.uint8)


# Levels


@given(VALUES, TARGET)
def test_level_counts_equal_counts_of_the_masks(values, target):
    counts = count_levels(values, target)
    for k in (1, 2, 77, 128, 254, 255):
        expected = count((values >= k).astype(np.uint8), target)
        assert tuple(part[k - 1] for part in counts) == expected


def test_thresholds_lie_between_levels_and_include_one_half():
    assert THRESHOLDS[127] == 0.5
    assert [level(threshold) for threshold in THRESHOLDS] == list(range(1, 256))


@given(st.floats(0, 1), st.sampled_from(range(MAX_VALUE)))
def test_rounding_moves_no_pixel_over_a_threshold(prob, number):
    if abs(prob - THRESHOLDS[number]) > 1e-6:
        kept = apply(probs_to_uint8(torch.tensor([[prob]])).numpy(), Rules(float(THRESHOLDS[number]), 0))[0, 0]
        assert bool(kept) == (prob >= THRESHOLDS[number])


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count_levels(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


def test_counts_are_int64():
    assert all(part.dtype == np.int64 for part in count_levels(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)))
    assert isinstance(count_levels(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)), Counts)


def test_the_threshold_nearest_to_one_half_wins_a_tie():
    scores = np.zeros(255)
    assert best_threshold(scores) == 127
    scores[[10, 100, 240]] = 1
    assert best_threshold(scores) == 100


# Rules


def test_a_mask_below_the_minimum_area_becomes_empty():
    values = np.array([[255, 255, 0]], dtype=np.uint8)
    assert apply(values, Rules(0.5, 2)).sum() == 2
    assert apply(values, Rules(0.5, 3)).sum() == 0


def test_pixels_that_touch_at_a_corner_are_one_component():
    values = picture("#..#", ".#..", "#..#")
    assert np.array_equal(apply(values, Rules(0.5, 0, min_component=3)), mask_of("#...", ".#..", "#..."))
    assert not apply(values, Rules(0.5, 0, min_component=4)).any()


def test_largest_components_are_kept_and_the_first_from_the_top_wins_a_tie():
    values = picture("..##", "....", "##.#", "...#", "#...", "#.##")
    assert np.array_equal(
        apply(values, Rules(0.5, 0, keep_largest=2)), mask_of("..##", "....", "##..", "....", "....", "....")
    )


def test_presence_threshold_decides_if_there_is_a_mask_and_threshold_its_pixels():
    values = picture("36663", ".6#6.", ".363.")
    kept = mask_of("#####", ".###.", ".###.")
    assert np.array_equal(apply(values, Rules(0.25, 0, presence_threshold=0.55, presence_area=7)), kept)
    assert not apply(values, Rules(0.25, 0, presence_threshold=0.55, presence_area=8)).any()
    assert np.array_equal(apply(values, Rules(0.25, 0, presence_threshold=0.9, presence_area=1)), kept)
    assert not apply(values, Rules(0.25, 0, presence_threshold=0.9, presence_area=2)).any()


def test_a_presence_threshold_below_the_threshold_is_raised_to_it():
    values = picture("###3333")
    assert apply(values, Rules(0.5, 0, presence_threshold=0.1, presence_area=3)).sum() == 3
    assert not apply(values, Rules(0.5, 0, presence_threshold=0.1, presence_area=4)).any()


def test_a_hole_is_filled_unless_its_4_neighbourhood_reaches_the_outside():
    # The left ring is closed only by corners, the right one is open at the bottom.
    values = picture(".#.###", "#.##.#", ".#.#.#")
    filled = mask_of(".#.###", "####.#", ".#.#.#")
    assert np.array_equal(apply(values, Rules(0.5, 0, fill_holes=True)), filled)


def test_holes_are_filled_after_areas_are_measured():
    ring = picture("###", "#.#", "###")
    assert apply(ring, Rules(0.5, 8, min_component=8, fill_holes=True)).sum() == 9
    assert not apply(ring, Rules(0.5, 9, fill_holes=True)).any()
    assert not apply(ring, Rules(0.5, 0, min_component=9, fill_holes=True)).any()


def test_minimum_area_is_measured_on_the_kept_components():
    values = picture("##.#.#")
    assert apply(values, Rules(0.5, 2, min_component=2)).sum() == 2
    assert not apply(values, Rules(0.5, 3, min_component=2)).any()
    assert not apply(values, Rules(0.5, 3, keep_largest=1)).any()


def test_gate_empties_masks_of_images_below_its_image_probability():
    values, rules = picture("##"), Rules(0.5, 0, gate=0.6)
    assert not apply(values, rules, image_prob=0.59).any()
    assert apply(values, rules, image_prob=0.6).all()
    assert apply(values, Rules(0.5, 0), image_prob=0.0).all()  # without a gate the probability is ignored
    with pytest.raises(ValueError, match=r"gate 0\.6 without image_prob"):
        apply(values, rules)


def test_keeping_no_component_is_refused():
    with pytest.raises(ValueError, match="keep_largest is 0"):
        apply(picture("##"), Rules(0.5, 0, keep_largest=0))


def flood(inside, start, steps):
    """All pixels of `inside` that are connected to one pixel."""
    found, todo = {start}, [start]
    while todo:
        row, column = todo.pop()
        new = {(row + down, column + right) for down, right in steps} & inside - found
        found |= new
        todo += new
    return found


SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]
CORNERS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


def slow_apply(values, rules):
    """A slow reference implementation of `apply`, pixel by pixel."""
    surest = max(level(rules.presence_threshold), level(rules.threshold))
    if (values >= surest).sum() < rules.presence_area:
        return np.zeros_like(values)
    remaining, components = set(zip(*np.nonzero(values >= level(rules.threshold)), strict=True)), []
    while remaining:
        components.append(flood(remaining, min(remaining), SIDES + CORNERS))
        remaining -= components[-1]
    components = [component for component in components if len(component) >= rules.min_component]
    components.sort(key=lambda component: (-len(component), min(component)))
    kept = set().union(*components[: rules.keep_largest])
    if len(kept) < rules.min_area:
        return np.zeros_like(values)
    mask = np.zeros_like(values)
    mask[tuple(np.array(sorted(kept), dtype=int).reshape(-1, 2).T)] = 1
    if rules.fill_holes:
        padded = set(zip(*np.nonzero(np.pad(mask, 1) == 0), strict=True))
        outside = flood(padded, (0, 0), SIDES)
        mask = np.array([[(r + 1, c + 1) not in outside for c in range(mask.shape[1])] for r in range(mask.shape[0])])
    return mask.astype(np.uint8)


@settings(max_examples=100, deadline=None)
@given(MASKS, st.data(), OPTIONS, st.integers(0, 12))
def test_rules_equal_a_slow_reference_implementation(mask, data, options, min_area):
    values = mask * data.draw(arrays(np.uint8, mask.shape, elements=st.sampled_from([60, 130, 200, 255])))
    rules = Rules(data.draw(st.sampled_from([0.1, 0.5, 0.7])), min_area, **options)
    assert np.array_equal(apply(values, rules), slow_apply(values, rules))


def test_components_of_images_with_odd_sides_are_correct():
    # For bool instead of uint8, cc3d reads past their border.
    rng = np.random.default_rng(0)
    for shape in [(64, 63), (63, 64), (63, 63)] * 10:
        mask = (rng.random(shape) < 0.02).astype(np.uint8)
        assert np.array_equal(apply(mask * 255, Rules(0.5, 0, keep_largest=mask.size)), mask)


@given(MASKS)
def test_ties_of_components_do_not_depend_on_memory_order(mask):
    rules = Rules(0.5, 0, keep_largest=1)
    assert np.array_equal(apply(np.asfortranarray(mask * 255), rules), apply(mask * 255, rules))


@given(VALUES, st.sampled_from(list(THRESHOLDS)), st.integers(0, 9))
def test_a_minimum_component_of_at_most_one_pixel_changes_nothing(values, threshold, min_area):
    rules = Rules(threshold, min_area)
    assert np.array_equal(apply(values, rules._replace(min_component=1)), apply(values, rules))
    assert np.array_equal(apply(values, rules._replace(min_component=0)), apply(values, rules))


@given(st.integers(0, 4), st.integers(0, 7), st.integers(1, 6), st.integers(1, 9), st.integers(1, 4))
def test_keeping_the_largest_component_of_one_changes_nothing(top, left, height, width, number):
    values = np.zeros((6, 9), np.uint8)
    values[top : top + height, left : left + width] = 200
    assert np.array_equal(apply(values, Rules(0.5, 0, keep_largest=number)), apply(values, Rules(0.5, 0)))


@given(VALUES, st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(0, 9))
def test_higher_threshold_adds_no_pixel(values, thresholds, min_area):
    low, high = (apply(values, Rules(threshold, min_area)) for threshold in sorted(thresholds))
    assert not (high & ~low & 1).any()


@given(MASKS)
def test_filling_holes_twice_is_filling_them_once(mask):
    rules = Rules(0.5, 0, fill_holes=True)
    once = apply(mask * 255, rules)
    assert np.array_equal(apply(once * 255, rules), once)
    assert not (mask & ~once & 1).any()


@given(VALUES, st.sampled_from(list(THRESHOLDS)), st.integers(0, 54))
def test_a_triplet_of_two_equal_thresholds_is_a_minimum_area(values, threshold, area):
    triplet = Rules(threshold, 0, presence_threshold=threshold, presence_area=area)
    assert np.array_equal(apply(values, triplet), apply(values, Rules(threshold, area)))


def test_default_rules_only_threshold():
    values = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    assert np.array_equal(apply(values, Rules(0.5, 0)), (values >= 128).astype(np.uint8))


# The search over folds


@st.composite
def folded_images(draw):
    number = draw(st.integers(1, 5))
    smooth = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 3, 40, 127, 128, 150, 220, 255]))
    target = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, VOID]))
    empty = st.just(np.zeros((5, 6), np.uint8))
    return [(draw(smooth), draw(target | empty), draw(st.integers(0, 2))) for _ in range(number)]


def cells(axes):
    """Some candidates of a rule set: ends and middles of every axis."""
    some = [[0, len(tried) // 2, len(tried) - 1] for tried in axes.values()]
    for place in np.stack(np.meshgrid(*some, indexing="ij"), axis=-1).reshape(-1, len(axes)):
        fields = {field: tried[at].item() for (field, tried), at in zip(axes.items(), place, strict=True)}
        yield Rules(**{"min_area": 0, **fields})


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
@settings(max_examples=12, deadline=None)
@given(folded_images())
def test_score_grids_equal_a_loop_with_apply_on_each_fold(name, images):
    metric = pixel_metric(name)
    for grid in search_rules(images, metric, np.array([0, 1, 2, 3, 5, 12])).values():
        assert grid.images.sum() == len(images)
        for fold in grid.folds.tolist():
            of_fold = [(values, target) for values, target, number in images if number == fold]
            for rules in cells(grid.axes):
                scores = metric.scores(stack(count(apply(values, rules), target) for values, target in of_fold))
                if grid.denominator[grid.folds == fold].any():
                    assert grid.score(rules, [fold]) == pytest.approx(np.nan_to_num(scores.mean()), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(folded_images(), st.sampled_from(metric_names("pixels", complete=True)))
def test_score_of_the_best_rules_equals_their_score_with_apply(images, name):
    for grid in search_rules(images, pixel_metric(name), np.array([0, 2, 7])).values():
        assume(grid.denominator.any())
        rules, score = grid.best()
        scores = pixel_metric(name).scores(stack(count(apply(values, rules), target) for values, target, _ in images))
        assert np.nan_to_num(scores.mean()) == pytest.approx(score, abs=1e-12)
        assert score == pytest.approx(grid.means().max(), abs=1e-12)
        assert grid.score(rules) == score


@given(folded_images())
@settings(max_examples=10, deadline=None)
def test_one_search_of_all_rule_sets_equals_separate_searches(images):
    together = search_rules(iter(images), DICE)
    assert set(together) == set(OF_ONE_IMAGE)
    for name in OF_ONE_IMAGE:
        alone = search_rules(iter(images), DICE, rule_sets=[name])
        assert set(alone) == {name}
        assert np.array_equal(alone[name].numerator, together[name].numerator)


@given(folded_images())
@settings(max_examples=10, deadline=None)
def test_triplets_without_a_presence_threshold_equal_total_rules(images):
    grids = search_rules(images, DICE)
    assert np.array_equal(grids["triplet"].numerator[..., 0], grids["total"].numerator)


def test_best_rules_of_some_folds_do_not_depend_on_the_others():
    # Fold 0 is correct at 200 only, fold 1 at 90 only: an excluded fold has no influence.
    target = mask_of("##..", "##..")
    bright = np.where(target, 200, 199).astype(np.uint8)
    dark = np.where(target, 90, 89).astype(np.uint8)
    grid = search_total([(bright, target, 0), (dark, target, 1)], DICE)
    assert grid.best([0]) == (Rules(THRESHOLDS[199], 0), 1.0)
    assert grid.best([1]) == (Rules(THRESHOLDS[89], 0), 1.0)
    assert grid.score(grid.best([0])[0], [1]) == 0.0


def test_score_over_folds_is_the_mean_over_their_images():
    # Two images of fold 3 score 1 and one of fold 7 scores 0: the mean is 2/3, not 1/2.
    right, wrong = (picture("#."), mask_of("#.")), (picture("#."), mask_of(".#"))
    grid = search_total([(*right, 3), (*wrong, 7), (*right, 3)], DICE)
    assert grid.folds.tolist() == [3, 7]
    assert grid.images.tolist() == [2, 1]
    assert grid.score(Rules(0.5, 0)) == pytest.approx(2 / 3)
    assert grid.score(Rules(0.5, 0), [3]) == 1


def test_smallest_area_then_threshold_nearest_to_one_half_win_a_tie():
    found = {name: grid.best()[0] for name, grid in search_rules([(picture("##"), mask_of("##"), 0)], DICE).items()}
    assert set(found.values()) == {Rules(0.5, 0)}


def test_the_smaller_area_wins_a_tie_before_the_threshold():
    # A speck of 3 on the empty image vanishes at 4 pixels: then every threshold from 51 to 200 is correct.
    image = (picture("88888", "88888"), mask_of("#####", "#####"), 0)
    speck = (picture("999..", "....."), mask_of(".....", "....."), 0)
    for name, field in (("total", "min_area"), ("components", "min_component"), ("triplet", "presence_area")):
        rules, score = search_rules([image, speck], DICE)[name].best()
        assert score == 1
        assert rules == Rules(0.5, 0)._replace(**{field: 4})


def test_minimum_component_scores_higher_than_minimum_area_with_specks_beside_objects():
    values, target = picture("9999..#", "9999...", "9999..#"), mask_of("####...", "####...", "####...")
    grids = search_rules([(values, target, 0)], pixel_metric("mean_iou"))
    assert grids["components"].best() == (Rules(0.5, 0, min_component=2), 1.0)
    assert grids["total"].best() == (Rules(0.5, 0), pytest.approx(12 / 14))


def test_triplet_keeps_a_faint_object_with_a_confident_core():
    # Both have 9 pixels above 99, those of the ghost are higher; only the object has pixels above 125, so no single
    # threshold and area separates them.
    pale, ghost = picture("444", "499", "444"), picture("555", "555", "555")
    everything, nothing = mask_of("###", "###", "###"), mask_of("...", "...", "...")
    grids = search_rules([(pale, everything, 0), (ghost, nothing, 0)], DICE)
    rules, score = grids["triplet"].best()
    assert score == 1
    assert rules.threshold < 100 / 255 < 125 / 255 < rules.presence_threshold < 225 / 255
    assert grids["total"].best()[1] < 1


def test_search_holds_no_image_after_the_next():
    assert search_rules(images_let_go(), DICE)["total"].images.tolist() == [4, 4]


def test_candidate_areas_are_the_same_for_all_image_sizes_up_to_the_largest():
    small, large = area_grid(101 * 101), area_grid(1600 * 256)
    assert np.array_equal(large[: len(small)], small)
    assert np.array_equal(AREAS[: len(large)], large)
    assert small[0] == 0
    assert small[1] == 1
    assert 0.05 * 101 * 101 / np.sqrt(2) < small[-1] <= 0.05 * 101 * 101
    assert area_grid(1).tolist() == [0, 1]


@pytest.mark.parametrize("areas", [[], [-1, 3], [0, 2, 2], [3, 1], [[0, 1]]])
def test_areas_in_no_ascending_order_are_refused(areas):
    with pytest.raises(ValueError, match="expected pixels that ascend"):
        search_total([(picture("#"), mask_of("#"), 0)], DICE, areas)


def test_search_without_an_image_is_refused():
    with pytest.raises(ValueError, match="no image to search on"):
        search_total([], DICE)


def test_a_metric_that_is_undefined_on_an_image_is_refused():
    with pytest.raises(ValueError, match=r"not finite on an image of \(1, 2\) with 0 true pixels"):
        search_total(
            [(picture("#."), mask_of(".."), 0)], Metric(lambda counts: np.where(counts.target > 0, 1.0, np.nan))
        )


def test_folds_without_a_scored_image_are_named():
    images = [(picture("#"), mask_of("#"), 0), (picture("."), mask_of("."), 1)]
    grid = search_total(images, pixel_metric("mean_dice_ignore_empty"))
    with pytest.raises(ValueError, match=r"not defined on folds \[1\]: of 1 images none counts"):
        grid.means([1])
    assert grid.best()[1] == 1


def test_folds_without_images_are_refused():
    grid = search_total([(picture("#"), mask_of("#"), 1)], DICE)
    with pytest.raises(ValueError, match=r"folds \[0, 1\].*\[1\]"):
        grid.best([0, 1])
    with pytest.raises(ValueError, match=r"folds \[\]"):
        grid.means([])


@pytest.mark.parametrize(
    "rules", [Rules(0.4999, 0), Rules(0.5, 7), Rules(0.5, 0, min_component=4), Rules(0.5, 0, fill_holes=True)]
)
def test_rules_that_are_not_candidates_have_no_score(rules):
    with pytest.raises(ValueError, match="was not tried, the nearest was Rules"):
        search_total([(picture("#"), mask_of("#"), 0)], DICE).score(rules)
