"""Generated images, tiny trainings and figures for the notebook on losses under imbalance.

Values are computed by the losses themselves, gradients by autograd. Figures are returned, not shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from pipeline import config
from pipeline.inference.prediction_store import probs_to_uint8
from pipeline.losses import build_loss
from pipeline.metrics import count, dice, iou, stack
from pipeline.models import build_model
from pipeline.postprocess.threshold_counts import HALF, THRESHOLDS, best_threshold, count_levels

Loss = Callable[[Tensor, Tensor], Tensor]  # a module of `losses`: logits and target to a scalar

# Okabe and Ito's colours, distinct for most colour-blind readers, each with its own dash pattern.
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00"
DASHES = "-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (7, 3))
TRUE_POSITIVE = (0.0, 0.45, 0.7)  # blue
FALSE_NEGATIVE = (0.9, 0.6, 0.0)  # yellow
FALSE_POSITIVE = (0.84, 0.37, 0.0)  # red


# ---------------------------------------------------------------------------------------------- images


class Scenes(NamedTuple):
    """Images and their masks.

    Shapes:
        images: (N, 1, SIDE, SIDE) uint8.
        target: (N, 1, SIDE, SIDE) uint8, 0 or 1.
    """

    images: Tensor
    target: Tensor


SIDE = 64  # pixels, height and width
RADII = 1.5, 3.4  # pixels, of a blob; on average 1% of an image is masked
NOISE = 22.0  # grey values, standard deviation


def draw_scenes(number: int, seed: int) -> Scenes:
    """Images of faint blobs, the target, and of faint streaks and rings as distractors, on a noisy background.

    Image k does not depend on `number`.

    Args:
        seed: 0 or more. Different seeds give different images.
    """
    scenes = [_draw_scene(np.random.default_rng((seed, place))) for place in range(number)]
    images, target = (torch.from_numpy(np.stack(part))[:, None] for part in zip(*scenes, strict=True))
    return Scenes(images, target)


def _draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    light = np.zeros((SIDE, SIDE), np.float32)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(3):
        _add_streak(rng, light)
    _add_ring(rng, light)
    for _ in range(rng.integers(1, 3)):
        blob = _ellipse(rng)
        light[blob > 0] = rng.uniform(30, 70)
        mask |= blob
    background = 40 * cv2.GaussianBlur(rng.standard_normal((SIDE, SIDE), np.float32), (0, 0), 8) * 8
    noise = NOISE * rng.standard_normal((SIDE, SIDE), np.float32)
    image = 110 + background + cv2.GaussianBlur(light, (0, 0), 0.7) + noise
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    centre = rng.uniform(6, SIDE - 6, 2)
    radii = rng.uniform(*RADII, 2)
    cv2.ellipse(canvas, (tuple(centre), tuple(2 * radii), rng.uniform(0, 180)), 1, cv2.FILLED)
    return canvas


def _add_streak(rng: np.random.Generator, light: np.ndarray) -> None:
    start = rng.uniform(0, SIDE, 2)
    angle, length = rng.uniform(0, np.pi), rng.uniform(15, 35)
    end = start + length * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(int(v) for v in np.rint(point)) for point in (start, end)]
    cv2.line(light, *ends, rng.uniform(30, 70), int(rng.integers(2, 5)))


def _add_ring(rng: np.random.Generator, light: np.ndarray) -> None:
    centre = tuple(int(v) for v in rng.integers(6, SIDE - 6, 2))
    cv2.circle(light, centre, int(rng.integers(4, 7)), rng.uniform(30, 70), 2)


# ---------------------------------------------------------------------------------------------- training


class Phase(NamedTuple):
    """A stretch of training with one loss."""

    loss: Mapping[str, float]  # weight of each loss of `losses.LOSSES`
    steps: int
    lr: float = 4e-3  # maximum; it rises for a tenth of the steps, then falls


BATCH = 8
MODEL = config.Model(encoder="tu-test_efficientnet", weights="none", in_channels=1, decoder_channels=(32, 16, 8))


def train(phases: Sequence[Phase], scenes: Scenes, *, seed: int = 0) -> nn.Module:
    """Train a tiny U-Net in phases. The seed determines the initial weights and the batches."""
    torch.manual_seed(seed)
    model = build_model(MODEL).train()
    batches = _batches(scenes, seed)
    for phase in phases:
        loss_fn = build_loss(phase.loss)
        optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, phase.lr, phase.steps, pct_start=0.1)
        for _ in range(phase.steps):
            images, target = next(batches)
            optimizer.zero_grad()
            loss_fn(model(images), target).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def _batches(scenes: Scenes, seed: int) -> Iterator[Scenes]:
    """Endless batches, shuffled anew for each epoch."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(scenes.images), generator=rng).split(BATCH):
            if len(chosen) == BATCH:
                yield Scenes(scenes.images[chosen], scenes.target[chosen])


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """The probabilities of a model.

    Shapes:
        images: (N, 1, H, W) uint8.
        returns: (N, 1, H, W) float, 0 to 1.
    """
    return torch.cat([model(batch).sigmoid() for batch in images.split(32)])


