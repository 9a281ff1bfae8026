"""Draws the masks of a submission as Kaggle decodes them: from the CSV, not from the predictions."""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import test_search
from pipeline.data.reader import ImageError, Reader
from pipeline.data.sample import Sample
from pipeline.report.overlays import PANELS, Panel, write_sheet
from pipeline.rle import RLEError
from pipeline.serving.bundle import Bundle
from pipeline.submission import read_masks


def draw_submission(bundle: Bundle, root: Path, csv: Path, path: Path) -> Path:
    """Draw the first readable images of a submission with the outlines of their masks.

    Args:
        root: the folder of the competition's files.
        path: of the PNG to write; returned.
    """
    card = bundle.card
    files = test_search(card, root).find_sources(hidden=True)
    panels: list[Panel] = []
    for image_id, rles in read_masks(csv, card).groupby("image_id", sort=False)["rle"]:
        panel = _panel(image_id, rles, files.get(image_id), Reader.of(bundle.cfgs[0], card), card)
        panels += [panel] if panel else []
        if len(panels) == PANELS:
            break
    write_sheet(path, {"submitted": panels})
    return path


def _panel(
    image_id: str, rles: pd.Series, files: tuple[Path, ...] | None, reader: Reader, card: Competition
) -> Panel | None:
    """An image with its masks; None if the image or a mask cannot be read."""
    if files is None:
        return None
    try:
        picture = reader.picture(Sample(image_id, files))
        masks = [card.dialect.decode(rle, card.size or picture.shape[:2]) for rle in rles]
    except (ImageError, RLEError):
        return None
    return Panel(image_id[:10], picture, np.stack(masks))
