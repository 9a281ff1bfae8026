"""Each test image read once, and all models of a bundle looking at it: values in memory, batch by batch."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import Config
from pipeline.data.dataset import to_tensor
from pipeline.data.loader import Loader
from pipeline.data.reader import Reader
from pipeline.inference.prediction_store import probs_to_uint8
from pipeline.inference.predictor import Predictor, predict_windows, resize_probs
from pipeline.prefetch import prefetch
from pipeline.progress import clock
from pipeline.serving.budget_plan import SPARE, Costs, Member, Plan, Step, fitting, step_words
from pipeline.serving.bundle import Bundle
from pipeline.serving.time_budget import SINGLES, Watch
from pipeline.training.checkpoint import Fold

log = logging.getLogger(__name__)

# How the death of a process that reads ahead shows: the loader notices it, or a pixel buffer's socket went with it.
BROKEN = (RuntimeError, EOFError, OSError)
NAMED = 5  # images without a prediction that the log names; the rest is counted

Load = Callable[[Config, Fold], Predictor]  # the model of a config that held a fold out
Stores = list[list["Held"]]  # of each member, a store for each of its models


class Item(NamedTuple):
    """A test image as it was read, by each of the readers; or the problem."""

    image_id: str
    path: Path | None
    pixels: tuple[Tensor, ...] = ()  # (channels, H, W) each
    problem: str = ""


class Held(NamedTuple):
    """One model's stored values of one image, in memory."""

    values: np.ndarray  # (C, H, W) uint8

    def read(self, image_id: str) -> np.ndarray:
        return self.values


class ReadOnce(Dataset):
    """Test images in order; one that cannot be read is an item too."""

    def __init__(self, places: Sequence[tuple[str, Path | None]], readers: Sequence[Reader]):
        self.places, self.readers = places, readers

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> Item:
        image_id, path = self.places[position]
        if path is None:
            return Item(image_id, None, problem="no such image")
        try:
            return Item(image_id, path, tuple(to_tensor(reader(path)) for reader in self.readers))
        except Exception as error:  # whatever a damaged file does to a library, it costs this image and no other
            return Item(image_id, path, problem=in_one_line(error))


def read_all(places: Sequence[tuple[str, Path | None]], readers: Sequence[Reader], workers: int) -> Iterator[Item]:
    """The items of `ReadOnce`, in order; if a process that reads ahead dies, this one reads on.

    Args:
        workers: such processes; without any, a thread reads ahead.
    """
    dataset, done = ReadOnce(places, readers), 0
    loader = Loader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    try:
        for item in loader if workers else prefetch(loader):
            done += 1
            yield item
    except BROKEN as error:
        log.warning("reading ahead broke off (%s): on in this process, slower", in_one_line(error))
        for position in range(done, len(dataset)):
            yield dataset[position]


def _as_it_is(item: Item) -> Item:
    return item


