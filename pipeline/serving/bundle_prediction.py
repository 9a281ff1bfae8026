"""A bundle on a test set that nobody has seen: from its images to a CSV that is valid from the first second on.

What cannot be read gets the sample's own text and a line in the log; whatever happens, a valid CSV is there at the end.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.index import describe_unlisted, test_search
from pipeline.ensemble import Objects, combine
from pipeline.files import atomic_write, write_text
from pipeline.prefetch import prefetch
from pipeline.progress import track
from pipeline.serving.budget_plan import Step
from pipeline.serving.bundle import Bundle
from pipeline.serving.single_pass import Load, OnePass, Stores, in_one_line, read_all
from pipeline.serving.time_budget import Watch
from pipeline.submission import Summary, sample_rows, write_submission

log = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """What a pass over the test set did."""

    csv: Path
    summary: Summary
    images: int
    problems: dict[str, str]  # of images that have no prediction
    dropped: list[Step]
    foreseen: float | None  # seconds in all, when it was first foreseen; None: no budget, or too few images
    seconds: float
    lost: list[str]  # ids of the sample's images that are not in the test folder
    unlisted: list[str]  # ids of test images that have no row in the sample, and are not predicted

    @property
    def per_image(self) -> float:
        """Seconds."""
        return self.seconds / max(1, self.images)

    def notes(self, card: Competition) -> list[str]:
        """A line for each way in which the test folder and the sample submission are not of the same images."""
        notes = []
        if not self.images:
            notes.append(f"{card.files.sample_submission} has no row: the submission is the header alone")
        if self.lost:
            notes.append(
                f"{len(self.lost)} of {self.images} images of {card.files.sample_submission} are not in "
                f"{card.files.test_images}/, the first is '{self.lost[0]}': their rows keep the sample's text"
            )
        return [*notes, describe_unlisted(card, self.unlisted)] if self.unlisted else notes


class InTurn:
    """Answers for one image after the other out of a stream in the sample's order; keeps what is asked for again.

    Args:
        draw: from an image's stores to its masks, or objects.
        again: images whose rows do not all follow each other.
        note: takes an image that could not be drawn, and why.
    """

    def __init__(
        self,
        stream: Iterator[tuple[str, Stores | None]],
        draw: Callable[[Stores], np.ndarray],
        again: set[str],
        note: Callable[[str, str], None],
    ):
        self._stream, self._draw, self._again, self._note = stream, draw, again, note
        self._kept: dict[str, np.ndarray | None] = {}
        self.stores: Stores | None = None  # of the image that was asked for last

    def __call__(self, image_id: str) -> np.ndarray | None:
        if image_id in self._kept:
            return self._kept[image_id]
        found, self.stores = next(self._stream, (image_id, None))
        if found != image_id:
            raise RuntimeError(f"the images come in another order than the rows: '{found}' in place of '{image_id}'")
        drawn = None if self.stores is None else self._drawn(image_id, self.stores)
        if image_id in self._again:
            self._kept[image_id] = drawn
        return drawn

    def _drawn(self, image_id: str, stores: Stores) -> np.ndarray | None:
        try:
            return self._draw(stores)
        except Exception as error:  # one odd image must not cost the others
            self._note(image_id, in_one_line(error))
            return None


def predict_test(
    bundle: Bundle, root: Path, csv: Path, *, budget: float | None = None, workers: int = 0, load: Load | None = None
) -> Predicted:
    """Predict the test images in a folder of the competition's files, and write the submission.

    Writes: csv, at first as the sample submission; and beside it, with the suffix .json, what happened

    Args:
        root: where the card's paths start.
        budget: seconds; where they are too few, views and folds are dropped by the bundle's steps, and once they are
            spent the images that are left keep the sample's text. None: as long as it takes.
        workers: processes that read ahead.
        load: from a config and the fold held out to a model; None: as the bundle holds it.

    Raises:
        FileNotFoundError, ValueError: if the sample submission is missing, or is not what the card says.
    """
    card, watch = bundle.card, Watch(0, budget)
    sample = root / card.files.sample_submission
    rows = sample_rows(card, sample)
    with atomic_write(csv) as unfinished:
        shutil.copyfile(sample, unfinished)
    files = test_search(card, root).find(hidden=True)
    places = [(image_id, files.get(image_id)) for image_id in rows["image_id"].unique()]  # each once, in their order
    watch.images = len(places)
    lost = [image_id for image_id, path in places if path is None]
    log.info("predicting %d images, those of %s", len(places) - len(lost), card.files.sample_submission)
    run = OnePass(bundle, load or bundle.predictor, watch)
    items = track(read_all(places, run.readers, workers), "predict", total=len(places))
    # The models look at the next images while the masks of these are drawn, encoded and written.
    in_turn = InTurn(_to_the_end(prefetch(run(items))), partial(draw, bundle), _scattered(rows["image_id"]), run.note)
    summary = write_submission(csv, card, sample, in_turn, partial(_confidences, bundle, in_turn), placeholders=True)
    missing = {image_id: "not reached" for image_id, _ in places[run.reached :]}
    done = Predicted(
        csv,
        summary,
        len(places),
        missing | run.problems,
        run.dropped,
        watch.foreseen,
        watch.elapsed,
        lost,
        sorted(files.keys() - set(rows["image_id"])),
    )
    for note in done.notes(card):
        log.warning("%s", note)
    write_text(csv.with_suffix(".json"), json.dumps(_record(done), indent=1) + "\n")
    return done


def _scattered(ids: pd.Series) -> set[str]:
    """Ids whose rows do not all follow each other."""
    starts = ids[ids != ids.shift()]
    return set(starts[starts.duplicated()])


def _to_the_end(stream: Iterator[tuple[str, Stores | None]]) -> Iterator[tuple[str, Stores | None]]:
    """The stream as far as it goes: what breaks it costs the images that are left, and not the night."""
    try:
        yield from stream
    except Exception:
        log.exception("the prediction broke off: the images that are left keep the sample's text")


def _blend_by(stores: Stores, how: str, weights: tuple[float, ...]) -> np.ndarray:
    return combine(stores, "", how, np.array(weights))


def draw(bundle: Bundle, stores: Stores) -> np.ndarray:
    """Masks (C, H, W), or objects (H, W), of one image's predictions, by what was chosen on OOF."""
    drawer, blend_by = bundle.drawer, partial(_blend_by, stores)
    return drawer.labels(blend_by) if isinstance(drawer, Objects) else drawer.masks(blend_by)


def _confidences(bundle: Bundle, in_turn: InTurn, image_id: str, labels: np.ndarray) -> np.ndarray:
    return bundle.drawer.confidences(partial(_blend_by, in_turn.stores), labels)


def _record(done: Predicted) -> dict[str, object]:
    return {
        "images": done.images,
        "images_without_file": len(done.lost),
        "test_images_without_row": len(done.unlisted),
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        "seconds": round(done.seconds, 3),
        "foreseen": done.foreseen,
        "dropped": [step.model_dump() for step in done.dropped],
        "problems": done.problems,
    }
