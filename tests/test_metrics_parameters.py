"""Metrics with parameters: values by hand, a reference of plain loops, properties, and their text form."""

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import fbeta_score

from pipeline.cli import main
from pipeline.competition import Competition
from pipeline.config import load
from pipeline.doctor.findings import describe_metric
from pipeline.metrics import (
    METRICS,
    PRESETS,
    count,
    dice,
    epoch_metric,
    f1,
    f_beta,
    format_metric,
    instance_metric,
    match,
    mean_average_precision,
    metric_kind,
    metric_names,
    parse_metric,
    pixel_metric,
    ranked_metric,
    selection_metric,
    stack,
    volume_metric,
)
from pipeline.metrics.surface import surface_sums
from pipeline.schema import parse
from pipeline.stages.preparing import make_context
from pipeline.stages.training import settings
from pipeline.training.checkpoint import read_record

MASKS = arrays(np.uint8, (4, 5), elements=st.integers(0, 1))
PAIRS = st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=4)
BETAS = st.sampled_from([0.01, 0.5, 1.0, 1.5, 2.0, 100.0])


def counted(pairs):
    return stack([count(*pair) for pair in pairs])


def score(name, values, pairs):
    return pixel_metric(format_metric(name, values)).scores(counted(pairs)).mean()


def count_by_loops(mask, target):
    """True positives, false positives and false negatives, pixel by pixel."""
    pairs = list(zip(mask.ravel().tolist(), target.ravel().tolist(), strict=True))
    return [sum(pair == kind for pair in pairs) for kind in ((1, 1), (1, 0), (0, 1))]


def by_definition(hits, extra, missed, beta):
    """The weighted harmonic mean of precision and recall; None where both masks are empty."""
    if not hits:
        return 0.0 if extra or missed else None
    precision, recall = hits / (hits + extra), hits / (hits + missed)
    return (1 + beta**2) / (1 / precision + beta**2 / recall)


# F-beta.


def test_f_beta_by_hand():
    # Two of three predicted pixels are right, of four. Precision 2/3, recall 1/2.
    pair = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 1])
    assert f_beta(count(*pair), 2) == pytest.approx(5 * 2 / (3 + 4 * 4))
    assert f_beta(count(*pair), 0.5) == pytest.approx(1.25 * 2 / (3 + 1 / 4 * 4))
    assert f_beta(count(*pair), 0.01) == pytest.approx(2 / 3, abs=1e-4)
    assert f_beta(count(*pair), 100) == pytest.approx(1 / 2, abs=1e-4)


@given(MASKS, MASKS, BETAS)
def test_f_beta_is_the_harmonic_mean_of_precision_and_recall(mask, target, beta):
    expected = by_definition(*count_by_loops(mask, target), beta)
    assert f_beta(count(mask, target), beta) == pytest.approx(1 if expected is None else expected)


@given(PAIRS, BETAS, st.sampled_from([1, 0, "skip"]))
def test_mean_f_beta_equals_its_definition_for_each_rule_for_empty_masks(pairs, beta, empty):
    images = [by_definition(*count_by_loops(*pair), beta) for pair in pairs]
    kept = [empty if each is None else each for each in images if each is not None or empty != "skip"]
    expected = np.mean(kept) if kept else np.nan
    assert score("mean_f_beta", {"beta": beta, "empty": empty}, pairs) == pytest.approx(expected, nan_ok=True)


@pytest.mark.slow
@given(PAIRS, BETAS)
def test_global_f_beta_equals_its_definition_on_the_pixels_of_all_images(pairs, beta):
    pooled = np.sum([count_by_loops(*pair) for pair in pairs], axis=0).tolist()
    expected = by_definition(*pooled, beta)
    found = score("global_f_beta", {"beta": beta}, pairs)
    assert found == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


@given(PAIRS, BETAS)
def test_global_f_beta_equals_that_of_scikit_learn(pairs, beta):
    masks, targets = (np.stack(each).ravel() for each in zip(*pairs, strict=True))
    if not masks.any() or not targets.any():
        return
    assert score("global_f_beta", {"beta": beta}, pairs) == pytest.approx(fbeta_score(targets, masks, beta=beta))


