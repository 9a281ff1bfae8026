"""Generated competitions that differ in size, coverage, number of images, classes and file format.

An image is a textured ground with objects of each class and distractors: the same shapes, which differ from the objects
in one cue only. Contrast, brightness, light, blur and noise differ from image to image.

| cue | an object | a distractor |
|---|---|---|
| grain | fine texture inside | coarse texture inside |
| rim | a rim of the other polarity | no rim, a soft edge |
| raised | one side bright, the other dark | flat |
| colour | its class's colour | another colour of the same brightness |
| bend | a line that bends | a straight line |

With `regions` instead, every pixel belongs to one of several exclusive classes, whose colours overlap and whose
textures differ.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import rle
from pipeline.data.image_files import write_image
from pipeline.demos.salt import TEST, TRAIN, Example, smooth_noise, start_example, write_images, write_table

FRACTION_BITS = 3  # of the coordinates that cv2 draws at
OBJECTS = 400  # at most, of a class in an image
HARMONICS = 5  # of a blob's outline


class Class(NamedTuple):
    """The objects of a class."""

    name: str
    shape: str  # a key of SHAPES
    cue: str  # grain, rim, raised, colour or bend
    radius: tuple[float, float]  # pixels; of lines half their width
    coverage: float  # mean share of the image, of images with objects
    empty: float = 0.0  # share of images without an object
    contrast: float = 0.25  # of the image's range


@dataclass(frozen=True)
class Spec:
    """A generated competition.

    Args:
        train, test: numbers of images.
        sizes: heights and widths in pixels, one of which each image has.
        classes: whose masks may overlap; none with `regions`.
        regions: names of exclusive classes, which cover the image.
        channels: 1 or 3.
        bits: of a channel: 8 (PNG) or 16 (TIFF, each image with its own exposure).
        distractors: their coverage as a share of the objects'.
        noise: standard deviation, as a share of the image's range.
        light: standard deviation of the uneven illumination, as a share of the brightness.
    """

    name: str
    train: int
    test: int
    sizes: tuple[tuple[int, int], ...]
    classes: tuple[Class, ...] = ()
    regions: tuple[str, ...] = ()
    channels: int = 3
    bits: int = 8
    distractors: float = 0.8
    noise: float = 0.05
    light: float = 0.12
    metric: str = "mean_dice"
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.regions or tuple(each.name for each in self.classes)

    @property
    def suffix(self) -> str:
        """Of the image files."""
        return ".png" if self.bits == 8 else ".tif"


SPECS = (
    Spec("few_large", 20, 40, ((512, 512),), (Class("colony", "blob", "grain", (14, 36), 0.2, contrast=0.22),)),
    Spec(
        "specks",
        200,
        100,
        ((256, 256),),
        (Class("speck", "blob", "rim", (4, 8), 0.008, empty=0.6, contrast=0.3),),
        channels=1,
        distractors=1.5,
    ),
    Spec("roads", 120, 60, ((384, 384),), (Class("road", "line", "bend", (2.0, 4.5), 0.06),), distractors=0.5),
    Spec(
        "cracks",
        80,
        60,
        ((320, 480), (480, 320)),
        (Class("crack", "line", "bend", (0.8, 1.6), 0.015, empty=0.3, contrast=0.35),),
        channels=1,
        distractors=0.6,
        noise=0.07,
    ),
    Spec("roofs", 60, 40, ((512, 512),), (Class("roof", "polygon", "raised", (14, 40), 0.15),), noise=0.04),
    Spec(
        "patches",
        600,
        150,
        ((64, 64),),
        (Class("patch", "blob", "grain", (8, 26), 0.4, empty=0.2),),
        channels=1,
        metric="tgs_precision",
    ),
    Spec(
        "exposures",
        150,
        75,
        ((256, 256), (224, 288), (288, 224)),
        (Class("organ", "blob", "rim", (18, 48), 0.1, empty=0.3, contrast=0.18),),
        channels=1,
        bits=16,
        distractors=1.0,
    ),
    Spec("land", 300, 80, ((128, 160),), regions=("water", "forest", "field", "town"), metric="class_iou"),
    Spec(
        "defects",
        250,
        80,
        ((192, 256),),
        (
            Class("scratch", "line", "bend", (0.9, 2.0), 0.02, empty=0.5, contrast=0.35),
            Class("pit", "blob", "rim", (4, 10), 0.02, empty=0.6, contrast=0.3),
            Class("stain", "polygon", "grain", (16, 40), 0.12, empty=0.6, contrast=0.2),
        ),
        channels=1,
    ),
    Spec(
        "slides",
        24,
        16,
        ((768, 768),),
        (Class("gland", "blob", "colour", (16, 44), 0.06),),
        distractors=1.5,
        metric="global_dice",
    ),
)


def card_text(spec: Spec) -> str:
    """The card of a generated competition, TOML."""
    several = len(spec.names) > 1
    values = ", ".join(f"{name} = {code}" for code, name in enumerate(spec.names))
    labels = 'train_masks = "train/masks"' if spec.regions else 'train_csv = "train.csv"'
    lines = [
        f'name = "{spec.name}"',
        f'title = "Generated: {", ".join(spec.names)}"',
        f"classes = {json.dumps(spec.names)}",
        f'metric = "{spec.metric}"',
        *(["exclusive = true"] if spec.regions else []),
        f'[files]\ntrain_images = "train/images"\ntest_images = "test/images"\n{labels}\nsuffix = "{spec.suffix}"',
        '[columns]\nid = "id"\nrle = "rle"' + ('\nclass = "class"' if several else ""),
        *([f"[masks]\nvalues = {{ {values} }}"] if spec.regions else []),
    ]
    return "\n".join(lines) + "\n"


def make_generated(root: Path, spec: Spec) -> None:
    """Write a competition: the same files for the same spec.

    Writes:
        train/images/<id>, test/images/<id>, train.csv or train/masks/<id>.png (the number of each pixel's class),
        sample_submission.csv, and solution.csv with the masks of the test images.

    Args:
        root: an existing folder.
    """
    columns = ("id", "class", "rle") if len(spec.names) > 1 else ("id", "rle")
    if spec.regions:
        (root / "train" / "masks").mkdir(parents=True)
    for part, name, table, count in ((TRAIN, "train", "train", spec.train), (TEST, "test", "solution", spec.test)):
        rows = []
        write = _write_tiff if spec.bits == 16 else write_image
        for example in write_images(root / name / "images", partial(draw, spec, part), count, spec.suffix, write):
            if spec.regions and part == TRAIN:
                write_image(root / "train" / "masks" / f"{example.image_id}.png", example.labels.argmax(0).astype("u1"))
            rows += _rows(example, spec.names)
        if not spec.regions or part == TEST:
            write_table(root / f"{table}.csv", columns, rows)
    write_table(root / "sample_submission.csv", columns, [(*row[:-1], "") for row in rows])


def _rows(example: Example, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """A row of the tables for each class."""
    keys = [(example.image_id, name) for name in names] if len(names) > 1 else [(example.image_id,)]
    return [(*key, rle.encode(mask)) for key, mask in zip(keys, example.labels, strict=True)]


def _write_tiff(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image, compression="zlib", metadata=None)


def draw(spec: Spec, part: int, number: int) -> Example:
    """Draw one example, whose labels are the masks of the classes, (C, H, W) uint8; it depends on these alone."""
    rng, image_id = start_example(spec.seed, part, number)
    shape = spec.sizes[int(rng.integers(len(spec.sizes)))]
    image, masks = draw_regions(rng, spec, shape) if spec.regions else draw_objects(rng, spec, shape)
    return Example(image_id, expose(rng, spec, image), masks)


def draw_objects(rng: np.random.Generator, spec: Spec, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image with objects and distractors on a textured ground, and the masks of the classes.

    Shapes:
        returns: (H, W, 3) float32, about 0 to 1; (C, H, W) uint8.
    """
    scale = max(shape) / 256
    texture = sum(rng.uniform(0.02, 0.05) * coarse_noise(rng, size, shape) for size in (0.8, 4 * scale, 20 * scale))
    image = rng.uniform(0.4, 0.6) + rng.normal(0, 0.04, 3) + texture[..., None]
    masks = []
    for each in spec.classes:
        coverage = 0.0 if rng.random() < each.empty else each.coverage * rng.uniform(0.5, 1.5)
        others = each.coverage * rng.uniform(0.3, 1.7) * spec.distractors
        straight = each.cue == "bend"
        share = scatter(rng, each, shape, coverage)
        image = paint(rng, image, scatter(rng, each, shape, others, straight=straight), each, is_object=False)
        image = paint(rng, image, share, each, is_object=True)
        masks.append((share >= 0.5).astype(np.uint8))
    return image.astype(np.float32), np.stack(masks)


def coarse_noise(rng: np.random.Generator, size: float, shape: tuple[int, int]) -> np.ndarray:
    """As `smooth_noise` of one blur in pixels; drawn at a lower resolution if that shows no difference."""
    factor = max(1, int(size / 3))
    small = shape if factor == 1 else tuple(-(-side // factor) + 1 for side in shape)
    noise = smooth_noise(rng, size / factor, size / factor, small)
    return noise if small == shape else cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)


def scatter(
    rng: np.random.Generator, each: Class, shape: tuple[int, int], coverage: float, *, straight: bool = False
) -> np.ndarray:
    """The share of each pixel, (H, W) float32, that shapes at random places cover.

    Args:
        coverage: shapes are added until they cover this share of the image.
        straight: of lines: without bends.
    """
    canvas = np.zeros(shape, np.uint8)
    for _ in range(OBJECTS):
        if np.count_nonzero(canvas >= 128) >= coverage * canvas.size:
            break
        SHAPES[each.shape](rng, canvas, rng.uniform(*each.radius), straight)
    return canvas.astype(np.float32) / 255


def paint(
    rng: np.random.Generator, image: np.ndarray, share: np.ndarray, each: Class, *, is_object: bool
) -> np.ndarray:
    """The image (H, W, 3) with shapes that cover these shares (H, W) of its pixels, as objects or distractors."""
    shape, strength = share.shape, each.contrast * rng.uniform(0.6, 1.2)
    colour = np.array([1.0, 0.75, 0.35]) if is_object or each.cue != "colour" else np.array([0.35, 0.75, 1.0])
    colour = colour / colour.mean() * -strength
    tone = 1 + 0.25 * coarse_noise(rng, max(shape) / 10, shape)
    if each.cue == "rim" and not is_object:
        share = cv2.GaussianBlur(share, (0, 0), 1.5)
    inside = 0.3 if each.cue == "grain" else 0.1
    grain = 0.8 if is_object or each.cue != "grain" else 4.0
    change = tone[..., None] * colour + inside * strength * coarse_noise(rng, grain, shape)[..., None]
    if each.cue == "rim" and is_object:
        rim = share - cv2.erode(share, np.ones((3, 3), np.uint8))
        change = change * (1 - rim[..., None]) + 0.8 * strength * rim[..., None]
    image = image + share[..., None] * change
    if each.cue == "raised" and is_object:
        return image + 0.8 * strength * _shading(rng, share)[..., None]
    return image


def _shading(rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
    """Light from a random direction on the edges of shapes, (H, W), -1 to 1."""
    soft, angle = cv2.GaussianBlur(share, (0, 0), 1.5), rng.uniform(0, 2 * np.pi)
    down, across = np.gradient(soft)
    return np.clip(4 * (np.sin(angle) * down + np.cos(angle) * across), -1, 1)


def draw_blob(rng: np.random.Generator, canvas: np.ndarray, radius: float, _straight: bool) -> None:
    """Draw a rounded, irregular shape into a canvas (H, W) uint8."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    orders = np.arange(1, HARMONICS + 1)
    waves = rng.normal(0, 0.18, HARMONICS) / orders
    outline = radius * (1 + np.cos(np.outer(angles, orders) + rng.uniform(0, 7, HARMONICS)) @ waves)
    stretch, turn = rng.uniform(0.7, 1), rng.uniform(0, np.pi)
    _fill(rng, canvas, np.stack([outline * np.cos(angles), stretch * outline * np.sin(angles)], axis=1), turn)


def draw_polygon(rng: np.random.Generator, canvas: np.ndarray, radius: float, _straight: bool) -> None:
    """Draw a rectangle, or two that form an L, into a canvas (H, W) uint8."""
    x, y = radius, radius * rng.uniform(0.4, 1)
    corners = [(-x, -y), (x, -y), (x, y), (-x, y)]
    if rng.random() < 0.5:
        a, b = rng.uniform(-0.2, 0.4, 2)
        corners = [(-x, -y), (x, -y), (x, b * y), (a * x, b * y), (a * x, y), (-x, y)]
    _fill(rng, canvas, np.array(corners), rng.uniform(0, np.pi))


def _fill(rng: np.random.Generator, canvas: np.ndarray, outline: np.ndarray, turn: float) -> None:
    """Fill an outline (N, 2) of x and y around 0, turned, at a random place."""
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = outline @ rotation + rng.uniform(0, canvas.shape[::-1])
    cv2.fillPoly(canvas, [_fixed(points)], 255, cv2.LINE_AA, FRACTION_BITS)


def draw_line(rng: np.random.Generator, canvas: np.ndarray, radius: float, straight: bool) -> None:
    """Draw a line from a random place, in 8-pixel steps, into a canvas (H, W) uint8."""
    steps = int(rng.uniform(0.4, 1.2) * max(canvas.shape) / 8)
    bends = np.zeros(steps) if straight else rng.normal(0, 0.3, steps)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(bends)
    path = rng.uniform(0, canvas.shape[::-1]) + np.cumsum(8 * np.stack([np.cos(heading), np.sin(heading)], 1), axis=0)
    cv2.polylines(canvas, [_fixed(path)], False, 255, max(1, round(2 * radius)), cv2.LINE_AA, FRACTION_BITS)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**FRACTION_BITS).astype(np.int32)


# From a generator, a canvas (H, W) uint8, a radius in pixels, and whether a line is straight.
SHAPES: dict[str, Callable[[np.random.Generator, np.ndarray, float, bool], None]] = {
    "blob": draw_blob,
    "polygon": draw_polygon,
    "line": draw_line,
}


def draw_regions(rng: np.random.Generator, spec: Spec, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image of exclusive regions, and their masks; shapes as `draw_objects`."""
    count, size = len(spec.regions), max(shape) / 12
    fields = [coarse_noise(rng, size, shape) + rng.normal(0, 0.3) - 0.25 * number for number in range(count)]
    labels = np.argmax(fields, axis=0)
    image = np.zeros((*shape, 3), np.float32)
    cast = rng.normal(0, 0.05, 3)
    for number in range(count):
        hue = 0.12 * np.array([np.cos(2 * np.pi * (number / count + each / 3)) for each in range(3)])
        colour = 0.45 + hue + cast + rng.normal(0, 0.07, 3)
        grain = 0.8 * 2**number  # pixels: each class has its own
        texture = 0.07 * coarse_noise(rng, grain, shape)
        image[labels == number] = (colour + texture[..., None])[labels == number]
    return image, (labels == np.arange(count)[:, None, None]).astype(np.uint8)


def expose(rng: np.random.Generator, spec: Spec, image: np.ndarray) -> np.ndarray:
    """The image (H, W, 3), about 0 to 1, as a camera stores it: light, blur, noise, gain; (H, W) or (H, W, 3)."""
    shape, side = image.shape[:2], max(image.shape)
    light = 1 + spec.light * coarse_noise(rng, side / 4, shape)[..., None]
    image = cv2.GaussianBlur((image * light).astype(np.float32), (0, 0), rng.uniform(0.4, 1.0))
    if spec.channels == 1:
        image = image.mean(axis=2)
    image = image + spec.noise * rng.uniform(0.5, 1.5) * rng.standard_normal(image.shape)
    image = (image - 0.5) * rng.uniform(0.6, 1.2) + rng.uniform(0.42, 0.58)
    if spec.bits == 8:
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    offset, gain = rng.uniform(500, 6000), np.exp(rng.uniform(np.log(4000), np.log(30000)))
    return np.rint(np.clip(offset + gain * image, 0, 65535)).astype(np.uint16)
