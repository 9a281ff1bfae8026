"""Tests of the plan for a time budget."""

import math
from itertools import product

import pytest

from pipeline.planning.budget import (
    FEWEST_EPOCHS,
    LEAST_UPDATES,
    LONG,
    LONGEST,
    MOST_EPOCHS,
    OF_SEVERAL,
    REPORT,
    SHORTEST,
    SUBMISSION,
    Choices,
    Costs,
    Counts,
    Plan,
    describe_limit,
    fold_training,
    make_plan,
    revise,
    spend,
    time_for,
    usable_of,
)

VIEWS = (("identity", "flip_horizontal", "flip_vertical", "rotate_180"), ("identity", "flip_horizontal"), ("identity",))
COUNTS = Counts(train=600, test=100, folds=5, batch=8, masked=600)
COSTS = Costs(10.0, 1.0, 0.2, 0.1)
CHOICES = Choices((1.0, 0.75, 0.5), VIEWS)
HOURS = [hours / 60 for hours in (1.5, 2, 3, 4, 6, 8, 10, 15, 20, 30, 45, 60, 90, 120, 240, 540, 1200)]


def plan_for(hours, counts=COUNTS, choices=CHOICES):
    return make_plan(3600 * hours, counts, COSTS, choices)


def test_the_seconds_of_a_plan_are_a_sum_by_hand():
    plan = Plan(5, 2, 0.5, 100, 4, VIEWS[1])
    counts = Counts(train=103, test=10, folds=5, batch=8, masked=600)
    found = spend(plan, counts, Costs(start=10.0, update=2.0, predict=0.4, choose=0.5))
    assert counts.held_out(5) == 21  # 103 / 5, rounded up
    assert found.start == 2 * 10
    assert found.training == 2 * 100 * 2.0 / 4  # half of both sides is a quarter of the pixels
    assert found.validation == pytest.approx(2 * 4 * 21 * 0.1)
    assert found.prediction == pytest.approx(2 * (21 + 10) * 2 * 0.1)
    # After the first fold the choice is on its images, at the end on those of both.
    assert found.choice == 0.5 * 21 * 3 + 2 * SUBMISSION + REPORT
    by_image = Costs(start=10.0, update=2.0, predict=0.4, choose=0.5, submit=1.0, report=2.0, draw=0.1)
    assert spend(plan, counts, by_image).choice == pytest.approx(0.5 * 21 * 3 + 2 * 1 + 2 + 0.1 * 21 * 2)
    assert fold_training(plan, counts, Costs(10.0, 2.0, 0.4, 0.5)) == pytest.approx(50 + 4 * 21 * 0.1)


def test_folds_that_are_done_cost_no_training():
    plan = Plan(5, 3, 1.0, 100, 4, VIEWS[2])
    whole, left = spend(plan, COUNTS, COSTS), spend(plan, COUNTS, COSTS, done=1)
    assert left.training == pytest.approx(whole.training * 2 / 3)
    assert spend(plan, COUNTS, COSTS, done=3).total == pytest.approx(0.1 * 120 * 3 + SUBMISSION + REPORT)


@pytest.mark.parametrize("hours", HOURS)
def test_a_plan_fits_and_leaves_little(hours):
    plan = plan_for(hours)
    usable = usable_of(3600 * hours)
    spent = spend(plan, COUNTS, COSTS).total
    assert spent <= usable
    is_longest = plan.updates == COUNTS.updates(LONGEST)
    assert spent >= 0.93 * usable or is_longest


def given_up(plan, counts=COUNTS):
    """How much of each kind is given up, in the order that is stated: a larger tuple is a smaller plan."""
    return (
        CHOICES.sizes.index(plan.size),
        counts.folds - plan.folds,
        max(counts.updates(LONG) - plan.updates, 0),
        VIEWS.index(plan.views),
    )


