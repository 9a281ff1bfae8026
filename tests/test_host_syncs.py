"""A GPU is kept busy: between forward and backward pass the host never waits for it, and once per update after them.

No GPU is needed: a tensor on the meta device has no values, so that reading one raises an error.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import config
from pipeline.losses import LOSSES, MULTICLASS_LOSSES, build_loss
from pipeline.models import build_model
from pipeline.training.distributed import Processes
from pipeline.training.epoch import Arithmetic, train_one_epoch
from pipeline.training.objective import build_objective

OVERLAP = ("dice", "jaccard", "tversky", "lovasz")


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch):
    """The meta device has none; it reads no values anyway."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def backward_without_values(loss_fn, classes, shape):
    logits = torch.zeros(2, classes, 8, 8, device="meta", dtype=torch.float16, requires_grad=True)
    names = getattr(loss_fn, "target_maps", ())
    maps = [torch.zeros(2, classes * len(names), 8, 8, device="meta")] if names else []
    loss = loss_fn(logits, torch.zeros(shape, device="meta", dtype=torch.uint8), *maps)
    loss.backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("name", LOSSES)
def test_losses_read_nothing_from_the_gpu(name):
    backward_without_values(build_loss({name: 1.0}), 3, (2, 3, 8, 8))


@pytest.mark.parametrize("name", OVERLAP)
def test_losses_over_the_batch_read_nothing_from_the_gpu(name):
    loss_fn = build_loss({name: 1.0}, {name: {"over": "batch", "empty": "ignore"}})
    backward_without_values(loss_fn, 3, (2, 3, 8, 8))


@pytest.mark.parametrize("variant", ["elu", "symmetric"])
def test_variants_of_lovasz_read_nothing_from_the_gpu(variant):
    backward_without_values(build_loss({"lovasz": 1.0}, {"lovasz": {"variant": variant}}), 1, (2, 1, 8, 8))


@pytest.mark.parametrize("name", MULTICLASS_LOSSES)
def test_multiclass_losses_read_nothing_from_the_gpu(name):
    backward_without_values(build_loss({name: 1.0}, exclusive=True), 3, (2, 1, 8, 8))


def test_a_read_is_noticed():
    with pytest.raises(RuntimeError, match="meta"):
        backward_without_values(lambda logits, target: logits.sum() * float(target.any()), 1, (2, 1, 8, 8))


@pytest.mark.parametrize("options", [{}, {"deep_supervision": 0.4, "image_head": 0.1}, {"arch": "deeplabv3plus"}])
def test_network_loss_and_clipping_read_nothing_from_the_gpu(options):
    cfg = config.Model(encoder="tu-resnet18", weights="none", in_channels=1, **options)
    loss_fn = build_objective(build_loss({"bce": 1.0, "lovasz": 1.0}), cfg.deep_supervision, cfg.image_head)
    with torch.device("meta"):
        model = build_model(cfg).train()
        images, target = torch.zeros(2, 1, 64, 64, dtype=torch.uint8), torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    loss_fn(model(images), target).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


class Reads(TorchDispatchMode):
    """Counts values that the host reads."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_host_reads_one_tensor_per_update(accumulate, monkeypatch):
    model = nn.Conv2d(1, 1, 1)
    lists = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(len(self)) or original(self))
    with Reads() as reads:
        train_one_epoch(
            model,
            [(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))] * 6,
            lambda logits, target: logits.mean(),
            torch.optim.AdamW(model.parameters(), fused=True),
            Arithmetic.of(Processes(torch.device("cpu")), "float32"),
            learning_rates=[0.1] * (6 // accumulate),
            accumulate=accumulate,
            clip=1.0,
            after_update=lambda update: None,
        )
    assert lists == [accumulate + 1] * (6 // accumulate), "the losses and the norm of the gradient, at once"
    assert reads.count == 0
