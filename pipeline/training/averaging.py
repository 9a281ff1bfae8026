"""Averages of one phase's weights, tried at its end: of its last epochs (SWA), and of its best (soup).

Weights near each other on one path of training lie in one basin, and their mean is often better than any of them. Both
averages are scored on the fold held out, and the soup is chosen by that score too: like the choice of the best epoch,
only more so, this makes the fold's score slightly optimistic. The other folds and the test set are not fooled.

Source:
    Izmailov et al., Averaging weights leads to wider optima (SWA), https://arxiv.org/abs/1803.05407.
    Wortsman et al., Model soups, https://arxiv.org/abs/2203.05482, recipe 1 (greedy).
    Huang et al., Snapshot ensembles, https://arxiv.org/abs/1704.00109: the best of each cycle.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.training.selection import Validation, selection_of

STATISTICS_BATCHES = 64  # of training images, to estimate batch statistics anew: more move them little


class Blend(NamedTuple):
    """Averaged weights, and how they score."""

    name: str  # "swa" or "soup"
    epochs: list[int]  # whose weights are in it
    validation: Validation
    weights: dict[str, Tensor]
    seconds: float


class RunningMean:
    """The plain mean of the weights given so far, on the CPU; whole numbers, such as counters, are the last ones.

    Args:
        count, weights: to go on from.
    """

    def __init__(self, count: int = 0, weights: Mapping[str, Tensor] | None = None):
        self.count, self.weights = count, dict(weights or {})

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Count one more set of weights in."""
        self.count += 1
        for name, new in weights.items():
            new = new.detach().cpu()
            if self.count > 1 and new.is_floating_point():
                self.weights[name].lerp_(new, 1 / self.count)
            else:
                self.weights[name] = new.clone()


def mean_weights(many: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of several models' weights."""
    mean = RunningMean()
    for weights in many:
        mean.add(weights)
    return mean.weights


def last_epochs(epochs: int, share: float) -> range:
    """Numbers of the last epochs of a phase, from 1; rounded up to whole epochs.

    >>> list(last_epochs(10, 0.25))
    [8, 9, 10]
    """
    return range(epochs - math.ceil(share * epochs - 1e-9) + 1, epochs + 1)


def ingredients(epochs: Sequence[Mapping[str, Any]], best: int, cycle: int | None) -> list[int]:
    """Epochs that a soup may use, the best first: the best of all by their selection score, and the best of each cycle.

    An epoch that falls out never comes back, so its weights may go.

    Args:
        epochs: lines of the phase's epochs so far, with "epoch" (from 1) and "selection".
        best: how many of all.
        cycle: epochs of a cycle; None: there are no restarts.

    >>> scores = [0.5, 0.6, 0.8, 0.9]
    >>> lines = [{"epoch": epoch, "selection": score} for epoch, score in enumerate(scores, start=1)]
    >>> ingredients(lines, 2, cycle=2)
    [4, 3, 2]
    """
    ranked = [line["epoch"] for line in sorted(epochs, key=lambda line: (-selection_of(line), line["epoch"]))]
    wanted = set(ranked[:best])
    if cycle:
        of_cycle = {(epoch - 1) // cycle: epoch for epoch in reversed(ranked)}  # of a cycle's epochs the best stays
        wanted |= set(of_cycle.values())
    return [epoch for epoch in ranked if epoch in wanted]


def greedy_soup(ranked: Sequence[int], score: float, taste: Callable[[list[int]], Blend]) -> Blend | None:
    """Add epoch after epoch, from the best on, and keep each that does not lower the score.

    Args:
        ranked: epochs, the best first.
        score: of the first alone, by which epochs are chosen.
        taste: from epochs to their average and its score.

    Returns:
        the soup; None if no epoch goes with the first.
    """
    kept, soup = list(ranked[:1]), None
    for epoch in ranked[1:]:
        tried = taste([*kept, epoch])
        if tried.validation.selection >= score:
            kept, score, soup = tried.epochs, tried.validation.selection, tried
    return soup


@torch.no_grad()
def estimate_batch_statistics(
    forward: Callable[[Tensor], object], norms: Sequence[_BatchNorm], batches: Iterable[Tensor]
) -> None:
    """Running means and variances of batch normalisation anew, each the plain mean over the batches.

    Averaged weights give activations that no model before had, so an average of the models' statistics does not
    describe them. All but the norms stays as in prediction: no dropout, no random number is drawn.

    Args:
        forward: runs the model, which is in evaluation.
        norms: whose statistics are estimated; those of a frozen encoder stay out.
        batches: of images; their order does not matter but for rounding.

    Source:
        Izmailov et al., section 3.2; torch.optim.swa_utils.update_bn does the same in training mode.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for images in batches:
        forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of a model that keep batch statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