def test_the_order_of_what_is_given_up():
    plans = [plan_for(hours) for hours in HOURS]
    rows = [given_up(plan) for plan in plans]
    assert rows == sorted(rows, reverse=True)  # more time never gives up more
    for size, folds, length, views in rows:
        assert not length or views == len(VIEWS) - 1, "the length is given up before the views"
        if size or folds:
            assert views == len(VIEWS) - 1, "and before folds and size"
        assert not size or folds == COUNTS.folds - 1, "folds are given up before the size"
    assert [plans[-1].folds, plans[-1].size, plans[-1].views] == [5, 1.0, VIEWS[0]]
    assert plans[0].folds == 1


def fits(plan, seconds):
    return spend(plan, COUNTS, COSTS).total <= usable_of(seconds)


@pytest.mark.parametrize("hours", HOURS)
def test_no_plan_before_it_in_the_order_would_fit(hours):
    seconds, plan = 3600 * hours, plan_for(hours)
    if plan.updates < shortest(plan.folds):
        return
    mine = given_up(plan)[:2]
    for folds, size in [*product(range(1, 6), CHOICES.sizes[:1]), *product([1], CHOICES.sizes[1:])]:
        other = Plan(5, folds, size, shortest(folds), FEWEST_EPOCHS, VIEWS[-1])
        if given_up(other)[:2] < mine:
            assert not fits(other, seconds)


def shortest(folds):
    return COUNTS.updates(OF_SEVERAL if folds > 1 else SHORTEST)


@pytest.mark.parametrize("hours", HOURS)
def test_several_folds_are_trained_longer_than_the_only_one_must_be(hours):
    plan = plan_for(hours)
    assert plan.folds == 1 or plan.updates >= COUNTS.updates(OF_SEVERAL) > COUNTS.updates(SHORTEST)


def test_of_many_images_with_masks_a_smaller_share_is_held_out():
    counts = Counts(train=12_000, test=100, folds=5, batch=8, masked=12_000)
    assert (plan_for(0.042, counts).split, plan_for(0.042, counts).folds) == (100, 1)
    assert plan_for(0.042, counts._replace(masked=999)).split == 20  # fewer than ten masks in a hundredth
    with pytest.raises(ValueError, match="give a larger BUDGET"):
        plan_for(0.042, counts._replace(masked=199))
    with pytest.raises(ValueError, match="give a larger BUDGET"):
        plan_for(0.042, counts, CHOICES._replace(finer_splits=False))


def test_sizes_that_lose_objects_are_planned_only_if_nothing_else_fits():
    counts, choices = COUNTS._replace(train=200), CHOICES._replace(last_sizes=(0.35, 0.25))
    least = Plan(5, 1, 0.5, LEAST_UPDATES, FEWEST_EPOCHS, VIEWS[-1])
    enough = time_for(spend(least, counts, COSTS).total) + 1
    assert make_plan(enough, counts, COSTS, choices).size == 0.5
    assert make_plan(enough - 2, counts, COSTS, choices).size == 0.35
    smallest = time_for(spend(least._replace(size=0.25), counts, COSTS).total) + 1
    assert make_plan(smallest, counts, COSTS, choices).size == 0.25
    with pytest.raises(ValueError, match="give a larger BUDGET"):
        make_plan(smallest - 2, counts, COSTS, choices)


def test_a_fold_of_one_image_is_never_trained_alone():
    counts = Counts(train=3, test=1, folds=3, batch=2, masked=3)
    assert min(plan_for(seconds / 3600, counts).folds for seconds in (70, 100, 200, 400, 4000)) == 2


def test_a_short_time_allows_one_short_training():
    counts = COUNTS._replace(train=200)  # too few for a smaller held-out share
    shortest = Plan(5, 1, 0.5, counts.updates(SHORTEST), FEWEST_EPOCHS, VIEWS[-1])
    plan = make_plan(time_for(spend(shortest, counts, COSTS).total) - 1, counts, COSTS, CHOICES)
    assert (plan.folds, plan.updates >= LEAST_UPDATES, plan.updates < counts.updates(SHORTEST)) == (1, True, True)


def test_a_time_that_is_too_short_is_refused_with_the_least_one():
    least = Plan(5, 1, 0.5, LEAST_UPDATES, FEWEST_EPOCHS, VIEWS[-1])
    seconds = time_for(spend(least, COUNTS, COSTS).total)
    with pytest.raises(ValueError, match=r"0:20 are left, and one short training .* takes about 0:\d\d: give a larger"):
        make_plan(20, COUNTS, COSTS, CHOICES)
    assert make_plan(math.ceil(seconds) + 1, COUNTS, COSTS, CHOICES).folds == 1


