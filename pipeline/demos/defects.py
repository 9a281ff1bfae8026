"""A generated competition of rare and small objects: defects on rolled steel, in the layout of Severstal's first class.

70 % of the images show no defect, and a defect covers about .3 % of its image. A model that predicts nothing scores
about .7 by mean Dice, which counts an empty image predicted as empty as 1, and cross entropy favours it.

- Steel is rolled, so its texture runs across the image. Brightness, contrast and light differ from image to image.
- A scratch crosses the texture at a steep angle: a thin dark line with a bright burr on one side.
- A pit is a small dark hole with a bright rim on its lower side.
- Not defects, also in empty images: dark roll marks along the texture, from edge to edge; large, soft stains; small,
  bright, soft droplets. Neither darkness nor thinness alone separates them from defects.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.demos.salt import Example, mask_text, smooth_noise, start_example, write_competition

HEIGHT, WIDTH = 112, 144  # pixels; not square, so that swapped axes are noticed
SHAPE = HEIGHT, WIDTH
EMPTY_OF_TEN = 7  # images without a defect, of ten
COLUMNS = "ImageId", "EncodedPixels"
SUPERSAMPLING = 4  # lines are drawn at this multiple of the size and averaged, for soft edges

# Pixel coordinates: DOWN grows downwards, ACROSS to the right.
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


def make_defects_demo(root: Path, seed: int = 0, train: int = 360, test: int = 120) -> None:
    """Write a competition of generated steel surfaces: the same files for the same seed.

    Writes:
        train/images/<id>.png, test/images/<id>.png, train.csv, sample_submission.csv, and solution.csv with the masks
        of the test images. Every image has a row; the mask of an image without a defect is blank.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training images; a smaller set is the beginning of a larger one.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    write_competition(root, COLUMNS, partial(draw_steel_image, seed), mask_text, (train, test))


def draw_steel_image(seed: int, part: int, number: int) -> Example:
    """Draw one example, whose mask is 1 for a defect; it depends on these three numbers only.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
    """
    rng, image_id = start_example(seed, part, number)
    steel = draw_steel(rng)
    for draw, most in ((roll_mark, 2), (stain, 2), (droplet, 3)):
        for _ in range(rng.integers(0, most + 1)):
            steel += draw(rng)
    mask = np.zeros(SHAPE, np.uint8)
    # By the number, not at random, so that each set of ten has the same share. The ids are in random order.
    if number % 10 >= EMPTY_OF_TEN:
        for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
            light, share = (scratch if rng.random() < 0.5 else pit)(rng)
            steel += light
            mask |= (share >= 0.5).astype(np.uint8)
    return Example(image_id, to_grey_values(rng, steel), mask)


def draw_steel(rng: np.random.Generator) -> np.ndarray:
    """Rolled texture, (H, W) float32, standard deviation about 1."""
    strips = smooth_noise(rng, rng.uniform(12, 30), rng.uniform(0.7, 1.5), SHAPE)
    grain = smooth_noise(rng, 1.5, 0.6, SHAPE)
    return 0.8 * strips + 0.5 * grain


def roll_mark(rng: np.random.Generator) -> np.ndarray:
    """A dark line along the texture, from edge to edge: the brightness that it adds, (H, W)."""
    middle = rng.uniform(0, HEIGHT) + rng.normal(0, 0.05) * ACROSS
    return -rng.uniform(1.5, 3.5) * np.exp(-(((DOWN - middle) / rng.uniform(0.8, 1.6)) ** 2))


def stain(rng: np.random.Generator) -> np.ndarray:
    """A large, soft, dark ellipse: the brightness that it adds, (H, W)."""
    return -rng.uniform(0.8, 2.0) * _soft_ellipse(rng, rng.uniform(10, 30), rng.uniform(6, 16))


def droplet(rng: np.random.Generator) -> np.ndarray:
    """A small, soft, bright spot: the brightness that it adds, (H, W)."""
    radius = rng.uniform(2, 5)
    return rng.uniform(1.5, 3.5) * _soft_ellipse(rng, radius, radius)


def _soft_ellipse(rng: np.random.Generator, across: float, down: float) -> np.ndarray:
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    return np.exp(-(((ACROSS - x) / across) ** 2) - ((DOWN - y) / down) ** 2).astype(np.float32)


def scratch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bent, steep line: the brightness that it adds and the share of each pixel that it covers, (H, W) each."""
    angle, length, bend = rng.uniform(0.9, np.pi - 0.9), rng.uniform(12, 26), rng.normal(0, 2)
    along = np.linspace(-0.5, 0.5, 12)
    x = rng.uniform(8, WIDTH - 8) + length * along * np.cos(angle) + bend * (1 - 4 * along**2) * np.sin(angle)
    y = rng.uniform(14, HEIGHT - 14) + length * along * np.sin(angle) - bend * (1 - 4 * along**2) * np.cos(angle)
    share = _line(x, y, rng.uniform(1.8, 2.8))
    burr = _line(x + 2, y, 1.2)
    return rng.uniform(0.8, 1.6) * burr - rng.uniform(1.2, 2.6) * share, share


def pit(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A dark ellipse with a bright rim below: the brightness that it adds, and its share of each pixel, (H, W) each."""
    centre = rng.uniform(6, WIDTH - 6), rng.uniform(6, HEIGHT - 6)
    axes, angle = rng.uniform(1.8, 3.8, 2), rng.uniform(0, 180)
    share = _ellipse(centre, axes, angle)
    rim = np.clip(_ellipse((centre[0], centre[1] + 1.2), axes + 0.8, angle) - share, 0, None)
    return rng.uniform(1.0, 2.0) * rim - rng.uniform(1.2, 2.6) * share, share


def _line(x: np.ndarray, y: np.ndarray, width: float) -> np.ndarray:
    """The share of each pixel that a polyline covers, (H, W) float32."""
    points = np.rint(SUPERSAMPLING * np.stack([x, y], axis=1)).astype(np.int32)
    fine = np.zeros((SUPERSAMPLING * HEIGHT, SUPERSAMPLING * WIDTH), np.float32)
    cv2.polylines(fine, [points], False, 1.0, round(SUPERSAMPLING * width))
    return cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _ellipse(centre: tuple[float, float], axes: np.ndarray, angle: float) -> np.ndarray:
    """The share of each pixel that an ellipse covers, (H, W) float32."""
    fine = np.zeros((SUPERSAMPLING * HEIGHT, SUPERSAMPLING * WIDTH), np.float32)
    middle, radii = (tuple(round(SUPERSAMPLING * value) for value in pair) for pair in (centre, axes))
    cv2.ellipse(fine, middle, radii, angle, 0, 360, 1.0, cv2.FILLED)
    return cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def to_grey_values(rng: np.random.Generator, steel: np.ndarray) -> np.ndarray:
    """Convert brightness to grey values, (H, W) uint8, with noise and this image's light, brightness and contrast."""
    light = rng.normal(0, 0.6) * (ACROSS / WIDTH - 0.5) + rng.normal(0, 0.6) * (DOWN / HEIGHT - 0.5)
    noise = rng.uniform(0.1, 0.3) * smooth_noise(rng, 0.6, 0.6, SHAPE)
    grey = rng.uniform(100, 160) + rng.uniform(14, 24) * (steel + light + noise)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
