"""The data that a fold trains and validates on, and the data loader of a phase."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import config, hardware
from pipeline.data.augment import Augment, Recipe, make_recipe
from pipeline.data.dataset import AddedImages, MaskedImages, ReadTarget
from pipeline.data.index import coverage_columns, index_column
from pipeline.data.labels import Labels
from pipeline.data.loader import Loader
from pipeline.data.mixing import Mixing
from pipeline.data.reader import Reader
from pipeline.data.resize import Resize
from pipeline.data.sample import Sample
from pipeline.data.sampler import EpochSampler
from pipeline.data.targets import read_target, resize_mask
from pipeline.inference.prediction_store import MAX_VALUE, PredictionStore
from pipeline.losses.class_weights import ClassAreas
from pipeline.metrics import VOID
from pipeline.pseudo_labels import refuse_other_fold
from pipeline.training.checkpoint import FULL, Fold
from pipeline.training.distributed import Processes


@dataclass(frozen=True)
class PseudoData:
    """Test images labelled by models that held out the fold to be trained."""

    index: pd.DataFrame  # image_id, path, height, width
    store: Path  # folder that `pseudo.write_labels` made
    weight: float  # pseudo images drawn per training image drawn
    phases: tuple[int, ...]  # numbers of the phases that draw them

    @property
    def images(self) -> AddedImages:
        """The images with their labels."""
        return AddedImages(self.index, partial(_read_stored, PredictionStore(self.store)))


def _read_stored(store: PredictionStore, sample: Sample, resize: Resize) -> np.ndarray:
    label = np.ascontiguousarray(store.read(sample.image_id).transpose(1, 2, 0))
    return resize_mask(label, resize.target(sample.size), exclusive=False)


@dataclass(frozen=True)
class TeacherData:
    """Probabilities of the training images, by models that held out the fold to be trained."""

    stores: tuple[Path, ...]  # prediction stores of one model each
    weight: float  # of the models' mean in a target, 0 to 1; the label has the rest
    phases: tuple[int, ...]  # numbers of the phases that learn from them

    def read(self, labels: Labels) -> ReadTarget:
        """The reader of the mixed targets."""
        return partial(_read_distilled, labels, [PredictionStore(store) for store in self.stores], self.weight)


def _read_distilled(
    labels: Labels, stores: Sequence[PredictionStore], weight: float, sample: Sample, resize: Resize
) -> np.ndarray:
    """(1 - weight) · label + weight · mean probability, (H, W, C) float32; VOID where the label is."""
    target = read_target(labels, sample, resize)
    probs = [store.read(sample.image_id).transpose(1, 2, 0).astype(np.float32) / MAX_VALUE for store in stores]
    sized = [resize_mask(each, target.shape[:2], exclusive=False) for each in probs]
    mixed = (1 - weight) * target + weight * np.mean(sized, axis=0, dtype=np.float64)
    return np.where(target == VOID, VOID, mixed).astype(np.float32)


@dataclass(frozen=True)
class ExtraData:
    """Images of another set with labels of its own, without near-duplicates of held-out and test images."""

    name: str  # for messages
    index: pd.DataFrame  # image_id, path, height, width and the labels
    labels: Labels
    weight: float  # extra images drawn per training image drawn
    phases: tuple[int, ...]  # numbers of the phases that draw them

    @property
    def images(self) -> AddedImages:
        """The images with their labels."""
        return AddedImages(self.index, partial(read_target, self.labels))


@dataclass(frozen=True)
class FoldData:
    """The data that a fold trains and validates on; the fold "full" trains on every image and validates on none.

    Raises:
        ValueError: if a fold has no validation images or "full" has some; if pseudo-labels or a teacher's probabilities
            come from models that held out another fold or lack an image; if pseudo-labelled or extra images are images
            that the fold validates on.
    """

    fold: Fold
    train_index: pd.DataFrame
    valid_index: pd.DataFrame | None
    labels: Labels
    metric: str  # a pixel metric
    reader: Reader
    pseudo: PseudoData | None = None
    tiles: config.Tiles | None = None  # tiling of validation images
    batch_size: int = config.Predict().batch_size  # validation images, or tiles, per batch
    extra: tuple[ExtraData, ...] = ()
    teacher: TeacherData | None = None

    def __post_init__(self) -> None:
        if (self.fold == FULL) != (self.valid_index is None):
            expected = "none" if self.fold == FULL else "some"
            raise ValueError(f"fold {self.fold}: expected {expected} images to validate on")
        if self.pseudo:
            _refuse_foreign_labels(self.pseudo.store, self.pseudo.index, self.fold)
            _refuse_held_out(self.pseudo.index, str(self.pseudo.store), self.fold, self.valid_index)
        for store in self.teacher.stores if self.teacher else ():
            _refuse_foreign_labels(store, self.train_index, self.fold)
        for extra in self.extra:
            _refuse_held_out(extra.index, extra.name, self.fold, self.valid_index)

    def is_soft(self, number: int, phase: config.Phase) -> bool:
        """Whether some of the targets of a phase, and its number, are soft; then all of them are float32."""
        soft_masks = self.labels.is_soft or any(each.labels.is_soft for each in self.extra)
        return soft_masks or phase.makes_soft or self.teaches(number) is not None

    def teaches(self, phase: int) -> TeacherData | None:
        """The teacher's probabilities, if phase number `phase` learns from them."""
        return self.teacher if self.teacher and phase in self.teacher.phases else None

    def class_areas(self) -> ClassAreas:
        """The pixels of each class in the training images or their windows, without added images.

        Ignored pixels of exclusive classes are not counted; those of others are not masked. Of windows of several
        classes, the shares are those of the whole image.
        """
        index, names = self.train_index, self.labels.classes
        sizes = (index["height"] * index["width"]).to_numpy()
        if "box" in index:
            sizes = np.array([box.height * box.width for box in index["box"]])
        areas = np.rint(index[coverage_columns(names)].to_numpy() * sizes[:, None])
        return ClassAreas(areas, areas.sum(axis=1) if self.labels.exclusive else sizes)

    def added(self, phase: int) -> list[PseudoData | ExtraData]:
        """The sets, none of them empty, that phase number `phase` mixes into the training images."""
        sets = [*([self.pseudo] if self.pseudo else []), *self.extra]
        return [each for each in sets if phase in each.phases and len(each.index)]


