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

from pipeline.postprocess.threshold_counts import THRESHOLDS
from pipeline.report.label_quality import BINS
from pipeline.report.report_data import ScoreSurface, SimulatedShakeup

INK, DIM, GRID, MAIN, OTHER = "#1f2933", "#5f6b78", "#dfe4e8", "#1467b3", "#c04c0b"
THEME = {  # role: variable, dark colour
    INK: ("ink", "#e8ebee"),
    DIM: ("dim", "#a3adb8"),
    GRID: ("grid", "#39424c"),
    MAIN: ("main", "#74b7f3"),
    OTHER: ("other", "#ff9f66"),
}
FONT = "DejaVu Sans"  # comes with matplotlib, so the layout of a chart is the same everywhere
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
    "svg.hashsalt": "report",  # reproducible ids
}
SIZE = (5.6, 3.5)  # inches: 403 × 252 units of the SVG
RASTER_POINTS = 2000  # more points are drawn as pixels, not as vectors
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.6g}%")
# Colour and dash of each line of a chart; the first is the reference. 13 are distinct; CamVid has 11 classes.
DASHES = ("-", (0, (1, 1.2)), (0, (6, 2)), (0, (6, 2, 1, 2)))
LINE_STYLES = ((DIM, (0, (4, 3))), *((colour, dash) for dash, colour in product(DASHES, (MAIN, OTHER, INK))))
AREA_LABELS = {  # rule set: meaning of its area
    "total": "smallest total area",
    "components": "smallest component",
    "triplet": "presence area",
    "gate": "smallest total area",
    "group": "smallest total area",
}
SHARE_LABELS = {  # rule set: what its share is of
    f"{pool} {name}": f"share of the {whose} {what}"
    for pool, whose in (("image", "image's"), ("volume", "volume's"), ("test", "test set's"))
    for name, what in (("share", "pixels"), ("expected", "expected foreground"))
}
PLATEAU_TOLERANCE = 0.001  # of score; thresholds within it are as good as the best


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


def _escape_math(name: str) -> str:
    """A name as plain text: matplotlib would draw text between dollar signs as a formula."""
    return name.replace("$", r"\$")


# ---------------------------------------------------------------------------------------------- training


def add_global_epoch(history: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, int]]:
    """Add a column `x`, the epoch counted over all phases, to the history; also the epochs before each phase.

    A phase starts at the same x in all folds, even if it ended early in one of them.
    """
    lengths = history.groupby("phase")["epoch"].max().sort_index()
    before = (lengths.cumsum() - lengths).to_dict()
    return history.assign(x=history["epoch"] + history["phase"].map(before)), before


def learning_curve(history: pd.DataFrame, column: str) -> Figure:
    """One column of the history by epoch: folds as thin lines, their mean as a thick one, phases in order."""
    figure, axes = _figure()
    placed, before = add_global_epoch(history)
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
    axes.set(xlabel="epoch, over all phases", ylabel=column, xlim=(0.5, placed["x"].max() + 0.5))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


# ---------------------------------------------------------------------------------------------- scores


def score_histogram(images: pd.DataFrame) -> Figure:
    """Histogram of the images' scores: bars for all images, a line for each fold."""
    figure, axes = _figure()
    low = min(images["score"].quantile(0.01), 0.9) if len(images) > 50 else 0.0
    edges = np.linspace(np.floor(low * 10) / 10, 1, 31)
    inside = images.assign(score=images["score"].clip(edges[0], edges[-1]))
    centers = (edges[:-1] + edges[1:]) / 2
    axes.stairs(_shares(inside["score"], edges), edges, color=MAIN, fill=True, alpha=0.35, label="all")
    for number, (_, fold) in enumerate(inside.groupby("fold")):
        label = "" if number else "each fold"
        axes.plot(centers, _shares(fold["score"], edges), color=DIM, alpha=0.7, linewidth=0.8, label=label)
    axes.axvline(images["score"].mean(), color=OTHER, linewidth=1.5, label="mean")
    label = "score of an image" + (f" (left bar: {edges[0]:.1f} and below)" if edges[0] else "")
    axes.set(xlabel=label, ylabel="share of images")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left")
    return figure


def _shares(scores: pd.Series, edges: np.ndarray) -> np.ndarray:
    """The share of the scores in each bin."""
    return np.histogram(scores, edges)[0] / len(scores)


def score_by_fold(images: pd.DataFrame) -> Figure:
    """Scores of each fold: 5th to 95th percentile as a thin line, 25th to 75th as a thick one, median and mean."""
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


# ---------------------------------------------------------------------------------------------- rules


def score_surface(name: str, surface: ScoreSurface) -> Figure:
    """The score of every threshold and area of a class, the plateau around the best, and the chosen points.

    For the triplet, it is the plane of the presence threshold in use; for a gate, that of the gate in use.
    """
    figure, axes = _figure((SIZE[0], 3.9))
    surface = _trim_areas(surface)
    top = surface.scores.max()
    lowest = max(np.quantile(surface.scores, 0.1), top - 0.2)  # differences below it do not matter
    extent = (THRESHOLDS[0], THRESHOLDS[-1], -0.5, len(surface.areas) - 0.5)
    shown = axes.imshow(
        surface.scores,
        cmap="cividis",
        vmin=min(lowest, top - PLATEAU_TOLERANCE),
        vmax=top,
        aspect="auto",
        origin="lower",
        extent=extent,
    )
    if len(surface.areas) > 1 and surface.scores.min() < top - PLATEAU_TOLERANCE:
        rows = np.arange(len(surface.areas))
        axes.contour(THRESHOLDS, rows, surface.scores, [top - PLATEAU_TOLERANCE], colors="white", linewidths=1.2)
    _mark_points(axes, surface)
    ticks = np.unique(np.linspace(0, len(surface.areas) - 1, 8).round().astype(int))
    axes.set(xlabel=f"threshold for {_escape_math(name)}", ylabel=_area_label(surface))
    axes.set(yticks=ticks, yticklabels=[f"{area:.4g}" for area in surface.areas[ticks]])
    axes.grid(False)
    bar = figure.colorbar(shown, ax=axes, label="score", extend="min")
    bar.outline.set_visible(False)
    return figure


