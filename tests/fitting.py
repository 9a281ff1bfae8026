"""Training of one fold of the tiny competition, without the stages."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import competition, config
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.metrics import DetectionRates
from pipeline.models import build_model
from pipeline.training.fold_data import FoldData
from pipeline.training.full_fit import with_epochs
from pipeline.training.selection import Validation
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import fit

RUN = Path("runs")


def fold_data(fold=0, **changes):
    """The tiny competition's images, of which every third is held out; fold "full" holds out none."""
    card = competition.load("tiny.toml")
    index = read_index(card, Path("tiny"))
    inside = np.arange(len(index)) % 3 == (-1 if fold == "full" else fold)
    held_out = None if fold == "full" else index[inside]
    return FoldData(fold, index[~inside], held_out, Labels.of(card), card.metric, Reader(1), **changes)


def fit_tiny(*pairs, data=None, phases=1, epochs=None):
    """Train the tiny config, with overrides, in its first phases; the initial weights are always the same.

    Args:
        epochs: of each phase, in place of the config's.
    """
    fit(job_of_tiny(*pairs, data=data, phases=phases, epochs=epochs))


def job_of_tiny(*pairs, data=None, phases=1, epochs=None):
    """The training of `fit_tiny`."""
    cfg = config.load("configs/tiny.toml", pairs)
    torch.manual_seed(0)
    train = cfg.train.model_copy(update={"phases": cfg.train.phases[:phases]})
    if epochs:
        train = with_epochs(train, epochs)
    model, data, encoder = build_model(cfg.model), data or fold_data(), cfg.model.encoder
    checkpointing = cfg.model.grad_checkpointing
    return TrainJob(model, data, train, RUN, seed=0, encoder=encoder, grad_checkpointing=checkpointing)


@contextmanager
def stopped_after(saves):
    """Stop the training in the block after it has written its state so many times; it fails if it is not stopped."""
    original, saved = TrainState.save, []

    def save_and_stop(self, path):
        original(self, path)
        saved.append(path)
        if len(saved) == saves:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def validation(score, at_best=None, *, soft=0.0, baseline=0.0):
    """A validation with one score at threshold .5 and another at the best threshold, .2."""
    at_best = score if at_best is None else at_best
    return Validation(score, 0.2, at_best, baseline, soft, DetectionRates(0.5, 0.6, 0.7))


def history():
    """The lines of metrics.jsonl, with their times set to 0."""
    return [{**json.loads(line), "seconds": 0} for line in (RUN / "metrics.jsonl").read_text().splitlines()]