@given(PAIRS, st.sampled_from([1, 0, "skip"]))
def test_f_beta_at_one_is_dice(pairs, empty):
    of_dice = score("mean_dice", {"empty": empty}, pairs)
    assert score("mean_f_beta", {"beta": 1, "empty": empty}, pairs) == pytest.approx(of_dice, nan_ok=True)
    pooled = pixel_metric("global_dice").scores(counted(pairs)).mean()
    assert score("global_f_beta", {"beta": 1}, pairs) == pytest.approx(pooled, nan_ok=True)
    assert f_beta(counted(pairs), 1.0) == pytest.approx(dice(counted(pairs)))


@given(MASKS, MASKS, BETAS)
def test_swapping_prediction_and_target_inverts_beta(mask, target, beta):
    assert f_beta(count(mask, target), beta) == pytest.approx(f_beta(count(target, mask), 1 / beta))


@given(MASKS, MASKS)
def test_f_beta_moves_from_precision_to_recall_with_beta(mask, target):
    if not mask.any() or not target.any():
        return
    _, extra, missed = count_by_loops(mask, target)
    values = [float(f_beta(count(mask, target), beta)) for beta in (0.01, 0.5, 1.0, 2.0, 100.0)]
    assert sorted(values, reverse=missed > extra) == pytest.approx(values)
    assert all(0 <= value <= 1 for value in values)


def test_empty_masks_count_as_their_rule_defines():
    names = [format_metric("mean_f_beta", {"beta": 2.0, "empty": empty}) for empty in (1, 0, "skip")]
    assert [pixel_metric(name).counts_empties for name in names] == [True, True, False]
    assert not pixel_metric("global_f_beta(beta=2)").counts_empties


def test_global_f05_is_bit_identical_to_its_formula():
    pairs = [(np.eye(5, dtype=np.uint8), np.tri(5, dtype=np.uint8)), (np.tri(5, dtype=np.uint8),) * 2]
    intersection, predicted, target = (each.sum() for each in counted(pairs))
    assert pixel_metric("global_f05").scores(counted(pairs)).mean() == 1.25 * intersection / (predicted + 0.25 * target)


# Objects.


def test_f1_at_ious_by_hand():
    labels, target = np.zeros((2, 4, 4), np.int64)
    target[0], target[2] = 1, 2
    labels[0], labels[2, :3], labels[3, 3] = 1, 2, 3  # exact, three quarters (IoU .75), a false positive
    matches = match(labels, target)
    assert f1(matches, 0.7) == pytest.approx(2 * 2 / (2 * 2 + 1 + 0))
    assert f1(matches, 0.75) == pytest.approx(2 * 1 / (2 * 1 + 2 + 1))
    assert f1(matches, [0.7, 0.75]) == pytest.approx((4 / 5 + 2 / 5) / 2)
    assert instance_metric("f1(iou=0.75)")(matches) == f1(matches, 0.75)
    assert instance_metric("f1_60")(matches) == f1(matches, 0.6)
    assert f1(match(target * 0, target * 0), [0.5, 0.95]) == 1


def test_mean_precision_matches_objects_separately_at_each_iou():
    images = [(np.array([[0.7, 0.0], [0.9, 0.0], [0.0, 0.65]]), np.array([0.9, 0.8, 0.7]))]
    # At .6: hit, miss (its object is taken), hit: 1/2 · 1 + 1/2 · 2/3. At .8: miss, hit, miss: 1/2 · 1/2.
    assert mean_average_precision(images, [0.6]) == pytest.approx(5 / 6)
    assert mean_average_precision(images, [0.8]) == pytest.approx(1 / 4)
    assert mean_average_precision(iter(images), [0.6, 0.8]) == pytest.approx((5 / 6 + 1 / 4) / 2)


