"""Selection of the best epoch, average and phase: one score that does not reward an empty prediction."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import config
from pipeline.config import Tiles
from pipeline.data import array_cache
from pipeline.data.dataset import to_tensor
from pipeline.data.labels import Labels
from pipeline.data.sample import Sample
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.inference.predictor import Predictor, resize_probs
from pipeline.metrics import Counts, DetectionRates, count, detection_rates, empties_differ, pixel_metric, stack
from pipeline.models import build_model
from pipeline.postprocess.threshold_counts import HALF, count_pixels
from pipeline.training.checkpoint import read_record
from pipeline.training.distributed import Processes
from pipeline.training.history import kept_line, log_collapse, log_epoch
from pipeline.training.selection import NOT_VALIDATED, Validation
from pipeline.training.validation import Validator
from tests import fitting
from tests.fitting import RUN, fit_tiny, history, validation

MEAN_DICE = pixel_metric("mean_dice")
SHAPE = (1, 4, 5)


def validated(*images, metric=MEAN_DICE, exclusive=False):
    """The validation of pairs of stored values (C, H, W), 0 to 255, and target."""
    counts, soft = (stack(each) for each in zip(*(counted(*pair, exclusive) for pair in images), strict=True))
    return Validation.from_counts(counts, soft, metric, exclusive=exclusive)


def counted(values, target, exclusive=False):
    """The counts of one image at all thresholds, and without one."""
    pair = (torch.from_numpy(each)[None] for each in (values, target))
    return [counts.at(0) for counts in count_pixels(*pair, exclusive=exclusive)]


def image(value, filled, ground=0):
    """Values and target: `value` on the object's 4 pixels, `ground` elsewhere; the target is empty if not `filled`."""
    values, target = np.full(SHAPE, ground, np.uint8), np.zeros(SHAPE, np.uint8)
    values[0, 0, :4] = value
    target[0, 0, :4] = filled
    return values, target


EMPTY = image(0, False)


def test_validation_scores_by_hand():
    # Two of three images are empty. At .5 (128) nothing is found; at 100 and below exactly the object.
    found = validated(image(100, True), EMPTY, EMPTY)
    assert found.score == pytest.approx(2 / 3)
    assert found.baseline == pytest.approx(2 / 3)
    assert found.score_at_threshold == 1
    assert found.threshold == pytest.approx(99.5 / 255)  # of 1 … 100 the nearest to .5
    assert found.soft_dice == pytest.approx(2 * 4 * 100 / 255 / (4 * 100 / 255 + 4))
    assert found.found == DetectionRates(0, 0, 1)
    assert found.selection == pytest.approx(1 + 0.01 * found.soft_dice)


def test_score_at_half_decides_if_no_image_has_an_object():
    loud, silent = (validated(image(value, False), EMPTY) for value in (200, 60))
    assert loud.score_at_threshold == silent.score_at_threshold == loud.baseline == 1
    assert (loud.score, silent.score) == (0.5, 1)
    assert silent.selection > loud.selection


def test_boundary_channel_is_scored_but_not_in_the_detection_rates():
    values, target = image(255, True)
    with_border = np.concatenate([values, 0 * values]), np.concatenate([target, target])
    counts, soft = (stack([each]) for each in counted(*with_border))
    found = Validation.from_counts(counts, soft, MEAN_DICE, exclusive=False, classes=1)
    assert (found.score, found.found) == (0.5, DetectionRates(1, 1, None))


def test_soft_dice_ranks_epochs_that_score_the_baseline():
    # Both score the baseline at every threshold, because the empty image has higher values than the object.
    loud = image(250, False)
    earlier, later = (validated(image(value, True), loud, EMPTY) for value in (3, 60))
    assert earlier.score_at_threshold == later.score_at_threshold == pytest.approx(2 / 3)
    assert later.selection > earlier.selection


def test_epoch_that_finds_objects_beats_an_empty_prediction_despite_a_lower_score_at_half():
    # At .5 all empty images have false positives and the metric falls from .67 to .33; at .8 they have none.
    silent = validated(image(0, True), EMPTY, EMPTY)
    finder = validated(image(250, True), *[image(180, False)] * 2)
    assert finder.score < silent.score == silent.baseline
    assert finder.selection > silent.selection


def test_epoch_below_the_baseline_at_every_threshold_beats_an_empty_prediction_by_soft_dice():
    # Saturated: the empty images are predicted full at every threshold, and so is the object.
    silent = validated(image(0, True), EMPTY, EMPTY)
    finder = validated(image(255, True), *[image(255, False)] * 2)
    assert finder.score_at_threshold < finder.baseline
    assert finder.selection > silent.selection


