"""Time and peak memory of `batch-predict` by the number of images: time should grow linearly, memory should not grow.

    python benchmarks/scale.py [--counts 1000,10000,100000] [--repeats 1] [--workers 0] [--ray]

Models are trained on small generated images and bundled; then a fresh process predicts each number of images, one PNG
file per image, from a glob pattern to Parquet. The first row, for one image, is the start-up cost: Python, torch, the
models. The second table has the time per additional image from one row to the next, which excludes the start-up. CPU
time is listed because other load affects it less (without that of Ray's actors). The peak memory is that of the process
and its children together; with --ray, of the local cluster: one actor and Ray itself.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from memory import SIDE, write_competition
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent

DISCS = 500  # different discs; further images repeat them with other noise
BUNDLE = """
from pathlib import Path
from pipeline import config, stages
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
cfgs = [config.load("discs_run.toml")]
write_weights(Path("bundle"), load_members(cfgs), stages.ensemble(cfgs))
"""
PAUSE = 0.1  # seconds between two measurements of memory
MIB = 1024  # KiB
err = Console(stderr=True)


class Cost(NamedTuple):
    """Time and memory of a run."""

    images: int
    seconds: float
    cpu: float  # seconds, of all cores
    peak: float  # MiB


def make_bundle(folder: Path) -> None:
    """Train the models and write their bundle, folder/bundle."""
    write_competition(folder, test=4, epochs=40)
    command = [sys.executable, "-c", BUNDLE]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"making the bundle failed:\n{done.stderr}")


def write_many(folder: Path, count: int) -> None:
    """Write images of bright discs on noise."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    places = zip(*rng.uniform(10, SIDE - 10, (2, DISCS)), rng.uniform(4, 16, DISCS), strict=True)
    discs = [120 * ((rows - row) ** 2 + (columns - column) ** 2 < size**2) for row, column, size in places]
    for number in range(count):
        noise = rng.integers(0, 100, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(noise + discs[number % DISCS].astype(np.uint8)).save(
            folder / f"{number:06}.png", compress_level=1
        )


def predict(folder: Path, images: str, count: int, options: list[str]) -> Cost:
    """A run of `batch-predict` in a fresh process."""
    output = tempfile.mkdtemp(prefix="rows-", dir=folder)
    command = [sys.executable, "-m", "pipeline", "batch-predict", "bundle", "--input", f"{images}/*.png"]
    log = folder / "log.txt"
    began, cpu = time.perf_counter(), _cpu()
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--output", output, *options], cwd=folder, env=_environment(), stdout=file, stderr=file
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, total_peak(os.getpid()))
            time.sleep(PAUSE)
    seconds = time.perf_counter() - began
    if process.returncode or f" {count} images in" not in log.read_text():
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{log.read_text()}")
    return Cost(count, seconds, _cpu() - cpu, peak / MIB)


def _cpu() -> float:
    """CPU seconds of all child processes that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def total_peak(process: int) -> int:
    """Sum of the peak KiB of all descendants of a process; shared pages count for each of them."""
    try:
        below = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        return sum(_peak(each) + total_peak(each) for each in below)
    except OSError:  # it has ended
        return 0


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def measure_counts(folder: Path, counts: list[int], repeats: int, options: list[str]) -> list[Cost]:
    """The cost of one image and of each count: the fastest of several runs, with the highest peak."""
    costs = []
    for count in track([1, *counts], "counts", console=err):
        images = f"images{count}"
        write_many(folder / images, count)
        runs = [predict(folder, images, count, options) for _ in range(repeats)]
        fastest = min(runs, key=lambda run: run.cpu)
        costs.append(fastest._replace(peak=max(run.peak for run in runs)))
        err.print(costs[-1])  # the table is printed at the end, possibly after hours
    return costs


def count_table(costs: list[Cost]) -> Table:
    """A table with a row per count."""
    start, first = costs[:2]
    table = Table("images", "time", "images per second", "without start-up", "time per image", "CPU", "peak memory")
    table.add_row("1: start-up", f"{start.seconds:.1f} s", "", "", "", f"{start.cpu:.1f} s", f"{start.peak:.0f} MiB")
    for cost in costs[1:]:
        table.add_row(
            f"{cost.images:,}",
            f"{cost.seconds:.1f} s",
            f"{cost.images / cost.seconds:.0f}",
            f"{(cost.images - 1) / (cost.seconds - start.seconds):.0f}",
            f"{cost.seconds / cost.images / (first.seconds / first.images):.3f}x",
            f"{cost.cpu:.1f} s",
            f"{cost.peak:.0f} MiB",
        )
    return table


def slope_table(costs: list[Cost]) -> Table:
    """The cost per additional image from each count to the next, relative to the first step."""
    table = Table(
        "from, to", "time per added image", "change", "CPU per added image", "change", "memory per added image"
    )
    steps = list(pairwise(costs[1:]))
    for a, b in steps:
        times = [_slope(name, a, b) for name in ("seconds", "cpu")]
        firsts = [_slope(name, *steps[0]) for name in ("seconds", "cpu")]
        cells = [
            text
            for time_, first in zip(times, firsts, strict=True)
            for text in (f"{1000 * time_:.3f} ms", f"{100 * (time_ / first - 1):+.1f}%")
        ]
        table.add_row(f"{a.images:,}, {b.images:,}", *cells, f"{1024 * _slope('peak', a, b):.3f} KiB")
    return table


def _slope(name: str, a: Cost, b: Cost) -> float:
    return (getattr(b, name) - getattr(a, name)) / (b.images - a.images)


def main(
    counts: Annotated[str, typer.Option(help="numbers of images")] = "1000,10000,100000",
    repeats: Annotated[int, typer.Option(help="runs of each count; the fastest is used", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="processes that read ahead")] = 0,
    on_ray: Annotated[bool, typer.Option("--ray", help="predict by a Ray actor")] = False,
) -> None:
    options = ["--executor", "ray"] if on_ray else ["--workers", str(workers)]
    if on_ray:
        import ray

        found = ray.init(include_dashboard=False, log_to_driver=False)
        os.environ["RAY_ADDRESS"] = found.address_info["address"]
    with tempfile.TemporaryDirectory() as name:
        make_bundle(Path(name))
        costs = measure_counts(Path(name), [int(count) for count in counts.split(",")], repeats, options)
        console = Console(width=110)
        console.print(count_table(costs))
        console.print(slope_table(costs))


if __name__ == "__main__":
    typer.run(main)
