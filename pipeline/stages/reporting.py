"""The stage `report`: collects the scores, plots and pictures of a config or an ensemble for one page."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.config import Config
from pipeline.data.index import coverage_columns
from pipeline.data.sample import META, samples_of
from pipeline.ensemble.renderer import Renderer
from pipeline.ensemble.selection import Selection
from pipeline.manifest import collect_provenance
from pipeline.metrics import Counts, Scores, count, detection_rates, epoch_metric, selection_metric, stack
from pipeline.postprocess.rules import Rules, format_groups
from pipeline.postprocess.search import ScoreGrid
from pipeline.progress import track
from pipeline.report import report_data
from pipeline.report.label_quality import label_error_score, reliability
from pipeline.report.page import write_report
from pipeline.stages.comparing import gain_of
from pipeline.stages.ensembling import (
    describe_selected_epochs,
    ensemble_name,
    load_members,
    member_scores,
    notes_of,
    oof_of_members,
    oof_rows,
    select_members,
    shift_of,
    split_members,
    test_masks,
)
from pipeline.stages.labelling import companion_path, read_companion, source_of_labels
from pipeline.stages.oof_images import OofImage, make_oof_image
from pipeline.stages.preparing import Context, count_test_images, make_context
from pipeline.stages.symmetries import find_symmetries
from pipeline.stages.training import check_before_training, fold_row, predict_test, read_history
from pipeline.statistics import shakeup
from pipeline.statistics.bootstrap import interval
from pipeline.submission import sample_rows

HALVES = "In the tables and charts of rules, folds 0 and 1 stand for the two halves of the fold's images."


def report(cfgs: Sequence[Config], name: str = "", selection: Selection | None = None) -> Path:
    """Write the page of a config, or of several as an ensemble. Runs the stages that are missing.

    Args:
        name: of the file, and the page's title; by default that of the ensemble.
        selection: that `ensemble` made of a single config, which is then not made again.

    Writes: reports/<name>.html
    """
    path = Path("reports") / f"{name or ensemble_name(cfgs)}.html"
    write_report(path, replace(collect_report_data(cfgs, selection), title=path.stem))
    return path


def collect_report_data(cfgs: Sequence[Config], selection: Selection | None = None) -> report_data.ReportData:
    """The content of the page of a config or an ensemble. Runs the stages that are missing.

    Args:
        selection: of a single config, as `report` takes it.
    """
    members, unscored = split_members(load_members(cfgs))
    check_before_training(members)
    test_index, *_ = [predict_test(member) for member in (*members, *unscored)]
    first, rows = members[0], oof_rows(members)
    selection, alone = (selection, [selection]) if selection else select_members(members, rows)
    oof = oof_of_members(members, rows)
    samples = {sample.image_id: sample for sample in samples_of(rows)}

    def read(image_id: str) -> OofImage:
        return make_oof_image(selection.held_out(oof.places[image_id]), *oof.read(image_id))

    def picture(image_id: str) -> report_data.Picture:
        image, values = read(image_id), first.reader.picture(samples[image_id])
        return report_data.Picture(values, image.target_regions, image.values.max(axis=0), image.predicted_regions)

    summary = _summarize_oof(rows["image_id"], read)
    masks = _masks(rows, first.card.classes, summary.coverage)
    return report_data.ReportData(
        title=ensemble_name(cfgs),
        competition=first.card.title,
        metric=selection_metric(first.card.metric),
        epoch_metric=epoch_metric(first.card.metric),
        provenance=collect_provenance(),
        images=_images(rows, summary, selection),
        masks=masks if len(first.card.classes) > 1 else pd.DataFrame(),
        score=_score(selection, rows["group"].to_numpy()),
        detection=detection_rates(summary.pixels),
        picture=picture,
        history=_history(members),
        folds=_folds(members, rows, selection),
        notes=(
            *notes_of(members, rows, selection, unscored),
            *describe_selected_epochs(members),
            *([HALVES] if rows["fold"].nunique() == 1 else []),
        ),
        classes=_classes(first.card.classes, masks, selection.scores),
        surfaces={
            name: make_score_surface(grid, part.rules)
            for name, grid, part in zip(first.card.classes, selection.grids, selection.renderer.parts, strict=False)
        },
        rules=rules_table(first.card.classes, selection),
        separation=_separation(selection) if first.card.instances else None,
        reliability=reliability(summary.counts.sum(axis=0)),
        members=_members(members, selection, alone) if len(members) > 1 else None,
        pseudo=_pseudo(first) if len(members) == 1 else None,
        submission=_submission(members, test_index, selection.renderer, unscored),
        shakeup=_simulate_shakeup(first, selection.scores, rows["group"].to_numpy()),
        like_test=_like_test(members, rows, selection, test_index),
        symmetries=find_symmetries(first.cfg, first.index, first.reader),
    )


def _score(selection: Selection, groups: np.ndarray) -> report_data.CrossFittedScore:
    """Exclusive classes have no threshold, so they have no score at .5."""
    at_half = None if selection.renderer.kind == "multiclass" else selection.at_half
    return report_data.CrossFittedScore(
        interval(selection.scores, groups, optimism=selection.optimism),
        selection.in_sample,
        at_half,
        selection.baseline,
    )


def _like_test(
    members: Sequence[Context], rows: pd.DataFrame, selection: Selection, test_index: pd.DataFrame
) -> report_data.LikeTest | str:
    shift = shift_of(members, rows, test_index)
    score = shift.weighted(rows, selection.scores, selection.optimism)
    if shift.found is None or score is None:
        return shift.missing
    return report_data.LikeTest(
        str(shift),
        shift.found.differ,
        score,
        shift.found.effective,
        pd.DataFrame(shift.found.differences),
        dict(zip(shift.train_ids, shift.found.train.tolist(), strict=True)),
    )


class OofSummary(NamedTuple):
    """Predictions of all training images, in their order."""

    coverage: np.ndarray  # (N, C) float, predicted masked share, 0 to 1
    counts: np.ndarray  # (N, 2, 256) int, pixels by label and stored value
    pixels: Counts  # (N, C) of the predicted masks
    texts: list[str]  # N


def _summarize_oof(image_ids: pd.Series, read: Callable[[str], OofImage]) -> OofSummary:
    parts = []
    for image_id in track(image_ids.tolist(), "OOF masks"):
        image = read(image_id)
        pixels = stack(count(*pair) for pair in zip(image.masks, image.target, strict=True))
        parts.append((image.coverage, image.counts, pixels, image.summary))
    coverage, counts, pixels, texts = zip(*parts, strict=True)
    return OofSummary(np.stack(coverage), np.stack(counts), stack(pixels), list(texts))


def _images(rows: pd.DataFrame, summary: OofSummary, selection: Selection) -> pd.DataFrame:
    """The table of images. If each pixel has a class, the coverage is 1."""
    images = rows[["image_id", "fold", "coverage"]].assign(
        **_subgroup_columns(rows),
        score=selection.scores.per_image(),
        predicted=summary.coverage.sum(axis=1).clip(max=1),
        label_error_score=label_error_score(summary.counts),
        summary=summary.texts,
    )
    return images.assign(coverage=1.0, predicted=1.0) if selection.renderer.kind == "multiclass" else images


def _masks(rows: pd.DataFrame, classes: Sequence[str], predicted: np.ndarray) -> pd.DataFrame:
    """A row for each class and image: class, coverage, predicted. `predicted` is (N, C), 0 to 1."""
    return pd.DataFrame(
        {
            "class": np.repeat(classes, len(rows)),
            "coverage": np.concatenate([rows[column] for column in coverage_columns(classes)]),
            "predicted": predicted.T.ravel(),
        }
    )


def _subgroup_columns(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Columns that may define subgroups: of the competition's tables, the size, and the group.

    A meta column keeps its prefix if the table of images has a column of its name.
    """
    own = {*report_data.RESULT_COLUMNS, "group"}
    meta = {column.removeprefix(META): rows[column] for column in rows if column.startswith(META)}
    columns = {META + name if name in own else name: column for name, column in meta.items()}
    columns.setdefault("size", rows["height"].astype(str) + "×" + rows["width"].astype(str))
    return {**columns, "group": rows["group"]}


