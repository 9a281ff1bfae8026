"""An update of the weights in bfloat16 on a CPU: narrow convolutions in bfloat16 as the rest, or in float32.

    OMP_NUM_THREADS=1 python benchmarks/narrow_convolutions.py [--repeats 5] [--steps 2] [--crop 192]

A step is a forward and backward pass of a U-Net on 8 crops, with the pipeline's loop (BCE + Dice, AdamW, averaged
weights). Rounds alternate; ratios are within a round. Depthwise convolutions are those of EfficientNet and ConvNeXt,
ResNeXt's groups of four channels are at the limit, ResNet has none.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from interleave import interleave, ratios, spread
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_loop import training_loop

from pipeline import config
from pipeline.models import build_model
from pipeline.models.narrow_convolutions import compute_in_float32

ENCODERS = "tf_efficientnet_lite0", "efficientnet_b0", "convnext_atto", "seresnext26d_32x4d", "resnet18"
BATCH = 8


def training(encoder: str, crop: int, *, in_float32: bool) -> Callable[[int], float]:
    """A function that trains a network in bfloat16 for some steps.

    Args:
        in_float32: whether narrow convolutions compute in float32.
    """
    torch.manual_seed(0)
    model = build_model(config.Model(encoder=f"tu-{encoder}", weights="none"))
    model = model.to(memory_format=torch.channels_last).train()
    if in_float32:
        compute_in_float32(model)
    images = torch.randint(0, 256, (BATCH, crop, crop, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    target = (torch.rand(BATCH, 1, crop, crop) < 0.2).to(torch.uint8)
    return training_loop(model, lambda updates: [(images, target)] * updates, "bfloat16", 1e-4)


def main(
    repeats: Annotated[int, typer.Option(help="rounds")] = 5,
    steps: Annotated[int, typer.Option(help="of a round")] = 2,
    crop: Annotated[int, typer.Option(help="side of the crops in pixels")] = 192,
) -> None:
    table = Table("encoder", "s per step, all in bfloat16", "narrow ones in float32", "ratio")
    for encoder in ENCODERS:
        settings = {"bfloat16": False, "float32": True}
        trainings = {name: training(encoder, crop, in_float32=value) for name, value in settings.items()}
        seconds = interleave({name: partial(train, steps) for name, train in trainings.items()}, repeats)
        shown = [spread([value / steps for value in each]) for each in seconds.values()]
        table.add_row(encoder, *shown, spread(ratios(seconds, "bfloat16", "float32"), "x"))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
