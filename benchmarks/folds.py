"""CPU time of `folds.assign_folds` by the number of images, with the balance that it finds.

    python benchmarks/folds.py [--counts 1000,10000,100000] [--classes 4] [--folds 5] [--repeats 3]

The tables are random: each class is in 5 to 40 % of the images. Every count is tried without groups, and with groups of
ten images on average. CPU time is listed because other load affects it less; compilation is not in it. The deviation is
`folds.worst_deviation`: the largest of any fold from the mean of all, over everything that is balanced.
"""

import sys
from pathlib import Path
from time import process_time
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from interleave import spread
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.folds import assign_folds, describe_folds, worst_deviation


def random_index(images: int, classes: int, groups: int | None, seed: int = 0) -> pd.DataFrame:
    """An index of random coverage, as `data.index` makes it; without groups each image is one."""
    rng = np.random.default_rng(seed)
    present = rng.random((images, classes)) < rng.uniform(0.05, 0.4, classes)
    coverage = np.where(present, rng.beta(1, 12, (images, classes)), 0)
    ids = [f"{number:06}" for number in range(images)]
    return pd.DataFrame(
        {
            "image_id": ids,
            "coverage": coverage.sum(axis=1).clip(max=1),
            "group": ids if groups is None else [f"g{group}" for group in rng.integers(groups, size=images)],
            **{f"coverage_{number}": coverage[:, number] for number in range(classes)},
        }
    )


def main(
    counts: Annotated[str, typer.Option(help="numbers of images")] = "1000,10000,100000",
    classes: Annotated[int, typer.Option(min=2)] = 4,
    folds: Annotated[int, typer.Option(min=2)] = 5,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    table = Table("images", "groups", "CPU, median (range)", "deviation", title=f"{folds} folds, {classes} classes")
    assign_folds(random_index(100, classes, None), folds, seed=0)  # compiles
    for images in map(int, counts.split(",")):
        for groups in (None, images // 10):
            index, seconds = random_index(images, classes, groups), []
            for _ in range(repeats):
                began = process_time()
                assigned = assign_folds(index, folds, seed=0)
                seconds.append(process_time() - began)
            deviation = worst_deviation(describe_folds(index, assigned))
            table.add_row(
                f"{images:,}", f"{groups or images:,}", f"{spread(seconds, ' s')}", f"{100 * deviation:.2f} %"
            )
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
