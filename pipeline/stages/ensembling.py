"""The stage `ensemble`: from the predictions of one or more configs to a checked submission; and `score`."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition, scoring, submission
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.index import coverage_columns, known_values, read_test_meta
from pipeline.data.sample import META, Sample, samples_of
from pipeline.ensemble.candidate_rules import MIN_GROUP_IMAGES
from pipeline.ensemble.combine import InMemoryStore, combine, combine_by, read_heads
from pipeline.ensemble.evaluation import count_masks
from pipeline.ensemble.instances import select_instances
from pipeline.ensemble.multiclass import select_multiclass
from pipeline.ensemble.pooling import renderer_at
from pipeline.ensemble.renderer import Renderer
from pipeline.ensemble.selection import Oof, Selection, select_multilabel
from pipeline.ensemble.serialization import to_record
from pipeline.ensemble.shared_passes import select_with_members
from pipeline.files import atomic_write, write_text
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
from pipeline.postprocess.rules import Rules, format_groups
from pipeline.postprocess.search import rule_sets_of
from pipeline.postprocess.shares import Place
from pipeline.progress import track
from pipeline.quoting import listed
from pipeline.report.overlays import PANELS, Panel, choose_examples, write_sheet
from pipeline.stages.part_of_folds import describe_part, with_choice_folds
from pipeline.stages.preparing import Context, compare_with_test, make_context
from pipeline.stages.train_test_shift import TrainTestShift
from pipeline.stages.training import check_before_training, machines_of, predict_test
from pipeline.statistics.bootstrap import Difference, Interval, interval, paired
from pipeline.submission import ConfidencesOf, MasksOf, check_given

# Columns of a table of scores: the metric's numerator and denominator of a class, before the class's name.
NUMERATOR, DENOMINATOR = "numerator ", "denominator "


class MemberScore(NamedTuple):
    """One member's weight in the ensemble, and its score alone, with rules of its own."""

    name: str
    weight: float  # in the ensemble
    by_log_loss: float  # the weight of the least log loss of pixels, to compare with
    score: float  # alone, cross-fitted


class Ensembled(NamedTuple):
    """The files that the stage `ensemble` wrote, and the scores of the submission."""

    csv: Path
    sheet: Path
    classes: tuple[str, ...]
    metric: str
    selection: Selection
    interval: Interval  # of the cross-fitted score; over groups where there are groups
    shift: TrainTestShift  # of the test images against the training images
    like_test: Interval | None  # the cross-fitted score, images weighted by their likeness to the test images
    official: float | None  # cross-fitted, by a metric that has no score per image: of volumes, or of ranked objects
    member_scores: list[MemberScore]
    gain: Difference | None  # over the best member alone, both cross-fitted; None for one member
    found: DetectionRates  # detection rates of the training masks, each rendered by the choice made without its fold
    train_empty: float  # share of the training masks that are empty
    notes: tuple[str, ...]  # what the score does not say, one line each
    summary: submission.SubmissionSummary

    @property
    def manifest(self) -> Path:
        """The file with the submission's configs, choices, scores and versions."""
        return self.csv.with_suffix(".json")

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lower and upper end of the cross-fitted score's interval; None where there is none."""
        return None if np.isnan(self.interval.low) else (self.interval.low, self.interval.high)

    @property
    def optimism(self) -> float:
        """By how much the in-sample score exceeds the cross-fitted one."""
        return self.selection.optimism

    @property
    def empties_differ(self) -> bool:
        """Whether the submission's share of empty masks is far from the training masks' share."""
        return empties_differ(self.summary.empty / max(self.summary.masks, 1), self.train_empty, self.summary.masks)


