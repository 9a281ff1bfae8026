"""How much neighbouring slices of a volume, or frames of a video, have in common."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.formats import read_raster
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.data.series import files_beside, place_of_id
from pipeline.planning.image_measures import read_sample, spread, to_picture
from pipeline.progress import track

PAIRS = 40  # of neighbouring slices that are compared


class Neighbours(NamedTuple):
    """How much neighbouring slices, or frames, have in common."""

    series: int  # number of volumes or videos
    slices: float  # of a series, the median
    correlation: float  # of the pixels of neighbouring slices, the median, -1 to 1
    overlap: float | None  # Dice of their masks, the mean; None if the neighbours have no masks


def compare_neighbours(card: Competition, index: pd.DataFrame, labels: Labels) -> Neighbours | None:
    """How alike neighbouring slices of the training images are; None if the images are in no series.

    Raises:
        ImageError, RLEError: for a slice or its mask that cannot be read.
    """
    files = card.files
    if files.frame is not None or files.slice_pattern:
        return _compare_files(card, index)
    if not card.volume_pattern:
        return None
    places = [place_of_id(each, card.volume_pattern, card.name) for each in index["image_id"]]
    table = index.assign(volume=[each[0] for each in places], number=[each[1] for each in places])
    table = table.sort_values(["volume", "number"], ignore_index=True)
    step = table.groupby("volume")["number"].diff()
    follows = table.index[step == step.groupby(table["volume"]).transform("min")]
    chosen = follows[np.unique(np.linspace(0, len(follows) - 1, min(PAIRS, len(follows))).round().astype(int))]
    pairs = [samples_of(table.iloc[[number - 1, number]]) for number in chosen] if len(follows) else []
    correlations, overlaps = [], []
    for pair in track(pairs, "neighbouring slices"):
        rasters, masks, _ = zip(*(read_sample(sample, card, labels) for sample in pair), strict=True)
        if masks[0].shape == masks[1].shape and rasters[0].pixels.shape == rasters[1].pixels.shape:
            correlations.append(_correlation(*(to_picture(each)[..., 0] for each in rasters)))
            first, second = (mask == 1 for mask in masks)
            overlaps += [2 * (first & second).sum() / total] if (total := first.sum() + second.sum()) else []
    if not correlations:
        return None
    sizes = table["volume"].value_counts()
    overlap = float(np.mean(overlaps)) if overlaps else None
    return Neighbours(len(sizes), float(sizes.median()), float(np.median(correlations)), overlap)


def _compare_files(card: Competition, index: pd.DataFrame) -> Neighbours | None:
    """As `compare_neighbours`, of slices that are pages of the image's file, or files beside it."""
    correlations, counts = [], []
    for sample in samples_of(spread(index))[:PAIRS]:
        path, frame = sample.path, card.files.frame
        if frame is not None:
            pages = read_raster(path).pixels
            slices = [pages[..., number] for number in range(pages.shape[2])]
            own = frame
        else:
            beside = files_beside(path.parent, card.files.slice_pattern)
            numbers = sorted(beside)
            own = next((place for place, number in enumerate(numbers) if beside[number] == path), None)
            slices = numbers
        if own is None or len(slices) < 2:
            continue
        other = own + 1 if own + 1 < len(slices) else own - 1
        if frame is None:
            slices = {place: read_raster(beside[numbers[place]]).pixels[..., 0] for place in (own, other)}
        counts.append(len(numbers) if frame is None else len(slices))
        correlations.append(_correlation(slices[own], slices[other]))
    if not correlations:
        return None
    return Neighbours(len(index), float(np.median(counts)), float(np.median(correlations)), None)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (each.ravel()[:: max(1, each.size // 100_000)].astype(np.float64) for each in (first, second))
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
