"""What the notebooks look at: tables and pictures of a competition's data, and of what models say of it."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import Config
from pipeline.data.index import read_test_index
from pipeline.data.labels import VOID, one_hot
from pipeline.report.overlays import COLUMNS, Panel, draw_sheet
from pipeline.report.report_data import View
from pipeline.stages.doctor import doctor
from pipeline.stages.preparing import Context

QUARTERS = {"small masks": (0, 0.25), "middling": (0.25, 0.75), "large masks": (0.75, 1)}  # of the coverage's ranks


def list_sizes(context: Context) -> pd.DataFrame:
    """How many images there are of each size: height, width, train, test; the most frequent first."""
    test = read_test_index(context.card, context.paths.root, context.cfg.data.skip_bad, context.reader)
    parts = {"train": context.index, "test": test}
    counts = {name: index.groupby(["height", "width"]).size() for name, index in parts.items()}
    table = pd.DataFrame(counts).fillna(0).astype(int)
    return table.sort_values(["train", "test"], ascending=False).reset_index()


def list_findings(cfg: Config) -> pd.DataFrame:
    """What the doctor says, a row for each finding: level, check, message."""
    return pd.DataFrame([finding._asdict() for finding in doctor(cfg).findings])


def draw_samples(context: Context, seed: int = 0) -> Figure:
    """Training images with the outlines of their masks: some empty ones, and of small, middling and large masks."""
    index = context.index
    filled = index[index["coverage"] > 0]
    rank = filled["coverage"].rank(pct=True)
    parts = {name: filled[(rank > low) & (rank <= high)] for name, (low, high) in QUARTERS.items()}
    chosen = {"empty": index[index["coverage"] == 0], **parts}
    some = {name: part.sample(min(COLUMNS, len(part)), random_state=seed) for name, part in chosen.items() if len(part)}
    return draw_sheet({name: [_sample(context, row) for row in part.itertuples()] for name, part in some.items()})


def _sample(context: Context, row: object) -> Panel:
    mask = context.labels.read(row)
    masks = one_hot(mask, len(context.card.classes)) if context.labels.exclusive else mask
    masks = np.where(masks == VOID, 0, masks).transpose(2, 0, 1)[: len(context.card.classes)]
    return Panel(f"{row.image_id[:10]}  {row.coverage:.1%}", context.reader.picture(row.path), None, masks)


def draw_images(view: View, rows: Mapping[str, pd.DataFrame]) -> Figure:
    """Images out of fold, with the outlines of what is true and what was predicted without them.

    Args:
        rows: titled tables of `view.images`; at most COLUMNS of each are drawn.
    """
    return draw_sheet({name: [_seen(view, row) for row in _few(part)] for name, part in rows.items() if len(part)})


def _few(part: pd.DataFrame) -> Iterable[object]:
    return part.head(COLUMNS).itertuples()


def _seen(view: View, row: object) -> Panel:
    picture = view.picture(row.image_id)
    return Panel(f"{row.image_id[:10]}  {row.score:.2f}", picture.image, *map(_regions, (picture.mask, picture.target)))


def _regions(numbers: np.ndarray) -> np.ndarray:
    """Each region of (H, W) as a mask of its own, (R, H, W); one at least, if it is empty."""
    found = np.unique(numbers[numbers > 0])
    return (numbers == (found if len(found) else np.ones(1))[:, None, None]).astype(np.uint8)
