"""How much the selection of epoch and phase on the held-out fold adds to that fold's score.

    python benchmarks/checkpoint_selection.py configs/nuclei.toml --data FOLDER [--folds 0 1] [--seeds 3] [--table]

Each fold is trained with each seed, and the pixel counts of every held-out image are kept after every epoch. The
held-out images are then split at random into two halves, 200 times, and one half is scored at threshold .5 by the
weights of

    selected on it    the epoch and phase with the best selection score of this half: what the pipeline does with a fold
    on the other      those with the best selection score of the other half: no image is used twice
    last              the last epoch of the last phase: train.select = "last"

The optimism is the first less the second. A half has more of it than a whole fold: fewer images, more luck. A finished
training is kept in runs/checkpoint_selection/ and not repeated.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import config, stages
from pipeline.competition import load as load_card
from pipeline.files import atomic_write
from pipeline.inference.predictor import Predictor
from pipeline.metrics import Counts, Metric, epoch_metric, pixel_metric, stack
from pipeline.postprocess.threshold_counts import HALF
from pipeline.training import trainer
from pipeline.training.selection import Validation
from pipeline.training.validation import ImageCounts, Validator

SPLITS = 200
RESULTS = Path("runs/checkpoint_selection")
CHOICES = ("selected on it", "on the other", "last")


class RecordingValidator(Validator):
    """A validator that keeps the counts of all its validations."""

    kept: list[tuple[Counts, Counts]] = []  # noqa: RUF012 - of the training that runs; a process trains one at a time

    def counts(self, predictor: Predictor) -> list[ImageCounts]:
        """As `Validator.counts`."""
        found = super().counts(predictor)
        _, counts, soft = zip(*found, strict=True)
        self.kept.append((stack(counts), stack(soft)))
        return found


def train(cfg: config.Config, fold: int, path: Path) -> None:
    """Train a fold, and write the counts of all epochs: (epochs, 3, N, C, 255), and soft (epochs, 3, N, C)."""
    RecordingValidator.kept = []
    trainer.Validator = RecordingValidator
    stages.train(cfg, fold)
    hard, soft = zip(*RecordingValidator.kept, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, counts=np.array(hard), soft=np.array(soft))


def scores_of_halves(path: Path, metric: Metric) -> np.ndarray:
    """The score of a random half by each of CHOICES, (SPLITS, 3)."""
    with np.load(path) as stored:
        counts, soft = stored["counts"], stored["soft"]
    rng, images = np.random.default_rng(0), counts.shape[2]

    def validate(epoch: int, rows: np.ndarray) -> Validation:
        parts = (Counts(*each[epoch][:, rows]) for each in (counts, soft))
        return Validation.from_counts(*parts, metric, exclusive=False)

    def score(epoch: int, rows: np.ndarray) -> float:
        return float(metric.total(Counts(*counts[epoch][:, rows][..., [HALF]]))[0])

    found = []
    for _ in range(SPLITS):
        halves = np.array_split(rng.permutation(images), 2)
        best = [
            max(range(len(counts)), key=lambda epoch, rows=rows: validate(epoch, rows).selection) for rows in halves
        ]
        found.append([score(epoch, halves[0]) for epoch in (best[0], best[1], len(counts) - 1)])
    return np.array(found)


def main(args: argparse.Namespace) -> None:
    """Train what is missing, and print a row for each fold and seed."""
    name = Path(args.config).stem
    table = Table("fold", "seed", *CHOICES, "optimism", title=f"{name}: score of half a fold at threshold .5")
    differences = []
    for seed in range(args.seeds):
        for fold in args.folds:
            path = RESULTS / name / f"fold{fold}-seed{seed}.npz"
            pairs = [f"name=selection{seed}_{name}", f"seed={seed}", *([f"data.root={args.data}"] if args.data else [])]
            cfg = config.load(args.config, pairs)
            if not path.exists() and not args.table:
                train(cfg, fold, path)
            if path.exists():
                metric = pixel_metric(epoch_metric(load_card(cfg.competition).metric))
                scores = scores_of_halves(path, metric).mean(axis=0)
                differences.append(scores[0] - scores[1])
                table.add_row(str(fold), str(seed), *(f"{each:.4f}" for each in scores), f"{differences[-1]:+.4f}")
    Console().print(table)
    if len(differences) > 1:
        error = np.std(differences, ddof=1) / len(differences) ** 0.5
        print(f"optimism of half a fold {np.mean(differences):+.4f} ± {error:.4f} (standard error)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--data", help="folder of the data set")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="train nothing, print the results so far")
    main(parser.parse_args())
