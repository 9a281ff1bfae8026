"""What glibc's allocator costs a training on the CPU: with its defaults, and with freed memory kept.

    python benchmarks/allocator.py [--repeats 3] [--steps 8]

Each run is a fresh process, because the options cannot be taken back; runs alternate. A step is a forward and backward
pass of a U-Net with an EfficientNet-lite0 on 8 crops of 256×256, with the pipeline's loop (BCE + Dice, AdamW, averaged
weights), one thread. Ratios are within a round.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated

import torch
import typer
from interleave import ratios, spread
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training_loop import training_loop  # noqa: E402

from pipeline import config, hardware  # noqa: E402
from pipeline.models import build_model  # noqa: E402

ENCODER, CROP, BATCH = "tu-tf_efficientnet_lite0", 256, 8
WARM_UP = 3  # steps


def run(precision: str, kept: bool, steps: int) -> None:
    """Train for some steps; prints the figures of this process as JSON."""
    if not kept:
        hardware.keep_freed_memory = lambda: None
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cfg, device = config.Model(encoder=ENCODER, weights="none"), hardware.device()
    model = hardware.place(build_model(cfg), device).train()
    images = torch.randint(0, 256, (BATCH, CROP, CROP, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    target = (torch.rand(BATCH, 1, CROP, CROP) < 0.2).to(torch.uint8)
    train = training_loop(model, lambda updates: [(images, target)] * updates, precision, 1e-4)
    train(WARM_UP)
    before, began = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    value = train(steps)
    seconds, after = perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / steps
    print(json.dumps({"seconds": seconds / steps, "faults": faults, "peak": after.ru_maxrss / 1024, "loss": value}))


def run_alone(precision: str, kept: bool, steps: int) -> dict[str, float]:
    """The figures of one process."""
    alone = f"{precision},{'kept' if kept else 'defaults'}"
    command = [sys.executable, __file__, "--steps", str(steps), "--alone", alone]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def main(
    repeats: Annotated[int, typer.Option(help="rounds")] = 3,
    steps: Annotated[int, typer.Option(help="timed, of each process")] = 8,
    alone: Annotated[str, typer.Option(help="a setting to measure in this process", hidden=True)] = "",
) -> None:
    if alone:
        precision, memory = alone.split(",")
        run(precision, memory == "kept", steps)
    else:
        compare(repeats, steps)


def compare(repeats: int, steps: int) -> None:
    """Compare both settings in float32 and in the machine's fastest precision."""
    table = Table("precision", "memory", "s per step", "page faults per step", "peak MiB", "defaults / kept")
    for precision in dict.fromkeys(("float32", "auto")):
        found: dict[str, list[dict[str, float]]] = {"defaults": [], "kept": []}
        for _ in range(repeats):
            for name, runs in found.items():
                runs.append(run_alone(precision, name == "kept", steps))
        assert len({each["loss"] for runs in found.values() for each in runs}) == 1, "the allocator changes no weight"
        seconds = {name: [each["seconds"] for each in runs] for name, runs in found.items()}
        for name, runs in found.items():
            table.add_row(
                precision,
                name,
                spread(seconds[name]),
                f"{min(each['faults'] for each in runs):,.0f}",
                f"{max(each['peak'] for each in runs):,.0f}",
                spread(ratios(seconds, "defaults", "kept"), "x") if name == "kept" else "",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
