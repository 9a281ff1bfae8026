"""A generated competition of volumes: tubes that one slice alone does not show, in the layout of a folder of slices.

A volume is a stack of slices. Its tubes run through all of them and move by a pixel or so from one to the next; the
mask is their cross-section. Every slice also shows blobs that look exactly like cross-sections, at places of its own.
So a slice alone says where a tube may be, and its neighbours say where it is.
"""

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.demos.salt import Example, mask_text, smooth_noise, start_example, write_competition

HEIGHT, WIDTH = 64, 80  # pixels; not square, so that swapped axes are noticed
SHAPE = HEIGHT, WIDTH
SLICES = 12  # of a volume
TUBES = 2
BLOBS = 8  # of each slice, beside the tubes
RADIUS = 3.0, 5.5  # pixels, of tubes and blobs
DRIFT = 1.0  # pixels by which a tube moves from slice to slice, standard deviation along each axis
COLUMNS = "id", "rle"

# Pixel coordinates: DOWN grows downwards, ACROSS to the right.
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


def make_volumes_demo(root: Path, seed: int = 0, train: int = 288, test: int = 96) -> None:
    """Write a competition of generated volumes: the same files for the same seed.

    Writes:
        train/images/<volume>_<slice>.png, test/images/<volume>_<slice>.png, train.csv, sample_submission.csv, and
        solution.csv with the masks of the test images.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training slices, SLICES for each volume; a smaller set is the beginning of a larger one.
        test: number of test slices, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    write_competition(root, COLUMNS, partial(draw_slice, seed), mask_text, (train, test))


def draw_slice(seed: int, part: int, number: int) -> Example:
    """Draw one slice, whose mask is 1 for a tube; it depends on these three numbers only.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0; SLICES consecutive ones are a volume.
    """
    volume, depth = divmod(number, SLICES)
    rng, volume_id = start_example(seed, part, volume)
    tubes = np.max([draw_tube(rng)[depth] for _ in range(TUBES)], axis=0)
    rng = np.random.default_rng((seed, part, volume, depth))
    blobs = [draw_disc(*rng.uniform((0, 0), SHAPE), rng.uniform(*RADIUS)) for _ in range(BLOBS)]
    tissue = 90 + 12 * smooth_noise(rng, 4, 4, SHAPE) + 70 * np.max([tubes, *blobs], axis=0)
    grey = tissue + 8 * smooth_noise(rng, 0.6, 0.6, SHAPE)
    image = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return Example(f"{volume_id}_{depth:02}", image, (tubes >= 0.5).astype(np.uint8))


def draw_tube(rng: np.random.Generator) -> np.ndarray:
    """The cross-sections of a tube, (SLICES, H, W) float32: the share of each pixel that it covers."""
    radius = rng.uniform(*RADIUS)
    start = rng.uniform((8, 8), (HEIGHT - 8, WIDTH - 8))
    path = start + np.cumsum(rng.normal(0, DRIFT, (SLICES, 2)), axis=0)
    return np.stack([draw_disc(down, across, radius) for down, across in path])


def draw_disc(down: float, across: float, radius: float) -> np.ndarray:
    """The share of each pixel that a disc covers, (H, W) float32, its edge one pixel wide."""
    distance = np.hypot(DOWN - down, ACROSS - across)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
