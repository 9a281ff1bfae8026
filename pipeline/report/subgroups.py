"""Scores of subgroups of the training images: by mask size and by each column of few values."""

import numpy as np
import pandas as pd

from pipeline.report.report_data import RESULT_COLUMNS

MASK_SIZE = "mask size"
MASK_SIZES = ("no mask", "smallest quarter", "second quarter", "third quarter", "largest quarter")
MAX_VALUES = 20  # a column of more values is a measurement or a name; a group may have any number


def score_subgroups(images: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The scores of the subgroups of every suitable column, mask size first.

    Args:
        images: as `ReportData.images`, all with a score.

    Returns:
        By column, a row for each subgroup, the worst first: subgroup, images, score (mean), worst (score), coverage
        (mean).
    """
    images = images.assign(**{MASK_SIZE: _mask_sizes(images["coverage"])})
    columns = [MASK_SIZE, *(column for column in images.columns if column not in {*RESULT_COLUMNS, MASK_SIZE})]
    return {column: _score_column(images, column) for column in columns if _has_subgroups(images, column)}


def _has_subgroups(images: pd.DataFrame, column: str) -> bool:
    number = images[column].nunique()
    if column == "group":
        return 1 < number <= len(images) / 2
    return 1 < number <= MAX_VALUES


def _score_column(images: pd.DataFrame, column: str) -> pd.DataFrame:
    table = images.groupby(column).agg(
        images=("score", "size"), score=("score", "mean"), worst=("score", "min"), coverage=("coverage", "mean")
    )
    table = table.reset_index(names="subgroup").astype({"subgroup": str})
    return table.sort_values("score", kind="stable", ignore_index=True)


def _mask_sizes(coverage: pd.Series) -> pd.Series:
    """The entry of MASK_SIZES of each image; quarters are of the images with a mask."""
    full = coverage[coverage > 0]
    limits = full.quantile([0.25, 0.5, 0.75]) if len(full) else []
    quarter = np.searchsorted(limits, coverage) + 1
    return pd.Series(np.array(MASK_SIZES)[np.where(coverage > 0, quarter, 0)], index=coverage.index)
