"""Accuracy of the doctor's checks of dialect and alignment: false alarms on correct cards, and detected mistakes.

    OMP_NUM_THREADS=1 python benchmarks/study_doctor.py [--data folder] [--seeds 3]

Data sets with a correct card, of each kind several with different seeds:
    generated    kinds with misleading edges: thin masks shifted by one pixel, defects on texture, masks coarser than
                 their images, polygons of a few points, masks of half the resolution, and masks invisible in
                 their images; square and not square
    demos        the generated competitions
    real         the existing folders of --data: nuclei, heart-mri, cells-16bit, liver-ct, membranes

Columns:
    false alarms    data sets with an error for the correct card: as RLE, as mask images, and by `doctor` on all files
    order           data sets read in the wrong pixel order that are detected; not square, and square (transposed)
    shuffled        data sets with shuffled pairs that are detected
    base            data sets numbered from 0 with base 1 on the card that are reported
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import config, stages
from pipeline.competition import Competition
from pipeline.competition import load as load_card
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import DEFAULT_READER
from pipeline.data.sample import samples_of
from pipeline.demos.camvid import make_camvid_demo
from pipeline.demos.defects import make_defects_demo
from pipeline.demos.instances import make_instances_demo
from pipeline.demos.large import make_large_demo
from pipeline.demos.salt import make_salt_demo
from pipeline.doctor.alignment import check_alignment
from pipeline.doctor.dialects import check_dialect
from pipeline.rle import Dialect

ROOT = Path(__file__).resolve().parent.parent
Pair = tuple[np.ndarray, np.ndarray]  # a grey image and its mask, (H, W) uint8
IMAGES = 100  # at most, of a data set
DEMOS = {
    "demo": partial(make_salt_demo, train=150, test=5),
    "camvid_demo": partial(make_camvid_demo, train=150, test=5),
    "defects_demo": make_defects_demo,
    "instances_demo": partial(make_instances_demo, train=150, test=5),
    "large_demo": partial(make_large_demo, train=12, test=1),
}
REAL = {  # folder to config
    "nuclei": "configs/nuclei.toml",
    "heart-mri": "configs/heart.toml",
    **{name: f"benchmarks/configs/{name}.toml" for name in ("cells-16bit", "liver-ct", "membranes")},
}

Draw = Callable[[np.random.Generator, tuple[int, int]], Pair]


def noise(rng: np.random.Generator, shape: tuple[int, int], across: float, down: float) -> np.ndarray:
    """Noise (H, W) of mean 0 and standard deviation 1, blurred over `across` by `down` pixels."""
    field = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigmaX=across, sigmaY=down)
    return (field - field.mean()) / field.std()


def grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    matrix = np.float32([[1, 0, right], [0, 1, down]])
    return cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)


def blobs(rng: np.random.Generator, shape: tuple[int, int], count: tuple[int, int] = (1, 5)) -> np.ndarray:
    """A few ellipses with wavy outlines, (H, W) uint8."""
    mask = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(*count)):
        centre = [int(rng.uniform(0, side)) for side in shape[::-1]]
        axes = [int(rng.uniform(0.05, 0.18) * min(shape)) for _ in range(2)]
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1, -1)
    wavy = mask + 0.12 * noise(rng, shape, 4, 4)
    return (cv2.GaussianBlur(wavy.astype(np.float32), (0, 0), 2) > 0.5).astype(np.uint8)


def draw_image(rng: np.random.Generator, mask: np.ndarray, contrast: float = 50) -> np.ndarray:
    """An image of the masked objects, brighter or darker, on a background of smooth structures and noise."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
    side = rng.choice([-1, 1])
    return grey(120 + side * contrast * soft + 12 * noise(rng, mask.shape, 9, 9) + rng.normal(0, 8, mask.shape))


