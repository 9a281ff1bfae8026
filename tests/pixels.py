"""Small logits and targets, and the gradient of a loss at them."""

import numpy as np
import torch

from pipeline.data.target_maps import make_maps
from pipeline.metrics import VOID

SURE = 50.0  # a logit whose sigmoid is 0 or 1 in float32


def row(*values: float) -> torch.Tensor:
    """One image of one channel and one row of pixels, (1, 1, 1, W)."""
    return torch.tensor([[[values]]], dtype=torch.float32)


def random_batch(shape=(2, 3, 5, 7), *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    return logits, (torch.rand(shape, generator=generator) < 0.3).to(dtype)


def random_classes(shape=(2, 4, 5, 7), *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    return logits, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


class PerClass:
    """A loss with an option of one number per class: 1, 1.5, 2, … for as many as the logits have.

    Args:
        loss: from the option to the loss.
    """

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, logits, target):
        return self.loss(tuple(1 + number / 2 for number in range(logits.shape[1])))(logits, target)


class WithMaps:
    """A loss that gets the maps of its target that it needs, as the data set makes them.

    Args:
        make: of the loss.
    """

    def __init__(self, make):
        self.loss = make()
        self.names = getattr(self.loss, "target_maps", ())

    def __call__(self, logits, target):
        if not self.names or logits.shape != target.shape:
            return self.loss(logits, target)
        return self.loss(logits, target, maps_of(target, self.names))


class WithClassMaps(WithMaps):
    """Likewise, of a loss for exclusive classes."""

    def __call__(self, logits, target):
        if not self.names or target.ndim != 3:
            return self.loss(logits, target)
        masks = (target[:, None] == torch.arange(logits.shape[1])[:, None, None]).double()
        masks[(target == VOID)[:, None].expand_as(masks)] = VOID
        return self.loss(logits, target, maps_of(masks, self.names))


def maps_of(target, names):
    """The maps of a target (N, C, H, W) of 0, 1 and VOID."""
    masks = target.double().nan_to_num().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    return torch.from_numpy(np.stack([make_maps(mask, names) for mask in masks]).transpose(0, 3, 1, 2))


def gradient(loss_fn, logits, target):
    logits = logits.clone().requires_grad_()
    loss_fn(logits, target).backward()
    return logits.grad
