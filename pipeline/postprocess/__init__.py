"""Post-processing: the rules from stored probabilities to a mask, and the search of the best rules on OOF predictions.

`threshold_counts` has the thresholds, `rules` applies rules to one image, `component_tree` counts the pixels that
survive each minimum component at every threshold, `search` scores every candidate of the rule sets, and
`rule_variants` adds further rules to the best of them. `instances` and `shape` make instances instead of masks.
"""

from pipeline.postprocess.rule_variants import (
    RuleVariants,
    VariantScores,
    VariantSearch,
    rule_variants,
    search_variants,
)
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.search import AREAS, RULE_SETS, Images, RuleSearch, ScoreGrid, area_grid, search_rules
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
    "HALF",
    "RULE_SETS",
    "THRESHOLDS",
    "Images",
    "RuleSearch",
    "RuleVariants",
    "Rules",
    "ScoreGrid",
    "VariantScores",
    "VariantSearch",
    "apply",
    "area_grid",
    "best_threshold",
    "count_argmax",
    "count_by_label",
    "count_levels",
    "count_soft",
    "level",
    "rule_variants",
    "search_rules",
    "search_variants",
]
