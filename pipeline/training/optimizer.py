"""The optimizer of a phase and its learning-rate schedule."""

import math

import torch
from torch import nn

from pipeline import config


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW for the weights that require gradients; a frozen encoder's do not."""
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trainable, lr=lr, weight_decay=weight_decay, fused=True)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, final: float, cycles: int = 1) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `final · peak` at the last step; repeated in every cycle.

    The rate depends on the step only, so a resumed run needs no scheduler state.

    Args:
        step: 0 … steps-1.
        warmup: share of the steps.
        final: share of the peak.
        cycles: number of equal parts of the steps, which must be divisible by it; each starts with a warm-up.

    Source:
        Loshchilov & Hutter, SGDR, https://arxiv.org/abs/1608.03983: restarts.

    >>> [round(learning_rate(step, 5, peak=1.0, warmup=0.2, final=0.0), 3) for step in range(5)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """
    steps //= cycles
    step %= steps
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising - 1)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def learning_rates(phase: config.Phase, epoch: int, updates: int) -> list[float]:
    """The learning rate of each update of one epoch.

    Args:
        epoch: of the phase, from 0.
        updates: in one epoch.
    """
    return [
        learning_rate(
            step,
            updates * phase.epochs,
            peak=phase.lr,
            warmup=phase.warmup,
            final=phase.final_lr,
            cycles=phase.cycles,
        )
        for step in range(epoch * updates, (epoch + 1) * updates)
    ]
