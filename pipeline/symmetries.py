"""The eight symmetries of the square (the dihedral group D4), for NumPy arrays and torch tensors alike."""

from typing import NamedTuple, TypeVar

import numpy as np

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor


class Symmetry(NamedTuple):
    """A transpose or none, then flips, of the last two axes.

    Shapes:
        images: (..., H, W); returned with H and W swapped if `transposes`, otherwise with the same shape.
    """

    transposes: bool
    flipped_axes: tuple[int, ...]

    def __call__(self, images: Array) -> Array:
        """The transformed images. Of a NumPy array, a view."""
        return _flip(images.mT if self.transposes else images, self.flipped_axes)

    def inverse(self, images: Array) -> Array:
        """The images before the transform: `inverse(symmetry(images))` equals `images`."""
        flipped = _flip(images, self.flipped_axes)
        return flipped.mT if self.transposes else flipped


def _flip(images: Array, axes: tuple[int, ...]) -> Array:
    if not axes:
        return images
    return np.flip(images, axes) if isinstance(images, np.ndarray) else images.flip(axes)


# Rotations are counterclockwise, as those of numpy.rot90 and torch.rot90.
SYMMETRIES = {
    "identity": Symmetry(False, ()),
    "rotate_90": Symmetry(True, (-2,)),
    "rotate_180": Symmetry(False, (-2, -1)),
    "rotate_270": Symmetry(True, (-1,)),
    "flip_horizontal": Symmetry(False, (-1,)),
    "flip_vertical": Symmetry(False, (-2,)),
    "transpose": Symmetry(True, ()),
    "anti_transpose": Symmetry(True, (-2, -1)),
}
