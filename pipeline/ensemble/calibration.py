"""Calibration of members before they are averaged: a table from each member's stored values to calibrated ones.

In a mean of probabilities a member with values near 0 and 255 counts for more than one with values near the middle,
although it may be no better. Two remedies, both fitted on out-of-fold predictions:

    temperature   divides the log-odds of each member by a number of its own, which minimises its log loss
    ranks         gives all members one distribution of values, so that a value means the same rank in each: the mean of
                  ranks, without its loss of resolution where most pixels are background

Source:
    Guo et al., On calibration of modern neural networks, https://arxiv.org/abs/1706.04599 (temperature). Quantile
    normalization: Bolstad et al., 2003, https://doi.org/10.1093/bioinformatics/19.2.185 (ranks).
"""

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.optimize import minimize_scalar

from pipeline.inference.prediction_store import MAX_VALUE

Value = Annotated[float, Field(ge=0, le=MAX_VALUE, allow_inf_nan=False)]
Table = tuple[Value, ...]  # (256,), for each stored value the calibrated one, rising
LEVELS = np.arange(MAX_VALUE + 1)
TEMPERATURES = 0.1, 10.0  # range of the search
DECIMALS = 1  # of a table's entries: far below the step of stored values


def log_odds(levels: np.ndarray, floor: float = 0.5) -> np.ndarray:
    """The log-odds of stored values; up to `floor` from 0 and 255 they are those of the floor, so all are finite."""
    clipped = np.clip(levels, floor, MAX_VALUE - floor)
    return np.log(clipped / (MAX_VALUE - clipped))


LOG_ODDS = log_odds(LEVELS)


def temperature_tables(pixels: np.ndarray) -> tuple[Table, ...]:
    """The table of each member's temperature of the least log loss; 0 and 255 stay, so that background stays empty.

    Shapes:
        pixels: (M, 256, 2), number of pixels by stored value, outside and inside of the target.
    """
    tables = [MAX_VALUE / (1 + np.exp(-LOG_ODDS / fit_temperature(each))) for each in pixels]
    return tuple(_to_table(np.array([0, *table[1:-1], MAX_VALUE])) for table in tables)


def fit_temperature(pixels: np.ndarray) -> float:
    """The temperature of the least log loss; above 1 for an overconfident member.

    Shapes:
        pixels: (256, 2), as for `temperature_tables`.
    """
    outside, inside = pixels.T

    def loss(log_temperature: float) -> float:
        scaled = LOG_ODDS / np.exp(log_temperature)
        return float(inside @ np.logaddexp(0, -scaled) + outside @ np.logaddexp(0, scaled))

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def rank_tables(pixels: np.ndarray) -> tuple[Table, ...]:
    """The tables that give all members the mean of their distributions: equal ranks become equal values.

    Shapes:
        pixels: (M, 256, 2), as for `temperature_tables`.
    """
    numbers = pixels.sum(axis=2)
    ranks = (numbers.cumsum(axis=1) - numbers / 2) / numbers.sum(axis=1, keepdims=True)  # of the middle of each value

    def value_at(rank: np.ndarray) -> np.ndarray:
        """The mean over members of the value at a rank."""
        return np.mean([np.interp(rank, own[n > 0], LEVELS[n > 0]) for own, n in zip(ranks, numbers, strict=True)], 0)

    return tuple(_to_table(value_at(own)) for own in ranks)


def _to_table(values: np.ndarray) -> Table:
    return tuple(np.round(values, DECIMALS).tolist())
