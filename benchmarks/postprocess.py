"""Minimum component sizes: one component tree per image against a loop of cc3d over 255 thresholds, with equal counts.

    python benchmarks/postprocess.py [run folder]

Uses the OOF predictions of `runs/nuclei` (or of the given run) if they exist, otherwise generated probabilities of
nuclei's image sizes. Both methods count, for every image, the predicted and true positive pixels at each of 255
thresholds after removing components below each of 36 areas.

    ours         component_tree.component_counts; compiled before the timing
    loop         cc3d per threshold, and bincounts: the fastest loop we could write. It skips thresholds at which no
                 pixel changes, counts predicted pixels only, and computes all areas at once

cc3d labels uint8 here: for bool it is 10% faster, but wrong on images with an odd side (see `rules._label`).
"""

import sys
from pathlib import Path

import cc3d
import numpy as np
from interleave import interleave, milliseconds, ratios, spread
from rich.console import Console
from rich.table import Table
from thresholds import generated_pairs, stored_pairs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.postprocess.component_tree import component_counts
from pipeline.postprocess.search import AREAS

ROUNDS = 3  # the loop takes seconds per round

Pair = tuple[np.ndarray, np.ndarray]


def tree(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Predicted and true positive pixels, (2, A, 255)."""
    counts = component_counts(values, target, AREAS)
    return np.stack([counts.predicted, counts.intersection])


def loop(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same as `tree`, mask by mask."""
    counts = np.zeros((2, len(AREAS), 255), dtype=np.int64)
    predicted, intersection = brightest_first(values), brightest_first(values * target)
    for level in range(255, 0, -1):
        pixels, hits = predicted[level], intersection[level]
        if not len(pixels):
            continue
        if level < 255 and len(pixels) == len(predicted[level + 1]):
            counts[:, :, level - 1] = counts[:, :, level]
            continue
        labels, number = cc3d.connected_components((values >= level).view(np.uint8), connectivity=8, return_N=True)
        labels = labels.ravel()
        areas = np.bincount(labels[pixels], minlength=number + 1)
        survived = AREAS.searchsorted(areas, side="right")
        for row, sizes in enumerate((areas, np.bincount(labels[hits], minlength=number + 1))):
            bins = np.bincount(survived, sizes, minlength=len(AREAS) + 1)
            counts[row, :, level - 1] = bins[:0:-1].cumsum()[::-1]
    return counts


def brightest_first(values: np.ndarray) -> list[np.ndarray]:
    """Flat positions of the pixels at or above each level, 0 … 255; views of one array."""
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")[::-1]
    ends = flat.size - np.bincount(flat, minlength=256).cumsum() + np.bincount(flat, minlength=256)
    return [order[:end] for end in ends]


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/nuclei")
    stored = (run / "oof.json").exists()
    pairs = stored_pairs(run) if stored else generated_pairs()
    for number, pair in enumerate(pairs):
        assert np.array_equal(tree(*pair), loop(*pair)), f"image {number}: the counts differ"
    functions = {"ours": lambda: [tree(*pair) for pair in pairs], "loop": lambda: [loop(*pair) for pair in pairs]}
    seconds = interleave(functions, ROUNDS)
    pixels = len(AREAS) * 255 * len(pairs)
    title = f"{len(pairs)} images, {f'OOF of {run}' if stored else 'generated probabilities'}: {pixels:,} equal counts"
    table = Table("255 thresholds × 36 areas by", "median (range)", "per image", "time / ours, per round", title=title)
    for name, values in seconds.items():
        faster = "" if name == "ours" else spread(ratios(seconds, name, "ours"), "x")
        table.add_row(name, milliseconds(values), milliseconds([value / len(pairs) for value in values]), faster)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
