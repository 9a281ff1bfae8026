"""The stage `doctor`: are the files what the card says, and does what we read of them make sense?"""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.formats import read_header
from pipeline.data.index import describe_unlisted, read_index, read_test_index, unlisted_test_images
from pipeline.data.integrity import survey_test, survey_train
from pipeline.data.labels import Labels, texts_of
from pipeline.data.reader import AS_SEEN, ImageError, Reader
from pipeline.data.tables import read_rows, read_table
from pipeline.doctor import placement
from pipeline.doctor.dialects import Sample, in_words, judge
from pipeline.doctor.findings import (
    Finding,
    check_masks,
    check_objects,
    check_pixels,
    check_sample,
    check_sizes,
    name_metric,
)
from pipeline.doctor.label_pairs import check_beside
from pipeline.doctor.placement import Verdict, judge_masks
from pipeline.report.overlays import COLUMNS, Panel, write_sheet
from pipeline.rle import Dialect, RLEError
from pipeline.stages.preparing import Paths, check, make_data, turned_images
from pipeline.symmetries import SYMMETRIES

SAMPLE = 150  # training images that the doctor looks at
QUICK = 24  # before a training
TOGETHER = 5  # rows of the table that stay neighbours there: if it is shifted, the right mask is at hand
WRONG = ("other", "shuffled")
LARGEST = 1 << 24  # pixels; larger images are not laid under their masks in seconds


class Examined(NamedTuple):
    """What the doctor says."""

    findings: list[Finding]
    sheet: Path | None

    @property
    def bad(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "bad"]


def doctor(cfg: Config) -> Examined:
    """Look at the competition's files through the card: sample submission, masks, dialect, images.

    Writes: reports/<competition>-doctor.png
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    make_data(card, paths)
    reader = Reader.of(cfg)
    try:
        train = read_index(card, paths.root, cfg.data.skip_bad, reader)
        test = read_test_index(card, paths.root, cfg.data.skip_bad, reader)
    except (ValueError, FileNotFoundError) as error:  # what they refuse is a finding, and not the only one
        return _without_index(card, paths.root, str(error), reader, skip_bad=cfg.data.skip_bad)
    some = _spread(train, SAMPLE)
    verdict = _judge(card, train, SAMPLE, reader)
    findings = [
        name_metric(card),
        *check_sample(card, *_read_sample(card, paths.root)),
        *_unlisted(card, paths.root, test),
        *check_masks(train, card),
        *check_objects(_count_objects(card, train, reader)),
        check_sizes(train, test),
        *_look_at(pd.concat([some, _spread(test, SAMPLE // 3)]), reader),
        *_as_findings(card, train, verdict),
        *check_beside(card, paths.root, train),
    ]
    return Examined(findings, _draw(card, some[some["coverage"] > 0], verdict, reader))


def _without_index(card: Competition, root: Path, refusal: str, reader: Reader, *, skip_bad: bool) -> Examined:
    """All that can be said where the files do not read as the card says: perhaps as what they do."""
    rows, faults = survey_train(card, root, skip_bad, reader)
    faults = list(dict.fromkeys([*faults, *survey_test(card, root, skip_bad, reader)])) or [refusal]
    findings = [name_metric(card), *(Finding("bad", "files", fault) for fault in faults)]
    with suppress(ValueError, FileNotFoundError):  # of a sample that does not read, the faults say so
        findings += check_sample(card, *_read_sample(card, root))
    findings += _look_at(_spread(rows, SAMPLE), reader)
    verdict = _judge(card, rows, SAMPLE, reader)
    if verdict is None or verdict.better is None:
        return Examined(findings, None)
    return Examined([*findings, *_as_findings(card, rows, verdict)], _draw(card, _masked(rows, card), verdict, reader))


def quick_look(card: Competition, index: pd.DataFrame, reader: Reader = AS_SEEN) -> None:
    """What the doctor sees in a second or two: refuses masks that are clearly read in a wrong way.

    Writes: reports/<competition>-doctor.png, if it refuses

    Raises:
        ValueError: with what to write on the card, or to do with the files, and where the picture is.
    """
    verdict = _judge(card, index, QUICK, reader, together=1)
    if verdict and verdict.kind in WRONG:
        sheet = _draw(card, _masked(index, card), verdict, reader)
        raise ValueError(
            f"card {card.name}: {verdict.message}. See {sheet}; if the card is right all the same, train with "
            f'SET="data.doctor=false"'
        )


def _read_sample(card: Competition, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = root / card.files.sample_submission
    return read_table(path, []), read_rows(path, [card.columns], card.classes, rle=False)


def _unlisted(card: Competition, root: Path, test: pd.DataFrame) -> list[Finding]:
    unlisted = unlisted_test_images(card, root, test["image_id"])
    return [Finding("look", "test images", describe_unlisted(card, unlisted))] if unlisted else []


def _spread(index: pd.DataFrame, count: int, together: int = 1) -> pd.DataFrame:
    """Rows evenly spread over the index, in groups of neighbours."""
    if len(index) <= count:
        return index
    first = np.linspace(0, len(index) - together, count // together).astype(int)
    return index.iloc[np.unique(np.add.outer(first, np.arange(together)))]


def _masked(index: pd.DataFrame, card: Competition) -> pd.DataFrame:
    """The rows with a mask that is not empty."""
    if "rle" in index:
        return index[[bool(_texts(row, card.dialect)) for row in index.itertuples()]]
    return index[index["coverage"] > 0] if "coverage" in index else index[:0]


def _count_objects(card: Competition, index: pd.DataFrame, reader: Reader) -> list[int]:
    """Of some images with a mask, where the card has objects."""
    if not card.instances:
        return []
    labels = Labels.of(card, exif=reader.exif)
    found = [labels.read_instances(row) for row in _spread(index[index["coverage"] > 0], QUICK).itertuples()]
    return [len(np.unique(numbers[numbers > 0])) for numbers in found]


def _judge(
    card: Competition, index: pd.DataFrame, count: int, reader: Reader, together: int = TOGETHER
) -> Verdict | None:
    """Whether masks lie on what is in the images: rows of RLE in any dialect, other masks as they are or turned."""
    if not {"rle", "coverage"} & set(index):
        return None
    masked = _masked(index, card)
    rows = _spread(masked.sort_values("line") if "line" in masked else masked, count, together)
    if _has_order(card, index):
        return judge(
            [sample for row in rows.itertuples() if (sample := _sample(row, card.dialect, reader))], card.dialect
        )
    labels = Labels.of(card, exif=reader.exif)
    return judge_masks([sample for row in rows.itertuples() if (sample := _labelled(row, labels, reader))])


def _has_order(card: Competition, index: pd.DataFrame) -> bool:
    """Whether masks are texts of a table whose order of pixels the card declares; outlines have none."""
    return card.files.train_csv is not None and "rle" in index and card.dialect.form != "coco"


def _labelled(row: object, labels: Labels, reader: Reader) -> placement.Sample | None:
    """A grey image with its labels, a number for each class or set of classes; None of one that is not to be judged."""
    try:
        if np.prod(reader.size(row.path)) > LARGEST:
            return None
        image, mask = reader.glance(row.path, channels=1)[..., 0], labels.read(row)
    except (ImageError, RLEError):  # another finding names it
        return None
    sets = mask.reshape(-1, mask.shape[2]).astype(np.int64) @ (1 << np.arange(mask.shape[2]))
    numbers = np.unique(sets, return_inverse=True)[1].reshape(mask.shape[:2]).astype(np.uint8)
    return (image, numbers) if numbers.any() else None  # of one label there is no border


def _sample(row: object, dialect: Dialect, reader: Reader) -> Sample | None:
    """A grey image with the texts of its masks; None of one that is too large, or does not read."""
    try:
        if np.prod(reader.size(row.path)) > LARGEST:
            return None
        return reader.glance(row.path, channels=1)[..., 0], _texts(row, dialect)
    except ImageError:  # another finding names it
        return None


def _texts(row: object, dialect: Dialect) -> list[str]:
    """The texts of an image's masks that are not empty."""
    lines = [line.strip() for text in texts_of(row.rle) for line in text.split("\n")]
    return [line for line in lines if line not in ("", dialect.empty)]


