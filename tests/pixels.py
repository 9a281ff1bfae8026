"""Small logits and targets, and the gradient of a loss at them."""

import torch

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


def gradient(loss_fn, logits, target):
    logits = logits.clone().requires_grad_()
    loss_fn(logits, target).backward()
    return logits.grad