def in_one_line(error: Exception) -> str:
    """An error's words, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class OnePass:
    """All models on all images, batch by batch, as stored values in memory; less and less where time is short."""

    def __init__(self, bundle: Bundle, load: Load, watch: Watch):
        self.cfgs, self.size = bundle.cfgs, bundle.card.size
        self.watch, self.reached = watch, 0
        self.dropped: list[Step] = []
        self.problems: dict[str, str] = {}
        self._named = 0  # images that the log named
        used = dict(zip((cfg.name for cfg in bundle.cfgs), bundle.drawer.weights > 0, strict=True))
        self.plan: Plan = tuple(member for member in bundle.plan if used[member.name])
        self.steps = [step for step in bundle.record.steps if used.get(step.member)]
        self.numbers = {cfg.name: number for number, cfg in enumerate(bundle.cfgs)}
        self.models = {(m.name, fold): load(self._cfg(m.name), fold) for m in self.plan for fold in m.folds}
        self.reader_of = [Reader.of(cfg) for cfg in bundle.cfgs]
        # What is cut into tiles is read by window, by the model that asks for it: it may be too large to be read whole.
        self.tiled = [cfg.predict.tiles is not None for cfg in bundle.cfgs]
        whole = [reader for reader, tiled in zip(self.reader_of, self.tiled, strict=True) if not tiled]
        self.readers = list(dict.fromkeys(whole))
        self.batch_size = 1 if any(self.tiled) else min(cfg.predict.batch_size for cfg in bundle.cfgs)

    def _cfg(self, member: str) -> Config:
        return self.cfgs[self.numbers[member]]

    def __call__(self, items: Iterable[Item]) -> Iterator[tuple[str, Stores | None]]:
        """The models' values of each image, in order; None for one that has none."""
        self.watch.begin()
        for whole in self._batches(items):
            if self.watch.is_time_to_look(len(whole), self.watch.costs().of(self.plan)):
                self._look()
            while whole:
                fitting = self.watch.fitting(len(whole), self.watch.next_image(self.plan))
                if not fitting:
                    self._say_over()
                    return
                batch, whole = whole[:fitting], whole[fitting:]
                for reached in self._predict(batch):
                    self.reached += 1
                    yield reached
                self.watch.finished(len(batch))

    def _say_over(self) -> None:
        left = self.watch.images - self.reached
        log.warning("time budget used up: %d images not predicted; their rows keep the sample's value", left)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Items that follow each other and are of one size."""
        batch: list[Item] = []
        for item in items:
            if batch and (len(batch) >= self._most_at_once() or _shape(item) != _shape(batch[0])):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _most_at_once(self) -> int:
        """Images of the next batch: under a budget, single ones until the time of one is known."""
        return 1 if self.watch.seconds and self.watch.batches < SINGLES else self.batch_size

    def _look(self) -> None:
        watch, costs = self.watch, self.watch.costs()
        first = watch.foreseen is None
        if first:
            log.info("%.2f s per image: %s for %d images", costs.of(self.plan), _clock(self, costs), watch.images)
        left = watch.seconds * SPARE - watch.elapsed
        self.plan, taken = fitting(self.plan, self.steps, costs, watch.images - watch.done, left)
        watch.looked(dropped=bool(taken))
        self.steps, self.dropped = self.steps[len(taken) :], self.dropped + taken
        if first:
            watch.foreseen = watch.foresee(costs.of(self.plan))
        for step in taken:
            log.warning("dropped: %s", step_words(step))
        if taken:
            log.warning("%s in all, of a budget of %s", _clock(self, costs), clock(watch.seconds))
        if costs.of(self.plan) * (watch.images - watch.done) > left and not self.steps:
            log.warning("one model on one view still takes longer than the budget: the last images will have no mask")

    def _predict(self, batch: list[Item]) -> Iterator[tuple[str, Stores | None]]:
        if batch[0].problem:
            for item in batch:
                self.note(item.image_id, item.problem)
                yield item.image_id, None
            return
        try:
            values = self._values(batch)
        except Exception as error:  # memory, mostly; whatever it is, the other images must not pay for it
            yield from self._one_by_one(batch, error)
            return
        for position, item in enumerate(batch):
            yield item.image_id, [[Held(each[position]) for each in models] for models in values]

    def _one_by_one(self, batch: list[Item], error: Exception) -> Iterator[tuple[str, Stores | None]]:
        if len(batch) == 1:
            self.note(batch[0].image_id, in_one_line(error))
            yield batch[0].image_id, None
            return
        if not isinstance(error, FloatingPointError):  # which smaller batches do not mend
            self.batch_size = max(1, len(batch) // 2)
            log.warning("a batch of %d failed (%s): from here on %d", len(batch), type(error).__name__, self.batch_size)
        for item in batch:
            yield from self._predict([item])

    def _values(self, batch: list[Item]) -> list[list[np.ndarray]]:
        """Of each member and each of its models, (N, C, H, W) uint8; of a member without weight, nothing."""
        values: list[list[np.ndarray]] = [[] for _ in self.cfgs]
        for member in self.plan:
            number, started = self.numbers[member.name], time.monotonic()
            predict = self._in_tiles if self.tiled[number] else self._whole
            values[number] = predict(member, number, batch)
            self.watch.spent(member.name, member.passes * len(batch), time.monotonic() - started)
        return values

    def _whole(self, member: Member, number: int, batch: list[Item]) -> list[np.ndarray]:
        images = _stacked(batch, self.readers.index(self.reader_of[number]))
        probs = (self.models[member.name, fold](images, member.views) for fold in member.folds)
        return [probs_to_uint8(resize_probs(each, self.size).numpy()) for each in probs]

    def _in_tiles(self, member: Member, number: int, batch: list[Item]) -> list[np.ndarray]:
        (item,) = batch
        models = [self.models[member.name, fold] for fold in member.folds]
        reader = self.reader_of[number]
        return [predict_windows(model, item.path, reader, self.size, member.views)[None] for model in models]

    def note(self, image_id: str, problem: str) -> None:
        """Keep why an image has no mask."""
        self.problems[image_id] = problem
        if self._named < NAMED:
            self._named += 1
            log.warning("image '%s' has no mask: %s", image_id, problem)


def _clock(run: OnePass, costs: Costs) -> str:
    return clock(run.watch.foresee(costs.of(run.plan)))


def _shape(item: Item) -> tuple[object, ...]:
    return tuple((each.shape, each.dtype) for each in item.pixels)


def _stacked(batch: list[Item], reader: int) -> Tensor:
    return torch.stack([item.pixels[reader] for item in batch])
