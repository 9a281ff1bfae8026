"""The report: one HTML file that needs nothing else, for people who would rather look than read."""

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
from pipeline.report.pictures import SUSPICIOUS, suspected, tiles
from pipeline.report.recommendations import advise
from pipeline.report.report_data import Surface, View
from pipeline.report.subgroups import groupings

LIMIT = 5 << 20  # bytes: what a mail or an issue takes
SIDES = (384, 256, 128)  # pixels of a picture; the largest with which the page stays within the limit
KINDS = 15  # rows of a table of kinds
POOLED = 5e-4  # between the mean of the images' scores and the score: they are no mean


class Chart(NamedTuple):
    """A drawing with what it shows in words."""

    source: str  # data URI
    alt: str
    name: str = ""  # of one among several that show the same, between which a reader chooses


class Cell(NamedTuple):
    """What a table shows, and what it is sorted by."""

    text: str
    value: float | str


class Table(NamedTuple):
    """Rows under headings."""

    title: str
    headings: Sequence[tuple[str, bool]]  # and whether its column holds numbers
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    sorts: bool = True  # a reader may sort it


@dataclass(frozen=True)
class Section:
    """One question that the page answers."""

    key: str  # of its link
    title: str
    caption: str  # what one should see, and what to do
    charts: Sequence[Chart] = ()
    choice: Sequence[Chart] = ()  # one of them is shown
    tables: Sequence[Table] = ()
    gallery: pd.DataFrame | None = None  # rows of `View.images` whose pictures are shown
    half: bool = False  # of the page's width is enough, on a wide screen
    missing: str = ""  # why there is nothing to show


def write_report(path: Path, view: View) -> None:
    """Write the page, whole or not at all.

    Raises:
        ValueError: if the page is larger than LIMIT even with the smallest pictures.
    """
    write_text(path, render(view))


def render(view: View) -> str:
    """The page's HTML, at most LIMIT bytes; the same for the same view.

    Raises:
        ValueError: as `write_report`.
    """
    sections = [section for build in SECTIONS for section in build(view)]
    for side in SIDES:
        page = _fill(view, sections, side)
        size = len(page.encode())
        if size <= LIMIT:
            return page
    raise ValueError(
        f"the report is {size >> 10} KiB with pictures of {SIDES[-1]} pixels, expected at most {LIMIT >> 10}: "
        f"shorten its tables ({len(view.folds)} folds, {len(view.classes)} classes, {len(view.history)} epochs)"
    )


