"""The stage `report`: everything that is known of a config or an ensemble, gathered for one page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.index import coverage_columns
from pipeline.data.reader import Reader
from pipeline.ensemble import Choice, Chosen, Decision, Drawer, Exclusive
from pipeline.manifest import collect_provenance
from pipeline.metrics import Counts, Scores, count, detection_rates, epoch_metric, stack
from pipeline.postprocess import Cut, Surface
from pipeline.progress import track
from pipeline.report import report_data
from pipeline.report.label_quality import reliability, suspicion
from pipeline.report.page import write_report
from pipeline.stages.comparing import gain_of
from pipeline.stages.ensembling import decide_members, ensemble_name, load_members, oof_of_members, oof_rows, test_masks
from pipeline.stages.labelling import companion_path, read_companion, source_of_labels
from pipeline.stages.preparing import Context, count_test_images, make_context
from pipeline.stages.seeing import Seen, see
from pipeline.stages.training import fold_row, predict_test, read_history
from pipeline.statistics import shakeup
from pipeline.statistics.bootstrap import interval
from pipeline.submission import sample_rows

FEW = 20  # values of a column that tells images apart


def report(cfgs: Sequence[Config]) -> Path:
    """Write the page of a config, or of several as an ensemble; does all that is missing before.

    Writes: reports/<name>.html
    """
    path = Path("reports") / f"{ensemble_name(cfgs)}.html"
    write_report(path, gather(cfgs))
    return path


def gather(cfgs: Sequence[Config]) -> report_data.View:
    """All that a page, or a notebook, shows of a config or an ensemble; does all that is missing before."""
    members = load_members(cfgs)
    test_index, *_ = [predict_test(member) for member in members]
    return _view(ensemble_name(cfgs), members, test_index)


def _view(title: str, members: Sequence[Context], test_index: pd.DataFrame) -> report_data.View:
    first, rows = members[0], oof_rows(members)
    decision, alone = decide_members(members, rows)
    oof = oof_of_members(members, rows)
    fold_of = dict(zip(rows["image_id"], rows["fold"], strict=True))

    def look(image_id: str) -> Seen:
        return see(decision.by_fold[fold_of[image_id]], *oof.read(image_id))

    looked = _look_at_all(rows["image_id"], look)
    masks = _masks(rows, first.card.classes, looked.shares)
    return report_data.View(
        title=title,
        competition=first.card.title,
        metric=metric_of_scores(first.card),
        metric_of_epochs=epoch_metric(first.card.metric),
        made=collect_provenance(),
        images=_images(rows, looked, decision),
        masks=masks if len(first.card.classes) > 1 else pd.DataFrame(),
        honest=_honest(decision, rows["group"].to_numpy()),
        found=detection_rates(looked.pixels),
        picture=partial(_picture, first.reader, dict(zip(rows["image_id"], rows["path"], strict=True)), look),
        history=_history(members),
        folds=_folds(members, decision),
        classes=_classes(first.card.classes, masks, decision.scores),
        surfaces={name: surface_of(part) for name, part in zip(first.card.classes, decision.parts, strict=False)},
        cuts=cuts_of(first.card.classes, decision.parts),
        parting=_parting(decision) if first.card.instances else None,
        reliability=reliability(looked.counts.sum(axis=0)),
        members=_members(members, decision, alone) if len(members) > 1 else None,
        pseudo=_pseudo(first) if len(members) == 1 else None,
        submission=_submission(members, test_index, decision.shipped),
        boards=_boards(first, decision.scores, rows["group"].to_numpy()),
    )


def metric_of_scores(card: Competition) -> str:
    """The name of the metric that is cross-fitted: the official one; where that is of volumes, that of their slices."""
    return card.metric if card.instances else epoch_metric(card.metric)


def _honest(decision: Decision, groups: np.ndarray) -> report_data.Honest:
    """Exclusive classes have no threshold, and so no score at .5."""
    at_half = None if isinstance(decision.shipped, Exclusive) else decision.at_half
    return report_data.Honest(interval(decision.scores, groups), decision.in_sample, at_half, decision.trivial)


def _picture(
    reader: Reader, path_of: Mapping[str, Path], look: Callable[[str], Seen], image_id: str
) -> report_data.Picture:
    seen = look(image_id)
    return report_data.Picture(reader.picture(path_of[image_id]), seen.true, seen.values.max(axis=0), seen.found)


class Looked(NamedTuple):
    """What all training images show, in their order."""

    shares: np.ndarray  # (N, C) predicted, 0 to 1
    counts: np.ndarray  # (N, 2, 256) pixels by label and stored value
    pixels: Counts  # (N, C) of the drawn masks
    said: list[str]


def _look_at_all(image_ids: pd.Series, look: Callable[[str], Seen]) -> Looked:
    shares, counts, pixels, said = [], [], [], []
    for image_id in track(image_ids.tolist(), "look at OOF masks"):
        seen = look(image_id)
        shares.append(seen.shares)
        counts.append(seen.counts)
        pixels.append(stack(count(*pair) for pair in zip(seen.masks, seen.target, strict=True)))
        said.append(seen.said)
    return Looked(np.stack(shares), np.stack(counts), stack(pixels), said)


def _images(rows: pd.DataFrame, looked: Looked, decision: Decision) -> pd.DataFrame:
    """The table of images. Where each pixel has a class, all of it is masked."""
    apart = [column for column in _telling(rows) if column not in report_data.RESULTS]
    images = rows[["image_id", "fold", "coverage", *apart]].assign(
        score=decision.scores.per_image(),
        predicted=looked.shares.sum(axis=1).clip(max=1),
        suspicion=suspicion(looked.counts),
        said=looked.said,
    )
    return images.assign(coverage=1.0, predicted=1.0) if isinstance(decision.shipped, Exclusive) else images


def _masks(rows: pd.DataFrame, classes: Sequence[str], shares: np.ndarray) -> pd.DataFrame:
    """A row for each class and image: class, coverage, predicted."""
    return pd.DataFrame(
        {
            "class": np.repeat(classes, len(rows)),
            "coverage": np.concatenate([rows[column] for column in coverage_columns(classes)]),
            "predicted": shares.T.ravel(),
        }
    )


def _telling(rows: pd.DataFrame) -> list[str]:
    """Columns that may tell kinds of images apart: few values, but more than one; and the group, where it is shared."""
    inner = {"image_id", "path", "mask_paths", "rle", "rle_void", "line"}
    inner |= {"fold", "coverage", "empty", "group", "height", "width"}
    inner |= {column for column in rows if column.startswith("coverage_")}
    few = [column for column in rows if column not in inner and 1 < rows[column].nunique() <= FEW]
    sizes = rows["height"].astype(str) + "×" + rows["width"].astype(str)
    if "size" not in rows and 1 < sizes.nunique() <= FEW:
        rows["size"] = sizes
        few.append("size")
    return few if rows["group"].is_unique else [*few, "group"]


def _history(members: Sequence[Context]) -> pd.DataFrame:
    """The lines of every fold's metrics.jsonl; of an ensemble, none: its members have pages of their own."""
    if len(members) > 1:
        return pd.DataFrame()
    lines = [line for fold in members[0].fold_numbers() for line in read_history(members[0], fold)]
    return _without_thresholds(pd.DataFrame(lines), members[0].card)


