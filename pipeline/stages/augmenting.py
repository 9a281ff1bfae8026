"""What the augmentation of each phase is, and what the network sees of it."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.config import Config, Phase
from pipeline.data.augment import Augment, Recipe, make_recipe
from pipeline.data.channels import with_input_channels
from pipeline.data.crops import crop_index
from pipeline.data.dataset import MaskedImages
from pipeline.data.intensity import to_uint8
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.data.soft_masks import harden
from pipeline.metrics import VOID, epoch_metric
from pipeline.report.overlays import Panel, write_sheet
from pipeline.stages.preparing import Paths, check, index_training_images, keep_together, make_data
from pipeline.stages.symmetries import find_symmetries
from pipeline.statistics.symmetry_probe import SymmetryProbe
from pipeline.training.checkpoint import FULL
from pipeline.training.fold_data import FoldData, phase_images, recipe_of

IMAGES = 8  # on the sheet
DRAWS = 8  # of each image in each phase


class AugmentResult(NamedTuple):
    """The recipe of each phase, those of equal phases once, the images' symmetries, and the sheet of images."""

    recipes: dict[str, Recipe]  # by the names of the phases, such as "phases 1, 2"
    symmetries: list[SymmetryProbe]
    sheet: Path


def augment(cfg: Config) -> AugmentResult:
    """Draw some training images as they are in their files, and as each phase gets them.

    The random choices are those of a training, for the seeds 0 to 7. Test images and extra sets are left out.

    Writes: reports/<config>-augment.png
    """
    card = check(cfg)
    cfg, paths = with_input_channels(cfg, card), Paths(cfg, card)
    make_data(card, paths)
    reader, labels = Reader.of(cfg, card), Labels.of(card, cfg.data.boundary, exif=cfg.data.exif)
    all_images = keep_together(index_training_images(cfg, card, paths), cfg, paths)
    index = _choose(all_images)
    if cfg.data.crops:
        index = _choose(crop_index(index, labels, cfg.data.crops, reader.resize))
    data = FoldData(FULL, index, None, labels, epoch_metric(card.metric), reader)
    train = cfg.train.model_copy(update={"augment_on_device": False, "workers": 0})
    names = _equal_phases(train.phases)
    images = {name: phase_images(data, train, numbers[0]) for name, numbers in names.items()}
    recipes = {name: recipe_of(train.phases[numbers[0] - 1], images[name].reader) for name, numbers in names.items()}
    rows = {
        f"{sample.image_id[:40]}, {name}": _row(images[name], position, recipes[name])
        for position, sample in enumerate(samples_of(data.train_index))
        for name in names
    }
    sheet = Path("reports") / f"{cfg.name}-augment.png"
    write_sheet(sheet, rows, columns=2 + DRAWS)
    return AugmentResult(recipes, find_symmetries(cfg, all_images, reader), sheet)


def _choose(index: pd.DataFrame) -> pd.DataFrame:
    """IMAGES rows with masks of small to large coverage; if there are fewer, others follow."""
    ordered = index.sort_values(["coverage", "image_id"], kind="stable")
    masked, empty = ordered[ordered["coverage"] > 0], ordered[ordered["coverage"] == 0]
    chosen = np.unique(np.linspace(0, len(masked) - 1, min(IMAGES, len(masked))).round().astype(int))
    return pd.concat([masked.iloc[chosen], empty.head(IMAGES - len(chosen))])


def _equal_phases(phases: Sequence[Phase]) -> dict[str, list[int]]:
    """The numbers of the phases that augment alike, by their names."""
    numbers: dict[str, list[int]] = {}
    for number, phase in enumerate(phases, start=1):
        what = phase.model_dump_json(include={"augment", "crop", "scale", "scale_p", "size", "mix"})
        numbers.setdefault(what, []).append(number)
    return {f"phase{'s' * (len(some) > 1)} {', '.join(map(str, some))}": some for some in numbers.values()}


def _row(images: MaskedImages, position: int, recipe: Recipe) -> list[Panel]:
    sample, plain = images.samples[position], copy(images)
    plain.augment, plain.mixing = Augment(make_recipe("none", recipe.crop, 1), soft=images.augment.soft), None
    file = images.reader.preview(sample, channels=3) if sample.box is None else None
    unchanged = _panel(plain, position, 0, "not augmented")
    first = unchanged._replace(title="window") if file is None else Panel(_title("file", file), file, None)
    return [first, unchanged, *(_panel(images, position, seed, f"draw {seed}") for seed in range(DRAWS))]


def _panel(images: MaskedImages, position: int, seed: int, title: str) -> Panel:
    image, mask = images[position, seed]
    pixels = _picture(image)
    return Panel(_title(title, pixels), pixels, None, _targets(mask, images.labels))


def _title(what: str, pixels: np.ndarray) -> str:
    return f"{what}, {pixels.shape[0]}×{pixels.shape[1]}"


def _picture(image: Tensor) -> np.ndarray:
    """An input of the network as a picture in colour; of a stack of channels the middle one."""
    pixels = image.permute(1, 2, 0).numpy()
    # Three channels, since the sheet would stretch the contrast of a grey image, and hide that it was changed.
    return to_uint8(pixels if pixels.shape[2] == 3 else pixels[..., [pixels.shape[2] // 2] * 3])


def _targets(mask: Tensor, labels: Labels) -> np.ndarray:
    """A target as (C, H, W) of 0 and 1; void pixels are 0."""
    masks = labels.by_class(harden(mask.permute(1, 2, 0).numpy()))
    return np.where(masks == VOID, 0, masks).transpose(2, 0, 1)
