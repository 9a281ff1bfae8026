"""The stage `sweep`: folds × configs × seeds, each job on its own, none twice."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.config import Config
from pipeline.schema import did_you_mean
from pipeline.stages.preparing import Context, Paths, make_context
from pipeline.stages.training import is_done
from pipeline.sweep.executors import EXECUTORS, Plan
from pipeline.sweep.jobs import FAILED, Job, write_list
from pipeline.sweep.seeds import config_of_seed

log = logging.getLogger(__name__)


class Swept(NamedTuple):
    """A sweep that was listed; its lines come as its jobs end."""

    list: Path
    jobs: int
    done_before: int
    lines: Iterator[str]


def seed_configs(paths: Sequence[Path], seeds: Sequence[int]) -> list[Path]:
    """A config for each config and seed, written if it is missing; the configs as they are, if no seeds are given.

    Writes: configs/<config>_seed<k>.toml
    """
    return list(dict.fromkeys(config_of_seed(path, seed) for path in paths for seed in seeds) if seeds else paths)


def sweep(
    cfgs: Mapping[Path, Config],
    options: Sequence[str] = (),
    *,
    fold: int | None = None,
    jobs: int = 0,
    executor: str = "local",
    retries: int = 2,
) -> Swept:
    """Train one fold or every fold of several configs; what is done is skipped.

    Data and folds are made here, before jobs that run side by side could each make their own.

    Writes: runs/sweep-<a+b>.mk; of each job what `train` writes, and runs/<config>/fold<k>/train.log

    Args:
        cfgs: by their files, as the options changed them.
        options: of the command `train`, that did.
        jobs: at a time; 0: one here, and on Ray as many as the cluster has GPUs, or else CPUs.
        engine: a name in `sweep.executors.ENGINES`.
        retries: of each job that dies of something else than a mistake.

    Raises:
        ValueError: for an unknown executor or fold, or two configs with one run's name.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{executor}'. {did_you_mean(executor, EXECUTORS)}")
    _refuse_one_name(cfgs)
    todo, every = [], []
    for path, context in _contexts(cfgs):
        for number in context.fold_numbers() if fold is None else [fold]:
            every.append(_job(path, context.paths, number, options))
            if not _is_done(context, number):
                todo.append(every[-1])
    listed = Path("runs") / f"sweep-{'+'.join(cfg.name for cfg in cfgs.values())[:200]}.mk"
    write_list(listed, every, todo, at_once=max(1, jobs), retries=retries)
    _say_one_gpu(executor, jobs)
    lines = EXECUTORS[executor](Plan(todo, listed, jobs, retries)) if todo else iter(())
    return Swept(listed, len(every), len(every) - len(todo), lines)


def failed(lines: Sequence[str]) -> list[str]:
    """The lines of a sweep that name a job without a result."""
    return [line for line in lines if FAILED in line]


def _contexts(cfgs: Mapping[Path, Config]) -> Iterator[tuple[Path, Context]]:
    """Each config with its data; those that differ in seed and name share the reading of it."""
    read: dict[str, Context] = {}
    for path, cfg in cfgs.items():
        key = cfg.model_dump_json(exclude={"name", "seed"})
        if key not in read:
            read[key] = make_context(cfg)
        yield path, read[key]._replace(cfg=cfg, paths=Paths(cfg, read[key].card))


def _job(path: Path, paths: Paths, fold: int, options: Sequence[str]) -> Job:
    command = ("train", str(path), "--fold", str(fold), *options)
    return Job(paths.run.name, fold, paths.fold(fold), paths.weights(fold), command)


def _is_done(context: Context, fold: int) -> bool:
    """Whether there is nothing to do; what was trained with other settings is left to its job to refuse."""
    try:
        return is_done(context, fold)
    except ValueError as error:
        if fold not in context.fold_numbers():
            raise
        log.debug("%s", error)
        return False


def _refuse_one_name(cfgs: Mapping[Path, Config]) -> None:
    """Two configs that `--set name=…` or `--set seed=…` made one would train into one folder."""
    runs: dict[str, Path] = {}
    for path, cfg in cfgs.items():
        if cfg.name in runs:
            raise ValueError(f"{runs[cfg.name]} and {path} are both run '{cfg.name}': leave out --set name")
        runs[cfg.name] = path


def _say_one_gpu(executor: str, jobs: int) -> None:
    if executor == "local" and jobs > 1 and torch.cuda.device_count() > 1:
        log.warning(
            "all %d jobs share the first of %d GPUs: ray start --head, and EXECUTOR=ray, give each job one",
            jobs,
            torch.cuda.device_count(),
        )
