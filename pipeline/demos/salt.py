"""A generated competition in the layout of TGS salt: small seismic sections, so that no stage needs a download.

Depth runs down, and the grey value is the amplitude of the reflected sound.

- Sediment forms layers. Each boundary between two layers reflects sound, so a section is one trace (random
  boundaries, each a Ricker wavelet) repeated along dipping and folded layers. Faults shift the layers on one side.
- Salt rises through the sediment: domes from below, detached bodies, sheets. It drags the layers at its flanks
  upwards. It has no layers, so its inside is weak and chaotic. Its boundary is a strong echo on top and a faint one
  on the flanks.
- Grey values alone do not separate salt from sediment: amplitude, contrast, polarity and noise differ from image to
  image, and sediment has chaotic, faded and bright zones, also in images without salt. Such a zone follows the layers
  and has no boundary echo and no drag, while salt cuts through the layers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from pipeline import rle
from pipeline.data.image_files import write_image
from pipeline.files import atomic_folder
from pipeline.progress import track

SIZE = 101  # pixels, height and width, as TGS salt
EMPTY_SHARE = 0.39  # of the images, as in TGS salt's training set
PLACEHOLDER = "1 1"  # the mask of every row of TGS salt's sample submission: the first pixel
COLUMNS = "id", "rle_mask"
TRAIN, TEST = 0, 1  # the part, the second number of an image's seed

# Pixel coordinates: DEPTH grows downwards, ACROSS to the right.
DEPTH, ACROSS = np.mgrid[:SIZE, :SIZE].astype(np.float32)


class Example(NamedTuple):
    """One generated example."""

    image_id: str  # ten hexadecimal digits
    image: np.ndarray  # (H, W) or (H, W, 3) uint8
    labels: np.ndarray  # (H, W): a mask, uint8 of 0 and 1, or what else the demo describes


def make_salt_demo(root: Path, seed: int = 0, train: int = 400, test: int = 120) -> None:
    """Write a competition of generated seismic sections: the same files for the same seed.

    Writes:
        train/images/<id>.png, test/images/<id>.png, train.csv, sample_submission.csv, and solution.csv with the
        masks of the test images, which a real competition keeps secret.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training images; a smaller set is the beginning of a larger one.
        test: number of test images, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    draw = partial(draw_salt_image, seed)
    write_competition(root, COLUMNS, draw, mask_text, (train, test), placeholder=PLACEHOLDER)


def mask_text(example: Example) -> list[str]:
    """The RLE text of an example with one mask."""
    return [rle.encode(example.labels)]


def write_competition(
    root: Path,
    columns: Sequence[str],
    draw: Callable[[int, int], Example],
    texts_of: Callable[[Example], list[str]],
    counts: tuple[int, int],
    *,
    placeholder: str = "",
    suffix: str = ".png",
    write: Callable[[Path, np.ndarray], None] = write_image,
) -> None:
    """Write a competition's images, and its tables with a row for each RLE text of an image, into a new folder.

    Writes:
        train/images/<id><suffix>, test/images/<id><suffix>, train.csv, solution.csv, and sample_submission.csv, with
        one row for each test image.

    Args:
        columns: names of the tables' columns, id and RLE.
        draw: returns an example from its part (TRAIN or TEST) and its number.
        texts_of: returns the RLE text of each row of an example.
        counts: numbers of training and of test images.
        placeholder: the RLE text of each row of the sample submission.
        suffix, write: of the images.

    Raises:
        FileExistsError: if `root` already exists.
    """
    with atomic_folder(root) as folder:
        for part, name, table, count in ((TRAIN, "train", "train", counts[0]), (TEST, "test", "solution", counts[1])):
            examples = write_images(folder / name / "images", partial(draw, part), count, suffix, write)
            rows = [(example.image_id, text) for example in examples for text in texts_of(example)]
            write_table(folder / f"{table}.csv", columns, rows)
        ids = dict.fromkeys(image_id for image_id, _ in rows)
        write_table(folder / "sample_submission.csv", columns, [(image_id, placeholder) for image_id in ids])