def test_metric_outweighs_soft_dice():
    # An object with one missed pixel and high confidence (Dice 2·3/(3 + 4)), against all found with low confidence.
    values, target = image(255, True)
    values[0, 0, 3] = 0
    missed = validated((values, target), EMPTY)
    faint = validated(image(60, True), EMPTY)
    assert missed.soft_dice > faint.soft_dice
    assert faint.selection > missed.selection


def test_baseline_of_exclusive_classes_is_the_most_frequent_class_everywhere():
    target = np.zeros((2, 2, 5), np.uint8)
    target[0], target[1, 0, :2] = 1, 1
    target[0, 0, :2] = 0
    most = np.stack([np.full((2, 5), 200, np.uint8), np.full((2, 5), 55, np.uint8)])
    found = validated((most, target), metric=pixel_metric("class_iou"), exclusive=True)
    assert found.score == found.score_at_threshold == found.baseline == pytest.approx(0.8 / 2)
    surer = most.copy()
    surer[:, 0, :2] = 140, 115  # still the wrong class, but with a smaller margin
    again = validated((surer, target), metric=pixel_metric("class_iou"), exclusive=True)
    assert again.score == found.score
    assert again.selection > found.selection


def test_baseline_is_0_if_the_metric_is_undefined():
    assert validated(EMPTY, metric=pixel_metric("global_dice")).baseline == 0


@pytest.mark.parametrize("seed", range(5))
def test_soft_counts_are_the_mean_of_the_counts_at_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    values, target = rng.integers(0, 256, (2, 6, 7)).astype(np.uint8), rng.integers(0, 2, (2, 6, 7)).astype(np.uint8)
    for hard, soft in zip(*counted(values, target), strict=True):
        assert soft == pytest.approx(hard.sum(axis=-1) / MAX_VALUE)


def test_soft_counts_ignore_void_pixels_and_extra_channels():
    values, target = np.full((2, 1, 4), 255, np.uint8), np.array([[[1, 0, 255, 255]]], np.uint8)
    assert [each.tolist() for each in counted(values, target)[1]] == [[1], [2], [1]]


def test_detection_rates_by_hand():
    # Two images with objects: one has true positives, the other only false ones; two empty ones, one predicted empty.
    counts = Counts(*(np.array(each)[:, None] for each in ([3, 0, 0, 0], [4, 2, 1, 0], [5, 5, 0, 0])))
    assert detection_rates(counts) == DetectionRates(2 * 3 / (7 + 10), 0.5, 0.5)
    assert detection_rates(Counts(*np.zeros((3, 2, 1)))) == DetectionRates(None, None, 1.0)


def test_shares_of_empty_masks_differ_if_by_a_tenth_and_more_than_chance():
    assert empties_differ(0.81, 0.7, 10_000)
    assert not empties_differ(0.79, 0.7, 10_000)
    assert empties_differ(1.0, 0.7, 60)
    assert not empties_differ(1.0, 0.7, 15)  # all of 15 are empty by chance once in 200
    assert empties_differ(1.0, 0.0, 3)


def scored(monkeypatch, *validations):
    left = iter(validations)
    monkeypatch.setattr(Validator, "__call__", lambda *_: next(left))


THREE = "train.phases.0.epochs=3"


def silent(soft):
    """An epoch that predicts nothing."""
    return validation(0.7, soft=soft, baseline=0.7)


FINDER = validation(0.5, 0.75, soft=0.3, baseline=0.7)  # below the baseline at .5, above it at .2


def test_epoch_that_predicts_nothing_is_not_kept_as_the_best(tiny, monkeypatch):
    scored(monkeypatch, silent(0.01), silent(0.05), FINDER)
    fit_tiny(THREE)
    assert [line["best"] for line in history()] == [True, True, True]
    record = read_record(RUN / "best.safetensors")
    assert (record["epoch"], record["score"], record["selection"]) == (3, 0.5, FINDER.selection)


def test_history_and_checkpoint_hold_both_scores_and_the_detection_rates(tiny, monkeypatch):
    scored(monkeypatch, FINDER)
    fit_tiny("train.phases.0.epochs=1")
    expected = {
        "score": 0.5,
        "threshold": 0.2,
        "score_at_threshold": 0.75,
        "selection": 0.753,
        "baseline": 0.7,
        "dice": 0.5,
        "found": 0.6,
        "left_empty": 0.7,
    }
    assert expected.items() <= history()[0].items()
    assert read_record(RUN / "phase1.safetensors").items() >= {"score": 0.5, "selection": 0.753}.items()


