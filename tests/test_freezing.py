"""Freezing: which layers train in which epoch, and what a frozen layer keeps."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import config, stages
from pipeline.models import build_model
from pipeline.training import trainer
from pipeline.training.checkpoint import load_weights, refuse_other_settings
from pipeline.training.freezing import Freezing, frozen_layers
from pipeline.training.train_state import TrainState
from tests.fitting import RUN, fit_tiny, history, stopped_after

ENCODER = "net.encoder.model."
STEM, DEEPEST = ENCODER + "conv_stem.weight", ENCODER + "blocks.4.0.conv_pw.weight"
# In the first epoch the encoder is frozen, in the second half of it, then nothing.
HALF = ("train.phases.0.epochs=4", "train.phases.0.freeze_encoder=1", "train.phases.0.unfreeze_epochs=1")


def phase(**options):
    return config.Phase(**{"loss": {"bce": 1.0}, "epochs": 12, "lr": 0.1, **options})


@pytest.fixture
def saved(monkeypatch):
    """The states that a training writes, one per epoch."""
    states, original = [], TrainState.save

    def save(self, path):
        original(self, path)
        states.append(TrainState.load(path))

    monkeypatch.setattr(TrainState, "save", save)
    return states


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, [0, 0, 0, 0, 0, 0, 0]),
        ({"freeze_encoder": True}, [10, 10, 10, 10, 10, 10, 10]),
        ({"freeze_encoder": 3}, [10, 10, 10, 0, 0, 0, 0]),
        ({"freeze_encoder": 1, "unfreeze_epochs": 4}, [10, 8, 6, 4, 2, 0, 0]),
        ({"unfreeze_epochs": 2}, [6, 3, 0, 0, 0, 0, 0]),
    ],
)
def test_number_of_frozen_layers_of_ten(options, frozen):
    assert [frozen_layers(phase(**options), epoch, 10) for epoch in range(7)] == frozen


def test_the_deepest_layers_are_unfrozen_first_with_their_batch_norms():
    # A ResNet-18 has nine layers: the stem and eight blocks. With 2 epochs a third of them is unfrozen in each.
    model = build_model(config.Model(encoder="tu-resnet18", weights="none"))
    freezing = Freezing(model.encoder, phase(unfreeze_epochs=2), "tu-resnet18")
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for epoch, frozen in enumerate([6, 3, 0]):
        assert freezing.set_epoch(epoch, 12)
        model.train()
        freezing.set_modes()
        for number, name in enumerate(["conv1", *blocks]):
            module = model.encoder.model.get_submodule(name)
            assert {weight.requires_grad for weight in module.parameters()} == {number >= frozen}, (epoch, name)
            assert {each.training for each in module.modules()} == {number >= frozen}, (epoch, name)
        assert model.encoder.model.bn1.training == (frozen == 0)
        assert not freezing.set_epoch(epoch, 12), "nothing changes"


@pytest.mark.parametrize(("epochs", "frozen"), [(12, [2, 2, 1, 0]), (6, [2, 0]), (4, [1, 0]), (1, [0])])
def test_a_time_limit_unfreezes_earlier_and_the_last_epoch_trains_all(epochs, frozen):
    encoder = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    freezing = Freezing(encoder, phase(freeze_encoder=2, unfreeze_epochs=2), "tu-resnet18")
    freezing.layers = [[each.weight] for each in encoder]
    found = []
    for epoch in range(len(frozen)):
        freezing.set_epoch(epoch, epochs)
        found.append(sum(not weight.requires_grad for weight in encoder.parameters()))
    assert found == frozen


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_layers_keep_weights_and_statistics_until_their_epoch(tiny, saved, optimizer):
    options = ("train.weight_decay=0.5", "train.ema=0.5", f"train.optimizer={optimizer}")
    momentum = ("train.optimizer_options={momentum=0.9}",) if optimizer == "sgd" else ()
    fit_tiny(*HALF, *options, *momentum)
    torch.manual_seed(0)
    fresh = build_model(config.load("configs/tiny.toml").model).state_dict()
    layers = [key for key in fresh if key.startswith(ENCODER)]
    for part in ("model", "ema"):
        first, second, third = (
            {key for key in layers if not torch.equal(state.tensors[part][key], fresh[key])} for state in saved[:3]
        )
        assert first == set()
        assert DEEPEST in second
        assert STEM not in second
        assert not any(key.startswith((ENCODER + "bn1.", ENCODER + "blocks.0.")) for key in second)
        assert third == set(layers)


@pytest.mark.slow
@pytest.mark.parametrize("finished", [1, 2])
def test_a_run_stopped_while_layers_are_frozen_ends_with_the_weights_of_an_undisturbed_run(tiny, finished):
    fit_tiny(*HALF, "train.phases.0.swa=0.5")
    undisturbed, lines = load_weights(RUN / "phase1.safetensors"), history()
    for path in RUN.iterdir():
        path.unlink()
    with stopped_after(finished):
        fit_tiny(*HALF, "train.phases.0.swa=0.5")
    fit_tiny(*HALF, "train.phases.0.swa=0.5")
    assert history() == lines
    resumed = load_weights(RUN / "phase1.safetensors")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)


@pytest.mark.slow
def test_freeze_bn_keeps_the_statistics_and_trains_the_weights_of_the_encoders_batch_norms(tiny, saved, monkeypatch):
    estimated = []
    monkeypatch.setattr(trainer, "update_batch_norms", lambda model, norms, *_: estimated.append(len(norms)))
    fit_tiny("train.phases.0.freeze_bn=true", "train.phases.0.swa=1.0", epochs=(2,))
    assert history()[-1]["candidate"] == "swa"
    torch.manual_seed(0)
    model = build_model(config.load("configs/tiny.toml").model)
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    assert estimated == [sum(not name.startswith(ENCODER) for name in norms)], "of the averaged weights"
    found = {"model": saved[-1].tensors["model"], "swa": load_weights(RUN / "phase1.safetensors")}
    fresh = model.state_dict()
    for part, weights in found.items():
        for name in norms:
            kept = torch.equal(weights[f"{name}.running_mean"], fresh[f"{name}.running_mean"])
            assert kept == name.startswith(ENCODER), (part, name)
            assert not torch.equal(weights[f"{name}.weight"], fresh[f"{name}.weight"]), (part, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_encoder": True, "unfreeze_epochs": 2}, r"unfreeze_epochs has no effect with freeze_encoder = true"),
        ({"freeze_encoder": True, "freeze_bn": True}, r"freeze_bn has no effect with freeze_encoder = true"),
        ({"freeze_encoder": True, "encoder_lr": 0.1}, r"encoder_lr has no effect with freeze_encoder = true"),
        ({"freeze_encoder": True, "layer_decay": 0.8}, r"layer_decay has no effect with freeze_encoder = true"),
        ({"freeze_encoder": 12}, r"freeze_encoder = 12 and unfreeze_epochs = 0 leave none of 12 epochs .*= true"),
        ({"freeze_encoder": 9, "unfreeze_epochs": 3}, r"freeze_encoder = 9 and unfreeze_epochs = 3 leave none of 12"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        phase(**options)
    phase(freeze_encoder=8, unfreeze_epochs=3)


def test_patience_that_could_end_a_phase_while_layers_are_frozen_is_refused():
    frozen = phase(freeze_encoder=3, unfreeze_epochs=2)
    with pytest.raises(ValueError, match=r"patience = 4 could end phases.0 before its whole encoder trains: .*least 5"):
        config.Train(phases=(frozen,), patience=4)
    config.Train(phases=(frozen,), patience=5)


def test_freeze_bn_of_an_encoder_without_batch_norm_is_refused(tiny):
    pairs = ("model.encoder=tu-convnext_atto", "model.decoder_channels=[16, 8, 8, 8]", "train.phases.1.freeze_bn=true")
    with pytest.raises(ValueError, match=r"tiny\.toml: train\.phases\.1: freeze_bn has no effect: 'tu-convnext_atto'"):
        stages.check(config.load("configs/tiny.toml", pairs))


def test_freezing_for_one_epoch_is_another_setting_than_freezing_for_all():
    refuse_other_settings(RUN, {"freeze_encoder": True}, {"freeze_encoder": True})
    with pytest.raises(ValueError, match="freeze_encoder = True, now it is 1"):
        refuse_other_settings(RUN, {"freeze_encoder": True}, {"freeze_encoder": 1})
