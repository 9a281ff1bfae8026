"""Time, memory and decodings of the choice of weights and rules, for an ensemble and for each of its members alone.

    python benchmarks/selection.py [--images 12568] [--members 3] [--classes 4] [--folds 5]

Synthetic predictions are written as prediction stores, and the targets as RLE. Each class has blobs in every eighth
image; all other values are 0, or 1 to 3 at random places. Each pass over the images is listed with its time, which
includes what is computed for each image; below it, the time between the passes, in which weights and rules are chosen
from what the passes have summed up. `decoded` is the number of times that a stored image was read, on average; `memory`
the peak of the process.
"""

import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import rle
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.ensemble.shared_passes import select_with_members
from pipeline.inference.prediction_store import PredictionStore, StoreWriter, start_store
from pipeline.metrics import pixel_metric
from pipeline.progress import track

SHARE = 1 / 8  # of the images that have a class


def blobs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A smooth field, (H, W) float32: its maximum is about 1, and it is above one half within three discs."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    field = np.zeros(shape, np.float32)
    for _ in range(3):
        row, column, radius = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(8, 40)
        field = np.maximum(field, np.exp2(-((rows - row) ** 2 + (columns - column) ** 2) / np.float32(radius**2)))
    return field


def write_stores(folder: Path, ids: list[str], members: int, classes: int, shape: tuple[int, int]) -> dict[str, list]:
    """Write a store for each member; returns the RLE of each class of each image."""
    rng, texts = np.random.default_rng(0), {}
    for member in range(members):
        start_store(folder / f"{member}", {})
    writers = [StoreWriter(folder / f"{member}") for member in range(members)]
    for image_id in track(ids, "write stores"):
        filled = rng.random(classes) < SHARE
        fields = np.stack([blobs(rng, shape) if each else np.zeros(shape, np.float32) for each in filled])
        texts[image_id] = [rle.encode((field > 0.5).astype(np.uint8)) for field in fields]
        for writer in writers:
            specks = rng.integers(4, size=fields.shape, dtype=np.uint8) * (rng.random(fields.shape, np.float32) < 0.02)
            noisy = 255 * fields * np.float32(rng.uniform(0.7, 1)) + rng.integers(-20, 20, fields.shape) * (
                fields > 0.05
            )
            writer.write(image_id, np.maximum(noisy.clip(0, 255).astype(np.uint8), specks))
    for writer in writers:
        writer.flush()
    return texts


class Watch:
    """Seconds of each pass and of what lies between them, and how often each image is read."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, float]] = []  # name, seconds, CPU seconds
        self.reads: Counter[str] = Counter()
        self.reading = 0.0  # seconds
        self._since = perf_counter(), process_time()

    def note(self, name: str) -> None:
        """End a part; the next begins."""
        now = perf_counter(), process_time()
        self.parts.append((name, now[0] - self._since[0], now[1] - self._since[1]))
        self._since = now

    def track(self, items: Iterable[str], task: str) -> Iterator[str]:
        """The items of a pass."""
        self.note("choose")
        yield from track(items, task)
        self.note(task)


def main(
    images: int = 12568, members: int = 3, classes: int = 4, folds: int = 5, height: int = 256, width: int = 1600
) -> None:
    shape = height, width
    ids = [f"{number:06}" for number in range(images)]
    with tempfile.TemporaryDirectory() as name:
        texts = write_stores(Path(name), ids, members, classes, shape)
        stores, watch = [PredictionStore(Path(name) / f"{member}") for member in range(members)], Watch()

        def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
            began = perf_counter()
            watch.reads[image_id] += 1
            target = np.stack([rle.decode(text, shape) for text in texts[image_id]])
            values = np.stack([store.read(image_id) for store in stores])
            watch.reading += perf_counter() - began
            return values, target

        oof = Oof(ids, np.arange(images) % folds, read, members, watch.track)
        select = partial(select_multilabel, metric=pixel_metric("mean_dice"), classes=classes)
        together, alone = select_with_members(oof, select)
        watch.note("choose")
    table = Table(
        "part", "time", "CPU", title=f"{images:,} images of {height}×{width}, {classes} classes, {members} members"
    )
    for part, seconds, cpu in watch.parts:
        table.add_row(part, f"{seconds:.1f} s", f"{cpu:.1f} s")
    total = [sum(column) for column in list(zip(*watch.parts, strict=True))[1:]]
    table.add_row("all", f"{total[0]:.1f} s", f"{total[1]:.1f} s")
    table.add_row("of which reading", f"{watch.reading:.1f} s", "")
    console = Console(width=110)
    console.print(table)
    console.print(f"decoded: {watch.reads.total() / images:.2f} times each")
    console.print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    console.print(f"scores: together {together.score:.4f}, alone {', '.join(f'{each.score:.4f}' for each in alone)}")


if __name__ == "__main__":
    typer.run(main)
