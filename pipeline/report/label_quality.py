"""Calibration and likely label errors, computed from one histogram per image.

A histogram counts an image's pixels by label and stored value: 2 × 256 numbers, whatever the size of the image.
"""

import numpy as np
import pandas as pd

from pipeline.inference.prediction_store import MAX_VALUE

BINS = 15  # Guo et al., On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
MIN_MASK_SHARE = 1e-3  # share of an image's pixels below which contradictions count little


def label_error_score(counts: np.ndarray) -> np.ndarray:
    """How much of each image's label is contradicted by confident out-of-fold predictions, 0 to 1.

    Confident learning, applied to pixels. A model is confident of the mask where p is at least its average on pixels
    labelled as mask, over all images; and confident of the background where p is at most its average on pixels
    labelled as background. These averages adapt to the model, so an underconfident model can be confident too. Then

        score = confident pixels of the other label / pixels labelled, or confidently predicted, as mask

    where MIN_MASK_SHARE of the image is added to the denominator, so that a few false pixels on an empty image do not
    lead the list. A blurred outline costs little, because pixels there are not confident. An image with a low score of
    the metric and a low label error score is hard, and its label is probably correct.

    Shapes:
        counts: (N, 2, 256) int, of `threshold_counts.count_by_label`.
        returns: (N,) float.

    Source:
        Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, 2021,
        https://arxiv.org/abs/1911.00068, equation 2. Of segmentation: Lad and Mueller, Estimating label quality and
        errors in semantic segmentation data via any model, 2023, https://arxiv.org/abs/2307.05080.
    """
    total = counts.sum(axis=0)
    if not total.sum(axis=1).all():
        return np.zeros(len(counts))  # one of the labels has no pixel, so its average is undefined
    confident_outside, confident_inside = (total @ np.arange(MAX_VALUE + 1)) / total.sum(axis=1)
    false_positive = counts[:, 0, int(np.ceil(confident_inside)) :].sum(axis=1)
    false_negative = counts[:, 1, : int(np.floor(confident_outside)) + 1].sum(axis=1)
    masked, pixels = counts[:, 1].sum(axis=1), counts.sum(axis=(1, 2))
    return (false_positive + false_negative) / (masked + false_positive + MIN_MASK_SHARE * pixels)


def reliability(counts: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The share of masked pixels among the pixels of each probability bin.

    Shapes:
        counts: (2, 256) int, the sum of `threshold_counts.count_by_label` over images.

    Returns:
        A row for each bin with pixels in it: bin, probability (their mean), share (of masked pixels, 0 to 1), pixels.
    """
    levels = np.arange(MAX_VALUE + 1)
    bin_of = np.minimum(levels * bins // MAX_VALUE, bins - 1)
    pixels = np.bincount(bin_of, counts.sum(axis=0))
    full = np.flatnonzero(pixels)
    probability = np.bincount(bin_of, counts.sum(axis=0) * levels / MAX_VALUE)[full] / pixels[full]
    share = np.bincount(bin_of, counts[1])[full] / pixels[full]
    return pd.DataFrame(
        {"bin": full, "probability": probability, "share": share, "pixels": pixels[full].astype(np.int64)}
    )


def calibration_error(table: pd.DataFrame) -> float:
    """The expected calibration error: the mean of |probability − share| over pixels, 0 to 1.

    Args:
        table: of `reliability`, or rows of it; the error of no row is NaN.
    """
    if not table["pixels"].sum():
        return float("nan")
    return float(np.average((table["probability"] - table["share"]).abs(), weights=table["pixels"]))