def write_images(
    folder: Path,
    draw: Callable[[int], Example],
    count: int,
    suffix: str = ".png",
    write: Callable[[Path, np.ndarray], None] = write_image,
) -> Iterator[Example]:
    """Draw examples, write the image of each into a new folder, and yield the example."""
    folder.mkdir(parents=True)
    for number in track(range(count), f"draw images for {folder.parent.name}"):
        example = draw(number)
        write(folder / f"{example.image_id}{suffix}", example.image)
        yield example


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV as Kaggle does: no quotes, rows end with a line feed. Cells must not contain commas."""
    lines = [",".join(row) + "\n" for row in (columns, *rows)]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def draw_salt_image(seed: int, part: int, number: int) -> Example:
    """Draw one example, whose mask is 1 for salt; it depends on these three numbers only.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
    """
    rng, image_id = start_example(seed, part, number)
    salt = np.full((SIZE, SIZE), -np.inf, np.float32) if rng.random() < EMPTY_SHARE else draw_salt(rng)
    mask = (salt > 0).astype(np.uint8)
    distance = signed_distance(mask)
    section = draw_layers(rng, draw_strata(rng, distance))
    section = add_salt(rng, section, distance)
    return Example(image_id, to_grey_values(rng, section), mask)


def start_example(seed: int, part: int, number: int) -> tuple[np.random.Generator, str]:
    """The random generator of an example, and the example's id of ten hexadecimal digits.

    The first id of a part has decimal digits only, and starts with 0: a reader that parses numbers would shorten it.
    Two of 520 random ids are equal in one of 8 million demos.
    """
    rng = np.random.default_rng((seed, part, number))
    return rng, f"{rng.integers(10**9):010d}" if number == 0 else f"{rng.integers(16**10):010x}"


def smooth_noise(
    rng: np.random.Generator, across: float, depth: float, shape: tuple[int, int] = (SIZE, SIZE)
) -> np.ndarray:
    """Smooth noise (H, W) float32 of mean 0 and standard deviation 1.

    Args:
        across, depth: standard deviations of the Gaussian blur along rows and columns, pixels.
        shape: height and width, pixels.
    """
    white = rng.standard_normal(shape, dtype=np.float32)
    # The edge is reflected: with a black border, the noise would fade towards it.
    noise = cv2.GaussianBlur(white, (0, 0), sigmaX=across, sigmaY=depth, borderType=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std()


def draw_salt(rng: np.random.Generator) -> np.ndarray:
    """A field (SIZE, SIZE) that is above 0 inside the salt; about the distance to its boundary, pixels."""
    draw = rng.choice([draw_dome, draw_body, draw_sheet], p=[0.55, 0.3, 0.15])
    salt = draw(rng) + rng.uniform(0.5, 3) * smooth_noise(rng, 8, 8)
    # Specks would be label noise: TGS salt has few masks below 100 pixels.
    return salt if np.count_nonzero(salt > 0) >= 100 else draw_salt(rng)


def draw_dome(rng: np.random.Generator) -> np.ndarray:
    """The field (SIZE, SIZE) of a dome that rises from below the section. A higher power makes steeper flanks."""
    centre, half_width = rng.uniform(0, SIZE), rng.uniform(15, 60)
    top, power = rng.uniform(5, 80), rng.uniform(1.5, 4)
    lean = rng.uniform(-0.4, 0.4)
    offset = (ACROSS - centre - lean * (SIZE - DEPTH)) / half_width
    height = (SIZE + 20 - top) * np.exp(-(np.abs(offset) ** power))
    return DEPTH - (SIZE + 20 - height)


def draw_body(rng: np.random.Generator) -> np.ndarray:
    """The field (SIZE, SIZE) of a detached, tilted ellipse, which may extend past the section's edge."""
    x, y = rng.uniform(0, SIZE, size=2)
    radii = rng.uniform(12, 45), rng.uniform(10, 28)
    angle = rng.uniform(-0.6, 0.6)
    along = ((ACROSS - x) * np.cos(angle) + (DEPTH - y) * np.sin(angle)) / radii[0]
    aside = ((DEPTH - y) * np.cos(angle) - (ACROSS - x) * np.sin(angle)) / radii[1]
    return (1 - np.hypot(along, aside)) * min(radii)


def draw_sheet(rng: np.random.Generator) -> np.ndarray:
    """The field (SIZE, SIZE) of a salt sheet between a wavy top and a wavy base, or down to the lower edge."""
    waves = [rng.uniform(2, 10) * np.sin(ACROSS / rng.uniform(10, 30) + rng.uniform(0, 7)) for _ in range(2)]
    tilt = rng.uniform(-0.4, 0.4) * (ACROSS - SIZE / 2)
    top = rng.uniform(10, 75)
    base = top + rng.uniform(20, 100)
    return np.minimum(DEPTH - (top + tilt + waves[0]), (base + tilt + waves[1]) - DEPTH)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """The signed distance to the mask's boundary, (H, W) float32 pixels, negative inside; large without a boundary."""
    if not mask.any():
        return np.full(mask.shape, 10.0 * SIZE, np.float32)
    if mask.all():
        return np.full(mask.shape, -10.0 * SIZE, np.float32)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    return cv2.GaussianBlur(outside - inside, (0, 0), 1.0)  # smooths the staircase of pixels out of the boundary echo


