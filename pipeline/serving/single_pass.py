"""Reads each test image once and runs all models of a bundle on it; predictions stay in memory, batch by batch."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.config import Config
from pipeline.data.dataset import to_tensor
from pipeline.data.loader import Loader
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample
from pipeline.data.series import Finder, NeighbourFinder, Series
from pipeline.ensemble.combine import InMemoryStore
from pipeline.inference.prediction_store import StoredPrediction
from pipeline.inference.predictor import Predictor, predict_windows, stored_predictions
from pipeline.prefetch import prefetch
from pipeline.progress import clock
from pipeline.serving.budget_plan import USABLE_SHARE, Costs, Fallback, Member, Plan, describe_fallback, fit_plan
from pipeline.serving.bundle import Bundle
from pipeline.serving.time_budget import SINGLE_IMAGE_BATCHES, TimeBudget
from pipeline.training.checkpoint import Fold

log = logging.getLogger(__name__)

# The death of a worker process shows as an error of the loader, or of the socket of a pixel buffer.
WORKER_ERRORS = (RuntimeError, EOFError, OSError)
MAX_LOGGED = 5  # images without a prediction that are logged by name; all are counted

LoadModel = Callable[[Config, Fold], Predictor]  # of a config, the model that held out a fold
Stores = list[list[InMemoryStore]]  # of each member, one store per model


class LoadedImage(NamedTuple):
    """A test image, read once per reader; or the reason why it could not be read."""

    image_id: str
    samples: tuple[Sample, ...] = ()  # with the files of the neighbours of each reader by window
    pixels: tuple[Tensor, ...] = ()  # (channels, H, W) each, at the size at which its reader's models predict
    sizes: tuple[tuple[int, int], ...] = ()  # height and width of the file, as each reader turns it
    problem: str = ""


class LoadedImages(Dataset):
    """Test images in order; an image that cannot be read is an item with a problem.

    Args:
        images: id and own files of each image; None for an id without a file.
        readers: each reads every image whole.
        window_readers: each will read every image by window.
        finders: add the files of neighbours, for each series in which they are images.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, Sample | None]],
        readers: Sequence[Reader],
        window_readers: Sequence[Reader] = (),
        finders: Mapping[Series | None, Finder] = MappingProxyType({}),
    ):
        self.images, self.readers, self.window_readers = images, readers, window_readers
        self.finders = {
            reader: finders.get(reader.series) or NeighbourFinder(reader.series, ())
            for reader in (*readers, *window_readers)
        }

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> LoadedImage:
        image_id, sample = self.images[position]
        if sample is None:
            return LoadedImage(image_id, problem="no such image")
        try:
            sizes = tuple(reader.size(sample) for reader in self.readers)
            sized = (replace(sample, size=size) for size in sizes)
            pixels = tuple(
                to_tensor(reader.read(self.finders[reader](each)))
                for reader, each in zip(self.readers, sized, strict=True)
            )
            samples = tuple(self.finders[reader](sample) for reader in self.window_readers)
            return LoadedImage(image_id, samples, pixels, sizes)
        except Exception as error:  # a damaged file can raise anything; the other images are still predicted
            return LoadedImage(image_id, problem=one_line(error))


def read_images(dataset: LoadedImages, workers: int) -> Iterator[LoadedImage]:
    """Yield the items in order; if a worker dies, this process reads the rest.

    Args:
        workers: processes that read ahead; 0: a thread reads ahead.
    """
    done = 0
    loader = Loader(dataset, batch_size=None, num_workers=workers, collate_fn=_identity)
    try:
        for item in loader if workers else prefetch(loader):
            done += 1
            yield item
    except WORKER_ERRORS as error:
        log.warning("a worker that reads ahead died (%s): reading the rest in this process, slower", one_line(error))
        for position in range(done, len(dataset)):
            yield dataset[position]


def _identity(item: LoadedImage) -> LoadedImage:
    return item


