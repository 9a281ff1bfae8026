"""Which symmetries the training images of a config have."""

import pandas as pd

from pipeline.config import Config
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.progress import track
from pipeline.statistics.symmetry_probe import SymmetryProbe, probe_symmetries

MAX_IMAGES = 400  # that are read


def find_symmetries(cfg: Config, index: pd.DataFrame, reader: Reader) -> list[SymmetryProbe]:
    """Probe some of the training images; none if they are read by window, since they are too large.

    Args:
        index: with image_id, path and group.
    """
    if cfg.data.crops or cfg.predict.tiles:
        return []
    rows = index.sort_values("image_id").sample(min(MAX_IMAGES, len(index)), random_state=0)
    pictures = [reader.preview(sample, channels=1) for sample in track(samples_of(rows), "symmetries")]
    return probe_symmetries(pictures, rows["group"].tolist())
