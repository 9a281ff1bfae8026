"""A generated competition in Kaggle's layout, so that a fresh clone can run every stage without a download.

The images look like small seismic sections, as in TGS salt: depth runs down, and grey is the amplitude
of sound that came back. What is drawn follows what makes real sections look as they do.

- Sediment lies in layers. An echo comes from each boundary between two layers, so a section is one
  trace (random boundaries, each seen as a Ricker wavelet) repeated sideways along dipping and folded
  layers. Faults shift the layers on one side.
- Salt is lighter than the sediment above it and rises: domes from below, detached bodies, sheets. It drags
  the layers at its flanks upwards. It has no layers, so its inside is weak and chaotic, and its
  boundary is a strong echo, where the sound comes back to the receiver: bright on top, faint on flanks.
- Grey values say little: amplitude, contrast, polarity and noise change from image to image, and sediment
  has chaotic, faded and bright zones too, on images without salt as well. Such a zone lies along the layers
  and has no rim and no drag; salt cuts through the layers. So shape and texture decide, not brightness.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from pipeline import rle
from pipeline.data.reader import write_image
from pipeline.files import atomic_folder

SIZE = 101  # pixels, height and width, as TGS salt
EMPTY_SHARE = 0.39  # of the images, as TGS salt's training set
PLACEHOLDER = "1 1"  # the mask of every row of TGS salt's sample submission: the first pixel
COLUMNS = "id", "rle_mask"
TRAIN, TEST = 0, 1  # the second number of an image's seed

# Pixel coordinates: DEPTH grows downwards, ACROSS to the right.
DEPTH, ACROSS = np.mgrid[:SIZE, :SIZE].astype(np.float32)


class Demo(NamedTuple):
    """One generated example."""

    image_id: str  # ten hexadecimal digits
    image: np.ndarray  # (SIZE, SIZE) uint8
    mask: np.ndarray  # (SIZE, SIZE) uint8, 1 is salt


def make_demo(root: Path, seed: int = 0, train: int = 400, test: int = 120) -> None:
    """Write a competition of generated images: the same files for the same seed.

    Writes:
        train/images/<id>.png, test/images/<id>.png, train.csv, sample_submission.csv, and solution.csv,
        the truth of the test images, which a competition keeps to itself.

    The folder appears whole or not at all.

    Args:
        root: the folder to make.
        seed: 0 or more.
        train: number of training images. Fewer are the first ones of more.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` is there already.
    """
    write_competition(root, COLUMNS, partial(draw_demo, seed), _texts_of, (train, test), placeholder=PLACEHOLDER)


def _texts_of(demo: Demo) -> list[str]:
    return [rle.encode(demo.mask)]


class Example(Protocol):
    """A generated image with its id; what else it has, says its competition."""

    image_id: str
    image: np.ndarray


E = TypeVar("E", bound=Example)


def write_competition(
    root: Path,
    columns: Sequence[str],
    draw: Callable[[int, int], E],
    texts_of: Callable[[E], list[str]],
    counts: tuple[int, int],
    *,
    placeholder: str = "",
) -> None:
    """Write images, and tables with a row for each RLE of an image, into a new folder, whole or not at all.

    Writes:
        train/images/<id>.png, test/images/<id>.png, train.csv, solution.csv, and sample_submission.csv, with one row
        for each test image.

    Args:
        columns: of the tables: the id, and the RLE.
        draw: an example, from its part (TRAIN or TEST) and its number in it.
        texts_of: the RLE of each row of an example.
        counts: of training images and of test images.
        placeholder: the RLE of the sample submission.

    Raises:
        FileExistsError: if `root` is there already.
    """
    with atomic_folder(root) as folder:
        for part, name, table, count in zip(
            (TRAIN, TEST), ("train", "test"), ("train", "solution"), counts, strict=True
        ):
            images, rows = folder / name / "images", []
            images.mkdir(parents=True)
            for number in range(count):
                example = draw(part, number)
                write_image(images / f"{example.image_id}.png", example.image)
                rows += [(example.image_id, text) for text in texts_of(example)]
            write_table(folder / f"{table}.csv", columns, rows)
        ids = dict.fromkeys(image_id for image_id, _ in rows)
        write_table(folder / "sample_submission.csv", columns, [(image_id, placeholder) for image_id in ids])


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV as Kaggle does: no quotes, one line feed per row. No cell may hold a comma."""
    lines = [",".join(row) + "\n" for row in (columns, *rows)]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def draw_demo(seed: int, part: int, number: int) -> Demo:
    """Draw one example; it depends on these three numbers alone.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: 0 or more, position in the part.
    """
    rng = np.random.default_rng((seed, part, number))
    image_id = draw_id(rng, digits_only=number == 0)
    salt = np.full((SIZE, SIZE), -np.inf, np.float32) if rng.random() < EMPTY_SHARE else draw_salt(rng)
    mask = (salt > 0).astype(np.uint8)
    distance = distance_to(mask)
    section = draw_layers(rng, draw_strata(rng, distance))
    section = place_salt(rng, section, distance)
    return Demo(image_id, develop(rng, section), mask)


def draw_id(rng: np.random.Generator, *, digits_only: bool) -> str:
    """Ten hexadecimal digits.

    With `digits_only` decimal ones that start with 0, so that every demo holds an id that a careless
    reader turns into a shorter number. Two of 520 random ids are equal in one of 8 million demos.
    """
    return f"{rng.integers(10**9):010d}" if digits_only else f"{rng.integers(16**10):010x}"


def smooth_noise(
    rng: np.random.Generator, across: float, depth: float, shape: tuple[int, int] = (SIZE, SIZE)
) -> np.ndarray:
    """Noise of (H, W) with mean 0 and standard deviation 1, blurred over `across` by `depth` pixels."""
    white = rng.standard_normal(shape, dtype=np.float32)
    # The edge is reflected: with a black edge, noise would fade towards it.
    noise = cv2.GaussianBlur(white, (0, 0), sigmaX=across, sigmaY=depth, borderType=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std()


def draw_salt(rng: np.random.Generator) -> np.ndarray:
    """A field that is above 0 inside the salt, in about pixels from its boundary."""
    draw = rng.choice([draw_dome, draw_body, draw_sheet], p=[0.55, 0.3, 0.15])
    salt = draw(rng) + rng.uniform(0.5, 3) * smooth_noise(rng, 8, 8)
    # A salt that shrank to a speck would be noise in the labels, TGS salt has few below 100 pixels.
    return salt if np.count_nonzero(salt > 0) >= 100 else draw_salt(rng)


def draw_dome(rng: np.random.Generator) -> np.ndarray:
    """A dome that rises from below the section. The higher the power, the steeper its flanks."""
    centre, half_width = rng.uniform(0, SIZE), rng.uniform(15, 60)
    top, power = rng.uniform(5, 80), rng.uniform(1.5, 4)
    lean = rng.uniform(-0.4, 0.4)
    offset = (ACROSS - centre - lean * (SIZE - DEPTH)) / half_width
    height = (SIZE + 20 - top) * np.exp(-(np.abs(offset) ** power))
    return DEPTH - (SIZE + 20 - height)


def draw_body(rng: np.random.Generator) -> np.ndarray:
    """A detached, tilted ellipse, that may reach over the section's edge."""
    x, y = rng.uniform(0, SIZE, size=2)
    radii = rng.uniform(12, 45), rng.uniform(10, 28)
    angle = rng.uniform(-0.6, 0.6)
    along = ((ACROSS - x) * np.cos(angle) + (DEPTH - y) * np.sin(angle)) / radii[0]
    aside = ((DEPTH - y) * np.cos(angle) - (ACROSS - x) * np.sin(angle)) / radii[1]
    return (1 - np.hypot(along, aside)) * min(radii)


def draw_sheet(rng: np.random.Generator) -> np.ndarray:
    """Salt across the whole section, between a wavy top and a wavy base, or down to the lower edge."""
    waves = [rng.uniform(2, 10) * np.sin(ACROSS / rng.uniform(10, 30) + rng.uniform(0, 7)) for _ in range(2)]
    tilt = rng.uniform(-0.4, 0.4) * (ACROSS - SIZE / 2)
    top = rng.uniform(10, 75)
    base = top + rng.uniform(20, 100)
    return np.minimum(DEPTH - (top + tilt + waves[0]), (base + tilt + waves[1]) - DEPTH)


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Pixels from the salt's boundary, negative inside; far from it everywhere when there is none."""
    if not mask.any():
        return np.full(mask.shape, 10.0 * SIZE, np.float32)
    if mask.all():
        return np.full(mask.shape, -10.0 * SIZE, np.float32)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    return cv2.GaussianBlur(outside - inside, (0, 0), 1.0)  # takes the pixels' steps out of the rim


def draw_strata(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """The layer that each pixel lies in, as the depth in pixels that it had when it settled."""
    strata = DEPTH + rng.normal(0, 0.25) * ACROSS
    for _ in range(2):  # folds
        wave = np.sin(ACROSS / rng.uniform(8, 40) + DEPTH / rng.uniform(60, 200) + rng.uniform(0, 7))
        strata = strata + rng.uniform(0, 6) * wave
    strata = strata + rng.uniform(0, 1.5) * smooth_noise(rng, 10, 6)
    for _ in range(rng.integers(0, 4)):
        strata = strata + draw_fault(rng)
    drag = rng.uniform(0, 18) * np.exp(-np.maximum(distance, 0) / rng.uniform(6, 20))
    return strata + drag  # rising salt lifts older layers, which lie deeper, at its flanks


def draw_fault(rng: np.random.Generator) -> np.ndarray:
    """A steep fault: layers on one side of a line are shifted by the fault's throw."""
    x, slope, throw = rng.uniform(0, SIZE), rng.uniform(-0.7, 0.7), rng.uniform(-9, 9)
    return throw / (1 + np.exp(-np.clip(ACROSS - x - slope * DEPTH, -50, 50)))


def draw_layers(rng: np.random.Generator, strata: np.ndarray) -> np.ndarray:
    """The echo of layered sediment, standard deviation about 1, with its zones that mislead."""
    depth, trace = draw_trace(rng)
    section = np.interp(strata, depth, trace).astype(np.float32)
    section *= np.exp(0.35 * smooth_noise(rng, 14, 8))  # layers fade and brighten sideways
    for _ in range(rng.integers(0, 3)):
        section = disturb(rng, section, strata)
    return section


def draw_trace(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Echo strength over depth: a few strong boundaries and many weak ones, each as a Ricker wavelet."""
    step = 0.5  # pixels; half of one keeps the thinnest wavelet smooth
    depth = np.arange(-150, 250, step)
    boundaries = rng.standard_t(4, size=depth.size) * (rng.random(depth.size) < 0.3)
    trace = np.convolve(boundaries, ricker(np.arange(-15, 15 + step, step), rng.uniform(1.2, 2.6)), mode="same")
    return depth, trace / trace.std()


def ricker(distance: np.ndarray, width: float) -> np.ndarray:
    """The echo of one sharp boundary: a peak of `width` pixels (half) between two troughs."""
    square = (distance / width) ** 2
    return (1 - square) * np.exp(-square / 2)


def disturb(rng: np.random.Generator, section: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Make part of the sediment chaotic, faded or bright, along the layers: what salt is confused with."""
    middle, half = rng.uniform(0, SIZE), rng.uniform(4, 16)
    along = half - np.abs(strata - middle)
    aside = rng.uniform(10, 60) - np.abs(ACROSS - rng.uniform(0, SIZE))
    edge = np.minimum(along, aside) + 3 * smooth_noise(rng, 8, 5)
    share = 1 / (1 + np.exp(-edge / 2))  # a soft edge: sediment changes gradually, salt at once
    kind = rng.choice(["chaotic", "faded", "bright"])
    if kind == "chaotic":
        other = rng.uniform(0.3, 0.9) * smooth_noise(rng, 2.0, 1.3)
    elif kind == "faded":
        other = rng.uniform(0.1, 0.4) * section
    else:
        other = rng.uniform(1.5, 2.5) * section
    return section + share * (other - section)


def place_salt(rng: np.random.Generator, section: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Put the salt's inside and its rim over the layers."""
    chaos = rng.uniform(0.1, 0.45) * smooth_noise(rng, rng.uniform(1.5, 3.0), rng.uniform(1.0, 2.0))
    ghost = rng.uniform(0, 0.15) * section  # multiples: echoes that arrive late, drawn through the salt
    section = np.where(distance < 0, chaos + ghost, section)
    return section + rim(rng, distance)


def rim(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """The salt's own echo: strong where its boundary is flat, for a steep one sends the sound sideways."""
    upwards = np.abs(np.gradient(distance, axis=0))  # 1 on a flat boundary, 0 on a vertical one
    strength = rng.uniform(1.2, 3.0) * upwards * np.exp(0.5 * smooth_noise(rng, 10, 10))
    return strength * ricker(distance, rng.uniform(1.2, 2.2))


def develop(rng: np.random.Generator, section: np.ndarray) -> np.ndarray:
    """Turn echoes into grey values, with noise, and with a gain and brightness of this image's own."""
    noise = rng.uniform(0.05, 0.3) * smooth_noise(rng, 0.6, 0.6) + rng.uniform(0, 0.25) * smooth_noise(rng, 3, 1)
    gain = np.exp(0.25 * smooth_noise(rng, 25, 25))  # the processing's gain drifts over a section
    polarity = rng.choice([-1, 1])
    contrast, brightness = rng.uniform(18, 45), rng.uniform(90, 160)
    grey = brightness + contrast * polarity * gain * (section + noise)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