def _fill(view: View, sections: Sequence[Section], side: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: resources.files("pipeline.report").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    galleries = {each.key: tiles(each.gallery, view.picture, side) for each in sections if each.gallery is not None}
    return environment.get_template("page.html.jinja").render(
        view=view, facts=_facts(view), advice=advise(view), sections=sections, galleries=galleries
    )


def _facts(view: View) -> list[tuple[str, str, str]]:
    """Name, number and explanation of what stands beside the score."""
    if view.honest is None:
        return []
    facts = [
        ("in-sample", score(view.honest.in_sample), "chosen and scored on the same images"),
        ("optimism", f"{view.honest.optimism:+.4f}", "in-sample − cross-fitted: what choosing only seemed to gain"),
    ]
    if view.honest.at_half is not None:
        facts.append(("at .5", score(view.honest.at_half), "threshold .5, nothing chosen"))
    if view.honest.trivial is not None:
        meaning = "nothing predicted" if view.honest.at_half is not None else "the most frequent class everywhere"
        facts.append(("trivial", score(view.honest.trivial), meaning))
    return facts + _found(view)


def _found(view: View) -> list[tuple[str, str, str]]:
    """What is found, beside a score that may pay for predicting nothing."""
    if view.found is None:
        return []
    facts = (
        ("Dice", view.found.dice, score, "over all pixels"),
        ("found", view.found.found, "{:.0%}".format, "of the masks with objects get some of them"),
        ("left empty", view.found.left_empty, "{:.0%}".format, "of the empty masks stay empty"),
    )
    return [(name, text(value), meaning) for name, value, text, meaning in facts if value is not None]


# ---------------------------------------------------------------------------------------------- sections


def _learning(view: View) -> list[Section]:
    curves = {
        "score": f"{view.metric_of_epochs or view.metric} on the fold held out. Still rising at the end: train longer.",
        "loss": "Training loss. Its height differs from phase to phase because the loss does.",
        "dice": "Dice over all pixels: 0 where nothing is found, whatever the score.",
        "threshold": "The best threshold. A jump between phases says that probabilities changed their meaning.",
    }
    shown = [name for name in curves if name in view.history and view.history[name].notna().any()]
    charts = [
        Chart(plots.svg(plots.learning_curve, view.history, name), f"{name} by epoch. {curves[name]}") for name in shown
    ]
    missing = "" if shown else "there is no record of the training (metrics.jsonl)."
    caption = "Each fold is a thin line, their mean the thick one; dashed lines part the phases. " + " ".join(
        f"{name.capitalize()}: {curves[name]}" for name in shown
    )
    return [Section("learning", "Learning curves", caption, charts, missing=missing)]


def _folds(view: View) -> list[Section]:
    caption = (
        "One row per fold. Folds that differ by far more than their images explain hold something the others do not: "
        "a group, a kind, a leak."
    )
    if view.metric_of_epochs not in (None, view.metric):
        caption += f" Phases and oof are scored by {view.metric_of_epochs} of pixels, cross-fitted by {view.metric}."
    table = [to_table("", view.folds)] if len(view.folds) else []
    return [Section("folds", "Folds", caption, tables=table, missing="" if table else "there is no table of folds.")]


def _scores(view: View) -> list[Section]:
    if view.scored.empty:
        return [Section("scores", "Scores", "", missing=UNSCORED)]
    charts = [
        Chart(plots.svg(plots.score_histogram, view.scored), f"Histogram of the scores of {len(view.scored)} images."),
        Chart(plots.svg(plots.score_by_fold, view.scored), "Spread of the scores in each fold."),
    ]
    caption = (
        "A second hump at 0 is images whose mask is missed or invented altogether: that is a matter of the smallest "
        "area, or of empties. A broad hump is a matter of outlines. Folds should look alike."
    )
    mean = view.scored["score"].mean()
    if view.honest and abs(mean - view.honest.interval.mean) > POOLED:
        caption += f" Their mean is {score(mean)}; the score above takes the pixels of all images in one."
    return [Section("scores", "Scores of images", caption, charts)]


def _galleries(view: View) -> list[Section]:
    if view.scored.empty:
        return [Section("worst", "Worst and best images", "", missing=UNSCORED)]
    found = len(suspected(view.scored))
    rows = {
        "worst": (
            "Worst images",
            "What do they share? That is what to show more often, or to model.",
            pictures.worst(view.scored),
        ),
        "best": (
            "Best images",
            "So that one knows what right looks like. Images without a mask are left out.",
            pictures.best(view.scored),
        ),
        "suspects": (
            "Suspected label errors",
            f"{found} of {len(view.scored)} images have a suspicion of {SUSPICIOUS} or more: pixels labelled one way "
            "that models, which did not train on them, are sure go the other way. The label may be wrong, or the "
            "model sure of nonsense: look. Wrong labels are best corrected, or left out of training, not of the score.",
            pictures.suspects(view.scored),
        ),
    }
    return [
        Section(key, title, caption, gallery=chosen)
        if len(chosen)
        else Section(key, title, caption, missing=NOTHING_TO_SHOW[key])
        for key, (title, caption, chosen) in rows.items()
    ]


NOTHING_TO_SHOW = {
    "best": "no image has a mask.",
    "suspects": "no label is contradicted by sure predictions.",
}
UNSCORED = "no image has an out-of-fold score. A run on all images is judged by the folds of the same config."


def _parting(view: View) -> list[Section]:
    title = "What parts touching objects"
    if view.parting is None:
        return [Section("parting", title, "", missing="the competition asks for masks, not for objects.")]
    caption = (
        "Each way is chosen on all folds but one and scored on that one; what is not better than objects that touch as "
        "one is not worth its parameters. Cuts that differ from fold to fold were chosen by luck. Threshold, border "
        "and neck are shares, the smallest area is in pixels."
    )
    tables = [to_table("by way", view.parting.ways), to_table("chosen", view.parting.cuts)]
    return [Section("parting", title, caption, tables=tables)]


def _cut(view: View) -> list[Section]:
    title = "The cut that ships"
    if not view.surfaces:
        missing = "no such pair was searched; of exclusive classes, a pixel belongs to the most probable."
        return [Section("cut", title, "", missing=missing)]
    charts = [
        Chart(
            plots.svg(plots.cut_surface, name, surface),
            f"Score of {name} by threshold and {plots.AREA_OF[surface.rules]}, best at "
            f"{surface.chosen.threshold:.3f} and {surface.chosen.area} px.",
        )
        for name, surface in view.surfaces.items()
    ]
    notes = [_said_of_cut(name, surface) for name, surface in view.surfaces.items()]
    caption = (
        " ".join(notes) + " The cross is what ships, the best on all folds, each dot the best of the same rules "
        "without one of them; the white line surrounds what is as good. Dots together on a broad plateau: trust the "
        "cut. Dots far apart: take a point in their middle."
    )
    tables = [to_table("chosen", view.cuts, CUTS_NOTE)] if len(view.cuts) else []
    return [Section("cut", title, caption, charts, tables=tables, half=len(charts) == 1)]


CUTS_NOTE = (
    "A fold is scored by its own row. Total, component and presence are smallest areas, pixels. Rules that differ from "
    "fold to fold are about equally good; if areas do too, few images decide."
)
SHIPS = {  # family of rules: what it does beside the threshold
    "total": "a mask of fewer than {area} px is emptied",
    "components": "components of fewer than {area} px are removed",
    "triplet": "a mask is emptied unless {area} px reach {presence:.3f}",
}


def _said_of_cut(name: str, surface: Surface) -> str:
    """What ships for a class, how broad its plateau is, and how far the folds move it."""
    chosen, cuts = surface.chosen, surface.per_fold.values()
    rule = SHIPS[surface.rules].format(area=chosen.area, presence=max(chosen.presence_threshold, chosen.threshold))
    rules = ", ".join([*([rule] if chosen.area else []), *surface.further]) or "nothing else"
    said = (
        f"For {name} ships {surface.rules}: threshold {chosen.threshold:.3f}, {rules}"
        f"; within {plots.PLATEAU} of its score are thresholds of {_span(plots.plateau(surface), '.3f')}"
    )
    if cuts:
        thresholds, areas = [cut.threshold for cut in cuts], [cut.area for cut in cuts]
        said += f", and without one fold the best lies at {_span(thresholds, '.3f')} and {_span(areas, 'd')} px"
    return said + "."


def _span(values: Sequence[float], form: str) -> str:
    """From the least to the highest, or the one that they all are."""
    ends = [format(end, form) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _calibration(view: View) -> list[Section]:
    title = "Do probabilities mean what they say?"
    if view.reliability.empty:
        return [Section("calibration", title, "", missing="no pixels were counted.")]
    unsure = view.reliability[view.reliability["probability"].between(0.05, 0.95)]
    caption = (
        f"On the dashed line, of pixels with probability .7 seven in ten are masked. Below it the model is too sure. "
        f"Expected calibration error {calibration_error(view.reliability):.4f} over all pixels, most of them easy; "
        f"{calibration_error(unsure):.4f} over those between .05 and .95. One cut makes up for a bent curve, "
        "a mean of several models does not."
    )
    chart = Chart(plots.svg(plots.reliability_curve, view.reliability), "Reliability curve with the number of pixels.")
    return [Section("calibration", title, caption, [chart], half=True)]


def _coverage(view: View) -> list[Section]:
    if view.scored.empty:
        return [Section("coverage", "Coverage, predicted against true", "", missing=UNSCORED)]
    image = "image and class" if len(view.masks) else "image"
    choice = [
        Chart(
            plots.svg(plots.coverage_scatter, view.shares.dropna(subset="predicted"), log),
            f"Predicted against true coverage of each {image}, {name} axes.",
            name,
        )
        for name, log in (("linear", False), ("log", True))
    ]
    caption = (
        f"A point is an {image}. Above the line too much is masked, below too little. Points along the left edge are "
        "inventions where there is nothing, along the bottom masks that were missed."
    )
    return [Section("coverage", "Coverage, predicted against true", caption, choice=choice, half=True)]


def _kinds(view: View) -> list[Section]:
    tables = [to_table("by class", view.classes)] if len(view.classes) else []
    if len(view.scored):
        tables += [_kinds_table(way.name, way.kinds) for way in groupings(view.scored)]
    caption = "The worst first. Many images with a low mean are where most is to be gained; few are where luck is."
    missing = "" if tables else "no column tells the images apart."
    return [Section("kinds", "Scores by class, group and kind", caption, tables=tables, missing=missing)]


def _kinds_table(name: str, found: pd.DataFrame) -> Table:
    note = f"The worst {KINDS} of {len(found)}." if len(found) > KINDS else ""
    return to_table(f"by {name}", found.head(KINDS).rename(columns={"kind": name}), note)


def _members(view: View) -> list[Section]:
    title = "Members of the ensemble"
    if view.members is None or len(view.members.table) < 2:
        return [Section("members", title, "", missing="there is one model, so nothing to weigh.")]
    caption = (
        "Errors that are alike (near 1) are not averaged away: a weaker member that fails elsewhere helps more than a "
        "twin of the best. A weight of 0 can be dropped, and with it that model's run time."
    )
    chart = Chart(plots.svg(plots.error_correlation, view.members), "Correlation of the members' errors.")
    return [Section("members", title, caption, [chart], tables=[to_table("", view.members.table)], half=True)]


UNLABELLED = "neither this nor its companion `<config>_pseudo`, which `make pseudo` trains, has learned from any yet."


def _pseudo(view: View) -> list[Section]:
    title = "What pseudo-labels changed"
    if view.pseudo is None:
        return [Section("pseudo", title, "", missing=UNLABELLED)]
    gap = view.pseudo.difference
    caption = (
        f"{view.pseudo.labelled}, which was trained on them, against {view.pseudo.source}, whose models made them, out "
        f"of fold at threshold .5: {gap.mean:+.4f}, {gap}. An interval that "
        "holds 0 is no reason to use them; it says nothing of the luck of one training: look whether the folds agree."
    )
    return [Section("pseudo", title, caption, tables=[to_table("by fold", view.pseudo.table)])]


def _submission(view: View) -> list[Section]:
    if view.submission is None or not len(view.submission.coverage):
        return [Section("submission", "The submission", "", missing="none was written yet.")]
    true, test = view.shares["coverage"].to_numpy(), view.submission.coverage
    sets = {"train": true, "test": test}
    if len(view.scored):
        sets = {"train": true, "out of fold": view.shares["predicted"].dropna().to_numpy(), "test": test}
    caption = (
        f"{view.submission.rows} rows, {view.submission.empty} of them empty. Out of fold against true is the model's "
        "own bent; test against out of fold is what differs in the test set. Where these two part, look at test images."
    )
    alt = "Share of masks that cover no more of their image than so much: " + ", ".join(sets) + "."
    return [
        Section(
            "submission",
            "The submission",
            caption,
            [Chart(plots.svg(plots.coverage_shares, sets), alt)],
            tables=[to_table("", _summary(sets))._replace(sorts=False)],
            half=True,
        )
    ]


def _summary(sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """A column for each set of images: how many, how many empty, how much is masked."""
    rows = {
        "number": lambda shares: f"{len(shares):,}",
        "empty": lambda shares: f"{(shares == 0).mean():.1%}",
        "mean coverage": lambda shares: f"{shares.mean():.2%}",
        **{f"{q}% have less than": partial(_percentile, q) for q in (5, 25, 50, 75, 95)},
    }
    table = {name: [say(shares) for say in rows.values()] for name, shares in sets.items()}
    return pd.DataFrame({"masks of": list(rows), **table})


def _percentile(q: float, shares: np.ndarray) -> str:
    return f"{np.percentile(shares, q):.2%}"


NO_BOARDS = (
    "no boards were simulated: too few groups count for the metric, or the number of test images is not known "
    "(leaderboard.images on the card)."
)


def _boards(view: View) -> list[Section]:
    if view.boards is None:
        return [Section("shake-up", "What a shake-up would do", "", missing=NO_BOARDS)]
    low, high = np.quantile(view.boards.differences, [0.05, 0.95])
    caption = (
        f"Test sets drawn from the out-of-fold scores, {view.boards.public_images} public images and "
        f"{view.boards.private_images} private ones: in 9 of 10, private differs from public by {low:+.4f} to "
        f"{high:+.4f}, by chance alone. A smaller gain on the public board is no reason to change anything."
    )
    chart = Chart(plots.svg(plots.board_histogram, view.boards), "Histogram of private minus public score.")
    return [Section("shake-up", "What a shake-up would do", caption, [chart], half=True)]


SECTIONS: tuple[Callable[[View], list[Section]], ...] = (
    _learning,
    _folds,
    _scores,
    _galleries,
    _cut,
    _parting,
    _calibration,
    _kinds,
    _coverage,
    _boards,
    _members,
    _pseudo,
    _submission,
)


# ---------------------------------------------------------------------------------------------- tables


def to_table(title: str, frame: pd.DataFrame, note: str = "") -> Table:
    """A table for reading, whose columns can be sorted by what they mean and not by how it is written."""
    rows = [
        [to_cell(*named) for named in zip(frame.columns, row, strict=True)] for row in frame.itertuples(index=False)
    ]
    headings = [(str(column), pd.api.types.is_numeric_dtype(frame[column])) for column in frame.columns]
    return Table(title, headings, rows, note)


def to_cell(column: str, value: Any) -> Cell:
    """A value as text: time in `seconds`, whole numbers as they are, others to four places."""
    if value is None or (isinstance(value, Real) and np.isnan(value)):
        return Cell("–", "")
    if column == "seconds":
        return Cell(clock(value), float(value))
    if isinstance(value, Integral):
        return Cell(f"{value:,}", float(value))
    if isinstance(value, Real):
        return Cell(score(value), float(value))
    return Cell(str(value), str(value))


def score(value: float) -> str:
    """A score to four places."""
    return f"{value:.4f}"
