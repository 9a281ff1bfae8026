"""Weights of classes: in the losses, as numbers of a config, and computed from the training masks of a fold."""

import logging

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.config import Phase
from pipeline.data.index import coverage_columns
from pipeline.data.sample import samples_of
from pipeline.losses import build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.class_weights import METHODS, ClassAreas, compute_weights
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice_softmax import DiceSoftmaxLoss
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.metrics import VOID
from pipeline.stages.preparing import check
from pipeline.training.phase_loss import build_phase_loss
from tests.fitting import fit_tiny, fold_data, history
from tests.pixels import gradient, random_batch, random_classes

WEIGHTS = (0.5, 2.0, 1.0, 3.0)
MULTICLASS = {"cross_entropy": CrossEntropyLoss, "dice_softmax": DiceSoftmaxLoss, "lovasz_softmax": LovaszSoftmaxLoss}

# In the losses.


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_cross_entropy_agrees_with_torch(smoothing):
    logits, target = random_classes()
    target[0, 0] = VOID
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS).double(), ignore_index=VOID, label_smoothing=smoothing)
    torch.testing.assert_close(CrossEntropyLoss(smoothing, WEIGHTS)(logits, target), theirs(logits, target))


def test_bce_with_a_weight_per_channel_agrees_with_torch():
    logits, target = random_batch()
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 2.0, 7.0])[:, None, None])
    torch.testing.assert_close(BCELoss((0.5, 2.0, 7.0))(logits, target), theirs(logits, target))


def test_bce_with_equal_weights_is_exactly_that_with_one_number():
    logits, target = random_batch(dtype=torch.float32)
    assert BCELoss((3.0, 3.0, 3.0))(logits, target) == BCELoss(3.0)(logits, target)


@pytest.mark.parametrize("name", MULTICLASS)
def test_equal_class_weights_change_nothing_whatever_their_size(name):
    logits, target = random_classes()
    weighted = MULTICLASS[name](class_weights=(7.0,) * 4)
    torch.testing.assert_close(weighted(logits, target), MULTICLASS[name]()(logits, target))


@pytest.mark.parametrize("name", ["dice_softmax", "lovasz_softmax"])
def test_the_mean_over_classes_is_weighted(name):
    logits, target = random_classes()
    one = [MULTICLASS[name](class_weights=tuple(np.eye(4)[number]))(logits, target) for number in range(4)]
    expected = sum(weight * each for weight, each in zip(WEIGHTS, one, strict=True)) / sum(WEIGHTS)
    torch.testing.assert_close(MULTICLASS[name](class_weights=WEIGHTS)(logits, target), expected)


@pytest.mark.parametrize("name", MULTICLASS)
@pytest.mark.parametrize("over", ["batch", "image"])
def test_without_a_pixel_of_a_class_with_a_weight_loss_and_gradient_are_0(name, over):
    options = {"over": over} if name == "lovasz_softmax" else {}
    loss, (logits, target) = MULTICLASS[name](class_weights=(0, 0, 0, 1), **options), random_classes()
    target[target == 3] = 1
    assert loss(logits, target) == 0
    assert not gradient(loss, logits, target).any()


def test_a_wrong_number_of_weights_is_refused_by_the_loss_too():
    with pytest.raises(ValueError, match="2 class weights for logits of 4 classes"):
        CrossEntropyLoss(class_weights=(1, 2))(*random_classes())


# Of a config.

CLASSES = ("sky", "road", "car")


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"class_weights": (1.0, 2.0)}, r"class_weights has 2 numbers, expected 3, one for each of sky, road, car$"),
        ({"class_weights": (1.0, -2.0, 1.0)}, r"class_weights must be >= 0 and finite, got -2\.0$"),
        ({"class_weights": (0.0, 0.0, 0.0)}, r"class_weights are all 0"),
        ({"class_weights": 2.0}, r"class_weights = 2\.0: expected a list of numbers, or a method$"),
        ({"class_weights": "median"}, r"class_weights = 'median': expected numbers, or a method\. Known: inverse_sqrt"),
        ({"class_weights": "inverse_sqr"}, r"Did you mean 'inverse_sqrt'\?$"),
        ({"smoothing": (0.1, 0.1, 0.1)}, r"smoothing = \(0\.1, 0\.1, 0\.1\): expected a number$"),
    ],
)
def test_wrong_class_weights_are_refused(options, answer):
    with pytest.raises(ValueError, match=r"^loss 'cross_entropy': .*" + answer):
        build_loss({"cross_entropy": 1.0}, {"cross_entropy": options}, exclusive=True, classes=CLASSES)


