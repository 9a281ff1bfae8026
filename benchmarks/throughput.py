"""Speed of training and prediction on this machine's GPU or CPU: images per second, share of peak, memory.

    python benchmarks/throughput.py [--encoder tu-resnet34] [--side 512] [--batch 16] [--rounds 5] [--no-compiled]

Training is the pipeline's loop (BCE + Dice, AdamW, averaged weights) on batches in memory; prediction is its
Predictor, from uint8 images to probabilities in memory, one view. Neither reads files; benchmarks/train.py and
benchmarks/predict.py include reading. Each line is the fastest round after one untimed call, whose time (with
compiling) is in the last column. The share of peak is relative to the largest matrix products in the same precision;
the operations are those of convolutions and matrix products.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated, NamedTuple

import torch
import typer
from peak import best_of, flops_of, forward_flops, matrix_peak
from rich.console import Console
from rich.table import Table
from timm.utils import ModelEmaV3

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import config, hardware  # noqa: E402
from pipeline.inference.predictor import Predictor  # noqa: E402
from pipeline.losses import build_loss  # noqa: E402
from pipeline.models import build_model  # noqa: E402
from pipeline.training.distributed import make_accelerator  # noqa: E402
from pipeline.training.epoch import train_one_epoch  # noqa: E402

STEPS = 4  # of training per round


class Measurement(NamedTuple):
    """A row of the table."""

    what: str
    images: float  # per second
    share: float  # share of peak
    memory: float  # peak MiB
    first_call: float  # seconds of the first call


def measure(what: str, run: Callable[[], object], images: int, flops: float, peak: float, rounds: int) -> Measurement:
    """Measure `run`: once to warm up, then `rounds` times."""
    device = hardware.device()
    reset_peak(device)
    began = perf_counter()
    run()
    first_call = perf_counter() - began
    seconds = best_of(run, device, rounds)
    return Measurement(what, images / seconds, flops / seconds / peak, memory(device), first_call)


def reset_peak(device: torch.device) -> None:
    """Reset the peak memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def memory(device: torch.device) -> float:
    """Peak MiB: of tensors on the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def training(cfg: config.Model, side: int, batch: int, compiled: bool) -> tuple[Callable[[], object], int]:
    """A function that runs a round of training, and the floating-point operations of a step."""
    torch.manual_seed(0)
    accelerator = make_accelerator("auto")
    device = accelerator.device
    model = build_model(cfg).to(device, memory_format=torch.channels_last)
    average, loss = ModelEmaV3(model, decay=0.99, use_warmup=True), build_loss({"bce": 1.0, "dice": 1.0})
    precision = hardware.precision("auto", device)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    target = (torch.rand(batch, 1, side, side) < 0.2).to(torch.uint8)

    def step() -> None:
        with hardware.autocast(device, precision):
            logits = model(images.to(device).contiguous(memory_format=torch.channels_last))
        loss(logits, target.to(device)).backward()

    flops = flops_of(step)
    model.zero_grad()
    if compiled:
        model.compile(dynamic=False)
    wrapped, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))
    wrapped.train()
    run = lambda: train_one_epoch(  # noqa: E731
        wrapped,
        [(images, target)] * STEPS,
        loss,
        optimizer,
        accelerator,
        precision=precision,
        learning_rates=[1e-4] * STEPS,
        accumulate=1,
        clip=1.0,
        after_update=lambda update: average.update(model, step=update),
    )
    return run, flops


def prediction(cfg: config.Model, side: int, batch: int, backend: str) -> tuple[Callable[[], object], int]:
    """A function that predicts a batch, and its floating-point operations."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    flops = forward_flops(model, images[:1]) * batch
    predictor = Predictor(model, ("identity",), backend=backend)
    return lambda: predictor(images), flops


def main(
    encoder: Annotated[str, typer.Option(help="of a U-Net")] = "tu-resnet34",
    side: Annotated[int, typer.Option(help="of the images, pixels")] = 512,
    batch: Annotated[int, typer.Option(help="images per batch")] = 16,
    rounds: Annotated[int, typer.Option(help="timed rounds")] = 5,
    compiled: Annotated[bool, typer.Option(help="also measure torch.compile")] = True,
) -> None:
    device, cfg = hardware.device(), config.Model(encoder=encoder)
    dtype = hardware.precision("auto", device)
    peak = matrix_peak(device, dtype)
    found = []
    for with_compiler in (False, True)[: 1 + compiled]:
        run, flops = training(cfg, side, batch, with_compiler)
        name = "training, torch.compile" if with_compiler else "training"
        found.append(measure(name, run, batch * STEPS, flops * STEPS, peak, rounds))
    for backend in ("eager", "fuse_conv_bn", "compile")[: 2 + compiled]:
        run, flops = prediction(cfg, side, batch, backend)
        found.append(measure(f"prediction, {backend}", run, batch, flops, peak, rounds))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = f"{name}: {encoder}, {side}×{side}, batches of {batch}, {dtype}, peak {peak / 1e12:.3g} TFLOP/s"
    table = Table("what", "images per second", "share of peak", "peak memory", "first call", title=title, width=108)
    for line in found:
        table.add_row(
            line.what, f"{line.images:.3g}", f"{line.share:.0%}", f"{line.memory:,.0f} MiB", f"{line.first_call:.1f} s"
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
