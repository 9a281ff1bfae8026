"""Executors of a sweep: subprocesses of this machine, or tasks of a Ray cluster.

A crashed job is restarted, up to a number of retries, and resumes from its last epoch. A user error (exit status 2)
would happen again, so it is not retried.
"""

import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pipeline
from pipeline.quoting import MAX_MESSAGE, first_line
from pipeline.ray_cluster import connect, last_line
from pipeline.sweep.jobs import Job, JobResult

log = logging.getLogger(__name__)

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
GRACE_PERIOD = 10.0  # seconds between SIGTERM and SIGKILL
USER_ERROR = 2  # exit status
INTERRUPTED = 130  # exit status


def run_locally(jobs: Sequence[Job], at_once: int, retries: int) -> Iterator[JobResult]:
    """Run jobs in subprocesses; yields each result when its job ends.

    If the consumer stops, or this process gets SIGINT, SIGTERM or SIGHUP, all subprocesses are ended.

    Args:
        at_once: number of jobs that run at the same time; 0: 1.
        retries: how often each job is restarted after a crash.
    """
    at_once = max(1, at_once)
    package, given = str(Path(pipeline.__file__).parents[1]), os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([package, given] if given else [package])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads_per_job(at_once))}
    processes = _Processes(environment)
    pool = ThreadPoolExecutor(at_once)
    try:
        with _stopped_by_signals(processes):
            for future in as_completed([pool.submit(_run_job, job, processes, retries) for job in jobs]):
                yield future.result()
    finally:
        processes.stop()
        pool.shutdown(cancel_futures=True)


def _run_job(job: Job, processes: "_Processes", retries: int) -> JobResult:
    job.folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(retries + 1):
        status = processes.run([sys.executable, "-m", "pipeline", *job.command], job.log)
        if status in (0, USER_ERROR, INTERRUPTED):
            return JobResult(job, status != 0, job.last_line())
        if attempt < retries:
            log.warning(
                "%s: died with status %d, resumes from its last epoch (retry %d of %d)",
                job.folder,
                status,
                attempt + 1,
                retries,
            )
    return JobResult(job, True, f"died with status {status} after {retries} retries, {job.last_line()}")


class _Processes:
    """Subprocesses of several threads that can be ended together."""

    def __init__(self, environment: Mapping[str, str]):
        self.environment = environment
        self._running: list[subprocess.Popen] = []
        self._stopped = False
        self._lock = threading.RLock()  # reentrant: a signal handler calls `stop`

    def run(self, command: Sequence[str], log_file: Path) -> int:
        """Run a command, append its output to a file, and return its exit status as a shell does."""
        with log_file.open("ab") as output:
            with self._lock:
                if self._stopped:
                    return INTERRUPTED
                process = subprocess.Popen(
                    command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                )
                self._running.append(process)
            status = process.wait()
        with self._lock:
            self._running.remove(process)
        return status if status >= 0 else 128 - status  # -9 becomes 137

    def stop(self) -> None:
        """End all subprocesses with everything they started, and start no more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            for process in running:
                _signal_group(process, number)
            deadline = time.monotonic() + GRACE_PERIOD
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))


def _signal_group(process: subprocess.Popen, number: int) -> None:
    if not hasattr(os, "killpg"):  # no process groups on Windows
        process.terminate()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _stopped_by_signals(processes: _Processes) -> Iterator[None]:
    """End the subprocesses before a signal ends this process."""

    def stop(number: int, _frame: object) -> None:
        processes.stop()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
        # A signal that is ignored stays ignored: after nohup, a closed terminal ends nothing.
        handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def threads_per_job(at_once: int) -> int:
    """The share of this machine's cores for each of several jobs.

    Jobs that compete for the cores are slower: two jobs with all threads each took 14 times as long.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // at_once)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(given)) if given.isdigit() and int(given) else share


def run_on_ray(jobs: Sequence[Job], at_once: int, retries: int) -> Iterator[JobResult]:
    """Run jobs as tasks of a Ray cluster, each on its own GPU if there are any; all machines share this folder.

    Args:
        at_once: number of jobs that are submitted at the same time; 0: all.
        retries: how often each job is restarted after a crash.

    Raises:
        ValueError: if Ray is not installed, there is no cluster, or one of its machines does not see this folder.
    """
    ray = connect()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    folder = Path.cwd()
    _check_shared_folder(ray, nodes, folder / jobs[0].command[1])
    train = ray.remote(
        **_resources_per_job(ray.cluster_resources(), nodes, at_once),
        max_retries=retries,
        retry_exceptions=[DiedError],
        max_calls=1,  # a new process for each job frees its memory
    )(_train)
    todo, running = list(jobs), {}
    while todo or running:
        while todo and len(running) < (at_once or len(jobs)):
            job = todo.pop(0)
            running[train.remote(str(folder), job)] = job
        (ready,), _ = ray.wait(list(running), num_returns=1)
        yield _ray_result(ray, running.pop(ready), ready)


def _resources_per_job(
    resources: Mapping[str, float], nodes: Sequence[Mapping[str, Any]], at_once: int
) -> dict[str, int]:
    """What a job reserves: a GPU, or its share of the CPUs but no more than one machine has."""
    if resources.get("GPU"):
        return {"num_cpus": 1, "num_gpus": 1}
    largest = max(int(node["Resources"]["CPU"]) for node in nodes)
    return {"num_cpus": max(1, min(largest, int(resources["CPU"]) // at_once if at_once else 1))}


def _ray_result(ray: Any, job: Job, task: Any) -> JobResult:
    try:
        status, message = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        status, message = 1, f"died, {last_line(error.cause)}"
    except ray.exceptions.RayError as error:
        status, message = 1, f"died, {type(error).__name__}: {first_line(error, MAX_MESSAGE)}"
    return JobResult(job, status != 0, message)


class DiedError(Exception):
    """A training crashed: it resumes when it is started again."""


def _train(folder: str, job: Job) -> tuple[int, str]:
    """Run a job in this process of a cluster; returns its exit status and its last line.

    Raises:
        DiedError: for any end but success and a user error.
    """
    os.chdir(folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    with (
        job.log.open("a", encoding="utf-8", buffering=1) as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        status = _run_module(job.command)
    if status not in (0, USER_ERROR):
        raise DiedError(job.last_line())
    return status, job.last_line()


def _run_module(command: Sequence[str]) -> int:
    """Run `python -m pipeline` in this process, which Ray can watch and kill."""
    sys.argv = ["pipeline", *command]
    try:
        runpy.run_module("pipeline", run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _check_shared_folder(ray: Any, nodes: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raise ValueError if a machine of the cluster does not see a file of this folder."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

    exists = ray.remote(_is_file)
    seen = {
        node["NodeManagerAddress"]: exists.options(
            num_cpus=0, scheduling_strategy=OnNode(node_id=node["NodeID"], soft=False)
        ).remote(str(path))
        for node in nodes
    }
    blind = [address for address, task in seen.items() if not ray.get(task)]
    if blind:
        raise ValueError(
            f"{blind[0]}, a machine of the cluster, has no {path}: a sweep needs the project's folder, data included, "
            f"on a shared file system, under the same path on every machine"
        )


def _is_file(path: str) -> bool:
    return Path(path).is_file()


EXECUTORS = {"local": run_locally, "ray": run_on_ray}