def draw_strata(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """The layer of each pixel, (SIZE, SIZE) float: its original depth in pixels, before folds, faults and drag."""
    strata = DEPTH + rng.normal(0, 0.25) * ACROSS
    for _ in range(2):  # folds
        wave = np.sin(ACROSS / rng.uniform(8, 40) + DEPTH / rng.uniform(60, 200) + rng.uniform(0, 7))
        strata = strata + rng.uniform(0, 6) * wave
    strata = strata + rng.uniform(0, 1.5) * smooth_noise(rng, 10, 6)
    for _ in range(rng.integers(0, 4)):
        strata = strata + draw_fault(rng)
    drag = rng.uniform(0, 18) * np.exp(-np.maximum(distance, 0) / rng.uniform(6, 20))
    return strata + drag  # rising salt lifts deeper layers at its flanks


def draw_fault(rng: np.random.Generator) -> np.ndarray:
    """A steep fault: the shift in pixels, (SIZE, SIZE), of the layers on one side of a line."""
    x, slope, throw = rng.uniform(0, SIZE), rng.uniform(-0.7, 0.7), rng.uniform(-9, 9)
    return throw / (1 + np.exp(-np.clip(ACROSS - x - slope * DEPTH, -50, 50)))


def draw_layers(rng: np.random.Generator, strata: np.ndarray) -> np.ndarray:
    """The echo of layered sediment, (SIZE, SIZE), standard deviation about 1, with zones that look like salt."""
    depth, trace = draw_trace(rng)
    section = np.interp(strata, depth, trace).astype(np.float32)
    section *= np.exp(0.35 * smooth_noise(rng, 14, 8))  # layers fade and brighten along their length
    for _ in range(rng.integers(0, 3)):
        section = add_disturbance(rng, section, strata)
    return section


def draw_trace(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Depths and echo strengths, (N,) each: few strong and many weak boundaries, each a Ricker wavelet."""
    step = 0.5  # pixels; half a pixel samples the thinnest wavelet well enough
    depth = np.arange(-150, 250, step)
    boundaries = rng.standard_t(4, size=depth.size) * (rng.random(depth.size) < 0.3)
    trace = np.convolve(boundaries, ricker_wavelet(np.arange(-15, 15 + step, step), rng.uniform(1.2, 2.6)), mode="same")
    return depth, trace / trace.std()


def ricker_wavelet(distance: np.ndarray, width: float) -> np.ndarray:
    """The Ricker wavelet, the echo of one sharp boundary: a peak between two troughs.

    Args:
        distance: (...) pixels from the boundary; the result has the same shape.
        width: half the width of the peak, pixels.
    """
    square = (distance / width) ** 2
    return (1 - square) * np.exp(-square / 2)


def add_disturbance(rng: np.random.Generator, section: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Make a zone of the echo (SIZE, SIZE) chaotic, faded or bright along the layers, which can look like salt."""
    middle, half = rng.uniform(0, SIZE), rng.uniform(4, 16)
    along = half - np.abs(strata - middle)
    aside = rng.uniform(10, 60) - np.abs(ACROSS - rng.uniform(0, SIZE))
    edge = np.minimum(along, aside) + 3 * smooth_noise(rng, 8, 5)
    share = 1 / (1 + np.exp(-edge / 2))  # a soft edge: sediment changes gradually, salt abruptly
    kind = rng.choice(["chaotic", "faded", "bright"])
    if kind == "chaotic":
        other = rng.uniform(0.3, 0.9) * smooth_noise(rng, 2.0, 1.3)
    elif kind == "faded":
        other = rng.uniform(0.1, 0.4) * section
    else:
        other = rng.uniform(1.5, 2.5) * section
    return section + share * (other - section)


def add_salt(rng: np.random.Generator, section: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Draw the salt's inside and its boundary echo over the layers; all arrays are (SIZE, SIZE)."""
    chaos = rng.uniform(0.1, 0.45) * smooth_noise(rng, rng.uniform(1.5, 3.0), rng.uniform(1.0, 2.0))
    ghost = rng.uniform(0, 0.15) * section  # multiples: late echoes of the layers, visible inside the salt
    section = np.where(distance < 0, chaos + ghost, section)
    return section + draw_boundary_echo(rng, distance)


def draw_boundary_echo(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """The echo of the salt's boundary, (SIZE, SIZE): weak where it is steep and reflects sound sideways."""
    upwards = np.abs(np.gradient(distance, axis=0))  # 1 on a flat boundary, 0 on a vertical one
    strength = rng.uniform(1.2, 3.0) * upwards * np.exp(0.5 * smooth_noise(rng, 10, 10))
    return strength * ricker_wavelet(distance, rng.uniform(1.2, 2.2))


def to_grey_values(rng: np.random.Generator, section: np.ndarray) -> np.ndarray:
    """Convert echoes to grey values, (H, W) uint8, with noise and with this image's gain and brightness."""
    noise = rng.uniform(0.05, 0.3) * smooth_noise(rng, 0.6, 0.6) + rng.uniform(0, 0.25) * smooth_noise(rng, 3, 1)
    gain = np.exp(0.25 * smooth_noise(rng, 25, 25))  # gain varies over a section
    polarity = rng.choice([-1, 1])
    contrast, brightness = rng.uniform(18, 45), rng.uniform(90, 160)
    grey = brightness + contrast * polarity * gain * (section + noise)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