def ensemble(cfgs: Sequence[Config], name: str = "") -> Ensembled:
    """Choose combination, weights and rules on OOF predictions and write the submission; runs missing stages first.

    Args:
        name: of the files; by default it joins the configs' names with "+", and names a part of the folds.

    Writes: submissions/<name>.csv, .json, .oof.csv (the cross-fitted score of each training image), reports/<name>.png
    """
    members, unscored = split_members(load_members(cfgs))
    check_before_training(members)
    test_index, *_ = [predict_test(member) for member in (*members, *unscored)]
    first, name = members[0], name or ensemble_name(cfgs)
    rows = oof_rows(members)
    together, alone = select_members(members, rows)
    scores, groups = together.scores, rows["group"].to_numpy()
    shift = shift_of(members, rows, test_index)
    masks_of = test_masks(members, set(test_index["image_id"]), together.renderer, *unscored)
    csv = Path("submissions") / f"{name}.csv"
    done = Ensembled(
        csv,
        Path("reports") / f"{name}.png",
        first.card.classes,
        first.card.metric,
        together,
        interval(scores, groups, optimism=together.optimism),
        shift,
        shift.weighted(rows, scores, together.optimism),
        _official(members, rows, together),
        member_scores(members, together, alone),
        _gain(together, alone, groups),
        _found(members, rows, together),
        float((rows[coverage_columns(first.card.classes)] == 0).to_numpy().mean()),
        notes_of(members, rows, together, unscored),
        submission.write_submission(
            csv,
            first.card,
            first.paths.root / first.card.files.sample_submission,
            masks_of,
            _test_confidences(members, together.renderer, unscored),
        ),
    )
    write_scores(csv.with_suffix(".oof.csv"), rows, scores, first.card.classes)
    write_text(
        done.manifest, json.dumps(_manifest(members, done, first.unlisted(test_index), unscored), indent=1) + "\n"
    )
    rows = rows.assign(score=scores.per_image())
    _draw_sheet(done.sheet, members, rows, together, test_index.head(PANELS), masks_of)
    return done


def shift_of(members: Sequence[Context], rows: pd.DataFrame, test_index: pd.DataFrame) -> TrainTestShift:
    """The comparison of training with test images, by their statistics and by the predictions of the first member that
    has those of each fold.

    Args:
        rows: as `oof_rows` returns them.
    """
    first, predictions = members[0], next(filter(None, (each.predictions() for each in members)), None)
    return compare_with_test(first.cfg, first.card, first.paths, rows, test_index, predictions)


def ensemble_name(cfgs: Sequence[Config]) -> str:
    """The name of the files of several configs together, and of the part of the folds: a+b, a-fold0-fold1."""
    part = "".join(f"-fold{number}" for number in sorted(cfgs[0].folds.only))
    return "+".join(cfg.name for cfg in cfgs) + part


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
        if other.fold_numbers() != first.fold_numbers():
            raise ValueError(
                f"folds.only of {other.cfg.name} is {list(other.cfg.folds.only)}, of {first.cfg.name} "
                f"{list(first.cfg.folds.only)}: set it with FOLDS, for all members"
            )
    return [first, *others]


def split_members(members: Sequence[Context]) -> tuple[list[Context], list[Context]]:
    """The members with out-of-fold predictions, and the imported ones without, whose weights are given.

    Raises:
        ValueError: for one without predictions out of fold and without a weight, weights of 1 or more together, or if
            no member has predictions out of fold.
    """
    unscored = [each for each in members if _is_unscored(each.cfg)]
    for each in unscored:
        if each.cfg.imported.weight is None:
            raise ValueError(
                f"{each.cfg.name} has no OOF predictions, so its weight cannot be chosen: give it, as in "
                f'WEIGHTS="{each.cfg.name}=0.5", its share of the ensemble'
            )
    if len(unscored) == len(members):
        raise ValueError(
            f"{ensemble_name([each.cfg for each in members])}: no member has OOF predictions, so no threshold can be "
            f"chosen: add a config that has some, or use make blend"
        )
    if (total := sum(each.cfg.imported.weight for each in unscored)) >= 1:
        raise ValueError(f"WEIGHTS sum to {total:g}: expected less than 1, since the other members share the rest")
    return [each for each in members if not _is_unscored(each.cfg)], unscored


def _is_unscored(cfg: Config) -> bool:
    return cfg.imported is not None and cfg.imported.oof is None


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
    """The training images of the folds, after checking that each member predicted each of them once.

    Column `fold` is that of the models, `choice_fold` that of the choices, see `part_of_folds`.

    Raises:
        ValueError: naming the member and the first image that it has not, or that is of another size or class count.
    """
    first = members[0]
    rows = first.index.merge(first.folds, on="image_id").sort_values(["fold", "image_id"], ignore_index=True)
    rows = rows[rows["fold"].isin(first.fold_numbers())].reset_index(drop=True)
    for member in members:
        missing = sorted(set(rows["image_id"]) - member.oof_store().ids())
        if missing:
            raise ValueError(
                f"{member.paths.run}: {len(missing)} of {len(rows)} training images have no OOF prediction, the "
                f"first is '{missing[0]}': run make oof CONFIG={member.cfg.name}"
            )
    return with_choice_folds(rows)


