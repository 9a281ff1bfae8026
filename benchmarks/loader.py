"""What one core delivers to a training: images per second of the data set, relative to a bare loop of OpenCV.

    python benchmarks/loader.py [--repeats 5]

    ours   Reader, Labels, augmentation "light" to a crop, a batch in channels-last format (Loader without workers)
    bare   cv2.imread (tifffile for tiled TIFF: the window alone), a random crop of the same size, numpy.stack

Both read the same files, which are in the kernel's cache, one image after the other, without the cache of decoded
images. Ours also decodes the mask from RLE. "bare + light" is the bare loop with the same augmentation, so that the
last column is what the pipeline adds to it. A second table has the milliseconds of each strength, transform and mix on
a crop of 256² in colours, at probability 1; --transforms-only prints it alone.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import pandas as pd
import tifffile
import torch
import typer
from interleave import interleave, ratios, spread
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import competition, rle  # noqa: E402
from pipeline.config import Crops, Transform  # noqa: E402
from pipeline.data.augment import STRENGTHS, Augment, make_recipe  # noqa: E402
from pipeline.data.crops import crop_index  # noqa: E402
from pipeline.data.dataset import MaskedImages  # noqa: E402
from pipeline.data.index import read_index  # noqa: E402
from pipeline.data.labels import Labels  # noqa: E402
from pipeline.data.loader import Loader  # noqa: E402
from pipeline.data.mixing import MIXES  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.sampler import EpochSampler  # noqa: E402

BATCH = 8


class Kind(NamedTuple):
    """A kind of files."""

    shape: tuple[int, int]  # height and width, pixels
    suffix: str
    crop: int  # of both loops, pixels
    count: int  # of files
    dtype: type = np.uint8
    window: int | None = None  # side of the windows that are read instead of whole images


KINDS = {
    "101² PNG": Kind((101, 101), ".png", 96, 200),
    "512² PNG": Kind((512, 512), ".png", 256, 40),
    "1280×1918 JPEG": Kind((1280, 1918), ".jpg", 512, 16),
    "512² PNG of 16 bit": Kind((512, 512), ".png", 256, 40, np.uint16),
    "2048² tiled TIFF": Kind((2048, 2048), ".tif", 512, 8, window=768),
}


def write_files(kind: Kind, root: Path) -> pd.DataFrame:
    """Write files of smooth noise with the RLE of a disc; returns their index, or that of their windows."""
    rng, rows, (height, width) = np.random.default_rng(0), [], kind.shape
    (root / "train/images").mkdir(parents=True)
    down, across = np.mgrid[:height, :width]
    mask = ((down - height / 2) ** 2 + (across - width / 2) ** 2 < (height / 4) ** 2).astype(np.uint8)
    for number in range(kind.count):
        noise = rng.integers(0, np.iinfo(kind.dtype).max, (height, width, 3), dtype=kind.dtype)
        image, path = cv2.GaussianBlur(noise, (9, 9), 0), root / f"train/images/{number:04}{kind.suffix}"
        if kind.suffix == ".tif":
            tifffile.imwrite(path, image, tile=(256, 256), compression="jpeg", photometric="rgb")
        else:
            cv2.imwrite(str(path), image)
        rows.append((path.stem, rle.encode(mask)))
    pd.DataFrame(rows, columns=["id", "rle_mask"]).to_csv(root / "train.csv", index=False)
    card = competition.load("demo")
    files = card.files.model_copy(update={"suffix": kind.suffix})
    index = read_index(card.model_copy(update={"files": files}), root)
    return crop_index(index, Labels.of(card), Crops(size=kind.window, stride=640)) if kind.window else index


def ours(kind: Kind, index: pd.DataFrame) -> Callable[[], object]:
    """A function that reads an epoch as a training does."""
    labels = Labels.of(competition.load("demo"))
    images = MaskedImages(index, labels, Reader(3), Augment(make_recipe("light", kind.crop, 3)))
    images.cache = None
    loader = Loader(images, BATCH, sampler=EpochSampler(len(images), 0, labels=None, repeats=1))
    return lambda: consume(loader)


def bare(kind: Kind, index: pd.DataFrame, augment: Augment | None = None) -> Callable[[], object]:
    """A function that reads and crops as many images, or windows at random places, and augments if asked to."""
    paths, rng = [str(path) for path in index["path"]], np.random.default_rng(0)

    def image_of(path: str) -> np.ndarray:
        if kind.window:
            top, left = (int(rng.integers(0, side - kind.window + 1)) for side in kind.shape)
            return read_tiles(path, top, left, kind.window)
        return cv2.imread(path, cv2.IMREAD_UNCHANGED)[..., ::-1]

    def crop_of(path: str) -> np.ndarray:
        image = image_of(path)
        if augment:
            empty = np.zeros((*image.shape[:2], 1), np.uint8)
            floats = image if image.dtype == np.uint8 else image.astype(np.float32) * np.float32(255 / 65535)
            return augment(floats, empty, int(rng.integers(2**31)))[0]
        top, left = (int(rng.integers(0, side - kind.crop + 1)) for side in image.shape[:2])
        return image[top : top + kind.crop, left : left + kind.crop]

    def run() -> None:
        for start in range(0, len(paths), BATCH):
            torch.from_numpy(np.stack([crop_of(path) for path in paths[start : start + BATCH]]).copy())

    return run


def read_tiles(path: str, top: int, left: int, side: int) -> np.ndarray:
    """A square window of a tiled TIFF: only the tiles that it touches are decoded."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        size, across = page.tilewidth, -(-page.imagewidth // page.tilewidth)
        rows, columns = (range(start // size, (start + side - 1) // size + 1) for start in (top, left))
        found = np.zeros((len(rows) * size, len(columns) * size, 3), np.uint8)
        for row in rows:
            for column in columns:
                number = row * across + column
                file.filehandle.seek(page.dataoffsets[number])
                data = file.filehandle.read(page.databytecounts[number])
                tile, *_ = page.decode(data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
                down, right = (row - rows[0]) * size, (column - columns[0]) * size
                found[down : down + size, right : right + size] = tile[0]
    down, right = top - rows[0] * size, left - columns[0] * size
    return found[down : down + side, right : right + side]


def consume(batches: Iterable[object]) -> None:
    """Read all batches."""
    for _ in batches:
        pass


SIDE = 256  # pixels of the crop that transforms are timed on
TRIALS = 20  # images in a timed round
REFLECTED = {"border_mode": "BORDER_REFLECT_101"}
TRANSFORMS = [
    Transform(name="HorizontalFlip", p=1.0),
    Transform(name="D4", p=1.0),
    Transform(name="Affine", p=1.0, rotate=(-20, 20), **REFLECTED),
    Transform(name="RandomBrightnessContrast", p=1.0),
    Transform(name="ElasticTransform", p=1.0, alpha=40, **REFLECTED),
    Transform(name="GridDistortion", p=1.0),
    Transform(name="OpticalDistortion", p=1.0),
    Transform(name="CoarseDropout", p=1.0),
    Transform(name="RandomShadow", p=1.0),
    Transform(name="ImageCompression", p=1.0, quality_range=(40, 90)),
    Transform(name="MultiplicativeNoise", p=1.0, per_channel=True),
    Transform(name="HueSaturationValue", p=1.0),
    Transform(name="HEDJitter", p=1.0),
    Transform(name="GaussianBlur", p=1.0),
    Transform(name="GaussNoise", p=1.0),
]


def transform_runs() -> dict[str, Callable[[], object]]:
    """A function for each strength, transform and mix that changes TRIALS images."""
    rng = np.random.default_rng(0)
    pairs = [
        (rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), rng.integers(0, 2, (SIDE, SIDE, 1), dtype=np.uint8))
        for _ in range(TRIALS)
    ]
    named = {f'"{name}"': Augment(make_recipe(name, SIDE, 3)) for name in STRENGTHS}
    listed = {each.name: Augment(make_recipe([each], None, 3)) for each in TRANSFORMS}

    def augmented(augment: Augment) -> None:
        for seed, pair in enumerate(pairs):
            augment(*pair, seed)

    def mixed(mix: Callable) -> None:
        for seed, pair in enumerate(pairs):
            mix(pair, lambda: pairs[0], np.random.default_rng(seed))

    runs = {name: partial(augmented, each) for name, each in {**named, **listed}.items()}
    return runs | {f"mix {name}": partial(mixed, mix) for name, mix in MIXES.items()}


def print_transforms(repeats: int) -> None:
    """Print the milliseconds of each strength, transform and mix."""
    table = Table("augmentation", "ms per image", title=f"crops of {SIDE}², colours, one core")
    for name, seconds in interleave(transform_runs(), repeats).items():
        table.add_row(name, spread([1000 * each / TRIALS for each in seconds]))
    Console(width=110).print(table)


def main(
    repeats: Annotated[int, typer.Option(help="timed rounds")] = 5,
    transforms_only: Annotated[bool, typer.Option(help="print the table of transforms alone")] = False,
) -> None:
    torch.set_num_threads(1)
    print_transforms(repeats)
    if transforms_only:
        return
    columns = ("files", "ours, crops/s", "bare / ours", "bare + light / ours")
    table = Table(*columns, title="one core; a ratio above 1: ours delivers more")
    for name, kind in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            index = write_files(kind, Path(folder))
            runs = {
                "ours": ours(kind, index),
                "bare": bare(kind, index),
                "bare + light": bare(kind, index, Augment(make_recipe("light", kind.crop, 3))),
            }
            seconds = interleave(runs, repeats)
        table.add_row(
            name,
            spread([len(index) / each for each in seconds["ours"]]),
            spread(ratios(seconds, "bare", "ours")),
            spread(ratios(seconds, "bare + light", "ours")),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
