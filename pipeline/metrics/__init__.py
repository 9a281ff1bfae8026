"""Official metrics: NumPy arrays in, a float out. All of them are in one table, `METRICS` in `specs.py`.

Where no image and class counts for a metric, its score is NaN. How a mask counts that is empty in both prediction and
target is a rule of each metric.
"""

from pipeline.metrics.counts import VOID, Counts, count, stack
from pipeline.metrics.detection import DetectionRates, detection_rates, empties_differ
from pipeline.metrics.instances import VOID_OBJECT, Matches, f1, match, match_overlaps, overlaps, pairwise_iou
from pipeline.metrics.overlap import dice, f_beta, iou, tgs_precision
from pipeline.metrics.pixels import Metric, Term
from pipeline.metrics.ranked import RankedObjects, average_precision, mean_average_precision, rank_objects
from pipeline.metrics.scores import Scores, nan_to_zero, ratio
from pipeline.metrics.specs import (
    METRICS,
    PRESETS,
    MetricSpec,
    epoch_metric,
    format_metric,
    instance_metric,
    metric_kind,
    metric_names,
    parse_metric,
    pixel_metric,
    ranked_metric,
    selection_metric,
    volume_metric,
)
from pipeline.metrics.volumes import Volume

__all__ = [
    "METRICS",
    "PRESETS",
    "VOID",
    "VOID_OBJECT",
    "Counts",
    "DetectionRates",
    "Matches",
    "Metric",
    "MetricSpec",
    "RankedObjects",
    "Scores",
    "Term",
    "Volume",
    "average_precision",
    "count",
    "detection_rates",
    "dice",
    "empties_differ",
    "epoch_metric",
    "f1",
    "f_beta",
    "format_metric",
    "instance_metric",
    "iou",
    "match",
    "match_overlaps",
    "mean_average_precision",
    "metric_kind",
    "metric_names",
    "nan_to_zero",
    "overlaps",
    "pairwise_iou",
    "parse_metric",
    "pixel_metric",
    "rank_objects",
    "ranked_metric",
    "ratio",
    "selection_metric",
    "stack",
    "tgs_precision",
    "volume_metric",
]