def select_members(members: Sequence[Context], rows: pd.DataFrame) -> tuple[Selection, list[Selection]]:
    """The selection for all members together, and that for each one alone; the same one for a single member."""
    first = members[0]
    select = partial(
        _select,
        card=first.card,
        boundaries=first.cfg.data.boundary is not None,
        rule_sets=rule_sets_of(first.cfg.ensemble.shares),
    )
    return select_with_members(oof_of_members(members, rows), select)


def _select(oof: Oof, card: Competition, *, boundaries: bool, rule_sets: Sequence[str]) -> Selection:
    name = selection_metric(card.metric)
    if card.instances:
        return select_instances(oof, instance_metric(name), boundaries=boundaries)
    metric = pixel_metric(name)
    if card.exclusive:
        return select_multiclass(oof, metric)
    return select_multilabel(oof, metric, len(card.classes), rule_sets)


def oof_of_members(members: Sequence[Context], rows: pd.DataFrame) -> Oof:
    """The members' OOF predictions and targets of the rows, read one image at a time.

    Raises:
        ValueError: while an image is read, if its predictions differ in shape between the members.
    """
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

    return Oof(
        rows["image_id"].tolist(),
        rows["choice_fold"].to_numpy(),
        read,
        len(members),
        track,
        first.card.volume_of,
        partial(read_heads, [[store] for store in stores]),
        _groups_of(rows, first.cfg.ensemble.group).get,
        rows["group"].to_numpy(),
    )


def _groups_of(rows: pd.DataFrame, column: str | None) -> dict[str, str]:
    """The values of the column `ensemble.group` by training image, without missing ones."""
    return known_values(rows["image_id"], rows[META + column].fillna("")) if column is not None else {}


def _official(members: Sequence[Context], rows: pd.DataFrame, selection: Selection) -> float | None:
    """The official score, cross-fitted; None where it is the mean over images that everything is chosen by."""
    card = members[0].card
    if card.scores_volumes:
        return _score_volumes(members, rows, selection)
    if card.columns.packed_objects:
        return _score_ranked(members, rows, selection)
    return None


def _found(members: Sequence[Context], rows: pd.DataFrame, selection: Selection) -> DetectionRates:
    if selection.counts is not None:
        return detection_rates(selection.counts)
    images = oof_of_members(members, rows).images("count masks")
    return detection_rates(
        stack(count_masks(selection.held_out(place), values, target) for values, target, place in images)
    )


def _score_ranked(members: Sequence[Context], rows: pd.DataFrame, selection: Selection) -> float:
    """The official score of the objects of all training images, rendered by the choices made without their folds."""
    oof = oof_of_members(members, rows)

    def objects(row: Any) -> tuple[np.ndarray, np.ndarray]:
        values, target = oof.read(row.image_id)
        renderer = selection.by_fold[row.choice_fold]
        combined = renderer.combine(values)
        labels = renderer.labels(combined)
        shared, areas, true = overlaps(labels, target)
        counted = areas > 0  # the others lie in void
        iou = pairwise_iou(shared[counted], areas[counted], true)
        return iou, renderer.confidences(combined, labels)[counted]

    return ranked_metric(members[0].card.metric)(map(objects, rows.itertuples()))


def _score_volumes(members: Sequence[Context], rows: pd.DataFrame, selection: Selection) -> float:
    """The official score of the training volumes, each slice rendered by the choice made without its fold."""
    card, oof = members[0].card, oof_of_members(members, rows)

    def read(slices: pd.DataFrame) -> Volume:
        ids = slices["image_id"]
        pairs = [(oof.read(image_id), selection.held_out(oof.places[image_id])) for image_id in ids]
        masks = [renderer.masks(renderer.combine(values)) for (values, _), renderer in pairs]
        return np.stack(masks), np.stack([target for (_, target), _ in pairs])

    return volume_metric(card.metric)(map(read, scoring.by_volume(rows, card)))


def notes_of(
    members: Sequence[Context], rows: pd.DataFrame, selection: Selection, unscored: Sequence[Context] = ()
) -> tuple[str, ...]:
    """What the score of an ensemble does not say, one line each."""
    scored = ensemble_name([each.cfg for each in members])
    without = (
        f"{each.cfg.name} has no OOF predictions: its weight of {each.cfg.imported.weight:g} was given and cannot be "
        f"checked; the score is that of {scored} without it"
        for each in unscored
    )
    part, pools = describe_part(members[0], rows), describe_pools(selection.renderer)
    return (*filter(None, [part, pools]), *describe_groups(members[0], selection), *without)


