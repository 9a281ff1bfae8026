"""The report: one HTML file that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from pipeline.files import write_text
from pipeline.progress import clock
from pipeline.report import pictures, plots
from pipeline.report.label_quality import calibration_error
from pipeline.report.pictures import LABEL_ERROR, tiles, with_label_errors
from pipeline.report.recommendations import recommend
from pipeline.report.report_data import ReportData, ScoreSurface
from pipeline.report.subgroups import Grouping, score_subgroups

MAX_BYTES = 5 << 20  # of the page; mail and issue trackers accept this size
PICTURE_SIDES = (384, 256, 128)  # pixels; the largest with which the page has at most MAX_BYTES is used
MAX_SUBGROUPS = 15  # rows of a table of subgroups
MEAN_TOLERANCE = 5e-4  # larger differences between mean image score and score: the metric is no mean over images


class Chart(NamedTuple):
    """A chart and its alternative text."""

    source: str  # data URI
    alt: str
    name: str = ""  # of one of several charts between which a reader chooses


class TableCell(NamedTuple):
    """The text of a cell, and the value it is sorted by."""

    text: str
    value: float | str


class Table(NamedTuple):
    """Rows under headings."""

    title: str
    headings: Sequence[tuple[str, bool]]  # and whether the column is numeric
    rows: Sequence[Sequence[TableCell]]
    note: str = ""
    sortable: bool = True


@dataclass(frozen=True)
class Section:
    """One section of the page."""

    key: str  # of its link
    title: str
    caption: str  # how to read it, and what to do
    charts: Sequence[Chart] = ()
    choice: Sequence[Chart] = ()  # one of them is visible
    tables: Sequence[Table] = ()
    gallery: pd.DataFrame | None = None  # rows of `ReportData.images` whose pictures are shown
    half: bool = False  # half of the page's width, on a wide screen
    missing: str = ""  # why there is nothing to show


def write_report(path: Path, data: ReportData) -> None:
    """Write the page, completely or not at all.

    Raises:
        ValueError: if the page is larger than MAX_BYTES even with the smallest pictures.
    """
    write_text(path, render(data))


def render(data: ReportData) -> str:
    """The page's HTML, at most MAX_BYTES long; the same for the same data.

    Raises:
        ValueError: as `write_report`.
    """
    sections = [section for build in SECTIONS for section in build(data)]
    for side in PICTURE_SIDES:
        page = _fill_template(data, sections, side)
        size = len(page.encode())
        if size <= MAX_BYTES:
            return page
    raise ValueError(
        f"the report is {size >> 10} KiB with pictures of {PICTURE_SIDES[-1]} pixels, expected at most "
        f"{MAX_BYTES >> 10}: shorten its tables ({len(data.folds)} folds, {len(data.classes)} classes, "
        f"{len(data.history)} epochs)"
    )


def _fill_template(data: ReportData, sections: Sequence[Section], side: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: resources.files("pipeline.report").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    galleries = {each.key: tiles(each.gallery, data.picture, side) for each in sections if each.gallery is not None}
    return environment.get_template("page.html.jinja").render(
        data=data, facts=_facts(data), recommendations=recommend(data), sections=sections, galleries=galleries
    )


def _facts(data: ReportData) -> list[tuple[str, str, str]]:
    """Name, number and explanation of each number beside the score."""
    if data.score is None:
        return []
    facts = [
        ("in-sample", format_score(data.score.in_sample), "rules chosen and scored on the same images"),
        ("optimism", f"{data.score.optimism:+.4f}", "in-sample − cross-fitted"),
    ]
    if data.score.at_half is not None:
        facts.append(("at .5", format_score(data.score.at_half), "threshold .5, without rules"))
    if data.score.baseline is not None:
        meaning = "nothing predicted" if data.score.at_half is not None else "the most frequent class everywhere"
        facts.append(("baseline", format_score(data.score.baseline), meaning))
    return facts + _detection_facts(data)


def _detection_facts(data: ReportData) -> list[tuple[str, str, str]]:
    """What the masks find, because a score may reward predicting nothing."""
    if data.detection is None:
        return []
    facts = (
        ("Dice", data.detection.dice, format_score, "over all pixels"),
        ("found", data.detection.found, "{:.0%}".format, "of the masks with objects: some of them are found"),
        ("left empty", data.detection.left_empty, "{:.0%}".format, "of the empty masks: nothing is predicted"),
    )
    return [(name, text(value), meaning) for name, value, text, meaning in facts if value is not None]


# ---------------------------------------------------------------------------------------------- sections

NO_SCORES = "no image has an out-of-fold score. The folds of the same config estimate the score of a run on all images."


def _learning(data: ReportData) -> list[Section]:
    curves = {
        "score": f"{data.epoch_metric or data.metric} on the held-out fold. Train longer if it still rises at the end.",
        "loss": "Training loss. Its scale depends on the loss of the phase.",
        "dice": "Dice over all pixels. It is 0 if nothing is found, whatever the score.",
        "threshold": "The best threshold. A jump between phases shows that the calibration changed.",
    }
    shown = [name for name in curves if name in data.history and data.history[name].notna().any()]
    charts = [
        Chart(plots.svg(plots.learning_curve, data.history, name), f"{name} by epoch. {curves[name]}") for name in shown
    ]
    missing = "" if shown else "there is no record of the training (metrics.jsonl)."
    caption = "Thin lines are folds, the thick line is their mean; dashed lines separate the phases. " + " ".join(
        f"{name.capitalize()}: {curves[name]}" for name in shown
    )
    return [Section("learning", "Learning curves", caption, charts, missing=missing)]


def _folds(data: ReportData) -> list[Section]:
    caption = (
        "One row per fold. If folds differ by much more than chance, look for a group, a subgroup or a leak that is "
        "only in one of them."
    )
    if data.epoch_metric not in (None, data.metric):
        caption += f" Phases and oof are scored by {data.epoch_metric} of pixels, cross-fitted by {data.metric}."
    table = [to_table("", data.folds)] if len(data.folds) else []
    return [Section("folds", "Folds", caption, tables=table, missing="" if table else "there is no table of folds.")]


def _scores(data: ReportData) -> list[Section]:
    if data.scored.empty:
        return [Section("scores", "Scores", "", missing=NO_SCORES)]
    charts = [
        Chart(plots.svg(plots.score_histogram, data.scored), f"Histogram of the scores of {len(data.scored)} images."),
        Chart(plots.svg(plots.score_by_fold, data.scored), "Distribution of the scores in each fold."),
    ]
    caption = (
        "A second peak at 0 contains images whose mask is completely missed, or predicted where there is none: adapt "
        "the smallest area, or the handling of empty images. A broad peak shows inaccurate outlines. The folds should "
        "look alike."
    )
    mean = data.scored["score"].mean()
    if data.score and abs(mean - data.score.interval.mean) > MEAN_TOLERANCE:
        caption += f" Their mean is {format_score(mean)}; the score above pools the pixels of all images."
    return [Section("scores", "Scores of images", caption, charts)]


def _galleries(data: ReportData) -> list[Section]:
    if data.scored.empty:
        return [Section("worst", "Worst and best images", "", missing=NO_SCORES)]
    number = len(with_label_errors(data.scored))
    galleries = {
        "worst": (
            "Worst images",
            "If they have something in common, sample such images more often, or adapt the model to them.",
            pictures.worst(data.scored),
        ),
        "best": (
            "Best images",
            "For comparison. Images without a mask are left out.",
            pictures.best(data.scored),
        ),
        "label-errors": (
            "Likely label errors",
            f"{number} of {len(data.scored)} images have a label error score of {LABEL_ERROR} or more: confident "
            "predictions, by models that did not train on them, contradict their label. Check whether the label or the "
            "prediction is wrong. Correct wrong labels, or leave them out of the training, but not out of the score.",
            pictures.likely_label_errors(data.scored),
        ),
    }
    return [
        Section(key, title, caption, gallery=rows)
        if len(rows)
        else Section(key, title, caption, missing=EMPTY_GALLERY[key])
        for key, (title, caption, rows) in galleries.items()
    ]


EMPTY_GALLERY = {
    "best": "no image has a mask.",
    "label-errors": "no confident prediction contradicts a label.",
}


def _separation(data: ReportData) -> list[Section]:
    title = "Separation of touching objects"
    if data.separation is None:
        return [Section("separation", title, "", missing="the competition expects masks, not objects.")]
    caption = (
        "Each method is chosen on all folds but one and scored on that one. Use the simplest method of nearly the best "
        "score. Rules that differ from fold to fold depend on few images. Threshold, boundary and saddle ratio are "
        "0 to 1, the smallest area is in pixels."
    )
    tables = [to_table("by method", data.separation.methods), to_table("chosen", data.separation.rules)]
    return [Section("separation", title, caption, tables=tables)]


def _rules(data: ReportData) -> list[Section]:
    title = "Threshold and post-processing rules"
    if not data.surfaces:
        missing = "no threshold was searched; with exclusive classes, each pixel gets the most probable class."
        return [Section("rules", title, "", missing=missing)]
    charts = [
        Chart(
            plots.svg(plots.score_surface, name, surface),
            f"Score of {name} by threshold and {plots.AREA_LABELS[surface.rule_set]}, best at "
            f"{surface.best.threshold:.3f} and {surface.best.area} px.",
        )
        for name, surface in data.surfaces.items()
    ]
    notes = [_describe_surface(name, surface) for name, surface in data.surfaces.items()]
    caption = (
        " ".join(notes) + " The cross marks the rules in use, the best on all folds; each dot is the best of the same "
        "rule set without one fold. Inside the white line, scores are nearly as good. If the dots are close together "
        "on a broad plateau, the rules are stable. If they are far apart, choose a point in their middle."
    )
    tables = [to_table("chosen", data.rules, RULES_NOTE)] if len(data.rules) else []
    return [Section("rules", title, caption, charts, tables=tables, half=len(charts) == 1)]


RULES_NOTE = (
    "Each fold is scored with its own row. Total, component and presence are smallest areas in pixels. If the rules "
    "differ from fold to fold, they are about equally good; if the areas differ too, few images decide."
)
RULE_TEXTS = {  # what a rule set does in addition to the threshold
    "total": "a mask of fewer than {area} px is emptied",
    "components": "components of fewer than {area} px are removed",
    "triplet": "a mask is emptied unless {area} px reach {presence:.3f}",
}


def _describe_surface(name: str, surface: ScoreSurface) -> str:
    """The rules of a class, the width of their plateau, and their range over the folds."""
    best, points = surface.best, surface.per_fold.values()
    rule = RULE_TEXTS[surface.rule_set].format(area=best.area, presence=max(best.presence_threshold, best.threshold))
    rules = ", ".join([*([rule] if best.area else []), *surface.additional_rules]) or "no other rule"
    text = (
        f"For {name}, the submission uses {surface.rule_set}: threshold {best.threshold:.3f}, {rules}"
        f"; thresholds of {_format_range(plots.plateau(surface), '.3f')} score within {plots.PLATEAU_TOLERANCE} of it"
    )
    if points:
        thresholds, areas = [point.threshold for point in points], [point.area for point in points]
        text += f"; without one fold the best is {_format_range(thresholds, '.3f')} and {_format_range(areas, 'd')} px"
    return text + "."


def _format_range(values: Sequence[float], form: str) -> str:
    """Lowest to highest value, or the value itself if all are the same."""
    ends = [format(end, form) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _calibration(data: ReportData) -> list[Section]:
    title = "Calibration"
    if data.reliability.empty:
        return [Section("calibration", title, "", missing="no pixels were counted.")]
    uncertain = data.reliability[data.reliability["probability"].between(0.05, 0.95)]
    caption = (
        f"On the dashed line, seven of ten pixels of probability .7 are masked. Below it the model is overconfident. "
        f"Expected calibration error {calibration_error(data.reliability):.4f} over all pixels, most of them easy; "
        f"{calibration_error(uncertain):.4f} over those between .05 and .95. The rules correct a bent curve of one "
        "model; the mean of several models does not."
    )
    chart = Chart(plots.svg(plots.reliability_curve, data.reliability), "Reliability curve with the number of pixels.")
    return [Section("calibration", title, caption, [chart], half=True)]


def _coverage(data: ReportData) -> list[Section]:
    title = "Predicted against true coverage"
    if data.scored.empty:
        return [Section("coverage", title, "", missing=NO_SCORES)]
    unit = "image and class" if len(data.masks) else "image"
    choice = [
        Chart(
            plots.svg(plots.coverage_scatter, data.coverages.dropna(subset="predicted"), log),
            f"Predicted against true coverage of each {unit}, {name} axes.",
            name,
        )
        for name, log in (("linear", False), ("log", True))
    ]
    caption = (
        f"A point is an {unit}. Above the line too much is masked, below it too little. Points on the left edge are "
        "false positives on empty images, points on the bottom edge are missed masks."
    )
    return [Section("coverage", title, caption, choice=choice, half=True)]


def _subgroups(data: ReportData) -> list[Section]:
    tables = [to_table("by class", data.classes)] if len(data.classes) else []
    if len(data.scored):
        tables += [_subgroup_table(grouping) for grouping in score_subgroups(data.scored)]
    caption = (
        "The worst first. A large subgroup with a low mean offers the largest gain; the mean of a small one is noisy."
    )
    missing = "" if tables else "no column defines subgroups of the images."
    return [Section("subgroups", "Scores by class, group and subgroup", caption, tables=tables, missing=missing)]


def _subgroup_table(grouping: Grouping) -> Table:
    number = len(grouping.subgroups)
    note = f"The worst {MAX_SUBGROUPS} of {number}." if number > MAX_SUBGROUPS else ""
    rows = grouping.subgroups.head(MAX_SUBGROUPS).rename(columns={"subgroup": grouping.column})
    return to_table(f"by {grouping.column}", rows, note)


def _members(data: ReportData) -> list[Section]:
    title = "Members of the ensemble"
    if data.members is None or len(data.members.table) < 2:
        return [Section("members", title, "", missing="there is one model, so there are no weights.")]
    caption = (
        "Averaging does not reduce errors that are alike (correlation near 1): a weaker member with other errors helps "
        "more than a copy of the best one. A member of weight 0 can be removed to save its run time."
    )
    chart = Chart(plots.svg(plots.error_correlation, data.members), "Correlation of the members' errors.")
    return [Section("members", title, caption, [chart], tables=[to_table("", data.members.table)], half=True)]


NO_PSEUDO_LABELS = "neither this config nor its companion `<config>_pseudo` of `make pseudo` was trained on any."


def _pseudo(data: ReportData) -> list[Section]:
    title = "Effect of pseudo-labels"
    if data.pseudo is None:
        return [Section("pseudo", title, "", missing=NO_PSEUDO_LABELS)]
    gain = data.pseudo.difference
    caption = (
        f"{data.pseudo.labelled}, trained on pseudo-labels, against {data.pseudo.source}, whose models made them, out "
        f"of fold at threshold .5: {gain.mean:+.4f}, {gain}. If the interval includes 0, there is no evidence of a "
        "gain. The interval does not include the luck of two trainings: check whether the folds agree."
    )
    return [Section("pseudo", title, caption, tables=[to_table("by fold", data.pseudo.table)])]


def _submission(data: ReportData) -> list[Section]:
    if data.submission is None or not len(data.submission.coverage):
        return [Section("submission", "Submission", "", missing="there is none yet.")]
    true, test = data.coverages["coverage"].to_numpy(), data.submission.coverage
    sets = {"train": true, "test": test}
    if len(data.scored):
        sets = {"train": true, "out of fold": data.coverages["predicted"].dropna().to_numpy(), "test": test}
    caption = (
        f"{data.submission.rows} rows, {data.submission.empty} of them empty. A difference between out of fold and "
        "train is a bias of the model. If test differs from out of fold, the test set differs: look at test images."
    )
    alt = "Cumulative distribution of the masks' coverage: " + ", ".join(sets) + "."
    return [
        Section(
            "submission",
            "Submission",
            caption,
            [Chart(plots.svg(plots.coverage_ecdf, sets), alt)],
            tables=[to_table("", _coverage_summary(sets))._replace(sortable=False)],
            half=True,
        )
    ]


def _coverage_summary(sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """Number, empty share, mean and percentiles of the coverage, a column for each set of masks."""
    rows = {
        "number": lambda coverage: f"{len(coverage):,}",
        "empty": lambda coverage: f"{(coverage == 0).mean():.1%}",
        "mean coverage": lambda coverage: f"{coverage.mean():.2%}",
        **{f"{q}% have less than": partial(_percentile, q) for q in (5, 25, 50, 75, 95)},
    }
    table = {name: [measure(coverage) for measure in rows.values()] for name, coverage in sets.items()}
    return pd.DataFrame({"masks of": list(rows), **table})


def _percentile(q: float, coverage: np.ndarray) -> str:
    return f"{np.percentile(coverage, q):.2%}"


NO_SHAKEUP = (
    "nothing was simulated: too few groups count for the metric, or the number of test images is unknown "
    "(leaderboard.images on the card)."
)


def _shakeup(data: ReportData) -> list[Section]:
    title = "Simulated shake-up"
    if data.shakeup is None:
        return [Section("shake-up", title, "", missing=NO_SHAKEUP)]
    low, high = np.quantile(data.shakeup.differences, [0.05, 0.95])
    caption = (
        f"Test sets are drawn from the out-of-fold scores, with {data.shakeup.public_images} public and "
        f"{data.shakeup.private_images} private images. In 90 % of them, private minus public score is {low:+.4f} to "
        f"{high:+.4f} by chance alone. Ignore smaller gains on the public leaderboard."
    )
    chart = Chart(plots.svg(plots.shakeup_histogram, data.shakeup), "Histogram of private minus public score.")
    return [Section("shake-up", title, caption, [chart], half=True)]


SECTIONS: tuple[Callable[[ReportData], list[Section]], ...] = (
    _learning,
    _folds,
    _scores,
    _galleries,
    _rules,
    _separation,
    _calibration,
    _subgroups,
    _coverage,
    _shakeup,
    _members,
    _pseudo,
    _submission,
)


# ---------------------------------------------------------------------------------------------- tables


def to_table(title: str, frame: pd.DataFrame, note: str = "") -> Table:
    """A table of a data frame. Its columns are sorted by value, not by text."""
    rows = [
        [to_cell(*named) for named in zip(frame.columns, row, strict=True)] for row in frame.itertuples(index=False)
    ]
    headings = [(str(column), pd.api.types.is_numeric_dtype(frame[column])) for column in frame.columns]
    return Table(title, headings, rows, note)


def to_cell(column: str, value: Any) -> TableCell:
    """A value as text: `seconds` as a time, integers as they are, other numbers with four digits."""
    if value is None or (isinstance(value, Real) and np.isnan(value)):
        return TableCell("–", "")
    if column == "seconds":
        return TableCell(clock(value), float(value))
    if isinstance(value, Integral):
        return TableCell(f"{value:,}", float(value))
    if isinstance(value, Real):
        return TableCell(format_score(value), float(value))
    return TableCell(str(value), str(value))


def format_score(value: float) -> str:
    """A score with four digits."""
    return f"{value:.4f}"
