"""From images to probabilities; sigmoid and softmax are applied only here."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline import hardware
from pipeline.config import Config, Tiles
from pipeline.data.dataset import Images, equal_size_batches
from pipeline.data.loader import Loader, copy_to
from pipeline.data.reader import Reader
from pipeline.data.resize import BAND, Resampling
from pipeline.data.sample import Sample, samples_of
from pipeline.data.windows import Box
from pipeline.inference.backends import BACKENDS
from pipeline.inference.prediction_store import StoredPrediction, StoreWriter, probs_to_uint8
from pipeline.inference.resampling import resize_probs
from pipeline.inference.tiles import TensorImage, WindowedImage, predict_strips
from pipeline.inference.tta import average_views
from pipeline.models.segmenter import Outputs, with_image_logits
from pipeline.prefetch import prefetch
from pipeline.progress import track

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """The probabilities of images, on the predictor's device, as means over the views.

    Shapes:
        probs: (N, classes, H, W) float32 in [0, 1].
        image_probs: (N, classes) float32 in [0, 1], of the image head; None without one.
    """

    probs: Tensor
    image_probs: Tensor | None = None


class Predictor:
    """A model prepared for prediction on this machine's device.

    Args:
        views: as for `tta.parse_view`; their probabilities are averaged.
        precision: as `hardware.precision`.
        exclusive: one class per pixel, so the probabilities of the classes sum to 1.
        tiles: predict images in tiles; None: each image at once.
        batch_size: tiles at once.
        backend: a key of `backends.BACKENDS`.

    Raises:
        ValueError: if the backend does not run here.
    """

    def __init__(
        self,
        model: nn.Module,
        views: tuple[str, ...],
        precision: str = "auto",
        *,
        exclusive: bool = False,
        tiles: Tiles | None = None,
        batch_size: int = 16,
        backend: str = "eager",
    ):
        hardware.keep_freed_memory()
        self.device = hardware.device()
        self.dtype = hardware.precision(precision, self.device)
        hardware.set_tf32(precision == "tf32")
        self.model = with_image_logits(hardware.place(model, self.device).eval())
        self.views, self.exclusive = views, exclusive
        self.tiles, self.batch_size = tiles, batch_size
        self._build = partial(BACKENDS[backend], self.model, self.device)
        self._run = self._build(self.dtype)

    @classmethod
    def from_config(cls, model: nn.Module, cfg: Config, *, exclusive: bool) -> "Predictor":
        """A predictor with the settings of a config.

        Raises:
            ValueError: if the backend does not run here.
        """
        return cls(
            model,
            cfg.predict.views,
            cfg.train.precision,
            exclusive=exclusive,
            tiles=cfg.predict.tiles,
            batch_size=cfg.predict.batch_size,
            backend=cfg.predict.backend,
        )

    def __call__(self, images: Tensor, views: tuple[str, ...] | None = None) -> Tensor:
        """The probabilities of images.

        If float16 overflows in the network, this predictor changes to float32.

        Args:
            views: instead of the predictor's own.

        Shapes:
            images: (N, channels, H, W) uint8, or float32 in 0 … 255.
            returns: (N, classes, H, W) float32 in [0, 1], on the CPU.
        """
        if self.tiles is None:
            return self.probs(images, views).cpu()
        return torch.stack([torch.cat(list(self.strips(TensorImage(image), views)), dim=-1) for image in images])

    def strips(
        self,
        image: WindowedImage,
        views: tuple[str, ...] | None = None,
        on_image_probs: Callable[[Tensor], None] | None = None,
    ) -> Iterator[Tensor]:
        """The probabilities of one image, strip by strip, as `tiles.predict_strips` yields them.

        Args:
            on_image_probs: gets the image head's probabilities of each batch of tiles, (N, classes).
        """

        def predict(tiles: Tensor) -> Tensor:
            found = self.predict(tiles, views)
            if on_image_probs and found.image_probs is not None:
                on_image_probs(found.image_probs)
            return found.probs.cpu()

        return predict_strips(predict, image, self.tiles, self.batch_size)

    def probs(self, images: Tensor, views: tuple[str, ...] | None = None) -> Tensor:
        """As calling the predictor, but without tiles, and the probabilities stay on the predictor's device."""
        return self.predict(images, views).probs

    @torch.inference_mode()
    def predict(self, images: Tensor, views: tuple[str, ...] | None = None) -> Prediction:
        """The probabilities of pixels and images, without tiles; arguments as for calling the predictor."""
        images = copy_to(images, self.device).contiguous(memory_format=torch.channels_last)
        found = self._average(images, views or self.views)
        if self.dtype == torch.float16 and not found.probs.isfinite().all():
            log.warning("float16 overflows in this model: changed to float32, slower")
            self.dtype = torch.float32
            self._run = self._build(self.dtype)
            found = self._average(images, views or self.views)
        return found

    def _average(self, images: Tensor, views: tuple[str, ...]) -> Prediction:
        """The means over the views."""
        of_images: list[Tensor] = []  # (N, classes) of each view

        def probs_of(turned: Tensor) -> Tensor:
            outputs = self._run(turned)
            if isinstance(outputs, Outputs):
                of_images.append(outputs.image_logits.float().sigmoid())
                outputs = outputs.logits
            return outputs.float().softmax(dim=1) if self.exclusive else outputs.float().sigmoid()

        probs = average_views(probs_of, images, views)
        return Prediction(probs, torch.stack(of_images).mean(dim=0) if of_images else None)