@pytest.mark.parametrize(
    ("iou", "judge"),
    [
        (0.6, "f1_60"),
        (0.75, "f1(iou=0.75)"),
        (0.3, "f1(iou=0.5)"),  # below .5 a match is not unique
        (0.99, "f1(iou=0.95)"),
        ([0.5, 0.51, 0.9], "f1(iou=[0.5, 0.9])"),
    ],
)
def test_selection_metric_of_average_precision_is_f1_at_the_nearest_iou(iou, judge):
    name = format_metric("average_precision", {"iou": iou})
    assert selection_metric(name) == judge
    assert ranked_metric(name).keywords == {"ious": iou if isinstance(iou, list) else [iou]}
    assert epoch_metric(name) == "mean_dice"


# Volumes.


def test_tolerance_and_spacing_are_passed_to_surface_dice():
    masks, target = np.zeros((2, 3, 1, 6, 6), np.uint8)
    masks[1, 0, 1:4, 1:4], target[:2, 0, 2:5, 2:4] = 1, 1
    shared, possible = surface_sums(masks[:, 0], target[:, 0], 1.5, (2.0, 1.0, 0.5))
    name = format_metric("surface_dice", {"tolerance": 1.5, "spacing": [2, 1, 0.5]})
    assert volume_metric(name)([(masks, target)]) == pytest.approx(shared / possible)
    assert selection_metric(name) == epoch_metric(name) == "mean_dice"


# The text.

CARD = {
    "name": "x",
    "title": "x",
    "classes": ["x"],
    "files": {"train_images": "a", "test_images": "b", "train_csv": "c"},
    "columns": {"id": "id", "rle": "rle"},
}
FITTING = {
    "pixels": {},
    "objects": {"instances": True},
    "ranked objects": {
        "instances": True,
        "dialect": {"form": "coco"},
        "columns": {"id": "id", "rle": "rle", "packed_objects": "{confidence} {mask}"},
    },
    "volumes": {"volume_pattern": "(.+)_(.+)"},
}


def card_of(metric, kind="pixels"):
    return parse(Competition, CARD | FITTING[kind] | {"metric": metric}, "card.toml")


def metric_of(metric, kind="pixels"):
    return card_of(metric, kind).metric


def refusal(metric, kind):
    with pytest.raises(ValueError, match=r"^card\.toml: ") as refused:
        metric_of(metric, kind)
    return str(refused.value)


@pytest.mark.parametrize("name", metric_names(complete=True))
def test_a_plain_name_is_its_own_text(name):
    assert metric_of(name, metric_kind(name)) == metric_of({"name": name}, metric_kind(name)) == name


@pytest.mark.parametrize(
    ("table", "kind", "text"),
    [
        ({"name": "mean_f_beta", "beta": 2}, "pixels", "mean_f_beta(beta=2)"),
        ({"name": "mean_f_beta", "empty": 1, "beta": 2.0}, "pixels", "mean_f_beta(beta=2)"),
        ({"empty": "skip", "beta": 1.25, "name": "mean_f_beta"}, "pixels", "mean_f_beta(beta=1.25, empty=skip)"),
        ({"name": "mean_dice", "empty": 1}, "pixels", "mean_dice"),
        ({"name": "average_precision", "iou": [0.6]}, "ranked objects", "ap60"),
        ({"name": "average_precision", "iou": [0.5, 0.75]}, "ranked objects", "average_precision(iou=[0.5, 0.75])"),
        ({"name": "f1", "iou": 0.55}, "objects", "f1(iou=0.55)"),
        ({"name": "surface_dice", "spacing": [1, 1, 1], "tolerance": 0}, "volumes", "surface_dice"),
        ({"name": "surface_dice", "spacing": [2, 0.001, 1]}, "volumes", "surface_dice(spacing=[2, 0.001, 1])"),
    ],
)
def test_each_metric_has_one_text_that_parses_to_name_and_parameters(table, kind, text):
    assert metric_of(table, kind) == text
    assert metric_kind(text) == kind
    name, values = parse_metric(text)
    assert text in metric_names(complete=True) or {"name": name, **values} == {
        k: told for k, told in table.items() if told != 1
    }


