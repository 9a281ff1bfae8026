"""Parameter groups: the rate and the decay of each weight, as a table written by hand says."""

import math
from contextlib import contextmanager

import pytest
import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.optim import param_groups_weight_decay
from torch import nn

from pipeline import config, stages
from pipeline.config import Phase, Train
from pipeline.models import build_model
from pipeline.models.weights import canonical
from pipeline.training import optimizer as optimizer_module
from pipeline.training.checkpoint import load_weights
from pipeline.training.optimizer import (
    build_optimizer,
    check_optimizer,
    encoder_layers,
    learning_rates,
    parameter_groups,
    set_learning_rate,
)
from pipeline.training.trainer import fit
from tests.fitting import RUN, fit_tiny, history, job_of_tiny, stopped_after

# Factors with encoder_lr 0.5 and layer_decay 0.8: the encoder's last layer has 0.5, each one before it 0.8 of it.
RESNET18 = {
    "net.encoder.model.conv1.weight": 0.5 * 0.8**8,
    "net.encoder.model.bn1.bias": 0.5 * 0.8**8,
    "net.encoder.model.layer1.0.conv1.weight": 0.5 * 0.8**7,
    "net.encoder.model.layer1.1.bn2.weight": 0.5 * 0.8**6,
    "net.encoder.model.layer2.0.downsample.0.weight": 0.5 * 0.8**5,
    "net.encoder.model.layer3.1.conv2.weight": 0.5 * 0.8**2,
    "net.encoder.model.layer4.0.conv1.weight": 0.5 * 0.8,
    "net.encoder.model.layer4.1.bn2.bias": 0.5,
    "net.decoder.blocks.0.conv1.0.weight": 1.0,
}
LITE0 = {
    "net.encoder.model.conv_stem.weight": 0.5 * 0.8**16,
    "net.encoder.model.blocks.0.0.conv_dw.weight": 0.5 * 0.8**15,
    "net.encoder.model.blocks.6.0.bn3.bias": 0.5,
}


def phase(**options):
    return Phase(loss={"bce": 1.0}, epochs=4, lr=0.1, warmup=0.25, cycles=2, **options)


def found(optimizer, model):
    """Learning rate and decay of each weight, by name."""
    names = {weight: name for name, weight in model.named_parameters()}
    return {
        names[weight]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
@pytest.mark.parametrize(("encoder", "table"), [("tu-resnet18", RESNET18), ("tu-tf_efficientnet_lite0", LITE0)])
def test_each_weight_has_its_rate_through_warm_up_and_restart(name, encoder, table):
    model, chosen = build_model(config.Model(encoder=encoder, weights="none")), phase(encoder_lr=0.5, layer_decay=0.8)
    train = Train(phases=(chosen,), optimizer=name, weight_decay=0.02)
    optimizer = build_optimizer(model, chosen, train, encoder)
    rates = [rate for epoch in range(4) for rate in learning_rates(chosen, epoch, 2)]
    # Eight updates in two cycles: one of warm-up, then a cosine from the peak to its hundredth.
    cycle = [0.1, *(0.1 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))) for done in (0, 0.5, 1))]
    assert rates == pytest.approx([*cycle, *cycle])
    for rate in rates:
        set_learning_rate(optimizer, rate)
        weights = found(optimizer, model)
        assert weights.keys() == dict(model.named_parameters()).keys()
        for key, factor in table.items():
            assert weights[key][0] == pytest.approx(rate * factor), key
        for key, (_, decay) in weights.items():
            assert decay == (0 if key.endswith(".bias") or dict(model.named_parameters())[key].ndim == 1 else 0.02), key


@pytest.mark.parametrize("arch", ["unet", "fpn", "deeplabv3plus", "fcn8s"])
def test_the_encoder_of_every_architecture_has_its_own_rate(arch):
    options = {"decoder_channels": (256, 128, 64, 32, 16)} if arch == "unet" else {}
    model = build_model(config.Model(arch=arch, encoder="tu-resnet18", weights="none", **options))
    of_encoder = set(model.encoder.parameters())
    for group in parameter_groups(model, "tu-resnet18", 0.01, 0.1, 1.0):
        assert {weight in of_encoder for weight in group["params"]} == {group["lr_scale"] == 0.1}


def test_frozen_weights_are_in_no_group():
    model = build_model(config.Model(encoder="tu-resnet18", weights="none"))
    for weight in model.encoder.parameters():
        weight.requires_grad = False
    weights = [weight for group in parameter_groups(model, "tu-resnet18", 0.01, 0.5, 0.8) for weight in group["params"]]
    assert set(weights) == set(model.parameters()) - set(model.encoder.parameters())


