"""Convolutions with few channels per group compute in float32 under autocast, and are otherwise the same."""

from copy import deepcopy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from pipeline import config
from pipeline.models import build_model
from pipeline.models.narrow_convolutions import compute_in_float32
from pipeline.training.distributed import processes
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import Trainer
from tests.fitting import job_of_tiny

IMAGES = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("groups", [4, 16])
def test_a_narrow_convolution_computes_in_float32_and_returns_the_dtype_of_its_input(kind, groups):
    layer = kind(16, 32, 3, stride=2, groups=groups)
    expected = layer(IMAGES)
    compute_in_float32(layer)
    with autocast():
        assert torch.equal(layer(IMAGES), expected)
        halved = layer(IMAGES.bfloat16())
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved, layer(IMAGES.bfloat16().float()).bfloat16())
    assert torch.equal(layer(IMAGES), expected)  # without autocast


@pytest.mark.parametrize("groups", [1, 2])
def test_other_convolutions_stay_in_bfloat16(groups):
    layer = nn.Conv2d(16, 16, 3, groups=groups)
    compute_in_float32(layer)
    assert type(layer) is nn.Conv2d
    with autocast():
        assert layer(IMAGES).dtype == torch.bfloat16


def test_gradients_are_those_of_float32():
    layer = nn.Conv2d(16, 16, 3, groups=16)
    other = deepcopy(layer)
    compute_in_float32(layer)
    with autocast():
        layer(IMAGES).square().mean().backward()
    other(IMAGES).square().mean().backward()
    assert torch.equal(layer.weight.grad, other.weight.grad)


def test_a_copy_computes_with_its_own_weights_and_twice_is_once():
    layer = nn.Conv2d(16, 16, 3, groups=16)
    compute_in_float32(layer)
    kind = type(layer)
    compute_in_float32(layer)
    assert type(layer) is kind
    copy = deepcopy(layer)
    with torch.no_grad():
        copy.weight.zero_()
        copy.bias.zero_()
    with autocast():
        assert not copy(IMAGES).any()
        assert layer(IMAGES).any()


def test_a_model_keeps_the_names_of_its_parameters():
    model = build_model(config.Model(encoder="tu-test_efficientnet", weights="none"))
    names = list(model.state_dict())
    compute_in_float32(model)
    assert list(model.state_dict()) == names
    changed = [module for module in model.modules() if "InFloat32" in type(module).__name__]
    assert changed
    assert all(module.groups == module.in_channels for module in changed)


@pytest.mark.parametrize(("precision", "expected"), [("bfloat16", True), ("float32", False)])
def test_trainings_in_bfloat16_on_a_cpu_use_it(precision, expected, tiny):
    job = job_of_tiny(f"train.precision={precision}")
    averages = Trainer(job, TrainState({}), processes(), None).ema.module
    for model in (job.model, averages):
        assert any("InFloat32" in type(module).__name__ for module in model.modules()) == expected