def predict_images(
    predictor: Predictor,
    index: pd.DataFrame,
    *,
    reader: Reader,
    batch_size: int,
    workers: int,
    what: str,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[str, StoredPrediction]]:
    """Predict the images of an index, and yield the id and the probabilities as uint8 of each.

    Images of equal size in the network form batches, which are read while earlier ones are predicted. With tiles,
    images are read by window, one after the other.

    Args:
        what: label of the progress bar.
        size: height and width to which probabilities are resized; None: those of the image's file.

    Raises:
        FloatingPointError: for a probability that is not finite, naming the image.
    """
    if "series" in index:  # in order, so that a slice is read once for itself and its neighbours
        index = index.sort_values(["series", "slice"])
    if predictor.tiles:
        for sample in track(samples_of(index), what):
            with name_image(sample.image_id):
                found = predict_windows(predictor, sample, reader, size)
            yield sample.image_id, found
        return
    samples = samples_of(index)
    ids, sizes = index["image_id"].to_numpy(), [size or sample.size for sample in samples]
    batches = equal_size_batches([reader.target(sample) for sample in samples], batch_size)
    workers = min(workers, len(batches))
    loader = Loader(Images(index, reader), batch_sampler=batches, num_workers=workers)
    read = track(loader if workers else prefetch(loader), what, total=len(batches))
    for positions, images in zip(batches, read, strict=True):
        prediction = predictor.predict(images)
        found = stored_predictions(prediction, [sizes[position] for position in positions], ids[positions])
        yield from zip(ids[positions], found, strict=True)


def stored_predictions(
    prediction: Prediction, sizes: Sequence[tuple[int, int]], ids: Sequence[str] | None = None
) -> list[StoredPrediction]:
    """The stored values of several images, each resized to a size of its own; arguments as of `values_at_sizes`.

    Raises:
        FloatingPointError: for a probability that is not finite, naming the image.
    """
    values = values_at_sizes(prediction.probs, sizes, ids)
    if prediction.image_probs is None:
        return list(map(StoredPrediction, values))
    return list(map(StoredPrediction, values, probs_to_uint8(prediction.image_probs).cpu().numpy()))


