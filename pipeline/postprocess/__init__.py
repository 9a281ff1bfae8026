"""From probabilities to a mask: the rules, and their search on OOF with the competition's metric.

`levels` has the thresholds, `rules` turns stored values into a mask, `tree` counts what components leave at every
threshold, `search_rules` finds the best rules, and `search_refinements` tries further ones around them.
"""

from pipeline.postprocess.rule_variants import Refined, Refinements, refinements, search_refinements
from pipeline.postprocess.rules import Cut, apply
from pipeline.postprocess.search import (
    AREAS,
    FAMILIES,
    Images,
    Surface,
    area_grid,
    search_components,
    search_rules,
    search_total,
    search_triplet,
)
from pipeline.postprocess.threshold_counts import (
    HALF,
    THRESHOLDS,
    best_threshold,
    count_argmax,
    count_by_label,
    count_levels,
    count_soft,
    level,
)

__all__ = [
    "AREAS",
    "FAMILIES",
    "HALF",
    "THRESHOLDS",
    "Cut",
    "Images",
    "Refined",
    "Refinements",
    "Surface",
    "apply",
    "area_grid",
    "best_threshold",
    "count_argmax",
    "count_by_label",
    "count_levels",
    "count_soft",
    "level",
    "refinements",
    "search_components",
    "search_refinements",
    "search_rules",
    "search_total",
    "search_triplet",
]
