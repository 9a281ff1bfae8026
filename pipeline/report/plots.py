"""The charts of a report, as SVG that follows the reader's light or dark scheme.

A chart is drawn in the colours of THEME's first column, which name roles; in the SVG each becomes a CSS variable.
"""

import base64
import io
from collections.abc import Callable, Mapping
from itertools import cycle, product
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from pipeline.postprocess import THRESHOLDS
from pipeline.report.label_quality import BINS
from pipeline.report.report_data import Boards, Members, Surface

INK, DIM, GRID, MAIN, OTHER = "#1f2933", "#5f6b78", "#dfe4e8", "#1467b3", "#c04c0b"
THEME = {  # role: variable, dark colour
    INK: ("ink", "#e8ebee"),
    DIM: ("dim", "#a3adb8"),
    GRID: ("grid", "#39424c"),
    MAIN: ("main", "#74b7f3"),
    OTHER: ("other", "#ff9f66"),
}
FONT = "DejaVu Sans"  # ships with matplotlib, so a chart is laid out alike everywhere
STYLE = {
    "font.family": FONT,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": DIM,
    "axes.labelcolor": DIM,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # ids that are the same each time
}
SIZE = (5.6, 3.5)  # inches: 403 × 252 units of the SVG
MANY = 2000  # points from which on they are drawn as a picture
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.6g}%")
# Of lines in one chart: the first is what the others are compared with. Distinct for 13, more than CamVid has classes.
DASHES = ("-", (0, (1, 1.2)), (0, (6, 2)), (0, (6, 2, 1, 2)))
LOOKS = ((DIM, (0, (4, 3))), *((colour, dash) for dash, colour in product(DASHES, (MAIN, OTHER, INK))))
AREA_OF = {  # family of rules: what the area of its cuts is of
    "total": "smallest total area",
    "components": "smallest component",
    "triplet": "presence area",
}
PLATEAU = 0.001  # of score: cuts within it are as good as the best


def svg(plot: Callable[..., Figure], *args: Any) -> str:
    """A chart of this module as a data URI."""
    with matplotlib.rc_context(STYLE):
        buffer = io.StringIO()
        plot(*args).savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(_themed(buffer.getvalue()).encode()).decode()}"


def _themed(text: str) -> str:
    light = "".join(f"--{name}:{colour};" for colour, (name, _) in THEME.items())
    dark = "".join(f"--{name}:{colour};" for name, colour in THEME.values())
    for colour, (name, _) in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    text = text.replace(f"'{FONT}'", "system-ui, sans-serif")
    rules = f"svg{{{light}}} @media (prefers-color-scheme: dark) {{svg{{{dark}}}}}"
    return text.replace('<style type="text/css">', f'<style type="text/css">{rules}', 1)


def _figure(size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _plain(name: str) -> str:
    """A name as text: what stands between dollars would be a formula."""
    return name.replace("$", r"\$")


# ---------------------------------------------------------------------------------------------- training


def place_epochs(history: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, int]]:
    """History with a column `x`, the epoch counted through all phases, and for each phase the epochs before it.

    A phase begins at the same x in all folds, also where one stopped early.
    """
    lengths = history.groupby("phase")["epoch"].max().sort_index()
    before = (lengths.cumsum() - lengths).to_dict()
    return history.assign(x=history["epoch"] + history["phase"].map(before)), before