def describe_selected_epochs(members: Sequence[Context]) -> list[str]:
    """What the selection of epochs adds to the score, one line; empty if no member has any."""
    names = [each.cfg.name for each in members if not each.cfg.imported and each.cfg.train.select == "best"]
    if not names:
        return []
    return [
        f"epochs and phases of {listed(names)} were selected on the held-out images, so the score is slightly "
        f'optimistic: by about .001 on nuclei (docs/results.md). train.select = "last" avoids it'
    ]


def describe_pools(renderer: Renderer) -> str | None:
    """What masks depend on beside their own image; None if on nothing."""
    pools = sorted({part.rules.share_in for part in renderer.parts if part.pooled})
    if not pools:
        return None
    return (
        f"the threshold is a share of the whole {' or '.join(pools)}: the mask of a test image depends on the "
        f"predictions of the others, and other test images give another threshold"
    )


def describe_groups(first: Context, selection: Selection) -> list[str]:
    """The thresholds by group of each class, and what they gain, one line each; empty without `ensemble.group`."""
    column = first.cfg.ensemble.group
    if column is None:
        return []
    if not selection.group_gains:
        return [
            f"no thresholds by {column}: they need three folds, and a value with {MIN_GROUP_IMAGES} images without any "
            f"one fold"
        ]
    parts = zip(first.card.classes, selection.renderer.parts, selection.group_gains, strict=True)
    return [
        (f"{name}: " if len(first.card.classes) > 1 else "") + _describe_groups_of_class(column, part.rules, gain)
        for name, part, gain in parts
    ]


def _describe_groups_of_class(column: str, rules: Rules, gain: float) -> str:
    over = f"{gain:+.4f} against the best rules without them, cross-validated"
    if not rules.by_group:
        return f"no thresholds by {column}: {over}"
    return f"thresholds by {column}: {format_groups(rules)}; of other images {rules.threshold:.4g}; {over}"


def member_scores(members: Sequence[Context], together: Selection, alone: Sequence[Selection]) -> list[MemberScore]:
    weights = zip(together.renderer.weights.tolist(), together.log_loss_weights.tolist(), strict=True)
    return [
        MemberScore(member.cfg.name, *pair, selection.score)
        for member, pair, selection in zip(members, weights, alone, strict=True)
    ]


def _gain(together: Selection, alone: Sequence[Selection], groups: np.ndarray) -> Difference | None:
    if len(alone) == 1:
        return None
    best = max(alone, key=lambda selection: selection.score)
    return paired(together.scores, best.scores, groups, optimism=(together.optimism, best.optimism))


def test_masks(members: Sequence[Context], readable: set[str], renderer: Renderer, *unscored: Context) -> MasksOf:
    """From a test image's id to its masks (C, H, W), or its objects (H, W); None for one that could not be read.

    Args:
        unscored: members without OOF predictions, which are no members of the renderer: see `split_members`.
    """
    combined, card = _combine_test(members, renderer, unscored), members[0].card
    stores = [each.test_stores() for each in members]
    groups = _test_groups(members[0]) if renderer.grouped else {}
    places = {
        image_id: Place(None, card.volume_of(image_id), read_heads(stores, image_id), groups.get(image_id))
        for image_id in sorted(readable)
    }
    images = ((image_id, combined(image_id)) for image_id in track(places, "measure thresholds"))
    renderer_of = renderer_at(renderer, places, images)
    return lambda image_id: renderer_of(image_id).render(combined(image_id)) if image_id in readable else None


def _test_groups(first: Context) -> dict[str, str]:
    return read_test_meta(first.card, first.paths.root, first.cfg.ensemble.group)


def _test_confidences(
    members: Sequence[Context], renderer: Renderer, unscored: Sequence[Context] = ()
) -> ConfidencesOf:
    """From a test image's id and its objects (H, W) to the confidence of each."""
    combined = _combine_test(members, renderer, unscored)
    return lambda image_id, labels: renderer.confidences(combined(image_id), labels)


def _combine_test(
    members: Sequence[Context], renderer: Renderer, unscored: Sequence[Context] = ()
) -> Callable[[str], np.ndarray]:
    """From a test image's id to the members' combined predictions of it.

    Members without OOF predictions are averaged with what the others combine to, by the weights that were given.
    """
    stores, further = ([each.test_stores() for each in some] for some in (members, unscored))
    shares = [each.cfg.imported.weight for each in unscored]

    def combined(image_id: str) -> np.ndarray:
        values = renderer.combine_with(lambda weighting: combine_by(weighting, stores, image_id))
        if not shares:
            return values
        return combine([[InMemoryStore(values)], *further], image_id, "mean", [1 - sum(shares), *shares])

    return combined


