"""Training of one fold of the tiny competition, without the stages around it."""

import json
from pathlib import Path

import numpy as np

from pipeline import competition, config
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.metrics import Found
from pipeline.models import build_model
from pipeline.training.selection import Validation
from pipeline.training.trainer import FoldData, fit, seed_weights

RUN = Path("runs")


def fold_data(fold=0, **changes):
    """Every third image is held out; fold "full" holds out none."""
    card = competition.load("tiny.toml")
    index = read_index(card, Path("tiny"))
    inside = np.arange(len(index)) % 3 == (-1 if fold == "full" else fold)
    held_out = None if fold == "full" else index[inside]
    return FoldData(fold, index[~inside], held_out, Labels.of(card), card.metric, Reader(1), **changes)


def fit_tiny(*pairs, data=None, phases=1, **options):
    """Train the tiny config, with overrides, in its first phases; from the same starting weights each time."""
    cfg = config.load("configs/tiny.toml", pairs)
    seed_weights(0)
    train = cfg.train.model_copy(update={"phases": cfg.train.phases[:phases]})
    fit(build_model(cfg.model), data or fold_data(), train, folder=RUN, seed=0, settings={}, **options)


def validation(score, at_best=None, *, soft=0.0, baseline=0.0):
    """A validation of that score at threshold .5, and at threshold .2 another."""
    at_best = score if at_best is None else at_best
    return Validation(score, 0.2, at_best, baseline, soft, Found(0.5, 0.6, 0.7))


def history():
    """The lines of the metrics, but for the time that they took."""
    return [{**json.loads(line), "seconds": 0} for line in (RUN / "metrics.jsonl").read_text().splitlines()]
