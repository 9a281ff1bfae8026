"""The report: one HTML file that needs nothing else, for people who would rather look than read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from pipeline.report.advice import advise
from pipeline.report.kinds import groupings
from pipeline.report.pictures import SUSPICIOUS, Tile, suspected, tiles
from pipeline.report.suspicion import calibration_error
from pipeline.report.view import View

LIMIT = 5 << 20  # bytes: what a mail or an issue takes
SIDES = (384, 256, 128)  # pixels of a picture; the largest with which the page stays within the limit
KINDS = 15  # rows of a table of kinds


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
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One question that the page answers."""

    key: str  # of its link
    title: str
    caption: str  # what one should see, and what to do
    charts: Sequence[Chart] = ()
    choice: Sequence[Chart] = ()  # one of them is shown
    tables: Sequence[Table] = ()
    tiles: Sequence[Tile] = ()
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
    for side in SIDES:
        page = _fill(view, side)
        size = len(page.encode())
        if size <= LIMIT:
            return page
    raise ValueError(
        f"the report is {size >> 10} KiB with pictures of {SIDES[-1]} pixels, expected at most {LIMIT >> 10}: "
        f"shorten its tables ({len(view.folds)} folds, {len(view.classes)} classes, {len(view.history)} epochs)"
    )


def _fill(view: View, side: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: resources.files("pipeline.report").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section for build in SECTIONS for section in build(view, side)]
    template = environment.get_template("page.html.jinja")
    return template.render(view=view, facts=_facts(view), advice=advise(view), sections=sections)


def _facts(view: View) -> list[tuple[str, str, str]]:
    """Name, number and explanation of what stands beside the score."""
    if view.honest is None:
        return []
    return [
        ("in-sample", score(view.honest.in_sample), "chosen and scored on the same images"),
        ("optimism", f"{view.honest.optimism:+.4f}", "in-sample − cross-fitted: what choosing only seemed to gain"),
        ("at .5", score(view.honest.at_half), "threshold .5, nothing chosen"),
    ]


# ---------------------------------------------------------------------------------------------- sections


def learning(view: View, side: int) -> list[Section]:
    curves = {
        "score": "The official metric on the fold held out. Flat at the end: enough epochs; still rising: train longer.",
        "loss": "Training loss. Its height differs from phase to phase because the loss does.",
        "threshold": "The best threshold. A jump between phases says that probabilities changed their meaning.",
    }
    shown = [name for name in curves if name in view.history and view.history[name].notna().any()]
    charts = [Chart(plots.svg(plots.learning_curve, view.history, name), f"{name} by epoch. {curves[name]}") for name in shown]
    missing = "" if shown else "there is no record of the training (metrics.jsonl)."
    caption = "Each fold is a thin line, their mean the thick one; dashed lines part the phases. " + " ".join(
        f"{name.capitalize()}: {curves[name]}" for name in shown
    )
    return [Section("learning", "Learning curves", caption, charts, missing=missing)]


def folds(view: View, side: int) -> list[Section]:
    caption = (
        "One row per fold. Folds that differ by far more than their images explain hold something the others do not: "
        "a group, a kind, a leak."
    )
    table = [to_table("", view.folds)] if len(view.folds) else []
    return [Section("folds", "Folds", caption, tables=table, missing="" if table else "there is no table of folds.")]


def scores(view: View, side: int) -> list[Section]:
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
    return [Section("scores", "Scores of images", caption, charts)]


def galleries(view: View, side: int) -> list[Section]:
    if view.scored.empty:
        return [Section("worst", "Worst and best images", "", missing=UNSCORED)]
    found = len(suspected(view.scored))
    rows = {
        "worst": ("Worst images", "What do they share? That is what to show more often, or to model.", pictures.worst),
        "best": ("Best images", "So that one knows what right looks like. Images without a mask are left out.", pictures.best),
        "suspects": (
            "Suspected label errors",
            f"{found} of {len(view.scored)} images have a suspicion of {SUSPICIOUS} or more: pixels labelled one way "
            "that models, which did not train on them, are sure go the other way. Look at the label first. Wrong ones "
            "are best corrected or left out of training, and stay in the score.",
            pictures.suspects,
        ),
    }
    return [_gallery(view, side, key, *row) for key, row in rows.items()]


def _gallery(
    view: View, side: int, key: str, title: str, caption: str, choose: Callable[[pd.DataFrame], pd.DataFrame]
) -> Section:
    chosen = choose(view.scored)
    missing = "" if len(chosen) else NOTHING_TO_SHOW[key]
    return Section(key, title, caption, tiles=list(tiles(chosen, view.picture, side)), missing=missing)


NOTHING_TO_SHOW = {
    "worst": "there is no image.",
    "best": "no image has a mask.",
    "suspects": "no label is contradicted by sure predictions.",
}
UNSCORED = "no image has an out-of-fold score. A run on all images is judged by the folds of the same config."


def cuts(view: View, side: int) -> list[Section]:
    if not view.surfaces:
        return [Section("cuts", "Threshold and smallest area", "", missing="nothing was searched.")]
    charts, notes = [], []
    for name, surface in view.surfaces.items():
        low, high = plots.plateau(surface)
        chosen = surface.chosen
        alt = f"Score by threshold and smallest area, {name}: the best is at {chosen.threshold:.3f} and {chosen.min_area} pixels."
        charts.append(Chart(plots.svg(plots.cut_surface, surface), alt))
        notes.append(
            f"{name}: threshold {chosen.threshold:.3f}, smallest area {chosen.min_area} px ship; from {low:.2f} to "
            f"{high:.2f} the score is within {plots.PLATEAU} of the best."
        )
    caption = (
        "The cross ships, the dots were chosen without one fold each, the white line surrounds what is as good as the "
        "best. Dots together on a broad plateau: trust the cut. Dots far apart: take a point in the middle. "
    )
    return [Section("cuts", "Threshold and smallest area", caption + " ".join(notes), charts)]


