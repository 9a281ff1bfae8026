"""The stage `sweep`: trains folds × configs × seeds as separate jobs; finished jobs are skipped."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from pipeline.config import Config
from pipeline.progress import track
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean
from pipeline.stages.preflight import check_training
from pipeline.stages.preparing import Context, Paths, make_context
from pipeline.stages.training import is_done, is_trained
from pipeline.sweep.executors import EXECUTORS
from pipeline.sweep.jobs import Job, JobResult
from pipeline.sweep.seeds import config_with_seed

log = logging.getLogger(__name__)


class Sweep(NamedTuple):
    """A sweep; its jobs run while `results` is iterated."""

    jobs: int
    done_before: int
    results: Iterator[JobResult]


def seed_configs(paths: Sequence[Path], seeds: Sequence[int]) -> list[Path]:
    """Return a config for each config and seed, written if it is missing; without seeds, the configs as they are.

    Writes: configs/<config>_seed<k>.toml
    """
    return list(dict.fromkeys(config_with_seed(path, seed) for path in paths for seed in seeds) if seeds else paths)


def sweep(
    cfgs: Mapping[Path, Config],
    options: Sequence[str] = (),
    *,
    fold: int | None = None,
    jobs: int = 0,
    executor: str = "local",
    retries: int = 2,
) -> Sweep:
    """Train one fold or all folds of several configs in parallel; finished jobs are skipped.

    Data and folds are made first: jobs that start at the same time would each make their own.

    Writes: of each job what `train` writes, and runs/<config>/fold<k>/train.log

    Args:
        cfgs: by file, with the options applied.
        options: arguments of the command `train` that give these configs.
        fold: None: all folds.
        jobs: number of jobs at the same time; 0: one locally, and as many on Ray as it has GPUs, or else CPUs.
        executor: a name in `sweep.executors.EXECUTORS`.
        retries: how often each job is restarted after a crash; a user error is not retried.

    Raises:
        ValueError: for an unknown executor or fold, or two configs with the same run name; as `check_training`.
        ConnectionError, FileNotFoundError: as `check_training`.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{shortened(executor)}'. {did_you_mean(executor, EXECUTORS)}")
    _check_run_names(cfgs)
    count, todo, to_check = 0, [], {}
    for path, context in _contexts(cfgs):
        for number in context.fold_numbers() if fold is None else [fold]:
            count += 1
            if not _is_so(is_done, context, number):
                command = ("train", str(path), "--fold", str(number), *options)
                todo.append(Job(context.paths.fold(number), command))
                if not _is_so(is_trained, context, number):
                    to_check[context.cfg.name] = context
    for context in to_check.values():
        check_training(context)
    gpus = torch.cuda.device_count()
    if executor == "local" and jobs > 1 and gpus > 1:
        log.warning(
            "all %d jobs share the first of %d GPUs: to give each job a GPU, use ray start --head and EXECUTOR=ray",
            jobs,
            gpus,
        )
    results = track(EXECUTORS[executor](todo, jobs, retries), "sweep", total=len(todo)) if todo else iter(())
    return Sweep(count, count - len(todo), results)


def _contexts(cfgs: Mapping[Path, Config]) -> Iterator[tuple[Path, Context]]:
    """The context of each config; configs that differ only in seed and name share their data."""
    read: dict[str, Context] = {}
    for path, cfg in cfgs.items():
        key = cfg.model_dump_json(exclude={"name", "seed"})
        if key not in read:
            read[key] = make_context(cfg)
        own = read[key].cfg.model_copy(update={"name": cfg.name, "seed": cfg.seed})
        yield path, read[key]._replace(cfg=own, paths=Paths(own, read[key].card))


def _is_so(condition: Callable[[Context, int], bool], context: Context, fold: int) -> bool:
    """Whether a fold is done, or trained; a fold with other settings is neither, and its job reports the difference."""
    try:
        return condition(context, fold)
    except ValueError as error:
        if fold not in context.fold_numbers():
            raise
        log.debug("%s", error)
        return False


def _check_run_names(cfgs: Mapping[Path, Config]) -> None:
    """Raise ValueError if `--set name=…` or `--set seed=…` gives two configs the same run folder."""
    runs: dict[str, Path] = {}
    for path, cfg in cfgs.items():
        if cfg.name in runs:
            raise ValueError(f"{runs[cfg.name]} and {path} are both run '{cfg.name}': leave out --set name")
        runs[cfg.name] = path
