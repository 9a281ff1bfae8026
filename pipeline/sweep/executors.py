"""Who trains: make, on this machine, or the tasks of a Ray cluster. Each says a line when a job ends or dies."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.quoting import MAX_MESSAGE, first_line
from pipeline.ray_cluster import connected, last_line
from pipeline.sweep.jobs import FAILED, Job

ENDS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 10.0  # seconds from asking jobs to end to killing them
MISTAKE = 2  # the status of what would fail again
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")  # of a make around this one: its options are not ours


class Plan(NamedTuple):
    """How the jobs are to be done."""

    jobs: Sequence[Job]  # that are not done
    list: Path  # the Makefile
    at_once: int  # jobs; 0: as many as the engine likes
    retries: int  # of each job that dies


def run_here(plan: Plan) -> Iterator[str]:
    """By make, from the list.

    Raises:
        ValueError: if make is not there, or cannot read the list.
    """
    command = ["make", "-k", "--no-print-directory", "-j", str(max(1, plan.at_once)), "-f", str(plan.list)]
    env = {key: value for key, value in os.environ.items() if key not in OF_MAKE}
    try:
        make = subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except FileNotFoundError:
        raise ValueError("a sweep on this machine is run by make, which is not here: install it") from None
    own, failed = "", False
    with _ended_with_this(make):
        for line in map(str.rstrip, make.stdout):
            if line.startswith(("make:", "make[")):
                own = own or line
            else:
                failed |= FAILED in line
                yield line
    if make.returncode and not failed:
        raise ValueError(f"make ended with status {make.returncode}: {own}")


@contextlib.contextmanager
def _ended_with_this(process: subprocess.Popen) -> Iterator[None]:
    """End a process and all that it started, however the block ends: by an error, Ctrl-C, or a signal to end."""

    def end(number: int, _frame: object) -> None:
        _end_group(process)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        # What is ignored stays so: after nohup, a terminal that is closed ends nothing.
        heard = [number for number in ENDS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, end) for number in heard}
    try:
        with process:
            try:
                yield
            except BaseException:  # the consumer stopped: its jobs end too
                _end_group(process)
                raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen) -> None:
    """End a process that leads a group, and the group: trainings go on from their last epoch next time."""
    if not hasattr(os, "killpg"):  # no groups on Windows
        process.terminate()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def run_on_ray(plan: Plan) -> Iterator[str]:
    """By tasks of a cluster, each on a GPU of its own if there are any; the machines share this folder.

    Raises:
        ValueError: if Ray is not here, there is no cluster, or a machine of it does not see this folder.
    """
    ray = connected()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    here = Path.cwd()
    _check_folders(ray, nodes, here / plan.list)
    train = ray.remote(
        **_share(ray.cluster_resources(), nodes, plan.at_once),
        max_retries=plan.retries,
        retry_exceptions=[DiedError],
        max_calls=1,  # a process for each job: the memory goes with it
    )(_train)
    todo, waiting = list(plan.jobs), {}
    while todo or waiting:
        while todo and len(waiting) < (plan.at_once or len(plan.jobs)):
            job = todo.pop(0)
            waiting[train.remote(str(here), str(job.log), list(job.command))] = job
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        yield _line(ray, waiting.pop(ready), ready)


def _share(resources: dict[str, float], nodes: Sequence[dict[str, Any]], at_once: int) -> dict[str, int]:
    """What a job reserves: a GPU, or its share of the CPUs, no more than a machine has."""
    if resources.get("GPU"):
        return {"num_cpus": 1, "num_gpus": 1}
    largest = max(int(node["Resources"]["CPU"]) for node in nodes)
    return {"num_cpus": max(1, min(largest, int(resources["CPU"]) // at_once if at_once else 1))}


def _line(ray: Any, job: Job, task: Any) -> str:
    try:
        status, said = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        status, said = 1, f"died, {last_line(error.cause)}"
    except ray.exceptions.RayError as error:
        status, said = 1, f"died, {type(error).__name__}: {first_line(error, MAX_MESSAGE)}"
    return f"{job.folder}: {FAILED} {said} (see {job.log})" if status else f"{job.folder}: done, {said}"


class DiedError(Exception):
    """A training ended with neither a result nor a mistake: it may go on when it is started again."""


def _train(folder: str, log: str, command: list[str]) -> tuple[int, str]:
    """Run a command of the pipeline in this process of a cluster; returns its status and its last line."""
    os.chdir(folder)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with (
        Path(log).open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        status = _run(command)
    said = Path(log).read_text(encoding="utf-8").rstrip().rpartition("\n")[2]
    if status not in (0, MISTAKE):
        raise DiedError(said)
    return status, said


def _run(command: Sequence[str]) -> int:
    """The same as `python -m pipeline …`, whose process Ray knows and may kill."""
    sys.argv = ["pipeline", *command]
    try:
        runpy.run_module("pipeline", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _check_folders(ray: Any, nodes: Sequence[dict[str, Any]], path: Path) -> None:
    """Look from each machine whether it sees the list, before work is handed out."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    look = ray.remote(_sees)
    seen = {
        node["NodeManagerAddress"]: look.options(
            num_cpus=0, scheduling_strategy=On(node_id=node["NodeID"], soft=False)
        ).remote(str(path))
        for node in nodes
    }
    blind = [address for address, task in seen.items() if not ray.get(task)]
    if blind:
        raise ValueError(
            f"{blind[0]}, a machine of the cluster, has no {path}: a sweep needs the project's folder, data included, "
            f"on a shared file system, under the same path on every machine"
        )


def _sees(path: str) -> bool:
    return Path(path).is_file()


EXECUTORS = {"local": run_here, "ray": run_on_ray}
