"""Peak memory of `ensemble` for 100 and for 10,000 test images: it should not grow with the number of images.

    python benchmarks/memory.py

A model is trained for one epoch on small generated images and predicts them; then a fresh process runs the stage
`ensemble` (search on OOF, average of the folds, post-processing, RLE, checks, CSV) and prints its peak memory.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import rle  # noqa: E402

SIDE = 64  # pixels
COUNTS = (100, 10_000)
CARD = """
name = "discs"
title = "Discs"
classes = ["disc"]
metric = "mean_dice"
files = { train_images = "train", test_images = "test", train_csv = "train.csv" }
columns = { id = "id", rle = "rle" }
"""
CONFIG = """
competition = "discs.toml"
data = { root = "data" }
folds = { count = 2 }
model = { encoder = "tu-test_efficientnet", weights = "none", in_channels = 1, decoder_channels = [16, 16, 8, 8, 8] }
predict = { views = ["identity"], batch_size = 64 }
[[train.phases]]
loss = { bce = 1.0, dice = 1.0 }
epochs = EPOCHS
lr = 3e-3
"""
PEAK = """
import resource, sys
from pipeline.cli import main
status = main(["ensemble", "discs_run.toml"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)
sys.exit(status)
"""


def write_competition(folder: Path, *, test: int, epochs: int) -> None:
    """Write a competition of discs with 40 training images: data/, the card discs.toml, the config discs_run.toml."""
    write_images(folder / "data/train", 40, folder / "data/train.csv", with_masks=True)
    write_images(folder / "data/test", test, folder / "data/sample_submission.csv", with_masks=False)
    (folder / "discs.toml").write_text(CARD)
    (folder / "discs_run.toml").write_text(CONFIG.replace("EPOCHS", str(epochs)))


def write_images(folder: Path, count: int, csv: Path, with_masks: bool) -> None:
    """Write images of one bright disc each, and the CSV of their ids and masks."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    lines = ["id,rle"]
    for number in range(count):
        row, column, radius = [*rng.uniform(10, SIDE - 10, 2).tolist(), rng.uniform(4, 16)]
        mask = ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).astype(np.uint8)
        image = rng.integers(0, 100, (SIDE, SIDE)).astype(np.uint8) + 120 * mask
        Image.fromarray(image).save(folder / f"{number:06}.png")
        lines.append(f"{number:06},{rle.encode(mask) if with_masks else ''}")
    csv.write_text("\n".join(lines) + "\n")


def peak(count: int) -> float:
    """Peak MiB of a process that runs `ensemble` for `count` test images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_competition(folder, test=count, epochs=1)
        run(folder, "-m", "pipeline", "predict", "discs_run.toml")
        return float(run(folder, "-c", PEAK).splitlines()[-1])


def run(folder: Path, *arguments: str) -> str:
    """Run Python in a folder; returns its stderr."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments[:3])} failed:\n{done.stderr}")
    return done.stderr


def main() -> None:
    peaks = {count: peak(count) for count in track(COUNTS, "predict and ensemble", console=Console(stderr=True))}
    table = Table("test images", "peak of `ensemble`", f"against {COUNTS[0]}")
    for count, mebibytes in peaks.items():
        table.add_row(f"{count:,}", f"{mebibytes:.0f} MiB", f"{mebibytes / peaks[COUNTS[0]]:.3f}x")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
