"""Predicts a hidden test set with a bundle and writes a submission that is valid at every moment.

The sample submission is copied first, so a valid CSV exists from the first second. An image that cannot be read or
predicted keeps the sample's value and is logged.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import describe_unlisted, read_test_meta, test_search
from pipeline.data.sample import Sample
from pipeline.data.series import NeighbourFinder
from pipeline.ensemble.combine import combine_by, read_heads
from pipeline.files import atomic_write, write_text
from pipeline.postprocess.shares import Place
from pipeline.prefetch import prefetch
from pipeline.progress import track
from pipeline.serving.budget_plan import Fallback
from pipeline.serving.bundle import Bundle
from pipeline.serving.single_pass import LoadModel, SinglePass, Stores, one_line
from pipeline.serving.spool import spool
from pipeline.serving.time_budget import TimeBudget
from pipeline.submission import SubmissionSummary, sample_rows, write_submission

log = logging.getLogger(__name__)

Groups = Mapping[str, str]  # by image id, without images of which it is missing
NO_GROUPS: Groups = MappingProxyType({})


class PredictionResult(NamedTuple):
    """The outcome of predicting a test set."""

    csv: Path
    summary: SubmissionSummary
    images: int
    problems: dict[str, str]  # image id -> why it has no prediction
    dropped: list[Fallback]
    first_estimate: float | None  # seconds in all; None: without a budget, or with too few images
    seconds: float
    images_without_file: list[str]  # ids in the sample submission that have no file in the test folder
    files_without_row: list[str]  # ids of test images that have no row in the sample submission; not predicted

    @property
    def seconds_per_image(self) -> float:
        """Mean seconds per image."""
        return self.seconds / max(1, self.images)

    def warnings(self, card: Competition) -> list[str]:
        """One line per difference between the test folder and the sample submission."""
        warnings = []
        if not self.images:
            warnings.append(f"{card.files.sample_submission} has no row: the submission is the header alone")
        if self.images_without_file:
            warnings.append(
                f"{len(self.images_without_file)} of {self.images} images of {card.files.sample_submission} are not in "
                f"{card.files.test_images}/, the first is '{self.images_without_file[0]}': their rows keep the "
                f"sample's value"
            )
        return [*warnings, describe_unlisted(card, self.files_without_row)] if self.files_without_row else warnings


class OrderedPredictions:
    """Returns the masks of one image after the other from a stream that is in the order of the sample's rows.

    Args:
        stream: id and predictions of each image.
        render: from an image's id and predictions, as in the stream, to its masks, or objects; None if it has none.
        repeated: ids that are asked for again after another id; their masks are kept.
    """

    def __init__(
        self,
        stream: Iterator[tuple[str, Stores | None]],
        render: Callable[[str, Stores | None], np.ndarray | None],
        repeated: set[str],
    ):
        self._stream, self._render, self._repeated = stream, render, repeated
        self._kept: dict[str, np.ndarray | None] = {}
        self.stores: Stores | None = None  # of the image that was asked for last

    def __call__(self, image_id: str) -> np.ndarray | None:
        """Masks (C, H, W), or objects (H, W), of an image; None if it has no prediction.

        Raises:
            RuntimeError: if the next image of the stream is another one.
        """
        if image_id in self._kept:
            return self._kept[image_id]
        found, self.stores = next(self._stream, (image_id, None))
        if found != image_id:
            raise RuntimeError(f"predictions and rows are in different order: got '{found}', expected '{image_id}'")
        masks = self._render(image_id, self.stores)
        if image_id in self._repeated:
            self._kept[image_id] = masks
        return masks


def predict_test(
    bundle: Bundle,
    root: Path,
    csv: Path,
    *,
    budget: float | None = None,
    workers: int = 0,
    load: LoadModel | None = None,
) -> PredictionResult:
    """Predict the test images of a competition, and write the submission.

    Writes: csv, which starts as a copy of the sample submission; next to it, with the suffix .json, a report

    Args:
        root: the folder that the card's paths are relative to.
        budget: seconds. If they are not enough, views and folds are dropped by the bundle's fallbacks; images that are
            not reached in time keep the sample's value. None: unlimited.
        workers: processes that read ahead.
        load: from a config and a held-out fold to a model; None: from the bundle's files.

    Raises:
        FileNotFoundError, ValueError: if the sample submission is missing, or does not match the card.
    """
    card, time_budget = bundle.card, TimeBudget(0, budget)
    sample = root / card.files.sample_submission
    rows = sample_rows(card, sample)
    with atomic_write(csv) as unfinished:
        shutil.copyfile(sample, unfinished)
    sources = test_search(card, root).find_sources(hidden=True)
    files = {image_id: Sample(image_id, paths) for image_id, paths in sources.items()}
    images = [(image_id, files.get(image_id)) for image_id in rows["image_id"].unique()]  # once each, in row order
    time_budget.images = len(images)
    without_file = [image_id for image_id, file in images if file is None]
    log.info("predicting %d images of %s", len(images) - len(without_file), card.files.sample_submission)
    run = SinglePass(bundle, load or bundle.predictor, time_budget)
    without_row = sorted(files.keys() - set(rows["image_id"]))
    finders = {each: NeighbourFinder(each, files.values()) for each in {reader.series for reader in run.reader_of}}
    items = track(run.read(images, workers, finders), "predict", total=len(images))
    # The models predict the next images while masks are rendered, encoded and written.
    groups = _read_groups(bundle, root, files.keys())
    stream, render = _until_error(prefetch(run(items))), partial(render_or_none, bundle, run, groups=groups)
    if bundle.renderer.pooled:
        stream, render = _after_the_last(bundle, run, stream, groups)
    masks_of = OrderedPredictions(stream, render, _scattered(rows["image_id"]))
    summary = write_submission(csv, card, sample, masks_of, partial(_confidences, bundle, masks_of), placeholders=True)
    not_reached = {image_id: "not reached" for image_id, _ in images[run.reached :]}
    result = PredictionResult(
        csv,
        summary,
        len(images),
        not_reached | run.problems,
        run.dropped,
        time_budget.first_estimate,
        time_budget.elapsed,
        without_file,
        without_row,
    )
    for warning in result.warnings(card):
        log.warning("%s", warning)
    write_text(csv.with_suffix(".json"), json.dumps(_report(result), indent=1) + "\n")
    return result


def _scattered(ids: pd.Series) -> set[str]:
    """Ids whose rows are not consecutive."""
    starts = ids[ids != ids.shift()]
    return set(starts[starts.duplicated()])


def _until_error(stream: Iterator[tuple[str, Stores | None]]) -> Iterator[tuple[str, Stores | None]]:
    """Yield from a stream until it ends or fails; an error is logged, and the images after it are missing."""
    try:
        yield from stream
    except Exception:
        log.exception("the prediction failed: the remaining images keep the sample's value")


def _after_the_last(
    bundle: Bundle, run: SinglePass, stream: Iterator[tuple[str, Stores | None]], groups: Groups
) -> tuple[Iterator[tuple[str, np.ndarray | None]], Callable[[str, np.ndarray | None], np.ndarray | None]]:
    """All combined predictions, and their rendering with thresholds that are shares of several images."""

    places: dict[str, Place] = {}

    def combine_or_none(image_id: str, stores: Stores | None) -> np.ndarray | None:
        if stores is None:
            return None
        places[image_id] = _place(bundle, image_id, stores, groups)
        return _or_problem(run, image_id, lambda: _combine(bundle, stores))

    combined = ((image_id, combine_or_none(image_id, stores)) for image_id, stores in stream)
    kept, renderer_of = spool(combined, bundle.renderer, places.__getitem__, run.add_problem)

    def render(image_id: str, values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else _or_problem(run, image_id, lambda: renderer_of(image_id).render(values))

    return kept, render


def _or_problem(run: SinglePass, image_id: str, compute: Callable[[], np.ndarray]) -> np.ndarray | None:
    """The result of a computation on one image; None if it fails, with the reason in the run's problems."""
    try:
        return compute()
    except Exception as error:  # the other images are still rendered
        run.add_problem(image_id, one_line(error))
        return None


