"""The stage `phase`: makes a config of its own of an earlier phase's networks, which a run has beside the best ones."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Config
from pipeline.files import file_lock, write_text
from pipeline.schema import parse, toml_tables
from pipeline.stages.importing import as_in_its_file
from pipeline.stages.preparing import Context, make_context
from pipeline.stages.training import is_trained, read_history, settings
from pipeline.training.checkpoint import FULL, Fold, load_weights, read_record, save_checkpoint
from pipeline.training.history import write_history
from pipeline.training.trainer import best_phase

TEXT = """\
# {name} without its later phases. `make phase CONFIG={name} PHASE={phase}` wrote this file and copied the weights.
#
#   make ensemble CONFIGS="{name} {own}"
"""


class PhaseMember(NamedTuple):
    """The outcome of the stage `phase`."""

    config: Path
    run: Path
    folds: list[Fold]  # those that are trained


def phase_member(cfg: Config, phase: int) -> PhaseMember:
    """Make a config without the later phases, and copy the weights that its training would give.

    They are equal because no phase depends on a later one, unless `train.max_minutes` divides the time among all.

    Writes: configs/<name>_phase<n>.toml; runs/<name>_phase<n>/fold<k>/ as a training does

    Args:
        phase: number of its last phase, from 1; less than that of the config's last.

    Raises:
        FileNotFoundError: if no fold is trained.
        ValueError: for imported predictions, another number, weights that were made with other settings, or a config of
            this name that another command or a person wrote.
    """
    _check(cfg, phase)
    context = make_context(cfg)
    trained = [fold for fold in (*context.fold_numbers(), FULL) if is_trained(context, fold)]
    if not trained:
        raise FileNotFoundError(f"{context.paths.run}: no fold is trained: run make oof CONFIG={cfg.name} first")
    path = Path("configs") / f"{cfg.name}_phase{phase}.toml"
    head = TEXT.format(name=cfg.name, phase=phase, own=path.stem)
    if path.exists() and not path.read_text(encoding="utf-8").startswith(head):
        raise ValueError(f"{path}: another config has this name: rename that one and its folder in runs/")
    own = make_context(parse(Config, {"name": path.stem, **_tables(cfg, phase)}, str(path)))
    for fold in trained:
        is_trained(own, fold)  # refuses to replace weights that were made with other settings
    write_text(path, head + toml_tables(_tables(as_in_its_file(cfg), phase)))
    for fold in trained:
        with file_lock(own.paths.fold(fold) / "lock", str(own.paths.fold(fold))):
            _copy(context, own, fold)
    return PhaseMember(path, own.paths.run, trained)


def _check(cfg: Config, phase: int) -> None:
    if cfg.imported:
        raise ValueError(f"{cfg.file}: imported predictions have no phases")
    last = len(cfg.train.phases)
    if last == 1:
        raise ValueError(f"{cfg.file} has one phase: a phase before the last one is needed")
    if not 1 <= phase < last:
        numbers = "1" if last == 2 else f"a number from 1 to {last - 1}"
        raise ValueError(f"--phase {phase}: expected {numbers}, before the last of the {last} phases of {cfg.file}")


def _tables(cfg: Config, phase: int) -> dict[str, Any]:
    """The tables of a config, without the phases after one, and without what these alone use."""
    tables = cfg.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"name"})
    train, data = tables["train"], tables.get("data", {})
    train["phases"] = train["phases"][:phase]
    for parent, key in ((train, "pseudo"), (train, "teacher"), (data, "extra")):
        if key in parent:
            parent[key] = _until(parent[key], phase)
    return tables


def _until(used: Any, phase: int) -> Any:
    """A table that has the numbers of the phases that use it, or a list of such, without those after one; None if no
    number is left.
    """
    if isinstance(used, list):
        return [each for each in (_until(one, phase) for one in used) if each]
    if not used or "phases" not in used:  # it is unset, or of the first phase
        return used
    numbers = [number for number in used["phases"] if number <= phase]
    return {**used, "phases": numbers} if numbers else None


def _copy(context: Context, own: Context, fold: Fold) -> None:
    """Copy the weights and the history of a fold, the best weights last, as a training writes them."""
    source, folder, phases = context.paths.fold(fold), own.paths.fold(fold), len(own.cfg.train.phases)
    if context.paths.batch_size.is_file():
        shutil.copyfile(context.paths.batch_size, own.paths.batch_size)
    made_by = settings(own)
    write_history(folder / "metrics.jsonl", [line for line in read_history(context, fold) if line["phase"] <= phases])
    names = [f"phase{number}.safetensors" for number in range(1, phases + 1)]
    best = best_phase([source / name for name in names], own.cfg.train, fold)
    for path, name in [*((source / name, name) for name in names), (best, own.paths.weights(fold).name)]:
        save_checkpoint(folder / name, load_weights(path), {**read_record(path), "settings": made_by})
