"""Transforms of our own, beside those of albumentations 2.0.8."""

from typing import Any

import albumentations as A
import cv2
import numpy as np

cv2.setNumThreads(0)  # threads of several workers would compete for the cores

# Optical densities of hematoxylin, eosin and DAB (rows) in red, green and blue: Ruifrok & Johnston,
# Quantification of histochemical staining by color deconvolution, 2001.
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=np.float32)


class RandomScaledCrop(A.DualTransform):
    """A random square window, resized to `side`: the image at a random scale is cropped, but never resized whole.

    A window beyond the image is filled by reflection.

    Args:
        side: of the result, in pixels.
        scale: range of the factor; the window has `side / factor` pixels.
        chance: that the factor is not 1.
    """

    _targets = (A.core.transforms_interface.Targets.IMAGE, A.core.transforms_interface.Targets.MASK)

    def __init__(self, side: int, scale: tuple[float, float], chance: float = 1.0):
        super().__init__(p=1)
        self.side, self.scale, self.chance = side, scale, chance
        # Of the pixel's centre, as the image's: INTER_NEAREST reads its corner, and shifts masks by half a pixel.
        self.mask_interpolation = cv2.INTER_NEAREST_EXACT

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, int]:
        height, width = params["shape"][:2]
        factor = self.py_random.uniform(*self.scale) if self.py_random.random() < self.chance else 1
        window = max(1, round(self.side / factor))
        # A smaller image is in the middle of the window.
        top, left = (
            self.py_random.randint(0, length - window) if length > window else -((window - length) // 2)
            for length in (height, width)
        )
        return {"top": top, "left": left, "window": window}

    def apply(self, img: np.ndarray, top: int, left: int, window: int, **_: Any) -> np.ndarray:
        return self._resized(img, top, left, window, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: np.ndarray, top: int, left: int, window: int, **_: Any) -> np.ndarray:
        return self._resized(mask, top, left, window, self.mask_interpolation)

    def _resized(self, pixels: np.ndarray, top: int, left: int, window: int, interpolation: int) -> np.ndarray:
        inside = pixels[max(0, top) : top + window, max(0, left) : left + window]
        before = (max(0, -top), max(0, -left))
        after = [window - length - start for length, start in zip(inside.shape, before, strict=False)]
        if any((*before, *after)):
            inside = np.pad(inside, [*zip(before, after, strict=True), *[(0, 0)] * (inside.ndim - 2)], mode="reflect")
        if window != self.side:
            inside = cv2.resize(inside, (self.side, self.side), interpolation=interpolation)
        return inside.reshape(self.side, self.side, *pixels.shape[2:])


class HEDJitter(A.ImageOnlyTransform):
    """Change the amount of each stain of a histological image, in colour.

        density = -log10(max(rgb, 1/255));  stains = density · STAINS⁻¹
        stain' = a · stain + b;             rgb' = 10^(-stains' · STAINS)

    Args:
        sigma: a is uniform in 1 ± sigma, b in 0 ± sigma, for each stain of each image.
        p: probability.

    Shapes:
        image: (H, W, 3) uint8, or float32 in 0 … 1.

    Source:
        Tellez et al., Whole-slide mitosis detection in H&E breast histology, https://arxiv.org/abs/1808.05896, with
        sigma .05 as "HED-light" and .2 as "HED-strong" of https://arxiv.org/abs/1902.06543.
    """

    def __init__(self, sigma: float = 0.05, p: float = 0.5):
        super().__init__(p=p)
        if not 0 < sigma < 1:
            raise ValueError(f"sigma = {sigma:g}: expected more than 0 and less than 1, such as 0.05")
        self.sigma = sigma

    def get_params(self) -> dict[str, Any]:
        low, high = (np.full(3, sign * self.sigma) for sign in (-1, 1))
        return {
            "factors": 1 + self.random_generator.uniform(low, high),
            "shifts": self.random_generator.uniform(low, high),
        }

    def apply(self, img: np.ndarray, factors: np.ndarray, shifts: np.ndarray, **_: Any) -> np.ndarray:
        if img.shape[-1] != 3:
            raise ValueError(f"stains are separated by their colours: expected 3 channels, got {img.shape[-1]}")
        white = 255 if img.dtype == np.uint8 else 1
        density = -np.log10(np.maximum(img.astype(np.float32) / white, 1 / 255))
        stains = density @ np.linalg.inv(STAINS) * factors + shifts
        rgb = np.clip(10 ** -(stains @ STAINS), 0, 1) * white
        return (np.rint(rgb) if img.dtype == np.uint8 else rgb).astype(img.dtype)


OWN = {"HEDJitter": HEDJitter}
