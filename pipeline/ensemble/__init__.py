"""Ensembles: how the members' stored probabilities are combined, with which weights, and which rules follow.

Source:
    The assumptions of the mean, the logarithmic combinations and the vote: Kittler et al., On combining classifiers,
    1998, https://doi.org/10.1109/34.667881.
"""

from pipeline.ensemble.combine import COMBINATIONS, blend, combine
from pipeline.ensemble.evaluation import count_masks, mean_score
from pipeline.ensemble.instances import select_instances
from pipeline.ensemble.multiclass import select_multiclass
from pipeline.ensemble.renderer import ARGMAX, INSTANCES, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection, select_multilabel
from pipeline.ensemble.serialization import from_record, to_record
from pipeline.ensemble.weights import (
    FittedWeights,
    Subsample,
    fit_threshold,
    greedy_weights,
    log_loss,
    log_loss_weights,
    score_images,
    subsample,
)

__all__ = [
    "ARGMAX",
    "COMBINATIONS",
    "INSTANCES",
    "FittedWeights",
    "Oof",
    "Postprocess",
    "Renderer",
    "Selection",
    "Subsample",
    "blend",
    "combine",
    "count_masks",
    "fit_threshold",
    "from_record",
    "greedy_weights",
    "log_loss",
    "log_loss_weights",
    "mean_score",
    "score_images",
    "select_instances",
    "select_multiclass",
    "select_multilabel",
    "subsample",
    "to_record",
]
