"""What is kept of an image to find its relatives: a thumbnail, hashed patches, and its four edges."""

from typing import NamedTuple

import cv2
import numpy as np

THUMBNAIL = 16  # pixels a side
TABLES, BITS = 6, 22  # of the hash: two patches meet if all bits of one table agree
GRID, SPACING = 8, 4  # a patch is 8 × 8 samples, 4 pixels apart
MARGIN = GRID * SPACING // 2  # pixels between a patch's centre and the image's edge
APART = 15  # pixels: a centre is the extremum of a window of this side
EDGE = 128  # samples of an edge
FLAT = 1.5  # grey levels: what varies less carries nothing to recognise it by

_STEPS = (np.arange(GRID) - (GRID - 1) / 2) * SPACING
ROWS, COLUMNS = (steps.ravel().astype(np.int64) for steps in np.meshgrid(_STEPS, _STEPS, indexing="ij"))
PLANES = np.random.default_rng(0).standard_normal((GRID * GRID, TABLES * BITS)).astype(np.float32)
WEIGHTS = 1 << np.arange(BITS)


class Signature(NamedTuple):
    """One image.

    Shapes:
        size: height and width in pixels.
        thumbnail: (THUMBNAIL, THUMBNAIL) float32, mean 0, norm 1; zeros for an image without contrast.
        points: (P, 2) int32 row and column of each patch's centre, pixels.
        keys: (P, TABLES) int32 hashes of the patches.
        edges: (4, EDGE) float32: top, bottom, left, right, each of mean 0 and norm 1, or zeros.
    """

    size: tuple[int, int]
    thumbnail: np.ndarray
    points: np.ndarray
    keys: np.ndarray
    edges: np.ndarray


def sign(grey: np.ndarray) -> Signature:
    """The signature of a grey image, (H, W) uint8."""
    image = grey.astype(np.float32)
    points, keys = _patches(image)
    thumbnail = normalise(cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA))
    return Signature(grey.shape, thumbnail, points, keys, _edges(image))


def normalise(values: np.ndarray) -> np.ndarray:
    """Values with mean 0 and norm 1 over the last two axes, so that a product is a correlation; flat ones become 0."""
    centred = values - values.mean(axis=(-2, -1), keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=(-2, -1), keepdims=True))
    flat = norm < FLAT * np.sqrt(values.shape[-1] * values.shape[-2])
    return np.where(flat, 0, centred / np.maximum(norm, 1e-6)).astype(np.float32)


def _patches(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres that a shift of the image moves along, and the hashes of what is around them."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    points = _extrema(smooth - cv2.GaussianBlur(image, (0, 0), 4.0))
    patches = smooth[points[:, :1] + ROWS, points[:, 1:] + COLUMNS]
    centred = patches - patches.mean(axis=1, keepdims=True)
    kept = centred.std(axis=1) > FLAT
    bits = (centred[kept] @ PLANES > 0).reshape(-1, TABLES, BITS)
    return points[kept].astype(np.int32), (bits * WEIGHTS).sum(axis=2).astype(np.int32)


def _extrema(response: np.ndarray) -> np.ndarray:
    """Rows and columns of the local minima and maxima, at least MARGIN from the edge."""
    window = np.ones((APART, APART), np.uint8)
    strong = np.abs(response) > FLAT
    extreme = strong & ((response == cv2.dilate(response, window)) | (response == cv2.erode(response, window)))
    extreme[:MARGIN], extreme[-MARGIN:], extreme[:, :MARGIN], extreme[:, -MARGIN:] = False, False, False, False
    return np.argwhere(extreme)


def _edges(image: np.ndarray) -> np.ndarray:
    lines = (image[0], image[-1], image[:, 0], image[:, -1])
    sampled = [cv2.resize(line.reshape(1, -1), (EDGE, 1), interpolation=cv2.INTER_AREA) for line in lines]
    return normalise(np.stack(sampled))[:, 0]
