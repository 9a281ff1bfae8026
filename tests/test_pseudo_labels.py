"""Pseudo-labels: expected Dice, calibration on OOF scores, and the folds whose models may label."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from pipeline import competition, config
from pipeline.data import dataset
from pipeline.data.index import read_test_index
from pipeline.inference.prediction_store import PredictionStore
from pipeline.pseudo_labels import (
    Labelling,
    calibrate,
    calibrated,
    expected_dice,
    expected_scores,
    quantiles,
    read_labels,
    refuse_other_fold,
    soft_label,
    write_labels,
)
from pipeline.training.distributed import processes
from pipeline.training.fold_data import PseudoData, build_loader
from tests.fitting import RUN, fit_tiny, fold_data, history

RNG = np.random.default_rng(0)


def values(*rows):
    return np.array(rows, dtype=np.uint8)


def dice(mask, truth):
    total = mask.sum() + truth.sum()
    return 2 * (mask & truth).sum() / total if total else 1.0


def test_expected_dice_by_hand():
    # m = 1 1 0 0, p = 1 .8 .4 0: 2 · 1.8 / (2.2 + 2).
    assert expected_dice(values([255, 204, 102, 0])) == pytest.approx(3.6 / 4.2)


def test_expected_dice_of_a_certain_mask_is_1_even_if_empty():
    assert expected_dice(values([255, 255, 0])) == 1.0
    assert expected_dice(values([0, 0, 0])) == 1.0


def test_expected_dice_of_an_empty_mask_depends_on_its_most_probable_pixel():
    assert expected_dice(values([51, 0, 0])) == expected_dice(np.full((300, 300), 51, np.uint8)) == pytest.approx(0.8)


def test_expected_dice_does_not_overflow_on_a_large_image():
    assert expected_dice(np.full((4096, 4096), 255, np.uint8)) == 1.0


def test_expected_dice_is_close_to_the_mean_dice_of_sampled_targets():
    pixels = RNG.integers(0, 256, (40, 40)).astype(np.uint8)
    mask = pixels >= 128
    sampled = [dice(mask, RNG.random(pixels.shape) < pixels / 255) for _ in range(300)]
    assert expected_dice(pixels) == pytest.approx(np.mean(sampled), abs=0.005)


def test_expected_scores_by_hand():
    # .6 and .9 increase; .4 and .2 are in the wrong order and get their mean.
    sure, scores = np.array([0.1, 0.2, 0.5, 0.8]), np.array([0.4, 0.2, 0.6, 0.9])
    assert expected_scores(sure, scores, sure) == pytest.approx([0.3, 0.3, 0.6, 0.9])
    assert expected_scores(sure, scores, np.array([0.0, 0.65, 1.0])) == pytest.approx([0.3, 0.75, 0.9])


def pooled(scores):
    """Isotonic regression by its max-min formula."""
    count = len(scores)
    return [
        max(min(np.mean(scores[start : end + 1]) for end in range(i, count)) for start in range(i + 1))
        for i in range(count)
    ]


def test_expected_scores_equal_isotonic_regression_and_never_decrease():
    sure, scores = np.sort(RNG.random(30)), RNG.random(30)
    fitted = expected_scores(sure, scores, sure)
    assert fitted == pytest.approx(pooled(scores))
    assert (np.diff(fitted) >= 0).all()


def test_calibrate_returns_the_lowest_expected_dice_that_reaches_the_floor():
    sure, scores = np.array([0.8, 0.1, 0.5, 0.2]), np.array([0.9, 0.4, 0.6, 0.2])  # unsorted
    assert calibrate(sure, scores, 0.6) == 0.5
    assert calibrate(sure, scores, 0.61) == 0.8
    assert calibrate(sure, scores, 0.0) == 0.1


def test_one_lucky_image_does_not_lower_the_calibrated_value():
    sure, scores = np.arange(10) / 10, np.array([0.1] * 3 + [1.0] + [0.1] * 4 + [0.9, 0.9])
    assert calibrate(sure, scores, 0.9) == 0.8


def test_a_floor_above_all_scores_is_never_reached():
    assert calibrate(np.array([0.5, 0.9]), np.array([0.5, 0.6]), 0.7) == float("inf")


@pytest.mark.parametrize(
    ("sure", "scores", "message"),
    [
        ([0.5], [0.5, 0.6], "1 expected Dice and 2 scores"),
        ([], [], "0 expected Dice and 0 scores"),
        ([0.5, 0.6], [0.5, np.nan], "OOF image number 1 has expected Dice 0.6 and score nan"),
    ],
)
def test_invalid_scores_are_refused_in_calibration(sure, scores, message):
    with pytest.raises(ValueError, match=message):
        calibrate(np.array(sure), np.array(scores), 0.5)


def test_soft_label_is_void_between_low_and_high():
    # .3 lies at 76.5 of 255, .7 at 178.5: thresholds between stored values leave no doubt.
    pixels = values([0, 76, 77, 128, 178, 179, 255])
    assert soft_label(pixels, 0.3, 0.7).tolist() == [[0, 0, 255, 255, 255, 1, 1]]


def test_soft_label_of_equal_ends_is_the_mask():
    pixels = RNG.integers(0, 256, (2, 9, 9)).astype(np.uint8)
    assert np.array_equal(soft_label(pixels, 0.5, 0.5), pixels >= 128)


def test_quantiles_of_a_models_own_values_are_their_ranks():
    own = RNG.permutation(np.arange(1, 9) / 10)
    assert quantiles(own, own) == pytest.approx([np.mean(own <= value) for value in own])


OPTIONS = config.Pseudo.model_validate({"from": "x", "floor": 0.7, "low": 0.3, "high": 0.7})


def oof(folds=3, images=40):
    """Folds with equal scores, and expected Dice proportional to the score, with a different scale for each model."""
    fold_of = np.repeat(np.arange(folds), images)
    scores = np.concatenate([RNG.permutation(np.linspace(0, 1, images)) for _ in range(folds)])
    return scores / (1 + fold_of), scores, fold_of


def test_a_model_with_higher_expected_dice_is_calibrated_on_its_own_scale():
    # Fold 0's confidences are the scores themselves, and twice and three times those of the other models.
    predicted, scores, fold_of = oof()
    for fold in range(3):
        labelling = calibrated(predicted, scores, fold_of, fold, OPTIONS)
        mine = fold_of == fold
        kept = quantiles(predicted[mine], labelling.own) >= calibrate(labelling.ranks, labelling.scores, 0.7)
        assert np.array_equal(kept, scores[mine] >= 0.7)
        assert labelling.expected(predicted[mine]) == pytest.approx(scores[mine])


def test_scores_of_the_trained_fold_are_not_used():
    predicted, scores, fold_of = oof()
    told = calibrated(predicted, scores, fold_of, 1, OPTIONS)
    hidden = calibrated(predicted, np.where(fold_of == 1, np.nan, scores), fold_of, 1, OPTIONS)
    assert told.record() == hidden.record()
    assert len(told.own) == 40
    assert len(told.scores) == 80


@pytest.mark.parametrize(
    ("fold_of", "fold", "message"),
    [([0, 0], 0, "2 OOF images of fold 0 and 0 of others"), ([0, 1], 2, "0 OOF images of fold 2 and 2 of others")],
)
def test_a_fold_without_oof_images_in_other_folds_is_refused(fold_of, fold, message):
    with pytest.raises(ValueError, match=message):
        calibrated(np.ones(2), np.ones(2), np.array(fold_of), fold, OPTIONS)


# The model's own confidences: SURE's .98 lies above all, UNSURE's .71 above two of four.
OWN = np.array([0.6, 0.7, 0.8, 0.9])
LABELLING = Labelling(np.array([0.2, 0.5, 0.9]), np.array([0.3, 0.6, 0.95]), OWN, floor=0.9, low=0.3, high=0.7)
SURE, UNSURE = np.full((1, 2, 3), 250, np.uint8), np.full((1, 2, 3), 140, np.uint8)


def test_labels_round_trip_and_uncertain_images_are_not_labelled(tmp_path):
    table = write_labels(tmp_path / "fold1", 1, [("007", SURE), ("008", UNSURE), ("009", SURE)], LABELLING, {})
    assert list(table["image_id"]) == ["007", "009"]
    assert table["expected_dice"].tolist() == pytest.approx([expected_dice(SURE[0])] * 2)
    assert table["expected_score"].tolist() == pytest.approx([0.95] * 2)
    read = read_labels(tmp_path / "fold1", 1)
    assert list(read["image_id"]) == ["007", "009"]  # with their zeros
    store = PredictionStore(tmp_path / "fold1")
    assert store.ids() == {"007", "009"}
    assert np.array_equal(store.read("007"), np.ones_like(SURE))


def test_a_prediction_is_compared_with_those_of_its_own_model(tmp_path):
    # UNSURE's .71 is the second of four; among confidences from .8 on it is the lowest.
    lenient = replace(LABELLING, floor=0.5)
    assert list(write_labels(tmp_path / "a", 0, [("1", UNSURE)], lenient, {})["image_id"]) == ["1"]
    strict = replace(LABELLING, floor=0.5, own=OWN + 0.2)
    assert not len(write_labels(tmp_path / "b", 0, [("1", UNSURE)], strict, {}))


def test_expected_dice_of_several_classes_is_their_mean(tmp_path):
    both = np.concatenate([SURE, UNSURE])
    table = write_labels(tmp_path, 0, [("1", both)], replace(LABELLING, floor=0.5), {})
    assert table["expected_dice"].item() == pytest.approx((expected_dice(SURE[0]) + expected_dice(UNSURE[0])) / 2)
    assert PredictionStore(tmp_path).read("1")[:, 0, 0].tolist() == [1, 255]


def test_no_image_above_the_floor_gives_no_labels_and_a_warning(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="pipeline"):
        table = write_labels(tmp_path, 2, [("1", UNSURE)], LABELLING, {})
    assert len(table) == len(read_labels(tmp_path, 2)) == len(PredictionStore(tmp_path)) == 0
    assert "fold 2: no test image has an expected score of 0.900" in caplog.text


def test_labels_for_another_fold_are_refused(tmp_path):
    write_labels(tmp_path / "fold1", 1, [("1", SURE)], LABELLING, {"from": "x"})
    made_by = json.loads((tmp_path / "fold1" / "store.json").read_text())
    assert (made_by["fold"], made_by["from"], made_by["floor"]) == (1, "x", 0.9)
    with pytest.raises(
        ValueError, match=r"fold1: labels of models that held out fold 1, not fold 0: they were trained"
    ):
        read_labels(tmp_path / "fold1", 0)
    with pytest.raises(ValueError, match="held out fold 1, not fold full"):
        refuse_other_fold(tmp_path / "fold1", "full")
    with pytest.raises(ValueError, match="no pseudo-labels: run the stage"):
        refuse_other_fold(tmp_path / "fold2", 2)


def test_a_killed_labelling_resumes_and_is_not_read_before_it_is_complete(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def until_killed():
        yield "1", SURE
        raise Killed

    monkeypatch.setattr("pipeline.inference.prediction_store.SHARD_IMAGES", 1)
    with pytest.raises(Killed):
        write_labels(tmp_path, 0, until_killed(), LABELLING, {})
    with pytest.raises(ValueError, match="the labels are incomplete"):
        read_labels(tmp_path, 0)
    write_labels(tmp_path, 0, [("1", SURE), ("2", SURE)], LABELLING, {})
    assert list(read_labels(tmp_path, 0)["image_id"]) == ["1", "2"]
    assert PredictionStore(tmp_path).ids() == {"1", "2"}


def test_labels_of_other_weights_replace_existing_labels(tmp_path):
    write_labels(tmp_path, 0, [("1", SURE)], LABELLING, {"weights": "a"})
    write_labels(tmp_path, 0, [("2", SURE)], LABELLING, {"weights": "b"})
    assert PredictionStore(tmp_path).ids() == {"2"}


@pytest.mark.parametrize(
    "change",
    [
        {"floor": 0.5},
        {"low": 0.6},
        {"high": 0.8},
        {"own": OWN / 2},
        {"scores": np.array([0.3, 0.6, 0.96])},
    ],
)
def test_labels_of_other_settings_replace_existing_labels(tmp_path, change):
    write_labels(tmp_path, 0, [("1", SURE)], LABELLING, {})
    write_labels(tmp_path, 0, [("2", SURE)], replace(LABELLING, **change), {})
    assert PredictionStore(tmp_path).ids() == {"2"}


def labelled_for(fold, folder="pseudo", weight=0.5, phases=(1,)):
    """Label the tiny competition's test images with a box of 1 in a frame of void."""
    index = read_test_index(competition.load("tiny.toml"), Path("tiny"))
    values = np.full((1, 36, 44), 140, np.uint8)
    values[:, 8:28, 8:36], values[:, :4] = 250, 0
    easy = Labelling(np.array([0.1]), np.array([1.0]), OWN, floor=0.5, low=0.3, high=0.7)
    write_labels(Path(folder), fold, [(image_id, values) for image_id in index["image_id"]], easy, {})
    return PseudoData(index, Path(folder), weight, phases)


