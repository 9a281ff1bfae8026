"""A generated competition of several exclusive classes with void pixels, in the layout of CamVid: small street scenes.

A camera looks along a road.

- Colour alone does not decide: each image has its own light, sky and paint; walls and cars have any colour, also that
  of the sky or the road. Shape, texture and position decide.
- The frequencies of the classes differ more than tenfold: much sky, road and vegetation, few cars and poles.
- Objects occlude each other and are larger near the camera.
- Some pixels are void, as in CamVid: the seams between objects, where labels are inexact, the bonnet of the camera's
  car, and people and bins on the verge, which have no class. No loss or metric may count them.

Objects are painted one over the other, in the image and in the labels, so each pixel has one class.
"""

import colorsys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from pipeline import rle
from pipeline.demos.salt import TEST, TRAIN, Example, smooth_noise, start_example, write_images, write_table
from pipeline.files import atomic_folder

HEIGHT, WIDTH = 96, 128  # pixels; not square, so that swapped axes are noticed
SHAPE = HEIGHT, WIDTH
CLASSES = "sky", "building", "vegetation", "road", "car", "pole"  # a class's position is its code in a label file
SKY, BUILDING, VEGETATION, ROAD, CAR, POLE = range(6)
VOID = 11  # not next to the other codes, so that code that mistakes it for a number of classes fails
PALETTE = {  # the colour of each code in an image viewer; the pipeline does not read it
    SKY: (128, 180, 220),
    BUILDING: (140, 60, 50),
    VEGETATION: (90, 140, 30),
    ROAD: (120, 80, 130),
    CAR: (30, 40, 160),
    POLE: (220, 210, 130),
    VOID: (0, 0, 0),
}
COLUMNS = "id", "class", "predicted"

# Pixel coordinates: DOWN grows downwards, ACROSS to the right.
DOWN, ACROSS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)


class Camera(NamedTuple):
    """The camera's perspective, which all objects of a scene share."""

    horizon: float  # row of the road's vanishing point
    vanishing: float  # column of the road's vanishing point
    left: float  # column of the road's left edge on the last row; may be outside the image
    right: float  # likewise, the right edge

    def scale(self, row: float | np.ndarray) -> float | np.ndarray:
        """The size of an object on a row, 0 at the horizon to 1 on the last row; a scalar or (H, W), as the row."""
        return (row - self.horizon) / (HEIGHT - 1 - self.horizon)

    def edges(self, row: float | np.ndarray) -> tuple[float | np.ndarray, float | np.ndarray]:
        """The columns of the road's left and right edge on a row below the horizon; scalars or (H, W), as the row."""
        scale = self.scale(row)
        return tuple(self.vanishing + (end - self.vanishing) * scale for end in (self.left, self.right))


class Canvas:
    """An image and its labels, which are painted together.

    Shapes:
        image: (HEIGHT, WIDTH, 3) float32, about 0 to 1.
        labels: (HEIGHT, WIDTH) uint8.
    """

    def __init__(self):
        self.image = np.zeros((*SHAPE, 3), np.float32)
        self.labels = np.full(SHAPE, VOID, np.uint8)

    def paint(self, where: np.ndarray, colour: np.ndarray, code: int) -> None:
        """Paint pixels, (H, W) bool, with a colour, (3,) or (H, W, 3), and label them with a class code."""
        self.image[where] = np.broadcast_to(colour, self.image.shape)[where]
        self.labels[where] = code


def make_camvid_demo(root: Path, seed: int = 0, train: int = 240, test: int = 60) -> None:
    """Write a competition of generated street scenes: the same files for the same seed.

    Writes:
        train/images/<id>.png, train/labels/<id>.png (palette PNG whose indices are the codes of CLASSES and VOID),
        test/images/<id>.png, and two tables with a row per image and class: sample_submission.csv with blank masks,
        and solution.csv with the masks of the test images, which a real competition keeps secret. It has one more row
        per image, of the class "void": the pixels that the metric ignores.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training images; a smaller set is the beginning of a larger one.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    with atomic_folder(root) as folder:
        (folder / "train" / "labels").mkdir(parents=True)
        for scene in write_images(folder / "train" / "images", partial(draw_street_image, seed, TRAIN), train):
            write_labels(folder / "train" / "labels" / f"{scene.image_id}.png", scene.labels)
        scenes = write_images(folder / "test" / "images", partial(draw_street_image, seed, TEST), test)
        rows = [row for scene in scenes for row in solution_rows(scene)]
        write_table(folder / "solution.csv", COLUMNS, rows)
        blank = [(image_id, name, "") for image_id, name, _ in rows if name != "void"]
        write_table(folder / "sample_submission.csv", COLUMNS, blank)


def solution_rows(scene: Example) -> list[tuple[str, str, str]]:
    """The image id, class and RLE text of each class, in the order of CLASSES, and of void."""
    codes = {**{name: code for code, name in enumerate(CLASSES)}, "void": VOID}
    return [(scene.image_id, name, rle.encode(scene.labels == code)) for name, code in codes.items()]


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write class codes (H, W) uint8 as a palette PNG with the colours of PALETTE."""
    colours = np.zeros((256, 3), np.uint8)
    colours[list(PALETTE)] = list(PALETTE.values())
    picture = Image.fromarray(labels)
    picture.putpalette(colours.tobytes())
    picture.save(path)


