"""Training images as a page shows them: small pictures under outlines that stay sharp when enlarged."""

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline.data.reader import encode_image
from pipeline.report.report_data import Picture

WORST, BEST, SUSPECTS = 12, 6, 12  # pictures in each gallery
SUSPICIOUS = 0.1  # below it a label is not called suspect
QUALITY = 72  # of WebP
POINTS = 3000  # of one outline, about 15 KB
HEAT = (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


class Tile(NamedTuple):
    """One image of a gallery."""

    image_id: str
    facts: Sequence[str]  # what is known of it, in lines
    height: int  # pixels, of the image as it is
    width: int
    image: str  # data URIs
    heat: str  # of the probabilities
    truth: str  # SVG paths in pixels of the image
    predicted: str


def worst(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lowest scores; of equal ones, the more wrongly covered first."""
    wrong = (images["predicted"] - images["coverage"]).abs()
    return images.assign(wrong=-wrong).sort_values(["score", "wrong"], kind="stable").head(WORST)


def best(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the highest scores, of images with a mask: of empty ones there is nothing to see."""
    return images[images["coverage"] > 0].sort_values("score", ascending=False, kind="stable").head(BEST)


def suspects(images: pd.DataFrame) -> pd.DataFrame:
    """The rows whose labels are contradicted the most."""
    return suspected(images).sort_values("suspicion", ascending=False, kind="stable").head(SUSPECTS)


def suspected(images: pd.DataFrame) -> pd.DataFrame:
    """The rows whose labels are contradicted at all."""
    return images[images["suspicion"] >= SUSPICIOUS]


def tiles(rows: pd.DataFrame, picture: Callable[[str], Picture], side: int) -> Iterator[Tile]:
    """The tile of each row, read one by one.

    Args:
        side: pixels, the longer side of a picture; a smaller image keeps its size.
    """
    for row in rows.to_dict("records"):
        yield _tile(row["image_id"], _facts(row), picture(row["image_id"]), side)


def _tile(image_id: str, facts: str, shown: Picture, side: int) -> Tile:
    image = shown.image[..., 0] if shown.image.shape[-1] == 1 else shown.image
    height, width = shown.values.shape
    return Tile(
        image_id,
        facts,
        height,
        width,
        webp(_shrink(image, side)),
        webp(HEAT[_shrink(shown.values, side)]),
        outline(shown.target, side),
        outline(shown.mask, side),
    )


def _facts(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"score {row['score']:.3f}, suspicion {row['suspicion']:.2f}",
        row["said"],
        f"fold {row['fold']}",
    )


def webp(pixels: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(encode_image(pixels, 'WEBP', QUALITY)).decode()}"


def _shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def outline(mask: np.ndarray, side: int) -> str:
    """The outlines of a mask's regions, their holes too, as one SVG path in pixels; empty for an empty mask.

    A region is all pixels of one number above 0: of a mask of 0 and 1 there is one. An outline runs through the middle
    of its region's border pixels. What cannot be seen at `side` pixels is smoothed away, and of a mask in thousands of
    pieces the longest outlines are kept, so that a page stays small.

    >>> outline(np.pad(np.ones((2, 3)), 1), side=64)
    'M1 1l0 1l2 0l0-1z'
    >>> outline(np.array([[1, 2, 2]]), side=64)
    'M1 0l1 0zM0 0z'
    """
    contours = list(_contours(mask))
    coarse = max(mask.shape) / side / 2
    if coarse > 0.5:
        contours = [cv2.approxPolyDP(contour, coarse, closed=True) for contour in contours]
    contours = sorted(contours, key=len, reverse=True)
    kept = np.searchsorted(np.cumsum([len(contour) for contour in contours]), POINTS, side="right")
    return "".join(_path(contour[:, 0]) for contour in contours[: max(1, kept)])


def _contours(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The outlines of every region, (P, 1, 2) x and y; each is looked for in its own box."""
    numbers, places = np.unique(mask, return_inverse=True)
    places = places.reshape(mask.shape) + 1
    for place, (number, box) in enumerate(zip(numbers, ndimage.find_objects(places), strict=True), start=1):
        if number > 0:
            region, corner = (places[box] == place).astype(np.uint8), (box[1].start, box[0].start)
            yield from cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=corner)[0]


def _path(points: np.ndarray) -> str:
    """A closed path, (P, 2) x and y, in steps from point to point, which are shorter to write."""
    steps = (f"l{x}{y}" if y < 0 else f"l{x} {y}" for x, y in np.diff(points, axis=0))
    return f"M{points[0, 0]} {points[0, 1]}{''.join(steps)}z"
