"""How probabilities lie on disk: safetensors shards of uint8 arrays keyed by image id.

    value = round(255 · probability), so a stored probability is off by 1/510 at most

A store is a folder: `store.json` says what made it, and each shard appears whole or not at all. What is
in the shards is done; a writer that was killed goes on with the rest. Reading maps one shard at a
time into memory, so the peak does not grow with the number of images.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipeline.files import atomic_write, write_text
from pipeline.quoting import listed, shortened

RECORD = "store.json"
ANEW = "let one command at a time work on it, and run this one again"
MAX_VALUE = 255
SHARD_BYTES = 16 << 20  # decoded size after which a shard is written: what a kill can cost
SHARD_IMAGES = 256


def probs_to_uint8(probs: np.ndarray) -> np.ndarray:
    """Probabilities in [0, 1] as uint8 in 0 … 255, rounded to nearest.

    Raises:
        FloatingPointError: if one is NaN or infinite: as uint8 it would be 0, an empty mask without a word.
    """
    levels = np.rint(np.asarray(probs, dtype=np.float32) * MAX_VALUE)
    if not np.isfinite(levels).all():
        wrong = int((~np.isfinite(levels)).sum())
        raise FloatingPointError(
            f"{wrong} of {levels.size} probabilities are not finite: check the pixels of the image, and the weights"
        )
    return levels.astype(np.uint8)


class PredictionStore:
    """Reads one or more store folders as one mapping from image id to (C, H, W) uint8.

    Raises:
        ValueError: if an id lies in two shards.
    """

    def __init__(self, *folders: Path):
        self._shard_of: dict[str, Path] = {}
        self._open_path: Path | None = None
        self._made_by = {folder: _made_by(folder) for folder in folders}
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
        """Without the open shard, which cannot be sent to another process."""
        return {**vars(self), "_open_path": None, "_file": None}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._shard_of

    def __len__(self) -> int:
        return len(self._shard_of)

    def ids(self) -> set[str]:
        """The ids of all stored images."""
        return set(self._shard_of)

    def read(self, image_id: str) -> np.ndarray:
        """The stored values of one image, (C, H, W) uint8.

        Raises:
            ValueError: if the image is not stored, or the store was begun anew since this was made.
        """
        shard = self._shard_of.get(image_id)
        if shard is None:
            raise ValueError(f"{self._folders()}: no prediction of image '{shortened(image_id)}': {ANEW}")
        if shard != self._open_path:  # one map at a time: pages of the last shard go back to the system
            self._file, self._open_path = self._still(shard), shard
        return self._file.get_tensor(image_id)

    def _still(self, shard: Path) -> safe_open:
        """A shard, if its folder is what it was: looked at after the shard is open, since a store begins with it."""
        try:
            file = _open(shard)
        except FileNotFoundError:
            file = None
        if file is None or _made_by(shard.parent) != self._made_by[shard.parent]:
            raise ValueError(f"{shard.parent}: predicted anew, while it was read, with other settings: {ANEW}")
        return file

    def _folders(self) -> str:
        return listed(self._made_by)


def _made_by(folder: Path) -> str:
    """The text that says what made a store; empty where there is none."""
    try:
        return (folder / RECORD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _open(shard: Path) -> safe_open:
    try:
        return safe_open(shard, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{shard}: damaged ({error}): remove it, and its images are predicted again") from None


class StoreWriter:
    """Writes predictions into a folder that `start_store` made, after what is there already.

    Args:
        rank: of this process; its shards carry it in their names.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.folder, self.rank = folder, rank
        self.done = PredictionStore(folder).ids()
        self._pending: dict[str, np.ndarray] = {}
        self._bytes = 0

    def write(self, image_id: str, values: np.ndarray) -> None:
        """Add (C, H, W) uint8 values; they are on disk after the next flush."""
        self._pending[image_id] = np.ascontiguousarray(values)
        self._bytes += values.nbytes
        if self._bytes >= SHARD_BYTES or len(self._pending) >= SHARD_IMAGES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if not self._pending:
            return
        there = [shard.stem.partition("-")[2] for shard in self.folder.glob(f"{self.rank:03}-*.safetensors")]
        number = 1 + max((int(each) for each in there if each.isdecimal()), default=-1)
        path = self.folder / f"{self.rank:03}-{number:05}.safetensors"
        with atomic_write(path) as partial:
            save_file(self._pending, partial)
            if path.exists():
                raise FileExistsError(f"{path}: written meanwhile by another command: {ANEW}")
        self.done |= set(self._pending)
        self._pending, self._bytes = {}, 0


def start_store(folder: Path, made_by: dict[str, Any]) -> None:
    """A folder that records what its predictions depend on; what other settings made is dropped from it."""
    if _is_from(folder, made_by):
        return
    if folder.exists():
        shutil.rmtree(folder)
    write_text(folder / RECORD, json.dumps(made_by, indent=1, sort_keys=True))


def is_complete(folder: Path, ids: Iterable[str], made_by: dict[str, Any]) -> bool:
    """Whether a store holds every id, made by the same settings."""
    return _is_from(folder, made_by) and PredictionStore(folder).ids() >= set(ids)


def _is_from(folder: Path, made_by: dict[str, Any]) -> bool:
    try:
        found = json.loads(_made_by(folder))
    except (ValueError, RecursionError):  # none, or damaged: then nobody knows what made it, and it is begun anew
        return False
    return found == json.loads(json.dumps(made_by))