def _combine(bundle: Bundle, stores: Stores) -> np.ndarray:
    return bundle.renderer.combine_with(lambda weighting: combine_by(weighting, stores, ""))


def _place(bundle: Bundle, image_id: str, stores: Stores, groups: Groups) -> Place:
    return Place(None, bundle.card.volume_of(image_id), read_heads(stores, image_id), groups.get(image_id))


def _read_groups(bundle: Bundle, root: Path, images: Set[str]) -> dict[str, str]:
    """The groups of test images, if the bundle has thresholds by group; images without one are counted in the log."""
    if not bundle.renderer.grouped:
        return {}
    column, groups = bundle.cfgs[0].ensemble.group, {}
    try:
        groups = read_test_meta(bundle.card, root, column)
    except (OSError, ValueError) as error:  # hidden test data may have another table, or none
        log.warning("%s", error)
    if unknown := sorted(images - groups.keys()):
        log.warning(
            "%d of %d test images have no %s, the first is '%s': they have the common threshold",
            *(len(unknown), len(images), column, unknown[0]),
        )
    return groups


def render_or_none(
    bundle: Bundle, run: SinglePass, image_id: str, stores: Stores | None, groups: Groups = NO_GROUPS
) -> np.ndarray | None:
    """Masks (C, H, W), or objects (H, W), of one image's predictions, by the bundle's post-processing.

    Args:
        groups: by image id; not needed unless the post-processing has thresholds by group.

    Returns:
        None without predictions, or if they cannot be rendered; the run then has the reason in its problems.
    """
    if stores is None:
        return None
    renderer = bundle.renderer.at_place(_place(bundle, image_id, stores, groups))
    return _or_problem(run, image_id, lambda: renderer.render(_combine(bundle, stores)))


def _confidences(bundle: Bundle, predictions: OrderedPredictions, image_id: str, labels: np.ndarray) -> np.ndarray:
    return bundle.renderer.confidences(_combine(bundle, predictions.stores), labels)


def _report(result: PredictionResult) -> dict[str, object]:
    return {
        "images": result.images,
        "images_without_file": len(result.images_without_file),
        "test_images_without_row": len(result.files_without_row),
        "rows": result.summary.rows,
        "empty_rows": result.summary.empty,
        "seconds": round(result.seconds, 3),
        "estimated_seconds": result.first_estimate,
        "dropped": [fallback.model_dump() for fallback in result.dropped],
        "problems": result.problems,
    }