def spy_on_items(monkeypatch):
    """Record for each item its path, whether it is pseudo-labelled, and the values of its mask."""
    seen, original = [], dataset.MaskedImages.__getitem__

    def spy(self, key):
        image, mask = original(self, key)
        seen.append((self.samples[key[0]].path, key[0] >= self.num_labelled, set(mask.unique().tolist())))
        return image, mask

    monkeypatch.setattr(dataset.MaskedImages, "__getitem__", spy)
    return seen


def test_a_fold_trains_on_its_images_and_labelled_ones_but_never_on_held_out_images(tiny, monkeypatch):
    seen = spy_on_items(monkeypatch)
    data = fold_data(1, pseudo=labelled_for(1))
    fit_tiny("train.batch_size=3", 'train.pseudo={ from = "x" }', data=data)
    # Two epochs, each of 12 images and 6 labelled ones: of 5 each one, and one twice.
    assert sum(pseudo for _, pseudo, _ in seen) == 12
    assert len(seen) == 36
    assert {path for path, pseudo, _ in seen if pseudo} == set(data.pseudo.index["path"])
    assert {path for path, pseudo, _ in seen if not pseudo} == set(data.train_index["path"])
    assert not {path for path, _, _ in seen} & set(data.valid_index["path"])
    assert set().union(*(values for _, pseudo, values in seen if pseudo)) == {0, 1, 255}
    assert all(np.isfinite(line["loss"]) for line in history())


