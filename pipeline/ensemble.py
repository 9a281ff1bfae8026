"""The mean of several models' stored probabilities."""

from collections.abc import Sequence

import numpy as np

from pipeline.inference.store import PredictionStore


def average(members: Sequence[Sequence[PredictionStore]], image_id: str) -> np.ndarray:
    """The mean over configs of the mean over each config's stores, rounded to a stored level.

    Args:
        members: for each config, its stores: for the test set one per fold, for OOF one in all.

    Shapes:
        returns: (C, H, W) uint8.

    Raises:
        ValueError: if the stores' arrays of this image differ in shape.
    """
    total: np.ndarray | None = None
    for stores in members:
        for store in stores:
            values = store.read(image_id)
            if total is not None and values.shape != total.shape:
                raise ValueError(
                    f"image '{image_id}': one model predicts {values.shape}, another {total.shape} "
                    f"(classes, height, width): average configs of one competition only"
                )
            share = np.float32(1 / (len(members) * len(stores)))
            total = values * share if total is None else total + values * share
    return np.rint(total).astype(np.uint8)
