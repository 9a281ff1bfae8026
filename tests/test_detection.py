"""Detection rates are reported next to every score, and unusual shares of empty rows are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import config, stages
from pipeline.cli import main
from pipeline.data.sample import samples_of
from pipeline.ensemble.evaluation import count_masks
from pipeline.ensemble.renderer import ARGMAX, INSTANCES, Postprocess, Renderer
from pipeline.metrics import VOID, VOID_OBJECT, DetectionRates
from pipeline.postprocess.instances import InstanceRules
from pipeline.postprocess.rules import Rules
from pipeline.report.page import _facts
from pipeline.report.recommendations import recommend
from pipeline.report.report_data import Submission
from pipeline.stages import ensembling
from pipeline.stages.preparing import make_context
from pipeline.submission import SubmissionSummary
from tests.reports import make_images, make_report_data


def found_by_loops(context, threshold):
    """Global Dice and both detection rates of OOF masks at a threshold, by a loop over images."""
    hits, pixels, found, left = 0, 0, [], []
    for sample in samples_of(context.index):
        mask = context.oof_store().read(sample.image_id)[0] > 255 * threshold
        target = context.labels.read_scored(sample)[0] == 1
        hits, pixels = hits + (mask & target).sum(), pixels + mask.sum() + target.sum()
        (found if target.any() else left).append((mask & target).any() if target.any() else not mask.any())
    return 2 * hits / pixels, np.mean(found), np.mean(left)


@pytest.mark.slow
def test_the_oof_table_has_the_detection_rates(submitted):
    table = json.loads(Path("runs/tiny/oof.json").read_text())
    assert {"dice", "found", "left empty"} < table[0].keys()
    _, found, left = found_by_loops(make_context(config.load("configs/tiny.toml")), 0.5)
    mean = stages.mean_row(table)  # of folds with equal numbers of images with and without a disc
    assert (mean["found"], mean["left empty"]) == pytest.approx((found, left))
    assert mean["images"] == 18


def test_the_mean_row_skips_missing_values_of_a_fold():
    rows = [
        {"fold": 0, "images": 3, "found": 0.5, "left empty": None, "seconds": 1},
        {"fold": 1, "images": 4, "found": None, "left empty": None, "seconds": 2},
    ]
    expected = {"fold": "mean", "images": 7, "found": 0.5, "left empty": None, "seconds": 3}
    assert stages.mean_row(rows) == expected


@pytest.mark.slow
def test_an_ensemble_prints_the_detection_rates_of_its_masks(submitted, capsys):
    assert main(["ensemble", "configs/tiny.toml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    record = json.loads(submitted.with_suffix(".json").read_text())["oof_found"]
    assert (
        f"detection Dice {record['dice']:.4f} over all pixels, {record['found']:.0%} of the masks with objects" in said
    )
    assert "warning" not in said


@pytest.mark.slow
def test_the_last_line_of_an_ensemble_names_empty_rows(submitted, capsys, monkeypatch):
    monkeypatch.setattr(ensembling.submission, "write_submission", lambda *_: SubmissionSummary(5, 5, 5))
    assert main(["ensemble", "configs/tiny.toml"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "warning     5 of 5 rows are empty; 33% of the training masks are"


def values_of(*rows):
    return np.array([[rows]], np.uint8)  # one member, one class, one row of pixels for each argument


def renderer_of(rule_set, rules=None):
    return Renderer((Postprocess("mean", (1.0,), rule_set, rules),))


def test_detection_rates_of_masks_ignore_void():
    values, target = values_of([250, 250, 0, 250])[0][:, None], np.array([[[1, 0, 1, VOID]]], np.uint8)
    counts = count_masks(renderer_of("total", Rules(0.5, 0)), values, target)
    assert [each.tolist() for each in counts] == [[1], [2], [2]]


def test_detection_rates_of_objects_use_their_union_and_ignore_void():
    values, target = values_of([250, 250, 0, 250])[0][:, None], np.array([[1, 0, 2, VOID_OBJECT]])
    counts = count_masks(renderer_of(INSTANCES, InstanceRules(0.5)), values, target)
    assert [each.tolist() for each in counts] == [[1], [2], [2]]


def test_detection_rates_of_exclusive_classes_are_per_class():
    values = np.array([[[[200, 200, 10]], [[55, 55, 245]]]], np.uint8)
    target = np.array([[[1, 0, 0]], [[0, 1, 1]]], np.uint8)
    counts = count_masks(renderer_of(ARGMAX), values, target)
    assert [each.tolist() for each in counts] == [[1, 1], [2, 1], [1, 2]]


def of_share(share):
    """A submission of 60 rows, of which a share is empty."""
    coverage = np.where(np.arange(60) < share * 60, 0, 0.1)
    return Submission(60, int((coverage == 0).sum()), coverage)


def test_the_first_recommendation_names_empty_rows():
    silent = make_images().assign(predicted=0.0)
    first = recommend(make_report_data(images=silent, submission=of_share(1)))[0]
    assert first.startswith("60 of 60 rows are empty, but 10% of the training masks: the models find too little.")


def test_too_few_empty_rows_are_reported():
    images = make_images()
    images.loc[:47, "coverage"] = 0
    first = recommend(make_report_data(images=images, submission=of_share(0)))[0]
    assert first.startswith("0 of 60 rows are empty, but 82% of the training masks: the models predict objects")


def test_a_share_of_empty_rows_as_in_train_is_not_reported():
    assert not any("rows are empty" in sentence for sentence in recommend(make_report_data(submission=of_share(0.05))))


def test_the_page_shows_detection_rates_next_to_the_score():
    facts = {name: text for name, text, _ in _facts(make_report_data(detection=DetectionRates(0.4321, 0.5, None)))}
    assert (facts["Dice"], facts["found"]) == ("0.4321", "50%")
    assert "left empty" not in facts
