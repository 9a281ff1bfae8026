"""The report: one HTML file that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import starmap
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
from pipeline.report.report_data import LikeTest, ReportData, ScoreSurface
from pipeline.report.subgroups import score_subgroups
from pipeline.statistics.adversarial_validation import MIN_EFFECTIVE
from pipeline.statistics.symmetry_probe import advise, symmetry_rows

MAX_BYTES = 5 << 20  # of the page; mail and issue trackers accept this size
PICTURE_SIDES = (384, 256, 128)  # pixels; the largest with which the page has at most MAX_BYTES is used
PERCENTILES = (5, 25, 50, 75, 95)  # of the coverage
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
    """Name, number and explanation of each number beside the score, as far as it is defined.

    They include what the masks find, because a score may reward predicting nothing.
    """
    score, found = data.score, data.detection
    baseline = "nothing predicted" if score.at_half is not None else "the most frequent class everywhere"
    facts = (
        ("in-sample", score.in_sample, "{:.4f}", "rules chosen and scored on the same images"),
        ("optimism", score.optimism, "{:+.4f}", "in-sample − cross-fitted"),
        ("at .5", score.at_half, "{:.4f}", "threshold .5, without rules"),
        ("baseline", score.baseline, "{:.4f}", baseline),
        ("like test", _score_like_test(data), "{:.4f}", "images weighted by likeness to the test images"),
        ("Dice", found.dice, "{:.4f}", "over all pixels"),
        ("found", found.found, "{:.0%}", "of the masks with objects: some of them are found"),
        ("left empty", found.left_empty, "{:.0%}", "of the empty masks: nothing is predicted"),
    )
    return [(name, form.format(value), meaning) for name, value, form, meaning in facts if value is not None]


def _score_like_test(data: ReportData) -> float | None:
    return data.like_test.score.mean if isinstance(data.like_test, LikeTest) else None


# ---------------------------------------------------------------------------------------------- sections


def _learning(data: ReportData) -> list[Section]:
    curves = {
        "score": f"{data.epoch_metric} on the held-out fold. Train longer if it still rises at the end.",
        "loss": "Training loss. Its scale depends on the loss of the phase.",
        "dice": "Dice over all pixels. It is 0 if nothing is found, whatever the score.",
        "threshold": "The best threshold. A jump between phases shows that the calibration changed.",
    }
    shown = [name for name in curves if name in data.history and data.history[name].notna().any()]
    charts = [
        Chart(plots.svg(plots.learning_curve, data.history, name), f"{name} by epoch. {curves[name]}") for name in shown
    ]
    missing = "" if shown else "the pages of members that were trained here have them."
    caption = "Thin lines are folds, the thick line is their mean; dashed lines separate the phases. " + " ".join(
        f"{name.capitalize()}: {curves[name]}" for name in shown
    )
    return [Section("learning", "Learning curves", caption, charts, missing=missing)]


def _folds(data: ReportData) -> list[Section]:
    caption = (
        "One row per fold. If folds differ by much more than chance, look for a group, a subgroup or a leak that is "
        "only in one of them."
    )
    if data.epoch_metric != data.metric:
        caption += f" Phases and oof are scored by {data.epoch_metric} of pixels, cross-fitted by {data.metric}."
    return [Section("folds", "Folds", caption, tables=[to_table("", data.folds)])]


def _scores(data: ReportData) -> list[Section]:
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
    if abs(mean - data.score.interval.mean) > MEAN_TOLERANCE:
        caption += f" Their mean is {mean:.4f}; the score above pools the pixels of all images."
    return [Section("scores", "Scores of images", caption, charts)]


def _galleries(data: ReportData) -> list[Section]:
    best, label_errors = pictures.best(data.scored), pictures.likely_label_errors(data.scored)
    return [
        Section(
            "worst",
            "Worst images",
            "If they have something in common, sample such images more often, or adapt the model to them.",
            gallery=pictures.worst(data.scored),
        ),
        Section(
            "best",
            "Best images",
            "For comparison. Images without a mask are left out.",
            gallery=best,
            missing="" if len(best) else "no image has a mask.",
        ),
        Section(
            "label-errors",
            "Likely label errors",
            f"{len(with_label_errors(data.scored))} of {len(data.scored)} images have a label error score of "
            f"{LABEL_ERROR} or more: confident predictions, by models that did not train on them, contradict their "
            "label. Check whether the label or the prediction is wrong. Correct wrong labels, or leave them out of the "
            "training, but not out of the score.",
            gallery=label_errors,
            missing="" if len(label_errors) else "no confident prediction contradicts a label.",
        ),
    ]


MAX_DIFFERENCES = 12  # rows of the table of statistics


def _like_test(data: ReportData) -> list[Section]:
    title, found = "Training and test images", data.like_test
    if not isinstance(found, LikeTest):
        return [Section("test-images", title, "", missing=found)]
    few = ": too few to rely on the weighted score" if found.effective < MIN_EFFECTIVE else ""
    caption = (
        f"{found.summary[0].upper()}{found.summary[1:]}. A classifier of these statistics tells both apart, "
        f"cross-validated; an AUC of .5 is chance. With training images weighted by their likeness to the test "
        f"images, the score is {found.score.mean:.4f}, {found.score}; the weighted images count as many as "
        f"{found.effective:.0f} of equal weight{few}. It is right as far as the statistics show what makes an image "
        "difficult, and as far as training images are like each kind of test image."
    )
    note = "Medians, and the distance of the two distributions: 0 if they are equal, 1 if they do not overlap."
    tables = [to_table("what differs", found.differences.head(MAX_DIFFERENCES), note)]
    most, least = pictures.extremes(data.images, found.probability)
    return [
        Section("test-images", title, caption, tables=tables),
        Section(
            "most-like-test",
            "Training images most like the test images",
            "If their scores are low, expect a low score in the test set, and add or augment such images.",
            gallery=most,
        ),
        Section(
            "least-like-test",
            "Training images least like the test images",
            "The test set has few images like these: their scores say little about it.",
            gallery=least,
        ),
    ]


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
            f"Score of {name} by threshold and {(plots.AREA_LABELS | plots.SHARE_LABELS)[surface.rule_set]}, best at "
            f"{surface.best.threshold:.3f} and {_format_areas(surface, [surface.best.area])}.",
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
    "Each fold is scored with its own row. Total, component and presence are smallest areas in pixels; gate is the "
    "lowest probability of the image head. If the rules differ from fold to fold, they are about equally good; if the "
    "areas differ too, few images decide."
)


def _describe_surface(name: str, surface: ScoreSurface) -> str:
    """The rules of a class, the width of their plateau, and their range over the folds."""
    points = surface.per_fold.values()
    text = (
        f"For {name}, the submission uses {surface.rule_set}: threshold {surface.best.threshold:.3f}, "
        f"{', '.join(surface.rules) or 'no other rule'}"
        f"; thresholds of {_format_range(plots.plateau(surface), '.3f')} score within {plots.PLATEAU_TOLERANCE} of it"
    )
    if points:
        thresholds, areas = [point.threshold for point in points], [point.area for point in points]
        text += f"; without one fold the best is {_format_range(thresholds, '.3f')} and {_format_areas(surface, areas)}"
    return text + "."


def _format_areas(surface: ScoreSurface, areas: Sequence[float]) -> str:
    """The range of some areas in pixels, or of shares."""
    if surface.rule_set in plots.SHARE_LABELS:
        return f"a share of {_format_range(areas, '.3g')}"
    return f"{_format_range(areas, 'd')} px"


def _format_range(values: Sequence[float], form: str) -> str:
    """Lowest to highest value, or the value itself if all are the same."""
    ends = [format(end, form) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _calibration(data: ReportData) -> list[Section]:
    uncertain = data.reliability[data.reliability["probability"].between(0.05, 0.95)]
    caption = (
        f"On the dashed line, seven of ten pixels of probability .7 are masked. Below it the model is overconfident. "
        f"Expected calibration error {calibration_error(data.reliability):.4f} over all pixels, most of them easy; "
        f"{calibration_error(uncertain):.4f} over those between .05 and .95. The rules correct a bent curve of one "
        "model; the mean of several models does not."
    )
    chart = Chart(plots.svg(plots.reliability_curve, data.reliability), "Reliability curve with the number of pixels.")
    return [Section("calibration", "Calibration", caption, [chart], half=True)]


def _coverage(data: ReportData) -> list[Section]:
    unit = "image and class" if len(data.masks) else "image"
    choice = [
        Chart(
            plots.svg(plots.coverage_scatter, data.coverages, log),
            f"Predicted against true coverage of each {unit}, {name} axes.",
            name,
        )
        for name, log in (("linear", False), ("log", True))
    ]
    caption = (
        f"A point is an {unit}. Above the line too much is masked, below it too little. Points on the left edge are "
        "false positives on empty images, points on the bottom edge are missed masks."
    )
    return [Section("coverage", "Predicted against true coverage", caption, choice=choice, half=True)]


def _subgroups(data: ReportData) -> list[Section]:
    tables = [to_table("by class", data.classes), *starmap(_subgroup_table, score_subgroups(data.scored).items())]
    caption = (
        "The worst first. A large subgroup with a low mean offers the largest gain; the mean of a small one is noisy."
    )
    return [Section("subgroups", "Scores by class, group and subgroup", caption, tables=tables)]


def _subgroup_table(column: str, subgroups: pd.DataFrame) -> Table:
    number = len(subgroups)
    note = f"The worst {MAX_SUBGROUPS} of {number}." if number > MAX_SUBGROUPS else ""
    return to_table(f"by {column}", subgroups.head(MAX_SUBGROUPS).rename(columns={"subgroup": column}), note)


def _members(data: ReportData) -> list[Section]:
    title = "Members of the ensemble"
    if data.members is None:
        return [Section("members", title, "", missing="there is one model, so there are no weights.")]
    caption = (
        "Averaging does not reduce errors that are alike (correlation near 1): a weaker member with other errors helps "
        "more than a copy of the best one. A member of weight 0 is not predicted, unless a stack needs it."
    )
    tables = [to_table("", data.members.table), to_table("correlation of the errors", data.members.correlation)]
    return [Section("members", title, caption, tables=tables, half=True)]


NO_PSEUDO_LABELS = "neither this config nor its companion `<config>_pseudo` of `make pseudo` was trained on any."


def _pseudo(data: ReportData) -> list[Section]:
    title = "Effect of pseudo-labels"
    if data.pseudo is None:
        return [Section("pseudo", title, "", missing=NO_PSEUDO_LABELS)]
    gain = data.pseudo.difference
    caption = (
        f"{data.pseudo.name}, trained on pseudo-labels, against {data.pseudo.source}, whose models made them, out "
        f"of fold at threshold .5: {gain.mean:+.4f}, {gain}. If the interval includes 0, there is no evidence of a "
        "gain. The interval does not include the luck of two trainings: check whether the folds agree. Both scores are "
        "slightly optimistic where epochs were selected on the held-out images (train.select)."
    )
    return [Section("pseudo", title, caption, tables=[to_table("by fold", data.pseudo.folds)])]


def _submission(data: ReportData) -> list[Section]:
    if not len(data.submission.coverage):
        return [Section("submission", "Submission", "", missing="the test data are hidden, or none could be read.")]
    sets = {
        "train": data.coverages["coverage"].to_numpy(),
        "out of fold": data.coverages["predicted"].to_numpy(),
        "test": data.submission.coverage,
    }
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
    table = {"masks of": ["number", "empty", "mean coverage", *(f"{q}% have less than" for q in PERCENTILES)]}
    for name, coverage in sets.items():
        shares = [coverage.mean(), *np.percentile(coverage, PERCENTILES)]
        table[name] = [f"{len(coverage):,}", f"{(coverage == 0).mean():.1%}", *(f"{share:.2%}" for share in shares)]
    return pd.DataFrame(table)


def _shakeup(data: ReportData) -> list[Section]:
    title = "Simulated shake-up"
    if isinstance(data.shakeup, str):
        return [Section("shake-up", title, "", missing=data.shakeup)]
    low, high = np.quantile(data.shakeup.differences, [0.05, 0.95])
    caption = (
        f"Test sets are drawn from the out-of-fold scores, with {data.shakeup.public_images} public and "
        f"{data.shakeup.private_images} private images. In 90 % of them, private minus public score is {low:+.4f} to "
        f"{high:+.4f} by chance alone. Ignore smaller gains on the public leaderboard."
    )
    chart = Chart(plots.svg(plots.shakeup_histogram, data.shakeup), "Histogram of private minus public score.")
    return [Section("shake-up", title, caption, [chart], half=True)]


def _symmetries(data: ReportData) -> list[Section]:
    title = "Symmetries of the images"
    if not data.symmetries:
        return [Section("symmetries", title, "", missing="the images are too large to be read whole.")]
    caption = (
        f"{advise(data.symmetries)} A linear classifier of gradient directions names the original of an image and its "
        "copy, on images that it was not trained on; .5 is chance. Flips and rotations of the augmentation should make "
        "copies that could occur. It does not see everything: text, or organs on one side of a body."
    )
    table = pd.DataFrame(symmetry_rows(data.symmetries))
    return [Section("symmetries", title, caption, tables=[to_table("", table)], half=True)]


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
    _like_test,
    _symmetries,
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
    if not isinstance(value, Real):
        return TableCell(str(value), str(value))
    text = clock(value) if column == "seconds" else f"{value:,}" if isinstance(value, Integral) else f"{value:.4f}"
    return TableCell(text, float(value))
