"""Who does the work: this process, or the actors of a Ray cluster. A partition may be done twice, and is one file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.ray_cluster import connected, last_line
from pipeline.serving.batch.inputs import Input
from pipeline.serving.batch.partitions import Output
from pipeline.serving.batch.worker import Worker


class Job(NamedTuple):
    """What is to be done."""

    inputs: Sequence[Input]  # all of them
    rows: int  # images per partition
    missing: Sequence[int]  # numbers of partitions
    output: str  # a folder's URL
    weights: Path

    def partition(self, number: int) -> Sequence[Input]:
        """The images of a partition."""
        return self.inputs[number * self.rows : (number + 1) * self.rows]


class Done(NamedTuple):
    """A partition that was written."""

    number: int
    images: int
    problems: int


def work(worker: Worker, output: str, number: int, inputs: Sequence[Input]) -> Done:
    """Predict and write a partition."""
    rows = worker.rows(inputs)
    Output(output).write(number, rows)
    return Done(number, len(inputs), sum(row.problem is not None for row in rows))


def run_here(job: Job, workers: int) -> Iterator[Done]:
    """In this process; others read ahead.

    Args:
        workers: how many do.
    """
    worker = Worker(job.weights, ahead=workers)
    for number in job.missing:
        yield work(worker, job.output, number, job.partition(number))


def run_on_ray(job: Job, workers: int) -> Iterator[Done]:
    """By Ray Data, with a pool of actors that hold the models; what an actor had begun when it died, another does.

    Args:
        workers: actors.

    Raises:
        ValueError: if Ray is not here, there is no cluster, or its machines lack a package or the weights.
    """
    ray = connected()
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    _check_cluster(ray, job.weights)
    items = [
        {"number": number, "ids": [each.image_id for each in inputs], "paths": [each.path for each in inputs]}
        for number, inputs in zip(job.missing, map(job.partition, job.missing), strict=True)
    ]
    pieces = ray.data.from_items(items, override_num_blocks=len(items))
    pool = ray.data.ActorPoolStrategy(size=workers)  # begins anew those that die
    gpus = 1 if ray.cluster_resources().get("GPU") else None  # an actor's own
    done = pieces.map_batches(
        _Actor, batch_size=1, compute=pool, fn_constructor_args=(str(job.weights), job.output), num_gpus=gpus
    )
    try:
        for row in done.iter_rows():
            yield Done(**row)
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray gave up: {last_line(error)}. What is written stays; the same command goes on") from error


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self, weights: str, output: str):
        self.worker, self.output = Worker(Path(weights)), output

    def __call__(self, batch: dict) -> dict:
        done = [
            work(self.worker, self.output, int(number), list(map(Input, ids, paths)))
            for number, ids, paths in zip(batch["number"], batch["ids"], batch["paths"], strict=True)
        ]
        return {name: [getattr(each, name) for each in done] for name in Done._fields}


def _check_cluster(ray: object, weights: Path) -> None:
    """Look from a machine of the cluster, before work is handed out."""
    try:
        ray.get(ray.remote(_look).options(num_cpus=0.1).remote(str(weights)))
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"a machine of the cluster cannot work: {last_line(error.cause)}") from error


def _look(weights: str) -> None:
    from pipeline.serving.bundle import read_bundle

    read_bundle(Path(weights))


EXECUTORS = {"local": run_here, "ray": run_on_ray}
