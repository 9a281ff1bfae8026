"""Probabilities on disk: safetensors shards of uint8 arrays, by image id.

    value = round(255 · probability), so the error of a stored probability is at most 1/510

A model with an image head also predicts whether a class is in the image. These probabilities, one for each image and
class, are in the metadata of the shard, as values of the same kind.

A store is a folder. `store.json` records the settings that its predictions depend on. Shards are written atomically, so
the images in them are finished, and a run that was killed predicts only the others. Reading maps one shard at a time
into memory, so peak memory does not grow with the number of images.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

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
IMAGE_VALUES = "image_values"  # key of a shard's metadata: from image ids to the values of the image head, in JSON


class StoredPrediction(NamedTuple):
    """The stored values of one model for one image.

    Shapes:
        values: (C, H, W) uint8.
        image_values: (C,) uint8, of the image head; None without one.
    """

    values: np.ndarray
    image_values: np.ndarray | None = None


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
        self._image_values: dict[str, list[int]] = {}
        self._open_path: Path | None = None
        self._settings = {folder: _read_settings(folder) for folder in folders}
        for folder in folders:
            for shard in sorted(folder.glob("*.safetensors")):
                self._add(shard)

    def _add(self, shard: Path) -> None:
        with _open(shard) as file:
            self._image_values |= _read_image_values(shard, file)
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

    def read_image_values(self, image_id: str) -> np.ndarray | None:
        """The image head's values of one image, (C,) uint8 in 0 … 255; None if its model has no head."""
        found = self._image_values.get(image_id)
        return None if found is None else np.array(found, dtype=np.uint8)

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
        raise _damaged(shard, error) from None


def _read_image_values(shard: Path, file: safe_open) -> dict[str, list[int]]:
    """The image head's values of the images of a shard; none without a head."""
    try:
        return dict(json.loads((file.metadata() or {}).get(IMAGE_VALUES, "{}")))
    except ValueError as error:
        raise _damaged(shard, error) from None


def _damaged(shard: Path, error: Exception) -> ValueError:
    return ValueError(f"{shard}: damaged ({error}): remove it, and its images will be predicted again")


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
        self._image_values: dict[str, list[int]] = {}  # of the pending images
        self._bytes = 0

    def write(self, image_id: str, values: np.ndarray, image_values: np.ndarray | None = None) -> None:
        """Add an image's values, as of `StoredPrediction`; they are on disk after the next flush.

        Raises:
            FileExistsError: as `flush`.
        """
        self._pending[image_id] = np.ascontiguousarray(values)
        if image_values is not None:
            self._image_values[image_id] = image_values.tolist()
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
            metadata = {IMAGE_VALUES: json.dumps(self._image_values)} if self._image_values else None
            save_file(self._pending, partial, metadata)
            if path.exists():
                raise FileExistsError(f"{path}: written by another command at the same time: {RUN_AGAIN}")
        self.done |= set(self._pending)
        self._pending, self._image_values, self._bytes = {}, {}, 0


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
