"""The report of overlapping classes, of exclusive classes and of objects."""

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import competition, config, stages
from pipeline.data.labels import VOID
from pipeline.demos.camvid import make_camvid_demo
from pipeline.demos.instances import make_instances_demo
from pipeline.ensemble.candidate_rules import RULE_SETS
from pipeline.ensemble.renderer import ARGMAX, INSTANCES, Postprocess, Renderer
from pipeline.metrics import selection_metric
from pipeline.postprocess.instances import InstanceRules
from pipeline.postprocess.rules import Rules
from pipeline.report import plots
from pipeline.report.page import render
from pipeline.report.pictures import outline
from pipeline.report.recommendations import recommend
from pipeline.report.report_data import CrossFittedScore, ObjectSeparation, Submission
from pipeline.stages.oof_images import make_oof_image
from tests.miniatures import write_miniature
from tests.reports import make_report_data
from tests.test_competitions import CONFIG
from tests.test_report import fill, words

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------------------------------- regions and counts

VALUES = np.array([[[[200, 200, 0, 0]], [[0, 150, 250, 10]]]], dtype=np.uint8)  # one member, two channels, four pixels
OBJECTS = Renderer((Postprocess("mean", (1.0,), INSTANCES, InstanceRules(0.5)),))


def test_each_combination_of_overlapping_classes_is_a_region():
    half = Postprocess("mean", (1.0,), "total", Rules(0.5, 0))
    target = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 0]]], dtype=np.uint8)
    seen = make_oof_image(Renderer((half, half)), VALUES, target)
    assert seen.target_regions.tolist() == [[1, 1, 2, 0]]
    assert seen.predicted_regions.tolist() == [[1, 3, 2, 0]]
    assert seen.coverage.tolist() == [0.5, 0.5]
    assert seen.summary == "true 75.0%, predicted 75.0%"
    assert seen.counts.sum() == target.size
    assert seen.counts[1, [200, 250]].tolist() == [2, 1]


def test_void_is_no_part_of_target_or_prediction_of_exclusive_classes():
    target = np.array([[[1, 1, 0, VOID]], [[0, 0, 1, VOID]]], dtype=np.uint8)
    seen = make_oof_image(Renderer((Postprocess("mean", (1.0,), ARGMAX),)), VALUES, target)
    assert seen.target_regions.tolist() == [[1, 1, 2, 0]]
    assert seen.predicted_regions.tolist() == [[1, 1, 2, 0]]
    assert seen.coverage.tolist() == [0.5, 0.25]
    assert seen.summary == "100.0% of the pixels correct"
    assert seen.counts.sum() == 6  # two classes of three pixels


def test_each_object_is_a_region_and_the_boundary_is_no_class():
    target = np.array([[7, 7, 0, 9]])
    seen = make_oof_image(OBJECTS, VALUES, target)
    assert seen.values.tolist() == VALUES[0, :1].tolist()
    assert seen.masks.tolist() == [[[1, 1, 0, 0]]]
    assert seen.target.tolist() == [[[1, 1, 0, 1]]]
    assert np.array_equal(seen.target_regions, target)
    assert seen.predicted_regions.tolist() == [[1, 1, 0, 0]]
    assert seen.summary == "2 objects, 1 predicted"
    assert seen.counts[1, 200] == 2


def test_an_object_with_the_number_of_void_is_an_object():
    seen = make_oof_image(OBJECTS, VALUES, np.array([[VOID, VOID, 0, 0]]))
    assert seen.counts.sum() == 4
    assert seen.summary == "1 objects, 1 predicted"


def test_touching_regions_have_separate_outlines():
    rng = np.random.default_rng(0)
    regions = np.zeros((20, 30), int)
    regions[3:15, 4:12], regions[3:15, 12:25], regions[15:, 12:25] = 3, 1, 40
    path = outline(regions, side=64)
    assert path.count("z") == 3
    assert np.array_equal(fill(path, regions.shape), regions > 0)
    numbers = np.concatenate([[0], rng.permutation(40) + 1])  # the numbers of regions are arbitrary
    assert sorted(outline(numbers[regions], side=64).split("z")) == sorted(path.split("z"))


# ---------------------------------------------------------------------------------------------- the page's parts


@pytest.fixture
def no_charts(monkeypatch):
    """Replace charts, which take a second."""
    monkeypatch.setattr(plots, "svg", lambda plot, *args: "data:,")


def read_page(text):
    """The text of a page without pictures; table cells are separated by bars."""
    body = text.split("<body>")[1].split("<script>")[0]
    body = re.sub(r"<template>.*?</template>", "", body, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"</t[dh]>", " | ", body))
    return html.unescape(re.sub(r"\s+", " ", text))


@pytest.mark.usefixtures("no_charts")
def test_exclusive_classes_have_no_score_at_half_and_no_recommendation_to_use_it():
    score = make_report_data().score
    data = make_report_data(pseudo=None, score=CrossFittedScore(score.interval, score.interval.mean, None, 0.1))
    text = read_page(render(data))
    assert "threshold .5" not in text
    assert re.search(r"baseline 0\.1000 the most frequent class everywhere", text)
    assert recommend(data) == []
    assert "nothing predicted" in read_page(render(make_report_data(score=score._replace(baseline=0.1))))


def test_coverages_are_of_each_image_and_class():
    masks = pd.DataFrame({"class": ["a", "b"] * 5, "coverage": [0.5, 0.0] * 5, "predicted": [0.5, 0.0] * 5})
    half_empty = Submission(10, 5, np.array([0.5, 0.0] * 5))
    assert recommend(make_report_data(masks=masks, submission=half_empty)) == []
    assert "50% of the test masks are empty, 0% out of fold" in " ".join(
        recommend(make_report_data(submission=half_empty))
    )