@pytest.mark.parametrize(("name", "text"), PRESETS.items())
def test_a_preset_equals_the_metric_with_its_parameters(name, text):
    assert parse_metric(name) == parse_metric(text)
    family, values = parse_metric(text)
    kind = metric_kind(name)
    assert metric_of({"name": family, **values}, kind) == name
    assert family == "mean_dice" or metric_kind(family) == kind


@pytest.mark.parametrize(
    ("metric", "kind", "message"),
    [
        ({"name": "mean_f_bta", "beta": 2}, "pixels", "unknown metric 'mean_f_bta'. Did you mean 'mean_f_beta'?"),
        (
            {"beta": 2},
            "pixels",
            'metric.name is missing: expected a table such as { name = "mean_f_beta", ',
        ),
        ({"name": "mean_f_beta", "bta": 2}, "pixels", "metric 'mean_f_beta' takes no 'bta'. Did you mean 'beta'?"),
        (
            {"name": "mean_dice", "beta": 2},
            "pixels",
            "metric 'mean_dice' takes no 'beta'. mean_f_beta, global_f_beta can have it; this one: empty.",
        ),
        (
            {"name": "ap60", "iou": 0.7},
            "ranked objects",
            "metric 'ap60' takes no 'iou'. average_precision, f1 can have it; this one: no parameters.",
        ),
        ({"name": "mean_iou", "smooth": 1}, "pixels", "metric 'mean_iou' takes no 'smooth'. It has no parameters."),
        (
            "mean_f_beta",
            "pixels",
            "metric 'mean_f_beta' needs beta, a number from 0.01 to 100: { name = \"mean_f_beta\", beta = … }",
        ),
        ("mean_f_bet(beta=2)", "pixels", "unknown metric 'mean_f_bet'. Did you mean 'mean_f_beta'?"),
        ({"name": "f1", "iou": 0.75}, "pixels", "metric 'f1(iou=0.75)' with instances = false: expected one of"),
        ({"name": "mean_f_beta", "beta": 2}, "objects", "metric 'mean_f_beta(beta=2)' with instances = true"),
        ({"name": "average_precision", "iou": 0.5}, "objects", "needs columns.packed_objects"),
        ({"name": "surface_dice", "tolerance": 1}, "pixels", "needs volume_pattern"),
    ],
)
def test_an_invalid_table_is_refused_in_one_line(metric, kind, message):
    said = refusal(metric, kind)
    assert message in said
    assert "\n" not in said


WRONG = {
    "beta": [0, -1, 0.001, 101, float("nan"), float("inf"), True, "2", [2]],
    "empty": [2, -1, 0.5, True, False, "none", [1]],
    "iou": [0, 1, 1.5, -0.5, float("nan"), True, "0.5", [], [0.5, 0.5], [0.75, 0.5], [0.5, 1], [0.5, "0.6"], [[0.5]]],
    "tolerance": [-1, float("nan"), float("inf"), True, "1", [1]],
    "spacing": [1, [1, 1], [1, 1, 0], [1, 1, -1], [1, 1, float("inf")], [1, 1, "1"], [1, 1, 1, 1], {}],
    "average": ["images", 1, True, ["volumes"]],
    "normalize": ["pixels", 0, False, ["axes"]],
}
WITH_PARAMETERS = [name for name, spec in METRICS.items() if spec.parameters]
NEEDED = {"mean_f_beta": {"beta": 2}, "global_f_beta": {"beta": 2}}


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_a_parameter_out_of_range_is_refused_with_the_expected_range(name):
    for key, parameter in METRICS[name].parameters.items():
        for value in WRONG[key]:
            said = refusal({"name": name, **NEEDED.get(name, {}), key: value}, metric_kind(name))
            assert said == f"card.toml: metric '{name}': {key} = {value!r}: expected {parameter.expected}"


@pytest.mark.parametrize("iou", [0.52, 0.45, 0.96, [0.5, 0.52]])
def test_f1_accepts_only_the_ten_iou_thresholds(iou):
    assert "expected one of 0.5, 0.55, …, 0.95" in refusal({"name": "f1", "iou": iou}, "objects")


