"""What a fold trains and validates on, and the batches of a phase."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline import config
from pipeline.data.augment import Augment
from pipeline.data.dataset import EpochSampler, MaskedImages, PseudoLabelled
from pipeline.data.labels import Labels
from pipeline.data.loader import Loader
from pipeline.data.mixing import Mixing
from pipeline.data.reader import Reader
from pipeline.inference.prediction_store import PredictionStore
from pipeline.pseudo_labels import refuse_other_fold
from pipeline.training.checkpoint import FULL, Fold


@dataclass(frozen=True)
class PseudoData:
    """Test images with labels by models that held out the fold to be trained."""

    index: pd.DataFrame  # image_id, path, height, width
    store: Path  # folder that `pseudo.write_labels` made
    weight: float  # pseudo images drawn per training image drawn
    phases: tuple[int, ...]  # numbers of the phases that draw them


@dataclass(frozen=True)
class FoldData:
    """What a fold trains and validates on; the fold "full" trains on every image and validates on none.

    Raises:
        ValueError: if a fold has no images to validate on, or "full" has some; for pseudo-labels by models that held
            out another fold, without a mask, or of images that the fold validates on.
    """

    fold: Fold
    train_index: pd.DataFrame
    valid_index: pd.DataFrame | None
    labels: Labels
    metric: str  # of pixels
    reader: Reader
    pseudo: PseudoData | None = None
    tiles: config.Tiles | None = None  # how images to validate on are cut
    batch_size: int = config.Predict().batch_size  # of validation: images, or tiles

    def __post_init__(self) -> None:
        if (self.fold == FULL) != (self.valid_index is None):
            expected = "none" if self.fold == FULL else "some"
            raise ValueError(f"fold {self.fold}: expected {expected} images to validate on")
        if self.pseudo:
            _refuse_foreign_labels(self.pseudo, self.fold, self.valid_index)


def _refuse_foreign_labels(pseudo: PseudoData, fold: Fold, valid_index: pd.DataFrame | None) -> None:
    refuse_other_fold(pseudo.store, fold)
    without = sorted(set(pseudo.index["image_id"]) - PredictionStore(pseudo.store).ids())
    if without:
        raise ValueError(
            f"{pseudo.store}: no label for {len(without)} of {len(pseudo.index)} images, the first is '{without[0]}': "
            f"hand in the images of its labels.csv alone"
        )
    # By file: the ids of test may repeat those of train.
    held_out = set() if valid_index is None else set(valid_index["path"])
    seen = [row.image_id for row in pseudo.index.itertuples() if row.path in held_out]
    if seen:
        raise ValueError(f"{pseudo.store}: '{seen[0]}' is held out by fold {fold} and cannot be trained on")


def build_loader(data: FoldData, cfg: config.Train, number: int, seed: int, *, rank: int = 0, world: int = 1) -> Loader:
    """The batches of phase `number`; its sampler's `epoch` decides which.

    Args:
        seed: of the draws.
        rank, world: this process, and how many there are.
    """
    phase, pseudo = cfg.phases[number - 1], pseudo_of(data, number)
    images = MaskedImages(
        data.train_index,
        data.labels,
        data.reader,
        Augment(phase.augment, phase.crop, data.reader.channels, scale=phase.scale),
        copies=max(1, cfg.workers),
        pseudo=PseudoLabelled(pseudo.index, PredictionStore(pseudo.store).read) if pseudo else None,
        mixing=_mixing(phase, data.train_index, data.labels.boundary),
    )
    sampler = EpochSampler(
        images.annotated,
        seed,
        labels=balance_labels(data.train_index, cfg.balance),
        repeats=phase.repeats,
        rank=rank,
        world=world,
        pseudo=len(images) - images.annotated,
        weight=pseudo.weight if pseudo else 0.0,
    )
    return Loader(
        images,
        min(cfg.batch_size, len(sampler)),
        sampler=sampler,
        drop_last=True,
        num_workers=cfg.workers,
        persistent_workers=cfg.workers > 0,
        generator=torch.Generator(),  # its own: the loader must not move the stream that dropout draws from
    )


def pseudo_of(data: FoldData, number: int) -> PseudoData | None:
    """The pseudo-labels that phase `number` draws, if any."""
    return data.pseudo if data.pseudo and number in data.pseudo.phases and len(data.pseudo.index) else None


def _mixing(phase: config.Phase, index: pd.DataFrame, boundary: float | None) -> Mixing | None:
    if not phase.mix:
        return None
    return Mixing(phase.mix, np.arange(len(index)), np.flatnonzero(index["empty"] == "no"), boundary)


def balance_labels(index: pd.DataFrame, column: str | None) -> np.ndarray | None:
    """The values that `train.balance` asks to draw equally often, or None.

    Raises:
        ValueError: for a column that the index does not have.
    """
    if column is None:
        return None
    if column not in index:
        raise ValueError(f"train.balance: no column '{column}', the index has: {', '.join(index.columns)}")
    return index[column].astype(str).to_numpy()
