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


class PerClass:
    """A loss with an option of one number per class: 1, 1.5, 2, … for as many as the logits have.

    Args:
        loss: from the option to the loss.
    """

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, logits, target):
        return self.loss(tuple(1 + number / 2 for number in range(logits.shape[1])))(logits, target)


def gradient(loss_fn, logits, target):
    logits = logits.clone().requires_grad_()
    loss_fn(logits, target).backward()
    return logits.grad
