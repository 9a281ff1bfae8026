"""Threshold search: one histogram per image against a loop over 255 thresholds, with the same result.

    python benchmarks/thresholds.py [run folder]

Uses the OOF predictions of `runs/nuclei` (or of the given run) if they exist, otherwise generated probabilities of
nuclei's image sizes. All methods find the threshold with the best mean Dice:

    ours         search.RuleSearch, which also tries 36 minimum areas
    loop         as in most kernels: float probabilities, `probs > threshold`, sums of booleans
    tight loop   the same in uint8 with np.count_nonzero: the fastest loop we could write
"""

import os
import sys
from pathlib import Path

import numpy as np
from interleave import interleave, milliseconds, ratios, spread
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.metrics import Counts, pixel_metric
from pipeline.postprocess.search import RuleSearch
from pipeline.postprocess.shares import Place
from pipeline.postprocess.threshold_counts import THRESHOLDS

IMAGES = 40  # the loop takes seconds for these
ROUNDS = 5
SIZES = [(256, 256)] * 5 + [(256, 320)] * 2 + [(360, 360)] * 2 + [(520, 696)]  # approximately the sizes of nuclei

Pair = tuple[np.ndarray, np.ndarray]


def stored_pairs(run: Path) -> list[Pair]:
    """Stored OOF values and targets of evenly spaced images of a run."""
    from pipeline import config, stages
    from pipeline.data.sample import samples_of

    context = stages.make_context(config.load(Path("configs") / f"{run.name}.toml", data_root()))
    store = context.oof_store()
    rows = context.index.iloc[:: max(1, len(context.index) // IMAGES)].head(IMAGES)
    return [(store.read(each.image_id)[0], context.labels.read(each)[..., 0]) for each in samples_of(rows)]


def data_root() -> list[str]:
    return [f"data.root='{os.environ['DATA']}'"] if os.environ.get("DATA") else []


def generated_pairs() -> list[Pair]:
    """Smooth probabilities of random discs, with noise."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(IMAGES):
        height, width = SIZES[number % len(SIZES)]
        rows, columns = np.ogrid[:height, :width]
        distance = np.full((height, width), np.inf)
        for _ in range(20):
            row, column, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(5, 15)
            distance = np.minimum(distance, np.hypot(rows - row, columns - column) - radius)
        noisy = distance + rng.normal(0, 1.5, distance.shape)
        values = (255 / (1 + np.exp(noisy.clip(-30, 30)))).astype(np.uint8)
        pairs.append((values, (distance < 0).astype(np.uint8)))
    return pairs


def loop(pairs: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """The index (0 … 254) of the best threshold, from probabilities and boolean targets."""
    scores = []
    for threshold in THRESHOLDS.astype(np.float32):
        dice = []
        for probs, target in pairs:
            mask = probs > threshold
            total = mask.sum() + target.sum()
            dice.append(2 * (mask & target).sum() / total if total else 1.0)
        scores.append(np.mean(dice))
    return nearest_to_half(np.array(scores))


def tight_loop(pairs: list[Pair]) -> int:
    """The same from stored values, with np.count_nonzero."""
    scores = []
    target_counts = [np.count_nonzero(target) for _, target in pairs]
    for level in range(1, 256):
        masks = [values >= level for values, _ in pairs]
        intersections = [np.count_nonzero(mask & target) for mask, (_, target) in zip(masks, pairs, strict=True)]
        counts = Counts(*map(np.array, (intersections, [np.count_nonzero(mask) for mask in masks], target_counts)))
        scores.append(pixel_metric("mean_dice")(counts).mean())
    return nearest_to_half(np.array(scores))


def nearest_to_half(scores: np.ndarray) -> int:
    best = np.isclose(scores, scores.max(), rtol=0, atol=1e-12)
    return int(np.where(best, np.abs(THRESHOLDS - 0.5), np.inf).argmin())


def ours(pairs: list[Pair]) -> int:
    search = RuleSearch(pixel_metric("mean_dice"), rule_sets=["total"])
    for values, target in pairs:
        search.add(values, target, Place(0))
    return nearest_to_half(search.grids()["total"].means()[0])


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/nuclei")
    stored = (run / "oof.json").exists()
    pairs = stored_pairs(run) if stored else generated_pairs()
    floats = [(values / np.float32(255), target.astype(bool)) for values, target in pairs]
    bools = [(values, target.astype(bool)) for values, target in pairs]
    answers = {ours(pairs), loop(floats), tight_loop(bools)}
    assert len(answers) == 1, answers
    functions = {"ours": lambda: ours(pairs), "loop": lambda: loop(floats), "tight loop": lambda: tight_loop(bools)}
    seconds = interleave(functions, ROUNDS)
    source = f"OOF of {run}" if stored else "generated probabilities"
    table = Table(
        "255 thresholds by", "median (range)", "time / ours, per round", title=f"{len(pairs)} images, {source}"
    )
    for name, values in seconds.items():
        faster = "" if name == "ours" else spread(ratios(seconds, name, "ours"), "x")
        table.add_row(name, milliseconds(values), faster)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
