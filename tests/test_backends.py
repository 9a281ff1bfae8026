"""Inference backends give the same predictions as the network."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import config
from pipeline.inference import backends
from pipeline.inference.backends import BACKENDS
from pipeline.inference.conv_bn_fusion import find_conv_bn_pairs, fuse_batch_norms
from pipeline.inference.predictor import Predictor
from pipeline.models import ARCHITECTURES, build_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SMALL = {"decoder_channels": (16, 16, 8, 8, 8)}
OPTIONS = {
    "unet": {**SMALL, "attention": None, "image_head": 0.1, "image_gate": True},
    "unetplusplus": {**SMALL, "attention": None},
    "manet": SMALL,
    "deeplabv3_cascade": {"encoder": "tu-resnet18"},  # with a block in its last stage that can be repeated
    "dpt": {"encoder": "tu-vit_tiny_patch16_224"},
}


def model_of(arch, encoder="tu-resnet10t", **options):
    """A network in evaluation mode with random batch norm statistics."""
    torch.manual_seed(0)
    model = build_model(
        config.Model(**{"arch": arch, "encoder": encoder, "weights": "none", "in_channels": 1, **options})
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def images_of(count, height, width):
    return torch.randint(
        0, 256, (count, 1, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def count_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def alone(check):
    """Run a function of this module in a fresh process.

    Code compiled by inductor loads a threading library, and an earlier test may have loaded another one.
    """
    text = f"from tests.test_backends import {check.__name__} as check; check()"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_fusing_batch_norm_changes_the_logits_of_no_architecture(arch, caplog):
    model = model_of(arch, **OPTIONS.get(arch, {}))
    with torch.inference_mode():
        for size in ((64, 96), (70, 50)):
            expected = model(images_of(2, *size))
            found = BACKENDS["fuse_conv_bn"](model, CPU, torch.float32)(images_of(2, *size))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert not caplog.messages, "and none is left as it was"


@pytest.mark.parametrize(
    "encoder", ["tu-resnet10t", "tu-efficientnet_lite0", "tu-seresnext26d_32x4d", "tu-mobilenetv3_small_050"]
)
def test_every_batch_norm_after_a_convolution_is_fused(encoder):
    model = model_of("unet", encoder, **SMALL)
    assert count_norms(model) > 20
    assert count_norms(fuse_batch_norms(model, 1)) == 0


def test_a_batch_norm_before_its_convolution_is_not_fused():
    model = model_of("fpn", "tu-densenet121")
    norms, left = count_norms(model), count_norms(fuse_batch_norms(model, 1))
    assert 0 < left < norms
    with torch.inference_mode():
        expected = model(images_of(1, 64, 64))
        torch.testing.assert_close(fuse_batch_norms(model, 1)(images_of(1, 64, 64)), expected, rtol=1e-3, atol=1e-3)


class TwoConsumers(nn.Module):
    """The output of the convolution is also used without the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images):
        found = self.conv(images)
        return self.norm(found) + found


def test_a_convolution_with_a_second_consumer_is_not_fused():
    assert find_conv_bn_pairs(TwoConsumers().eval(), 1) == []


def test_fusing_does_not_change_the_models_weights():
    model = model_of("unet", **SMALL)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    BACKENDS["fuse_conv_bn"](model, CPU, torch.bfloat16)(images_of(1, 64, 64))
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_a_network_whose_logits_fusing_would_change_runs_unfused(monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    model = model_of("unet", **SMALL)
    monkeypatch.setattr(
        backends, "fuse_batch_norms", lambda model, channels: model_of("unet", **SMALL, image_head=0.1, image_gate=True)
    )
    with torch.inference_mode():
        expected = model(images_of(1, 64, 64))
        assert torch.equal(BACKENDS["fuse_conv_bn"](model, CPU, torch.float32)(images_of(1, 64, 64)), expected)
    assert "batch norm not fused: logits would change" in caplog.text


def test_bfloat16_changes_probabilities_by_less_than_0_03():
    model = model_of("unet", **SMALL)
    exact = Predictor(model, ("identity", "transpose"), "float32")(images_of(2, 64, 80))
    found = Predictor(model, ("identity", "transpose"), "bfloat16", backend="fuse_conv_bn")(images_of(2, 64, 80))
    assert 0 < (found - exact).abs().max() < 0.03, "bfloat16 rounds to three digits"


class OneBlock(nn.Module):
    """A minimal network: compiling a real one takes a minute."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1, 1), 128.0))
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)

    def forward(self, images):
        return self.head(self.norm(self.conv((images.float() - self.mean) / 64)).relu())


def test_a_compiled_network_gives_the_same_probabilities():
    alone(compiled_says_the_same)


def compiled_says_the_same():
    torch.manual_seed(0)
    model = OneBlock().eval()
    run = Predictor(model, ("identity",), "float32", backend="compile")
    images = images_of(*backends.PROBE_SHAPE)
    np.testing.assert_allclose(run(images), Predictor(model, ("identity",), "float32")(images), atol=1e-5)


def test_a_failing_compiler_is_reported_with_what_to_change(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Failed to find C++ compiler. Please specify via CXX")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match=r"'compile' does not run here \(Failed to find C\+\+ compiler.*leave it out"):
        Predictor(OneBlock().eval(), ("identity",), backend="compile")
