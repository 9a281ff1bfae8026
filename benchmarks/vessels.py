"""A generated competition of thin, branching vessels, for the study of losses.

A tree begins at an edge, bends at random, narrows, and branches. Vessels are faint lines on a smooth background, with
stretches that are almost invisible, and of 1 to 5 pixels; the other lines, straight and bright, are none.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.demos.salt import Example, mask_text, smooth_noise, start_example, write_competition

SIDE = 128  # pixels
SHAPE = SIDE, SIDE
COLUMNS = "id", "rle_mask"


def make_vessels(root: Path, seed: int = 0, train: int = 300, test: int = 10) -> None:
    """Write the competition: the same files for the same seed.

    Raises:
        FileExistsError: if `root` already exists.
    """
    write_competition(root, COLUMNS, partial(draw_vessels, seed), mask_text, (train, test))


def draw_vessels(seed: int, part: int, number: int) -> Example:
    """Draw one example, whose mask is 1 for a vessel; it depends on these three numbers only."""
    rng, image_id = start_example(seed, part, number)
    mask, light = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32)
    for _ in range(rng.integers(1, 4)):
        start = rng.uniform(0, SIDE, 2)
        start[rng.integers(2)] = 0 if rng.random() < 0.5 else SIDE - 1
        heading = np.arctan2(*(np.full(2, SIDE / 2) - start)[::-1]) + rng.normal(0, 0.4)
        _grow(rng, mask, light, start, heading, width=rng.uniform(3, 5))
    visible = np.clip(0.75 + 0.35 * smooth_noise(rng, 9, 9, SHAPE), 0.1, 1)
    for _ in range(rng.integers(0, 3)):
        ends = rng.integers(0, SIDE, (2, 2))
        cv2.line(light, *[tuple(map(int, end)) for end in ends], -rng.uniform(0.5, 1.0), int(rng.integers(1, 3)))
    background = 110 + 18 * smooth_noise(rng, 20, 20, SHAPE) + 12 * rng.standard_normal(SHAPE)
    image = background - 45 * visible * cv2.GaussianBlur(light, (0, 0), 0.8)
    return Example(image_id, np.clip(np.rint(image), 0, 255).astype(np.uint8), mask)


def _grow(
    rng: np.random.Generator, mask: np.ndarray, light: np.ndarray, place: np.ndarray, heading: float, width: float
) -> None:
    """Draw a vessel from a place, and its branches, into mask and light."""
    while width >= 1 and ((place >= 0) & (place < SIDE)).all():
        after = place + 4 * np.array([np.cos(heading), np.sin(heading)])
        ends = [tuple(int(value) for value in np.rint(each)) for each in (place, after)]
        for canvas in (mask, light):
            cv2.line(canvas, *ends, 1, max(1, round(width)))
        if rng.random() < 0.09:
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
            _grow(rng, mask, light, after, heading + turn, 0.75 * width)
            width, heading = 0.9 * width, heading - 0.4 * turn
        place, heading, width = after, heading + rng.normal(0, 0.15), width - rng.uniform(0, 0.12)
