"""Tables and pictures of a competition's data and of out-of-fold predictions, for the notebooks."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import Config
from pipeline.data.labels import VOID
from pipeline.data.sample import Sample, samples_of
from pipeline.report.overlays import PANELS, Panel, draw_sheet
from pipeline.report.report_data import ReportData
from pipeline.stages.doctor import doctor
from pipeline.stages.preparing import Context, index_test_images

COVERAGE_RANKS = {"small masks": (0, 0.25), "medium masks": (0.25, 0.75), "large masks": (0.75, 1)}


def list_sizes(context: Context) -> pd.DataFrame:
    """The number of images of each size: height, width, train, test; the most frequent first."""
    test = index_test_images(context.cfg, context.card, context.paths)
    parts = {"train": context.index, "test": test}
    counts = {name: index.groupby(["height", "width"]).size() for name, index in parts.items()}
    table = pd.DataFrame(counts).fillna(0).astype(int)
    return table.sort_values(["train", "test"], ascending=False).reset_index()


def list_findings(cfg: Config) -> pd.DataFrame:
    """The doctor's findings: level, check, message."""
    return pd.DataFrame([finding._asdict() for finding in doctor(cfg).findings])


def draw_samples(context: Context, seed: int = 0) -> Figure:
    """Training images with the outlines of their masks: empty, small, medium and large ones."""
    index = context.index
    filled = index[index["coverage"] > 0]
    rank = filled["coverage"].rank(pct=True)
    parts = {name: filled[(rank > low) & (rank <= high)] for name, (low, high) in COVERAGE_RANKS.items()}
    chosen = {"empty": index[index["coverage"] == 0], **parts}
    some = {name: part.sample(min(PANELS, len(part)), random_state=seed) for name, part in chosen.items() if len(part)}
    panel = partial(_target_panel, context)
    return draw_sheet({name: [*map(panel, samples_of(part), part["coverage"])] for name, part in some.items()})


def _target_panel(context: Context, sample: Sample, coverage: float) -> Panel:
    masks = context.labels.by_class(context.labels.read_mask(sample))
    masks = np.where(masks == VOID, 0, masks).transpose(2, 0, 1)[: len(context.card.classes)]
    return Panel(f"{sample.image_id[:10]}  {coverage:.1%}", context.reader.picture(sample), None, masks)


def draw_images(data: ReportData, rows: Mapping[str, pd.DataFrame]) -> Figure:
    """Training images with the outlines of target and out-of-fold prediction.

    Args:
        rows: titled tables of `data.images`; at most PANELS images of each are drawn.
    """
    return draw_sheet(
        {
            name: [_oof_panel(data, row) for row in part.head(PANELS).itertuples()]
            for name, part in rows.items()
            if len(part)
        }
    )


def _oof_panel(data: ReportData, row: object) -> Panel:
    picture = data.picture(row.image_id)
    return Panel(f"{row.image_id[:10]}  {row.score:.2f}", picture.image, *map(_regions, (picture.mask, picture.target)))


def _regions(numbers: np.ndarray) -> np.ndarray:
    """A mask for each region of (H, W) int, (R, H, W) uint8; one empty mask if there is no region."""
    regions = np.unique(numbers[numbers > 0])
    return (numbers == (regions if len(regions) else np.ones(1))[:, None, None]).astype(np.uint8)
