"""Near-duplicates: planted ones are found, unrelated images are left alone."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.duplicates import find_duplicates, merge_groups, read_duplicates, write_duplicates
from pipeline.duplicates.candidates import VIEWS

REAL = sorted((Path(__file__).parent / "data").glob("nucleus_????????.png"))
SIDE = 256


def stretch(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey levels over a random part of 0 … 255, with the noise of a camera."""
    low, high = np.quantile(values, (0.01, 0.99))
    black, white = rng.uniform(5, 60), rng.uniform(140, 250)
    grey = black + (values - low) / (high - low + 1e-9) * (white - black)
    return np.clip(grey + rng.normal(0, 1, values.shape), 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """A texture whose amplitude falls with frequency as that of natural images does, a little steeper or flatter."""
    whole = side + side // 4  # such a texture goes on at its opposite edge: what is cut off keeps mosaics from doing so
    frequency = np.hypot(np.fft.fftfreq(whole)[:, None], np.fft.rfftfreq(whole)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((whole, whole))) / frequency ** rng.uniform(1.0, 1.8)
    return stretch(cv2.GaussianBlur(np.fft.irfft2(spectrum, (whole, whole)), (0, 0), 1.0)[:side, :side], rng)


def blobs(rng: np.random.Generator, side: int) -> np.ndarray:
    """Cells: ellipses of several brightnesses on an uneven ground."""
    ground = cv2.resize(rng.normal(0, 20, (4, 4)), (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.uniform(15, 60) * (side / SIDE) ** 2)):
        centre, axes = rng.integers(0, side, 2).tolist(), rng.integers(4, 22, 2).tolist()
        cv2.ellipse(ground, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(40, 160), -1)
    texture = cv2.GaussianBlur(rng.normal(0, 12, (side, side)), (0, 0), 2)
    return stretch(cv2.GaussianBlur(ground, (0, 0), 1.2) + 4 * texture, rng)


def layers(rng: np.random.Generator, side: int) -> np.ndarray:
    """A seismic section: reflectors that bend and break. Each resembles itself a layer further down."""
    bend = cv2.resize(rng.normal(0, 12, (5, 5)), (side, side), interpolation=cv2.INTER_CUBIC)
    fault = rng.uniform(5, 25) * (np.arange(side) > rng.uniform(0.2, 0.8) * side)
    depth = np.arange(side)[:, None] + bend + fault
    reflectors = cv2.GaussianBlur(rng.standard_normal((1, 2 * side + 200)), (0, 0), rng.uniform(1.5, 4))[0]
    return stretch(np.interp(depth + 100, np.arange(len(reflectors)), reflectors), rng)


SCENES = [clouds, blobs, layers]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


def tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brighter or darker, harder or softer."""
    contrast, gamma = rng.uniform(0.6, 1.3), rng.uniform(0.75, 1.3)
    grey = 255 * (image / 255) ** gamma
    return np.clip((grey - 128) * contrast + 128 + rng.uniform(-25, 25), 0, 255).astype(np.uint8)


class Planted:
    """Images in a folder, and which pairs of them are related how."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.kinds: dict[frozenset[str], str] = {}
        self.ids: list[str] = []
        self.scenes = 0

    def scene(self, side: int) -> np.ndarray:
        """A new image, of the next family."""
        self.scenes += 1
        return SCENES[self.scenes % len(SCENES)](self.rng, side)

    def add(self, image: np.ndarray) -> str:
        image_id = f"{(len(self.ids) * 7919) % 10_007:05}"  # in an order that says nothing of who belongs to whom
        cv2.imwrite(str(self.folder / f"{image_id}.png"), image)
        self.ids.append(image_id)
        return image_id

    def pair(self, kind: str, first: np.ndarray, second: np.ndarray) -> None:
        self.kinds[frozenset((self.add(first), self.add(second)))] = kind

    def table(self) -> pd.DataFrame:
        ids = sorted(self.ids)
        part = np.where(self.rng.random(len(ids)) < 0.7, "train", "test")
        return pd.DataFrame({"image_id": ids, "path": [self.folder / f"{name}.png" for name in ids], "part": part})


def plant(folder: Path, seed: int, distinct: int = 250) -> Planted:
    """`distinct` unrelated scenes; of 120 of them two or more images that are related."""
    planted = Planted(folder, seed)
    plant_copies(planted)
    plant_crops(planted)
    plant_mosaics(planted)
    while planted.scenes < distinct:
        planted.add(planted.scene(SIDE))
    return planted


def plant_copies(planted: Planted) -> None:
    for name in [*VIEWS][1:] * 3:
        image = planted.scene(SIDE)
        planted.pair("turned", image, VIEWS[name](image))
    for quality in (95, 85, 75, 60, 50, 40) * 3:
        image = planted.scene(SIDE)
        planted.pair("re-encoded", image, jpeg(image, quality))
    for _ in range(12):
        image = planted.scene(SIDE)
        planted.pair("toned", image, tone(image, planted.rng))
    for path in REAL:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        planted.pair("re-encoded", image, jpeg(image, 75))


def plant_crops(planted: Planted) -> None:
    for share in (0.25, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9) * 5:
        first, second = overlapping_crops(planted.scene(2 * SIDE), share, planted.rng)
        planted.pair("overlap", first, jpeg(second, 85) if planted.scenes % 2 else second)
    for side in (96, 128, 160, 192, 224) * 3:
        image = planted.scene(SIDE)
        row, column = planted.rng.integers(0, SIDE - side + 1, 2)
        planted.pair("inside", image, image[row : row + side, column : column + side])


def overlapping_crops(large: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two squares of SIDE pixels that share this part of their area, in any direction."""
    across = rng.uniform(share, 1)  # of the width; the height makes up for it
    right, down = round(SIDE * (1 - across)), round(SIDE * (1 - share / across))
    if rng.random() < 0.5:
        large = large[::-1]
    return large[:SIDE, :SIDE], large[down : down + SIDE, right : right + SIDE]


def plant_mosaics(planted: Planted) -> None:
    for _ in range(8):
        large = planted.scene(2 * SIDE)
        corners = [(row, column) for row in (0, SIDE) for column in (0, SIDE)]
        tiles = [planted.add(large[row : row + SIDE, column : column + SIDE]) for row, column in corners]
        for one, other in ((0, 1), (2, 3), (0, 2), (1, 3)):
            planted.kinds[frozenset((tiles[one], tiles[other]))] = "mosaic"


def count(planted: Planted, found: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Planted and found pairs by kind, and the number of pairs found that were not planted."""
    pairs = [frozenset(pair) for pair in zip(found["first"], found["second"], strict=True)]
    truth = pd.Series(planted.kinds)
    table = pd.DataFrame({"planted": truth.value_counts(), "found": truth[truth.index.isin(pairs)].value_counts()})
    return table.fillna(0).astype(int), sum(pair not in planted.kinds for pair in pairs)


def test_planted_relatives_are_found_and_little_else(tmp_path):
    planted = plant(tmp_path, seed=0)
    table, false = count(planted, found := find_duplicates(planted.table()))
    assert table["found"].sum() >= 0.98 * table["planted"].sum(), table
    assert false <= 0.01 * len(found)
