"""The stage `doctor`: are the files what the card says, and does what we read of them make sense?"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.formats import read_pixels
from pipeline.data.images import ImageError, glance
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.tables import read_rows, read_table
from pipeline.doctor.dialects import Verdict, judge
from pipeline.doctor.findings import Finding, check_masks, check_pixels, check_sample, check_sizes
from pipeline.report.overlays import COLUMNS, Panel, write_sheet
from pipeline.rle import Dialect
from pipeline.stages.preparing import Paths, check, make_data

SAMPLE = 60  # training images that the doctor looks at
QUICK = 24  # before a training


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
    try:
        train = read_index(card, paths.root, cfg.data.skip_bad)
        test = read_test_index(card, paths.root, cfg.data.skip_bad)
    except (ValueError, FileNotFoundError) as error:  # what they refuse is the finding
        return Examined([Finding("bad", "files", str(error))], None)
    some = _spread(train, SAMPLE)
    verdict = _judge(card, some)
    findings = [
        *check_sample(card, *_read_sample(card, paths.root)),
        *check_masks(train, card),
        check_sizes(train, test),
        *_look_at(pd.concat([some, _spread(test, SAMPLE // 3)])),
        *([] if verdict is None else [_as_finding(verdict)]),
    ]
    sheet = Path("reports") / f"{card.name}-doctor.png"
    _draw(sheet, card, some, verdict)
    return Examined(findings, sheet)


def quick_look(card: Competition, index: pd.DataFrame) -> None:
    """What the doctor sees in a second: refuses a dialect that another one fits clearly better.

    Raises:
        ValueError: with what to write on the card.
    """
    verdict = _judge(card, _spread(index, QUICK))
    if verdict and verdict.kind in ("other", "unrelated"):
        raise ValueError(f"card {card.name}: {verdict.message}. make doctor shows it; --no-doctor trains all the same")


def _read_sample(card: Competition, root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    path = root / card.files.sample_submission
    return read_table(path, []), read_rows(path, [card.columns], card.classes, rle=False)


def _spread(index: pd.DataFrame, count: int) -> pd.DataFrame:
    """Rows evenly spread over the index."""
    return index.iloc[np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).astype(int))]


def _judge(card: Competition, rows: pd.DataFrame) -> Verdict | None:
    """Whether masks in the card's dialect lie on edges of the images; None where masks are images."""
    if "rle" not in rows:
        return None
    filled = rows[rows["coverage"] > 0]
    return judge([(glance(row.path, channels=1)[..., 0], _texts(row)) for row in filled.itertuples()], card.dialect)


def _texts(row: object) -> list[str]:
    classes = [row.rle] if isinstance(row.rle, str) else row.rle
    return [line for text in classes for line in text.split("\n") if line.strip()]


def _as_finding(verdict: Verdict) -> Finding:
    level = {"good": "good", "unknown": "look"}.get(verdict.kind, "bad")
    return Finding(level, "dialect", verdict.message)


def _look_at(rows: pd.DataFrame) -> list[Finding]:
    pictures, bad = {}, []
    for row in rows.itertuples():
        try:
            pictures[row.image_id] = read_pixels(row.path)
        except ImageError as error:
            bad.append(Finding("bad", "image", str(error)))
    return [*bad, *(check_pixels(pictures) if pictures else [])]


def _draw(path: Path, card: Competition, rows: pd.DataFrame, verdict: Verdict | None) -> None:
    """Images under their masks, as the card reads them, and as the dialect that fits best does."""
    shown = rows[rows["coverage"] > 0].head(COLUMNS)
    labels = Labels.of(card)
    sheets = {"as the card reads it": [_panel(row, labels.read_scored(row)) for row in shown.itertuples()]}
    if verdict and verdict.kind == "other":
        best = verdict.fits[0]
        other = Dialect(best.order, best.base, best.relative, card.dialect.empty)
        sheets[f"as it fits better: {verdict.message}"] = [
            _panel(row, _masks(row, other)) for row in shown.itertuples()
        ]
    write_sheet(path, sheets)


def _panel(row: object, masks: np.ndarray) -> Panel:
    return Panel(row.image_id[:12], glance(row.path, channels=3), None, masks)


def _masks(row: object, dialect: Dialect) -> np.ndarray:
    """The union of all texts that decode in a dialect, (1, H, W)."""
    mask = np.zeros((row.height, row.width), dtype=np.uint8)
    for text in _texts(row):
        try:
            mask |= dialect.decode(text, mask.shape)
        except ValueError:  # of a text that does not decode there is nothing to draw
            continue
    return mask[None]
