"""The stage `ensemble`: from the predictions of one or more configs to a checked submission; and `score`."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition, scoring, submission
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.index import coverage_columns
from pipeline.data.sample import Sample, samples_of
from pipeline.ensemble import (
    Decision,
    Drawer,
    Objects,
    Oof,
    blender,
    combine,
    count_drawn,
    decide,
    decide_exclusive,
    decide_objects,
)
from pipeline.files import atomic_write, write_text
from pipeline.inference.prediction_store import PredictionStore
from pipeline.manifest import collect_provenance
from pipeline.metrics import (
    DetectionRates,
    Scores,
    Volume,
    detection_rates,
    empties_differ,
    instance_metric,
    overlaps,
    pairwise_iou,
    pixel_metric,
    ranked_metric,
    selection_metric,
    stack,
    volume_metric,
)
from pipeline.progress import track
from pipeline.report.overlays import PANELS, Panel, choose_examples, write_sheet
from pipeline.stages.preparing import Context, make_context
from pipeline.stages.training import machines_of, predict_test
from pipeline.statistics.bootstrap import Difference, Interval, interval, paired
from pipeline.submission import ConfidencesOf, MasksOf

GAINED, POSSIBLE = "gained ", "possible "  # before a class's name: columns of a table of scores


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
    classes: tuple[str, ...]
    metric: str
    decision: Decision
    honest: Interval  # of the cross-fitted score; over groups where there are groups
    official: float | None  # out of fold, by a metric that is of no single image: of volumes, or of ranked objects
    singles: list[Single]
    gain: Difference | None  # over the best member alone, both cross-fitted; None for one member
    found: DetectionRates  # of the training masks, each drawn by what was chosen without its fold
    train_empty: float  # share of the training masks that are empty
    summary: submission.SubmissionSummary

    @property
    def manifest(self) -> Path:
        """The file that says how the submission was made."""
        return self.csv.with_suffix(".json")

    @property
    def ends(self) -> tuple[float, float] | None:
        """Those of the honest score's interval; None where there is none."""
        return None if np.isnan(self.honest.low) else (self.honest.low, self.honest.high)

    @property
    def optimism(self) -> float:
        """By how much the in-sample score flatters."""
        return self.decision.in_sample - self.honest.mean

    @property
    def empties_differ(self) -> bool:
        """Whether the submission's share of empty masks is far from train's."""
        return empties_differ(self.summary.empty / max(self.summary.masks, 1), self.train_empty, self.summary.masks)


def ensemble(cfgs: Sequence[Config]) -> Ensembled:
    """Choose combination, weights and cut on OOF, write the submission; does all that is missing before.

    Writes: submissions/<name>.csv, .json, .oof.csv (the cross-fitted score of each training image), reports/<name>.png;
    the name joins the configs' names with "+"
    """
    members = load_members(cfgs)
    test_index, *_ = [predict_test(member) for member in members]
    first, name = members[0], ensemble_name(cfgs)
    rows = oof_rows(members)
    together, alone = decide_members(members, rows)
    scores, groups = together.scores, rows["group"].to_numpy()
    masks_of = test_masks(members, set(test_index["image_id"]), together.shipped)
    csv = Path("submissions") / f"{name}.csv"
    done = Ensembled(
        csv,
        Path("reports") / f"{name}.png",
        first.card.classes,
        first.card.metric,
        together,
        interval(scores, groups),
        _official(members, rows, together),
        _singles(members, together, alone),
        _gain(scores, alone, groups),
        _found(members, rows, together),
        share_of_empties(rows, first.card.classes),
        submission.write_submission(
            csv,
            first.card,
            first.paths.root / first.card.files.sample_submission,
            masks_of,
            _test_confidences(members, together.shipped),
        ),
    )
    write_scores(csv.with_suffix(".oof.csv"), rows, scores, first.card.classes)
    write_text(done.manifest, json.dumps(_manifest(members, done, first.unlisted(test_index)), indent=1) + "\n")
    panels = _test_panels(first, test_index.head(PANELS), masks_of)
    _draw_sheet(done.sheet, members, rows.assign(score=scores.per_image()), together.shipped, panels)
    return done


def ensemble_name(cfgs: Sequence[Config]) -> str:
    """What files of several configs together are called."""
    return "+".join(cfg.name for cfg in cfgs)


def load_members(cfgs: Sequence[Config]) -> list[Context]:
    """The configs, on one competition and the same folds.

    Raises:
        ValueError: for a config named twice, another competition, or other folds, with the first id that differs.
    """
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) != len(names):
        raise ValueError(f"configs {' '.join(names)}: one is named twice: name each once")
    _refuse_other_competitions(cfgs)
    first, *others = [make_context(cfg) for cfg in cfgs]
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


