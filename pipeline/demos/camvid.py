"""A generated competition of several classes that exclude each other, with void: small street scenes.

A camera looks along a road. What a pixel shows follows what makes real streets hard.

- Colours say little: each image has its own light, sky and paint, walls and cars take any colour, and a wall may be
  as blue as the sky, a car as grey as the road. Shape, texture and place decide.
- The classes differ in frequency, more than tenfold: much sky, road and vegetation, few cars and poles.
- Things hide each other, from far to near, and grow towards the camera.
- Some pixels are void, as in CamVid: the seams between objects, where a labeller's hand is unsure, the bonnet of the
  car that carries the camera, and people and bins on the verge, for which there is no class. Neither a loss nor a
  metric may count them.

One layer is painted over the other, image and labels at once, so no pixel has two classes.
"""

import colorsys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from pipeline import rle
from pipeline.data.reader import write_image
from pipeline.demos.salt import TEST, TRAIN, draw_id, smooth_noise, write_table
from pipeline.files import atomic_folder

HEIGHT, WIDTH = 96, 128  # pixels; not square, so that a swapped axis shows
SHAPE = HEIGHT, WIDTH
CLASSES = ("sky", "building", "vegetation", "road", "car", "pole")  # a class's place is its code in a label file
SKY, BUILDING, VEGETATION, ROAD, CAR, POLE = range(6)
VOID = 11  # its code, away from the others': whoever takes the code for a number of classes notices
PALETTE = {  # what a viewer shows for a code; nothing reads it
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


class Scene(NamedTuple):
    """One generated example."""

    image_id: str  # ten hexadecimal digits
    image: np.ndarray  # (HEIGHT, WIDTH, 3) uint8
    labels: np.ndarray  # (HEIGHT, WIDTH) uint8, codes of CLASSES and VOID


class View(NamedTuple):
    """Where the camera stands: what all things of a scene share."""

    horizon: float  # row at which the road vanishes
    vanishing: float  # column at which it does
    left: float  # column of the road's left edge on the last row; may lie outside of the image
    right: float

    def scale(self, row: float | np.ndarray) -> float | np.ndarray:
        """Size of a thing that stands on a row, 0 at the horizon to 1 on the last row."""
        return (row - self.horizon) / (HEIGHT - 1 - self.horizon)

    def edges(self, row: float | np.ndarray) -> tuple[float | np.ndarray, float | np.ndarray]:
        """Columns of the road's edges on a row below the horizon."""
        scale = self.scale(row)
        return tuple(self.vanishing + (end - self.vanishing) * scale for end in (self.left, self.right))


class Canvas:
    """An image and its labels, painted together.

    Shapes:
        image: (HEIGHT, WIDTH, 3) float32, about 0 to 1.
        labels: (HEIGHT, WIDTH) uint8.
    """

    def __init__(self):
        self.image = np.zeros((*SHAPE, 3), np.float32)
        self.labels = np.full(SHAPE, VOID, np.uint8)

    def paint(self, where: np.ndarray, colour: np.ndarray, code: int) -> None:
        """Cover pixels, (H, W) bool, with a colour, (3,) or (H, W, 3), and with its class."""
        self.image[where] = np.broadcast_to(colour, self.image.shape)[where]
        self.labels[where] = code


def make_classes_demo(root: Path, seed: int = 0, train: int = 240, test: int = 60) -> None:
    """Write a competition of generated street scenes: the same files for the same seed.

    Writes:
        train/images/<id>.png, train/labels/<id>.png (palette PNG whose indices are the codes of CLASSES and VOID),
        test/images/<id>.png, and two tables with a row per image and class:
        sample_submission.csv, with blank masks, and solution.csv, the truth that a competition keeps to itself, with
        one more row per image: class "void", the pixels that the metric ignores.

    The folder appears whole or not at all.

    Args:
        root: the folder to make.
        seed: 0 or more.
        train: number of training images. Fewer are the first ones of more.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` is there already.
    """
    with atomic_folder(root) as partial:
        for folder in ("train/images", "train/labels", "test/images"):
            (partial / folder).mkdir(parents=True)
        for number in range(train):
            scene = draw_scene(seed, TRAIN, number)
            write_image(partial / "train" / "images" / f"{scene.image_id}.png", scene.image)
            write_labels(partial / "train" / "labels" / f"{scene.image_id}.png", scene.labels)
        rows = []
        for number in range(test):
            scene = draw_scene(seed, TEST, number)
            write_image(partial / "test" / "images" / f"{scene.image_id}.png", scene.image)
            rows += solution_rows(scene)
        write_table(partial / "solution.csv", COLUMNS, rows)
        blank = [(image_id, name, "") for image_id, name, _ in rows if name != "void"]
        write_table(partial / "sample_submission.csv", COLUMNS, blank)


def solution_rows(scene: Scene) -> list[tuple[str, str, str]]:
    """Id, class and RLE for each class of CLASSES in their order, and for void."""
    codes = {**dict(zip(CLASSES, range(len(CLASSES)), strict=True)), "void": VOID}
    return [(scene.image_id, name, rle.encode(scene.labels == code)) for name, code in codes.items()]


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write (H, W) codes as a palette PNG: its indices are the codes, its colours are PALETTE's."""
    colours = np.zeros((256, 3), np.uint8)
    colours[list(PALETTE)] = list(PALETTE.values())
    picture = Image.fromarray(labels)
    picture.putpalette(colours.tobytes())
    picture.save(path)


def draw_scene(seed: int, part: int, number: int) -> Scene:
    """Draw one example; it depends on these three numbers alone.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: 0 or more, position in the part.
    """
    rng = np.random.default_rng((seed, part, number))
    image_id = draw_id(rng, digits_only=number == 0)
    view = View(rng.uniform(28, 46), rng.uniform(44, 84), rng.uniform(-45, 20), rng.uniform(108, 173))
    canvas = Canvas()
    for paint in (paint_sky, paint_land, paint_buildings, paint_road, paint_things):
        paint(rng, canvas, view)
    labels = seam(canvas.labels)
    return Scene(image_id, develop(rng, canvas.image, view), labels)


def draw_colour(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """A colour, (3,) red, green, blue, from ranges of hue (may pass 1: red again), saturation and value, 0 to 1."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)


def texture(rng: np.random.Generator, colour: np.ndarray, strength: float, across: float, depth: float) -> np.ndarray:
    """A colour whose brightness varies in blots of `across` by `depth` pixels, (H, W, 3)."""
    return colour * (1 + strength * smooth_noise(rng, across, depth, SHAPE))[..., None]


def paint_sky(rng: np.random.Generator, canvas: Canvas, view: View) -> None:
    """A gradient, brighter towards the horizon, with clouds that lie flat."""
    top = draw_colour(rng, (0.52, 0.72), (0.0, 0.6), (0.5, 0.95))
    low = draw_colour(rng, (-0.05, 0.65), (0.0, 0.3), (0.75, 1.0))
    share = np.clip(DOWN / view.horizon, 0, 1)[..., None]
    clouds = np.clip(smooth_noise(rng, 16, 4, SHAPE) * rng.uniform(0, 0.5), 0, 1)[..., None]
    canvas.paint(DOWN >= 0, (top * (1 - share) + low * share) * (1 - clouds) + clouds, SKY)


def paint_land(rng: np.random.Generator, canvas: Canvas, view: View) -> None:
    """Grass below the horizon, and a wooded ridge above it."""
    ridge = view.horizon - rng.uniform(0, 9) * (1 + 0.6 * smooth_noise(rng, 12, 1000, SHAPE))
    wood = texture(rng, draw_colour(rng, (0.12, 0.42), (0.15, 0.6), (0.2, 0.55)), 0.12, 1.2, 1.2)
    grass = texture(rng, draw_colour(rng, (0.1, 0.36), (0.2, 0.65), (0.3, 0.7)), 0.13, 1.6, 0.7)
    canvas.paint(ridge < DOWN, wood, VEGETATION)
    canvas.paint(view.horizon < DOWN, grass, VEGETATION)


def paint_buildings(rng: np.random.Generator, canvas: Canvas, view: View) -> None:
    """A row of houses along the horizon, the later the nearer."""
    for nearness in np.sort(rng.uniform(0, 1, rng.integers(1, 6))):
        paint_building(rng, canvas, view.horizon + 1 + 9 * nearness, 1 + nearness)


def paint_building(rng: np.random.Generator, canvas: Canvas, foot: float, scale: float) -> None:
    """A wall with rows of windows, under a flat or a pitched roof of another colour."""
    left, width = rng.uniform(-10, WIDTH - 8), scale * rng.uniform(9, 22)
    top = foot - scale * rng.uniform(10, 26)
    pitch = rng.choice([0.0, rng.uniform(0.3, 0.8)])
    middle = np.abs(ACROSS - left - width / 2)
    front = (middle <= width / 2) & (foot >= DOWN)
    wall = texture(rng, draw_colour(rng, (0, 1), (0.0, 0.45), (0.25, 0.95)), 0.03, 4, 4)
    canvas.paint(front & (top <= DOWN), wall, BUILDING)
    roof = front & (top > DOWN) & (top - pitch * (width / 2 - middle) < DOWN)
    canvas.paint(roof, texture(rng, draw_colour(rng, (-0.05, 0.1), (0.1, 0.6), (0.2, 0.6)), 0.05, 3, 0.7), BUILDING)
    spacing = rng.uniform(3.2, 5.5) * scale
    column, row = (ACROSS - left) % spacing, (DOWN - top) % spacing
    panes = (column > spacing * 0.45) & (row > spacing * rng.uniform(0.4, 0.6))
    glass = draw_colour(rng, (0.5, 0.7), (0.0, 0.4), (0.05, 0.9))
    canvas.paint(front & (top + 1 <= DOWN) & panes, glass, BUILDING)


def paint_road(rng: np.random.Generator, canvas: Canvas, view: View) -> None:
    """Asphalt that narrows to the vanishing point, with a dashed line and patches of shadow."""
    left, right = view.edges(DOWN)
    road = (view.horizon < DOWN) & (left <= ACROSS) & (right >= ACROSS)
    asphalt = texture(rng, draw_colour(rng, (0, 1), (0.0, 0.15), (0.25, 0.7)), 0.04, 0.7, 0.7)
    shadow = 1 - rng.uniform(0.1, 0.5) * (smooth_noise(rng, 14, 3, SHAPE) > rng.uniform(0.5, 2))
    canvas.paint(road, asphalt * shadow[..., None], ROAD)
    scale = np.maximum(view.scale(DOWN), 1e-3)
    dash = (np.abs(ACROSS - (left + right) / 2) < 2 * scale) & ((rng.uniform(0, 1) + 1.2 / (scale + 0.1)) % 1 < 0.5)
    canvas.paint(road & dash, np.float32(rng.uniform(0.7, 1)), ROAD)


def paint_things(rng: np.random.Generator, canvas: Canvas, view: View) -> None:
    """All that stands on the ground, from far to near; then the bonnet of the camera's own car."""
    counts = rng.integers((1, 0, 2, 0), (6, 4, 7, 3))
    kinds = rng.permutation(np.repeat([paint_tree, paint_car, paint_pole, paint_stranger], counts))
    # The square: things stand evenly on the ground, so more of them are seen far away.
    rows = view.horizon + 3 + (HEIGHT - 8 - view.horizon) * rng.uniform(0.1, 1, len(kinds)) ** 2
    for row, paint in zip(np.sort(rows), kinds, strict=True):
        paint(rng, canvas, view, row)
    if rng.random() < 0.3:
        bonnet = HEIGHT - rng.uniform(4, 9) + ((ACROSS - WIDTH / 2) / rng.uniform(20, 30)) ** 2 < DOWN
        canvas.paint(bonnet, texture(rng, draw_colour(rng, (0, 1), (0, 0.8), (0.1, 0.9)), 0.05, 10, 2), VOID)


def beside(rng: np.random.Generator, view: View, row: float, gap: float) -> float:
    """A column on the verge, `gap` or up to 30 pixels more from the road, scaled by the row."""
    left, right = view.edges(row)
    away = (gap + rng.uniform(0, 30)) * view.scale(row)
    return left - away if rng.random() < 0.5 else right + away


def paint_tree(rng: np.random.Generator, canvas: Canvas, view: View, row: float) -> None:
    """A trunk and a ragged crown of overlapping discs, or a bush, whose trunk is hidden."""
    scale = 0.25 + view.scale(row)
    column = beside(rng, view, row, 8)
    radius, trunk = rng.uniform(8, 15) * scale, rng.uniform(0, 22) * scale
    bark = draw_colour(rng, (0.03, 0.1), (0.1, 0.5), (0.1, 0.4))
    standing = (np.abs(ACROSS - column) < 1.6 * scale) & (row >= DOWN) & (row - trunk - radius < DOWN)
    canvas.paint(standing, bark, VEGETATION)
    crown = 0.25 * smooth_noise(rng, 1.5, 1.5, SHAPE)
    reach = np.full(SHAPE, np.inf, np.float32)
    for _ in range(5):
        x, y = column + rng.normal(0, 0.45) * radius, row - trunk - radius * (0.8 + rng.normal(0, 0.35))
        reach = np.minimum(reach, np.hypot(ACROSS - x, DOWN - y) / (0.75 * radius))
    leaves = draw_colour(rng, (0.08, 0.42), (0.25, 0.75), (0.15, 0.6))
    canvas.paint((reach + crown < 1) & (row >= DOWN), texture(rng, leaves, 0.25, 1, 1), VEGETATION)


def paint_car(rng: np.random.Generator, canvas: Canvas, view: View, row: float) -> None:
    """A car seen from behind or ahead: body, cabin with a window, wheels, lamps."""
    left, right = view.edges(row)
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


def paint_pole(rng: np.random.Generator, canvas: Canvas, view: View, row: float) -> None:
    """A pole that carries a lamp over the road, a round sign or a square one."""
    scale = 0.3 + view.scale(row)
    column, height = beside(rng, view, row, 3), rng.uniform(26, 42) * scale
    grey = draw_colour(rng, (0, 1), (0.0, 0.15), (0.15, 0.85))
    thick = max(1.2, 1.7 * scale)
    canvas.paint((np.abs(ACROSS - column) < thick) & (row >= DOWN) & (row - height <= DOWN), grey, POLE)
    x, y = np.abs(ACROSS - column), np.abs(DOWN - row + height)
    size = rng.uniform(3.5, 5.5) * scale
    inwards = (view.vanishing - column) * (ACROSS - column) >= 0
    head = [inwards & (x < 2.2 * size) & (y < max(1.2, 1.4 * scale)), np.hypot(x, y) < size, (x < size) & (y < size)]
    canvas.paint(head[rng.integers(3)], draw_colour(rng, (0, 1), (0.0, 0.9), (0.3, 1)), POLE)


def paint_stranger(rng: np.random.Generator, canvas: Canvas, view: View, row: float) -> None:
    """A person or a bin on the verge: void, since no class is meant for it."""
    scale = 0.3 + view.scale(row)
    column, half, height = beside(rng, view, row, 2), rng.uniform(1.8, 3) * scale, rng.uniform(5, 13) * scale
    body = (np.abs(ACROSS - column) < half) & (row >= DOWN) & (row - height < DOWN)
    canvas.paint(body, draw_colour(rng, (0, 1), (0.0, 0.9), (0.1, 0.9)), VOID)
    head = np.hypot(ACROSS - column, DOWN - row + height + half) < 0.8 * half
    canvas.paint(head, draw_colour(rng, (0.03, 0.1), (0.2, 0.5), (0.3, 0.9)), VOID)


def seam(labels: np.ndarray) -> np.ndarray:
    """The labels with a void seam, one pixel wide, between objects; poles stay whole, they are little else."""
    corner = np.ones((2, 2), np.uint8)
    between = cv2.dilate(labels, corner) != cv2.erode(labels, corner)
    return np.where(between & (labels != POLE), VOID, labels).astype(np.uint8)


def develop(rng: np.random.Generator, image: np.ndarray, view: View) -> np.ndarray:
    """Haze, light of this image's own, blur and noise; (H, W, 3) float32 to uint8."""
    far = np.exp(-np.abs(DOWN - view.horizon) / 12)[..., None]
    haze = rng.uniform(0, 0.35) * far
    image = image * (1 - haze) + haze * rng.uniform(0.6, 0.9)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.6))
    light = rng.uniform(0.65, 1.1) * rng.uniform(0.88, 1.12, 3)
    noise = rng.uniform(0.01, 0.04) * rng.standard_normal(image.shape, dtype=np.float32)
    shade = np.clip(image * light + noise, 0, 1) ** rng.uniform(0.75, 1.3)
    return np.rint(255 * shade).astype(np.uint8)
