"""What to do next: each rule looks for one thing that is off, and says what helps.

The bounds are habits, not laws: each is written beside its name, and a rule that fires quotes the number it saw.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.metrics import empties_differ
from pipeline.report import plots
from pipeline.report.label_quality import calibration_error
from pipeline.report.pictures import suspected
from pipeline.report.report_data import View
from pipeline.report.subgroups import groupings

OPTIMISM = 0.5  # of the interval's half width
UNEVEN = 3.0  # standard errors between a fold's mean and that of all
MOVED = 0.2  # between two folds' thresholds, unless the plateau is as wide
MISCALIBRATED = 0.1  # among pixels that are not sure
LOST = 0.05  # of score, by a kind of image
COMMON = 0.05  # share of the images that such a kind has at least
EMPTIES = 0.1  # between the shares of empties out of fold and in the test set
COVERED = 0.1  # share by which the predicted area differs from the true one


def advise(view: View) -> list[str]:
    """One sentence or two for each thing that is off; none if nothing is."""
    return [sentence for rule in RULES if (sentence := rule(view))]


def _empty_rows(view: View) -> str | None:
    """Empty rows come first: a submission that predicts nothing may have a good score."""
    if view.submission is None or not len(view.submission.coverage):
        return None
    empty, train = view.submission.coverage == 0, (view.shares["coverage"] == 0).mean()
    if not empties_differ(empty.mean(), train, len(empty)):
        return None
    return f"{empty.sum()} of {len(empty)} rows are empty, in train {train:.0%} of the masks are: " + (
        "the models find too little. Compare “found” and Dice over all pixels with the score; train with balance = "
        "“empty”, or an overlap loss over the batch."
        if empty.mean() > train
        else "the models see objects where there may be none, or the test set differs. Look at the test masks."
    )


def _unscored(view: View) -> str | None:
    if view.honest is None or view.scored.empty:
        return "No image has an out-of-fold score: train the folds to know what this is worth."
    return None


def _optimism(view: View) -> str | None:
    if view.honest is None:
        return None
    half_width = (view.honest.interval.high - view.honest.interval.low) / 2
    if not view.honest.optimism > OPTIMISM * half_width:  # so of no interval, NaN, nothing is said
        return None
    return (
        f"The choice flatters itself: in-sample it scores {view.honest.optimism:.4f} more than on the folds it did not "
        "see. Search fewer things, or a coarser grid."
    )


def _nothing_gained(view: View) -> str | None:
    if view.honest is None or view.honest.at_half is None or not view.honest.interval.mean <= view.honest.at_half:
        return None
    return (
        f"The searched cut scores {view.honest.interval.mean:.4f} where threshold .5 alone scores "
        f"{view.honest.at_half:.4f}: ship .5, the search found only luck."
    )


def _uneven_folds(view: View) -> str | None:
    if view.scored["fold"].nunique() < 2:
        return None
    everything = view.scored["score"]
    means = view.scored.groupby("fold")["score"].agg(["mean", "size"])
    error = everything.std() / np.sqrt(means["size"])
    away = (means["mean"] - everything.mean()) / error.replace(0, np.inf)
    if not away.abs().max() >= UNEVEN:  # NaN, if it is one image
        return None
    worst = away.abs().idxmax()
    return (
        f"Fold {worst} scores {means['mean'][worst]:.4f} against {everything.mean():.4f}, more than chance explains "
        f"({abs(away[worst]):.1f} standard errors). Look for a group or kind that fell into it alone."
    )


def _moved_thresholds(view: View) -> str | None:
    for name, surface in view.surfaces.items():
        thresholds = [cut.threshold for cut in surface.per_fold.values()]
        low, high = plots.plateau(surface)
        if thresholds and max(thresholds) - min(thresholds) > max(MOVED, high - low):
            return (
                f"The folds choose thresholds from {min(thresholds):.2f} to {max(thresholds):.2f} for {name}: "
                "probabilities do not mean the same in them. Train longer, or average more models before the cut."
            )
    return None


def _calibration(view: View) -> str | None:
    if view.reliability.empty:
        return None
    unsure = view.reliability[view.reliability["probability"].between(0.05, 0.95)]
    error = calibration_error(unsure)
    if not error > MISCALIBRATED:
        return None
    return (
        f"Among pixels between .05 and .95, probability and truth are {error:.2f} apart. One model's cut makes up for "
        "it; a mean with other models does not. Mix them as a mean of logits, or end on a loss with cross entropy."
    )


def _still_rising(view: View) -> str | None:
    if view.history.empty or view.history["score"].isna().all():
        return None
    last = view.history[view.history["phase"] == view.history["phase"].max()]
    folds = [part for _, part in last.groupby("fold") if len(part) > 1]
    chosen_by = "selection" if "selection" in last else "score"  # of a run of an earlier version
    rising = [part["epoch"][part[chosen_by].idxmax()] == part["epoch"].max() for part in folds]
    if not rising or not all(rising):
        return None
    return f"In every fold the last epoch of phase {last['phase'].iloc[0]} is the best: train that phase longer."


def _weak_kind(view: View) -> str | None:
    mean = view.scored["score"].mean()
    found = pd.concat([way.kinds.assign(way=way.name) for way in groupings(view.scored)] or [pd.DataFrame()])
    if found.empty:
        return None
    weak = found[(mean - found["score"] > LOST) & (found["images"] >= COMMON * len(view.scored))]
    if weak.empty:
        return None
    worst = weak.iloc[int(((mean - weak["score"]) * weak["images"]).argmax())]
    return (
        f"{worst['images']} images of {worst['way']} “{worst['kind']}” score {worst['score']:.3f} on average, all "
        f"{mean:.3f}: most is to be gained there. Show them more often in training, or give them a model of their own."
    )


def _suspects(view: View) -> str | None:
    found = len(suspected(view.scored))
    if not found:
        return None
    return (
        f"On {found} images, sure predictions contradict the label: see in the gallery of suspects which of the two is "
        "wrong, before training again."
    )


def _wrong_size(view: View) -> str | None:
    predicted, true = view.shares.dropna(subset="predicted")[["predicted", "coverage"]].sum()
    if not true or not abs(predicted / true - 1) > COVERED:
        return None
    more = "more" if predicted > true else "less"
    return (
        f"Out of fold, {abs(predicted / true - 1):.0%} {more} is masked than is true. Compare the threshold with the "
        "reliability curve, and the loss's weight of missed against invented pixels."
    )


def _other_empties(view: View) -> str | None:
    if view.submission is None or not len(view.submission.coverage):
        return None
    column, where = ("predicted", "out of fold") if len(view.scored) else ("coverage", "in train")
    test, here = (view.submission.coverage == 0).mean(), (view.shares[column].dropna() == 0).mean()
    if not abs(test - here) > EMPTIES:
        return None
    return (
        f"{test:.0%} of the test masks are empty, {here:.0%} {where}: the test set differs, or the mean of the folds' "
        "models is cut where one model's was right. Look at the test images of the smallest predicted masks."
    )


RULES: tuple[Callable[[View], str | None], ...] = (
    _empty_rows,
    _unscored,
    _optimism,
    _nothing_gained,
    _uneven_folds,
    _moved_thresholds,
    _weak_kind,
    _suspects,
    _wrong_size,
    _calibration,
    _still_rising,
    _other_empties,
)
