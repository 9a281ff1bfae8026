"""Averages of one phase's weights, evaluated at its end: of its last epochs (SWA) and of its best epochs (soup).

Weights from nearby points of one training often lie in one loss basin, where their mean is often better than each of
them. Both averages are scored on the held-out fold, and the soup's members are selected by that score. Like selecting
the best epoch, this makes the held-out fold's score slightly optimistic; other folds and the test set are not affected.

Source:
    Izmailov et al., Averaging weights leads to wider optima (SWA), https://arxiv.org/abs/1803.05407.
    Wortsman et al., Model soups, https://arxiv.org/abs/2203.05482, recipe 1 (greedy).
    Huang et al., Snapshot ensembles, https://arxiv.org/abs/1704.00109: the best of each cycle.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import config, hardware
from pipeline.progress import track
from pipeline.training.checkpoint import load_weights
from pipeline.training.selection import Validation

STATISTICS_BATCHES = 64  # training batches that estimate the batch statistics of an average; more change little


class AveragedWeights(NamedTuple):
    """Weights averaged over epochs, and their scores."""

    name: str  # "swa" or "soup"
    epochs: list[int]  # whose weights are averaged
    validation: Validation
    weights: dict[str, Tensor]
    seconds: float


# Evaluates one average, given its name, its epochs and the mean of their weights.
Evaluate = Callable[[str, list[int], dict[str, Tensor]], AveragedWeights]


def evaluate_averages(
    phase: config.Phase,
    lines: Sequence[Mapping[str, Any]],
    swa: "RunningMean",
    read_weights: Callable[[int], Mapping[str, Tensor]],
    evaluate: Evaluate,
) -> Iterator[AveragedWeights]:
    """Evaluate the averages that a phase asks for: SWA, then the greedy soup if it has more than one epoch.

    Args:
        lines: history of the phase's epochs.
        swa: mean of the weights of the last epochs.
        read_weights: reads the saved weights of a candidate epoch.
    """
    if swa.count:  # patience may have ended the phase before the last epochs
        tail = last_epochs(phase.epochs, phase.swa)
        yield evaluate("swa", list(tail[: swa.count]), swa.weights)
    if phase.soup:
        ranked = candidates(lines, phase.soup, phase.epochs // phase.cycles)
        best = next(line["selection"] for line in lines if line["epoch"] == ranked[0])
        soup = greedy_soup(
            ranked, best, lambda epochs: evaluate("soup", epochs, mean_weights(map(read_weights, epochs)))
        )
        if soup:
            yield soup


class RunningMean:
    """The arithmetic mean of all weights added so far, on the CPU; integers, such as counters, are the last added.

    Args:
        count, weights: a mean to continue from.
    """

    def __init__(self, count: int = 0, weights: Mapping[str, Tensor] | None = None):
        self.count, self.weights = count, dict(weights or {})

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Add one model's weights to the mean."""
        self.count += 1
        for name, new in weights.items():
            new = new.detach().cpu()
            if self.count > 1 and new.is_floating_point():
                self.weights[name].lerp_(new, 1 / self.count)
            else:
                self.weights[name] = new.clone()