def draw_street_image(seed: int, part: int, number: int) -> Example:
    """Draw one example, which depends on these three numbers only.

    Its labels are (HEIGHT, WIDTH) uint8, the codes of CLASSES and VOID.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
    """
    rng, image_id = start_example(seed, part, number)
    camera = Camera(rng.uniform(28, 46), rng.uniform(44, 84), rng.uniform(-45, 20), rng.uniform(108, 173))
    canvas = Canvas()
    for paint in (paint_sky, paint_land, paint_buildings, paint_road, paint_objects):
        paint(rng, canvas, camera)
    labels = add_void_seams(canvas.labels)
    return Example(image_id, add_camera_effects(rng, canvas.image, camera), labels)


def draw_colour(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """A random colour, (3,) float32 RGB from 0 to 1, from ranges of hue (modulo 1), saturation and value (0 to 1)."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)


def add_texture(
    rng: np.random.Generator, colour: np.ndarray, strength: float, across: float, depth: float
) -> np.ndarray:
    """A colour (3,) with varying brightness, (H, W, 3).

    Args:
        strength: standard deviation of the brightness, as a share of the colour.
        across, depth: size of the variation along rows and columns, pixels.
    """
    return colour * (1 + strength * smooth_noise(rng, across, depth, SHAPE))[..., None]


def paint_sky(rng: np.random.Generator, canvas: Canvas, camera: Camera) -> None:
    """Paint the sky: a gradient, brighter towards the horizon, with flat clouds."""
    top = draw_colour(rng, (0.52, 0.72), (0.0, 0.6), (0.5, 0.95))
    low = draw_colour(rng, (-0.05, 0.65), (0.0, 0.3), (0.75, 1.0))
    share = np.clip(DOWN / camera.horizon, 0, 1)[..., None]
    clouds = np.clip(smooth_noise(rng, 16, 4, SHAPE) * rng.uniform(0, 0.5), 0, 1)[..., None]
    canvas.paint(DOWN >= 0, (top * (1 - share) + low * share) * (1 - clouds) + clouds, SKY)


def paint_land(rng: np.random.Generator, canvas: Canvas, camera: Camera) -> None:
    """Paint grass below the horizon, and a wooded ridge above it."""
    ridge = camera.horizon - rng.uniform(0, 9) * (1 + 0.6 * smooth_noise(rng, 12, 1000, SHAPE))
    wood = add_texture(rng, draw_colour(rng, (0.12, 0.42), (0.15, 0.6), (0.2, 0.55)), 0.12, 1.2, 1.2)
    grass = add_texture(rng, draw_colour(rng, (0.1, 0.36), (0.2, 0.65), (0.3, 0.7)), 0.13, 1.6, 0.7)
    canvas.paint(ridge < DOWN, wood, VEGETATION)
    canvas.paint(camera.horizon < DOWN, grass, VEGETATION)


def paint_buildings(rng: np.random.Generator, canvas: Canvas, camera: Camera) -> None:
    """Paint houses along the horizon, from far to near."""
    for nearness in np.sort(rng.uniform(0, 1, rng.integers(1, 6))):
        paint_building(rng, canvas, camera.horizon + 1 + 9 * nearness, 1 + nearness)


def paint_building(rng: np.random.Generator, canvas: Canvas, foot: float, scale: float) -> None:
    """Paint a wall with rows of windows, and a flat or pitched roof of another colour.

    Args:
        foot: row on which the building stands.
        scale: relative size.
    """
    left, width = rng.uniform(-10, WIDTH - 8), scale * rng.uniform(9, 22)
    top = foot - scale * rng.uniform(10, 26)
    pitch = rng.choice([0.0, rng.uniform(0.3, 0.8)])
    middle = np.abs(ACROSS - left - width / 2)
    front = (middle <= width / 2) & (foot >= DOWN)
    wall = add_texture(rng, draw_colour(rng, (0, 1), (0.0, 0.45), (0.25, 0.95)), 0.03, 4, 4)
    canvas.paint(front & (top <= DOWN), wall, BUILDING)
    roof = front & (top > DOWN) & (top - pitch * (width / 2 - middle) < DOWN)
    canvas.paint(roof, add_texture(rng, draw_colour(rng, (-0.05, 0.1), (0.1, 0.6), (0.2, 0.6)), 0.05, 3, 0.7), BUILDING)
    spacing = rng.uniform(3.2, 5.5) * scale
    column, row = (ACROSS - left) % spacing, (DOWN - top) % spacing
    panes = (column > spacing * 0.45) & (row > spacing * rng.uniform(0.4, 0.6))
    glass = draw_colour(rng, (0.5, 0.7), (0.0, 0.4), (0.05, 0.9))
    canvas.paint(front & (top + 1 <= DOWN) & panes, glass, BUILDING)


def paint_road(rng: np.random.Generator, canvas: Canvas, camera: Camera) -> None:
    """Paint the road to the vanishing point, with a dashed line and patches of shadow."""
    left, right = camera.edges(DOWN)
    road = (camera.horizon < DOWN) & (left <= ACROSS) & (right >= ACROSS)
    asphalt = add_texture(rng, draw_colour(rng, (0, 1), (0.0, 0.15), (0.25, 0.7)), 0.04, 0.7, 0.7)
    shadow = 1 - rng.uniform(0.1, 0.5) * (smooth_noise(rng, 14, 3, SHAPE) > rng.uniform(0.5, 2))
    canvas.paint(road, asphalt * shadow[..., None], ROAD)
    scale = np.maximum(camera.scale(DOWN), 1e-3)
    dash = (np.abs(ACROSS - (left + right) / 2) < 2 * scale) & ((rng.uniform(0, 1) + 1.2 / (scale + 0.1)) % 1 < 0.5)
    canvas.paint(road & dash, np.float32(rng.uniform(0.7, 1)), ROAD)


def paint_objects(rng: np.random.Generator, canvas: Canvas, camera: Camera) -> None:
    """Paint the objects on the ground, from far to near, and in some images the bonnet of the camera's car."""
    counts = rng.integers((1, 0, 2, 0), (6, 4, 7, 3))
    kinds = rng.permutation(np.repeat([paint_tree, paint_car, paint_pole, paint_unlabelled], counts))
    # The square distributes objects evenly on the ground, so that more of them appear far away.
    rows = camera.horizon + 3 + (HEIGHT - 8 - camera.horizon) * rng.uniform(0.1, 1, len(kinds)) ** 2
    for row, paint in zip(np.sort(rows), kinds, strict=True):
        paint(rng, canvas, camera, row)
    if rng.random() < 0.3:
        bonnet = HEIGHT - rng.uniform(4, 9) + ((ACROSS - WIDTH / 2) / rng.uniform(20, 30)) ** 2 < DOWN
        canvas.paint(bonnet, add_texture(rng, draw_colour(rng, (0, 1), (0, 0.8), (0.1, 0.9)), 0.05, 10, 2), VOID)


def column_on_verge(rng: np.random.Generator, camera: Camera, row: float, gap: float) -> float:
    """A random column on the verge, `gap` to `gap` + 30 pixels from the road, scaled by the row's size."""
    left, right = camera.edges(row)
    away = (gap + rng.uniform(0, 30)) * camera.scale(row)
    return left - away if rng.random() < 0.5 else right + away


def paint_tree(rng: np.random.Generator, canvas: Canvas, camera: Camera, row: float) -> None:
    """Paint a tree: a trunk and a ragged crown of overlapping discs; or a bush, whose trunk is hidden."""
    scale = 0.25 + camera.scale(row)
    column = column_on_verge(rng, camera, row, 8)
    radius, trunk = rng.uniform(8, 15) * scale, rng.uniform(0, 22) * scale
    bark = draw_colour(rng, (0.03, 0.1), (0.1, 0.5), (0.1, 0.4))
    trunk_pixels = (np.abs(ACROSS - column) < 1.6 * scale) & (row >= DOWN) & (row - trunk - radius < DOWN)
    canvas.paint(trunk_pixels, bark, VEGETATION)
    crown = 0.25 * smooth_noise(rng, 1.5, 1.5, SHAPE)
    reach = np.full(SHAPE, np.inf, np.float32)
    for _ in range(5):
        x, y = column + rng.normal(0, 0.45) * radius, row - trunk - radius * (0.8 + rng.normal(0, 0.35))
        reach = np.minimum(reach, np.hypot(ACROSS - x, DOWN - y) / (0.75 * radius))
    leaves = draw_colour(rng, (0.08, 0.42), (0.25, 0.75), (0.15, 0.6))
    canvas.paint((reach + crown < 1) & (row >= DOWN), add_texture(rng, leaves, 0.25, 1, 1), VEGETATION)


def paint_car(rng: np.random.Generator, canvas: Canvas, camera: Camera, row: float) -> None:
    """Paint a car from behind or from the front: body, cabin with a window, wheels, lamps."""
    left, right = camera.edges(row)
    half = max(4.0, 0.15 * (right - left) * rng.uniform(0.8, 1.15))
    column = left + (right - left) * rng.choice([0.27, 0.73]) + rng.normal(0, 0.15) * half
    up, aside = (row - DOWN) / half, np.abs(ACROSS - column) / half  # in half widths of the car
    paint = draw_colour(rng, (0, 1), (0.0, 0.9), (0.1, 0.95))
    height = rng.uniform(1.1, 1.6)
    canvas.paint((up >= 0) & (up < 0.25) & (np.abs(aside - 0.75) < 0.2), np.float32(0.05), CAR)  # wheels
    canvas.paint((up >= 0.18) & (up < 0.75) & (aside <= 1), paint * 0.9, CAR)
    canvas.paint((up >= 0.75) & (up < height) & (aside <= 1.05 - 0.35 * up), paint, CAR)
    canvas.paint((up >= 0.8) & (up < height - 0.15) & (aside <= 0.9 - 0.35 * up), paint * 0.15 + 0.1, CAR)
    lamps = draw_colour(rng, *rng.choice([[(0.0, 0.02), (0.7, 1), (0.6, 1)], [(0.1, 0.15), (0.1, 0.3), (0.9, 1)]]))
    canvas.paint((np.abs(up - 0.55) < 0.1) & (np.abs(aside - 0.8) < 0.17), lamps, CAR)


def paint_pole(rng: np.random.Generator, canvas: Canvas, camera: Camera, row: float) -> None:
    """Paint a pole with a lamp over the road, a round sign or a square sign."""
    scale = 0.3 + camera.scale(row)
    column, height = column_on_verge(rng, camera, row, 3), rng.uniform(26, 42) * scale
    grey = draw_colour(rng, (0, 1), (0.0, 0.15), (0.15, 0.85))
    thick = max(1.2, 1.7 * scale)
    canvas.paint((np.abs(ACROSS - column) < thick) & (row >= DOWN) & (row - height <= DOWN), grey, POLE)
    x, y = np.abs(ACROSS - column), np.abs(DOWN - row + height)
    size = rng.uniform(3.5, 5.5) * scale
    inwards = (camera.vanishing - column) * (ACROSS - column) >= 0
    head = [inwards & (x < 2.2 * size) & (y < max(1.2, 1.4 * scale)), np.hypot(x, y) < size, (x < size) & (y < size)]
    canvas.paint(head[rng.integers(3)], draw_colour(rng, (0, 1), (0.0, 0.9), (0.3, 1)), POLE)


def paint_unlabelled(rng: np.random.Generator, canvas: Canvas, camera: Camera, row: float) -> None:
    """Paint a person or a bin on the verge: void, since there is no class for it."""
    scale = 0.3 + camera.scale(row)
    column, half, height = column_on_verge(rng, camera, row, 2), rng.uniform(1.8, 3) * scale, rng.uniform(5, 13) * scale
    body = (np.abs(ACROSS - column) < half) & (row >= DOWN) & (row - height < DOWN)
    canvas.paint(body, draw_colour(rng, (0, 1), (0.0, 0.9), (0.1, 0.9)), VOID)
    head = np.hypot(ACROSS - column, DOWN - row + height + half) < 0.8 * half
    canvas.paint(head, draw_colour(rng, (0.03, 0.1), (0.2, 0.5), (0.3, 0.9)), VOID)


def add_void_seams(labels: np.ndarray) -> np.ndarray:
    """Labels (H, W) uint8 with a void seam of one pixel between objects. Poles get none: they would disappear."""
    corner = np.ones((2, 2), np.uint8)
    between = cv2.dilate(labels, corner) != cv2.erode(labels, corner)
    return np.where(between & (labels != POLE), VOID, labels).astype(np.uint8)


def add_camera_effects(rng: np.random.Generator, image: np.ndarray, camera: Camera) -> np.ndarray:
    """Add haze, this image's light, blur and noise; (H, W, 3) float32 to uint8."""
    far = np.exp(-np.abs(DOWN - camera.horizon) / 12)[..., None]
    haze = rng.uniform(0, 0.35) * far
    image = image * (1 - haze) + haze * rng.uniform(0.6, 0.9)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.6))
    light = rng.uniform(0.65, 1.1) * rng.uniform(0.88, 1.12, 3)
    noise = rng.uniform(0.01, 0.04) * rng.standard_normal(image.shape, dtype=np.float32)
    shade = np.clip(image * light + noise, 0, 1) ** rng.uniform(0.75, 1.3)
    return np.rint(255 * shade).astype(np.uint8)