@pytest.mark.parametrize(
    ("weight", "answer"),
    [
        ((1.0, 2.0), r"positive_weight has 2 numbers, expected 3, one for each of sky, road, car$"),
        ((1.0, 0.0, 2.0), r"positive_weight must be > 0 and finite, got 0\.0"),
    ],
)
def test_wrong_positive_weights_are_refused(weight, answer):
    with pytest.raises(ValueError, match=r"^loss 'bce': " + answer):
        build_loss({"bce": 1.0}, {"bce": {"positive_weight": weight}}, classes=CLASSES)


def test_weights_of_a_config_are_passed_to_the_loss():
    options = {"bce": {"positive_weight": [1, 2.5]}}
    phase = Phase(loss={"bce": 1}, epochs=1, lr=1, loss_options=options)
    assert phase.loss_options == {"bce": {"positive_weight": (1.0, 2.5)}}
    assert build_loss(phase.loss, phase.loss_options).losses["bce"].positive_weight == (1.0, 2.5)


def test_a_config_with_a_wrong_number_of_weights_is_refused_before_data_are_read(tiny):
    cfg = config.load("configs/tiny.toml", ["train.phases.0.loss_options={bce={positive_weight=[1, 2]}}"])
    answer = r"train\.phases\.0\.loss_options: loss 'bce': positive_weight has 2 numbers, expected 1, .* of disc$"
    with pytest.raises(ValueError, match=answer):
        check(cfg)


# Computed.

# Two images of 100 and 300 pixels. Class 0: 20 of 400 pixels, in the first image only; class 1: 80 + 100; class 2: 200.
AREAS = ClassAreas(np.array([[20.0, 80, 0], [0, 100, 200]]), np.array([100, 300]))


def test_median_frequency_by_hand():
    # Frequencies 20/100, 180/400, 200/300; the median is 180/400.
    assert compute_weights("median_frequency", AREAS, exclusive=True) == pytest.approx((2.25, 1, 0.675))


def test_inverse_sqrt_by_hand():
    # Shares 20/400, 180/400, 200/400; the median is 180/400.
    assert compute_weights("inverse_sqrt", AREAS, exclusive=True) == pytest.approx((3, 1, np.sqrt(0.9)), rel=1e-4)


def test_positive_weights_are_ratios_of_two_classes_by_hand():
    # Class 0: 20 of the 100 pixels of its image, the rest 380 of 400. Every image has both of class 1: 180 and 220.
    found = compute_weights("median_frequency", AREAS, exclusive=False)
    assert found[:2] == pytest.approx((0.95 / 0.2, 220 / 180), rel=1e-3)
    assert compute_weights("inverse_sqrt", AREAS, exclusive=False)[1] == pytest.approx(np.sqrt(220 / 180), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_class_without_a_pixel_has_weight_1(method, exclusive):
    areas = ClassAreas(np.array([[0.0, 30, 70]]), np.array([100]))
    assert compute_weights(method, areas, exclusive=exclusive)[0] == 1
    nothing = ClassAreas(np.zeros((2, 3)), np.array([100, 100]))
    assert compute_weights(method, nothing, exclusive=exclusive) == (1, 1, 1)


def test_class_areas_are_those_of_the_masks_that_the_fold_trains_on(tiny):
    data = fold_data(1)
    counts = [(data.labels.read(sample) == 1).sum() for sample in samples_of(data.train_index)]
    areas, sizes = data.class_areas()
    assert areas.tolist() == [[count] for count in counts]
    assert (sizes == 36 * 44).all()
    assert len(areas) == len(data.train_index) < 18


def test_held_out_masks_do_not_change_the_weights(tiny):
    phase = Phase(loss={"bce": 1}, epochs=1, lr=1, loss_options={"bce": {"positive_weight": "median_frequency"}})
    data = fold_data(0)
    before = build_phase_loss(phase, 1, data).losses["bce"].positive_weight
    (column,) = coverage_columns(data.labels.classes)
    data.valid_index[column] = 0.9
    assert build_phase_loss(phase, 1, data).losses["bce"].positive_weight == before
    data.train_index[column] *= 0.5
    assert build_phase_loss(phase, 1, data).losses["bce"].positive_weight > before


def test_the_weights_of_a_training_are_logged_and_change_it(tiny, caplog):
    with caplog.at_level(logging.INFO):
        fit_tiny("train.phases.0.loss_options={bce={positive_weight='inverse_sqrt'}}", epochs=(1,))
    (line,) = [each.message for each in caplog.records if "positive_weight" in each.message]
    (weight,) = (
        build_phase_loss(
            Phase(loss={"bce": 1}, epochs=1, lr=1, loss_options={"bce": {"positive_weight": "inverse_sqrt"}}),
            1,
            fold_data(),
        )
        .losses["bce"]
        .positive_weight
    )
    assert line == f"fold 0: positive_weight of bce by inverse_sqrt: disc {weight:g}"
    assert weight > 2
    weighted = history()[0]["loss"]
    fit_tiny(f"train.phases.0.loss_options={{bce={{positive_weight={weight}}}}}", epochs=(1,))
    assert history()[0]["loss"] == weighted
