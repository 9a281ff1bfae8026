"""Several models as one: how their stored probabilities are combined, and with which weights.

Source:
    On what mean, logarithmic and voting rules assume: Kittler et al., On combining classifiers, 1998,
    https://doi.org/10.1109/34.667881.
"""

from pipeline.ensemble.choice import Choice, Chosen, Oof, choose
from pipeline.ensemble.combine import COMBINATIONS, average, blend, combine
from pipeline.ensemble.decision import Decision, Drawer, Exclusive, PerClass, blender, decide
from pipeline.ensemble.evaluation import count_drawn, score_drawn
from pipeline.ensemble.instances import ObjectCut, Objects, decide_objects
from pipeline.ensemble.multiclass import decide_exclusive
from pipeline.ensemble.serialization import drawer_of
from pipeline.ensemble.weights import (
    Fitted,
    Reduced,
    at_best_threshold,
    greedy_weights,
    image_scores,
    log_loss,
    log_loss_weights,
    reduce,
)

__all__ = [
    "COMBINATIONS",
    "Choice",
    "Chosen",
    "Decision",
    "Drawer",
    "Exclusive",
    "Fitted",
    "ObjectCut",
    "Objects",
    "Oof",
    "PerClass",
    "Reduced",
    "at_best_threshold",
    "average",
    "blend",
    "blender",
    "choose",
    "combine",
    "count_drawn",
    "decide",
    "decide_exclusive",
    "decide_objects",
    "drawer_of",
    "greedy_weights",
    "image_scores",
    "log_loss",
    "log_loss_weights",
    "reduce",
    "score_drawn",
]
