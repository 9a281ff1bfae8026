"""A generated competition of instances, in the layout of DSB 2018: cells that touch and lie over each other.

Each image shows a culture under a microscope, as in DSB 2018: cells grow in clusters, so most touch a neighbour, and
a mask of all cells together joins them into one object. What tells two cells apart is what a biologist sees: each is
darker towards its rim, has a grey of its own and a texture of its own, and the upper one of two throws a thin
shadow on the lower. Light on dark (fluorescence) or dark on light (transmitted light) is decided per image, as are
gain, blur and noise; dust and faded blots in the background are no cells.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline import rle
from pipeline.demos.salt import draw_id, smooth_noise, write_competition

HEIGHT, WIDTH = 96, 112  # pixels; not square, so that a swapped axis shows
SHAPE = HEIGHT, WIDTH
EMPTY_EVERY = 10  # one image in so many holds dust alone, and has one row with a blank mask
MOST = 30  # cells in an image
LEAST_AREA = 25  # visible pixels of a cell
COLUMNS = "ImageId", "EncodedPixels"

# Pixel coordinates: DOWN grows downwards, ACROSS to the right.
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


class Culture(NamedTuple):
    """One generated example."""

    image_id: str  # ten hexadecimal digits
    image: np.ndarray  # (HEIGHT, WIDTH) uint8
    labels: np.ndarray  # (HEIGHT, WIDTH) int32: 0 is background, cells are 1, 2, … without a gap; each is one piece


class Blob(NamedTuple):
    """The outline of a cell, before others cover it."""

    x: float
    y: float
    radius: float
    height: np.ndarray  # (HEIGHT, WIDTH) float32: 1 in its middle, 0 on its rim, negative outside


def make_instances_demo(root: Path, seed: int = 0, train: int = 200, test: int = 60) -> None:
    """Write a competition of generated cell images: the same files for the same seed.

    Writes:
        train/images/<id>.png and test/images/<id>.png; train.csv and solution.csv with a row per cell, or one with
        a blank mask for an image without a cell; sample_submission.csv with one row per image.

    The folder appears whole or not at all.

    Args:
        root: the folder to make.
        seed: 0 or more.
        train: number of training images. Fewer are the first ones of more.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` is there already.
    """
    write_competition(root, COLUMNS, partial(draw_culture, seed), _texts_of, (train, test))


def _texts_of(culture: Culture) -> list[str]:
    return instance_rles(culture.labels)


def instance_rles(labels: np.ndarray) -> list[str]:
    """One RLE per instance of (H, W) labels, in the order of the labels; one blank if there is none."""
    return [rle.encode(labels == label) for label in range(1, labels.max() + 1)] or [""]


def draw_culture(seed: int, part: int, number: int) -> Culture:
    """Draw one example; it depends on these three numbers alone.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: 0 or more, position in the part.
    """
    rng = np.random.default_rng((seed, part, number))
    image_id = draw_id(rng, digits_only=number == 0)
    # By the number and not by chance, so that a set of ten, too, has one. The ids are in no order.
    wanted = 0 if number % EMPTY_EVERY == EMPTY_EVERY - 1 else rng.integers(3, MOST + 1)
    labels, blobs = draw_cells(rng, wanted)
    return Culture(image_id, develop(rng, draw_light(rng, labels, blobs)), labels)


def draw_cells(rng: np.random.Generator, wanted: int) -> tuple[np.ndarray, list[Blob]]:
    """Cells laid down one after the other, most beside an earlier one; a later one covers.

    Returns:
        labels, (HEIGHT, WIDTH) int32, and the outline of label k at place k - 1. Fewer than wanted where the image
        is full.
    """
    labels, blobs = np.zeros(SHAPE, np.int32), []
    size = rng.uniform(6, 10)
    for _ in range(4 * wanted):  # attempts: about every second is refused in a crowded image
        if len(blobs) == wanted:
            break
        blob = draw_blob(rng, size, blobs)
        covered = np.where(blob.height > 0, len(blobs) + 1, labels)
        if all_whole(covered, len(blobs) + 1, before=labels):
            labels, blobs = covered, [*blobs, blob]
    return labels.astype(np.int32), blobs


def draw_blob(rng: np.random.Generator, size: float, blobs: list[Blob]) -> Blob:
    """A rounded outline: alone with chance 1 in 3, else so near to an earlier one that they touch or overlap a bit."""
    radius = size * rng.uniform(0.75, 1.25)
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    if blobs and rng.random() > 1 / 3:
        host = blobs[rng.integers(len(blobs))]
        angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0) * (host.radius + radius)
        x, y = host.x + gap * np.cos(angle), host.y + gap * np.sin(angle)
    turn = np.arctan2(DOWN - y, ACROSS - x)
    waves = [rng.normal(0, 0.28 / k**1.5) * np.cos(k * turn + rng.uniform(0, 7)) for k in (2, 3, 4)]
    return Blob(x, y, radius, 1 - np.hypot(DOWN - y, ACROSS - x) / (radius * (1 + sum(waves))))


def all_whole(labels: np.ndarray, count: int, before: np.ndarray) -> bool:
    """Whether each cell is seen in one piece of some size, and none lost more than a quarter to the last one."""
    areas, areas_before = (np.bincount(each.ravel(), minlength=count + 1)[1:] for each in (labels, before))
    if (areas < np.maximum(LEAST_AREA, 0.75 * areas_before)).any():
        return False
    touched = [count, *np.flatnonzero(areas[:-1] < areas_before[:-1]) + 1]
    return all(cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2 for label in touched)


def draw_light(rng: np.random.Generator, labels: np.ndarray, blobs: list[Blob]) -> np.ndarray:
    """How much light or dye is where: 0 in clean background, about 1 in the middle of a cell."""
    light = background(rng)
    flatness = rng.uniform(0.25, 0.6)
    for label, blob in enumerate(blobs, start=1):
        dome = np.clip(blob.height, 0, 1) ** flatness
        grain = 1 + rng.uniform(0.05, 0.2) * smooth_noise(rng, 1.5, 1.5, SHAPE)
        light = np.where(labels == label, rng.uniform(0.45, 1) * grain * (0.25 + 0.75 * dome), light)
        under = (labels > 0) & (labels < label)
        light = np.where(under, light * (1 - 0.5 * np.exp(np.minimum(blob.height, 0) * blob.radius / 1.2)), light)
    return light


def background(rng: np.random.Generator) -> np.ndarray:
    """Faded blots, out of focus, and grains of dust that are too small for cells."""
    blots = rng.uniform(0, 0.12) * np.maximum(smooth_noise(rng, 7, 7, SHAPE), 0)
    dust = np.zeros(SHAPE, np.float32)
    for _ in range(rng.integers(0, 8)):
        place = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        near = np.hypot(ACROSS - place[0], DOWN - place[1]) < rng.uniform(0.8, 1.8)
        dust = np.maximum(dust, near * rng.uniform(0.3, 1))
    return np.maximum(blots, dust)


def develop(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Turn light into grey values, (H, W) float to uint8, with this image's own exposure, blur and noise."""
    light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), rng.uniform(0.4, 0.8))
    uneven = 1 + 0.12 * smooth_noise(rng, 40, 40, SHAPE)
    noise = rng.uniform(2, 9) * rng.standard_normal(SHAPE, dtype=np.float32)
    if rng.random() < 0.6:
        grey = rng.uniform(5, 30) + rng.uniform(80, 220) * light * uneven
    else:
        grey = rng.uniform(180, 235) * uneven - rng.uniform(80, 160) * light
    return np.clip(np.rint(grey + noise), 0, 255).astype(np.uint8)
