"""How often the doctor is right about how masks are read: false alarms on right files, and mistakes that it catches."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


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


def lit(rng: np.random.Generator, mask: np.ndarray, contrast: float = 50) -> np.ndarray:
    """An image of what a mask covers: brighter or darker, on a background of soft structures and noise."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
    side = rng.choice([-1, 1])
    return grey(120 + side * contrast * soft + 12 * noise(rng, mask.shape, 9, 9) + rng.normal(0, 8, mask.shape))


def vessels(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Thin dark branching lines in a round field of view, drawn by hand: one pixel beside, at times too wide."""
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


def defects(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
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


def coarse(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks by block of 16×16 pixels, a few blocks too large."""
    true = blobs(rng, shape)
    small = cv2.resize(true, (max(1, shape[1] // 16), max(1, shape[0] // 16)), interpolation=cv2.INTER_AREA)
    small = cv2.dilate(cv2.resize(true.astype(np.float32), small.shape[::-1], interpolation=cv2.INTER_AREA), None)
    mask = cv2.resize((small > 0.2).astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return lit(rng, true, 40), mask


def polygons(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Objects within outlines of five to nine clicks, wider than they are."""
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
    return lit(rng, true, 35), mask


def half_resolution(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks that were drawn on an image of half the size, and enlarged."""
    true = blobs(rng, shape, (3, 12))
    half = true[1::2, 1::2]
    return lit(rng, true), cv2.resize(half, shape[::-1], interpolation=cv2.INTER_NEAREST)


def plants(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Narrow leaves around a stem on rough soil, drawn a pixel too wide and one pixel beside."""
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


def one_place(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One organ at about the same place of every image, beside brighter things that are none."""
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


def horizon(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All above a level line in haze, over rough ground: an outline where the image hardly changes."""
    level = rng.uniform(0.25, 0.7) * shape[0] + 1.5 * noise(rng, (1, shape[1]), 30, 1)
    above = (np.arange(shape[0])[:, None] < level).astype(np.float32)
    haze = cv2.GaussianBlur(above, (0, 0), 12.0)
    image = 110 + 40 * haze + (1 - haze) * 30 * noise(rng, shape, 2, 4) + rng.normal(0, 4, shape)
    return grey(image), above.astype(np.uint8)


def stripes(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Upright lines of one to three pixels, from the upper edge to the lower one or a part of it: cracks, wires."""
    mask = np.zeros(shape, np.uint8)
    for _ in range(rng.integers(1, 8)):
        x, wide = int(rng.uniform(0, shape[1])), int(rng.integers(1, 4))
        top, bottom = sorted(rng.uniform(-0.2, 1.2, 2) * shape[0])
        mask[max(0, int(top)) : max(0, int(bottom)), x : x + wide] = 1
    return lit(rng, mask, 25), mask


def invisible(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Masks of what an image does not show, as of what is known from elsewhere."""
    return lit(rng, blobs(rng, shape)), blobs(rng, shape)


class Kind(NamedTuple):
    """One kind of generated set."""

    draw: Draw
    images: int
    square: tuple[int, int]
    oblong: tuple[int, int]


KINDS = {
    "vessels": Kind(vessels, 20, (300, 300), (292, 282)),
    "defects": Kind(defects, 200, (160, 160), (100, 240)),
    "coarse": Kind(coarse, 60, (256, 256), (240, 320)),
    "polygons": Kind(polygons, 60, (200, 200), (180, 240)),
    "half resolution": Kind(half_resolution, 60, (200, 200), (240, 180)),
    "plants": Kind(plants, 40, (320, 320), (240, 324)),
    "one place": Kind(one_place, 60, (128, 128), (120, 140)),
    "horizon": Kind(horizon, 60, (200, 200), (128, 400)),
    "stripes": Kind(stripes, 60, (200, 200), (320, 128)),
    "invisible": Kind(invisible, 60, (128, 128), (100, 140)),
}


def draw_set(kind: Kind, shape: str, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(kind.images):
        yield kind.draw(rng, getattr(kind, shape))
