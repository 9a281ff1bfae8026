"""Near-duplicates among many images: time and memory, at a quarter of them and at all.

    python benchmarks/duplicates.py [--images 20000]

Images of 256² pixels are made in a temporary folder, each a texture of its own, so that no two are related. One in
fifty has a relative: a JPEG copy, a turned copy, or a crop that shares half of it. Each size
is measured in a process of its own; its peak of memory is what that process ever held, Python and libraries included.
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

SIDE, SPARE = 256, 128  # pixels of an image, and by which a scene is larger
RELATED = 50  # one image in so many has a relative
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss


def scene(rng: np.random.Generator) -> np.ndarray:
    """Clouds whose amplitude falls with frequency, or objects with borders; (SIDE + SPARE, SIDE + SPARE) uint8.

    Each from noise of its own: views of shared textures are related by chance, and finding them would be no mistake.
    """
    side = SIDE + SPARE
    frequency = np.hypot(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]).astype(np.float32) + 1 / side
    falling = np.exp(-((3 * frequency) ** 2)) / frequency ** rng.uniform(0.8, 1.6)
    values = fft.irfft2(fft.rfft2(rng.standard_normal((side, side), np.float32)) * falling, (side, side))
    if rng.random() < 0.5:
        values = np.tanh(4 * values / values.std())
    grey = 128 + rng.uniform(10, 40) * (values - values.mean()) / values.std()
    return np.clip(grey + rng.standard_normal(grey.shape, np.float32), 0, 255).astype(np.uint8)


def relative(whole: np.ndarray, kind: int) -> np.ndarray:
    image = whole[:SIDE, :SIDE]
    if kind == 0:
        return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)
    return np.rot90(image) if kind == 1 else whole[-SIDE:, :SIDE]


def make(folder: Path, images: int) -> pd.DataFrame:
    """Files `<scene>.png`, those of relatives `<scene>r.png`; the images in an order that tells nothing."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    while len(paths) < images:
        number, whole = len(paths), scene(rng)
        pair = {f"{number:06}": whole[:SIDE, :SIDE]}
        if number % RELATED == 0:
            pair[f"{number:06}r"] = relative(whole, number // RELATED % 3)
        for name, image in pair.items():
            paths.append(folder / f"{name}.png")
            cv2.imwrite(str(paths[-1]), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return pd.DataFrame({"image_id": [path.stem for path in paths], "path": paths, "part": "train"})


def measure(folder: Path, images: int) -> None:
    """Find the relatives among the first images of the folder; the numbers as one line."""
    from pipeline.duplicates import find_duplicates

    paths = sorted(folder.glob("*.png"))[:images]
    table = pd.DataFrame({"image_id": [path.stem for path in paths], "path": paths, "part": "train"})
    shuffled = table.sample(frac=1, random_state=0, ignore_index=True)
    begin = perf_counter()
    found = find_duplicates(shuffled)
    seconds = perf_counter() - begin
    related = (found["first"].str.rstrip("r") == found["second"].str.rstrip("r")).sum()
    planted = table["image_id"].str.endswith("r").sum()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 2**20
    print(len(table), seconds, peak, planted, related, len(found) - related, os.times().user + os.times().system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="number of images, at least 100")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # a folder: what the fresh process is told
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.images)
        return
    columns = ("images", "seconds", "CPU seconds", "images/s", "peak RSS, MiB", "relatives found", "false")
    table = Table(*columns, title=f"find_duplicates, images of {SIDE}²")
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.images)
        for images in (options.images // 4, options.images):
            command = [sys.executable, __file__, "--measure", folder, "--images", str(images)]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
            number, seconds, peak, planted, related, false, busy = map(float, line)
            table.add_row(
                *(f"{value:,.0f}" for value in (number, seconds, busy, number / seconds, peak)),
                f"{related:.0f} of {planted:.0f}",
                f"{false:.0f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