def score_table(probs: Mapping[str, Tensor], target: Tensor) -> pd.DataFrame:
    """A row for each set of probabilities: mean Dice at .5 and at the best threshold, and the predicted area.

    The best threshold is searched on the same images, so its Dice is slightly optimistic.

    Shapes:
        probs: name to (N, 1, H, W) float.
        target: (N, 1, H, W) uint8, 0 or 1.
    """
    return pd.DataFrame({name: _scores(each, target) for name, each in probs.items()}).T


def _scores(probs: Tensor, target: Tensor) -> dict[str, float]:
    pairs = zip(probs_to_uint8(probs).numpy(), target.numpy(), strict=True)
    counts = stack(count_levels(*pair) for pair in pairs)
    scores = dice(counts).mean(axis=0)
    best = best_threshold(scores)
    return {
        "Dice at .5": scores[HALF],
        "best threshold": THRESHOLDS[best],
        "Dice there": scores[best],
        "predicted at .5 / true": counts.predicted[:, HALF].sum() / counts.target[:, HALF].sum(),
    }


# ---------------------------------------------------------------------------------------------- figures

SHARE = 0.01  # of the pixels in the target, for the gradients
CONFIDENT = 3.0  # logit of a pixel that is correct beyond any margin


class Gradients(NamedTuple):
    """The gradient of each loss at one pixel.

    Shapes:
        probs: (P,) probability of the pixel, rising.
        inside, outside: name of the loss to (P,) |dL / dlogit|, for a pixel inside and outside the target.
    """

    probs: np.ndarray
    inside: dict[str, np.ndarray]
    outside: dict[str, np.ndarray]


def pixel_gradients(losses: Mapping[str, Loss], seed: int = 0) -> Gradients:
    """The gradient at one pixel's logit for probabilities from .01 to .99, in an image with 1 % of the pixels masked.

    The other pixels are predicted with low confidence: logits around 0 in the target and around -1.5 outside.
    """
    probs = np.linspace(0.01, 0.99, 99)
    rng = torch.Generator().manual_seed(seed)
    target = (torch.arange(SIDE * SIDE) < SHARE * SIDE * SIDE).float()
    logits = torch.randn(SIDE * SIDE, generator=rng) - 1.5 * (1 - target)
    inside, outside = (
        {name: _gradient_at(loss, logits, target, probs, pixel) for name, loss in losses.items()} for pixel in (0, -1)
    )
    return Gradients(probs, inside, outside)


def _gradient_at(loss: Loss, logits: Tensor, target: Tensor, probs: np.ndarray, pixel: int) -> np.ndarray:
    """|dL / dlogit| of one pixel, (P,). The batch has an image per probability; its mean divides by their number."""
    shape = (len(probs), 1, SIDE, SIDE)
    batch = logits.repeat(len(probs), 1)
    batch[:, pixel] = torch.logit(torch.from_numpy(probs).float())
    batch.requires_grad_()
    loss(batch.view(shape), target.repeat(len(probs), 1).view(shape)).backward()
    return batch.grad[:, pixel].abs().numpy() * len(probs)


