"""A generated competition of large images, in the layout of HuBMAP: slides of kidney with glomeruli.

A slide is far larger than a network's input, much of it is glass, and glomeruli cover a few percent of the tissue. The
slides are TIFFs of JPEG tiles, as scanners write them.

- Tissue is a patch with a ragged border on glass. It is full of tubules: rings of pink wall around a pale lumen.
- A glomerulus is a ball of capillaries: darker, with more nuclei, inside the white gap of its capsule.
- Vessels have a thick wall and an empty lumen. Infiltrates are as dark as a glomerulus and have as many nuclei. So
  size, darkness or a pale gap alone do not identify a glomerulus.
- Stain, brightness and sharpness differ from slide to slide.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile

from pipeline.demos.salt import Example, mask_text, smooth_noise, start_example, write_competition

HEIGHT, WIDTH = 3000, 4000  # pixels
TILE, QUALITY = 256, 90  # of the TIFF files: pixels a side, and JPEG quality from 1 to 100
DOWNSCALING = 16  # smooth fields are drawn at this fraction of the size and enlarged
GLASS = np.array([244, 243, 246], np.float32)  # RGB
NUCLEUS = np.array([92, 62, 138], np.float32)  # RGB


def make_large_demo(root: Path, seed: int = 0, train: int = 4, test: int = 2) -> None:
    """Write a competition of generated slides: the same images for the same seed.

    Writes:
        train/images/<id>.tif, test/images/<id>.tif, train.csv, sample_submission.csv, and solution.csv with the masks
        of the test images.

    The folder appears complete or not at all.

    Raises:
        FileExistsError: if `root` already exists.
    """
    draw = partial(draw_slide, seed)
    write_competition(root, ("id", "rle"), draw, mask_text, (train, test), suffix=".tif", write=write_tiles)


def write_tiles(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8 as a TIFF of JPEG tiles."""
    options = {"tile": (TILE, TILE), "compression": "jpeg", "compressionargs": {"level": QUALITY}}
    tifffile.imwrite(path, image, photometric="rgb", metadata=None, **options)


