"""Checkpoints: model weights with a record of how they were trained.

A checkpoint is a safetensors file whose header holds the record (fold, phase, score, settings, versions, machine), so
weights and record cannot be separated.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import __version__, hardware
from pipeline.files import atomic_write
from pipeline.models.weights import refuse_not_finite
from pipeline.quoting import shortened

FULL = "full"  # the fold of a model that was trained on every image
Fold = int | Literal["full"]
# What a record repeats of the history; "candidate" and "epochs" are those of averaged weights.
RECORDED = ("fold", "phase", "epoch", "score", "selection", "candidate", "epochs")


def make_record(line: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The record of a checkpoint.

    Args:
        line: of the weights in the history.
        settings: what the weights depend on.
    """
    return {
        **{key: line[key] for key in RECORDED if key in line},
        "settings": settings,
        "versions": {"pipeline": __version__, "torch": torch.__version__},
        "machine": hardware.machine(),
    }


def _without_sharing(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with copies of those that share memory with another (CoaT's layers), which safetensors refuses."""
    seen: set[int] = set()
    copied = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        copied[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return copied


def save_checkpoint(path: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write weights and their record to one file; an interrupted write leaves the old file."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as partial:
        save_file(_without_sharing(tensors), partial, metadata={"record": json.dumps(record, sort_keys=True)})


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a checkpoint without its weights.

    Raises:
        ValueError: if the file is not a checkpoint of this pipeline, or is truncated.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
        record["fold"]  # required: it tells which images the weights were trained on
        return record
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors has its own exception class; KeyError: weights of another program
        raise ValueError(
            f"{path}: not a checkpoint of this pipeline ({shortened(error)}): train the fold again"
        ) from None


def load_checkpoint(path: Path, model: nn.Module, fold: Fold) -> dict[str, Any]:
    """Load a checkpoint that held out fold `fold` into a model; returns the record.

    Args:
        fold: to be predicted, so the weights must not have been trained on it; "full": the model was trained on every
            image and predicts test images only.

    Raises:
        ValueError: if the weights held out another fold or none, do not fit the model, or are not finite.
    """
    record = read_record(path)
    if record["fold"] != fold:
        held_out = "no fold" if record["fold"] == FULL else f"fold {record['fold']}"
        raise ValueError(f"{path} held out {held_out}, not fold {fold}: it was trained on these images")
    try:
        model.load_state_dict(load_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: weights of another model: {str(error).splitlines()[1].strip()}") from None
    return record


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, on the CPU.

    Raises:
        ValueError: if a weight is NaN or infinite.
    """
    weights = load_file(path)
    refuse_not_finite(str(path), weights)
    return weights


def refuse_other_settings(where: Path, made_by: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that a run is resumed or reused with the settings it was started with.

    Raises:
        ValueError: with the first setting that differs.
    """
    before, after = _flatten(made_by), _flatten(now)
    for key in sorted(before | after):
        if not _equal(before.get(key), after.get(key)):
            raise ValueError(
                f"{where} was trained with {key} = {before.get(key)}, now it is {after.get(key)}: "
                f"remove {where} to train again, or give the config another name"
            )


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of an option are equal; true is not the number 1, which means something else."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _flatten(tables: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys; entries of a list are numbered from 0."""
    if isinstance(tables, dict) and tables:
        pairs = tables.items()
    elif isinstance(tables, list | tuple) and tables:
        pairs = enumerate(tables)
    else:
        return {prefix: tables}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