def _as_findings(card: Competition, index: pd.DataFrame, verdict: Verdict | None) -> list[Finding]:
    if verdict is None:
        return []
    level = {"good": "good", "unknown": "look"}.get(verdict.kind, "bad")
    what = "dialect" if _has_order(card, index) else "placement"
    doubts = [Finding("look", what, verdict.doubt)] if verdict.doubt else []
    return [Finding(level, what, verdict.message), *doubts]


def _look_at(rows: pd.DataFrame, reader: Reader) -> list[Finding]:
    pictures, headers, bad = {}, [], []
    for row in rows.itertuples():
        try:
            pictures[row.image_id] = reader.own_values(row.path)
            headers.append(read_header(row.path, exif=False))
        except ImageError as error:
            bad.append(Finding("bad", "image", str(error)))
    turned = turned_images(headers, reader)
    other = f"else set data.exif = {str(not reader.exif).lower()}"
    orientation = [Finding("look", "orientation", f"{turned}: were their masks drawn so? {other}")] if turned else []
    return [*bad, *(check_pixels(pictures) if pictures else []), *orientation]


def _draw(card: Competition, masked: pd.DataFrame, verdict: Verdict | None, reader: Reader) -> Path:
    """Images under their masks, as the card reads them, and as they fit best."""
    shown = list(_spread(masked, COLUMNS).itertuples())
    if _has_order(card, masked):
        sheets = {
            f"as the card reads it: {in_words(card.dialect)}": [_panel(row, card.dialect, reader) for row in shown]
        }
    else:
        labels = Labels.of(card, exif=reader.exif)
        sheets = {
            "as the card reads it": [_picture(row, reader)._replace(target=labels.read_scored(row)) for row in shown]
        }
    if verdict and isinstance(verdict.better, Dialect):
        sheets[f"as it fits better: {in_words(verdict.better)}"] = [
            _panel(row, verdict.better, reader) for row in shown
        ]
    if verdict and isinstance(verdict.better, str):
        view = SYMMETRIES[verdict.better]
        (panels,) = sheets.values()
        turned = [panel._replace(target=np.stack([view(mask) for mask in panel.target])) for panel in panels]
        sheets[f"as it fits better: {verdict.better}"] = turned
    path = Path("reports") / f"{card.name}-doctor.png"
    write_sheet(path, sheets)
    return path


def _picture(row: object, reader: Reader) -> Panel:
    return Panel(row.image_id[:12], reader.glance(row.path, channels=3), None)


def _panel(row: object, dialect: Dialect, reader: Reader) -> Panel:
    """An image with the union of all its texts that decode in a dialect."""
    picture = _picture(row, reader)
    mask = np.zeros(picture.image.shape[:2], dtype=np.uint8)
    for text in _texts(row, dialect):
        with suppress(RLEError):  # of a text that does not decode there is nothing to draw
            mask |= dialect.decode(text, mask.shape)
    return picture._replace(target=mask[None])