def _refuse_foreign_labels(store: Path, index: pd.DataFrame, fold: Fold) -> None:
    refuse_other_fold(store, fold)
    without = sorted(set(index["image_id"]) - PredictionStore(store).ids())
    if without:
        raise ValueError(
            f"{store}: no label for {len(without)} of {len(index)} images, the first is '{without[0]}': "
            f"pass only the images that are in it"
        )


def _refuse_held_out(index: pd.DataFrame, name: str, fold: Fold, valid_index: pd.DataFrame | None) -> None:
    # Compared by file: images of other sets may have the same ids as training images.
    held_out = set() if valid_index is None else set(valid_index["path"])
    held_out_ids = [row.image_id for row in index.itertuples() if row.path in held_out]
    if held_out_ids:
        raise ValueError(f"{name}: '{held_out_ids[0]}' is held out by fold {fold} and cannot be trained on")


def build_loader(
    data: FoldData, cfg: config.Train, number: int, seed: int, group: Processes, maps: Sequence[str] = ()
) -> Loader:
    """The data loader of phase `number`; its sampler's `epoch` selects the batches.

    Each process gets its share of every batch, so that the batches do not depend on the number of processes.

    Args:
        seed: of sampling and augmentation.
        maps: of the masks that the phase's loss needs.
    """
    phase, added = cfg.phases[number - 1], data.added(number)
    workers = hardware.num_workers(cfg.workers)
    images = phase_images(data, cfg, number, max(1, workers), maps)
    sampler = EpochSampler(
        images.num_labelled,
        seed,
        labels=balance_labels(data.train_index, cfg.balance),
        repeats=phase.repeats,
        rank=group.rank,
        world=group.world,
        added=[(len(each.index), each.weight) for each in added],
    )
    return Loader(
        images,
        min(group.batch_size_per_process(cfg.batch_size), len(sampler)),
        sampler=sampler,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own, so that the loader does not change the random numbers of dropout
    )


def phase_images(
    data: FoldData, cfg: config.Train, number: int, num_workers: int = 1, maps: Sequence[str] = ()
) -> MaskedImages:
    """The training images of phase `number`, augmented and mixed.

    Args:
        num_workers: processes that load them.
        maps: of the masks that the phase's loss needs.
    """
    phase, teacher = cfg.phases[number - 1], data.teaches(number)
    reader = data.reader.at(Resize(phase.size)) if phase.size else data.reader  # windows are cut at data.size
    return MaskedImages(
        data.train_index,
        data.labels,
        reader,
        Augment(recipe_of(phase, reader), soft=data.is_soft(number, phase), on_device=cfg.augment_on_device),
        num_workers=num_workers,
        read=teacher.read(data.labels) if teacher else None,
        added=[each.images for each in data.added(number)],
        mixing=_mixing(phase, data.train_index, data.labels.boundary),
        maps=maps,
    )


def recipe_of(phase: config.Phase, reader: Reader) -> Recipe:
    """The augmentation of a phase, for the images of a reader."""
    channels = reader.channels if reader.has_colours else 1
    return make_recipe(phase.augment, phase.crop, channels, scale=phase.scale, scale_p=phase.scale_p)


def _mixing(phase: config.Phase, index: pd.DataFrame, boundary: float | None) -> Mixing | None:
    if not phase.mix:
        return None
    return Mixing(phase.mix, np.arange(len(index)), np.flatnonzero(index["empty"] == "no"), boundary)


def balance_labels(index: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """For each image the value of column `train.balance`, whose values are drawn equally often; None without it.

    Raises:
        ValueError: if the index does not have the column.
    """
    if column is None:
        return None
    return index_column(index, column, "train.balance").astype(str).to_numpy()
