"""From probabilities to a mask: the rules, and their search on OOF with the competition's metric.

`levels` has the thresholds, `rules` turns stored values into a mask, `tree` counts what components leave at every
threshold, `search` finds the best rules.
"""

from pipeline.postprocess.levels import HALF, THRESHOLDS, best_threshold, count_by_label, count_levels, level
from pipeline.postprocess.rules import Cut, apply
from pipeline.postprocess.search import (
    AREAS,
    FAMILIES,
    Search,
    Surface,
    area_grid,
    search,
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
    "Search",
    "Surface",
    "apply",
    "area_grid",
    "best_threshold",
    "count_by_label",
    "count_levels",
    "level",
    "search",
    "search_components",
    "search_rules",
    "search_total",
    "search_triplet",
]
