"""What the stored probabilities say of themselves and of the labels, from one histogram per image.

A histogram counts an image's pixels by label and stored value: 2 × 256 numbers, however large the image. All that a
report says of calibration and of suspected labels comes from them.
"""

import numpy as np
import pandas as pd

from pipeline.inference.prediction_store import MAX_VALUE

BINS = 15  # Guo et al., On calibration of modern neural networks, https://arxiv.org/abs/1706.04599
SPECK = 1e-3  # share of an image's pixels below which a disagreement of one empty mask is no news


def suspicion(counts: np.ndarray) -> np.ndarray:
    """How much of each image's label is contradicted by models that are sure and have not seen the image, 0 to 1.

    Confident learning, on pixels. A model is sure of a mask where p is at least what it averages on pixels labelled
    as mask, over all images; and sure of background where p is at most its average on pixels labelled as background.
    Those averages are its own measure of "sure", so a timid model is not called unsure everywhere. Then

        suspicion = sure pixels of the other label / pixels labelled, or surely predicted, as mask

    with a thousandth of the image added below, so that a few stray pixels on an empty image do not lead the list. A
    blurred outline costs little: pixels there are not sure. Low scores without suspicion are hard images, not labels.

    Shapes:
        counts: (N, 2, 256), of `postprocess.count_by_label`.
        returns: (N,).

    Source:
        Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, 2021,
        https://arxiv.org/abs/1911.00068, equation 2. Of segmentation: Lad and Mueller, Estimating label quality and
        errors in semantic segmentation data via any model, 2023, https://arxiv.org/abs/2307.05080.
    """
    total = counts.sum(axis=0)
    if not total.sum(axis=1).all():
        return np.zeros(len(counts))  # no pixel of a label: nothing says what sure of it would be
    sure_outside, sure_inside = (total @ np.arange(MAX_VALUE + 1)) / total.sum(axis=1)
    invented = counts[:, 0, int(np.ceil(sure_inside)) :].sum(axis=1)
    denied = counts[:, 1, : int(np.floor(sure_outside)) + 1].sum(axis=1)
    masked, pixels = counts[:, 1].sum(axis=1), counts.sum(axis=(1, 2))
    return (invented + denied) / (masked + invented + SPECK * pixels)


def reliability(counts: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """What share of the pixels of about one probability is masked.

    Shapes:
        counts: (2, 256), the sum of `postprocess.count_by_label` over images.
        returns: a row for each bin with pixels in it: bin, probability (their mean), share (0 to 1, masked), pixels.
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
        table: of `reliability`, or rows of it; NaN without any.
    """
    if not table["pixels"].sum():
        return float("nan")
    return float(np.average((table["probability"] - table["share"]).abs(), weights=table["pixels"]))