def test_patience_is_not_exhausted_while_soft_dice_grows(tiny, monkeypatch):
    scored(monkeypatch, silent(0.01), silent(0.02), silent(0.03), silent(0.03))
    fit_tiny("train.phases.0.epochs=9", "train.patience=1")
    assert [line["best"] for line in history()] == [True, True, True, False]


def test_averages_of_weights_are_selected_by_the_selection_score(tiny, monkeypatch):
    # SWA scores less at .5 than both epochs, and more at its best threshold; the soup scores even more.
    scored(monkeypatch, silent(0.01), silent(0.02), FINDER, validation(0.6, 0.8, baseline=0.7))
    fit_tiny("train.phases.0.swa=1.0", "train.phases.0.soup=2")
    lines = history()
    assert [(line.get("candidate"), line["best"]) for line in lines[2:]] == [("swa", True), ("soup", True)]
    assert read_record(RUN / "best.safetensors")["candidate"] == "soup"


def test_best_phase_is_selected_by_the_selection_score(tiny, monkeypatch):
    scored(monkeypatch, FINDER, silent(0.4))
    fit_tiny("train.phases.0.epochs=1", "train.phases.1.epochs=1", phases=2)
    assert read_record(RUN / "best.safetensors")["phase"] == 1
    one, best = (load_file(RUN / f"{name}.safetensors") for name in ("phase1", "best"))
    assert all((one[key] == best[key]).all() for key in one)


def test_select_last_keeps_the_last_epoch_of_the_last_phase_whatever_the_scores(tiny, monkeypatch):
    scored(monkeypatch, *map(silent, [0.9, 0.1, 0.5, 0.2]))
    fit_tiny("train.select='last'", phases=2, epochs=[2, 2])
    assert [line["best"] for line in history()] == [False, True, False, True]
    assert kept_line(history()[:2])["epoch"] == 2  # although the first epoch has a higher selection score
    assert [read_record(RUN / f"phase{number}.safetensors")["epoch"] for number in (1, 2)] == [2, 2]
    record = read_record(RUN / "best.safetensors")
    assert (record["phase"], record["epoch"]) == (2, 2)


def test_select_last_ends_with_swa_whatever_its_score(tiny, monkeypatch):
    scored(monkeypatch, *map(silent, [0.9, 0.8, 0.1]))
    fit_tiny("train.select='last'", "train.phases.0.swa=1.0", epochs=[2])
    assert [line["best"] for line in history()] == [False, True, True]
    assert read_record(RUN / "best.safetensors")["candidate"] == "swa"


@pytest.mark.parametrize("option", ["train.patience=2", "train.phases.0.soup=2"])
def test_select_last_is_refused_with_what_needs_scores(tiny, option):
    with pytest.raises(ValueError, match="chosen by no score, and patience and soup need scores"):
        config.load("configs/tiny.toml", ["train.select='last'", option])


def said(caplog, validation, **changes):
    line = {"fold": 0, "phase": 1, "epoch": 2, "loss": 0.5, "best": True, "seconds": 3} | validation.line() | changes
    with caplog.at_level(logging.INFO, logger="pipeline"):
        log_epoch("unet, fold 0", line, 4, 60, exclusive=False)
    return caplog.messages[-1]


def test_epoch_line_names_config_and_fold_and_shows_the_detection_rates(caplog):
    line = said(caplog, validation(0.8, 0.9, baseline=0.7))
    assert line == (
        "unet, fold 0  phase 1  epoch   2/4  loss 0.5000  score 0.8000 *  dice 0.5000  found 60%  left empty 70%  "
        "0:03  1:00 left"
    )
    assert "found" not in said(caplog, validation(0.8), found=None)


def test_epoch_line_shows_a_score_that_does_not_beat_the_baseline(caplog):
    assert said(caplog, silent(0)).endswith("1:00 left  no better than predicting nothing (0.7000)")
    assert said(caplog, FINDER).endswith("no better than predicting nothing (0.7000), but 0.7500 at threshold 0.20")


def test_collapsed_phase_is_logged_with_what_to_try(tiny, monkeypatch, caplog):
    scored(monkeypatch, silent(0.01), silent(0.02))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        fit_tiny()
    (message,) = caplog.messages
    assert message.startswith(
        "fold 0: phase 1 ends no better than predicting nothing (0.7000) at any threshold. Try in"
    )
    assert "over" in message
    assert len(message) <= 300