def test_pseudo_labels_are_used_in_the_configured_phases(tiny):
    cfg = fit_config()
    data = fold_data(0, pseudo=labelled_for(0, phases=(2,)))
    assert [len(build_loader(data, cfg, number, 0, processes()).sampler) for number in (1, 2)] == [12, 18]


def fit_config():
    return config.load("configs/tiny.toml").train


def test_pseudo_labels_do_not_change_the_sampling_of_training_images(tiny):
    loader = build_loader(fold_data(0, pseudo=labelled_for(0)), fit_config(), 1, 7, processes())
    alone = build_loader(fold_data(0), fit_config(), 1, 7, processes())
    for epoch in range(3):
        loader.sampler.epoch = alone.sampler.epoch = epoch
        assert [draw for draw in loader.sampler if draw[0] < 12] == list(alone.sampler)


@pytest.mark.slow
def test_a_phase_without_labels_is_bit_identical_to_training_without_labels(tiny):
    fit_tiny()
    alone = load_file(RUN / "best.safetensors")
    RUN.rename("alone")
    fit_tiny(data=fold_data(0, pseudo=labelled_for(0, phases=(2,))))
    assert all((load_file(RUN / "best.safetensors")[key] == alone[key]).all() for key in alone)


def test_labels_of_other_folds_unknown_ids_or_held_out_images_are_refused(tiny):
    pseudo = labelled_for(0)
    with pytest.raises(ValueError, match=r"pseudo: labels of models that held out fold 0, not fold 1: they"):
        fold_data(1, pseudo=pseudo)
    with pytest.raises(ValueError, match="held out fold 0, not fold full"):
        fold_data("full", pseudo=pseudo)
    unknown = pseudo.index.assign(image_id=[*pseudo.index["image_id"][:-1], "zzz"])
    with pytest.raises(ValueError, match=r"pseudo: no label for 1 of 5 images, the first is 'zzz'"):
        fold_data(0, pseudo=replace(pseudo, index=unknown))
    held_out = pseudo.index.assign(path=[*pseudo.index["path"][:-1], fold_data(0).valid_index["path"].iloc[2]])
    with pytest.raises(ValueError, match="is held out by fold 0 and cannot be trained on"):
        fold_data(0, pseudo=replace(pseudo, index=held_out))


def test_a_config_with_pseudo_labels_is_not_trained_without_them(tiny):
    with pytest.raises(ValueError, match=r"train\.pseudo: no labels by 'nuclei' for fold 0"):
        fit_tiny('train.pseudo={ from = "nuclei" }')


def test_an_empty_set_of_labels_does_not_change_the_sampler(tiny):
    pseudo = labelled_for(0)
    none = replace(pseudo, index=pseudo.index.iloc[:0])
    assert len(build_loader(fold_data(0, pseudo=none), fit_config(), 1, 0, processes()).sampler) == 12