def _history(members: Sequence[Context]) -> pd.DataFrame:
    """The rows of every fold's metrics.jsonl; none if imported, or of an ensemble: its members have own pages."""
    if len(members) > 1 or members[0].cfg.imported:
        return pd.DataFrame()
    lines = [line for fold in members[0].fold_numbers() for line in read_history(members[0], fold)]
    history = pd.DataFrame(lines)
    return history.drop(columns="threshold") if members[0].card.exclusive else history


def _folds(members: Sequence[Context], rows: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    sizes = rows.groupby("fold").size()
    means = {fold: selection.scores.take((rows["fold"] == fold).to_numpy()).mean() for fold in sizes.index}
    if len(members) > 1:
        return pd.DataFrame([{"fold": fold, "images": sizes[fold], "cross-fitted": means[fold]} for fold in means])
    return pd.DataFrame([fold_row(members[0], fold) for fold in means]).assign(**{"cross-fitted": list(means.values())})


def _classes(classes: Sequence[str], masks: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    rows = []
    for number, name in enumerate(classes):
        of_class = Scores(scores.numerator[:, [number]], scores.denominator[:, [number]])
        of_name = masks[masks["class"] == name]
        filled = (of_name["coverage"] > 0).to_numpy()
        rows.append(
            {
                "class": name,
                "images": len(of_name),
                "with a mask": int(filled.sum()),
                "score": of_class.mean(),
                "score with a mask": of_class.take(filled).mean(),
                "coverage": of_name["coverage"].mean(),
                "predicted": of_name["predicted"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _separation(selection: Selection) -> report_data.ObjectSeparation:
    """The methods to separate touching objects with their scores, and the rules of the submission and of each fold."""
    return report_data.ObjectSeparation(
        pd.DataFrame({"method": list(selection.alternatives), "score": list(selection.alternatives.values())}),
        pd.DataFrame(
            [{"chosen on": name, **each.parts[0].rules._asdict()} for name, each in _renderers(selection).items()]
        ),
    )


def _renderers(selection: Selection) -> dict[str, Renderer]:
    """The renderer chosen on all folds, and those chosen without each fold."""
    without = {f"without fold {fold}": renderer for fold, renderer in selection.by_fold.items()}
    return {"all folds": selection.renderer, **without}


def make_score_surface(grid: ScoreGrid, final: Rules) -> report_data.ScoreSurface:
    """Scores by threshold and area, in the rule set and with the weights of the submission.

    Without a fold, another rule set (see `rules_table`) or other weights may have been chosen. Here each fold's point
    is the best of this surface without the fold, so that all points belong to the surface that is drawn. The
    rules of the submission, which may have no axis, are also described as text.
    """
    rules, _ = grid.best()
    folds = grid.folds.tolist()
    per_fold = {fold: _point(grid, grid.best([each for each in folds if each != fold])[0]) for fold in folds}
    rising = grid.areas.argsort()  # shares descend
    return report_data.ScoreSurface(
        grid.areas[rising],
        grid.plane(rules)[rising],
        _point(grid, rules),
        per_fold,
        grid.rule_set,
        describe_rules(rules, final),
    )


RULE_TEXTS = {  # field of the rules: its effect
    "share": "raised until the masks of {pool} cover {:.3g} of {whole}",
    "gate": "a mask is emptied if the image head's probability is below {:.3f}",
    "by_group": "with a threshold of their own: {groups}",
    "min_area": "a mask of fewer than {} px is emptied",
    "min_component": "components of fewer than {} px are removed",
    "presence_area": "a mask is emptied unless {} px reach {presence:.3f}",
    "keep_largest": "only the largest {} components are kept",
    "fill_holes": "holes are filled",
}


POOLS = {"image": "each image", "volume": "each volume", "test set": "the whole test set"}
WHOLES = {"pixels": "its pixels", "expected": "its expected foreground"}


def describe_rules(rules: Rules, variant: Rules) -> tuple[str, ...]:
    """Descriptions of rules beside the threshold, then of the fields in which a variant differs from them."""
    texts = []
    for before, after in ((Rules(rules.threshold, 0), rules), (rules, variant)):
        words = {
            "presence": max(after.presence_threshold, after.threshold),
            "pool": POOLS[after.share_in],
            "whole": WHOLES[after.share_of],
            "groups": format_groups(after),
        }
        changed = [field for field in RULE_TEXTS if getattr(before, field) != getattr(after, field)]
        texts += [RULE_TEXTS[field].format(getattr(after, field), **words) for field in changed]
    return tuple(texts)


def _point(grid: ScoreGrid, rules: Rules) -> report_data.SurfacePoint:
    return report_data.SurfacePoint(rules.threshold, grid.area(rules), rules.presence_threshold)


def rules_table(classes: Sequence[str], selection: Selection) -> pd.DataFrame:
    """The rules of the submission and those chosen without each fold, class by class; empty unless multilabel."""
    if selection.renderer.kind != "multilabel":
        return pd.DataFrame()
    rows = [
        {"class": name, "chosen on": chosen_on, "rules": part.rule_set, **_rules_row(part.rules)}
        for number, name in enumerate(classes)
        for chosen_on, renderer in _renderers(selection).items()
        for part in [renderer.parts[number]]
    ]
    table = pd.DataFrame(rows).dropna(axis="columns", how="all")  # no column for a rule that is never used
    return table if len(classes) > 1 else table.drop(columns="class")


def _rules_row(rules: Rules) -> dict[str, Any]:
    """A row of the table of rules; None for a rule that is not used."""
    return {
        "threshold": rules.threshold,
        "share": rules.share,
        "share of": f"{rules.share_of}, {rules.share_in}" if rules.share else None,
        "total": rules.min_area or None,
        "component": rules.min_component or None,
        "by group": format_groups(rules) or None,
        "gate": rules.gate,
        "presence at": max(rules.presence_threshold, rules.threshold) if rules.presence_area else None,
        "presence": rules.presence_area or None,
        "largest": rules.keep_largest,
        "holes": "filled" if rules.fill_holes else None,
    }


def _members(members: Sequence[Context], selection: Selection, alone: Sequence[Selection]) -> report_data.Members:
    table = pd.DataFrame(member_scores(members, selection, alone))[["name", "weight", "score"]]
    errors = np.nan_to_num([1 - each.scores.per_image() for each in alone])  # an image that does not count has no error
    correlation = pd.DataFrame(np.corrcoef(errors), columns=table["name"])
    correlation.insert(0, "errors of", table["name"])
    return report_data.Members(table, correlation)


def _pseudo(member: Context) -> report_data.PseudoGain | None:
    """The gain of a config's pseudo-labels, or of its trained companion's; None if there are none."""
    if member.cfg.train.pseudo:
        return gain_of(member, make_context(source_of_labels(member.cfg)))
    labelled = _trained_companion(member)
    return gain_of(labelled, member) if labelled else None


def _trained_companion(member: Context) -> Context | None:
    """The companion of `make pseudo`, if it has the same folds and complete OOF predictions."""
    if not companion_path(member.cfg).exists():
        return None
    companion = make_context(read_companion(member.cfg))
    done = all(companion.paths.weights(fold).exists() for fold in companion.fold_numbers())
    if not done or not companion.folds.equals(member.folds):
        return None
    return companion if companion.oof_store().ids() >= set(companion.index["image_id"]) else None


def _submission(
    members: Sequence[Context], test_index: pd.DataFrame, renderer: Renderer, unscored: Sequence[Context]
) -> report_data.Submission:
    """The number of rows and empty rows, and the coverage of each image and class."""
    card, readable = members[0].card, set(test_index["image_id"])
    masks_of = test_masks(members, readable, renderer, *unscored)
    covered, objects = {}, {}
    for image_id in track(readable, "test masks"):
        predicted = masks_of(image_id)  # (C, H, W), or a label map of objects (H, W)
        masks = predicted if predicted.ndim == 3 else (predicted > 0)[None]
        covered[image_id], objects[image_id] = masks.mean(axis=(1, 2)), int(predicted.max())
    rows = sample_rows(card, members[0].paths.root / card.files.sample_submission)
    number = {name: position for position, name in enumerate(card.classes)}
    tested = rows[rows["image_id"].isin(readable)]
    coverage = np.array([covered[row.image_id][number[row.label]] for row in tested.itertuples()])
    more = sum(max(1, objects[image_id]) - 1 for image_id in tested["image_id"]) if card.instances else 0
    return report_data.Submission(len(rows) + more, len(rows) - int((coverage > 0).sum()), coverage)


def _simulate_shakeup(first: Context, scores: Scores, groups: np.ndarray) -> report_data.SimulatedShakeup | str:
    """The simulation, or why there is none: few groups, or a test set of unknown size, as a hidden one."""
    share, images = first.card.leaderboard.public_share, count_test_images(first.card, first.paths.root)
    if images < 2:
        return f"the test set has {images} images: give the number of the hidden ones, leaderboard.images on the card."
    try:
        shakeup.count_groups([scores], groups)
        public, private = shakeup.simulate_scores([scores], groups, public_share=share, test_images=images)
    except shakeup.TooFewGroupsError as error:
        return f"{error}."
    in_public = round(share * images)
    return report_data.SimulatedShakeup((private - public)[:, 0], in_public, images - in_public)
