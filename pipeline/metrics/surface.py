"""Surface Dice: how much of two surfaces lies within a tolerance of each other, in 2D and 3D.

A surface runs between pixels: through every block of 2×2 (2×2×2) pixels that are not all alike. How long (how large) it
is there depends on which of them are masked: the length of the contour, the area of the triangles of marching cubes.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import find_contours, marching_cubes


def surface_dice(
    mask: np.ndarray, target: np.ndarray, tolerance: float = 0.0, spacing: tuple[float, ...] | None = None
) -> float:
    """The share of both surfaces that lies within a tolerance of the other one.

        (|S_A within t of S_B| + |S_B within t of S_A|) / (|S_A| + |S_B|)

    Neither has a surface: NaN, as in the authors' package; SenNet's own rule for that is not verified. A mask that
    reaches the image's edge has a surface there.

    Args:
        tolerance: in the units of the spacing, 0 or more.
        spacing: between pixels along each axis; 1 each by default.

    Shapes:
        mask, target: (H, W) or (D, H, W), 0 or 1.

    Raises:
        ValueError: if the shapes differ, or have another number of axes, or another than the spacing.

    Source:
        Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy,
        https://arxiv.org/abs/1809.04430. Lengths and areas are those of the authors' package,
        https://github.com/google-deepmind/surface-distance. SenNet + HOA uses it in 3D with tolerance 0.
    """
    shared, possible = surface_sums(mask, target, tolerance, spacing)
    return shared / possible if possible else float("nan")


def surface_sums(
    mask: np.ndarray, target: np.ndarray, tolerance: float = 0.0, spacing: tuple[float, ...] | None = None
) -> tuple[float, float]:
    """Above and below the fraction line of `surface_dice`: they add up over volumes."""
    if mask.shape != target.shape or mask.ndim not in (2, 3):
        raise ValueError(f"mask {mask.shape} and target {target.shape}: expected one shape, (H, W) or (D, H, W)")
    spacing = spacing or (1.0,) * mask.ndim
    if len(spacing) != mask.ndim:
        raise ValueError(f"spacing {spacing} for a mask of shape {mask.shape}: expected {mask.ndim} numbers")
    table = _sizes(spacing)
    ours, theirs = (table[_codes(each)] for each in (mask, target))
    near = _near(ours > 0, tolerance, spacing), _near(theirs > 0, tolerance, spacing)
    # Products, not selections: added in one order, what is shared never comes out above the whole.
    return float((ours * near[1]).sum() + (theirs * near[0]).sum()), float(ours.sum() + theirs.sum())


def _near(surface: np.ndarray, tolerance: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Where some of a surface is within the tolerance."""
    if tolerance == 0 or not surface.any():
        return surface
    return distance_transform_edt(~surface, sampling=spacing) <= tolerance


def _codes(mask: np.ndarray) -> np.ndarray:
    """Which pixels of each block are masked, as a number; blocks hang over all edges, (H + 1, W + 1) and so on."""
    padded = np.pad(mask.astype(bool), 1).astype(np.uint8)
    codes = np.zeros([side - 1 for side in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        block = tuple(slice(start, start + side) for start, side in zip(corner, codes.shape, strict=True))
        codes |= padded[block] << bit
    return codes


@lru_cache
def _sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """The length or area of the surface in a block, by its code: (16,) or (256,)."""
    axes = len(spacing)
    corners = list(product((0, 1), repeat=axes))
    sizes = np.zeros(1 << len(corners))
    for code in range(1, len(sizes) - 1):
        block = np.zeros((2,) * axes, dtype=np.float32)
        for bit, corner in enumerate(corners):
            block[corner] = code >> bit & 1
        # The fewer pixels are cut off, masked or not, as the authors do it: a mask and its opposite have one surface.
        fewer = min(block, 1 - block, key=np.sum)
        sizes[code] = _length(fewer, spacing) if axes == 2 else _area(fewer, spacing)
    return sizes


def _length(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    lines = [line * spacing for line in find_contours(block, 0.5)]
    return float(sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines))


def _area(block: np.ndarray, spacing: tuple[float, ...]) -> float:
    points, triangles, *_ = marching_cubes(block, 0.5, method="lorensen")
    first, second, third = (points[triangles[:, corner]] * np.array(spacing) for corner in range(3))
    return float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)
