"""Records of renderers: written and read."""

import json

import pytest

from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.serialization import from_record, to_record
from pipeline.postprocess.instances import InstanceRules
from pipeline.postprocess.rules import Rules

MEMBERS, CLASSES = ["a", "b"], ("cat", "dog")
RULES = Rules(0.37, 12, presence_threshold=0.8, presence_area=5)
VARIANT = RULES._replace(fill_holes=True, keep_largest=2, min_component=9)


def make_renderer(*parts):
    return Renderer(tuple(Postprocess(*part) for part in parts))


RENDERERS = {
    "one class": (make_renderer(("logit", (0.25, 0.75), "triplet", RULES)), CLASSES[:1]),
    "variants": (make_renderer(("mean", (0.5, 0.5), "variants", VARIANT)), CLASSES[:1]),
    "two classes": (
        make_renderer(("mean", (1.0, 0.0), "total", Rules(0.5, 0)), ("vote", (0.1, 0.9), "components", RULES)),
        CLASSES,
    ),
    "multiclass": (make_renderer(("geometric", (0.4, 0.6), "argmax")), CLASSES),
    "instances": (
        make_renderer(("mean", (0.5, 0.5), "instances", InstanceRules(0.4, saddle_ratio=0.8, min_area=16))),
        CLASSES[:1],
    ),
    "instances by boundary": (
        make_renderer(("mean", (0.5, 0.5), "instances", InstanceRules(0.4, boundary=0.35))),
        CLASSES[:1],
    ),
}


@pytest.mark.parametrize(("renderer", "classes"), RENDERERS.values(), ids=RENDERERS)
def test_from_record_is_the_inverse_of_to_record(renderer, classes):
    record = json.loads(json.dumps({**to_record(renderer, MEMBERS, classes), "oof_score": 0.9}))
    back = from_record(record, MEMBERS, classes)
    assert back == renderer
    assert back.kind == renderer.kind
    assert [type(part.rules) for part in back.parts] == [type(part.rules) for part in renderer.parts]


def test_a_calibration_is_recorded_with_its_name():
    table = tuple(float(level) for level in range(256))
    part = Postprocess("mean", (0.5, 0.5), "total", RULES, (table, table), None, "temperature")
    record = json.loads(json.dumps(to_record(Renderer((part,)), MEMBERS, CLASSES[:1])))
    assert record["calibrated_by"] == "temperature"
    assert from_record(record, MEMBERS, CLASSES[:1]).parts == (part,)


def test_members_and_classes_are_matched_by_name_and_not_by_position():
    renderer, classes = RENDERERS["two classes"]
    swapped = from_record(to_record(renderer, MEMBERS, classes), MEMBERS[::-1], classes[::-1])
    assert [part.combination for part in swapped.parts] == ["vote", "mean"]
    assert swapped.parts[1].weights == (0.0, 1.0)


def test_a_record_without_a_later_rule_is_read_with_its_default():
    record = {
        "combination": "mean",
        "weights": {"a": 0.5, "b": 0.5},
        "rule_set": "components",
        "threshold": 0.4,
        "min_area": 0,
        "min_component": 7,
        "oof_score": 0.9,
    }
    expected = make_renderer(("mean", (0.5, 0.5), "components", Rules(0.4, 0, min_component=7)))
    assert from_record(record, MEMBERS, CLASSES[:1]) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 1.0}}, "weights of a: expected those of a, b"),
        ({"combination": "median"}, "unknown combination 'median'"),
        ({"rule_set": "magic"}, "rule_set 'magic': expected one of"),
        ({"rule_set": ["total"]}, r"rule_set \['total'\]: expected one of"),
        ({"threshold": 1.5}, r"threshold = 1\.5: Input should be less than or equal to 1"),
    ],
)
def test_an_invalid_record_is_refused(change, message):
    renderer, classes = RENDERERS["one class"]
    with pytest.raises(ValueError, match=message):
        from_record({**to_record(renderer, MEMBERS, classes), **change}, MEMBERS, classes)


def test_a_record_without_a_threshold_is_refused():
    record = to_record(*RENDERERS["instances"][:1], MEMBERS, CLASSES[:1])
    del record["threshold"]
    with pytest.raises(ValueError, match="the record has no threshold: make ensemble writes it"):
        from_record(record, MEMBERS, CLASSES[:1])


def test_rules_for_one_of_two_classes_are_refused():
    renderer, classes = RENDERERS["one class"]
    record = to_record(renderer, MEMBERS, classes)
    with pytest.raises(ValueError, match="rule_set triplet: expected one for each of cat, dog, or one of argmax"):
        from_record(record, MEMBERS, CLASSES)
    mixed = {"classes": {"cat": record, "dog": {**record, "rule_set": "argmax"}}}
    with pytest.raises(ValueError, match="rule_set triplet, argmax: expected one for each of cat, dog"):
        from_record(mixed, MEMBERS, CLASSES)