def write_scores(path: Path, rows: pd.DataFrame, scores: Scores, classes: Sequence[str]) -> None:
    """Write the score of each image; where the metric is no plain mean, also numerator and denominator by class."""
    table = rows[["image_id", "fold", "group"]].assign(score=scores.per_image())
    if scores.numerator.shape[1] > 1 or (scores.denominator != 1).any():
        for name, numerator, denominator in zip(classes, scores.numerator.T, scores.denominator.T, strict=True):
            table = table.assign(**{NUMERATOR + name: numerator, DENOMINATOR + name: denominator})
    with atomic_write(path) as partial:
        table.to_csv(partial, index=False, lineterminator="\n")


def _manifest(
    members: Sequence[Context], done: Ensembled, unlisted: Sequence[str], unscored: Sequence[Context] = ()
) -> dict[str, Any]:
    """The submission's configs, choices, scores and versions, as plain values."""
    notes = [*done.notes, *describe_selected_epochs(members)]
    return {
        "competition": members[0].card.name,
        "configs": {each.cfg.name: _options(each.cfg) for each in (*members, *unscored)},
        "folds": {each.cfg.name: each.fold_numbers() for each in members},
        **({"notes": notes} if notes else {}),
        "machines": {each.cfg.name: machines_of(each) for each in members},
        **to_record(done.selection.renderer, [each.cfg.name for each in members], members[0].card.classes),
        **({"unscored": {each.cfg.name: each.cfg.imported.weight for each in unscored}} if unscored else {}),
        "metric": members[0].card.metric,
        "oof_score": done.interval.mean,
        "selection_metric": selection_metric(members[0].card.metric),
        **({} if done.official is None else {"oof_official": done.official}),
        "oof_interval": done.bounds,
        "oof_score_like_test": done.like_test.mean if done.like_test else None,
        "test_auc": done.shift.found.auc.mean if done.shift.found else None,
        "oof_score_in_sample": done.selection.in_sample,
        "oof_score_baseline": done.selection.baseline,
        "oof_score_at_half": done.selection.at_half,
        "oof_score_alone": {each.name: each.score for each in done.member_scores},
        "gain": done.gain._asdict() if done.gain else None,
        **({"gain_of_groups": done.selection.group_gains} if done.selection.group_gains else {}),
        "oof_found": done.found._asdict(),
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        **({"test_images_without_row": len(unlisted)} if unlisted else {}),
        **collect_provenance(),
    }


def _options(cfg: Config) -> dict[str, Any]:
    """The options of a config that its result depends on, as plain values."""
    unused = dict.fromkeys(("model", "train", "predict"), True) if cfg.imported else {}
    return cfg.model_dump(mode="json", exclude={"name": True, "data": {"root", "skip_bad"}, **unused})


def _one_by_one(masks: np.ndarray) -> np.ndarray:
    """Masks (C, H, W) unchanged; of objects (H, W) one mask each."""
    return masks if masks.ndim == 3 else (masks == np.arange(1, masks.max() + 1)[:, None, None]).astype(np.uint8)


def _draw_sheet(
    path: Path,
    members: Sequence[Context],
    rows: pd.DataFrame,
    selection: Selection,
    test_rows: pd.DataFrame,
    masks_of: MasksOf,
) -> None:
    """Draw the best, middling and worst OOF images with target and prediction, and test images."""
    reader, oof = members[0].reader, oof_of_members(members, rows)

    def oof_panel(sample: Sample, score: float) -> Panel:
        values, target = oof.read(sample.image_id)
        renderer = selection.held_out(oof.places[sample.image_id])
        rendered = renderer.render(renderer.combine(values))
        title = f"{sample.image_id[:10]}  {score:.2f}"
        return Panel(title, reader.picture(sample), _one_by_one(rendered), _one_by_one(target))

    chosen = choose_examples(rows[rows["coverage"] > 0])
    panels = {f"OOF, {name}": [*map(oof_panel, samples_of(part), part["score"])] for name, part in chosen.items()}
    panels["test"] = [
        Panel(each.image_id[:10], reader.picture(each), _one_by_one(masks_of(each.image_id)))
        for each in samples_of(test_rows)
    ]
    write_sheet(path, panels)


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    check_given(csv, "SUBMISSION")
    if not solution.is_file():
        raise FileNotFoundError(f"SOLUTION: {solution}: no such file: expected the path of a CSV of the true masks")
    return card.metric, *scoring.score(card, csv, solution)