def _area_label(surface: ScoreSurface) -> str:
    """The label of the axis of areas, for the triplet with its presence threshold; or of shares."""
    if surface.rule_set in SHARE_LABELS:
        return SHARE_LABELS[surface.rule_set]
    presence = surface.best.presence_threshold
    at = f" at {presence:.3f}" if surface.rule_set == "triplet" and presence > 0 else ""
    return f"{AREA_LABELS[surface.rule_set]}{at}, pixels"


def _trim_areas(surface: ScoreSurface) -> ScoreSurface:
    """Remove the largest areas, or shares, that all give the same scores: the grid covers images of any size."""
    last = np.flatnonzero((surface.scores != surface.scores[-1]).any(axis=1)).max(initial=0) + 2
    return surface._replace(areas=surface.areas[:last], scores=surface.scores[:last])


def _mark_points(axes: Axes, surface: ScoreSurface) -> None:
    """The dots are drawn over the cross, because they are often at the same point."""
    rows = np.arange(len(surface.areas))
    row = np.interp(surface.best.area, surface.areas, rows)
    axes.plot(
        surface.best.threshold,
        row,
        "X",
        color="#ff5a1f",
        markeredgecolor="black",
        markersize=13,
        label="in use",
    )
    if surface.per_fold:
        points = [(each.threshold, np.interp(each.area, surface.areas, rows)) for each in surface.per_fold.values()]
        style = {"color": "white", "markeredgecolor": "black", "markersize": 5}
        axes.plot(*zip(*points, strict=True), "o", **style, label="best without one fold")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def plateau(surface: ScoreSurface) -> tuple[float, float]:
    """The lowest and highest threshold that score within PLATEAU_TOLERANCE of the best, at the area in use."""
    row = int(np.abs(surface.areas - surface.best.area).argmin())
    good = THRESHOLDS[surface.scores[row] >= surface.scores.max() - PLATEAU_TOLERANCE]
    return (good.min(), good.max()) if len(good) else (surface.best.threshold,) * 2


# ---------------------------------------------------------------------------------------------- calibration


def reliability_curve(table: pd.DataFrame) -> Figure:
    """The share of masked pixels in each probability bin, and the number of pixels."""
    figure = Figure(figsize=(SIZE[0], 4.3), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=DIM, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
    upper.plot(
        table["probability"], table["share"], color=MAIN, linewidth=2, marker="o", label="measured", clip_on=False
    )
    upper.set(ylabel="share of masked pixels", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    lower.bar((table["bin"] + 0.5) / BINS, table["pixels"], width=0.85 / BINS, color=MAIN, alpha=0.45)
    lower.set(xlabel="predicted probability", ylabel="pixels", yscale="log")
    return figure


def coverage_scatter(table: pd.DataFrame, log: bool) -> Figure:
    """Predicted against true coverage, a point for each row; on log axes, empty masks are at the lowest value."""
    figure, axes = _figure((SIZE[0], 4.3))
    true, predicted = table["coverage"].to_numpy(), table["predicted"].to_numpy()
    top = max(true.max(), predicted.max(), 1e-6) * (1.6 if log else 1.04)
    low = _smallest_positive(true, predicted) / 2 if log else -0.03 * top
    draw = {"rasterized": len(table) > RASTER_POINTS, "linewidths": 0}
    points = [np.maximum(each, low * 1.2) if log else each for each in (true, predicted)]
    axes.scatter(*points, s=16, color=MAIN, alpha=0.45, **draw)
    axes.axline((top / 2, top / 2), (top, top), color=DIM, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel="true coverage", ylabel="predicted coverage", xlim=(low, top), ylim=(low, top))
    if log:
        axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT)
    return figure


def _smallest_positive(*coverages: np.ndarray) -> float:
    positive = np.concatenate([each[each > 0] for each in coverages])
    return positive.min() if len(positive) else 1e-6


# ---------------------------------------------------------------------------------------------- test set


def coverage_ecdf(coverages: Mapping[str, np.ndarray]) -> Figure:
    """The cumulative distribution of the coverage of each set of masks."""
    figure, axes = _figure()
    for (name, coverage), (colour, dash) in zip(coverages.items(), cycle(LINE_STYLES)):
        axes.ecdf(coverage, color=colour, linestyle=dash, linewidth=2, label=name)
    axes.set_xscale("symlog", linthresh=1e-3)  # logarithmic, but includes 0
    axes.set(xlabel="coverage of a mask", ylabel="share of masks", xlim=(0, None), ylim=(0, 1))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.legend(loc="upper left")
    return figure


def shakeup_histogram(shakeup: SimulatedShakeup) -> Figure:
    """Histogram of the simulated differences of private and public score."""
    figure, axes = _figure()
    counts, edges = np.histogram(shakeup.differences, 40)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=MAIN, alpha=0.45)
    for end in np.quantile(shakeup.differences, [0.05, 0.95]):
        axes.axvline(end, color=OTHER, linewidth=1.5)
    axes.axvline(0, color=DIM, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(xlabel="private − public score", ylabel="share of simulations")
    axes.yaxis.set_major_formatter(PERCENT)
    return figure
