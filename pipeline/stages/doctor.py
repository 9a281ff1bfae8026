"""The stage `doctor`: check that the files match the card, and that images and masks read from them are plausible."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import DRAFTED_SAMPLE, Competition
from pipeline.config import Config
from pipeline.data.index import describe_unlisted, unlisted_test_images
from pipeline.data.integrity import survey_test, survey_train
from pipeline.data.labels import Labels
from pipeline.data.reader import DEFAULT_READER, ImageError, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.tables import read_rows, read_table
from pipeline.doctor.alignment import MaskCheck, check_alignment
from pipeline.doctor.dialects import check_dialect, format_dialect
from pipeline.doctor.findings import (
    Finding,
    check_masks,
    check_objects,
    check_pixels,
    check_sample,
    check_sizes,
    describe_metric,
)
from pipeline.doctor.label_pairs import check_label_sources
from pipeline.report.overlays import PANELS, Panel, write_sheet
from pipeline.rle import Dialect, RLEError
from pipeline.stages.preparing import (
    Paths,
    check,
    describe_turned_images,
    index_test_images,
    index_training_images,
    make_data,
)
from pipeline.symmetries import SYMMETRIES

NUM_IMAGES = 150  # training images that are checked
QUICK_NUM_IMAGES = 24  # training images that are checked before a training
NEIGHBOURS = 5  # consecutive rows of the table that are checked together, so that a shift by a few rows is found
MAX_PIXELS = 1 << 24  # larger images are not compared with their masks, which would take minutes


class DoctorReport(NamedTuple):
    """What the stage `doctor` found."""

    findings: list[Finding]
    sheet: Path | None  # pictures of images with their masks

    @property
    def bad(self) -> list[Finding]:
        """The findings that would spoil a submission."""
        return [finding for finding in self.findings if finding.level == "bad"]


def doctor(cfg: Config) -> DoctorReport:
    """Check the competition's files against the card: sample submission, masks, dialect, images.

    Writes: reports/<competition>-doctor.png
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    make_data(card, paths)
    reader = Reader.of(cfg, card)
    try:
        train = index_training_images(cfg, card, paths)
        test = index_test_images(cfg, card, paths)
    except (ValueError, FileNotFoundError) as error:  # report this error together with all others
        return _check_unreadable(card, paths.root, str(error), reader, skip_bad=cfg.data.skip_bad)
    checked = _spread(train, NUM_IMAGES)
    unlisted = unlisted_test_images(card, paths.root, test["image_id"])
    result = _check_masks(card, train, NUM_IMAGES, reader)
    findings = [
        describe_metric(card),
        *check_sample(card, *_read_sample(card, paths.root)),
        *([Finding("look", "test images", describe_unlisted(card, unlisted))] if unlisted else []),
        *check_masks(train, card),
        *check_objects(_count_objects(card, train, reader)),
        check_sizes(train, test),
        *_check_images(pd.concat([checked, _spread(test, NUM_IMAGES // 3)]), reader),
        *_to_findings(card, train, result),
        *_check_proof(cfg, card, train),
        *check_label_sources(card, paths.root, train),
    ]
    return DoctorReport(findings, _draw_sheet(card, checked[checked["coverage"] > 0], result, reader))


def _check_unreadable(card: Competition, root: Path, error: str, reader: Reader, *, skip_bad: bool) -> DoctorReport:
    """Report all errors of files that cannot be read as the card says, and a correction of the card if one fits."""
    rows, faults = survey_train(card, root, skip_bad, reader)
    faults = list(dict.fromkeys([*faults, *survey_test(card, root, skip_bad, reader)])) or [error]
    findings = [describe_metric(card), *(Finding("bad", "files", fault) for fault in faults)]
    with suppress(ValueError, FileNotFoundError):  # an unreadable sample is among the faults already
        findings += check_sample(card, *_read_sample(card, root))
    findings += _check_images(_spread(rows, NUM_IMAGES), reader)
    result = _check_masks(card, rows, NUM_IMAGES, reader)
    if result is None or result.correction is None:
        return DoctorReport(findings, None)
    return DoctorReport(
        [*findings, *_to_findings(card, rows, result)], _draw_sheet(card, _masked(rows, card), result, reader)
    )


def quick_check(card: Competition, index: pd.DataFrame, reader: Reader = DEFAULT_READER) -> None:
    """Check within seconds whether masks are misread or shuffled, before a training.

    Writes: reports/<competition>-doctor.png, if they are

    Raises:
        ValueError: if they are, with the correction of the card or the files, and the picture's path.
    """
    result = _check_masks(card, index, QUICK_NUM_IMAGES, reader, together=1)
    if result and result.status in ("misread", "shuffled"):
        sheet = _draw_sheet(card, _masked(index, card), result, reader)
        raise ValueError(
            f"card {card.name}: {result.message}. See {sheet}; if the card is right, skip this check with "
            f'SET="data.doctor=false"'
        )


def _read_sample(card: Competition, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = root / card.files.sample_submission
    return read_table(path, []), read_rows(path, [card.columns], card.classes, rle=False)


def _spread(index: pd.DataFrame, count: int, together: int = 1) -> pd.DataFrame:
    """`count` rows evenly spread over the index, in groups of `together` consecutive rows."""
    if len(index) <= count:
        return index
    first = np.linspace(0, len(index) - together, count // together).astype(int)
    return index.iloc[np.unique(np.add.outer(first, np.arange(together)))]


def _masked(index: pd.DataFrame, card: Competition) -> pd.DataFrame:
    """The rows whose mask is not empty."""
    if "rle" in index:
        return index[[bool(_texts(sample, card.dialect)) for sample in samples_of(index)]]
    return index[index["coverage"] > 0] if "coverage" in index else index[:0]


def _count_objects(card: Competition, index: pd.DataFrame, reader: Reader) -> list[int]:
    """The number of objects in each of some images with a mask; [] for a card without instances."""
    if not card.instances:
        return []
    labels = Labels.of(card, exif=reader.exif)
    masked = _spread(index[index["coverage"] > 0], QUICK_NUM_IMAGES)
    found = [labels.read_instances(sample) for sample in samples_of(masked)]
    return [len(np.unique(numbers[numbers > 0])) for numbers in found]


def _check_masks(
    card: Competition, index: pd.DataFrame, count: int, reader: Reader, together: int = NEIGHBOURS
) -> MaskCheck | None:
    """Check that masks are aligned with their images, in the card's dialect for RLE; None if there are no masks."""
    if not {"rle", "coverage"} & set(index):
        return None
    masked = _masked(index, card)
    rows = _spread(masked.sort_values("line") if "line" in masked else masked, count, together)
    previews = _previews(samples_of(rows), reader)
    if _has_order(card, index):
        return check_dialect([(image, _texts(sample, card.dialect)) for sample, image in previews], card.dialect)
    labels = Labels.of(card, exif=reader.exif)
    pairs = ((image, _number_labels(sample, labels)) for sample, image in previews)
    return check_alignment([(image, numbers) for image, numbers in pairs if numbers is not None])


def _has_order(card: Competition, index: pd.DataFrame) -> bool:
    """Whether masks are texts whose pixel order the card declares; outlines and COCO's form have none."""
    return card.files.train_csv is not None and "rle" in index and card.dialect.form != "coco"


def _check_proof(cfg: Config, card: Competition, index: pd.DataFrame) -> list[Finding]:
    """A look at the pixel order of a card of one's own that no file shows; included cards were compared by hand."""
    has_texts = "rle" in index and card.files.train_csv is not None
    is_own = cfg.competition.endswith(".toml") and card.files.sample_submission != DRAFTED_SAMPLE
    if has_texts or not is_own or card.dialect.form == "coco":
        return []
    order = f'order = "{card.dialect.order}", base = {card.dialect.base}'
    return [Finding("look", "dialect", f"no RLE in the files shows that {order} is right: read the evaluation page")]


def _previews(samples: Sequence[Sample], reader: Reader) -> Iterator[tuple[Sample, np.ndarray]]:
    """Samples with their grey images, without those that are too large or cannot be read."""
    for sample in samples:
        with suppress(ImageError):  # reported by another finding
            if np.prod(reader.size(sample)) <= MAX_PIXELS:
                yield sample, reader.preview(sample, channels=1)[..., 0]


def _number_labels(sample: Sample, labels: Labels) -> np.ndarray | None:
    """An image's labels, one number per set of classes; None if they cannot be read or are all background."""
    try:
        mask = labels.read_mask(sample)
    except (ImageError, RLEError):  # reported by another finding
        return None
    sets = mask.reshape(-1, mask.shape[2]).astype(np.int64) @ (1 << np.arange(mask.shape[2]))
    numbers = np.unique(sets, return_inverse=True)[1].reshape(mask.shape[:2]).astype(np.uint8)
    return numbers if numbers.any() else None  # a single label has no outline


def _texts(sample: Sample, dialect: Dialect) -> list[str]:
    """The RLE texts of an image's masks, without the empty ones."""
    lines = [line.strip() for text in sample.rle for line in text.split("\n")]
    return [line for line in lines if line not in ("", dialect.empty)]


LEVELS = {"ok": "good", "inconclusive": "look", "misread": "bad", "shuffled": "bad"}  # by a mask check's status


def _to_findings(card: Competition, index: pd.DataFrame, result: MaskCheck | None) -> list[Finding]:
    if result is None:
        return []
    check = "dialect" if _has_order(card, index) else "alignment"
    warnings = [Finding("look", check, result.warning)] if result.warning else []
    return [Finding(LEVELS[result.status], check, result.message), *warnings]


def _check_images(rows: pd.DataFrame, reader: Reader) -> list[Finding]:
    """Check that images can be read, their values, and their EXIF orientation."""
    pictures, headers, bad = {}, [], []
    for sample in samples_of(rows):
        try:
            pictures[sample.image_id] = reader.read_raw(sample)
            headers.append(reader.stored_header(sample))
        except ImageError as error:
            bad.append(Finding("bad", "image", str(error)))
    rotated = describe_turned_images(headers, reader)
    advice = f"if their masks were not drawn so, set data.exif = {str(not reader.exif).lower()}"
    orientation = [Finding("look", "orientation", f"{rotated}: {advice}")] if rotated else []
    scaled = bool(reader.value_range or reader.percentiles or reader.inputs.outputs)
    return [*bad, *(check_pixels(pictures, scaled=scaled) if pictures else []), *orientation]


def _draw_sheet(card: Competition, masked: pd.DataFrame, result: MaskCheck | None, reader: Reader) -> Path:
    """Write a sheet of images with the outlines of their masks, as the card reads them and as corrected."""
    shown = samples_of(_spread(masked, PANELS))
    if _has_order(card, masked):
        sheets = {f"as the card reads them: {format_dialect(card.dialect)}": _panels(shown, card.dialect, reader)}
    else:
        labels = Labels.of(card, exif=reader.exif)
        panels = [_picture(sample, reader)._replace(target=labels.read_scored(sample)) for sample in shown]
        sheets = {"as the card reads them": panels}
    correction = result.correction if result else None
    if isinstance(correction, Dialect):
        sheets[f"corrected: {format_dialect(correction)}"] = _panels(shown, correction, reader)
    if isinstance(correction, str):
        (panels,), view = sheets.values(), SYMMETRIES[correction]
        turned = [panel._replace(target=np.stack([view(mask) for mask in panel.target])) for panel in panels]
        sheets[f"corrected: {correction}"] = turned
    path = Path("reports") / f"{card.name}-doctor.png"
    write_sheet(path, sheets)
    return path


def _picture(sample: Sample, reader: Reader) -> Panel:
    return Panel(sample.image_id[:12], reader.preview(sample, channels=3), None)


def _panels(samples: Sequence[Sample], dialect: Dialect, reader: Reader) -> list[Panel]:
    """Images with the union of all their texts that can be decoded in a dialect."""
    panels = []
    for sample in samples:
        picture = _picture(sample, reader)
        mask = np.zeros(picture.image.shape[:2], dtype=np.uint8)
        for text in _texts(sample, dialect):
            with suppress(RLEError):  # a text that cannot be decoded is not drawn
                mask |= dialect.decode(text, mask.shape)
        panels.append(picture._replace(target=mask[None]))
    return panels