def _first_difference(first: Context, other: Context) -> str:
    both = first.folds.merge(other.folds, on="image_id", how="outer", suffixes=("", "_other"))
    return both["image_id"][both["fold"] != both["fold_other"]].iloc[0]


def oof_rows(members: Sequence[Context]) -> pd.DataFrame:
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


def decide_members(members: Sequence[Context], rows: pd.DataFrame) -> tuple[Decision, list[Decision]]:
    """The decision of all members together, and that of each one alone (the same one, if there is but one)."""
    oof, card = oof_of_members(members, rows), members[0].card
    boundaries = members[0].cfg.data.boundary is not None
    together = _decide(oof, card, boundaries=boundaries)
    if len(members) == 1:
        return together, [together]
    return together, [_decide(oof.only(member), card, boundaries=boundaries) for member in range(len(members))]


def _decide(oof: Oof, card: Competition, *, boundaries: bool) -> Decision:
    judge = selection_metric(card.metric)
    if card.instances:
        return decide_objects(oof, instance_metric(judge), boundaries=boundaries)
    metric = pixel_metric(judge)
    return decide_exclusive(oof, metric) if card.exclusive else decide(oof, metric, len(card.classes))


def oof_of_members(members: Sequence[Context], rows: pd.DataFrame) -> Oof:
    """The members' OOF predictions and targets of the rows."""
    stores, first = [member.oof_store() for member in members], members[0]
    read_truth = first.labels.read_instances if first.card.instances else first.labels.read_scored
    by_id = {sample.image_id: sample for sample in samples_of(rows)}

    def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        values = [store.read(image_id) for store in stores]
        for member, each in zip(members, values, strict=True):
            if each.shape != values[0].shape:
                raise ValueError(
                    f"image '{image_id}': {member.cfg.name} predicts {each.shape}, {members[0].cfg.name} "
                    f"{values[0].shape} (classes, height, width): an ensemble needs one size"
                )
        return np.stack(values), read_truth(by_id[image_id])

    return Oof(rows["image_id"].tolist(), rows["fold"].to_numpy(), read, len(members), track)


def _official(members: Sequence[Context], rows: pd.DataFrame, decision: Decision) -> float | None:
    """The official score out of fold, where it is not the mean of the images' that everything is chosen by."""
    card = members[0].card
    if card.volume_pattern:
        return _score_volumes(members, rows, decision)
    if card.columns.packed_objects:
        return _score_ranked(members, rows, decision)
    return None


def _found(members: Sequence[Context], rows: pd.DataFrame, decision: Decision) -> DetectionRates:
    oof = oof_of_members(members, rows)
    fold_of = dict(zip(rows["image_id"], rows["fold"], strict=True))
    ids = track(oof.image_ids, "count what is found")
    return detection_rates(stack(count_drawn(decision.by_fold[fold_of[each]], *oof.read(each)) for each in ids))


def share_of_empties(rows: pd.DataFrame, classes: Sequence[str]) -> float:
    """Of the training masks, one for each class and image."""
    return float((rows[coverage_columns(classes)] == 0).to_numpy().mean())


def _score_ranked(members: Sequence[Context], rows: pd.DataFrame, decision: Decision) -> float:
    """Of the objects of all training images, drawn by what was chosen without their folds."""
    oof = oof_of_members(members, rows)

    def objects(row: Any) -> tuple[np.ndarray, np.ndarray]:
        values, target = oof.read(row.image_id)
        drawer, blend_by = decision.by_fold[row.fold], blender(values)
        labels = drawer.labels(blend_by)
        shared, areas, true = overlaps(labels, target)
        counted = areas > 0  # others lie in void alone
        iou = pairwise_iou(shared[counted], areas[counted], true)
        return iou, drawer.confidences(blend_by, labels)[counted]

    return ranked_metric(members[0].card.metric)(map(objects, rows.itertuples()))


def _score_volumes(members: Sequence[Context], rows: pd.DataFrame, decision: Decision) -> float:
    """The official score of the training volumes, each slice drawn by what was chosen without its fold."""
    card, oof = members[0].card, oof_of_members(members, rows)

    def read(slices: pd.DataFrame) -> Volume:
        pairs = [(oof.read(row.image_id), decision.by_fold[row.fold]) for row in slices.itertuples()]
        masks = [drawer.masks(blender(values)) for (values, _), drawer in pairs]
        return np.stack(masks), np.stack([target for (_, target), _ in pairs])

    return volume_metric(card.metric)(map(read, scoring.by_volume(rows, card)))


def _singles(members: Sequence[Context], together: Decision, alone: Sequence[Decision]) -> list[Single]:
    weights = zip(together.shipped.weights.tolist(), together.log_loss_weights.tolist(), strict=True)
    return [
        Single(member.cfg.name, *pair, decision.honest)
        for member, pair, decision in zip(members, weights, alone, strict=True)
    ]