@pytest.mark.usefixtures("no_charts")
def test_the_page_names_the_metric_of_epochs_if_it_differs():
    assert "by mean_dice of pixels, cross-fitted by dsb" in read_page(
        render(make_report_data(metric="dsb", epoch_metric="mean_dice"))
    )
    assert "of pixels, cross-fitted by" not in read_page(render(make_report_data(epoch_metric="mean_dice")))


@pytest.mark.usefixtures("no_charts")
def test_the_page_distinguishes_a_pooled_score_from_the_mean_of_the_images():
    data = make_report_data()
    assert "pools the pixels of all images" not in read_page(render(data))
    images = data.images.assign(score=data.images["score"] - 0.1)
    assert re.search(r"mean is 0\.80\d\d; the score above pools", read_page(render(make_report_data(images=images))))


@pytest.mark.usefixtures("no_charts")
def test_the_page_lists_separation_methods_and_the_chosen_rules():
    methods = pd.DataFrame({"method": ["not separated", "separated by shape"], "score": [0.5, 0.625]})
    rules = pd.DataFrame({"chosen on": ["all folds"], "threshold": [0.4], "border": [None], "min_area": [16]})
    text = read_page(render(make_report_data(separation=ObjectSeparation(methods, rules), surfaces={})))
    assert re.search(r"separated by shape \| 0\.6250", text)
    assert re.search(r"all folds \| 0\.4000 \| – \| 16", text)


def test_a_score_surface_names_its_class():
    assert "threshold for $x$" in words(plots.svg(plots.score_surface, "$x$", make_report_data().surfaces["disc"]))


# ---------------------------------------------------------------------------------------------- whole runs

HEAD, MASKS, _, TAIL = re.split(r"\[\[train.phases\]\]|(?=\n\[predict\])", CONFIG)
CLASSES = MASKS.replace("bce = 1.0, dice = 1.0", "cross_entropy = 1.0, dice_softmax = 1.0")


def report_on(folder, monkeypatch, make, card, channels, phase=MASKS, overrides=()):
    """The page of a run of one short phase."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATA", raising=False)
    make(Path("data"))
    Path("configs").mkdir()
    text = f"{HEAD}[[train.phases]]{phase}{TAIL}".format(card=card, classes=channels)
    Path("configs/mini.toml").write_text(text)
    return read_page(stages.report([config.load("configs/mini.toml", overrides)]).read_text(encoding="utf-8"))


@pytest.mark.usefixtures("no_charts")
def test_report_of_overlapping_classes(tmp_path, monkeypatch):
    card = "severstal-steel-defect-detection"
    text = report_on(tmp_path, monkeypatch, lambda root: write_miniature(card, root), card, 4)
    assert re.search(r"mean_dice, cross-fitted", text)
    names = "|".join(RULE_SETS)
    assert re.search(rf"For 1, the submission uses (?:{names}): threshold 0\.\d+, ", text)
    assert len(re.findall(rf"all folds \| (?:{names}) \| 0\.\d+ \|", text)) == 4
    assert "A point is an image and class." in text
    assert re.search(r"number \| 48 \| 48 \| 16", text)  # masks of 12 and 4 images
    assert "by predicted" not in text
    assert "touching" not in text.split("Left out")[0]


@pytest.mark.usefixtures("no_charts")
def test_report_of_exclusive_classes(tmp_path, monkeypatch):
    text = report_on(
        tmp_path, monkeypatch, lambda root: make_camvid_demo(root, train=8, test=2), "camvid_demo", 6, CLASSES
    )
    assert re.search(r"class_iou, cross-fitted", text)
    assert "threshold" not in text.split("Left out")[0].lower()
    assert re.search(r"\d% of the pixels correct", text)
    assert re.search(r"sky \| 8 \| 8 \| 0\.\d+", text)
    assert "by mask size" not in text
    assert "the most frequent class everywhere" in text


@pytest.mark.usefixtures("no_charts")
def test_report_of_objects(tmp_path, monkeypatch):
    overrides = ["data.boundary=2.0", "model.in_channels=1"]
    text = report_on(
        tmp_path,
        monkeypatch,
        lambda root: make_instances_demo(root, train=8, test=2),
        "instances_demo",
        2,
        overrides=overrides,
    )
    assert re.search(r"dsb_precision, cross-fitted", text)
    assert "Score: mean_dice on the held-out fold" in text
    assert re.search(r"\d+ objects, \d+ predicted", text)
    assert re.search(r"separated by boundary \| 0\.\d+", text)
    assert re.search(r"cell \| 8 \| 8 \|", text)
    assert re.search(r"number \| 8 \| 8 \| 2", text)
    written = stages.ensemble([config.load("configs/mini.toml", overrides)]).summary
    assert f"{written.rows} rows, {written.empty} of them empty" in text


def test_a_metric_of_volumes_or_of_ranked_objects_is_scored_by_one_of_single_images():
    metrics = {name: selection_metric(competition.load(name).metric) for name in CARDS}
    assert metrics == CARDS


CARDS = {
    "hubmap-hacking-the-human-vasculature": "f1_60",
    "uw-madison-gi-tract-image-segmentation": "mean_dice_ignore_empty",
    "data-science-bowl-2018": "dsb_precision",
    "camvid_demo": "class_iou",
}
