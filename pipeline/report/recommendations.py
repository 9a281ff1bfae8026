"""Recommendations: each rule checks one property of a run and recommends what to do if it is unusual.

The bounds are rules of thumb. A recommendation quotes the number that exceeded its bound.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.metrics import empties_differ
from pipeline.report import plots
from pipeline.report.label_quality import calibration_error
from pipeline.report.pictures import with_label_errors
from pipeline.report.report_data import LikeTest, ReportData
from pipeline.report.subgroups import score_subgroups

MAX_OPTIMISM = 0.5  # of half the width of the interval
MAX_FOLD_DEVIATION = 3.0  # standard errors between a fold's mean and the mean of all images
MAX_THRESHOLD_RANGE = 0.2  # between two folds' thresholds, unless the plateau is wider
MAX_CALIBRATION_ERROR = 0.1  # among pixels of probability .05 to .95
MIN_LOSS = 0.05  # of score, by a subgroup
MIN_SHARE = 0.05  # of the images, in such a subgroup
MAX_EMPTY_DIFFERENCE = 0.1  # between the shares of empty masks out of fold and in the test set
MAX_AREA_DIFFERENCE = 0.1  # relative, between predicted and true area


def recommend(data: ReportData) -> list[str]:
    """One or two sentences for each unusual property, the most important first; empty if there is none."""
    return [sentence for rule in RECOMMENDATIONS if (sentence := rule(data))]


def _empty_rows(data: ReportData) -> str | None:
    """Empty rows come first: a submission that predicts nothing may have a good score."""
    if not len(data.submission.coverage):
        return None
    empty, train = data.submission.coverage == 0, (data.coverages["coverage"] == 0).mean()
    if not empties_differ(empty.mean(), train, len(empty)):
        return None
    return f"{empty.sum()} of {len(empty)} rows are empty, but {train:.0%} of the training masks: " + (
        "the models find too little. Compare “found” and Dice over all pixels with the score; train with balance = "
        "“empty”, or with an overlap loss over the batch."
        if empty.mean() > train
        else "the models predict objects where there may be none, or the test set differs. Look at the test masks."
    )


def _optimism(data: ReportData) -> str | None:
    half_width = (data.score.interval.high - data.score.interval.low) / 2
    if not data.score.optimism > MAX_OPTIMISM * half_width:  # False too if there is no interval (NaN)
        return None
    return (
        f"The rules are overfitted: the in-sample score is {data.score.optimism:.4f} higher than the cross-fitted one. "
        "Search fewer rules, or a coarser grid."
    )


def _other_test_images(data: ReportData) -> str | None:
    found = data.like_test
    if not isinstance(found, LikeTest) or not found.differ:
        return None
    return (
        f"{found.summary[0].upper()}{found.summary[1:]}. Augment towards such images, or add some. Images weighted by "
        f"their likeness to the test images score {found.score.mean:.4f} instead of {data.score.interval.mean:.4f}."
    )


def _no_gain(data: ReportData) -> str | None:
    if data.score.at_half is None or not data.score.interval.mean <= data.score.at_half:
        return None
    return (
        f"The chosen rules score {data.score.interval.mean:.4f}, threshold .5 alone scores {data.score.at_half:.4f}: "
        "use threshold .5."
    )


def _uneven_folds(data: ReportData) -> str | None:
    if data.scored["fold"].nunique() < 2:
        return None
    scores = data.scored["score"]
    means = data.scored.groupby("fold")["score"].agg(["mean", "size"])
    error = scores.std() / np.sqrt(means["size"])
    deviation = (means["mean"] - scores.mean()) / error.replace(0, np.inf)
    if not deviation.abs().max() >= MAX_FOLD_DEVIATION:  # NaN, if there is one image
        return None
    worst = deviation.abs().idxmax()
    return (
        f"Fold {worst} scores {means['mean'][worst]:.4f}, all images {scores.mean():.4f}: more than chance explains "
        f"({abs(deviation[worst]):.1f} standard errors). Look for a group or subgroup that is only in this fold."
    )


def _different_thresholds(data: ReportData) -> str | None:
    for name, surface in data.surfaces.items():
        thresholds = [point.threshold for point in surface.per_fold.values()]
        low, high = plots.plateau(surface)
        if thresholds and max(thresholds) - min(thresholds) > max(MAX_THRESHOLD_RANGE, high - low):
            return (
                f"The folds choose thresholds from {min(thresholds):.2f} to {max(thresholds):.2f} for {name}: their "
                "models are calibrated differently. Train longer, or average more models before the threshold."
            )
    return None


def _calibration(data: ReportData) -> str | None:
    uncertain = data.reliability[data.reliability["probability"].between(0.05, 0.95)]
    error = calibration_error(uncertain)
    if not error > MAX_CALIBRATION_ERROR:
        return None
    return (
        f"The calibration error is {error:.2f} among pixels of probability .05 to .95. The rules correct it for one "
        "model, but not for an ensemble. Average logits, or finish the training with a loss that has cross entropy."
    )


def _still_rising(data: ReportData) -> str | None:
    if data.history.empty:
        return None
    last = data.history[data.history["phase"] == data.history["phase"].max()]
    folds = [part for _, part in last.groupby("fold") if len(part) > 1]
    rising = [part["epoch"][part["selection"].idxmax()] == part["epoch"].max() for part in folds]
    if not rising or not all(rising):
        return None
    return f"In every fold the last epoch of phase {last['phase'].iloc[0]} is the best: train that phase longer."


def _weak_subgroup(data: ReportData) -> str | None:
    mean = data.scored["score"].mean()
    groupings = score_subgroups(data.scored)
    if not groupings:
        return None
    found = pd.concat([table.assign(column=column) for column, table in groupings.items()])
    weak = found[(mean - found["score"] > MIN_LOSS) & (found["images"] >= MIN_SHARE * len(data.scored))]
    if weak.empty:
        return None
    worst = weak.iloc[int(((mean - weak["score"]) * weak["images"]).argmax())]
    return (
        f"{worst['images']} images of {worst['column']} “{worst['subgroup']}” score {worst['score']:.3f} on average, "
        f"all images {mean:.3f}. Sample them more often in training, or train a separate model for them."
    )


def _label_errors(data: ReportData) -> str | None:
    number = len(with_label_errors(data.scored))
    if not number:
        return None
    return (
        f"On {number} images, confident predictions contradict the label. Check these labels (“Likely label errors”) "
        "before the next training."
    )


def _wrong_area(data: ReportData) -> str | None:
    predicted, true = data.coverages[["predicted", "coverage"]].sum()
    if not true or not abs(predicted / true - 1) > MAX_AREA_DIFFERENCE:
        return None
    more = "larger" if predicted > true else "smaller"
    return (
        f"Out of fold, the predicted area is {abs(predicted / true - 1):.0%} {more} than the true area. Compare the "
        "threshold with the reliability curve, and the loss's weights of false negatives and false positives."
    )


def _different_empty_share(data: ReportData) -> str | None:
    if not len(data.submission.coverage):
        return None
    test, out_of_fold = (data.submission.coverage == 0).mean(), (data.coverages["predicted"] == 0).mean()
    if not abs(test - out_of_fold) > MAX_EMPTY_DIFFERENCE:
        return None
    return (
        f"{test:.0%} of the test masks are empty, {out_of_fold:.0%} out of fold: the test set differs, or the rules do "
        "not suit the average of the folds' models. Look at the test images with the smallest predicted masks."
    )


RECOMMENDATIONS: tuple[Callable[[ReportData], str | None], ...] = (
    _empty_rows,
    _other_test_images,
    _optimism,
    _no_gain,
    _uneven_folds,
    _different_thresholds,
    _weak_subgroup,
    _label_errors,
    _wrong_area,
    _calibration,
    _still_rising,
    _different_empty_share,
)
