"""Probabilities on disk: safetensors shards of uint8 arrays, by image id.

    value = round(255 · probability), so the error of a stored probability is at most 1/510

A store is a folder. `store.json` records the settings that its predictions depend on. Shards are written atomically, so
the images in them are finished, and a run that was killed predicts only the others. Reading maps one shard at a time
into memory, so peak memory does not grow with the number of images.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from pipeline.files import atomic_write, write_text
from pipeline.quoting import listed, shortened

SETTINGS_FILE = "store.json"
RUN_AGAIN = "run one command at a time on it, and run this one again"
MAX_VALUE = 255  # stored value of probability 1
SHARD_BYTES = 16 << 20  # uncompressed size after which a shard is written; a killed run loses at most this much
SHARD_IMAGES = 256


def probs_to_uint8(probs: Tensor) -> Tensor:
    """Probabilities as uint8, rounded to the nearest value, on their device.

    Shapes:
        probs: any, float in [0, 1]; returned with the same shape, uint8 in 0 … 255.

    Raises:
        FloatingPointError: if one is NaN or infinite, which uint8 would silently turn into an empty mask.
    """
    finite = probs.isfinite()
    if not finite.all():
        raise FloatingPointError(
            f"{int((~finite).sum())} of {probs.numel()} probabilities are not finite: check the pixels of the image, "
            f"and the weights"
        )
    return (probs.float() * MAX_VALUE).round_().to(torch.uint8)


class PredictionStore:
    """One or more store folders, read as one mapping from image id to values (C, H, W) uint8.

    Raises:
        ValueError: if an id is in two shards, or a shard is damaged.
    """

    def __init__(self, *folders: Path):
        self._shard_of: dict[str, Path] = {}
        self._open_path: Path | None = None
        self._settings = {folder: _read_settings(folder) for folder in folders}
        for folder in folders:
            for shard in sorted(folder.glob("*.safetensors")):
                self._add(shard)

    def _add(self, shard: Path) -> None:
        with _open(shard) as file:
            for image_id in file.keys():  # noqa: SIM118 - the handle is no mapping
                if image_id in self._shard_of:
                    raise ValueError(
                        f"{shard}: image '{image_id}' is also in {self._shard_of[image_id]}: remove both "
                        f"folders' predictions and run the stage again"
                    )
                self._shard_of[image_id] = shard

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the open shard, which belongs to this process."""
        return {**vars(self), "_open_path": None, "_file": None}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._shard_of

    def __len__(self) -> int:
        return len(self._shard_of)

    def ids(self) -> set[str]:
        """The ids of all stored images."""
        return set(self._shard_of)

    def read(self, image_id: str) -> np.ndarray:
        """The stored values of one image, (C, H, W) uint8 in 0 … 255.

        Raises:
            ValueError: if the image is not in the store, or another command has replaced the store since it was opened.
        """
        shard = self._shard_of.get(image_id)
        if shard is None:
            raise ValueError(f"{self._folders()}: no prediction of image '{shortened(image_id)}': {RUN_AGAIN}")
        if shard != self._open_path:  # one shard at a time, so that the memory of the last one is freed
            self._file, self._open_path = self._open_unchanged(shard), shard
        return self._file.get_tensor(image_id)

    def _open_unchanged(self, shard: Path) -> safe_open:
        """Open a shard and check that its store is still the one that was opened.

        The settings are compared after the shard is open: a store that replaces another writes its settings first.
        """
        try:
            file = _open(shard)
        except FileNotFoundError:
            file = None
        if file is None or _read_settings(shard.parent) != self._settings[shard.parent]:
            raise ValueError(
                f"{shard.parent}: replaced by predictions with other settings while it was read: {RUN_AGAIN}"
            )
        return file

    def _folders(self) -> str:
        return listed(self._settings)


def _read_settings(folder: Path) -> str:
    """The text of the settings file of a store; empty if there is none."""
    try:
        return (folder / SETTINGS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _open(shard: Path) -> safe_open:
    try:
        return safe_open(shard, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{shard}: damaged ({error}): remove it, and its images will be predicted again") from None


class StoreWriter:
    """Adds predictions to a store that `start_store` made.

    Args:
        rank: of this process, which is part of the names of its shards.

    Raises:
        ValueError: as `PredictionStore`.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.folder, self.rank = folder, rank
        self.done = PredictionStore(folder).ids()
        self._pending: dict[str, np.ndarray] = {}
        self._bytes = 0

    def write(self, image_id: str, values: np.ndarray) -> None:
        """Add the values (C, H, W) uint8 of an image; they are on disk after the next flush.

        Raises:
            FileExistsError: as `flush`.
        """
        self._pending[image_id] = np.ascontiguousarray(values)
        self._bytes += values.nbytes
        if self._bytes >= SHARD_BYTES or len(self._pending) >= SHARD_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Write the images added since the last flush as one shard.

        Raises:
            FileExistsError: if another command wrote the same shard meanwhile.
        """
        if not self._pending:
            return
        existing = [shard.stem.partition("-")[2] for shard in self.folder.glob(f"{self.rank:03}-*.safetensors")]
        number = 1 + max((int(each) for each in existing if each.isdecimal()), default=-1)
        path = self.folder / f"{self.rank:03}-{number:05}.safetensors"
        with atomic_write(path) as partial:
            save_file(self._pending, partial)
            if path.exists():
                raise FileExistsError(f"{path}: written by another command at the same time: {RUN_AGAIN}")
        self.done |= set(self._pending)
        self._pending, self._bytes = {}, 0


def start_store(folder: Path, settings: dict[str, Any]) -> None:
    """Make a store, or keep the one that has the same settings; a store with other settings is deleted.

    Args:
        settings: everything that the predictions depend on, as JSON values.
    """
    if _has_settings(folder, settings):
        return
    if folder.exists():
        shutil.rmtree(folder)
    write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=1, sort_keys=True))


def is_complete(folder: Path, ids: Iterable[str], settings: dict[str, Any]) -> bool:
    """Whether a store has all of these images, predicted with these settings.

    Raises:
        ValueError: as `PredictionStore`.
    """
    return _has_settings(folder, settings) and PredictionStore(folder).ids() >= set(ids)


def _has_settings(folder: Path, settings: dict[str, Any]) -> bool:
    try:
        found = json.loads(_read_settings(folder))
    except (ValueError, RecursionError):  # missing or damaged: treated as other settings
        return False
    return found == json.loads(json.dumps(settings))
