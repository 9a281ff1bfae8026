"""Weights of losses that change linearly within a phase."""

import pytest
import torch
from safetensors.torch import load_file

from pipeline import config
from pipeline.losses import build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.dice_softmax import DiceSoftmaxLoss
from pipeline.training.trainer import Trainer
from tests import fitting
from tests.pixels import random_batch, random_classes

RAMP = {"bce": (0.0, 3.0), "dice": 1.0}
IN_CONFIG = "train.phases.0.loss={bce=[0.0, 3.0], dice=1.0}"


@pytest.mark.parametrize(("share", "weight"), [(0, 0), (0.25, 0.75), (1, 3)])
def test_weights_lie_on_a_line(share, weight):
    logits, target = random_batch()
    loss = build_loss(RAMP)
    loss.weights.set_progress(share)
    torch.testing.assert_close(
        loss(logits, target), weight * BCELoss()(logits, target) + DiceLoss()(logits, target), rtol=1e-12, atol=0
    )


def test_weights_of_exclusive_classes_lie_on_a_line():
    logits, target = random_classes()
    loss = build_loss({"cross_entropy": (2.0, 0.0), "dice_softmax": (0.0, 1.0)}, exclusive=True)
    for share, cross_entropy, dice in ((0, 2, 0), (0.5, 1, 0.5), (1, 0, 1)):
        loss.weights.set_progress(share)
        expected = cross_entropy * CrossEntropyLoss()(logits, target) + dice * DiceSoftmaxLoss()(logits, target)
        torch.testing.assert_close(loss(logits, target[:, None]), expected)


def test_a_loss_is_not_computed_while_its_weight_is_0(monkeypatch):
    computed = []
    original = BCELoss.compute
    monkeypatch.setattr(BCELoss, "compute", lambda self, inputs: computed.append(1) or original(self, inputs))
    loss = build_loss(RAMP)
    loss(*random_batch())
    assert not computed
    loss.weights.set_progress(0.01)
    loss(*random_batch())
    assert computed


def test_a_constant_weight_is_exactly_the_same_at_every_update():
    loss = build_loss({"bce": 0.1, "dice": (0.3, 0.3)})
    assert loss.weights.is_constant
    for share in (0.0, 1 / 3, 0.7, 1.0):
        loss.weights.set_progress(share)
        assert loss.weights.now == {"bce": 0.1, "dice": 0.3}


@pytest.mark.parametrize(
    ("mix", "answer"),
    [
        ({"bce": (0.0, 1.0)}, r"all weights are 0 at the first update \(bce\)"),
        ({"bce": (1.0, 0.0), "dice": (2.0, 0.0)}, r"all weights are 0 at the last update \(bce, dice\)"),
        ({"bce": (1.0, -1.0)}, r"weight of loss 'bce' must be >= 0 and finite, got -1\.0"),
        ({"bce": (0.0, 0.0)}, r"all weights are 0 \(bce\)"),
    ],
)
def test_wrong_weights_are_refused(mix, answer):
    with pytest.raises(ValueError, match=answer):
        build_loss(mix)


@pytest.mark.parametrize("value", ["[1]", "[1, 2, 3]", "[0, -1]", "-1", "'a'", "true", "nan", "[0, inf]"])
def test_weights_of_a_config_are_one_number_or_two(tiny, value):
    with pytest.raises(
        ValueError, match=r"^configs/tiny\.toml: train\.phases\.0\.loss\.bce: .*expected a weight from 0 to"
    ):
        config.load("configs/tiny.toml", [f"train.phases.0.loss={{bce={value}}}"])


@pytest.fixture
def weights_of_updates(monkeypatch):
    """The weight of BCE at each update of a training."""
    found, original = [], Trainer._after_update

    def note(self, update):
        found.append(self.loss_weights.now["bce"])
        original(self, update)

    monkeypatch.setattr(Trainer, "_after_update", note)
    return found


def test_a_phase_begins_with_the_first_weight_and_ends_with_the_second(tiny, weights_of_updates):
    fitting.fit_tiny(IN_CONFIG, epochs=(2,))
    assert weights_of_updates == pytest.approx([0, 0.6, 1.2, 1.8, 2.4, 3]), "3 updates in each of 2 epochs"
    assert [line["loss_weights"]["bce"] for line in fitting.history()] == pytest.approx([1.2, 3])


def test_without_a_ramp_the_history_has_no_weights(tiny):
    fitting.fit_tiny(epochs=(1,))
    assert "loss_weights" not in fitting.history()[0]


@pytest.mark.slow
def test_a_resumed_phase_has_the_weights_of_an_undisturbed_one(tiny, weights_of_updates):
    fitting.fit_tiny(IN_CONFIG, epochs=(2,))
    undisturbed, expected = load_file(fitting.RUN / "best.safetensors"), fitting.history()
    fitting.RUN.rename("undisturbed")
    with fitting.stopped_after(1):
        fitting.fit_tiny(IN_CONFIG, epochs=(2,))
    fitting.fit_tiny(IN_CONFIG, epochs=(2,))
    resumed = load_file(fitting.RUN / "best.safetensors")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)
    assert fitting.history() == expected
    assert weights_of_updates[:6] == weights_of_updates[6:]
