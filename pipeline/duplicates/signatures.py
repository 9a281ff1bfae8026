"""The signature of an image: a thumbnail, hashed patches, and its four edges."""

from typing import NamedTuple

import cv2
import numpy as np

THUMBNAIL_SIZE = 16  # pixels a side
NUM_TABLES, BITS_PER_TABLE = 6, 22  # of the locality-sensitive hash: two patches match if all bits of a table agree
PATCH_SAMPLES, SAMPLE_SPACING = 8, 4  # a patch is 8 × 8 samples, 4 pixels apart
PATCH_RADIUS = PATCH_SAMPLES * SAMPLE_SPACING // 2  # pixels between a patch's centre and the image's edge, at least
EXTREMUM_WINDOW = 15  # pixels a side; a patch's centre is the extremum of such a window
EDGE_SAMPLES = 128  # samples of an edge
MIN_CONTRAST = 1.5  # grey levels (standard deviation); flatter thumbnails, patches and edges identify nothing

_STEPS = (np.arange(PATCH_SAMPLES) - (PATCH_SAMPLES - 1) / 2) * SAMPLE_SPACING
# Rows and columns of a patch's samples, from its centre.
PATCH_ROWS, PATCH_COLUMNS = (steps.ravel().astype(np.int64) for steps in np.meshgrid(_STEPS, _STEPS, indexing="ij"))
# Random hyperplanes: a bit of the hash is the side of one on which the patch lies.
HYPERPLANES = (
    np.random.default_rng(0).standard_normal((PATCH_SAMPLES**2, NUM_TABLES * BITS_PER_TABLE)).astype(np.float32)
)
BIT_VALUES = 1 << np.arange(BITS_PER_TABLE)


class Signature(NamedTuple):
    """The signature of one image.

    Shapes:
        size: height and width in pixels.
        thumbnail: (THUMBNAIL_SIZE, THUMBNAIL_SIZE) float32, mean 0, norm 1; zeros for an image without contrast.
        points: (P, 2) int32, row and column of each patch's centre in pixels.
        keys: (P, NUM_TABLES) int32, hashes of the patches.
        edges: (4, EDGE_SAMPLES) float32: top, bottom, left, right, each of mean 0 and norm 1, or zeros.
    """

    size: tuple[int, int]
    thumbnail: np.ndarray
    points: np.ndarray
    keys: np.ndarray
    edges: np.ndarray


def compute_signature(grey: np.ndarray) -> Signature:
    """The signature of a grey image, (H, W) uint8."""
    image = grey.astype(np.float32)
    points, keys = _hash_patches(image)
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    thumbnail = normalize(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    return Signature(grey.shape, thumbnail, points, keys, _edges(image))


def normalize(values: np.ndarray) -> np.ndarray:
    """Values (..., H, W) with mean 0 and norm 1 over the last two axes, float32; zeros where the contrast is too low.

    The dot product of two normalized arrays is their correlation.
    """
    centred = values - values.mean(axis=(-2, -1), keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=(-2, -1), keepdims=True))
    flat = norm < MIN_CONTRAST * np.sqrt(values.shape[-1] * values.shape[-2])
    return np.where(flat, 0, centred / np.maximum(norm, 1e-6)).astype(np.float32)


def _hash_patches(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (P, 2) that move with the content of the image, and the hashes (P, NUM_TABLES) of the patches there."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    points = _extrema(smooth - cv2.GaussianBlur(image, (0, 0), 4.0))
    patches = smooth[points[:, :1] + PATCH_ROWS, points[:, 1:] + PATCH_COLUMNS]
    centred = patches - patches.mean(axis=1, keepdims=True)
    kept = centred.std(axis=1) > MIN_CONTRAST
    bits = (centred[kept] @ HYPERPLANES > 0).reshape(-1, NUM_TABLES, BITS_PER_TABLE)
    return points[kept].astype(np.int32), (bits * BIT_VALUES).sum(axis=2).astype(np.int32)


def _extrema(response: np.ndarray) -> np.ndarray:
    """Rows and columns, (P, 2), of the local minima and maxima of (H, W), at least PATCH_RADIUS from the edge."""
    window = np.ones((EXTREMUM_WINDOW, EXTREMUM_WINDOW), np.uint8)
    strong = np.abs(response) > MIN_CONTRAST
    extreme = strong & ((response == cv2.dilate(response, window)) | (response == cv2.erode(response, window)))
    extreme[:PATCH_RADIUS], extreme[-PATCH_RADIUS:] = False, False
    extreme[:, :PATCH_RADIUS], extreme[:, -PATCH_RADIUS:] = False, False
    return np.argwhere(extreme)


def _edges(image: np.ndarray) -> np.ndarray:
    """The four edges of an image (H, W), resampled and normalized, (4, EDGE_SAMPLES)."""
    lines = (image[0], image[-1], image[:, 0], image[:, -1])
    sampled = [cv2.resize(line.reshape(1, -1), (EDGE_SAMPLES, 1), interpolation=cv2.INTER_AREA) for line in lines]
    return normalize(np.stack(sampled))[:, 0]
