"""Search for near-duplicates: time, memory and accuracy, for a quarter of the images and for all.

    python benchmarks/duplicates.py [--images 20000]

Images of 256² pixels are generated in a temporary folder, each with its own texture. One image in fifty has a
near-duplicate: a JPEG copy, a rotated copy, or a crop that overlaps it by half. Each number of images is measured in a
fresh process; the peak memory is that of the process, with Python and the libraries.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import fft

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SIDE, SPARE = 256, 128  # pixels: side of an image, and additional pixels of a scene
DUPLICATE_EVERY = 50  # images; each of these has a near-duplicate
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def scene(rng: np.random.Generator) -> np.ndarray:
    """Clouds with an amplitude that decreases with frequency, or sharp objects; (SIDE + SPARE, SIDE + SPARE) uint8.

    Each scene has its own noise: with a shared texture, scenes would be similar by chance.
    """
    side = SIDE + SPARE
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]).astype(np.float32) + 1 / side
    falling = np.exp(-((3 * frequency) ** 2)) / frequency ** rng.uniform(0.8, 1.6)
    values = fft.irfft2(fft.rfft2(rng.standard_normal((side, side), np.float32)) * falling, (side, side))
    if rng.random() < 0.5:
        values = np.tanh(4 * values / values.std())
    grey = 128 + rng.uniform(10, 40) * (values - values.mean()) / values.std()
    return np.clip(grey + rng.standard_normal(grey.shape, np.float32), 0, 255).astype(np.uint8)


def near_duplicate(whole: np.ndarray, kind: int) -> np.ndarray:
    image = whole[:SIDE, :SIDE]
    if kind == 0:
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)
    return np.rot90(image) if kind == 1 else whole[-SIDE:, :SIDE]


def write_images(folder: Path, images: int) -> pd.DataFrame:
    """Write the images `<scene>.png` and the near-duplicates `<scene>r.png`."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    while len(paths) < images:
        number, whole = len(paths), scene(rng)
        pair = {f"{number:06}": whole[:SIDE, :SIDE]}
        if number % DUPLICATE_EVERY == 0:
            pair[f"{number:06}r"] = near_duplicate(whole, number // DUPLICATE_EVERY % 3)
        for name, image in pair.items():
            paths.append(folder / f"{name}.png")
            cv2.imwrite(str(paths[-1]), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": paths, "part": "train"})


def measure(folder: Path, images: int) -> None:
    """Search the first images of the folder; prints the numbers in one line."""
    from pipeline.duplicates import find_duplicates

    paths = sorted(folder.glob("*.png"))[:images]
    table = pd.DataFrame({"image_id": [path.stem for path in paths], "path": paths, "part": "train"})
    shuffled = table.sample(frac=1, random_state=0, ignore_index=True)
    begin = perf_counter()
    found = find_duplicates(shuffled)
    seconds = perf_counter() - begin
    true_positives = (found["first"].str.rstrip("r") == found["second"].str.rstrip("r")).sum()
    planted = table["image_id"].str.endswith("r").sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
    print(
        len(table),
        seconds,
        peak,
        planted,
        true_positives,
        len(found) - true_positives,
        os.times().user + os.times().system,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="number of images, at least 100")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the folder, for the fresh process
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.images)
        return
    columns = (
        "images",
        "seconds",
        "CPU seconds",
        "images/s",
        "peak RSS, MiB",
        "near-duplicates found",
        "false positives",
    )
    table = Table(*columns, title=f"find_duplicates, images of {SIDE}²")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        for images in (options.images // 4, options.images):
            command = [sys.executable, __file__, "--measure", folder, "--images", str(images)]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            number, seconds, peak, planted, true_positives, false_positives, busy = map(float, line)
            table.add_row(
                *(f"{value:,.0f}" for value in (number, seconds, busy, number / seconds, peak)),
                f"{true_positives:.0f} of {planted:.0f}",
                f"{false_positives:.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