PLAN = Plan(5, 3, 1.0, 300, 6, VIEWS[1])


def test_a_plan_that_goes_as_expected_stays():
    left = time_for(spend(PLAN, COUNTS, COSTS, done=1).total) + 1
    assert revise(PLAN, left, COUNTS, COSTS, VIEWS, done=1) == PLAN


def test_a_slow_machine_trains_fewer_folds_and_a_fast_one_more():
    left = time_for(spend(PLAN, COUNTS, COSTS, done=1).total) + 1
    slow, fast = (COSTS._replace(update=factor, predict=0.2 * factor) for factor in (1.6, 0.3))
    assert revise(PLAN, left, COUNTS, slow, VIEWS, done=1).folds == 2
    assert revise(PLAN, left, COUNTS, fast, VIEWS, done=1).folds == 5


def test_the_last_fold_may_be_shortened_by_half_and_no_more():
    costs, two = COSTS, PLAN._replace(folds=2, views=VIEWS[2])
    whole, training = spend(two, COUNTS, costs, done=1).total, fold_training(two, COUNTS, costs)
    one = two._replace(folds=1)
    enough, too_little = (time_for(whole - share * training) for share in (0.49, 0.51))
    views = VIEWS[2:]
    assert revise(one, enough, COUNTS, costs, views, done=1).folds == 2
    assert revise(one, too_little, COUNTS, costs, views, done=1).folds == 1


def test_time_that_is_left_when_all_folds_fit_goes_into_views():
    plan = PLAN._replace(folds=5, views=VIEWS[2])
    left = 5 * spend(plan, COUNTS, COSTS, done=4).total
    assert revise(plan, left, COUNTS, COSTS, VIEWS, done=4).views == VIEWS[0]


def test_length_and_size_never_change_after_the_first_fold():
    for left in (10, 100, 1000, 10_000):
        revised = revise(PLAN, left, COUNTS, COSTS, VIEWS, done=1)
        assert revised[2:5] == PLAN[2:5]
        assert revised.folds >= 1


def test_without_time_for_anything_the_folds_that_are_done_are_all():
    assert revise(PLAN, 0, COUNTS, COSTS, VIEWS, done=2) == PLAN._replace(folds=2)


FEW = Counts(train=24, test=10, folds=5, batch=8, masked=24)


@pytest.mark.parametrize("speed", [1e-4, 0.01, 1.0])
@pytest.mark.parametrize("counts", [FEW, COUNTS, COUNTS._replace(train=2, folds=2)], ids=lambda each: each.train)
def test_more_time_than_the_images_have_a_use_for_is_not_planned(speed, counts):
    costs = Costs(*(speed * each for each in COSTS))
    plan, other = (make_plan(3600 * hours, counts, costs, CHOICES) for hours in (9000, 90_000))
    assert plan == other == Plan(counts.folds, counts.folds, 1.0, counts.updates(LONGEST), MOST_EPOCHS, VIEWS[0])
    assert "number of images limits the plan" in describe_limit(plan, counts, VIEWS, is_given=False)
    done = revise(plan, 3600 * 90_000, counts, costs, VIEWS, done=plan.folds)
    assert done == plan  # nothing is trained or predicted again


def test_the_limit_of_a_plan_is_the_time_unless_it_has_all_folds_views_and_updates():
    longest = Plan(5, 5, 1.0, FEW.updates(LONGEST), MOST_EPOCHS, VIEWS[0])
    for smaller in ({"folds": 4}, {"views": VIEWS[1]}, {"size": 0.75}, {"updates": FEW.updates(LONGEST) - 1}):
        assert describe_limit(longest._replace(**smaller), FEW, VIEWS, is_given=False).startswith("The time budget")
    short = longest._replace(updates=10)
    assert describe_limit(short, FEW, VIEWS, is_given=True).startswith("The config limits the plan")