def vessels(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Thin dark branching lines in a round field of view; masks are shifted by one pixel and sometimes too wide."""
    true, (height, width) = np.zeros(shape, np.uint8), shape
    for _ in range(12):
        place, angle = rng.uniform((0.1 * width, 0.1 * height), (0.9 * width, 0.9 * height)), rng.uniform(0, 2 * np.pi)
        thick = int(rng.integers(1, 6))
        for _ in range(30):
            angle += rng.normal(0, 0.25)
            following = place + 9 * np.array([np.cos(angle), np.sin(angle)])
            cv2.line(true, np.intp(place).tolist(), np.intp(following).tolist(), 1, thick)
            place = following
    rows, columns = np.ogrid[:height, :width]
    field = ((rows - height / 2) / height) ** 2 + ((columns - width / 2) / width) ** 2 < 0.235
    soft = cv2.GaussianBlur(true.astype(np.float32), (0, 0), 1.0)
    image = field * (130 - 35 * soft + 10 * noise(rng, shape, 20, 20)) + rng.normal(0, 5, shape)
    mask = shifted(true * field, *rng.choice([(1, 1), (1, 0), (0, 1)]))
    return grey(image), cv2.dilate(mask, np.ones((2, 2), np.uint8)) if rng.random() < 0.3 else mask


def defects(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Rare faint defects of half a percent of the pixels on brushed metal; seven of ten images have none."""
    size = [int(side * rng.uniform(0.7, 1.3)) for side in shape]
    if shape[0] == shape[1]:
        size[1] = size[0]
    texture = 18 * noise(rng, size, 12, 0.7) + 10 * noise(rng, size, 30, 30)
    mask = np.zeros(size, np.uint8)
    if rng.random() < 0.3:
        axes = (rng.uniform(1.5, 4, 2) * np.sqrt(size[0] * size[1]) / 100).astype(int) + 1
        centre = [int(rng.uniform(0.05, 0.95) * side) for side in size[::-1]]
        cv2.ellipse(mask, centre, axes.tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
    dent = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2.0)
    return grey(120 + texture + rng.choice([-1, 1]) * 30 * dent + rng.normal(0, 6, size)), mask


def coarse(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Masks of 16×16 blocks, a few blocks too large."""
    true = blobs(rng, shape)
    small = cv2.resize(true, (max(1, shape[1] // 16), max(1, shape[0] // 16)), interpolation=cv2.INTER_AREA)
    small = cv2.dilate(cv2.resize(true.astype(np.float32), small.shape[::-1], interpolation=cv2.INTER_AREA), None)
    mask = cv2.resize((small > 0.2).astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return draw_image(rng, true, 40), mask


def polygons(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Masks are polygons of five to nine corners, larger than the objects."""
    true, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 5)):
        one = blobs(rng, shape, (1, 2))
        true |= one
        rows, columns = np.nonzero(one)
        if len(rows):
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
            radii = 1.25 * np.sqrt(2) * np.array([columns.std() + 2, rows.std() + 2])
            corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + (columns.mean(), rows.mean())
            cv2.fillPoly(mask, [np.intp(corners).astype(np.int32)], 1)
    return draw_image(rng, true, 35), mask


def half_resolution(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Masks of half the resolution, upsampled."""
    true = blobs(rng, shape, (3, 12))
    half = true[1::2, 1::2]
    return draw_image(rng, true), cv2.resize(half, shape[::-1], interpolation=cv2.INTER_NEAREST)


def plants(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Narrow leaves around a stem on rough soil; masks are one pixel too wide and shifted by one pixel."""
    true = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 5)):
        x, y, length = rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), rng.uniform(0.05, 0.15) * min(shape)
        for turn in rng.uniform(0, 360, rng.integers(4, 9)):
            tip = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))]) * length
            centre = (np.array([x, y]) + tip / 2).astype(int).tolist()
            cv2.ellipse(true, centre, [int(length / 2), max(1, int(length / 12))], turn, 0, 360, 1, -1)
    soft = cv2.GaussianBlur(true.astype(np.float32), (0, 0), 0.8)
    image = grey(90 + 45 * soft + 22 * noise(rng, shape, 2, 2) + 10 * noise(rng, shape, 15, 15))
    return image, shifted(cv2.dilate(true, np.ones((3, 3), np.uint8)), 1, 1)


