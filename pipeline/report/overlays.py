"""A sheet of images with the outlines of target and prediction."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: this also runs where there is no screen
from matplotlib.lines import Line2D

from pipeline.files import atomic_write

TRUE, PREDICTED = "#00b3ff", "#ff5a1f"  # blue and orange: distinct for most colour-blind readers
LINE_STYLES = ("solid", "dashed", "dotted")  # of the first, second and third class
PANELS = 6  # in a row, by default


class Panel(NamedTuple):
    """One image of the sheet."""

    title: str
    image: np.ndarray  # (H, W, 1 or 3) uint8
    masks: np.ndarray | None  # (C, h, w) predicted, 0 or 1; h and w may differ from H and W
    target: np.ndarray | None = None  # (C, h, w), 0 or 1


def choose_examples(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """PANELS rows each of the best, the middle and the worst by their column `score`; of few rows, each row once."""
    ordered = rows.sort_values("score", ascending=False, kind="stable")
    places = np.arange(len(ordered))
    if len(ordered) < 3 * PANELS:
        parts = np.array_split(places, 3)
    else:
        middle = (len(ordered) - PANELS) // 2
        parts = [places[:PANELS], places[middle : middle + PANELS], places[-PANELS:]]
    named = zip(("best", "middle", "worst"), parts, strict=True)
    return {name: ordered.iloc[part] for name, part in named if len(part)}


def write_sheet(path: Path, rows: Mapping[str, Sequence[Panel]], columns: int = PANELS) -> None:
    """Write the sheet of `draw_sheet` as a PNG."""
    figure = draw_sheet(rows, columns)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=90)


@matplotlib.rc_context({"text.parse_math": False})
def draw_sheet(rows: Mapping[str, Sequence[Panel]], columns: int = PANELS) -> Figure:
    """A titled row of at most `columns` panels for each entry. Titles are plain text, never formulas."""
    figure = Figure(figsize=(2.2 * columns, 2.6 * len(rows) + 0.4), layout="constrained")
    strips = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for strip, (name, panels) in zip(strips, rows.items(), strict=True):
        strip.suptitle(name, x=0.005, ha="left", fontsize=10, fontweight="bold")
        axes = strip.subplots(1, columns)
        for axis in axes:
            axis.axis("off")
        for axis, panel in zip(axes, panels, strict=False):
            _draw_panel(axis, panel)
    panels = [panel for row in rows.values() for panel in row]
    legend = {
        "true": (TRUE, any(panel.target is not None for panel in panels)),
        "predicted": (PREDICTED, any(panel.masks is not None for panel in panels)),
    }
    lines = [Line2D([], [], color=colour, label=name) for name, (colour, drawn) in legend.items() if drawn]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    grey = panel.image.shape[-1] == 1
    axis.imshow(panel.image[..., 0] if grey else panel.image, cmap="gray" if grey else None)
    axis.set_title(panel.title, fontsize=8)
    for masks, colour in ((panel.target, TRUE), (panel.masks, PREDICTED)):
        styles = LINE_STYLES if masks is not None and len(masks) <= len(LINE_STYLES) else LINE_STYLES[:1]
        for mask, style in zip(() if masks is None else masks, cycle(styles)):
            _draw_outline(axis, mask == 1, panel.image.shape, colors=colour, linestyles=style)
    axis.set_xlim(-0.5, panel.image.shape[1] - 0.5)
    axis.set_ylim(panel.image.shape[0] - 0.5, -0.5)


def _draw_outline(axis: Axes, mask: np.ndarray, shape: tuple[int, ...], **style: object) -> None:
    """Draw the outline of a mask (h, w) on an image of another size."""
    if not mask.any():
        return
    # Padding closes outlines that end at the image's edge.
    closed = np.pad(mask, 1)
    coordinates = [
        (np.arange(-1, side + 1) + 0.5) * full / side - 0.5 for side, full in zip(mask.shape, shape, strict=False)
    ]
    axis.contour(coordinates[1], coordinates[0], closed, [0.5], linewidths=1.1, **style)
