"""What was chosen, written down and read back."""

import json

import pytest

from pipeline.ensemble import Choice, Exclusive, ObjectCut, Objects, PerClass, drawer_of
from pipeline.postprocess import Cut

MEMBERS, CLASSES = ["a", "b"], ("cat", "dog")
CUT = Cut(0.37, 12, presence_threshold=0.8, presence_area=5)
DRAWERS = {
    "one class": (PerClass((Choice("logit", (0.25, 0.75), "triplet", CUT),)), CLASSES[:1]),
    "refined": (
        PerClass(
            (Choice("mean", (0.5, 0.5), "refined", CUT._replace(fill_holes=True, keep_largest=2, min_component=9)),)
        ),
        CLASSES[:1],
    ),
    "two classes": (
        PerClass((Choice("mean", (1.0, 0.0), "total", Cut(0.5, 0)), Choice("vote", (0.1, 0.9), "components", CUT))),
        CLASSES,
    ),
    "exclusive": (Exclusive("geometric", (0.4, 0.6)), CLASSES),
    "objects": (Objects(2, ObjectCut(0.4, neck=0.8, min_area=16)), CLASSES[:1]),
    "objects by border": (Objects(2, ObjectCut(0.4, boundary=0.35)), CLASSES[:1]),
}


@pytest.mark.parametrize(("drawer", "classes"), DRAWERS.values(), ids=DRAWERS)
def test_a_drawer_comes_back_from_its_record_through_a_file(drawer, classes):
    record = json.loads(json.dumps({**drawer.record(MEMBERS, classes), "oof_score": 0.9}))
    back = drawer_of(record, MEMBERS, classes)
    assert back == drawer
    assert type(back) is type(drawer)


def test_members_and_classes_are_told_by_name_and_not_by_place():
    drawer, classes = DRAWERS["two classes"]
    record = drawer.record(MEMBERS, classes)
    swapped = drawer_of(record, MEMBERS[::-1], classes[::-1])
    assert [choice.how for choice in swapped.choices] == ["vote", "mean"]
    assert swapped.choices[1].weights == (0.0, 1.0)


def test_a_record_from_before_a_rule_existed_is_read_without_it():
    record = {
        "combination": "mean",
        "weights": {"a": 0.5, "b": 0.5},
        "rules": "components",
        "threshold": 0.4,
        "min_area": 0,
        "min_component": 7,
        "oof_score": 0.9,
    }
    choice = Choice("mean", (0.5, 0.5), "components", Cut(0.4, 0, min_component=7))
    assert drawer_of(record, MEMBERS, CLASSES[:1]) == PerClass((choice,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 1.0}}, "weights of a: expected those of a, b"),
        ({"combination": "median"}, "unknown combination 'median'"),
        ({"rules": "magic"}, "rules 'magic': expected one of"),
    ],
)
def test_a_record_of_something_else_is_refused(change, message):
    drawer, classes = DRAWERS["one class"]
    with pytest.raises(ValueError, match=message):
        drawer_of({**drawer.record(MEMBERS, classes), **change}, MEMBERS, classes)
