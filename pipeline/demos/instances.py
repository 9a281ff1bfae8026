"""A generated competition of instances, in the layout of DSB 2018: cells that touch and overlap.

Each image shows a culture under a microscope. Cells grow in clusters, so most touch a neighbour, and a mask of all
cells merges them into one object. Visible borders separate two cells: each is darker towards its rim, has its own grey
value and texture, and the upper cell casts a thin shadow on the lower one. Each image is light on dark (fluorescence)
or dark on light (transmitted light), with its own gain, blur and noise. Dust and faint blots are not cells.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline import rle
from pipeline.demos.salt import Example, smooth_noise, start_example, write_competition

HEIGHT, WIDTH = 96, 112  # pixels; not square, so that swapped axes are noticed
SHAPE = HEIGHT, WIDTH
EMPTY_EVERY = 10  # every tenth image has no cells, and one row with a blank mask
MAX_CELLS = 30  # per image
MIN_AREA = 25  # visible pixels of a cell
COLUMNS = "ImageId", "EncodedPixels"

# Pixel coordinates: DOWN grows downwards, ACROSS to the right.
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


class Cell(NamedTuple):
    """The outline of a cell, before other cells cover it."""

    x: float
    y: float
    radius: float
    height: np.ndarray  # (HEIGHT, WIDTH) float32: 1 in the middle, 0 on the outline, negative outside


def make_instances_demo(root: Path, seed: int = 0, train: int = 200, test: int = 60) -> None:
    """Write a competition of generated cell images: the same files for the same seed.

    Writes:
        train/images/<id>.png and test/images/<id>.png; train.csv and solution.csv with a row per cell, or one row with
        a blank mask for an image without cells; sample_submission.csv with one row per image.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training images; a smaller set is the beginning of a larger one.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    write_competition(root, COLUMNS, partial(draw_cell_image, seed), _rle_texts, (train, test))


def _rle_texts(culture: Example) -> list[str]:
    return rles_of_instances(culture.labels)


def rles_of_instances(labels: np.ndarray) -> list[str]:
    """The RLE text of each instance of labels (H, W), in the labels' order; [""] if there are none."""
    return [rle.encode(labels == label) for label in range(1, labels.max() + 1)] or [""]


def draw_cell_image(seed: int, part: int, number: int) -> Example:
    """Draw one example, which depends on these three numbers only.

    Its labels are (HEIGHT, WIDTH) int32: 0 is background, cells are 1, 2, … without gaps; each is connected.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
    """
    rng, image_id = start_example(seed, part, number)
    # By the number, not at random, so that each set of ten has one. The ids are in random order.
    wanted = 0 if number % EMPTY_EVERY == EMPTY_EVERY - 1 else rng.integers(3, MAX_CELLS + 1)
    labels, blobs = draw_cells(rng, wanted)
    return Example(image_id, to_grey_values(rng, draw_intensity(rng, labels, blobs)), labels)


def draw_cells(rng: np.random.Generator, wanted: int) -> tuple[np.ndarray, list[Cell]]:
    """Place cells one after the other, most of them next to an earlier one; a later cell covers an earlier one.

    Returns:
        labels (HEIGHT, WIDTH) int32, and the outline of label k at position k - 1. There are fewer cells than wanted
        if the image is full.
    """
    labels, blobs = np.zeros(SHAPE, np.int32), []
    size = rng.uniform(6, 10)
    for _ in range(4 * wanted):  # attempts: in a crowded image about half of them fail
        if len(blobs) == wanted:
            break
        blob = draw_outline(rng, size, blobs)
        covered = np.where(blob.height > 0, len(blobs) + 1, labels)
        if all_visible(covered, len(blobs) + 1, before=labels):
            labels, blobs = covered, [*blobs, blob]
    return labels.astype(np.int32), blobs


def draw_outline(rng: np.random.Generator, size: float, blobs: list[Cell]) -> Cell:
    """A round outline: with probability 1/3 anywhere, otherwise touching or slightly overlapping an earlier one."""
    radius = size * rng.uniform(0.75, 1.25)
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    if blobs and rng.random() > 1 / 3:
        host = blobs[rng.integers(len(blobs))]
        angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0) * (host.radius + radius)
        x, y = host.x + gap * np.cos(angle), host.y + gap * np.sin(angle)
    turn = np.arctan2(DOWN - y, ACROSS - x)
    waves = [rng.normal(0, 0.28 / k**1.5) * np.cos(k * turn + rng.uniform(0, 7)) for k in (2, 3, 4)]
    return Cell(x, y, radius, 1 - np.hypot(DOWN - y, ACROSS - x) / (radius * (1 + sum(waves))))


def all_visible(labels: np.ndarray, count: int, before: np.ndarray) -> bool:
    """Whether each cell is connected and large enough, and the last cell covered at most a quarter of each other.

    Args:
        labels: (H, W) int32, with the last cell.
        count: number of cells, the last one included.
        before: (H, W) int32, without the last cell.
    """
    areas, areas_before = (np.bincount(each.ravel(), minlength=count + 1)[1:] for each in (labels, before))
    if (areas < np.maximum(MIN_AREA, 0.75 * areas_before)).any():
        return False
    touched = [count, *np.flatnonzero(areas[:-1] < areas_before[:-1]) + 1]
    return all(cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2 for label in touched)


def draw_intensity(rng: np.random.Generator, labels: np.ndarray, blobs: list[Cell]) -> np.ndarray:
    """The intensity of light or dye, (H, W): 0 in clean background, about 1 in the middle of a cell."""
    light = draw_background(rng)
    flatness = rng.uniform(0.25, 0.6)
    for label, blob in enumerate(blobs, start=1):
        dome = np.clip(blob.height, 0, 1) ** flatness
        grain = 1 + rng.uniform(0.05, 0.2) * smooth_noise(rng, 1.5, 1.5, SHAPE)
        light = np.where(labels == label, rng.uniform(0.45, 1) * grain * (0.25 + 0.75 * dome), light)
        under = (labels > 0) & (labels < label)
        light = np.where(under, light * (1 - 0.5 * np.exp(np.minimum(blob.height, 0) * blob.radius / 1.2)), light)
    return light


def draw_background(rng: np.random.Generator) -> np.ndarray:
    """The intensity of the background, (H, W): faint blots, out of focus, and grains of dust smaller than cells."""
    blots = rng.uniform(0, 0.12) * np.maximum(smooth_noise(rng, 7, 7, SHAPE), 0)
    dust = np.zeros(SHAPE, np.float32)
    for _ in range(rng.integers(0, 8)):
        place = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        near = np.hypot(ACROSS - place[0], DOWN - place[1]) < rng.uniform(0.8, 1.8)
        dust = np.maximum(dust, near * rng.uniform(0.3, 1))
    return np.maximum(blots, dust)


def to_grey_values(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Convert intensity to grey values, (H, W) float to uint8, with this image's exposure, blur and noise."""
    light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), rng.uniform(0.4, 0.8))
    uneven = 1 + 0.12 * smooth_noise(rng, 40, 40, SHAPE)
    noise = rng.uniform(2, 9) * rng.standard_normal(SHAPE, dtype=np.float32)
    if rng.random() < 0.6:
        grey = rng.uniform(5, 30) + rng.uniform(80, 220) * light * uneven
    else:
        grey = rng.uniform(180, 235) * uneven - rng.uniform(80, 160) * light
    return np.clip(np.rint(grey + noise), 0, 255).astype(np.uint8)
