"""Channels that are computed from other channels: one function each, in `DERIVED`.

The functions take raw values, before any scaling, as float32 arrays (H, W). A division by zero gives infinity or NaN,
which `data.nodata` refuses or fills.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Range = tuple[float, float]  # values that become 0 and 255


class Derived(NamedTuple):
    """A derived channel.

    Args:
        compute: from the channels that it takes, (H, W) float32 each, to as many results as `ranges` has entries.
        arguments: what it takes, for messages.
        ranges: of each result, the values that become 0 and 255; None: they depend on the units, so the config has to
            set a window.
    """

    compute: Callable[..., tuple[np.ndarray, ...]]
    arguments: tuple[str, ...]
    ranges: tuple[Range | None, ...]


def ratio(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    """a / b: cancels a brightness that multiplies both."""
    return (a / b,)


def difference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    """a - b: cancels an offset that both have."""
    return (a - b,)


def normalized_difference(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
    """(a - b) / (a + b), from -1 to 1 for values of 0 or more: NDVI of near infrared and red, NDWI of green and it.

    Source:
        Rouse et al., Monitoring vegetation systems in the Great Plains with ERTS, 1974.
    """
    return ((a - b) / (a + b),)


def ash_color(
    band11: np.ndarray, band13: np.ndarray, band14: np.ndarray, band15: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green and blue of the ash false colour, in which thin ice clouds such as contrails are dark blue.

        red = band15 - band13, green = band14 - band11, blue = band14

    Args:
        band11, band13, band14, band15: brightness temperatures of GOES-16 at 8.4, 10.3, 11.2 and 12.3 µm, in kelvin.

    Source:
        EUMETSAT's ash RGB, with the ranges of the description of Google Research's contrails competition (-4 to 2, -4
        to 5 and 243 to 303 K), from memory.
    """
    return band15 - band13, band14 - band11, band14


DERIVED = {
    "ratio": Derived(ratio, ("a", "b"), (None,)),
    "difference": Derived(difference, ("a", "b"), (None,)),
    "normalized_difference": Derived(normalized_difference, ("a", "b"), ((-1, 1),)),
    "ash_color": Derived(ash_color, ("band11", "band13", "band14", "band15"), ((-4, 2), (-4, 5), (243, 303))),
}