def test_a_bias_of_several_axes_does_not_decay():
    model = build_model(config.Model(encoder="tu-resnet18", weights="none"))
    model.net.offset = nn.ParameterDict({"weight": torch.zeros(1, 2, 2), "bias": torch.zeros(1, 2, 2)})
    groups = parameter_groups(model, "tu-resnet18", 0.01, 1.0, 1.0)
    decay_of = {weight: group["weight_decay"] for group in groups for weight in group["params"]}
    assert decay_of[model.net.offset["weight"]] == 0.01
    assert decay_of[model.net.offset["bias"]] == 0


def test_equal_factors_are_two_groups():
    model = build_model(config.Model(encoder="tu-resnet18", weights="none"))
    assert len(parameter_groups(model, "tu-resnet18", 0.01, 1.0, 1.0)) == 2


def test_the_rate_of_a_group_scales_its_steps():
    model = nn.ParameterList([torch.zeros(2, 2), torch.zeros(2, 2)])
    groups = [{"params": [model[0]], "lr_scale": 0.25}, {"params": [model[1]]}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.8)
    sum(each.sum() for each in model).backward()
    optimizer.step()
    assert model[0].flatten().tolist() == pytest.approx([-0.2] * 4)
    assert model[1].flatten().tolist() == pytest.approx([-0.8] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "admw"}, r"unknown optimizer 'admw'. Did you mean 'adamw'"),
        (
            {"optimizer": "sgd", "optimizer_options": {"momentun": 0.9}},
            r"train\.optimizer_options: sgd: unknown key 'momentun'. Did you mean 'momen",
        ),
        ({"optimizer_options": {"lr": 0.1}}, r"train\.optimizer_options: lr is set by train\.phases\[\]\.lr"),
        ({"optimizer_options": {"betas": [0.9]}}, r"train\.optimizer_options: adamw: 'betas\.1' is missing"),
        (
            {"optimizer_options": {"betas": [0.9, 0.9, 0.9]}},
            r"betas: \(0\.9, .*\): expected a list of 2 or fewer",
        ),
        ({"optimizer_options": {"foreach": True, "fused": True}}, r"adamw cannot be used here \(`fused` and `foreach`"),
        (
            {"optimizer": "kron", "optimizer_options": {"preconditioner_update_probability": "x"}},
            r"kron: preconditioner_update_probability: 'x': expected a number$",
        ),
        (
            {"optimizer": "kron", "optimizer_options": {"mu_dtype": "half"}},
            r"mu_dtype: 'half': expected a dtype, which",
        ),
        ({"optimizer_options": {"betas": 0.9}}, r"adamw: betas: 0\.9: expected a list"),
        ({"optimizer_options": {"fused": "yes"}}, r"adamw: fused: 'yes': expected true or false"),
        ({"optimizer": "csgdp", "optimizer_options": {"momentum": "high"}}, r"csgdp: momentum: 'high': expected a num"),
        ({"optimizer": "larc", "optimizer_options": {"nesterov": 1}}, r"larc: nesterov: 1: expected true or false"),
        ({"optimizer": "sgd", "optimizer_options": {"momentum": -1.0}}, r"sgd cannot be used here \(.*momentum"),
        ({"optimizer": "fusedadam"}, r"fusedadam cannot be used here \("),
        ({"optimizer": "adahessian"}, r"adahessian cannot be used here \("),
        ({"optimizer": "muon", "optimizer_options": {"ns_steps": 2.5}}, r"muon: ns_steps: 2\.5: expected a whole num"),
    ],
)
def test_a_wrong_optimizer_or_option_is_one_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        check_optimizer(Train(phases=(phase(),), **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"foreach": True}),  # instead of this pipeline's default, the fused implementation
        ("adamw", {"betas": [0.9, 0.99], "eps": 1, "fused": False}),
        ("csgdp", {"momentum": 0.9}),
        ("adabelief", {"betas": [0.8, 0.9]}),
    ],
)
def test_values_of_the_declared_type_or_that_of_the_default_are_accepted(name, options):
    check_optimizer(Train(phases=(phase(),), optimizer=name, optimizer_options=options))


@pytest.mark.parametrize(
    "encoder",
    [
        "tu-swin_tiny_patch4_window7_224",  # tables of relative positions, by their full names
        "tu-deit_tiny_patch16_224",  # an embedding of positions
        "tu-hiera_tiny_224",
        "tu-maxvit_pico_rw_256",
        "tu-resnet18",
    ],
)
def test_weights_of_an_encoder_decay_as_in_timm(encoder):
    model, whole = build_model(config.Model(encoder=encoder, weights="none")), timm.create_model(encoder[3:])
    oracle = param_groups_weight_decay(whole, 0.02, no_weight_decay_list=getattr(whole, "no_weight_decay", set)())
    decay_of = {id(weight): group["weight_decay"] for group in oracle for weight in group["params"]}
    expected = {canonical(name): decay_of[id(weight)] for name, weight in whole.named_parameters()}
    names = {weight: canonical(name) for name, weight in model.encoder.named_parameters()}
    ours = {
        names[weight]: group["weight_decay"]
        for group in parameter_groups(model, encoder, 0.02, 1.0, 1.0)
        for weight in group["params"]
        if weight in names
    }
    common = ours.keys() & expected.keys()
    assert len(common) > 0.9 * len(ours)
    assert {name: ours[name] for name in common} == {name: expected[name] for name in common}


