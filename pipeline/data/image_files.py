"""Writes images in 8 bits: demos, mock test sets and reports."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image, (H, W) or (H, W, 3) uint8, in the format of the path's suffix."""
    Image.fromarray(pixels).save(path)


def encode_image(pixels: np.ndarray, format: str, quality: int) -> bytes:
    """Encode an image, (H, W) or (H, W, 3) uint8, as the bytes of an image file.

    Args:
        format: Pillow's name of the format, such as "WEBP".
        quality: 1 (small) to 100, for lossy formats.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=quality)
    return buffer.getvalue()