def _folds(members: Sequence[Context], decision: Decision) -> pd.DataFrame:
    means = decision.fold_scores
    if len(members) > 1:
        sizes = members[0].folds.groupby("fold").size()
        return pd.DataFrame([{"fold": fold, "images": sizes[fold], "cross-fitted": means[fold]} for fold in means])
    rows = pd.DataFrame([fold_row(members[0], fold) for fold in means]).assign(**{"cross-fitted": list(means.values())})
    return _without_thresholds(rows, members[0].card)


def _without_thresholds(table: pd.DataFrame, card: Competition) -> pd.DataFrame:
    """Of exclusive classes, what training writes down as the best threshold is none."""
    none = [column for column in table if card.exclusive and column.startswith("threshold")]
    return table.drop(columns=none)


def _classes(classes: Sequence[str], masks: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    rows = []
    for number, name in enumerate(classes):
        of_class = Scores(scores.numerator[:, [number]], scores.denominator[:, [number]])
        shares = masks[masks["class"] == name]
        filled = (shares["coverage"] > 0).to_numpy()
        rows.append(
            {
                "class": name,
                "images": len(shares),
                "with a mask": int(filled.sum()),
                "score": of_class.mean(),
                "score with a mask": of_class.take(filled).mean(),
                "coverage": shares["coverage"].mean(),
                "predicted": shares["predicted"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _parting(decision: Decision) -> report_data.Parting:
    """The ways to part touching objects, and the cut of each fold, and what ships."""
    cuts = {"all folds": decision.shipped, **{f"without fold {fold}": cut for fold, cut in decision.by_fold.items()}}
    return report_data.Parting(
        pd.DataFrame({"way": list(decision.others), "score": list(decision.others.values())}),
        pd.DataFrame([{"chosen on": name, **drawer.cut._asdict()} for name, drawer in cuts.items()]),
    )


def surface_of(chosen: Chosen) -> report_data.Surface:
    """Thresholds and areas of the family of rules that ships, under the weights that ship.

    A fold may have chosen another family (`cuts_of` has it), and in an ensemble other weights; here each fold's point
    is the best of this surface without it, so that all points lie where they are drawn. Rules beside the family's,
    which refine it, have no axis here, and are said in words.
    """
    surface = chosen.surfaces[chosen.family]
    cut, _ = surface.best()
    folds = surface.folds.tolist()
    without = {fold: surface.best([each for each in folds if each != fold])[0] for fold in folds}
    per_fold = {fold: _point(surface, each) for fold, each in without.items()}
    further = _further(cut, chosen.shipped.cut)
    return report_data.Surface(
        surface.areas, surface.plane(cut), _point(surface, cut), per_fold, chosen.family, tuple(further)
    )


FURTHER = {  # a field of a cut that a refinement sets: what it then does
    "min_area": "a mask of fewer than {} px is emptied",
    "min_component": "components of fewer than {} px are removed",
    "presence_area": "a mask is emptied unless {} px reach {presence:.3f}",
    "keep_largest": "the largest {} are kept",
    "fill_holes": "holes are filled",
}


def _further(cut: Cut, refined: Cut) -> list[str]:
    """What a refined cut does that the cut does not."""
    before, after = cut._asdict(), refined._asdict()
    presence = max(refined.presence_threshold, refined.threshold)
    return [
        said.format(after[field], presence=presence) for field, said in FURTHER.items() if after[field] != before[field]
    ]


def _point(surface: Surface, cut: Cut) -> report_data.Chosen:
    return report_data.Chosen(cut.threshold, surface.area(cut), cut.presence_threshold)


def cuts_of(classes: Sequence[str], parts: Sequence[Chosen]) -> pd.DataFrame:
    """What ships and what was chosen without each fold, class by class; no row where no class has a cut of its own."""
    rows = [
        {"class": name, "chosen on": chosen_on, "rules": choice.rules, **_cut_row(choice.cut)}
        for name, part in zip(classes, parts, strict=False)
        for chosen_on, choice in _choices(part)
    ]
    table = pd.DataFrame(rows).dropna(axis="columns", how="all")  # of rules that nobody has, no column
    return table if len(parts) > 1 else table.drop(columns="class", errors="ignore")


def _choices(part: Chosen) -> list[tuple[str, Choice]]:
    without = [f"without fold {fold}" for fold in part.fitted.folds]
    return [("all folds", part.shipped), *zip(without, part.fitted.chosen, strict=True)]


def _cut_row(cut: Cut) -> dict[str, Any]:
    """A row of the table of cuts: the threshold, and whatever else the cut does."""
    return {
        "threshold": cut.threshold,
        "total": cut.min_area or None,
        "component": cut.min_component or None,
        "presence at": max(cut.presence_threshold, cut.threshold) if cut.presence_area else None,
        "presence": cut.presence_area or None,
        "largest": cut.keep_largest,
        "holes": "filled" if cut.fill_holes else None,
    }


def _members(members: Sequence[Context], decision: Decision, alone: Sequence[Decision]) -> report_data.Members:
    table = pd.DataFrame(
        {
            "name": [member.cfg.name for member in members],
            "weight": decision.shipped.weights,
            "score": [each.honest for each in alone],
        }
    )
    errors = np.nan_to_num([1 - each.scores.per_image() for each in alone])  # an image that does not count has none
    return report_data.Members(table, np.corrcoef(errors))


def _pseudo(member: Context) -> report_data.Pseudo | None:
    """A config against the source of its labels, which predicted all folds before it could label; else its companion
    against it, once that has predicted them too.
    """
    if member.cfg.train.pseudo:
        gain = gain_of(member, make_context(source_of_labels(member.cfg)))
    elif labelled := _trained_companion(member):
        gain = gain_of(labelled, member)
    else:
        return None
    return report_data.Pseudo(gain.name, gain.source, gain.folds, gain.difference)


def _trained_companion(member: Context) -> Context | None:
    """The companion of `make pseudo`, if it is on the same folds and no image's OOF is missing."""
    if not companion_path(member.cfg).exists():
        return None
    companion = make_context(read_companion(member.cfg))
    done = all(companion.paths.weights(fold).exists() for fold in companion.fold_numbers())
    if not done or not companion.folds.equals(member.folds):
        return None
    return companion if companion.oof_store().ids() >= set(companion.index["image_id"]) else None


def _submission(members: Sequence[Context], test_index: pd.DataFrame, drawer: Drawer) -> report_data.Submission:
    """Rows, empty ones among them, and the masked share of each image and class."""
    card, readable = members[0].card, set(test_index["image_id"])
    masks_of = test_masks(members, readable, drawer)
    tested = {image_id: _tested(masks_of(image_id)) for image_id in track(readable, "look at test masks")}
    rows = sample_rows(card, members[0].paths.root / card.files.sample_submission)
    number = {name: position for position, name in enumerate(card.classes)}
    predicted = rows[rows["image_id"].isin(readable)]
    coverage = np.array([tested[row.image_id].shares[number[row.label]] for row in predicted.itertuples()])
    more = sum(tested[image_id].rows - 1 for image_id in predicted["image_id"]) if card.instances else 0
    return report_data.Submission(len(rows) + more, len(rows) - int((coverage > 0).sum()), coverage)


class Tested(NamedTuple):
    """What is handed in of one test image."""

    shares: np.ndarray  # (C,) masked, 0 to 1
    rows: int  # of objects: one each, or one that says that there is none


def _tested(drawn: np.ndarray) -> Tested:
    """Of masks (C, H, W), or objects (H, W)."""
    masks = drawn if drawn.ndim == 3 else (drawn > 0)[None]
    return Tested(masks.mean(axis=(1, 2)), max(1, int(drawn.max())))


def _boards(first: Context, scores: Scores, groups: np.ndarray) -> report_data.Boards | None:
    """None where too little counts, and of a test set without two parts, such as a hidden one of unknown size."""
    share, images = first.card.leaderboard.public_share, count_test_images(first.card, first.paths.root)
    if images < 2:
        return None
    try:
        public, private = shakeup.boards([scores], groups, public_share=share, test_images=images)
    except shakeup.TooFewError:
        return None
    in_public = round(share * images)
    return report_data.Boards((private - public)[:, 0], in_public, images - in_public)
