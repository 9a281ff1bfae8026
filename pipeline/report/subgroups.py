"""Ways to tell the training images apart, and how each kind scores: where most is to be gained."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.report.report_data import RESULTS

SIZE = "mask size"

VALUES = 20  # a column of more is a measurement or a name, not a kind; but a group may have any number
SIZES = ("no mask", "smallest quarter", "second quarter", "third quarter", "largest quarter")


class Grouping(NamedTuple):
    """One way to tell images apart."""

    name: str  # the column's
    kinds: pd.DataFrame  # the worst first: kind, images, score, worst, coverage


def groupings(images: pd.DataFrame) -> list[Grouping]:
    """Every way: by how much is masked, and by each column of few values.

    Args:
        images: as `View.images`, all with a score.
    """
    images = images.assign(**{SIZE: _sizes(images["coverage"])})
    columns = [SIZE, *(column for column in images.columns if column not in {*RESULTS, SIZE})]
    return [Grouping(column, _score_kinds(images, column)) for column in columns if _tells_apart(images, column)]


def _tells_apart(images: pd.DataFrame, column: str) -> bool:
    number = images[column].nunique()
    if column == "group":
        return 1 < number <= len(images) / 2
    return 1 < number <= VALUES


def _score_kinds(images: pd.DataFrame, column: str) -> pd.DataFrame:
    table = images.groupby(column).agg(
        images=("score", "size"), score=("score", "mean"), worst=("score", "min"), coverage=("coverage", "mean")
    )
    table = table.reset_index(names="kind").astype({"kind": str})
    return table.sort_values("score", kind="stable", ignore_index=True)


def _sizes(coverage: pd.Series) -> pd.Series:
    """Of each image, which of SIZES its mask has; quarters are of the images with a mask."""
    full = coverage[coverage > 0]
    borders = full.quantile([0.25, 0.5, 0.75]) if len(full) else []
    quarter = np.searchsorted(borders, coverage) + 1
    return pd.Series(np.array(SIZES)[np.where(coverage > 0, quarter, 0)], index=coverage.index)
