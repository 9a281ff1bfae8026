"""Matching 500 predicted objects with 500 true ones on 1024 x 1024 pixels, to the score of the 2018 Data Science Bowl.

    python benchmarks/instances.py

    ours         pipeline.metrics.match, from two label maps
    histogram    numpy.histogram2d of both label maps for the overlaps, as in some kernels; then our matching
    pycocotools  mask.iou of RLEs that are encoded beforehand; then our matching
    pairs        a loop over pairs of binary masks, as in many kernels; the masks are made beforehand. Only 25 of 500
                 rows are timed and the time is multiplied by 20, because all rows take minutes

All results are checked for equality before they are timed; of the loop, two rows.
"""

import sys
from pathlib import Path

import numpy as np
from interleave import interleave, milliseconds, ratios, spread
from pycocotools import mask as coco
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.metrics import Matches, match
from pipeline.metrics.instances import IOU_TWENTIETHS, match_overlaps, overlaps

SIDE, OBJECTS, TIMED = 1024, 500, 25  # pixels, objects in each map, rows of the loop that are timed


def discs(seed: int) -> np.ndarray:
    """A label map of discs; a later disc does not overwrite earlier ones."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), dtype=np.int32)
    number = 0
    while number < OBJECTS:
        y, x, radius = rng.integers(0, SIDE), rng.integers(0, SIDE), rng.integers(8, 24)
        disc = ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2) & (labels == 0)
        if disc.sum() > 50:
            number += 1
            labels[disc] = number
    return labels


def shift_labels(labels: np.ndarray) -> np.ndarray:
    """The labels shifted by two rows and three columns, as a prediction."""
    return np.roll(labels, (2, 3), axis=(0, 1))


def by_histogram(labels: np.ndarray, target: np.ndarray) -> Matches:
    bins = (np.arange(OBJECTS + 2), np.arange(OBJECTS + 2))
    joint = np.histogram2d(labels.ravel(), target.ravel(), bins=bins)[0].astype(np.int64)
    return match_overlaps(joint[1:, 1:], joint[1:].sum(axis=1), joint[:, 1:].sum(axis=0))


def by_coco(found: list, true: list, areas: np.ndarray, true_areas: np.ndarray) -> Matches:
    iou = coco.iou(found, true, [0] * len(true))
    hits = (iou > IOU_TWENTIETHS[:, None, None] / 20).any(axis=2).sum(axis=1)
    return Matches(hits, len(areas) - hits, len(true_areas) - hits)


def by_pairs(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The IoU of each pair, in a loop."""
    iou = np.zeros((len(found), len(true)))
    for i, one in enumerate(found):
        for j, other in enumerate(true):
            union = np.logical_or(one, other).sum()
            iou[i, j] = np.logical_and(one, other).sum() / union
    return iou


def main() -> None:
    target = discs(0)
    labels = shift_labels(target)
    found, true = (np.stack([each == number for number in range(1, OBJECTS + 1)]) for each in (labels, target))
    coded = [[coco.encode(np.asfortranarray(one, dtype=np.uint8)) for one in masks] for masks in (found, true)]
    shared, areas, true_areas = overlaps(labels, target)
    expected = match(labels, target)
    assert np.array_equal(by_histogram(labels, target), expected)
    assert np.array_equal(by_coco(*coded, areas, true_areas), expected)
    union = areas[:, None] + true_areas - shared
    assert np.allclose(by_pairs(found[:2], true), (shared / union)[:2], rtol=1e-12, atol=0)

    seconds = interleave(
        {
            "ours": lambda: match(labels, target),
            "histogram": lambda: by_histogram(labels, target),
            "pycocotools": lambda: by_coco(*coded, areas, true_areas),
        },
        10,
    )
    loop = interleave({"pairs": lambda: by_pairs(found[:TIMED], true)}, 1)["pairs"][0] * OBJECTS / TIMED
    table = Table("by", "median (range)", "time / ours, per round", title=f"true positives {expected[0].tolist()}")
    for name, values in seconds.items():
        table.add_row(name, milliseconds(values), "" if name == "ours" else spread(ratios(seconds, name, "ours"), "x"))
    table.add_row("pairs", f"{1000 * loop:,.0f} ms", spread([loop / value for value in seconds["ours"]], "x"))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
