"""Cost of another input size: CPU time of resizing an image and a mask, and bytes read from a slide.

    python benchmarks/resize.py

Images are compared with OpenCV's resizing by area and bilinear, which cannot resize a window alone. The slide is read
in columns of windows as tiled prediction reads it, from a tiled TIFF without smaller levels and with three.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Size  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.resize import Resize, resize_image  # noqa: E402
from pipeline.data.sample import Sample  # noqa: E402
from pipeline.data.targets import resize_mask  # noqa: E402
from pipeline.data.windows import Box  # noqa: E402

SIDE = 1000  # of the image, in pixels
SLIDE = 8192
ROUNDS = 10
LEVELS = 3  # of the slide, each half as large as the one before
WINDOW, STRIDE = 512, 384  # columns of windows of the resized slide


def milliseconds(run: Callable[[], object]) -> float:
    """Median CPU time of a call, after one that is not counted."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return 1000 * float(np.median(seconds))


def image_table() -> Table:
    """Times of an RGB image and of the mask of a disc."""
    table = Table("target", "image, ms", "OpenCV, ms", "mask, ms", title=f"{SIDE}×{SIDE} pixels")
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    mask = cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (400, 500), 300, 1, -1)[..., None]
    for factor in (0.5, 0.768, 1.5):
        target = Resize(Size(factor=factor)).target((SIDE, SIDE))
        filter_ = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        times = [
            milliseconds(lambda: resize_image(image, target)),  # noqa: B023 - called in this round
            milliseconds(lambda: cv2.resize(image, target[::-1], interpolation=filter_)),  # noqa: B023
            milliseconds(lambda: resize_mask(mask, target, exclusive=False)),  # noqa: B023
        ]
        table.add_row(f"{target[0]}×{target[1]}", *(f"{each:.1f}" for each in times))
    return table


def write_slide(path: Path, levels: int) -> None:
    """A tiled TIFF of smooth colours, with smaller levels."""
    small = np.random.default_rng(0).integers(0, 256, (SLIDE // 8, SLIDE // 8, 3)).astype(np.uint8)
    pixels = cv2.resize(small, (SLIDE, SLIDE))
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=levels, **options)
        for _ in range(levels):
            pixels = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            file.write(pixels, subfiletype=1, **options)


def slide_table(folder: Path) -> Table:
    """MiB that are read, and CPU seconds, for the whole slide."""
    table = Table("slide", "size", "MiB read", "seconds", title=f"{SLIDE}×{SLIDE} pixels")
    count, read = [0], tifffile.FileHandle.read

    def counting(file: tifffile.FileHandle, size: int = -1, /) -> bytes:
        data = read(file, size)
        count[0] += len(data)
        return data

    tifffile.FileHandle.read = counting
    for levels in (0, LEVELS):
        path = folder / f"{levels}.tif"
        write_slide(path, levels)
        for factor in (1.0, 0.5, 0.25):
            count[0], started = 0, time.process_time()
            reader = Reader(3, resize=Resize(Size(factor=factor)))
            with reader.open_windows(Sample.from_file(path)) as image:
                height, width = image.shape
                for left in range(0, width, STRIDE):
                    image.read(Box(0, left, height, min(WINDOW, width - left)))
            seconds = time.process_time() - started
            table.add_row("pyramid" if levels else "one size", f"{factor:g}", str(count[0] >> 20), f"{seconds:.1f}")
    return table


def main() -> None:
    """Print both tables."""
    cv2.setNumThreads(1)
    console = Console()
    console.print(image_table())
    with tempfile.TemporaryDirectory() as folder:
        console.print(slide_table(Path(folder)))


if __name__ == "__main__":
    main()