def _gain(scores: Scores, alone: Sequence[Decision], groups: np.ndarray) -> Difference | None:
    if len(alone) == 1:
        return None
    return paired(scores, max(alone, key=lambda decision: decision.honest).scores, groups)


def test_masks(members: Sequence[Context], readable: set[str], drawer: Drawer) -> MasksOf:
    """From a test image's id to its masks (C, H, W), or its objects (H, W); None for one that could not be read."""
    stores = [member.test_stores() for member in members]

    def masks_of(image_id: str) -> np.ndarray | None:
        if image_id not in readable:
            return None
        blend_by = partial(_combined, stores, image_id)
        return drawer.labels(blend_by) if isinstance(drawer, Objects) else drawer.masks(blend_by)

    return masks_of


def _test_confidences(members: Sequence[Context], drawer: Drawer) -> ConfidencesOf:
    """From a test image's id and its objects (H, W) to the confidence of each."""
    stores = [member.test_stores() for member in members]
    return lambda image_id, labels: drawer.confidences(partial(_combined, stores, image_id), labels)


def _combined(
    stores: Sequence[Sequence[PredictionStore]], image_id: str, how: str, weights: tuple[float, ...]
) -> np.ndarray:
    return combine(stores, image_id, how, np.array(weights))


def write_scores(path: Path, rows: pd.DataFrame, scores: Scores, classes: Sequence[str]) -> None:
    """The score of each image; where they are no plain mean, also what it gained of what was possible, by class."""
    table = rows[["image_id", "fold", "group"]].assign(score=scores.per_image())
    if scores.numerator.shape[1] > 1 or (scores.denominator != 1).any():
        for name, gained, possible in zip(classes, scores.numerator.T, scores.denominator.T, strict=True):
            table = table.assign(**{GAINED + name: gained, POSSIBLE + name: possible})
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def _manifest(members: Sequence[Context], done: Ensembled, unlisted: Sequence[str]) -> dict[str, Any]:
    """What made a submission, and what it is worth."""
    unimportant = {"name": True, "data": {"root", "skip_bad"}}
    return {
        "competition": members[0].card.name,
        "configs": {each.cfg.name: each.cfg.model_dump(mode="json", exclude=unimportant) for each in members},
        "folds": {each.cfg.name: each.fold_numbers() for each in members},
        "machines": {each.cfg.name: machines_of(each) for each in members},
        **done.decision.shipped.record([each.cfg.name for each in members], members[0].card.classes),
        "metric": members[0].card.metric,
        "oof_score": done.honest.mean,
        "oof_score_of": selection_metric(members[0].card.metric),
        **({} if done.official is None else {"oof_official": done.official}),
        "oof_interval": done.ends,
        "oof_score_in_sample": done.decision.in_sample,
        "oof_score_trivial": done.decision.trivial,
        "oof_score_at_half": done.decision.at_half,
        "oof_score_alone": {single.name: single.score for single in done.singles},
        "gain": done.gain._asdict() if done.gain else None,
        "oof_found": done.found._asdict(),
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        **({"test_images_without_row": len(unlisted)} if unlisted else {}),
        **collect_provenance(),
    }


def _test_panels(context: Context, rows: pd.DataFrame, masks_of: MasksOf) -> list[Panel]:
    return [
        Panel(each.image_id[:10], context.reader.picture(each), _one_by_one(masks_of(each.image_id)))
        for each in samples_of(rows)
    ]


def _one_by_one(masks: np.ndarray) -> np.ndarray:
    """Masks (C, H, W) as they are; of objects (H, W) a mask each."""
    return masks if masks.ndim == 3 else (masks == np.arange(1, masks.max() + 1)[:, None, None]).astype(np.uint8)


def _draw_sheet(
    path: Path, members: Sequence[Context], rows: pd.DataFrame, drawer: Drawer, test_panels: list[Panel]
) -> None:
    """The best, middling and worst OOF images with truth and prediction, and test images."""
    reader, oof = members[0].reader, oof_of_members(members, rows)

    def oof_panel(sample: Sample, score: float) -> Panel:
        values, target = oof.read(sample.image_id)
        blend_by = blender(values)
        drawn = drawer.labels(blend_by) if isinstance(drawer, Objects) else drawer.masks(blend_by)
        title = f"{sample.image_id[:10]}  {score:.2f}"
        return Panel(title, reader.picture(sample), _one_by_one(drawn), _one_by_one(target))

    chosen = choose_examples(rows[rows["coverage"] > 0])
    panels = {f"OOF, {name}": [*map(oof_panel, samples_of(part), part["score"])] for name, part in chosen.items()}
    write_sheet(path, {**panels, "test": test_panels})


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    return card.metric, *scoring.score(card, csv, solution)
