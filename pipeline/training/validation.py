"""The held-out images of a fold, and what a model scores on them.

Images and labels are decoded once for all epochs, if memory allows. Probabilities are rounded and counted on the
device: of each image only its histograms are copied to the CPU.
"""

from collections.abc import Iterator
from operator import itemgetter

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline import config, hardware
from pipeline.data.dataset import ScoredImages, equal_size_batches
from pipeline.data.loader import Loader, on_device, report_dead_worker
from pipeline.data.sample import samples_of
from pipeline.inference.predictor import Predictor, name_image, predict_windows, values_of_images
from pipeline.inference.resampling import resize_probs
from pipeline.metrics import Counts, pixel_metric, stack
from pipeline.postprocess.threshold_counts import count_pixels
from pipeline.progress import track
from pipeline.training.distributed import Processes
from pipeline.training.fold_data import FoldData
from pipeline.training.selection import Validation

ImageCounts = tuple[str, Counts, Counts]  # image id; counts (C, 255) at all thresholds; soft counts (C,)


def spread_by_coverage(index: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """At most `count` images, in their order, whose coverage is evenly spread over that of all; None: all."""
    if count is None or len(index) <= count:
        return index
    places = np.unique(np.linspace(0, len(index) - 1, count).astype(int))
    by_coverage = np.lexsort((index["image_id"], index["coverage"]))
    return index.iloc[np.sort(by_coverage[places])]


class Validator:
    """Scores models on the held-out images of a fold, without test-time augmentation.

    Args:
        data: of a fold that has held-out images.
        group: processes that share the images.
    """

    def __init__(self, data: FoldData, cfg: config.Train, group: Processes):
        self.data, self.precision, self.group = data, cfg.precision, group
        index = spread_by_coverage(data.valid_index, cfg.validation_images).iloc[group.rank :: group.world]
        self.ids = index["image_id"].to_numpy()
        sizes = [(*data.reader.target(sample), *(data.labels.size or sample.size)) for sample in samples_of(index)]
        self.batches = equal_size_batches(sizes, data.batch_size)
        workers = min(hardware.num_workers(cfg.workers), len(self.batches))
        self.images = ScoredImages(index, data.labels, data.reader, workers, by_window=data.tiles is not None)
        self.loader = Loader(
            self.images,
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own, so that the loader does not change other random numbers
        )

    def __call__(self, model: nn.Module) -> Validation:
        """The scores of a model; every process gets the same.

        Raises:
            FloatingPointError: for a probability that is not finite, naming the image.
            ImageError, RLEError: for an image or label that cannot be read.
        """
        self.group.broadcast_buffers(model)  # each process may have batch statistics of its own
        data = self.data
        predictor = Predictor(
            model,
            ("identity",),
            self.precision,
            exclusive=data.labels.exclusive,
            tiles=data.tiles,
            batch_size=data.batch_size,
        )
        image_ids, counts, soft = zip(*self.counts(predictor), strict=True)
        return Validation.from_counts(
            stack(counts),
            stack(soft),
            pixel_metric(data.metric),
            exclusive=data.labels.exclusive,
            classes=len(data.labels.classes),
            image_ids=image_ids,
        )

    def counts(self, predictor: Predictor) -> list[ImageCounts]:
        """The counts of each held-out image, ordered by id for any number of processes.

        Exclusive classes have no threshold: their counts are the same at all.
        """
        found = []
        for ids, values, target in self._windows(predictor) if self.data.tiles else self._batches(predictor):
            counts = count_pixels(values, target, exclusive=self.data.labels.exclusive)
            found += [(image_id, *(each.at(number) for each in counts)) for number, image_id in enumerate(ids)]
        return sorted((each for part in self.group.gather(found) for each in part), key=itemgetter(0))

    def _batches(self, predictor: Predictor) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Ids, values (N, C, H, W) and targets of batches of images, on the predictor's device."""
        batches = on_device(self.loader, predictor.device)
        with report_dead_worker(self.loader.num_workers):
            read = track(batches, "validate", total=len(self.batches))
            for positions, (images, target) in zip(self.batches, read, strict=True):
                probs = resize_probs(predictor.probs(images), target.shape[-2:])
                yield self.ids[positions], values_of_images(self.ids[positions], probs), target

    def _windows(self, predictor: Predictor) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """The same of images that are read by window, one after the other, on the CPU."""
        for position, sample in enumerate(track(self.images.samples, "validate")):
            (target,) = self.images[position]
            with name_image(sample.image_id):
                values, _ = predict_windows(predictor, sample, self.data.reader, target.shape[-2:])
            yield self.ids[[position]], torch.from_numpy(values)[None], target[None]
