"""How fast each kind of input is read on one core, relative to a plain loop of OpenCV or tifffile that does the same.

    python benchmarks/inputs.py [--repeats 5] [--images 10000]

    ours   Reader through the data set and the loader (without workers): batches of images in channels-last format
    plain  a loop that reads, crops, resizes or stacks by OpenCV, tifffile or NumPy, and numpy.stack

Files are in the kernel's cache. A ratio above 1: ours delivers more. The last line is the memory of this process after
a tenth and after all of `--images` images.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import pandas as pd
import psutil
import tifffile
import torch
import typer
from interleave import interleave, ratios, spread
from loader import consume, read_tiles
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import competition, config  # noqa: E402
from pipeline.config import Config  # noqa: E402
from pipeline.data import reader as reading  # noqa: E402
from pipeline.data.dataset import Images  # noqa: E402
from pipeline.data.loader import Loader  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.sample import Sample  # noqa: E402
from pipeline.data.series import with_neighbours  # noqa: E402
from pipeline.data.slice_cache import SliceCache  # noqa: E402
from pipeline.data.unpacked import Unpacked, unpacking  # noqa: E402
from pipeline.data.windows import Box  # noqa: E402

BATCH, SIDE, LARGE, CROP = 8, 512, 4096, 512
TILES = {"tile": (256, 256), "compression": "jpeg"}
STRIPS = {"rowsperstrip": 64, "compression": "deflate"}
BANDS = ("blue", "green", "red")


class Inputs(NamedTuple):
    """Two functions that read the same images once."""

    ours: Callable[[], object]
    plain: Callable[[], object]
    count: int  # of images


def noise(rng: np.random.Generator, side: int, channels: int = 3) -> np.ndarray:
    """A smooth image, uint8."""
    return cv2.GaussianBlur(rng.integers(0, 256, (side, side, channels), dtype=np.uint8), (9, 9), 0)


def load(reader: Reader, samples: Sequence[Sample]) -> Callable[[], object]:
    """A function that reads the samples as a prediction does."""
    images = Images(pd.DataFrame({"image_id": [], "path": []}), reader)
    images.samples = list(samples)
    return lambda: consume(Loader(images, BATCH))


def stacked(images: Sequence[Callable[[], np.ndarray]]) -> Callable[[], object]:
    """A function that reads the images of a plain loop in batches."""

    def run() -> None:
        for start in range(0, len(images), BATCH):
            torch.from_numpy(np.stack([read() for read in images[start : start + BATCH]]))

    return run


def read_colour(path: Path) -> np.ndarray:
    """An image by OpenCV, (H, W, 3) in red, green, blue."""
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])


def whole_png(folder: Path, rng: np.random.Generator, count: int = 24) -> Inputs:
    paths = write_pngs(folder, rng, count)
    samples = [Sample.from_file(path) for path in paths]
    return Inputs(load(Reader(3), samples), stacked([lambda path=path: read_colour(path) for path in paths]), count)


def write_pngs(folder: Path, rng: np.random.Generator, count: int) -> list[Path]:
    paths = [folder / f"v_{number:04}.png" for number in range(count)]
    for path in paths:
        cv2.imwrite(str(path), noise(rng, SIDE))
    return paths


def half_size(folder: Path, rng: np.random.Generator) -> Inputs:
    paths = write_pngs(folder, rng, 24)
    reader = Reader.of(config_of("demo", data={"size": {"factor": 0.5}}), competition.load("demo"))
    samples = [Sample(path.stem, (path,), size=(SIDE, SIDE)) for path in paths]

    def plain(path: Path) -> np.ndarray:
        return cv2.resize(read_colour(path), (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)

    return Inputs(load(reader, samples), stacked([lambda path=path: plain(path) for path in paths]), len(paths))


def windows(folder: Path, rng: np.random.Generator, unpacked: Unpacked | None, count: int, **options: object) -> Inputs:
    """Random crops of one large TIFF."""
    path = folder / "large.tif"
    tifffile.imwrite(path, noise(rng, LARGE), photometric="rgb", **options)
    corners = rng.integers(0, LARGE - CROP, (count, 2)).tolist()
    samples = [Sample("large", (path,), size=(LARGE, LARGE), box=Box(*corner, CROP, CROP)) for corner in corners]
    if "tile" in options:
        plain = [lambda corner=corner: read_tiles(str(path), *corner, CROP) for corner in corners]
    else:
        plain = [lambda corner=corner: crop_of(tifffile.imread(path), *corner) for corner in corners]
    return Inputs(load(Reader(3, unpacked=unpacked), samples), stacked(plain), count)


def crop_of(image: np.ndarray, top: int, left: int) -> np.ndarray:
    return image[top : top + CROP, left : left + CROP]


def neighbours(folder: Path, rng: np.random.Generator) -> Inputs:
    """Grey slices with the two before and the two after each."""
    paths = [folder / f"v_{number:04}.png" for number in range(24)]
    for path in paths:
        cv2.imwrite(str(path), noise(rng, SIDE, 1))
    card = competition.load("volumes_demo")
    reader = Reader.of(config_of("volumes_demo", data={"neighbours": 2}), card)
    own = [Sample(path.stem, (path,), size=(SIDE, SIDE)) for path in paths]

    def plain(position: int) -> np.ndarray:
        chosen = [paths[min(max(position + offset, 0), len(paths) - 1)] for offset in range(-2, 3)]
        return np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in chosen], axis=-1)

    plains = [lambda position=position: plain(position) for position in range(len(paths))]
    read = load(reader, with_neighbours(own, reader.series, own))

    def ours() -> None:
        reading.RECENT = SliceCache()  # empty at the start of each round
        read()

    return Inputs(ours, stacked(plains), len(paths))


def bands(folder: Path, rng: np.random.Generator) -> Inputs:
    """Three arrays of 16 bits per image, scaled by a window."""
    files = [[folder / f"{number}_{band}.npy" for band in BANDS] for number in range(24)]
    for path in (each for image in files for each in image):
        np.save(path, rng.integers(0, 1 << 16, (SIDE, SIDE)).astype(np.uint16))
    card = competition.load("bands_demo")
    card = card.model_copy(update={"files": card.files.model_copy(update={"channels": BANDS})})
    cfg = config_of("bands_demo", data={"channels": None, "window": [1000, 40000]})
    samples = [Sample(str(number), tuple(image), size=(SIDE, SIDE)) for number, image in enumerate(files)]

    def plain(image: Sequence[Path]) -> np.ndarray:
        pixels = np.stack([np.load(path) for path in image], axis=-1).astype(np.float32)
        return ((pixels - 1000) * (255 / 39000)).clip(0, 255)

    return Inputs(
        load(Reader.of(cfg, card), samples), stacked([lambda image=image: plain(image) for image in files]), 24
    )


def config_of(name: str, data: dict[str, object]) -> Config:
    """A config that ships, with other options of its table `data`."""
    cfg = config.load(ROOT / "configs" / f"{name}.toml")
    return cfg.model_copy(update={"data": type(cfg.data).model_validate({**cfg.data.model_dump(), **data})})


def memory(inputs: Inputs, images: int) -> str:
    """The memory of this process after a tenth of the images and after all."""
    process, found = psutil.Process(), []
    for epoch in islice(cycle([None]), images // inputs.count):
        inputs.ours()
        found.append(process.memory_info().rss >> 20)
        del epoch
    return f"memory after {images // 10:,} images {found[len(found) // 10]} MiB, after {images:,} {found[-1]} MiB"


def main(
    repeats: Annotated[int, typer.Option(help="timed rounds")] = 5,
    images: Annotated[int, typer.Option(help="read to see whether memory grows")] = 10_000,
) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    table = Table("input", "ours, images/s", "ours / plain", title="one core; a ratio above 1: ours delivers more")
    with ExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        unpacked = stack.enter_context(unpacking())
        kinds = {
            "512² PNG": whole_png(folder(), rng),
            "512² of a tiled TIFF of 4096²": windows(folder(), rng, unpacked, 24, tile=(256, 256), compression="jpeg"),
            "512² of a striped TIFF of 4096²": windows(
                folder(), rng, unpacked, 8, rowsperstrip=64, compression="deflate"
            ),
            "512² PNG, 5 neighbouring slices": neighbours(folder(), rng),
            "512² .npy of 16 bits, 3 bands": bands(folder(), rng),
            "512² PNG at half size": half_size(folder(), rng),
        }
        for name, kind in kinds.items():
            seconds = interleave({"ours": kind.ours, "plain": kind.plain}, repeats)
            table.add_row(
                name, spread([kind.count / each for each in seconds["ours"]]), spread(ratios(seconds, "plain", "ours"))
            )
        Console(width=110).print(table)
        print(memory(kinds["512² PNG"], images))


if __name__ == "__main__":
    typer.run(main)
