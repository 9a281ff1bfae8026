"""The stage `batch-predict`: predicts any number of images with a bundle, and writes Parquet."""

import hashlib
import logging
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from pipeline.progress import track
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean
from pipeline.serving.batch.executors import EXECUTORS, BatchJob
from pipeline.serving.batch.inputs import list_inputs
from pipeline.serving.batch.neighbours import find_neighbours, series_of
from pipeline.serving.batch.partitions import Output, count_partitions
from pipeline.serving.bundle import RECORD_FILE, Bundle, read_bundle

log = logging.getLogger(__name__)


class BatchResult(NamedTuple):
    """The outcome of a batch prediction."""

    output: str
    images: int  # of all partitions
    done_before: int  # partitions
    partitions: int
    problems: int  # images of this run without a mask
    predicted: int  # images of this run
    seconds: float


def batch_predict(
    weights: Path, source: str, output: str, *, executor: str = "local", workers: int = 0, rows: int = 1000
) -> BatchResult:
    """Predict images with a bundle; an interrupted run resumes with the missing partitions.

    Writes: <output>/part-000000.parquet, …, and <output>/_plan.json, which identifies images and bundle

    Args:
        weights: the bundle's folder of weights.
        source: a glob pattern, or a .parquet with a column path; on local disk or at any fsspec URL.
        output: a folder, on local disk or at any fsspec URL.
        executor: a name in `serving.batch.executors.EXECUTORS`.
        workers: processes that read ahead if executor is "local"; actors if it is "ray".
        rows: images per partition.

    Raises:
        FileNotFoundError: if the bundle or the images are missing.
        ValueError: for an unknown executor, an output folder of another prediction, or as `find_neighbours`.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"unknown executor '{shortened(executor)}'. {did_you_mean(executor, EXECUTORS)}")
    started, bundle, folder = monotonic(), read_bundle(weights), Output(output)
    _refuse_shares(bundle, weights)
    _refuse_groups(bundle, weights)
    inputs = list_inputs(source, bundle.card.files.channel_paths)
    neighbours = find_neighbours(inputs, series_of(bundle))
    bundle_hash = hashlib.sha256((weights / RECORD_FILE).read_bytes()).hexdigest()[:16]
    folder.start(inputs, bundle_hash, rows)
    count = count_partitions(len(inputs), rows)
    missing = folder.missing(count)
    log.info("%d images in %d partitions, %d to do", len(inputs), count, len(missing))
    job = BatchJob(inputs, rows, missing, folder.url, weights.resolve(), neighbours)
    done = []
    if missing:
        running = EXECUTORS[executor](job, workers if executor == "local" else max(1, workers))
        done = list(track(running, "partitions", total=len(missing)))
    problems, predicted = sum(each.problems for each in done), sum(each.images for each in done)
    return BatchResult(output, len(inputs), count - len(missing), count, problems, predicted, monotonic() - started)


def _refuse_shares(bundle: Bundle, weights: Path) -> None:
    """Raise ValueError if the masks of an image depend on all images, of which a partition has a part."""
    if bundle.renderer.pooled:
        raise ValueError(
            f"{weights}: the threshold is a share of a test set or volume (share_in in {RECORD_FILE}), of which a "
            f'partition has only a part: predict with the command run-bundle, or set ensemble.shares = ["image"] and '
            f"run make ensemble and make bundle again"
        )


def _refuse_groups(bundle: Bundle, weights: Path) -> None:
    """Raise ValueError if the masks of an image depend on its row of a meta table, which images alone do not have."""
    if bundle.renderer.grouped:
        raise ValueError(
            f"{weights}: thresholds depend on the column {bundle.cfgs[0].ensemble.group} of "
            f"{bundle.card.files.test_meta} (by_group in {RECORD_FILE}), which images alone do not have: predict with "
            f"the command run-bundle, or remove ensemble.group and run make ensemble and make bundle again"
        )