def calibration(view: View, side: int) -> list[Section]:
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
    return [Section("calibration", title, caption, [chart])]


def coverage(view: View, side: int) -> list[Section]:
    if view.scored.empty:
        return [Section("coverage", "Coverage, predicted against true", "", missing=UNSCORED)]
    choice = [
        Chart(
            plots.svg(plots.coverage_scatter, view.scored, log),
            f"Predicted against true coverage of each image, {name} axes.",
            name,
        )
        for name, log in (("linear", False), ("log", True))
    ]
    caption = (
        "A point is an image. Above the line too much is masked, below too little. Points along the left edge are "
        "inventions on empty images, along the bottom masks that were missed."
    )
    return [Section("coverage", "Coverage, predicted against true", caption, choice=choice)]


def kinds(view: View, side: int) -> list[Section]:
    tables = [to_table("by class", view.classes)] if len(view.classes) else []
    if len(view.scored):
        tables += [_kinds_table(way.name, way.kinds) for way in groupings(view.scored)]
    caption = "The worst first. Many images with a low mean are where most is to be gained; few are where luck is."
    missing = "" if tables else "no column tells the images apart."
    return [Section("kinds", "Scores by class, group and kind", caption, tables=tables, missing=missing)]


def _kinds_table(name: str, found: pd.DataFrame) -> Table:
    note = f"The worst {KINDS} of {len(found)}." if len(found) > KINDS else ""
    return to_table(f"by {name}", found.head(KINDS).rename(columns={"kind": name}), note)


def members(view: View, side: int) -> list[Section]:
    title = "Members of the ensemble"
    if view.members is None or len(view.members.table) < 2:
        return [Section("members", title, "", missing="there is one model, so nothing to weigh.")]
    caption = (
        "Errors that are alike (near 1) are not averaged away: a weaker member that fails elsewhere helps more than a "
        "twin of the best. A weight of 0 can be dropped, and with it that model's run time."
    )
    chart = Chart(plots.svg(plots.error_correlation, view.members), "Correlation of the members' errors.")
    return [Section("members", title, caption, [chart], tables=[to_table("", view.members.table)])]


def submission(view: View, side: int) -> list[Section]:
    if view.submission is None or not len(view.submission.coverage):
        return [Section("submission", "The submission", "", missing="none was written yet.")]
    true, test = view.images["coverage"].to_numpy(), view.submission.coverage
    sets = {"train, true": true, "test, predicted": test}
    if len(view.scored):
        sets = {"train, true": true, "train, out of fold": view.scored["predicted"].to_numpy(), "test, predicted": test}
    caption = (
        f"{view.submission.rows} rows, {view.submission.empty} of them empty. Out of fold against true is the model's "
        "own bent; test against out of fold is what differs in the test set. Where the last two part, look at test images."
    )
    alt = "Share of images that are covered no more than so much: " + ", ".join(sets) + "."
    return [
        Section(
            "submission",
            "The submission",
            caption,
            [Chart(plots.svg(plots.coverage_shares, sets), alt)],
            tables=[to_table("", _summary(sets))],
        )
    ]


def _summary(sets: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each set of images: how many, how many empty, how much is masked."""
    return pd.DataFrame(
        {
            "images of": name,
            "images": len(shares),
            "empty": f"{(shares == 0).mean():.1%}",
            "mean coverage": f"{shares.mean():.2%}",
            **{f"{q}% below": f"{np.percentile(shares, q):.2%}" for q in (5, 25, 50, 75, 95)},
        }
        for name, shares in sets.items()
    )


def boards(view: View, side: int) -> list[Section]:
    if view.boards is None:
        return [Section("shakeup", "What a shake-up would do", "", missing="no boards were simulated.")]
    low, high = np.quantile(view.boards.differences, [0.05, 0.95])
    caption = (
        f"Test sets drawn from the out-of-fold scores, {view.boards.public_images} public images and "
        f"{view.boards.private_images} private ones: in 9 of 10, private differs from public by {low:+.4f} to "
        f"{high:+.4f}, by chance alone. A smaller gain on the public board is no reason to change anything."
    )
    chart = Chart(plots.svg(plots.board_histogram, view.boards), "Histogram of private minus public score.")
    return [Section("shakeup", "What a shake-up would do", caption, [chart])]


SECTIONS: tuple[Callable[[View, int], list[Section]], ...] = (
    learning,
    folds,
    scores,
    galleries,
    cuts,
    calibration,
    coverage,
    kinds,
    members,
    submission,
    boards,
)


# ---------------------------------------------------------------------------------------------- tables


def to_table(title: str, frame: pd.DataFrame, note: str = "") -> Table:
    """A table for reading, whose columns can be sorted by what they mean and not by how it is written."""
    rows = [[to_cell(column, value) for column, value in zip(frame.columns, row, strict=True)] for row in frame.itertuples(index=False)]
    return Table(title, [str(column) for column in frame.columns], rows, note)


def to_cell(column: str, value: Any) -> Cell:
    """A value as text: time in `seconds`, whole numbers as they are, others to four places."""
    if isinstance(value, Real) and np.isnan(value):
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
