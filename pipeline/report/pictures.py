"""Pictures of training images for the page: small WebP images with vector outlines."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline.data.image_files import encode_image
from pipeline.report.report_data import Picture

WORST, BEST, LABEL_ERRORS, EXTREMES = 12, 6, 12, 6  # number of pictures in each gallery
LABEL_ERROR = 0.1  # lowest label error score of a likely label error
QUALITY = 72  # of WebP
MAX_POINTS = 3000  # of one outline, about 15 KB
HEATMAP = (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


class GalleryTile(NamedTuple):
    """One image of a gallery."""

    image_id: str
    facts: Sequence[str]  # lines of text
    height: int  # pixels, of the original image
    width: int
    image: str  # data URIs
    heatmap: str  # of the probabilities
    truth: str  # SVG paths in pixels of the original image
    predicted: str


def worst(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lowest scores; at equal scores, those of the larger error in coverage first."""
    wrong = (images["predicted"] - images["coverage"]).abs()
    return images.assign(wrong=-wrong).sort_values(["score", "wrong"], kind="stable").head(WORST)


def best(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the highest scores, among images with a mask."""
    return images[images["coverage"] > 0].sort_values("score", ascending=False, kind="stable").head(BEST)


def likely_label_errors(images: pd.DataFrame) -> pd.DataFrame:
    """The rows of the highest label error scores."""
    return with_label_errors(images).sort_values("label_error_score", ascending=False, kind="stable").head(LABEL_ERRORS)


def with_label_errors(images: pd.DataFrame) -> pd.DataFrame:
    """The rows with a label error score of at least LABEL_ERROR."""
    return images[images["label_error_score"] >= LABEL_ERROR]


def extremes(images: pd.DataFrame, probability: Mapping[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the highest and of the lowest probabilities of being a test image, which their summaries name."""
    values = images["image_id"].map(probability)
    ordered = images.assign(
        summary=[f"like test {value:.2f}, {text}" for value, text in zip(values, images["summary"], strict=True)],
        probability=values,
    ).dropna(subset="probability")
    ordered = ordered.sort_values("probability", kind="stable")
    return ordered[::-1].head(EXTREMES), ordered.head(EXTREMES)


def tiles(rows: pd.DataFrame, picture: Callable[[str], Picture], side: int) -> Iterator[GalleryTile]:
    """The tile of each row; pictures are read one at a time.

    Args:
        side: pixels, the longer side of a picture; a smaller image keeps its size.
    """
    for row in rows.to_dict("records"):
        image_id, shown = row["image_id"], picture(row["image_id"])
        height, width = shown.values.shape
        facts = (
            f"score {row['score']:.3f}, label error score {row['label_error_score']:.2f}",
            row["summary"],
            f"fold {row['fold']}",
        )
        yield GalleryTile(
            image_id,
            facts,
            height,
            width,
            webp(_shrink(shown.image[..., 0] if shown.image.shape[-1] == 1 else shown.image, side)),
            webp(HEATMAP[_shrink(shown.values, side)]),
            outline(shown.target, side),
            outline(shown.mask, side),
        )


def webp(pixels: np.ndarray) -> str:
    """An image as a data URI.

    Shapes:
        pixels: (H, W) or (H, W, 3) uint8.
    """
    return f"data:image/webp;base64,{base64.b64encode(encode_image(pixels, 'WEBP', QUALITY)).decode()}"


def _shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def outline(mask: np.ndarray, side: int) -> str:
    """The outlines of a mask's regions and their holes, as one SVG path in pixels; empty for an empty mask.

    A region is all pixels of one number above 0: a mask of 0 and 1 has one. An outline runs through the centers of its
    region's border pixels. Details that are invisible at `side` pixels are simplified, and at most MAX_POINTS points
    are kept, of the longest outlines, to limit the size of the page.

    Args:
        side: pixels, the longer side at which the outline is shown.

    Shapes:
        mask: (H, W) bool or int.

    >>> outline(np.pad(np.ones((2, 3)), 1), side=64)
    'M1 1l0 1l2 0l0-1z'
    >>> outline(np.array([[1, 2, 2]]), side=64)
    'M1 0l1 0zM0 0z'
    """
    contours = list(_contours(mask))
    tolerance = max(mask.shape) / side / 2
    if tolerance > 0.5:
        contours = [cv2.approxPolyDP(contour, tolerance, closed=True) for contour in contours]
    contours = sorted(contours, key=len, reverse=True)
    kept = np.searchsorted(np.cumsum([len(contour) for contour in contours]), MAX_POINTS, side="right")
    return "".join(_path(contour[:, 0]) for contour in contours[: max(1, kept)])


def _contours(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The outlines of every region, (P, 1, 2) x and y, each computed in the region's bounding box."""
    numbers, places = np.unique(mask, return_inverse=True)
    places = places.reshape(mask.shape) + 1
    for place, (number, box) in enumerate(zip(numbers, ndimage.find_objects(places), strict=True), start=1):
        if number > 0:
            region, corner = (places[box] == place).astype(np.uint8), (box[1].start, box[0].start)
            yield from cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=corner)[0]


def _path(points: np.ndarray) -> str:
    """A closed path through (P, 2) x and y, as relative steps, which are shorter than coordinates."""
    steps = (f"l{x}{y}" if y < 0 else f"l{x} {y}" for x, y in np.diff(points, axis=0))
    return f"M{points[0, 0]} {points[0, 1]}{''.join(steps)}z"
