"""Checks of `data.size` and `phase.size` before a training: images smaller than network or crop, tiny objects."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.config import Config
from pipeline.data.labels import Labels
from pipeline.data.reader import LARGE
from pipeline.data.resize import UNCHANGED, Resize
from pipeline.data.sample import Sample, samples_of
from pipeline.data.targets import small_objects
from pipeline.models import dry_run
from pipeline.models.encoder import image_side
from pipeline.progress import track
from pipeline.stages.preparing import Context

log = logging.getLogger(__name__)
MAX_MASKS = 200  # whose objects are counted


def resize_of_phase(cfg: Config, number: int) -> Resize:
    """The resizing of the training images of a phase.

    Args:
        number: of the phase, from 0.
    """
    return Resize(cfg.train.phases[number].size or cfg.data.size)


def network_sizes(index: pd.DataFrame, resize: Resize) -> pd.DataFrame:
    """The index with the height and width of the resized images, instead of those of the files."""
    targets = [resize.target(size) for size in zip(index["height"], index["width"], strict=True)]
    height, width = zip(*targets, strict=True) if targets else ((), ())
    return index.assign(height=height, width=width)


def check_sizes(context: Context) -> None:
    """Check the size of every phase that resizes its images.

    Warns if most images are smaller than the phase's crop, and if objects are smaller than a pixel.

    Raises:
        ValueError: if an image would be smaller than the network's stride.
    """
    numbers: dict[Resize, int] = {}  # the first phase of each size
    for number in range(len(context.cfg.train.phases)):
        resize = resize_of_phase(context.cfg, number)
        if resize != UNCHANGED:
            _check_images(context, resize, number)
            numbers.setdefault(resize, number)
    if not numbers:
        return
    samples = _masked_samples(context.index)
    if samples:
        keys = {f"{context.cfg.file}: {_key(context.cfg, number)}": resize for resize, number in numbers.items()}
        _log_small_objects(samples, context.labels, keys)


def _key(cfg: Config, number: int) -> str:
    return f"train.phases.{number}.size" if cfg.train.phases[number].size else "data.size"


def _check_images(context: Context, resize: Resize, number: int) -> None:
    cfg, crop = context.cfg, context.cfg.train.phases[number].crop
    sizes = network_sizes(context.index, resize)[["height", "width"]]
    shorter = sizes.min(axis=1).to_numpy()
    smallest = shorter.argmin()
    height, width = sizes.iloc[smallest]
    # Images smaller than a crop of one size are filled up by reflection, and so are tiles.
    stride = 1 if image_side(cfg.model) else dry_run(cfg.model).net.stride
    if min(height, width) < stride:
        raise ValueError(
            f"{cfg.file}: {_key(cfg, number)}: image '{context.index['image_id'].iloc[smallest]}' would have "
            f"{height}×{width} pixels, less than the stride of the network, {stride}: set a larger size"
        )
    if crop and (small := int((shorter < crop).sum())) > len(sizes) / 2:
        log.warning(
            "%s: train.phases.%d.crop = %d: %d of %d images are smaller at this size, and filled up by reflection: "
            "lower the crop with the size",
            cfg.file,
            number,
            crop,
            small,
            len(sizes),
        )


def _masked_samples(index: pd.DataFrame) -> list[Sample]:
    """At most MAX_MASKS images that have a mask and fit into memory, evenly spread over the index."""
    masked = index[(index["coverage"] > 0) & (index["height"] * index["width"] <= LARGE)]
    places = np.unique(np.linspace(0, len(masked) - 1, min(MAX_MASKS, len(masked))).round().astype(int))
    return samples_of(masked.iloc[places])


def _log_small_objects(samples: Sequence[Sample], labels: Labels, resizes: dict[str, Resize]) -> None:
    found = [
        [small_objects(mask, resize.target(sample.size), exclusive=labels.exclusive) for resize in resizes.values()]
        for sample in track(samples, "objects at the network's size")
        for mask in [labels.read(sample)[..., : len(labels.classes)]]
    ]
    for key, counts in zip(resizes, zip(*found, strict=True), strict=True):
        small, total = sum(each.small for each in counts), sum(each.total for each in counts)
        if small:
            log.warning(
                "%s: %d of %d objects, in %d masks, cover less than one pixel of the network's image; in %d masks all "
                "do. They are kept as single pixels, but can hardly be learned: set a larger size",
                key,
                small,
                total,
                len(samples),
                sum(each.only_small for each in counts),
            )
