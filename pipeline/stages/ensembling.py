"""The stage `ensemble`: from the predictions of one or more configs to a checked submission; and `score`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition, postprocess, submission
from pipeline.config import Config
from pipeline.data.index import read_target
from pipeline.ensemble import average
from pipeline.files import write_text
from pipeline.manifest import made_with
from pipeline.metrics import METRICS
from pipeline.progress import track
from pipeline.report.overlays import COLUMNS, Panel, choose_examples, write_sheet
from pipeline.stages.preparing import Prepared, prepare
from pipeline.stages.training import predict_test

MaskOf = Callable[[str], np.ndarray | None]


class Ensembled(NamedTuple):
    """What the stage `ensemble` made."""

    csv: Path
    sheet: Path
    search: postprocess.Search  # its score is in-sample: threshold and area were searched on the same images
    summary: submission.Summary

    @property
    def plain(self) -> float:
        """The OOF score at threshold .5 and without a smallest area."""
        return float(self.search.scores[0, postprocess.HALF])


def ensemble(cfgs: Sequence[Config]) -> Ensembled:
    """Average the configs, search the cut on OOF, write the submission; does all that is missing before.

    Writes: submissions/<name>.csv and .json, reports/<name>.png; the name joins the configs' names with "+"
    """
    members = _members(cfgs)
    test_index, *_ = [predict_test(member) for member in members]
    first, name = members[0], "+".join(cfg.name for cfg in cfgs)
    rows = first.index.merge(first.folds, on="image_id").sort_values(["fold", "image_id"])
    search = _search(members, rows)
    mask_of = _test_masks(members, set(test_index["image_id"]), search.cut)
    csv = Path("submissions") / f"{name}.csv"
    sample = first.paths.root / first.card.files.sample_submission
    done = Ensembled(
        csv,
        Path("reports") / f"{name}.png",
        search,
        submission.write_submission(csv, first.card, sample, mask_of),
    )
    write_text(csv.with_suffix(".json"), json.dumps(_manifest(members, done), indent=1) + "\n")
    panels = _test_panels(first, test_index.head(COLUMNS), mask_of)
    _draw_sheet(done.sheet, members, rows.assign(score=search.image_scores), search.cut, panels)
    return done


def _members(cfgs: Sequence[Config]) -> list[Prepared]:
    """The configs, on one competition and the same folds."""
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) != len(names):
        raise ValueError(f"configs {' '.join(names)}: one is named twice")
    first, *others = [prepare(cfg) for cfg in cfgs]
    for other in others:
        if other.card != first.card:
            raise ValueError(
                f"{other.cfg.name} is for {other.card.name}, {first.cfg.name} for {first.card.name}: nothing to average"
            )
        if not other.folds.equals(first.folds):
            raise ValueError(
                f"{other.cfg.name} and {first.cfg.name} have different folds: their OOF cannot be scored together"
            )
    return [first, *others]


def _search(members: Sequence[Prepared], rows: pd.DataFrame) -> postprocess.Search:
    """The cut that scores best on the averaged OOF predictions of the rows."""
    card, stores = members[0].card, [[member.oof_store()] for member in members]
    tracked = track(rows.itertuples(), "search threshold and area", total=len(rows))
    pairs = ((average(stores, row.image_id)[0], read_target(row, card.dialect)) for row in tracked)
    return postprocess.search(pairs, METRICS[card.metric])


def _test_masks(members: Sequence[Prepared], readable: set[str], cut: postprocess.Cut) -> MaskOf:
    """From a test image's id to its mask; None for an image that could not be read and was left out."""
    stores = [member.test_stores() for member in members]

    def mask_of(image_id: str) -> np.ndarray | None:
        return postprocess.apply(average(stores, image_id)[0], cut) if image_id in readable else None

    return mask_of


def _manifest(members: Sequence[Prepared], done: Ensembled) -> dict[str, Any]:
    """What made a submission."""
    unimportant = {"name": True, "data": {"root", "skip_bad"}}
    return {
        "competition": members[0].card.name,
        "configs": {each.cfg.name: each.cfg.model_dump(mode="json", exclude=unimportant) for each in members},
        "weights": {each.cfg.name: 1 / len(members) for each in members},
        "folds": {each.cfg.name: each.numbers() for each in members},
        **done.search.cut._asdict(),
        "metric": members[0].card.metric,
        "oof_score": done.search.score,
        "oof_score_at_half": done.plain,
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        **made_with(),
    }


def _test_panels(prepared: Prepared, rows: pd.DataFrame, mask_of: MaskOf) -> list[Panel]:
    return [Panel(row.image_id[:10], prepared.reader(row.path), mask_of(row.image_id)) for row in rows.itertuples()]


def _draw_sheet(
    path: Path, members: Sequence[Prepared], rows: pd.DataFrame, cut: postprocess.Cut, test_panels: list[Panel]
) -> None:
    """The best, middling and worst OOF images with truth and prediction, and test images."""
    first, stores = members[0], [[member.oof_store()] for member in members]

    def oof_panel(row: Any) -> Panel:
        mask = postprocess.apply(average(stores, row.image_id)[0], cut)
        title = f"{row.image_id[:10]}  {row.score:.2f}"
        return Panel(title, first.reader(row.path), mask, read_target(row, first.card.dialect))

    chosen = choose_examples(rows[rows["coverage"] > 0])
    panels = {f"OOF, {name}": [oof_panel(row) for row in part.itertuples()] for name, part in chosen.items()}
    write_sheet(path, {**panels, "test": test_panels})


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    return card.metric, *submission.score(card, csv, solution)