def test_the_template_of_a_card_has_an_example_of_every_metric_with_parameters():
    template = Path(__file__).parent.parent / "docs" / "card.toml"
    lines = re.findall(r"^# (metric = .*)", template.read_text(encoding="utf-8"), re.MULTILINE)
    tables = [tomllib.loads(line)["metric"] for line in lines]
    assert {table["name"] for table in tables} == set(WITH_PARAMETERS)
    assert all(metric_of(table, metric_kind(table["name"])) for table in tables)
    shown = {key for table in tables for key in table} - {"name"}
    assert shown == {key for name in WITH_PARAMETERS for key in METRICS[name].parameters}


# Metrics with parameters in the stages.


def test_a_run_resumes_if_its_metric_is_only_spelled_differently(tiny, edit):
    by_name = settings(make_context(load("configs/tiny.toml")))
    assert by_name["metric"] == "mean_dice"
    edit("tiny.toml", '"mean_dice"', '{ name = "mean_dice", empty = 1 }')
    assert settings(make_context(load("configs/tiny.toml"))) == by_name
    edit("tiny.toml", "empty = 1", "empty = 0")
    assert settings(make_context(load("configs/tiny.toml")))["metric"] == "mean_dice_empty_0"


@pytest.mark.parametrize(
    ("table", "kind", "found"),
    [
        ({"name": "mean_f_beta", "beta": 2}, "pixels", "mean_f_beta(beta=2)"),
        ({"name": "f1", "iou": 0.75}, "objects", "f1(iou=0.75); epochs selected by mean_dice"),
        (
            {"name": "average_precision", "iou": 0.5},
            "ranked objects",
            "average_precision(iou=0.5); weights and rules selected by f1(iou=0.5); epochs selected by mean_dice",
        ),
        (
            {"name": "surface_dice", "tolerance": 1},
            "volumes",
            "surface_dice(tolerance=1); weights and rules selected by mean_dice; epochs selected by mean_dice",
        ),
    ],
)
def test_the_doctor_names_the_metric_and_its_selection_metrics(table, kind, found):
    assert describe_metric(card_of(table, kind)) == ("good", "metric", found)


def test_the_first_finding_of_the_doctor_is_the_metric(tiny, edit, capsys):
    edit("tiny.toml", '"mean_dice"', '{ name = "mean_f_beta", beta = 2 }')
    main(["doctor", "configs/tiny.toml"])
    assert re.match(r"good  metric +mean_f_beta\(beta=2\)\n", capsys.readouterr().out)
    Path("tiny/train.csv").write_text("id,rle_mask\n")
    main(["doctor", "configs/tiny.toml"])
    assert re.match(r"good  metric +mean_f_beta\(beta=2\)\nbad ", capsys.readouterr().out)


@pytest.mark.slow
def test_a_metric_with_parameters_works_in_all_stages(tiny, edit, capsys):
    edit("tiny.toml", '"mean_dice"', '{ name = "mean_f_beta", beta = 2 }')
    edit("configs/tiny.toml", "count = 3", "count = 2")
    assert main(["ensemble", "configs/tiny.toml"]) == 0
    assert "tiny, out of fold, mean_f_beta(beta=2) at threshold .5:" in capsys.readouterr().out
    manifest = json.loads(Path("submissions/tiny.json").read_text())
    assert manifest["metric"] == manifest["selection_metric"] == "mean_f_beta(beta=2)"
    record = read_record(Path("runs/tiny/fold0/best.safetensors"))
    assert record["settings"]["metric"] == "mean_f_beta(beta=2)"
    assert main(["report", "configs/tiny.toml"]) == 0
    assert "mean_f_beta(beta=2)" in Path("reports/tiny.html").read_text()
    edit("tiny.toml", "beta = 2", "beta = 3")
    assert main(["ensemble", "configs/tiny.toml"]) == 2
    assert "mean_f_beta(beta=3)" in capsys.readouterr().err
