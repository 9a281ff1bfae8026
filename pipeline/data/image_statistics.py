"""Statistics of one image: size, intensity, colour and texture. They show in what two sets of images differ."""

from collections.abc import Callable

import cv2
import numpy as np

LEVELS = 5  # of a pyramid; each halves the image, and details between two levels are of one size
COLOUR_SIDE = 256  # pixels, the longer side to which an image is shrunk for its colours
DARK, BRIGHT = 10, 245  # grey levels up to which a pixel is dark, and from which it is bright
# For noise of standard deviation 1, the mean absolute response of this filter is NOISE_GAIN. Source: Immerkær, Fast
# noise variance estimation, 1996, https://doi.org/10.1006/cviu.1996.0060.
NOISE_FILTER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
NOISE_GAIN = 6 * np.sqrt(2 / np.pi)


def _size(image: np.ndarray) -> dict[str, float]:
    """Height and width in pixels, and their ratio."""
    height, width = image.shape[:2]
    return {"height": height, "width": width, "height / width": height / width}


def _intensity(image: np.ndarray) -> dict[str, float]:
    """Brightness in grey levels, shares of dark and bright pixels (0 to 1), and the parts that Otsu's threshold makes.

    The parts are described by the share of pixels above the threshold, and by the share of the variance that lies
    between them, 0 to 1. Few objects on an even background differ in both from an empty image.
    """
    grey = _grey(image)
    histogram = np.bincount(grey.ravel(), minlength=256) / grey.size
    levels, cumulated = np.arange(256), np.cumsum(histogram)
    mean = (histogram * levels).sum()
    low, middle, high = np.searchsorted(cumulated, (0.01, 0.5, 0.99))
    share, between = _otsu(histogram)
    filled = histogram[histogram > 0]
    return {
        "brightness": mean,
        "contrast": np.sqrt((histogram * (levels - mean) ** 2).sum()),
        "1st percentile": low,
        "median": middle,
        "99th percentile": high,
        "dark share": histogram[: DARK + 1].sum(),
        "bright share": histogram[BRIGHT:].sum(),
        "foreground share": share,
        "bimodality": between,
        "entropy": -(filled * np.log2(filled)).sum(),
    }


def _grey(image: np.ndarray) -> np.ndarray:
    """Grey levels, (H, W) uint8."""
    return image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _otsu(histogram: np.ndarray) -> tuple[float, float]:
    """The share of pixels above Otsu's threshold, and the share of the variance that lies between the two parts.

    Shapes:
        histogram: (256,), sums to 1.
    """
    levels = np.arange(256)
    below, moment = np.cumsum(histogram), np.cumsum(histogram * levels)
    mean = moment[-1]
    variance, product = (histogram * (levels - mean) ** 2).sum(), below * (1 - below)
    if variance < 1e-9:
        return 0.0, 0.0
    between = np.divide((mean * below - moment) ** 2, product, out=np.zeros(256), where=product > 1e-12)
    best = int(between.argmax())
    return 1 - below[best], between[best] / variance


COLOURS = ("green to red", "blue to yellow", "spread of green to red", "spread of blue to yellow", "colourfulness")


def _colour(image: np.ndarray) -> dict[str, float]:
    """COLOURS: mean and standard deviation of both colour axes of CIE L*a*b*, and the mean distance from grey."""
    if (image == image[..., :1]).all():  # grey: rounding of L*a*b* would make colours of its brightness
        return dict.fromkeys(COLOURS, 0.0)
    scale = min(1.0, COLOUR_SIDE / max(image.shape[:2]))
    small = image if scale == 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    a, b = np.moveaxis(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[..., 1:], 2, 0)
    return dict(zip(COLOURS, (a.mean(), b.mean(), a.std(), b.std(), np.hypot(a, b).mean()), strict=True))


def _texture(image: np.ndarray) -> dict[str, float]:
    """Noise, and the standard deviation of the details of each size, in grey levels; and how heavy their tails are."""
    level = _grey(image).astype(np.float32)
    noise = np.abs(cv2.filter2D(level, cv2.CV_32F, NOISE_FILTER)).mean() / NOISE_GAIN
    spread, tails = [], []
    for _ in range(LEVELS):
        coarse = cv2.pyrDown(level)
        details = level - cv2.resize(coarse, level.shape[::-1], interpolation=cv2.INTER_LINEAR)
        spread.append(details.std())
        tails.append(spread[-1] / (np.abs(details).mean() + 0.1))
        level = coarse
    return {
        "noise": noise,
        **{f"details of {2**number} px": value for number, value in enumerate(spread)},
        "fine to coarse details": np.log((spread[0] + 0.1) / (spread[-1] + 0.1)),
        "tails of fine details": tails[0],
        "tails of coarse details": tails[2],
    }


STATISTICS: tuple[Callable[[np.ndarray], dict[str, float]], ...] = (_size, _intensity, _colour, _texture)


def compute_statistics(image: np.ndarray) -> dict[str, float]:
    """The statistics of an image by name; a grey one has the colours of a grey RGB image.

    Shapes:
        image: (H, W, 1 or 3) uint8, grey or RGB.
    """
    return {name: float(value) for compute in STATISTICS for name, value in compute(image).items()}


NAMES = tuple(compute_statistics(np.zeros((1, 1, 1), np.uint8)))  # in the order of `compute_statistics`
