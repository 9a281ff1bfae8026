"""Views and folds that are dropped when time is short, and their order."""

import pytest

from pipeline.serving.budget_plan import (
    Costs,
    Fallback,
    Member,
    apply_fallback,
    fit_plan,
    fold_fallbacks,
    parse_duration,
)

PLAN = (Member("a", (0, 1, 2), ("identity", "flip_horizontal")), Member("b", (0, 1), ("identity",)))
FALLBACKS = [
    Fallback(drop="view", member="a", name="flip_horizontal", loss=0.1),
    Fallback(drop="fold", member="a", name=2),
    Fallback(drop="fold", member="b", name=0),
]
COSTS = Costs(0.5, {"a": 1.0, "b": 2.0})  # an image of the whole plan: .5 + 6·1 + 2·2 = 10.5 seconds


def test_time_per_image_is_overhead_plus_model_runs():
    assert COSTS.per_image(PLAN) == 10.5


@pytest.mark.parametrize(
    ("seconds", "taken", "left"),
    [(105, 0, 10.5), (104, 1, 7.5), (75, 1, 7.5), (74, 2, 6.5), (64, 3, 4.5), (1, 3, 4.5)],
)
def test_as_few_fallbacks_as_possible_are_applied(seconds, taken, left):
    plan, dropped = fit_plan(PLAN, FALLBACKS, COSTS, 10, seconds)
    assert dropped == FALLBACKS[:taken]
    assert COSTS.per_image(plan) == left


def test_a_fallback_drops_only_what_it_names():
    plan = apply_fallback(PLAN, FALLBACKS[1])
    assert plan == (Member("a", (0, 1), ("identity", "flip_horizontal")), PLAN[1])


def test_the_last_view_cannot_be_dropped():
    with pytest.raises(ValueError, match="b: view identity is the last one"):
        apply_fallback(PLAN, Fallback(drop="view", member="b", name="identity"))


def test_the_worst_fold_of_the_largest_member_is_dropped_first():
    scores = {"a": {0: 0.7, 1: 0.9, 2: 0.8}, "b": {0: 0.6, 1: 0.5}}
    fallbacks = fold_fallbacks(PLAN, scores)
    assert [(fallback.member, fallback.name) for fallback in fallbacks] == [("a", 0), ("a", 2), ("b", 1)]
    plan = PLAN
    for fallback in fallbacks:
        plan = apply_fallback(plan, fallback)
    assert [member.folds for member in plan] == [(1,), (0,)]


def test_a_full_fit_is_dropped_after_the_folds():
    plan = (Member("a", (0, 1, "full"), ("identity",)),)
    assert [fallback.name for fallback in fold_fallbacks(plan, {"a": {0: 0.9, 1: 0.8}})] == [1, 0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h", 28800), ("8h30m", 30600), ("90s", 90), ("1.5h", 5400), ("1h 5s", 3605)]
)
def test_a_duration_has_hours_minutes_and_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "0h", "8 hours", "-1h", "30m8h"])
def test_an_invalid_duration_is_refused(text):
    with pytest.raises(ValueError, match="such as 8h"):
        parse_duration(text)
