"""Surface Dice: the share of two surfaces that is within a tolerance of each other, in 2D and 3D.

A surface passes through every block of 2×2 (in 3D, 2×2×2) pixels whose values differ. Which of them are masked decides
its size in the block: in 2D the length of the contour, in 3D the area of the triangles of marching cubes.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours, marching_cubes

SLAB = 16  # layers of blocks


def surface_dice(
    mask: np.ndarray, target: np.ndarray, tolerance: float = 0.0, spacing: tuple[float, ...] | None = None
) -> float:
    """The share of both surfaces that is within a tolerance of the other one.

        (|S_A within t of S_B| + |S_B within t of S_A|) / (|S_A| + |S_B|)

    NaN if neither mask has a surface, as in the authors' package. A mask that reaches the edge of the image has a
    surface there.

    Args:
        tolerance: in the units of the spacing, 0 or more.
        spacing: between pixels along each axis; 1 each by default.

    Shapes:
        mask, target: (H, W) or (D, H, W), 0 or 1.
        returns: scalar in [0, 1], or NaN.

    Raises:
        ValueError: if the shapes differ, do not have 2 or 3 axes, or do not fit the spacing.

    Source:
        Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy,
        https://arxiv.org/abs/1809.04430. Lengths and areas are those of the authors' package,
        https://github.com/google-deepmind/surface-distance. SenNet + HOA uses it in 3D with tolerance 0.
    """
    numerator, denominator = surface_sums(mask, target, tolerance, spacing)
    return numerator / denominator if denominator else float("nan")


def surface_sums(
    mask: np.ndarray, target: np.ndarray, tolerance: float = 0.0, spacing: tuple[float, ...] | None = None
) -> tuple[float, float]:
    """Numerator and denominator of `surface_dice`, which can be summed over volumes.

    Shapes:
        mask, target: as `surface_dice`.
        returns: two lengths (2D) or areas (3D) >= 0, in the units of the spacing.

    Raises:
        ValueError: as `surface_dice`.
    """
    if mask.shape != target.shape or mask.ndim not in (2, 3):
        raise ValueError(f"mask {mask.shape} and target {target.shape}: expected one shape, (H, W) or (D, H, W)")
    spacing = spacing or (1.0,) * mask.ndim
    if len(spacing) != mask.ndim:
        raise ValueError(f"spacing {spacing} for a mask of shape {mask.shape}: expected {mask.ndim} numbers")
    if mask.ndim == 2 or tolerance:
        return _sums(_codes(mask), _codes(target), tolerance, spacing)
    slabs = [_sums(*pair, tolerance, spacing) for pair in zip(_slabs(mask), _slabs(target), strict=True)]
    return sum(numerator for numerator, _ in slabs), sum(denominator for _, denominator in slabs)


def _sums(
    mask_codes: np.ndarray, target_codes: np.ndarray, tolerance: float, spacing: tuple[float, ...]
) -> tuple[float, float]:
    """As `surface_sums`, of codes."""
    table = _sizes(spacing)
    predicted, true = table[mask_codes], table[target_codes]
    near_predicted, near_true = _near(predicted > 0, tolerance, spacing), _near(true > 0, tolerance, spacing)
    # Products, not selections: summed in the same order, the numerator never exceeds the denominator.
    return float((predicted * near_true).sum() + (true * near_predicted).sum()), float(predicted.sum() + true.sum())


def _near(surface: np.ndarray, tolerance: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Which blocks are within the tolerance of a surface."""
    if tolerance == 0 or not surface.any():
        return surface
    return distance_transform_edt(~surface, sampling=spacing) <= tolerance


def _slabs(mask: np.ndarray) -> Iterator[np.ndarray]:
    """The codes of a volume in slabs of SLAB layers of blocks: the areas of a whole large volume fill the memory."""
    layers = len(mask) + 1  # layer n is between the slices n - 1 and n
    for start in range(0, layers, SLAB):
        stop = min(start + SLAB, layers)
        yield _codes(mask[max(0, start - 1) : stop], (int(start == 0), int(stop == layers)))


def _codes(mask: np.ndarray, first: tuple[int, int] = (1, 1)) -> np.ndarray:
    """The masked pixels of each block as bits of a number; blocks extend over all edges: (H + 1, W + 1), in 3D too.

    Args:
        first: empty slices before and after those of the first axis.
    """
    padded = np.pad(mask.astype(bool), [first, *[(1, 1)] * (mask.ndim - 1)]).astype(np.uint8)
    codes = np.zeros([side - 1 for side in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        block = tuple(slice(start, start + side) for start, side in zip(corner, codes.shape, strict=True))
        codes |= padded[block] << bit
    return codes


@lru_cache
def _sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """The length or area of the surface in a block, by the code of the block: (16,) or (256,)."""
    axes = len(spacing)
    corners = list(product((0, 1), repeat=axes))
    sizes = np.zeros(1 << len(corners))
    for code in range(1, len(sizes) - 1):
        block = np.zeros((2,) * axes, dtype=np.float32)
        for bit, corner in enumerate(corners):
            block[corner] = code >> bit & 1
        # The surface is that of the minority, as in the authors' package: a mask and its complement have the same one.
        minority = min(block, 1 - block, key=np.sum)
        sizes[code] = _length(minority, spacing) if axes == 2 else _area(minority, spacing)
    return sizes


def _length(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    lines = [line * spacing for line in find_contours(block, 0.5)]
    return float(sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines))


def _area(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    points, triangles, *_ = marching_cubes(block, 0.5, method="lorensen")
    first, second, third = (points[triangles[:, corner]] * np.array(spacing) for corner in range(3))
    return float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)
