"""How much the scores of two trainings of one config differ, by chance alone."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

# Without other seeds. docs/results.md has the measurements: three seeds of one fold of nuclei have a standard deviation
# of .0100 after 150 steps, hence the difference of two scores over five folds has .0100 · √(2 / 5) = .006.
PRIOR = 0.006


class TrainingSpread(NamedTuple):
    """The standard deviation of the difference of two trainings of one config."""

    deviation: float
    seeds: int  # trainings that it was estimated from; 0: it is PRIOR

    def __str__(self) -> str:
        source = f"from {self.seeds} seeds" if self.seeds else "assumed: no other seeds of these configs are submitted"
        return f"two trainings of one config differ by {self.deviation:.4f} (standard deviation; {source})"


def training_spread(scores: Iterable[Sequence[float]]) -> TrainingSpread:
    """The spread from the scores of several seeds, for each config; PRIOR if no config has two.

    The variances of the configs are pooled, weighted by their degrees of freedom.
    """
    repeated = [each for each in scores if len(each) > 1]
    if not repeated:
        return TrainingSpread(PRIOR, 0)
    squares = sum(np.var(each) * len(each) for each in repeated)
    freedom = sum(len(each) - 1 for each in repeated)
    return TrainingSpread(float(np.sqrt(2 * squares / freedom)), sum(map(len, repeated)))