def draw_slide(seed: int, part: int, number: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Example:
    """Draw one example, whose mask is 1 for glomeruli; it depends on these numbers only.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
        shape: height and width, pixels.
    """
    rng, image_id = start_example(seed, part, number)
    tissue = draw_tissue(rng, shape)
    image = draw_stain(rng, tissue)
    draw_tubules(rng, image, tissue)
    draw_vessels(rng, image, tissue)
    scatter_nuclei(rng, image, tissue, tissue.sum() / 1100)
    draw_infiltrates(rng, image, tissue)
    mask = draw_glomeruli(rng, image, tissue)
    scatter_nuclei(rng, image, cv2.erode(mask, np.ones((9, 9), np.uint8)), mask.sum() / 230)
    return Example(image_id, add_scanner_effects(rng, image, tissue), mask)


def draw_tissue(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """The mask of the tissue, (H, W) uint8: a patch with a ragged border over about half of the slide."""
    small = [-(-side // DOWNSCALING) for side in shape]
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in small)
    centre = rng.uniform(-0.2, 0.2, 2)
    distance = np.hypot((rows[:, None] - centre[0]) / rng.uniform(0.7, 0.95), (columns - centre[1]) / 0.85)
    ragged = 0.13 * smooth_noise(rng, small[1] / 12, small[0] / 12, tuple(small)) - distance
    fine = cv2.resize(ragged, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (fine > -0.95).astype(np.uint8)


def draw_stain(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """The tissue in this slide's stain, with varying depth, on glass: (H, W, 3) float32."""
    pink = np.array([222, 172, 200], np.float32) + rng.normal(0, 1.2, 3).astype(np.float32)
    small = tuple(-(-side // DOWNSCALING) for side in tissue.shape)
    depth = cv2.resize(8 * smooth_noise(rng, 9, 9, small), tissue.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(tissue[..., None] == 1, pink - depth[..., None], GLASS)


def draw_tubules(rng: np.random.Generator, image: np.ndarray, tissue: np.ndarray) -> None:
    """Draw tubules into the image (H, W, 3): densely packed rings of wall around a lumen."""
    for row, column in _random_places(rng, tissue, count=int(tissue.sum() / 900)):
        axes = rng.uniform(9, 22, 2)
        angle, wall = rng.uniform(0, 180), np.array([205, 140, 180]) + rng.normal(0, 9, 3)
        _ellipse(image, (row, column), axes, angle, wall)
        _ellipse(image, (row, column), axes * rng.uniform(0.3, 0.55), angle, np.array([238, 216, 228]))


def draw_vessels(rng: np.random.Generator, image: np.ndarray, tissue: np.ndarray) -> None:
    """Draw vessels into the image (H, W, 3): as round and large as a glomerulus, with a thick wall, and empty."""
    for row, column in _random_places(rng, tissue, count=int(tissue.sum() / 250_000)):
        axes = rng.uniform(22, 55, 2)
        angle = rng.uniform(0, 180)
        _ellipse(image, (row, column), axes, angle, np.array([188, 120, 168]) + rng.normal(0, 8, 3))
        _ellipse(image, (row, column), axes * rng.uniform(0.5, 0.75), angle, GLASS)


def draw_infiltrates(rng: np.random.Generator, image: np.ndarray, tissue: np.ndarray) -> None:
    """Draw infiltrates into the image (H, W, 3): clusters of nuclei, dark and round, without a capsule."""
    for row, column in _random_places(rng, tissue, count=int(tissue.sum() / 250_000)):
        radius = rng.uniform(20, 45)
        cv2.fillPoly(image, [_outline(rng, (row, column), radius)], (190 + rng.normal(0, 6, 3) - (0, 55, 12)).tolist())
        for place in rng.normal((row, column), radius / 2.2, (int(radius * 1.5), 2)):
            _ellipse(image, place, rng.uniform(2.2, 4.5, 2), rng.uniform(0, 180), NUCLEUS + rng.normal(0, 12, 3))


def draw_glomeruli(rng: np.random.Generator, image: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """Draw glomeruli into the image: balls of capillaries in the gap of a capsule. Returns their mask, (H, W) uint8."""
    mask = np.zeros(tissue.shape, np.uint8)
    tuft = np.array([182, 118, 170], np.float32) + rng.normal(0, 1.2, 3).astype(np.float32)
    for row, column in _random_places(rng, cv2.erode(tissue, np.ones((61, 61), np.uint8)), int(tissue.sum() / 130_000)):
        radius = rng.uniform(28, 52)
        outline = _outline(rng, (row, column), radius)
        cv2.fillPoly(image, [_outline(rng, (row, column), radius + rng.uniform(1, 9))], (240, 228, 238))
        cv2.fillPoly(mask, [outline], 1)
        cv2.fillPoly(image, [outline], tuft.tolist())
        for loop_row, loop_column in rng.normal((row, column), radius / 2.6, (int(radius), 2)):
            _ellipse(image, (loop_row, loop_column), rng.uniform(3, 7, 2), rng.uniform(0, 180), tuft + 34)
    return mask


def scatter_nuclei(rng: np.random.Generator, image: np.ndarray, where: np.ndarray, count: float) -> None:
    """Draw dark spots of a few pixels into the image (H, W, 3), at about `count` places where `where` (H, W) is set."""
    for row, column in _random_places(rng, where, int(count)):
        _ellipse(image, (row, column), rng.uniform(2.2, 4.5, 2), rng.uniform(0, 180), NUCLEUS + rng.normal(0, 12, 3))


def add_scanner_effects(rng: np.random.Generator, image: np.ndarray, tissue: np.ndarray) -> np.ndarray:
    """The scanned slide: this slide's stain, blur and noise; (H, W, 3) float32 to uint8."""
    # Larger differences of stain could not be learned from two training slides.
    stain = rng.normal(1, 0.005, 3).astype(np.float32)
    image = np.where(tissue[..., None] == 1, image * stain, image)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(1.0, 1.2))
    noise = rng.standard_normal(image.shape[:2], dtype=np.float32) * rng.uniform(3, 4)
    return np.clip(np.rint(image + noise[..., None]), 0, 255).astype(np.uint8)


def _random_places(rng: np.random.Generator, where: np.ndarray, count: int) -> np.ndarray:
    """About `count` random rows and columns, (N, 2), at which `where` is set."""
    share = max(where.mean(), 1e-9)
    tried = np.stack([rng.integers(side, size=round(count / share)) for side in where.shape], axis=1)
    return tried[where[tried[:, 0], tried[:, 1]] == 1]


def _ellipse(image: np.ndarray, place: tuple[float, float], axes: np.ndarray, angle: float, colour: np.ndarray) -> None:
    row, column = place
    size = tuple(np.maximum(1, np.rint(axes)).astype(int).tolist())
    cv2.ellipse(image, (round(column), round(row)), size, angle, 0, 360, colour.tolist(), cv2.FILLED)


def _outline(rng: np.random.Generator, place: tuple[float, float], radius: float) -> np.ndarray:
    """A round shape with lobes: the points (x, y) of a polygon, (48, 2) int32."""
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = sum(rng.normal(0, 0.05) * np.cos(lobes * angles + rng.uniform(0, 7)) for lobes in (2, 3, 5))
    reach = radius * (1 + waves)
    points = np.stack([place[1] + reach * np.cos(angles), place[0] + reach * np.sin(angles)], axis=1)
    return np.rint(points).astype(np.int32)
