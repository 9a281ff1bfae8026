"""What training leaves on disk: weights that know where they come from, and the state to go on from.

Weights are safetensors whose header holds the record (fold, phase, score, settings, versions, machine): one file, so
that weights and record cannot part. The state is a dict of tensors and plain values, read with `weights_only=True`:
nothing is unpickled.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.files import atomic_write
from pipeline.models.weights import refuse_not_finite
from pipeline.quoting import first_line, shortened

FULL = "full"  # the fold of a model that saw every training image
Fold = int | Literal["full"]


def save_checkpoint(path: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write weights and their record as one file, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata={"record": json.dumps(record, sort_keys=True)})


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint, without reading its weights.

    Raises:
        ValueError: if the file is no checkpoint of this pipeline, or was cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
        record["fold"]  # without it, nobody knows which images the weights have seen
        return record
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors raises a class of its own, KeyError means foreign weights
        raise ValueError(
            f"{path}: not a checkpoint of this pipeline ({shortened(error)}): train the fold again"
        ) from None


def load_checkpoint(path: Path, model: nn.Module, fold: Fold) -> dict[str, Any]:
    """Put a checkpoint's weights into a model that must not have seen fold `fold`; returns the record.

    Args:
        fold: that is to be predicted; "full" for test images alone, by a model that saw every training image.

    Raises:
        ValueError: if the weights held out another fold or none, do not fit the model, or are not finite.
    """
    record = read_record(path)
    if record["fold"] != fold:
        held_out = "no fold" if record["fold"] == FULL else f"fold {record['fold']}"
        raise ValueError(f"{path} held out {held_out}, not fold {fold}: it has seen these images")
    try:
        model.load_state_dict(load_weights(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: weights of another model: {str(error).splitlines()[1].strip()}") from None
    return record


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, on the CPU.

    Raises:
        ValueError: if a number in them is NaN or infinite.
    """
    weights = load_file(path)
    refuse_not_finite(path, weights)
    return weights


def refuse_other_settings(where: Path, made_by: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on only with the settings it was started with.

    Raises:
        ValueError: naming the first setting that differs.
    """
    before, after = _flat(made_by), _flat(now)
    for key in sorted(before | after):
        if before.get(key) != after.get(key):
            raise ValueError(
                f"{where} was trained with {key} = {before.get(key)}, now it is {after.get(key)}: "
                f"remove {where} to train again, or give the config another name"
            )


def _flat(tables: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; a list's entries count from 0."""
    if isinstance(tables, dict) and tables:
        pairs = tables.items()
    elif isinstance(tables, list | tuple) and tables:
        pairs = enumerate(tables)
    else:
        return {prefix: tables}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write training state, whole or not at all."""
    with atomic_write(path) as partial:
        torch.save(state, partial)


def load_state(path: Path) -> dict[str, Any] | None:
    """The training state, or None where there is none.

    Raises:
        ValueError: if the file cannot be read, or its weights are not finite.
    """
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}): remove it to train the fold again") from None
    if not (isinstance(state, dict) and state.keys() >= {"settings", "standing"} and "phase" in state["standing"]):
        raise ValueError(f"{path}: no state of a training: remove it to train the fold again")
    for part in ("model", "average"):
        refuse_not_finite(path, state.get(part, {}))
    return state