def one_line(error: Exception) -> str:
    """An error's message on one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


class SinglePass:
    """Runs all models on all images, batch by batch; applies the bundle's fallbacks when time is short.

    Args:
        load: from a config and a fold to its model.
        budget: of the whole run, model loading included.
    """

    def __init__(self, bundle: Bundle, load: LoadModel, budget: TimeBudget):
        self.cfgs, self.size = bundle.cfgs, bundle.card.size
        self.budget, self.reached = budget, 0
        self.dropped: list[Fallback] = []
        self.problems: dict[str, str] = {}
        self._logged = 0  # problems that were logged
        used = dict(zip((cfg.name for cfg in bundle.cfgs), bundle.renderer.used, strict=True))
        self.plan: Plan = tuple(member for member in bundle.plan if used[member.name])
        self.fallbacks = [fallback for fallback in bundle.record.fallbacks if used.get(fallback.member)]
        self.numbers = {cfg.name: number for number, cfg in enumerate(bundle.cfgs)}
        self.models = {(m.name, fold): load(self._cfg(m.name), fold) for m in self.plan for fold in m.folds}
        readers = (Reader.for_prediction(cfg, bundle.card) for cfg in bundle.cfgs)
        self.reader_of = [replace(reader, substitute=True) for reader in readers]
        # A tiled model reads each window itself: the whole image may not fit into memory.
        self.tiled = [cfg.predict.tiles is not None for cfg in bundle.cfgs]
        kinds = list(zip(self.reader_of, self.tiled, strict=True))
        self.readers = list(dict.fromkeys(reader for reader, tiled in kinds if not tiled))
        self.window_readers = list(dict.fromkeys(reader for reader, tiled in kinds if tiled))
        self.batch_size = 1 if any(self.tiled) else min(cfg.predict.batch_size for cfg in bundle.cfgs)

    def _cfg(self, member: str) -> Config:
        return self.cfgs[self.numbers[member]]

    def read(
        self, images: Sequence[tuple[str, Sample | None]], workers: int, finders: Mapping[Series | None, Finder]
    ) -> Iterator[LoadedImage]:
        """Read images for all models, in order; arguments as of `LoadedImages` and `read_images`."""
        return read_images(LoadedImages(images, self.readers, self.window_readers, finders), workers)

    def __call__(self, items: Iterable[LoadedImage]) -> Iterator[tuple[str, Stores | None]]:
        """Yield id and predictions of each image, in order; None for an image without predictions."""
        self.budget.start_first_batch()
        for batch in self._batches(items):
            if self.budget.is_check_due(len(batch), self.budget.costs().per_image(self.plan)):
                self._check_budget()
            while batch:
                count = self.budget.count_that_fit(len(batch), self.budget.next_image_limit(self.plan))
                if not count:
                    self._log_time_used_up()
                    return
                part, batch = batch[:count], batch[count:]
                for prediction in self._predict(part):
                    self.reached += 1
                    yield prediction
                self.budget.finish_batch(len(part))

    def _log_time_used_up(self) -> None:
        left = self.budget.images - self.reached
        log.warning("time budget used up: %d images not predicted; their rows keep the sample's value", left)

    def _batches(self, items: Iterable[LoadedImage]) -> Iterator[list[LoadedImage]]:
        """Group consecutive images of equal size."""
        batch: list[LoadedImage] = []
        for item in items:
            if batch and (len(batch) >= self._max_batch() or _shape(item) != _shape(batch[0])):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _max_batch(self) -> int:
        """Size of the next batch: 1 under a budget until the time of one image is known."""
        return 1 if self.budget.seconds and self.budget.batches < SINGLE_IMAGE_BATCHES else self.batch_size

    def _check_budget(self) -> None:
        """Estimate the remaining time, and apply as many fallbacks as needed to fit it into the budget."""
        budget, costs = self.budget, self.budget.costs()
        first = budget.first_estimate is None
        if first:
            per_image = costs.per_image(self.plan)
            log.info("estimated total: %s (%d images, %.2f s each)", self._estimate(costs), budget.images, per_image)
        remaining, left = budget.images - budget.done, budget.seconds * USABLE_SHARE - budget.elapsed
        self.plan, applied = fit_plan(self.plan, self.fallbacks, costs, remaining, left)
        budget.finish_check(plan_changed=bool(applied))
        self.fallbacks, self.dropped = self.fallbacks[len(applied) :], self.dropped + applied
        if first:
            budget.first_estimate = budget.estimate_total(costs.per_image(self.plan))
        for fallback in applied:
            log.warning("dropped to save time: %s", describe_fallback(fallback))
        if applied:
            log.warning("new estimated total: %s, of a budget of %s", self._estimate(costs), clock(budget.seconds))
        if costs.per_image(self.plan) * remaining > left and not self.fallbacks:
            log.warning("nothing is left to drop, and the estimate exceeds the budget: the last images get no mask")

    def _estimate(self, costs: Costs) -> str:
        return clock(self.budget.estimate_total(costs.per_image(self.plan)))

    def _predict(self, batch: list[LoadedImage]) -> Iterator[tuple[str, Stores | None]]:
        if batch[0].problem:
            for item in batch:
                self.add_problem(item.image_id, item.problem)
                yield item.image_id, None
            return
        try:
            values = self._values(batch)
        except Exception as error:  # out of memory, mostly; the other images are still predicted
            yield from self._predict_singly(batch, error)
            return
        for position, item in enumerate(batch):
            yield item.image_id, [[InMemoryStore(*each[position]) for each in models] for models in values]

    def _predict_singly(self, batch: list[LoadedImage], error: Exception) -> Iterator[tuple[str, Stores | None]]:
        """Retry a failed batch image by image; after a numerical error the batch size stays."""
        if len(batch) == 1:
            self.add_problem(batch[0].image_id, one_line(error))
            yield batch[0].image_id, None
            return
        if not isinstance(error, FloatingPointError):
            self.batch_size = max(1, len(batch) // 2)
            name = type(error).__name__
            log.warning("a batch of %d failed (%s): batch size reduced to %d", len(batch), name, self.batch_size)
        for item in batch:
            yield from self._predict([item])

    def _values(self, batch: list[LoadedImage]) -> list[list[Sequence[StoredPrediction]]]:
        """Of each member and model, the prediction of each image; an empty list for a member of weight 0."""
        values: list[list[Sequence[StoredPrediction]]] = [[] for _ in self.cfgs]
        for member in self.plan:
            number, started = self.numbers[member.name], time.monotonic()
            predict = self._predict_tiled if self.tiled[number] else self._predict_whole
            values[number] = predict(member, number, batch)
            self.budget.add_model_time(member.name, member.model_runs * len(batch), time.monotonic() - started)
        return values

    def _predict_whole(self, member: Member, number: int, batch: list[LoadedImage]) -> list[Sequence[StoredPrediction]]:
        reader = self.readers.index(self.reader_of[number])
        images = _stacked(batch, reader)
        sizes = [self.size or item.sizes[reader] for item in batch]
        predictions = (self.models[member.name, fold].predict(images, member.views) for fold in member.folds)
        return [stored_predictions(each, sizes) for each in predictions]

    def _predict_tiled(self, member: Member, number: int, batch: list[LoadedImage]) -> list[Sequence[StoredPrediction]]:
        (item,) = batch
        models = [self.models[member.name, fold] for fold in member.folds]
        reader = self.reader_of[number]
        sample = item.samples[self.window_readers.index(reader)]
        return [[predict_windows(model, sample, reader, self.size, member.views)] for model in models]

    def add_problem(self, image_id: str, problem: str) -> None:
        """Record why an image has no mask, and log the first MAX_LOGGED of them."""
        self.problems[image_id] = problem
        if self._logged < MAX_LOGGED:
            self._logged += 1
            log.warning("image '%s' has no mask: %s", image_id, problem)


def _shape(item: LoadedImage) -> tuple[object, ...]:
    """What the images of a batch have in common."""
    return tuple((each.shape, each.dtype) for each in item.pixels)


def _stacked(batch: list[LoadedImage], reader: int) -> Tensor:
    return torch.stack([item.pixels[reader] for item in batch])