def plot_gradients(gradients: Gradients) -> Figure:
    """Two panels, for a pixel inside and outside the target; a gradient of 0 leaves a gap."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "pixel in the target: hard at 0, easy at 1", gradients.inside),
        (right, "pixel outside: easy at 0, hard at 1", gradients.outside),
    )
    for axes, title, curves in panels:
        _plot(axes, gradients.probs, {name: np.where(each > 0, each, np.nan) for name, each in curves.items()})
        axes.set(title=title, xlabel="probability of the pixel", yscale="log")
    left.set_ylabel("|gradient| at its logit")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def draw_masks(scenes: Scenes, probs: Mapping[str, Tensor], rows: int = 5) -> Figure:
    """A row per scene: the image, then true positives (blue), false negatives (yellow) and false positives (red).

    Shapes:
        probs: name to (N, 1, SIDE, SIDE) float, 0 to 1.
    """
    figure = Figure(figsize=(1.45 * (len(probs) + 1), 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, len(probs) + 1)
    for row, (image, target) in enumerate(zip(scenes.images[:rows, 0], scenes.target[:rows, 0], strict=True)):
        masks = {"image": target, **{name: (each[row, 0] >= 0.5) for name, each in probs.items()}}
        for axes, (name, mask) in zip(grid[row], masks.items(), strict=True):
            axes.imshow(image.numpy() if name == "image" else _colour_errors(mask.bool(), target.bool()), cmap="gray")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(name, fontsize=9)
    return figure


def _colour_errors(mask: Tensor, target: Tensor) -> np.ndarray:
    """(H, W, 3) float: true positives, false negatives and false positives in their colours, on black."""
    picture = np.zeros((*mask.shape, 3))
    picture[(mask & target).numpy()] = TRUE_POSITIVE
    picture[(~mask & target).numpy()] = FALSE_NEGATIVE
    picture[(mask & ~target).numpy()] = FALSE_POSITIVE
    return picture


def plot_surrogates(losses: Mapping[str, Loss], seed: int = 0) -> Figure:
    """How losses follow 1 - IoU as a mask improves, and as the confidence of a constant mask increases.

    Left: logits are interpolated from noise to a correct mask. Middle: the norm of the gradient along this path.
    Right: the logits of a mask with a few wrong pixels are multiplied by a factor.
    """
    target = draw_scenes(1, seed).target.float()
    rng = torch.Generator().manual_seed(seed)
    noise = 2 * torch.randn(target.shape, generator=rng)
    right = CONFIDENT * (2 * target - 1)
    flawed = torch.where(torch.rand(target.shape, generator=rng) < 0.003, -right, right)
    path, scale = np.linspace(0, 1, 60), np.linspace(0.02, 1.5, 60)
    better = [(1 - t) * noise + t * right for t in path.tolist()]
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    _plot(axes[0], path, _values(losses, better, target))
    axes[0].set(title="from noise to a correct mask", xlabel="noise (0) to mask (1)", ylabel="loss", ylim=(0, 3))
    _plot(axes[1], path, {name: _gradient_norms(loss, better, target) for name, loss in losses.items()}, first=1)
    axes[1].set(title="norm of the gradient", xlabel="noise (0) to mask (1)", ylabel="norm")
    _plot(axes[2], scale, _values(losses, [factor * flawed for factor in scale.tolist()], target))
    axes[2].set(title="same mask, more confident", xlabel="logits multiplied by", ylabel="loss", ylim=(0, 3))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _values(losses: Mapping[str, Loss], path: Sequence[Tensor], target: Tensor) -> dict[str, np.ndarray]:
    """1 - IoU of the mask, and the value of each loss, along a path of logits."""
    masks = [(logits > 0).numpy().astype(np.uint8) for logits in path]
    counts = stack(count(mask, target.numpy().astype(np.uint8)) for mask in masks)
    values = {name: np.array([loss(logits, target).item() for logits in path]) for name, loss in losses.items()}
    return {"1 - IoU": 1 - iou(counts), **values}


def _gradient_norms(loss: Loss, path: Sequence[Tensor], target: Tensor) -> np.ndarray:
    """The norm of the gradient along a path of logits."""
    points = [logits.clone().requires_grad_() for logits in path]
    return np.array([torch.autograd.grad(loss(point, target), point)[0].norm().item() for point in points])


def _plot(axes: Axes, x: np.ndarray, curves: Mapping[str, np.ndarray], first: int = 0) -> None:
    """One line per name, in the colours and dashes from number `first` on."""
    for (name, y), colour, dash in zip(curves.items(), COLOURS[first:], DASHES[first:], strict=False):
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.8, label=name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