def values_at_sizes(
    probs: Tensor, sizes: Sequence[tuple[int, int]], ids: Sequence[str] | None = None
) -> list[np.ndarray]:
    """The stored values of several images' probabilities, each resized to a size of its own.

    Args:
        sizes: height and width of each image's values, in pixels.
        ids: of the images, for the error.

    Shapes:
        probs: (N, classes, H, W); returned as N arrays (classes, *size) uint8.

    Raises:
        FloatingPointError: for a probability that is not finite, naming the image.
    """
    values = {}
    for same in equal_size_batches(sizes, len(sizes)):
        resized = resize_probs(probs[same], sizes[same[0]])
        found = probs_to_uint8(resized) if ids is None else values_of_images([ids[n] for n in same], resized)
        values.update(zip(same, found.cpu().numpy(), strict=True))
    return [values[position] for position in range(len(sizes))]


def values_of_images(ids: Sequence[str], probs: Tensor) -> Tensor:
    """The stored values of several images' probabilities, on their device.

    Shapes:
        probs: (N, classes, H, W); returned as uint8.

    Raises:
        FloatingPointError: for a probability that is not finite, naming the image.
    """
    try:
        return probs_to_uint8(probs)
    except FloatingPointError:
        for image_id, each in zip(ids, probs, strict=True):
            with name_image(image_id):
                probs_to_uint8(each)
        raise


@contextmanager
def name_image(image_id: str) -> Iterator[None]:
    """Name the image in an error about its probabilities."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"image '{image_id}': {error}") from None


def predict_windows(
    predictor: Predictor,
    sample: Sample,
    reader: Reader,
    size: tuple[int, int] | None = None,
    views: tuple[str, ...] | None = None,
) -> StoredPrediction:
    """Predict an image that is read window by window, so that its pixels are never all in memory.

    An image has a class if a tile has it: the image head's probability is the highest of all tiles.

    Args:
        size: as in `predict_images`.
        views: instead of the predictor's own.

    Raises:
        FloatingPointError: for a probability that is not finite.
    """
    size = size or sample.size or reader.size(sample)
    of_tiles: list[Tensor] = []  # the image head's probabilities, (tiles, classes) of each batch
    with reader.open_windows(sample) as image:
        strips = predictor.strips(image, views, of_tiles.append)
        if image.shape == tuple(size):
            values = np.concatenate([probs_to_uint8(strip).numpy() for strip in strips], axis=2)
        else:
            values = _values_by_band(torch.cat(list(strips), dim=2), size)
    return StoredPrediction(values, probs_to_uint8(torch.cat(of_tiles).amax(dim=0)).cpu().numpy() if of_tiles else None)


def _values_by_band(probs: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The stored values of a large image at another size; of the new probabilities, only a band of rows is in memory.

    Shapes:
        probs: (C, H, W) on the CPU; returned as (C, *size) uint8.
    """
    values = np.empty((len(probs), *size), np.uint8)
    resampling, rows = Resampling(tuple(probs.shape[1:]), size), probs.permute(1, 2, 0).numpy()
    for top in range(0, size[0], BAND):
        box = Box(top, 0, min(BAND, size[0] - top), size[1])
        place = resampling.source_box(box)
        band = resampling.resize(rows[place.slices], place, box)
        values[(slice(None), *box.slices)] = probs_to_uint8(torch.from_numpy(band)).numpy().transpose(2, 0, 1)
    return values


def predict_to_store(
    predictor: Predictor,
    index: pd.DataFrame,
    folder: Path,
    *,
    rank: int = 0,
    world: int = 1,
    **options: object,
) -> None:
    """Predict the images of an index that are not in the store yet.

    Args:
        folder: of a store, as `start_store` makes it.
        rank: of this process, which predicts every `world`-th image.
        world: number of processes.
        options: of `predict_images`.

    Raises:
        FloatingPointError: as `predict_images`.
    """
    writer = StoreWriter(folder, rank)
    mine = index.iloc[rank::world]  # before finished images are removed, so that all processes divide the same list
    missing = mine[~mine["image_id"].isin(writer.done)]
    for image_id, found in predict_images(predictor, missing, **options):
        writer.write(image_id, *found)
    writer.flush()