def test_phase_with_an_epoch_above_the_baseline_logs_no_warning(tiny, monkeypatch, caplog):
    scored(monkeypatch, silent(0.01), FINDER)
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        fit_tiny()
    assert not caplog.messages


def test_advice_for_exclusive_classes_names_their_losses(caplog):
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        log_collapse("fold 0", [{"fold": 0, "phase": 1, "best": True} | silent(0).line()], exclusive=True)
    assert "no better than the most frequent class everywhere (0.7000)" in caplog.messages[0]
    assert "dice_softmax" in caplog.messages[0]


def test_full_fit_has_no_scores(tiny):
    fit_tiny(data=fitting.fold_data("full"), epochs=(1,))
    (line,) = [json.loads(text) for text in (RUN / "metrics.jsonl").read_text().splitlines()]
    assert {line[key] for key in NOT_VALIDATED} == {None}


@pytest.mark.slow
def test_validation_uses_the_batch_size_of_prediction(tiny, monkeypatch):
    sizes, original = [], Predictor.predict

    def spy(self, images, views=None):
        sizes.append((self.batch_size, len(images)))
        return original(self, images, views)

    monkeypatch.setattr(Predictor, "predict", spy)
    fit_tiny("train.batch_size=4", data=fitting.fold_data(batch_size=1))
    assert set(sizes) == {(1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("tiles", [None, Tiles(size=32, stride=16)])
def test_held_out_images_and_labels_are_decoded_once_for_all_phases(tiny, monkeypatch, tiles):
    decoded, original = [], Labels.read_scored
    monkeypatch.setattr(Labels, "read_scored", lambda self, sample: decoded.append(sample) or original(self, sample))
    data = fitting.fold_data(tiles=tiles)
    fit_tiny(data=data, phases=2, epochs=(2, 2))
    assert sorted(sample.image_id for sample in decoded) == sorted(data.valid_index["image_id"])


@pytest.mark.slow
def test_without_memory_for_a_cache_validation_is_the_same(tiny, monkeypatch):
    fit_tiny(epochs=(2,))
    expected = history()
    (RUN / "state.pt").unlink(missing_ok=True)
    monkeypatch.setattr(array_cache, "free_memory", lambda: 0)
    fit_tiny(epochs=(2,))
    assert history() == expected


def test_validation_scores_at_the_size_of_submitted_masks(tiny):
    data = fitting.fold_data()
    data = replace(data, labels=replace(data.labels, size=(20, 30)))
    validator = Validator(data, config.load("configs/tiny.toml").train, Processes(torch.device("cpu")))
    model = build_model(config.load("configs/tiny.toml").model)
    index = data.valid_index.set_index("image_id")
    predictor = Predictor(model, ("identity",))
    for image_id, counts, soft in validator.counts(predictor):
        sample = Sample(image_id, (index.loc[image_id, "path"],), rle=(index.loc[image_id, "rle"],), size=(48, 64))
        probs = resize_probs(predictor(to_tensor(data.reader.read(sample))[None]), (20, 30))[0].numpy()
        target = data.labels.read_scored(replace(sample, size=tuple(index.loc[image_id, ["height", "width"]])))
        assert counts.target[0, 0] == soft.target[0] == target.sum()
        assert counts.at((0, HALF)) == count((probs >= 0.5).astype(np.uint8), target)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (1, 3, 7, 1)])
def test_counts_of_a_batch_equal_a_loop_over_thresholds(shape, exclusive):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (shape[0], shape[1] + 1, *shape[2:])).astype(np.uint8)  # one channel too many
    values[:, 1][rng.random(values[:, 1].shape) < 0.5] = 200  # ties
    values[:, 0][values[:, 1] == 200] = 200
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    target = (labels[:, None] == np.arange(shape[1])[:, None, None]).astype(np.uint8)
    target.transpose(0, 2, 3, 1)[rng.random(labels.shape) < 0.2] = 255
    hard, soft = count_pixels(torch.from_numpy(values), torch.from_numpy(target), exclusive=exclusive)
    for n, c in np.ndindex(*shape[:2]):
        valid, true = target[n, c] != 255, target[n, c] == 1
        assert soft.at((n, c)) == pytest.approx(
            ((values[n, c] * true).sum() / 255, values[n, c][valid].sum() / 255, true.sum())
        )
        for k in (1, 100, 128, 200, 255):
            mask = values[n, : shape[1]].argmax(axis=0) == c if exclusive else values[n, c] >= k
            assert hard.at((n, c, k - 1)) == ((mask & true).sum(), (mask & valid).sum(), true.sum())