def learning_curve(history: pd.DataFrame, column: str) -> Figure:
    """One column of the history by epoch: folds thin, their mean thick, phases side by side."""
    figure, axes = _figure()
    placed, before = place_epochs(history)
    for phase, part in placed.groupby("phase"):
        for _, fold in part.groupby("fold"):
            axes.plot(fold["x"], fold[column], color=MAIN, alpha=0.4, linewidth=1, marker=".", markersize=4)
        mean = part.groupby("x")[column].mean()
        axes.plot(mean.index, mean, color=MAIN, linewidth=2.6, marker="o", markersize=4)
        if before[phase]:
            axes.axvline(before[phase] + 0.5, color=DIM, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"phase {phase}",
            (before[phase] + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, 3),
            textcoords="offset points",
            color=DIM,
        )
    axes.set(xlabel="epoch, through all phases", ylabel=column, xlim=(0.5, placed["x"].max() + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


# ---------------------------------------------------------------------------------------------- scores


def score_histogram(images: pd.DataFrame) -> Figure:
    """Share of the images by score: all as bars, each fold as a line."""
    figure, axes = _figure()
    low = min(images["score"].quantile(0.01), 0.9) if len(images) > 50 else 0.0
    edges = np.linspace(np.floor(low * 10) / 10, 1, 31)
    inside = images.assign(score=images["score"].clip(edges[0], edges[-1]))
    middles = (edges[:-1] + edges[1:]) / 2
    axes.stairs(_shares(inside["score"], edges), edges, color=MAIN, fill=True, alpha=0.35, label="all")
    for number, (_, fold) in enumerate(inside.groupby("fold")):
        label = "" if number else "a fold"
        axes.plot(middles, _shares(fold["score"], edges), color=DIM, alpha=0.7, linewidth=0.8, label=label)
    axes.axvline(images["score"].mean(), color=OTHER, linewidth=1.5, label="mean")
    label = "score of an image" + (f" (left bar: {edges[0]:.1f} and below)" if edges[0] else "")
    axes.set(xlabel=label, ylabel="share of the images")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left")
    return figure


def _shares(scores: pd.Series, edges: np.ndarray) -> np.ndarray:
    """The share of the scores in each bin."""
    return np.histogram(scores, edges)[0] / len(scores)


def score_by_fold(images: pd.DataFrame) -> Figure:
    """Each fold's scores: 5 to 95% as a thin line, the middle half as a thick one, median and mean."""
    folds = sorted(images["fold"].unique())
    figure, axes = _figure((SIZE[0], max(SIZE[1], 0.32 * len(folds) + 1.2)))
    for place, fold in enumerate(folds):
        scores = images.loc[images["fold"] == fold, "score"]
        low, lower, median, upper, high = scores.quantile([0.05, 0.25, 0.5, 0.75, 0.95])
        axes.plot([low, high], [place, place], color=MAIN, linewidth=1.2)
        axes.plot([lower, upper], [place, place], color=MAIN, linewidth=7, alpha=0.45, solid_capstyle="butt")
        axes.plot(median, place, "|", color=MAIN, markersize=13, markeredgewidth=2, label="" if place else "median")
        axes.plot(scores.mean(), place, "D", color=OTHER, markersize=6, label="" if place else "mean")
    axes.axvline(images["score"].mean(), color=OTHER, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(yticks=range(len(folds)), yticklabels=[f"fold {fold}" for fold in folds], xlabel="score of an image")
    axes.set_ylim(len(folds) - 0.4, -0.6)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


# ---------------------------------------------------------------------------------------------- cut


def cut_surface(name: str, surface: Surface) -> Figure:
    """The score of every threshold and area of a class, the plateau around the best, and what was chosen.

    Of the triplet it is a plane: that of the presence threshold that ships.
    """
    figure, axes = _figure((SIZE[0], 3.9))
    surface = _without_ends(surface)
    top = surface.scores.max()
    floor = max(np.quantile(surface.scores, 0.1), top - 0.2)  # below it, differences are of no interest
    extent = (THRESHOLDS[0], THRESHOLDS[-1], -0.5, len(surface.areas) - 0.5)
    shown = axes.imshow(
        surface.scores,
        cmap="cividis",
        vmin=min(floor, top - PLATEAU),
        vmax=top,
        aspect="auto",
        origin="lower",
        extent=extent,
    )
    if len(surface.areas) > 1 and surface.scores.min() < top - PLATEAU:
        rows = np.arange(len(surface.areas))
        axes.contour(THRESHOLDS, rows, surface.scores, [top - PLATEAU], colors="white", linewidths=1.2)
    _mark_cuts(axes, surface)
    ticks = np.unique(np.linspace(0, len(surface.areas) - 1, 8).round().astype(int))
    axes.set(xlabel=f"threshold for {_plain(name)}", ylabel=f"{_area_of(surface)}, pixels")
    axes.set(yticks=ticks, yticklabels=surface.areas[ticks])
    axes.grid(False)
    bar = figure.colorbar(shown, ax=axes, label="score", extend="min")
    bar.outline.set_visible(False)
    return figure


def _area_of(surface: Surface) -> str:
    """Of the triplet with its presence threshold, if it has one beside the threshold."""
    presence = surface.chosen.presence_threshold
    at = f" at {presence:.3f}" if surface.rules == "triplet" and presence > 0 else ""
    return AREA_OF[surface.rules] + at


def _without_ends(surface: Surface) -> Surface:
    """Without the largest areas, from which on nothing changes: grids go on to far larger images than most are."""
    last = np.flatnonzero((surface.scores != surface.scores[-1]).any(axis=1)).max(initial=0) + 2
    return surface._replace(areas=surface.areas[:last], scores=surface.scores[:last])


def _mark_cuts(axes: Axes, surface: Surface) -> None:
    """The dots lie above the cross: often they are where it is."""
    rows = np.arange(len(surface.areas))
    place = np.interp(surface.chosen.area, surface.areas, rows)
    axes.plot(
        surface.chosen.threshold,
        place,
        "X",
        color="#ff5a1f",
        markeredgecolor="black",
        markersize=13,
        label="ships",
    )
    if surface.per_fold:
        cuts = [(cut.threshold, np.interp(cut.area, surface.areas, rows)) for cut in surface.per_fold.values()]
        look = {"color": "white", "markeredgecolor": "black", "markersize": 5}
        axes.plot(*zip(*cuts, strict=True), "o", **look, label="best without one fold")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def plateau(surface: Surface) -> tuple[float, float]:
    """The least and highest threshold that come within PLATEAU of the best score, at the chosen area."""
    row = int(np.abs(surface.areas - surface.chosen.area).argmin())
    good = THRESHOLDS[surface.scores[row] >= surface.scores.max() - PLATEAU]
    return (good.min(), good.max()) if len(good) else (surface.chosen.threshold,) * 2


# ---------------------------------------------------------------------------------------------- calibration


def reliability_curve(table: pd.DataFrame) -> Figure:
    """The share that is masked of the pixels of about one probability, and how many such pixels there are."""
    figure = Figure(figsize=(SIZE[0], 4.3), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=DIM, linewidth=1, linestyle=(0, (4, 3)), label="as it should be")
    upper.plot(
        table["probability"], table["share"], color=MAIN, linewidth=2, marker="o", label="measured", clip_on=False
    )
    upper.set(ylabel="share that is masked", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar((table["bin"] + 0.5) / BINS, table["pixels"], width=0.85 / BINS, color=MAIN, alpha=0.45)
    lower.set(xlabel="probability of a pixel", ylabel="pixels", yscale="log")
    return figure


def coverage_scatter(shares: pd.DataFrame, log: bool) -> Figure:
    """Predicted against true coverage, a point for each row; empties lie on the axes' lowest value."""
    figure, axes = _figure((SIZE[0], 4.3))
    true, predicted = shares["coverage"].to_numpy(), shares["predicted"].to_numpy()
    top = max(true.max(), predicted.max(), 1e-6) * (1.6 if log else 1.04)
    low = _least(true, predicted) / 2 if log else -0.03 * top
    draw = {"rasterized": len(shares) > MANY, "linewidths": 0}
    points = [np.maximum(each, low * 1.2) if log else each for each in (true, predicted)]
    axes.scatter(*points, s=16, color=MAIN, alpha=0.45, **draw)
    axes.axline((top / 2, top / 2), (top, top), color=DIM, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel="true share of the image", ylabel="predicted share", xlim=(low, top), ylim=(low, top))
    if log:
        axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT)
    return figure


def _least(*shares: np.ndarray) -> float:
    """The smallest share that is not 0."""
    full = np.concatenate([each[each > 0] for each in shares])
    return full.min() if len(full) else 1e-6


# ---------------------------------------------------------------------------------------------- ensemble, test set


def error_correlation(members: Members) -> Figure:
    """How alike the members fail, as a heat map with the numbers in it."""
    names = [_plain(name) for name in members.table["name"]]
    size = len(names)
    figure, axes = _figure((SIZE[0], 1.8 + 0.36 * size))
    least = np.fmin.reduce(members.correlation, axis=None)  # of the numbers that are there
    axes.imshow(members.correlation, cmap="cividis", vmin=min(0, least), vmax=1)
    for (row, column), value in np.ndenumerate(members.correlation):
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    axes.set(xticks=range(size), yticks=range(size), yticklabels=names)
    axes.set_xticklabels(names, rotation=30, ha="right")
    axes.grid(False)
    return figure


def coverage_shares(coverages: Mapping[str, np.ndarray]) -> Figure:
    """For each set of masks, the share of them that cover no more of their image than so much."""
    figure, axes = _figure()
    for (name, coverage), (colour, dash) in zip(coverages.items(), cycle(LOOKS)):
        axes.ecdf(coverage, color=colour, linestyle=dash, linewidth=2, label=name)
    axes.set_xscale("symlog", linthresh=1e-3)  # a logarithm that has a place for images with nothing
    axes.set(xlabel="masked share of an image", ylabel="share of the masks", xlim=(0, None), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left")
    return figure


def board_histogram(boards: Boards) -> Figure:
    """How far private lies from public when nothing but chance differs."""
    figure, axes = _figure()
    counts, edges = np.histogram(boards.differences, 40)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=MAIN, alpha=0.45)
    for end in np.quantile(boards.differences, [0.05, 0.95]):
        axes.axvline(end, color=OTHER, linewidth=1.5)
    axes.axvline(0, color=DIM, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel="private − public score", ylabel="share of the simulations")
    axes.yaxis.set_major_formatter(PERCENT)
    return figure
