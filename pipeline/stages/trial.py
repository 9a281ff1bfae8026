"""A trial of some seconds: how fast this machine trains and predicts with a config."""

import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.channels import with_input_channels
from pipeline.data.crops import crop_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.metrics import epoch_metric
from pipeline.models import build_model, for_prediction
from pipeline.models.image_size import with_image_size
from pipeline.models.segmenter import Segmenter
from pipeline.planning.budget import REPORT, SUBMISSION, Costs
from pipeline.training.checkpoint import FULL
from pipeline.training.distributed import processes
from pipeline.training.fold_data import FoldData
from pipeline.training.step_memory import check_memory
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import Trainer

IMAGES = 64  # training images that batches are drawn from
UPDATES, BATCHES = 3, 3  # that are timed, after one that is not
PREDICTED = 8  # images that are timed, after one that is not
MAX_SECONDS = 4.0  # after so many, without the first one, no further update or prediction is timed
MAX_FIRST = 30.0  # if the first one took longer, it counts, and no other is timed
# Seconds on a machine that takes PACE for the fixed work of `_pace`; the first fold's choice replaces that of a trial.
PACE = 0.042
CHOICE_START, CHOICE = 0.08, 1.0  # of weights and rules: per image; per million pixels and class that has rules
DRAWING = 0.5  # of the report, per million pixels


def measure_costs(cfg: Config, card: Competition, index: pd.DataFrame) -> Costs:
    """Train for some updates and predict some images, with random weights; nothing is kept.

    Args:
        index: the training images, as `index_training_images` returns them.
    """
    cfg = with_image_size(with_input_channels(cfg, card))
    some = index.iloc[np.unique(np.linspace(0, len(index) - 1, min(IMAGES, len(index))).astype(int))]
    started = time.monotonic()
    model = build_model(cfg.model.model_copy(update={"weights": "none"}))
    update, others = _time_update(cfg, card, some, model)
    start = time.monotonic() - started - others
    pixels = float((index["height"] * index["width"]).mean()) if card.size is None else float(np.prod(card.size))
    predict, pace, megapixels = _time_prediction(cfg, card, some), _pace(), pixels / 1e6
    choose = CHOICE_START + CHOICE * megapixels * (1 if card.exclusive else len(card.classes))
    return Costs(start, update, predict, *(pace * each for each in (choose, SUBMISSION, REPORT, DRAWING * megapixels)))


def _pace() -> float:
    """How many times as long as the machine of PACE this one takes for what is neither training nor prediction.

    In CPU time of this thread: of so little work, wall-clock time shows other processes rather than the machine.
    """
    numbers, found = np.random.default_rng(0).random(1_000_000), []
    for _ in range(3):
        started = time.thread_time()
        np.sort(numbers)
        sum(number**2 for number in range(300_000))
        found.append(time.thread_time() - started)
    return min(found) / PACE


def _time_update(cfg: Config, card: Competition, index: pd.DataFrame, model: Segmenter) -> tuple[float, float]:
    """Seconds of one update of the first phase, with the reading of its batch if there are no workers.

    Returns:
        these, and the seconds that the check of the memory and the timing took, which no training needs.

    Raises:
        ValueError: if an update needs more memory than is free.
    """
    labels, reader = Labels.of(card, cfg.data.boundary, exif=cfg.data.exif), Reader.of(cfg, card)
    batch = cfg.train.batch_size if cfg.train.batch_size != "auto" else cfg.train.least_batch_size()
    if cfg.data.crops:
        index = crop_index(index, labels, cfg.data.crops, reader.resize)
    repeats = -(-batch * (BATCHES + 1) * cfg.train.accumulate // len(index))
    phase = cfg.train.phases[0].model_copy(update={"repeats": repeats, "epochs": 2})
    train = cfg.train.model_copy(
        update={"phases": (phase,), "trackers": (), "batch_size": batch, "pseudo": None, "teacher": None}
    )
    data = FoldData(FULL, index, None, labels, epoch_metric(card.metric), reader, batch_size=cfg.predict.batch_size)
    with TemporaryDirectory() as folder:
        job = TrainJob(
            model,
            data,
            train,
            folder=Path(folder),
            seed=cfg.seed,
            aux_weight=cfg.model.deep_supervision,
            image_weight=cfg.model.image_head,
            encoder=cfg.model.encoder,
            grad_checkpointing=cfg.model.grad_checkpointing,
        )
        checking = _seconds(lambda: check_memory(job, batch, processes().device))
        trainer = Trainer(job, TrainState({}), processes(), None)
        timed = time.monotonic()
        computing = _mean_seconds(lambda: trainer.train_on_copies(batch, 1), UPDATES)
        batches = iter(trainer.loader)
        reading = _mean_seconds(lambda: next(batches), BATCHES) * cfg.train.accumulate
        others = checking + time.monotonic() - timed
    update = max(computing, reading) if trainer.loader.num_workers else computing + reading
    return update, others


def _time_prediction(cfg: Config, card: Competition, index: pd.DataFrame) -> float:
    """Seconds to read and predict an image in one view."""
    identity = cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"views": ("identity",)})})
    model = build_model(for_prediction(identity).model_copy(update={"weights": "none"}))
    predictor = Predictor.from_config(model, identity, exclusive=card.exclusive)
    options = {
        "reader": Reader.for_prediction(cfg, card),
        "batch_size": 1,
        "workers": 0,
        "what": "trial of predictions",
        "size": card.size,
    }
    places = cycle(np.linspace(0, len(index) - 1, PREDICTED + 1).astype(int))
    return _mean_seconds(lambda: list(predict_images(predictor, index.iloc[[next(places)]], **options)), PREDICTED)


def _seconds(step: Callable[[], Any]) -> float:
    started = time.monotonic()
    step()
    return time.monotonic() - started


def _mean_seconds(step: Callable[[], Any], count: int) -> float:
    """The mean of some calls after a first one, which is slower than others; of one call at least, if that is short."""
    first, others = _seconds(step), []
    while len(others) < count and first < MAX_FIRST and sum(others) < MAX_SECONDS:
        others.append(_seconds(step))
    return mean(others or [first])
