"""Executors of batch inference: this process, or the actors of a Ray cluster.

A partition may be predicted twice, for example after a crash, but is always one complete file.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.ray_cluster import connect, last_line
from pipeline.serving.batch.inputs import make_inputs
from pipeline.serving.batch.neighbours import Neighbours
from pipeline.serving.batch.partitions import Output
from pipeline.serving.batch.worker import Worker


class BatchJob(NamedTuple):
    """The partitions to predict."""

    inputs: pd.DataFrame  # of all partitions, as `list_inputs` returns them
    rows: int  # images per partition
    missing: Sequence[int]  # numbers of the partitions to predict
    output: str  # URL of a folder
    weights: Path
    neighbours: Callable[[pd.DataFrame], Neighbours]  # of the images of a partition, see `find_neighbours`

    def partition(self, number: int) -> pd.DataFrame:
        """The images of a partition."""
        return self.inputs[number * self.rows : (number + 1) * self.rows]


class PartitionResult(NamedTuple):
    """A partition that was written."""

    number: int
    images: int
    problems: int


def predict_partition(
    worker: Worker, output: str, number: int, inputs: pd.DataFrame, neighbours: Neighbours
) -> PartitionResult:
    """Predict the images of a partition, and write it."""
    rows = worker.rows(inputs, neighbours)
    Output(output).write(number, rows)
    return PartitionResult(number, len(inputs), sum(row.problem is not None for row in rows))


def run_locally(job: BatchJob, workers: int) -> Iterator[PartitionResult]:
    """Predict in this process.

    Args:
        workers: processes that read ahead.
    """
    worker = Worker(job.weights, workers)
    for number in job.missing:
        inputs = job.partition(number)
        yield predict_partition(worker, job.output, number, inputs, job.neighbours(inputs))


def run_on_ray(job: BatchJob, workers: int) -> Iterator[PartitionResult]:
    """Predict with Ray Data and a pool of actors that keep the models; a dead actor's partition is predicted again.

    Args:
        workers: number of actors.

    Raises:
        ValueError: if Ray is not installed, there is no cluster, or its machines lack a package or the weights.
    """
    ray = connect()
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    _check_cluster(ray, job.weights)
    items = [_Item.of(job, number)._asdict() for number in job.missing]
    blocks = ray.data.from_items(items, override_num_blocks=len(items))
    pool = ray.data.ActorPoolStrategy(size=workers)  # restarts dead actors
    gpus = 1 if ray.cluster_resources().get("GPU") else None  # per actor
    done = blocks.map_batches(
        _Actor, batch_size=1, compute=pool, fn_constructor_args=(str(job.weights), job.output), num_gpus=gpus
    )
    try:
        for row in done.iter_rows():
            yield PartitionResult(**row)
    except ray.exceptions.RayError as error:
        reason = last_line(error)
        raise ValueError(f"Ray failed: {reason}. Partitions that are written stay: run it again to resume") from error


class _Item(NamedTuple):
    """A partition as Ray sends it."""

    number: int
    image_id: list[str]
    path: list[str]
    outside_id: list[str]
    outside_path: list[str]
    neighbours: str  # their ids, in JSON

    @classmethod
    def of(cls, job: BatchJob, number: int) -> "_Item":
        inputs = job.partition(number)
        outside, ids = job.neighbours(inputs)
        columns = (table[name].tolist() for table in (inputs, outside) for name in ("image_id", "path"))
        return cls(number, *columns, json.dumps(ids))


class _Actor:
    """A worker in a Ray process."""

    def __init__(self, weights: str, output: str):
        self.worker, self.output = Worker(Path(weights)), output

    def __call__(self, batch: dict) -> dict:
        done = [
            predict_partition(
                self.worker,
                self.output,
                int(item.number),
                make_inputs(item.path, item.image_id),
                Neighbours(make_inputs(item.outside_path, item.outside_id), json.loads(item.neighbours)),
            )
            for item in map(_Item, *(batch[name] for name in _Item._fields))
        ]
        return {name: [getattr(each, name) for each in done] for name in PartitionResult._fields}


def _check_cluster(ray: object, weights: Path) -> None:
    """Read the bundle on a machine of the cluster before any partition is scheduled."""
    try:
        ray.get(ray.remote(_check_bundle).options(num_cpus=0.1).remote(str(weights)))
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"a machine of the cluster cannot predict: {last_line(error.cause)}") from error


def _check_bundle(weights: str) -> None:
    from pipeline.serving.bundle import read_bundle

    read_bundle(Path(weights))


EXECUTORS = {"local": run_locally, "ray": run_on_ray}
