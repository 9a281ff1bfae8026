"""The stage `ensemble`: from the predictions of one or more configs to a checked submission; and `score`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition, postprocess, submission
from pipeline.bootstrap import Difference, Interval, interval, paired
from pipeline.config import Config
from pipeline.data.index import read_target
from pipeline.ensemble import Choice, Chosen, Oof, choose, combine
from pipeline.files import whole, write_text
from pipeline.manifest import made_with
from pipeline.metrics import METRICS
from pipeline.progress import track
from pipeline.report.overlays import COLUMNS, Panel, choose_examples, write_sheet
from pipeline.stages.preparing import Prepared, prepare
from pipeline.stages.training import predict_test

MaskOf = Callable[[str], np.ndarray | None]


class Single(NamedTuple):
    """One member alone, with a cut of its own."""

    name: str
    weight: float  # in the ensemble
    by_log_loss: float  # the weight that fits the pixels' log loss best, as a check
    score: float  # cross-fitted


class Ensembled(NamedTuple):
    """What the stage `ensemble` made, and what it is worth."""

    csv: Path
    sheet: Path
    choice: Choice
    honest: Interval  # of the cross-fitted score; over groups where there are groups
    in_sample: float
    at_half: float
    singles: list[Single]
    gain: Difference | None  # over the best member alone, both cross-fitted; None for one member
    summary: submission.Summary

    @property
    def manifest(self) -> Path:
        """The file that says how the submission was made."""
        return self.csv.with_suffix(".json")

    @property
    def optimism(self) -> float:
        """By how much the in-sample score flatters."""
        return self.in_sample - self.honest.mean


def ensemble(cfgs: Sequence[Config]) -> Ensembled:
    """Choose combination, weights and cut on OOF, write the submission; does all that is missing before.

    Writes: submissions/<name>.csv, .json, .oof.csv (the cross-fitted score of each training image), reports/<name>.png;
    the name joins the configs' names with "+"
    """
    members = load_members(cfgs)
    test_index, *_ = [predict_test(member) for member in members]
    first, name = members[0], ensemble_name(cfgs)
    rows = oof_rows(members)
    chosen, alone = choose_members(members, rows)
    scores, groups = chosen.fitted.scores, rows["group"].to_numpy()
    mask_of = test_masks(members, set(test_index["image_id"]), chosen.shipped)
    csv = Path("submissions") / f"{name}.csv"
    done = Ensembled(
        csv,
        Path("reports") / f"{name}.png",
        chosen.shipped,
        interval(scores, groups),
        chosen.fitted.in_sample,
        chosen.at_half(),
        _singles(members, chosen, alone),
        _gain(scores, alone, groups),
        submission.write_submission(csv, first.card, first.paths.root / first.card.files.sample_submission, mask_of),
    )
    _write_scores(csv.with_suffix(".oof.csv"), rows.assign(score=scores))
    write_text(done.manifest, json.dumps(_manifest(members, done), indent=1) + "\n")
    panels = _test_panels(first, test_index.head(COLUMNS), mask_of)
    _draw_sheet(done.sheet, members, rows.assign(score=scores), chosen.shipped, panels)
    return done


def ensemble_name(cfgs: Sequence[Config]) -> str:
    """What files of several configs together are called."""
    return "+".join(cfg.name for cfg in cfgs)


def load_members(cfgs: Sequence[Config]) -> list[Prepared]:
    """The configs, on one competition and the same folds.

    Raises:
        ValueError: for a config named twice, another competition, or other folds, with the first id that differs.
    """
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) != len(names):
        raise ValueError(f"configs {' '.join(names)}: one is named twice: name each once")
    _refuse_other_competitions(cfgs)
    first, *others = [prepare(cfg) for cfg in cfgs]
    for other in others:
        if not other.folds.equals(first.folds):
            raise ValueError(
                f"{other.cfg.name} ({other.paths.folds}) and {first.cfg.name} ({first.paths.folds}) have different "
                f"folds, first at image '{_first_difference(first, other)}': train both on one, or use make compare"
            )
    return [first, *others]


def _refuse_other_competitions(cfgs: Sequence[Config]) -> None:
    first, *others = cfgs
    card = competition.load(first.competition)
    for other in others:
        if competition.load(other.competition) != card:
            raise ValueError(
                f"{other.name} is for {other.competition}, {first.name} for {first.competition}: nothing to average"
            )


def _first_difference(first: Prepared, other: Prepared) -> str:
    both = first.folds.merge(other.folds, on="image_id", how="outer", suffixes=("", "_other"))
    return both["image_id"][both["fold"] != both["fold_other"]].iloc[0]


def oof_rows(members: Sequence[Prepared]) -> pd.DataFrame:
    """The training images with their folds, after checking that each member predicted each of them once.

    Raises:
        ValueError: naming the member and the first image that it has not, or that is of another size or class count.
    """
    first = members[0]
    for member in members:
        missing = sorted(set(first.index["image_id"]) - member.oof_store().ids())
        if missing:
            raise ValueError(
                f"{member.paths.run}: {len(missing)} of {len(first.index)} training images have no OOF prediction, the "
                f"first is '{missing[0]}': run make oof CONFIG={member.cfg.name}"
            )
    return first.index.merge(first.folds, on="image_id").sort_values(["fold", "image_id"], ignore_index=True)


def choose_members(members: Sequence[Prepared], rows: pd.DataFrame) -> tuple[Chosen, list[Chosen]]:
    """The choice of all members together, and that of each one alone (the same one, if there is but one)."""
    oof, metric = oof_of_members(members, rows), METRICS[members[0].card.metric]
    together = choose(oof, metric)
    if len(members) == 1:
        return together, [together]
    return together, [choose(oof.only(member), metric) for member in range(len(members))]


def oof_of_members(members: Sequence[Prepared], rows: pd.DataFrame) -> Oof:
    """The members' OOF predictions and targets of the rows."""
    stores, dialect = [member.oof_store() for member in members], members[0].card.dialect
    by_id = {row.image_id: row for row in rows.itertuples()}

    def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        values = [store.read(image_id)[0] for store in stores]
        for member, each in zip(members, values, strict=True):
            if each.shape != values[0].shape:
                raise ValueError(
                    f"image '{image_id}': {member.cfg.name} predicts {each.shape}, {members[0].cfg.name} "
                    f"{values[0].shape} (height, width): an ensemble needs one size"
                )
        return np.stack(values), read_target(by_id[image_id], dialect)

    return Oof(rows["image_id"].tolist(), rows["fold"].to_numpy(), read, len(members), track)


