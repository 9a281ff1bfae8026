"""From probabilities to a mask: the rules, and their search on OOF with the competition's metric.

`levels` has the thresholds, `rules` turns stored values into a mask, `tree` counts what components leave at every
threshold, `search_rules` finds the best rules.
"""

from pipeline.postprocess.levels import (
    HALF,
    THRESHOLDS,
    best_threshold,
    count_argmax,
    count_by_label,
    count_levels,
    level,
)
from pipeline.postprocess.rules import Cut, apply
from pipeline.postprocess.search import (
    AREAS,
    FAMILIES,
    Surface,
    area_grid,
    search_components,
    search_rules,
    search_total,
    search_triplet,
)

__all__ = [
    "AREAS",
    "FAMILIES",
    "HALF",
    "THRESHOLDS",
    "Cut",
    "Surface",
    "apply",
    "area_grid",
    "best_threshold",
    "count_argmax",
    "count_by_label",
    "count_levels",
    "level",
    "search_components",
    "search_rules",
    "search_total",
    "search_triplet",
]