def test_a_whole_number_of_an_option_stays_one():
    # Muon takes it as the number of its Newton and Schulz steps.
    cfg = Train(phases=(phase(),), optimizer="muon", optimizer_options={"ns_steps": 3, "nesterov": False})
    assert [type(value) for value in cfg.optimizer_options.values()] == [int, bool]
    check_optimizer(cfg)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
@pytest.mark.parametrize("name", ["kron", "kronw"])
def test_kron_makes_the_same_updates_whatever_the_process_draws(name):
    # Each process of torchrun draws other numbers, and has to have the same weights.
    def trained(seed):
        weight = torch.nn.Parameter(torch.eye(8))
        cfg = Train(phases=(phase(),), optimizer=name)
        optimizer = optimizer_module._create([{"params": [weight]}], cfg, lr=0.1)
        torch.manual_seed(seed)
        for step in range(4):
            weight.grad = torch.linspace(-1, 1 + step, 64).reshape(8, 8)
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(0), trained(1))
    assert not torch.equal(trained(0), torch.eye(8))


def test_layer_decay_without_known_layers_is_refused(tiny, monkeypatch):
    monkeypatch.delattr(EfficientNet, "group_matcher")
    with pytest.raises(ValueError, match=r"timm does not know the layers of 'tu-test_efficientnet'"):
        encoder_layers("tu-test_efficientnet")
    with pytest.raises(ValueError, match=r"tiny.toml: train.phases.0.layer_decay: timm does not know"):
        stages.check(config.load("configs/tiny.toml", ["train.phases.0.layer_decay=0.8"]))


def test_layer_decay_of_the_encoders_of_smp_is_refused(tiny):
    # timm does not have them, so it does not know their layers.
    pairs = ["model.encoder=mit_b0", "train.phases.0.layer_decay=0.8"]
    with pytest.raises(ValueError, match=r"tiny.toml: train.phases.0.layer_decay: timm does not know .* 'mit_b0'"):
        stages.check(config.load("configs/tiny.toml", pairs))


@pytest.mark.slow
def test_a_state_with_other_groups_is_refused_with_what_to_do(tiny, monkeypatch):
    with stopped_after(1):
        fit_tiny(epochs=(2,))
    one_group = "pipeline.training.optimizer.parameter_groups"
    monkeypatch.setattr(one_group, lambda model, *_: [{"params": model.parameters()}])
    with pytest.raises(ValueError, match=r"runs/state.pt: the state of an older version.*remove runs to train"):
        fit_tiny(epochs=(2,))


# Factors of some weights with encoder_lr 0.3 and layer_decay 0.7: the encoder's last layer has 0.3.
TINY = {
    "net.encoder.model.conv_stem.weight": 0.3 * 0.7**5,
    "net.encoder.model.blocks.0.0.conv.weight": 0.3 * 0.7**4,
    "net.decoder.blocks.0.conv1.0.weight": 1.0,
    "net.segmentation_head.0.bias": 1.0,
}


@contextmanager
def recorded_rates(model, rates):
    """Append the learning rate of each weight, by name, at each update of the training in the block."""

    def record(optimizer, rate):
        set_learning_rate(optimizer, rate)
        rates.append({name: lr for name, (lr, _) in found(optimizer, model).items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.training.epoch.set_learning_rate", record)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_a_resumed_training_has_the_same_rates_and_weights(tiny, name):
    phase_options = {"lr": 0.01, "warmup": 0.25, "cycles": 2, "encoder_lr": 0.3, "layer_decay": 0.7}
    pairs = [f"train.optimizer={name}", *(f"train.phases.0.{key}={value}" for key, value in phase_options.items())]

    def run(rates):
        job = job_of_tiny(*pairs, epochs=(4,))
        with recorded_rates(job.model, rates):
            fit(job)

    undisturbed, resumed = [], []
    run(undisturbed)
    expected, weights = history(), load_weights(RUN / "best.safetensors")
    for path in RUN.iterdir():
        path.unlink()
    with stopped_after(1):
        run(resumed)
    assert len(resumed) == len(undisturbed) / 4
    run(resumed)
    assert resumed == undisturbed
    assert history() == expected
    assert all(torch.equal(each, weights[key]) for key, each in load_weights(RUN / "best.safetensors").items())

    # Two cycles of six updates: two of warm-up, then a cosine from the peak to its hundredth.
    cycle = [0.01 * share for share in (0.5, 1, 1, 0.7525, 0.2575, 0.01)]
    for key, factor in TINY.items():
        assert [each[key] for each in undisturbed] == pytest.approx([factor * rate for rate in cycle * 2]), key