def _singles(members: Sequence[Prepared], together: Chosen, alone: Sequence[Chosen]) -> list[Single]:
    weights = zip(together.shipped.weights, together.log_loss_weights.tolist(), strict=True)
    return [
        Single(member.cfg.name, *pair, chosen.fitted.honest)
        for member, pair, chosen in zip(members, weights, alone, strict=True)
    ]


def _gain(scores: np.ndarray, alone: Sequence[Chosen], groups: np.ndarray) -> Difference | None:
    if len(alone) == 1:
        return None
    best = max(alone, key=lambda chosen: chosen.fitted.honest)
    return paired(scores, best.fitted.scores, groups)


def test_masks(members: Sequence[Prepared], readable: set[str], choice: Choice) -> MaskOf:
    """From a test image's id to its mask; None for an image that could not be read and was left out."""
    stores, weights = [member.test_stores() for member in members], np.array(choice.weights)

    def mask_of(image_id: str) -> np.ndarray | None:
        if image_id not in readable:
            return None
        return postprocess.apply(combine(stores, image_id, choice.how, weights)[0], choice.cut)

    return mask_of


def _write_scores(path: Path, rows: pd.DataFrame) -> None:
    with whole(path) as partial:
        rows[["image_id", "fold", "group", "score"]].to_csv(partial, index=False, lineterminator="\n")


def _manifest(members: Sequence[Prepared], done: Ensembled) -> dict[str, Any]:
    """What made a submission, and what it is worth."""
    unimportant = {"name": True, "data": {"root", "skip_bad"}}
    return {
        "competition": members[0].card.name,
        "configs": {each.cfg.name: each.cfg.model_dump(mode="json", exclude=unimportant) for each in members},
        "folds": {each.cfg.name: each.numbers() for each in members},
        "combination": done.choice.how,
        "weights": {single.name: single.weight for single in done.singles},
        "rules": done.choice.rules,
        **done.choice.cut._asdict(),
        "metric": members[0].card.metric,
        "oof_score": done.honest.mean,
        "oof_interval": [done.honest.low, done.honest.high],
        "oof_score_in_sample": done.in_sample,
        "oof_score_at_half": done.at_half,
        "oof_score_alone": {single.name: single.score for single in done.singles},
        "gain": done.gain._asdict() if done.gain else None,
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        **made_with(),
    }


def _test_panels(prepared: Prepared, rows: pd.DataFrame, mask_of: MaskOf) -> list[Panel]:
    return [Panel(row.image_id[:10], prepared.reader(row.path), mask_of(row.image_id)) for row in rows.itertuples()]


def _draw_sheet(
    path: Path, members: Sequence[Prepared], rows: pd.DataFrame, choice: Choice, test_panels: list[Panel]
) -> None:
    """The best, middling and worst OOF images with truth and prediction, and test images."""
    reader, oof = members[0].reader, oof_of_members(members, rows)

    def oof_panel(row: Any) -> Panel:
        values, target = oof.read(row.image_id)
        return Panel(f"{row.image_id[:10]}  {row.score:.2f}", reader(row.path), choice.mask(values), target)

    chosen = choose_examples(rows[rows["coverage"] > 0])
    panels = {f"OOF, {name}": [oof_panel(row) for row in part.itertuples()] for name, part in chosen.items()}
    write_sheet(path, {**panels, "test": test_panels})


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    return card.metric, *submission.score(card, csv, solution)