def mean_weights(state_dicts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The arithmetic mean of several models' weights."""
    mean = RunningMean()
    for weights in state_dicts:
        mean.add(weights)
    return mean.weights


def last_epochs(epochs: int, share: float) -> range:
    """Numbers (from 1) of the last epochs of a phase.

    Args:
        epochs: of the phase.
        share: of the epochs, 0 to 1; rounded up to whole epochs.

    >>> list(last_epochs(10, 0.25))
    [8, 9, 10]
    """
    return range(epochs - math.ceil(share * epochs - 1e-9) + 1, epochs + 1)


def candidates(lines: Sequence[Mapping[str, Any]], count: int, cycle: int) -> list[int]:
    """Epochs that a soup may use, the best first: the best by selection score, and the best of each cycle.

    An epoch that is no longer a candidate never becomes one again, so its weights may be deleted.

    Args:
        lines: history of the phase's epochs so far, with "epoch" (from 1) and "selection".
        count: number of best epochs of the phase.
        cycle: epochs between two restarts.

    >>> scores = [0.5, 0.6, 0.8, 0.9]
    >>> lines = [{"epoch": epoch, "selection": score} for epoch, score in enumerate(scores, start=1)]
    >>> candidates(lines, 2, cycle=2)
    [4, 3, 2]
    """
    ranked = [line["epoch"] for line in sorted(lines, key=lambda line: (-line["selection"], line["epoch"]))]
    best_of_cycles = {(epoch - 1) // cycle: epoch for epoch in reversed(ranked)}  # the last assigned is the best
    wanted = {*ranked[:count], *best_of_cycles.values()}
    return [epoch for epoch in ranked if epoch in wanted]


def greedy_soup(
    ranked: Sequence[int], score: float, evaluate: Callable[[list[int]], AveragedWeights]
) -> AveragedWeights | None:
    """Add epochs from best to worst, and keep each that does not lower the selection score.

    Args:
        ranked: epochs, the best first.
        score: selection score of the first epoch.
        evaluate: averages the weights of these epochs and scores the average.

    Returns:
        the soup; None if only the first epoch is kept.
    """
    kept, soup = list(ranked[:1]), None
    for epoch in ranked[1:]:
        tried = evaluate([*kept, epoch])
        if tried.validation.selection >= score:
            kept, score, soup = tried.epochs, tried.validation.selection, tried
    return soup


class SoupFiles:
    """The weights of a phase's soup candidates on disk, one file per epoch.

    Args:
        folder: of the fold.
        phase: number of the phase.
    """

    def __init__(self, folder: Path, phase: int):
        self.folder, self.phase = folder, phase

    def path(self, epoch: int) -> Path:
        """The file of an epoch's weights."""
        return self.folder / f"soup{self.phase}-{epoch}.safetensors"

    def read(self, epoch: int) -> dict[str, Tensor]:
        """The weights of an epoch."""
        return load_weights(self.path(epoch))

    def keep(self, epochs: Iterable[int]) -> None:
        """Delete the files of all other epochs, and of earlier phases."""
        for path in set(self.folder.glob("soup*.safetensors")) - set(map(self.path, epochs)):
            path.unlink()


def update_batch_norms(
    model: nn.Module,
    norms: Sequence[_BatchNorm],
    batches: Iterable[tuple[Tensor, ...]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Estimate the batch statistics of averaged weights from the first batches.

    Args:
        norms: of the model, whose statistics are estimated; frozen ones keep theirs.
        batches: images first.
        dtype: of the network's arithmetic.
    """
    if not norms:
        return

    def forward(images: Tensor) -> None:
        with hardware.autocast(device, dtype):
            model(images.to(device).contiguous(memory_format=torch.channels_last))

    tracked = islice(track(batches, "batch statistics"), STATISTICS_BATCHES)
    estimate_batch_statistics(forward, norms, (images for images, *_ in tracked))


@torch.no_grad()
def estimate_batch_statistics(
    forward: Callable[[Tensor], object], norms: Sequence[_BatchNorm], batches: Iterable[Tensor]
) -> None:
    """Replace running means and variances of batch normalisation by their plain means over the batches.

    Averaged weights give activations that no model had before, so an average of the models' statistics does not
    describe them. torch.optim.swa_utils.update_bn is not used: it puts the whole model into training mode, which draws
    random numbers for dropout and overwrites the statistics of a frozen encoder.

    Args:
        forward: runs the model, which is in evaluation mode.
        norms: layers whose statistics are estimated; those of a frozen encoder are left out.
        batches: of images; their order matters for rounding only.

    Source:
        Izmailov et al., section 3.2.
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
    return [norm for _, norm in named_batch_norms(model)]


def named_batch_norms(model: nn.Module) -> list[tuple[str, _BatchNorm]]:
    """As `batch_norms`, with their names."""
    named = model.named_modules()
    return [(name, module) for name, module in named if isinstance(module, _BatchNorm) and module.track_running_stats]