def fixed_position(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """One organ at about the same position in every image, next to brighter objects without a mask."""
    scale = min(shape) / 100
    mask, body = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    middle = np.array([0.62 * shape[1], 0.4 * shape[0]]) + rng.normal(0, 3 * scale, 2)
    axes = [int(rng.uniform(6, 11) * scale) for _ in range(2)]
    cv2.ellipse(mask, middle.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    for place in ((0.35, 0.4), (0.5, 0.7), (0.75, 0.65)):
        centre = (np.array(place) * shape[::-1] + rng.normal(0, 3 * scale, 2)).astype(int).tolist()
        cv2.ellipse(body, centre, [int(rng.uniform(5, 14) * scale) for _ in range(2)], 30, 0, 360, 1, -1)
    soft = cv2.GaussianBlur((0.6 * mask + body).astype(np.float32), (0, 0), 2.0)
    return grey(70 + 90 * soft + 10 * noise(rng, shape, 6, 6) + rng.normal(0, 6, shape)), mask


def horizon(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Sky above a horizontal line in haze, over rough ground: the image hardly changes at the outline."""
    level = rng.uniform(0.25, 0.7) * shape[0] + 1.5 * noise(rng, (1, shape[1]), 30, 1)
    above = (np.arange(shape[0])[:, None] < level).astype(np.float32)
    haze = cv2.GaussianBlur(above, (0, 0), 12.0)
    image = 110 + 40 * haze + (1 - haze) * 30 * noise(rng, shape, 2, 4) + rng.normal(0, 4, shape)
    return grey(image), above.astype(np.uint8)


def stripes(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Vertical lines of one to three pixels, over the whole height or a part of it, such as cracks and wires."""
    mask = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 8)):
        x, wide = int(rng.uniform(0, shape[1])), int(rng.integers(1, 4))
        top, bottom = sorted(rng.uniform(-0.2, 1.2, 2) * shape[0])
        mask[max(0, int(top)) : max(0, int(bottom)), x : x + wide] = 1
    return draw_image(rng, mask, 25), mask


def invisible(rng: np.random.Generator, shape: tuple[int, int]) -> Pair:
    """Masks of objects that are not visible in the image."""
    return draw_image(rng, blobs(rng, shape)), blobs(rng, shape)


def slices(rng: np.random.Generator, shape: tuple[int, int], count: int) -> Iterator[Pair]:
    """Volumes of ten neighbouring slices with masks of invisible objects: neighbouring slices are similar, so chance
    agreement of image and mask extends to a whole volume."""
    for _ in range(count // 10):
        shown, masked = walk(rng, shape), walk(rng, shape)
        for _ in range(10):
            yield draw_image(rng, next(shown)), next(masked)


def walk(rng: np.random.Generator, shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Ellipses that move and rotate slightly from one mask to the next."""
    places, axes, turns = rng.uniform(0, shape[::-1], (4, 2)), rng.uniform(5, 20, (4, 2)), rng.uniform(0, 180, 4)
    while True:
        mask = np.zeros(shape, np.uint8)
        places, turns = places + rng.normal(0, 0.8, (4, 2)), turns + rng.normal(0, 2, 4)
        for place, pair, turn in zip(places, axes, turns, strict=True):
            cv2.ellipse(mask, np.intp(place).tolist(), np.intp(pair).tolist(), turn, 0, 360, 1, -1)
        yield mask


def independent_pairs(draw: Draw) -> Callable[[np.random.Generator, tuple[int, int], int], Iterator[Pair]]:
    """A series of independent pairs."""
    return lambda rng, shape, count: (draw(rng, shape) for _ in range(count))


class Kind(NamedTuple):
    """One kind of generated data set."""

    draw: Callable[[np.random.Generator, tuple[int, int], int], Iterator[Pair]]
    images: int
    square: tuple[int, int]
    oblong: tuple[int, int]


KINDS = {
    "vessels": Kind(independent_pairs(vessels), 20, (300, 300), (292, 282)),
    "defects": Kind(independent_pairs(defects), 200, (160, 160), (100, 240)),
    "coarse": Kind(independent_pairs(coarse), 60, (256, 256), (240, 320)),
    "polygons": Kind(independent_pairs(polygons), 60, (200, 200), (180, 240)),
    "half resolution": Kind(independent_pairs(half_resolution), 60, (200, 200), (240, 180)),
    "plants": Kind(independent_pairs(plants), 40, (320, 320), (240, 324)),
    "one place": Kind(independent_pairs(fixed_position), 60, (128, 128), (120, 140)),
    "horizon": Kind(independent_pairs(horizon), 60, (200, 200), (128, 400)),
    "stripes": Kind(independent_pairs(stripes), 60, (200, 200), (320, 128)),
    "invisible": Kind(independent_pairs(invisible), 60, (128, 128), (100, 140)),
    "slices, invisible": Kind(slices, 60, (96, 96), (96, 110)),
}
VISIBLE = [name for name in KINDS if "invisible" not in name]  # the masked objects are visible in the images


def draw_set(kind: Kind, shape: str, seed: int) -> list[Pair]:
    """The pairs of one data set that have a mask."""
    pairs = kind.draw(np.random.default_rng(seed), getattr(kind, shape), kind.images)
    return [(image, mask) for image, mask in pairs if 0 < mask.mean() < 1]


class SetResult(NamedTuple):
    """Results for one data set; None if a mistake does not apply to it."""

    alarms: list[str]  # messages against the correct card
    order: bool | None = None  # whether the wrong order is detected in images that are not square
    transposed: bool | None = None  # the same in square images
    shuffled: bool | None = None
    base: bool | None = None


def check_set(pairs: Sequence[Pair], seed: int = 0) -> SetResult:
    """Check pairs of an image and a mask of one class, correct and with mistakes."""
    images, masks = zip(*pairs, strict=True)
    right, wrong = Dialect(), Dialect(order="row")
    texts = [[right.encode(mask)] for mask in masks]
    verdicts = [check_dialect(list(zip(images, texts, strict=True)), right), check_alignment(pairs)]
    alarms = [verdict.message for verdict in verdicts if verdict.status in ("misread", "shuffled")]
    other = check_dialect(list(zip(images, texts, strict=True)), wrong)
    detected = other.status == "misread" and other.correction == right
    square = [image.shape[0] == image.shape[1] for image in images]
    mixed = np.random.default_rng(seed).permutation(len(texts))
    paired = check_dialect([(image, texts[place]) for image, place in zip(images, mixed, strict=True)], right)
    from_zero = check_dialect([(image, [replace(right, base=0).encode(mask)]) for image, mask in pairs], right)
    return SetResult(
        alarms,
        detected if not any(square) else None,
        detected if all(square) else None,
        paired.status == "shuffled" if len({image.shape for image in images}) == 1 else None,
        (from_zero.warning is not None) or from_zero.correction == replace(right, base=0),
    )


def read_pairs(card: Competition, root: Path) -> list[Pair]:
    """The images of a competition that have a mask, with the union of its classes or objects."""
    labels, index = Labels.of(card), read_index(card, root)
    samples = samples_of(index[(index["coverage"] > 0) & (index["coverage"] < 1)])
    return [(DEFAULT_READER.preview(each, channels=1)[..., 0], _union(labels.read(each), card)) for each in samples]


def _union(mask: np.ndarray, card: Competition) -> np.ndarray:
    """The union of the classes; of exclusive classes, all but the first."""
    return (mask[..., 0] > 0).astype(np.uint8) if card.exclusive else (mask == 1).any(axis=2).astype(np.uint8)


def check_files(path: str, root: Path, seeds: int) -> Iterator[tuple[str, SetResult]]:
    """Check a competition's files by `doctor`, then samples of its pairs: square images, and others."""
    cfg = config.load(ROOT / path, [f'data.root="{root}"'])
    cfg = cfg.model_copy(update={"competition": _card_of(cfg)})
    bad = [finding.message for finding in stages.doctor(cfg).bad]
    yield "all files, by doctor", SetResult(bad)
    pairs = read_pairs(load_card(cfg.competition), root)
    for name, is_square in (("square", True), ("not square", False)):
        some = [pair for pair in pairs if (pair[0].shape[0] == pair[0].shape[1]) == is_square]
        for seed in range(seeds if len(some) > IMAGES else min(len(some) // 10, 1)):
            places = np.random.default_rng(seed).choice(len(some), min(IMAGES, len(some)), replace=False)
            yield name, check_set([some[place] for place in np.sort(places)], seed)


def _card_of(cfg: config.Config) -> str:
    return str(ROOT / cfg.competition) if cfg.competition.endswith(".toml") else cfg.competition


def shares(found: Sequence[bool | None]) -> str:
    tried = [each for each in found if each is not None]
    return f"{sum(tried)} of {len(tried)}" if tried else ""


def main(data: Path | None, seeds: int) -> None:
    started, rows = time.time(), {}
    for name, kind in KINDS.items():
        for shape, words in (("square", "square"), ("oblong", "not square")):
            rows[f"{name}, {words}"] = [check_set(draw_set(kind, shape, seed), seed) for seed in range(seeds)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the doctor writes pictures into the current folder
        real = {name: data / name for name in REAL if data and (data / name).is_dir()}
        for name, make in DEMOS.items():
            make(Path(name))
        for name, root in {**{name: Path(name) for name in DEMOS}, **real}.items():
            for part, tried in check_files(REAL.get(name, f"configs/{name}.toml"), root.resolve(), seeds):
                rows.setdefault(f"{name}, {part}", []).append(tried)
    table = Table("data set", "false alarms", "order, not square", "order, square", "shuffled", "base", box=None)
    for name, tried in rows.items():
        table.add_row(
            name, shares([bool(each.alarms) for each in tried]), *map(shares, zip(*_detections(tried), strict=True))
        )
    visible = [name for name in rows if "invisible" not in name]
    for words, names in (("all", rows), ("all with visible objects", visible)):
        some = [each for name in names for each in rows[name]]
        table.add_row(
            words, shares([bool(each.alarms) for each in some]), *map(shares, zip(*_detections(some), strict=True))
        )
    out = Console(width=120)
    out.print(table)
    for name, tried in rows.items():
        for alarm in [alarm for each in tried for alarm in each.alarms]:
            out.print(f"false alarm: {name}: {alarm}", markup=False)
    out.print(f"{time.time() - started:.0f} s")


def _detections(tried: Sequence[SetResult]) -> list[tuple[bool | None, ...]]:
    return [each[1:] for each in tried]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), help="folder of the real data sets")
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each kind")
    arguments = parser.parse_args()
    main(arguments.data, arguments.seeds)
