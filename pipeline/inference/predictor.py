"""Images to probabilities: the one place of sigmoid and softmax."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline import hardware
from pipeline.config import Config, Tiles
from pipeline.data.dataset import Images, equal_size_batches
from pipeline.data.loader import Loader
from pipeline.data.reader import Reader
from pipeline.inference.backends import BACKENDS
from pipeline.inference.prediction_store import StoreWriter, probs_to_uint8
from pipeline.inference.tiles import Along, Pixels, Whole, predict_strips
from pipeline.inference.tta import average_views
from pipeline.prefetch import prefetch
from pipeline.progress import track

log = logging.getLogger(__name__)


class Predictor:
    """A model made ready for prediction on a device, in the precision that the device does well.

    Args:
        views: names of `symmetries.SYMMETRIES`, averaged as probabilities.
        precision: as `hardware.precision`.
        exclusive: one class per pixel, so that the classes' probabilities sum to 1.
        tiles: how images are cut that are larger than a tile; None: they are predicted whole.
        batch_size: tiles at once.
        backend: a name in `backends.BACKENDS`.
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
        self.device = hardware.device()
        self.dtype = hardware.precision(precision, self.device)
        self.model = model.to(self.device, memory_format=torch.channels_last).eval()
        self.views, self.exclusive = views, exclusive
        self.tiles, self.batch_size = tiles, batch_size
        self._build = partial(BACKENDS[backend], self.model, self.device)
        self._run = self._build(self.dtype)

    @classmethod
    def of(cls, model: nn.Module, cfg: Config, *, exclusive: bool) -> "Predictor":
        """As a config predicts."""
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
        """Probabilities (N, classes, H, W) float32 on the CPU, of images (N, channels, H, W) uint8.

        Where half precision overflows, which gives no number, this model goes on in float32.

        Args:
            views: in place of the predictor's own.
        """
        if self.tiles is None:
            return self._whole(images, views)
        return torch.stack([self._in_tiles(image, views) for image in images])

    def strips(self, image: Pixels, along: Along = "column", views: tuple[str, ...] | None = None) -> Iterator[Tensor]:
        """The probabilities of one image, strip by strip, as `tiles.predict_strips`; it is never held whole."""
        return predict_strips(partial(self._whole, views=views), image, self.tiles, self.batch_size, along)

    def _in_tiles(self, image: Tensor, views: tuple[str, ...] | None) -> Tensor:
        return torch.cat(list(self.strips(Whole(image), views=views)), dim=-1)

    @torch.inference_mode()
    def _whole(self, images: Tensor, views: tuple[str, ...] | None = None) -> Tensor:
        images = images.to(self.device).contiguous(memory_format=torch.channels_last)
        probs = self._averaged(images, views or self.views)
        if self.dtype == torch.float16 and not probs.isfinite().all():
            log.warning("float16 overflows in this model: on in float32, slower")
            self.dtype = torch.float32
            self._run = self._build(self.dtype)
            probs = self._averaged(images, views or self.views)
        return probs

    def _averaged(self, images: Tensor, views: tuple[str, ...]) -> Tensor:
        return average_views(self._probs, images, views).cpu()

    def _probs(self, images: Tensor) -> Tensor:
        logits = self._run(images).float()
        return logits.softmax(dim=1) if self.exclusive else logits.sigmoid()


def predict_images(
    predictor: Predictor,
    index: pd.DataFrame,
    *,
    reader: Reader,
    batch_size: int,
    workers: int,
    what: str,
    size: tuple[int, int] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """`image_id` and stored values (classes, H, W) uint8 of each row of the index.

    Images are batched by equal size, and read while those before are predicted; with tiles they are read by window, one
    at a time.

    Args:
        what: is being done, for the progress bar.
        size: height and width that the probabilities are brought to; None: the image's.

    Raises:
        FloatingPointError: for probabilities that are not finite, with the image's id: they never become a mask.
    """
    if predictor.tiles:
        for row in track(list(index.itertuples()), what):
            with _of_image(row.image_id):
                values = predict_windows(predictor, row.path, reader, size)
            yield row.image_id, values
        return
    batches = equal_size_batches(index, batch_size)
    loader = Loader(Images(index, reader), batch_sampler=batches, num_workers=workers)
    ids = index["image_id"].to_numpy()
    read = track(loader if workers else prefetch(loader), what, total=len(batches))
    for positions, images in zip(batches, read, strict=True):
        for image_id, probs in zip(ids[positions], resize_probs(predictor(images), size), strict=True):
            with _of_image(image_id):
                values = probs_to_uint8(probs.numpy())
            yield image_id, values


@contextmanager
def _of_image(image_id: str) -> Iterator[None]:
    """Name the image in an error about its probabilities."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"image '{image_id}': {error}") from None


def predict_windows(
    predictor: Predictor,
    path: Path,
    reader: Reader,
    size: tuple[int, int] | None = None,
    views: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Stored values (classes, H, W) uint8 of an image that is read by window; its pixels are never held whole.

    Args:
        size: as in `predict_images`.
        views: in place of the predictor's own.
    """
    with reader.windows(path) as image:
        strips = predictor.strips(image, views=views)
        if size is None:
            return np.concatenate([probs_to_uint8(strip.numpy()) for strip in strips], axis=2)
        probs = torch.cat(list(strips), dim=2)
        return probs_to_uint8(resize_probs(probs[None], size)[0].numpy())


def resize_probs(probs: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Probabilities (N, C, H, W) at another height and width; None leaves them as they are.

    Each axis by itself: averaged over areas where it shrinks, bilinear where it grows.
    """
    if size is None:
        return probs
    shrunk = tuple(min(old, new) for old, new in zip(probs.shape[-2:], size, strict=True))
    if shrunk != probs.shape[-2:]:
        probs = F.interpolate(probs, shrunk, mode="area")
    return probs if shrunk == tuple(size) else F.interpolate(probs, size, mode="bilinear")


def predict_to_store(
    predictor: Predictor,
    index: pd.DataFrame,
    folder: Path,
    *,
    rank: int = 0,
    world: int = 1,
    **options: object,
) -> None:
    """Predict the images of the index that the store does not hold yet; process `rank` does its share.

    Args:
        options: of `predict_images`.
    """
    writer = StoreWriter(folder, rank)
    mine = index.iloc[rank::world]  # cut before looking at what is done: all processes must cut alike
    missing = mine[~mine["image_id"].isin(writer.done)]
    for image_id, values in predict_images(predictor, missing, **options):
        writer.write(image_id, values)
    writer.flush()
