"""The stage `predict-many`: a bundle on any number of images, to Parquet."""

import hashlib
import logging
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from pipeline.progress import track
from pipeline.schema import did_you_mean
from pipeline.serving.batch.executors import EXECUTORS, Job
from pipeline.serving.batch.inputs import list_inputs
from pipeline.serving.batch.partitions import Output, count_partitions
from pipeline.serving.bundle import RECORD, read_bundle

log = logging.getLogger(__name__)


class PredictedMany(NamedTuple):
    """What a run over many images did."""

    output: str
    images: int  # in all
    done_before: int  # partitions
    partitions: int
    problems: int  # of this run's images
    predicted: int  # images, in this run
    seconds: float


def predict_many(
    weights: Path, source: str, output: str, *, executor: str = "local", workers: int = 0, rows: int = 1000
) -> PredictedMany:
    """Predict images with a bundle; a run that was cut off goes on with the partitions that are missing.

    Writes: <output>/part-000000.parquet, …, and _plan.json, what they are of

    Args:
        weights: the bundle's folder of weights.
        source: a glob pattern, or a .parquet of paths; on local disk or behind any fsspec URL.
        output: a folder, likewise.
        engine: a name in `serving.batch.executors.EXECUTORS`.
        workers: here, processes that read ahead; on Ray, actors.
        rows: images per partition.

    Raises:
        FileNotFoundError, ValueError: for a bundle or images that are not there, or an output of something else.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{executor}'. {did_you_mean(executor, EXECUTORS)}")
    started, inputs, folder = monotonic(), list_inputs(source), Output(output)
    read_bundle(weights)
    folder.start(inputs, _model(weights), rows)
    count = count_partitions(len(inputs), rows)
    missing = folder.missing(count)
    log.info("%d images in %d partitions, %d to do", len(inputs), count, len(missing))
    job = Job(inputs, rows, missing, folder.url, weights.resolve())
    done = []
    if missing:
        running = EXECUTORS[executor](job, workers if executor == "local" else max(1, workers))
        done = list(track(running, "partitions", total=len(missing)))
    problems, predicted = sum(each.problems for each in done), sum(each.images for each in done)
    return PredictedMany(output, len(inputs), count - len(missing), count, problems, predicted, monotonic() - started)


def _model(weights: Path) -> str:
    """What tells a bundle from another: its record, which says what was chosen and of what it was made."""
    return hashlib.sha256((weights / RECORD).read_bytes()).hexdigest()[:16]
