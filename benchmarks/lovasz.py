"""Lovász losses: time of forward and backward, against other implementations.

    python benchmarks/lovasz.py [--run runs/nuclei --data folder]

    ours         pipeline.losses: one integer sort for all images and classes, without autograd through it
    smp          segmentation_models_pytorch.losses.LovaszLoss
    algorithm 1  as published, row by row: sort, gather, cumulative sums, differences

Hinge: a batch of 16 × 1 × 256 × 256, per image. `trained` logits are those of the run's fold 0 on held-out images, or,
without a run, of a small U-Net that is trained for a minute on generated images. `random` logits are normal.
Softmax: 4 × 4 × 256 × 256, per batch; `trained` logits are random ones plus 4 at the true class.

The table shows the difference of each loss to ours. Times depend on the machine; the ratios less so.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import monotonic

import pandas as pd
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from interleave import interleave, milliseconds, ratios, spread
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import competition, config
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.dataset import MaskedImages
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sampler import EpochSampler
from pipeline.demos.salt import make_salt_demo
from pipeline.losses import build_loss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.models import build_model
from pipeline.training.checkpoint import load_checkpoint, read_record

CROP, BATCH, ROUNDS = 256, 16, 15
TRAINING = 60  # seconds, without a run
SHIPPED_FOLDS = Path(__file__).resolve().parent.parent / "folds"

LossFn = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


def algorithm_1(errors: Tensor, target: Tensor) -> Tensor:
    """The Lovász extension of one row, from algorithm 1 of https://arxiv.org/abs/1705.08790."""
    errors, order = errors.sort(descending=True)
    target = target[order]
    size = target.sum()
    jaccard = 1 - (size - target.cumsum(0)) / (size + (1 - target).cumsum(0))
    return errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def published_hinge(logits: Tensor, target: Tensor) -> Tensor:
    errors = torch.relu(1 - logits * (2 * target - 1)).flatten(1)
    return torch.stack([algorithm_1(*row) for row in zip(errors, target.flatten(1), strict=True)]).mean()


def published_softmax(logits: Tensor, target: Tensor) -> Tensor:
    probs, target = logits.softmax(dim=1), F.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    errors = (target - probs).abs().transpose(0, 1).flatten(1)
    return torch.stack(
        [algorithm_1(*row) for row in zip(errors, target.transpose(0, 1).flatten(1), strict=True)]
    ).mean()


HINGE: dict[str, LossFn] = {
    "ours": LovaszHingeLoss(),
    "smp": smp.losses.LovaszLoss("binary", per_image=True),
    "algorithm 1": published_hinge,
}
SOFTMAX: dict[str, LossFn] = {
    "ours": LovaszSoftmaxLoss(),
    "smp": smp.losses.LovaszLoss("multiclass"),
    "algorithm 1": published_softmax,
}


def logits_of_run(run: Path, data: Path) -> Pair:
    """Logits of the run's fold 0 on held-out images."""
    path = run / "fold0" / "best.safetensors"
    settings = read_record(path)["settings"]
    card = competition.load(settings["competition"])
    index = read_index(card, data)
    folds = pd.read_csv(SHIPPED_FOLDS / f"{card.name}.csv", dtype={"image_id": str}).set_index("image_id")["fold"]
    held_out = index[index["image_id"].map(folds) == 0]
    model = build_model(config.Model(**settings["model"]))
    load_checkpoint(path, model, 0)
    return one_batch(model, crops(held_out, card, settings["data"]["percentiles"]))


def logits_of_demo() -> Pair:
    """Logits of a small U-Net on generated images that it is not trained on."""
    card = competition.load("demo")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "demo"
        make_salt_demo(root, train=80, test=1)
        index = read_index(card, root)
        model = build_model(config.Model(encoder="tu-resnet18", weights="none", decoder_channels=(128, 64, 32, 16, 16)))
        train(model, crops(index.iloc[BATCH:], card), TRAINING)
        return one_batch(model, crops(index.iloc[:BATCH], card))


def crops(index: pd.DataFrame, card: competition.Competition, percentiles: tuple | None = None) -> MaskedImages:
    return MaskedImages(index, Labels.of(card), Reader(3, percentiles), Augment(make_recipe("light", CROP, 3)))


def batches(data: MaskedImages, epoch: int) -> DataLoader:
    sampler = EpochSampler(len(data), 0, labels=None, repeats=1)
    sampler.epoch = epoch
    return DataLoader(data, min(BATCH, len(data)), sampler=sampler, drop_last=True)


def train(model: torch.nn.Module, data: MaskedImages, seconds: float) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss_fn = build_loss({"bce": 1.0, "dice": 1.0})
    begin, epoch = monotonic(), 0
    while monotonic() - begin < seconds:
        for images, target in batches(data, epoch):
            optimizer.zero_grad()
            loss_fn(model(images), target).backward()
            optimizer.step()
        epoch += 1


@torch.no_grad()
def one_batch(model: torch.nn.Module, data: MaskedImages) -> Pair:
    images, target = next(islice(batches(data, 0), 1))
    return model.eval()(images), target.float()


def softmax_logits(margin: float) -> Pair:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, CROP, CROP, generator=generator)
    target = torch.randint(0, 4, (4, CROP, CROP), generator=generator)
    return logits + margin * F.one_hot(target, 4).movedim(-1, 1), target


def gradient_step(loss_fn: LossFn, logits: Tensor, target: Tensor) -> Callable[[], tuple[float, Tensor]]:
    logits = logits.clone().requires_grad_()

    def run() -> tuple[float, Tensor]:
        logits.grad = None
        loss = loss_fn(logits, target)
        loss.backward()
        return loss.item(), logits.grad

    return run


def add_rows(table: Table, label: str, losses: dict[str, LossFn], pair: Pair) -> None:
    functions = {name: gradient_step(loss_fn, *pair) for name, loss_fn in losses.items()}
    value, _ = functions["ours"]()
    seconds = interleave(functions, ROUNDS)
    for name, run in functions.items():
        faster = "" if name == "ours" else spread(ratios(seconds, name, "ours"), "x")
        table.add_row(label, name, milliseconds(seconds[name]), faster, f"{abs(run()[0] - value):.1e}")
    table.add_section()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/nuclei"))
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("DATA"), help="folder of the competition of the run"
    )
    given = parser.parse_args()
    console = Console(width=120)
    if given.data and (given.run / "fold0" / "best.safetensors").exists():
        trained = logits_of_run(given.run, Path(given.data))
    else:
        console.print(f"no trained run in {given.run} with its --data: training on generated images for {TRAINING} s")
        trained = logits_of_demo()
    logits, target = trained
    wrong = (1 - logits * (2 * target - 1) > 0).float().mean().item()
    table = Table(
        "logits", "by", "median (range)", "time / ours, per round", "difference", title="forward and backward"
    )
    add_rows(table, f"hinge, trained ({wrong:.0%} wrong)", HINGE, trained)
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    add_rows(table, "hinge, random", HINGE, (noise, target))
    add_rows(table, "softmax, trained", SOFTMAX, softmax_logits(4.0))
    add_rows(table, "softmax, random", SOFTMAX, softmax_logits(0.0))
    console.print(table)


if __name__ == "__main__":
    main()
