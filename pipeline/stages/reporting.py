"""The stage `report`: everything that is known of a config or an ensemble, gathered for one page."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import shakeup
from pipeline.bootstrap import interval
from pipeline.config import Config
from pipeline.data.labels import VOID
from pipeline.ensemble import Chosen, Decision, Drawer, Oof, blender
from pipeline.manifest import made_with
from pipeline.metrics import Scores
from pipeline.postprocess import count_by_label
from pipeline.progress import track
from pipeline.report import view
from pipeline.report.page import write_report
from pipeline.report.suspicion import reliability, suspicion
from pipeline.stages.ensembling import decide_members, ensemble_name, load_members, oof_of_members, oof_rows, test_masks
from pipeline.stages.preparing import Prepared, count_test_images
from pipeline.stages.training import fold_row, predict_test
from pipeline.submission import sample_rows

FEW = 20  # values of a column that tells images apart


def report(cfgs: Sequence[Config]) -> Path:
    """Write the page of a config, or of several as an ensemble; does all that is missing before.

    Writes: reports/<name>.html
    """
    members = load_members(cfgs)
    test_index, *_ = [predict_test(member) for member in members]
    path = Path("reports") / f"{ensemble_name(cfgs)}.html"
    write_report(path, _view(path.stem, members, test_index))
    return path


def _view(title: str, members: Sequence[Prepared], test_index: pd.DataFrame) -> view.View:
    first, rows = members[0], oof_rows(members)
    decision, alone = decide_members(members, rows)
    oof = oof_of_members(members, rows)
    images, counts = _images(rows, oof, decision, first.card.classes)
    reader, path_of = first.reader, dict(zip(rows["image_id"], rows["path"], strict=True))
    fold_of = dict(zip(rows["image_id"], rows["fold"], strict=True))

    def picture(image_id: str) -> view.Picture:
        values, target = oof.read(image_id)
        drawer, blend_by = decision.by_fold[fold_of[image_id]], blender(values)
        masks = drawer.masks(blend_by)
        # Of several classes, what any of them has.
        return view.Picture(
            reader.picture(path_of[image_id]),
            (target == 1).any(axis=0).astype(np.uint8),
            drawer.blended(blend_by).max(axis=0),
            masks.max(axis=0),
        )

    return view.View(
        title=title,
        competition=first.card.title,
        metric=first.card.metric,
        made=made_with(),
        images=images,
        honest=view.Honest(interval(decision.scores, rows["group"].to_numpy()), decision.in_sample, decision.at_half),
        picture=picture,
        history=_history(members),
        folds=_folds(members, decision),
        classes=_classes(first.card.classes, images, decision.scores),
        surfaces={name: _surface(part) for name, part in zip(first.card.classes, decision.parts, strict=False)},
        reliability=reliability(counts.sum(axis=0)),
        members=_members(members, decision, alone) if len(members) > 1 else None,
        submission=_submission(members, test_index, decision.shipped),
        boards=_boards(first, decision.scores, rows["group"].to_numpy()),
    )


def _images(
    rows: pd.DataFrame, oof: Oof, decision: Decision, classes: Sequence[str]
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of images, and the stored values inside and outside of each one's target, (N, 2, 256)."""
    predicted, counts = [], []
    for row in track(rows.itertuples(), "look at OOF masks", total=len(rows)):
        values, target = oof.read(row.image_id)
        drawer, blend_by = decision.by_fold[row.fold], blender(values)
        predicted.append(drawer.masks(blend_by).mean(axis=(1, 2)))
        counts.append(_count_by_label(drawer.blended(blend_by), target))
    stacked, shares = np.stack(counts), np.stack(predicted)
    of_class = {f"predicted_{name}": share for name, share in zip(classes, shares.T, strict=True)}
    apart = [column for column in _telling(rows) if column not in view.RESULTS]
    images = rows[["image_id", "fold", "coverage", *apart]].assign(
        score=decision.scores.each(),
        predicted=shares.sum(axis=1).clip(max=1),
        suspicion=suspicion(stacked),
        **(of_class if len(classes) > 1 else {}),
    )
    return images, stacked


def _count_by_label(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The counts (2, 256) of all classes, without void."""
    valid = target != VOID
    return count_by_label(values[valid], target[valid])


def _telling(rows: pd.DataFrame) -> list[str]:
    """Columns that may tell kinds of images apart: few values, but more than one; and the group, where it is shared."""
    inner = {"image_id", "path", "mask_path", "rle", "line", "fold", "coverage", "group", "height", "width"}
    inner |= {column for column in rows if column.startswith("coverage_")}
    few = [column for column in rows if column not in inner and 1 < rows[column].nunique() <= FEW]
    sizes = rows["height"].astype(str) + "×" + rows["width"].astype(str)
    if 1 < sizes.nunique() <= FEW:
        rows["size"] = sizes
        few.append("size")
    return few if rows["group"].is_unique else [*few, "group"]


def _history(members: Sequence[Prepared]) -> pd.DataFrame:
    """The lines of every fold's metrics.jsonl; of an ensemble, none: its members have pages of their own."""
    if len(members) > 1:
        return pd.DataFrame()
    paths = [members[0].paths.fold(fold) / "metrics.jsonl" for fold in members[0].numbers()]
    return pd.DataFrame([json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()])


def _folds(members: Sequence[Prepared], decision: Decision) -> pd.DataFrame:
    means = decision.fold_scores
    if len(members) > 1:
        sizes = members[0].folds.groupby("fold").size()
        return pd.DataFrame([{"fold": fold, "images": sizes[fold], "cross-fitted": means[fold]} for fold in means])
    rows = [fold_row(members[0], fold) for fold in means]
    return pd.DataFrame([{**row, "cross-fitted": means[row["fold"]]} for row in rows])


def _classes(classes: Sequence[str], images: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    several = len(classes) > 1
    rows = []
    for number, name in enumerate(classes):
        coverage = images[f"coverage_{name}"] if several else images["coverage"]
        of_class = Scores(scores.gained[:, [number]], scores.possible[:, [number]])
        filled = (coverage > 0).to_numpy()
        rows.append(
            {
                "class": name,
                "images": len(images),
                "with a mask": int(filled.sum()),
                "score": of_class.mean(),
                "score with a mask": of_class.take(filled).mean(),
                "coverage": coverage.mean(),
                "predicted": images[f"predicted_{name}" if several else "predicted"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _surface(chosen: Chosen) -> view.Surface:
    """Thresholds and smallest total areas, whichever rules ship: the two that everyone knows."""
    total = chosen.surfaces["total"]
    folds = total.folds.tolist()
    without = {fold: total.best([each for each in folds if each != fold])[0] for fold in folds}
    cuts = {fold: view.Chosen(cut.threshold, cut.min_area) for fold, cut in without.items()}
    best, _ = total.best()
    return view.Surface(total.areas, total.means(), view.Chosen(best.threshold, best.min_area), cuts)


def _members(members: Sequence[Prepared], decision: Decision, alone: Sequence[Decision]) -> view.Members:
    table = pd.DataFrame(
        {
            "name": [member.cfg.name for member in members],
            "weight": decision.shipped.weights,
            "score": [each.honest for each in alone],
        }
    )
    errors = np.nan_to_num([1 - each.scores.each() for each in alone])  # an image that does not count has none
    return view.Members(table, np.corrcoef(errors))


def _submission(members: Sequence[Prepared], test_index: pd.DataFrame, drawer: Drawer) -> view.Submission:
    """Rows, empty ones among them, and the masked share of each row's image."""
    card, readable = members[0].card, set(test_index["image_id"])
    masks_of = test_masks(members, readable, drawer)
    shares = {image_id: masks_of(image_id).mean(axis=(1, 2)) for image_id in track(readable, "look at test masks")}
    rows = sample_rows(card, members[0].paths.root / card.files.sample_submission)
    number = {name: position for position, name in enumerate(card.classes)}
    predicted = rows[rows["image_id"].isin(readable)]
    coverage = np.array([shares[row.image_id][number[row.label]] for row in predicted.itertuples()])
    return view.Submission(len(rows), len(rows) - int((coverage > 0).sum()), coverage)


def _boards(first: Prepared, scores: Scores, groups: np.ndarray) -> view.Boards:
    share, images = first.card.leaderboard.public_share, count_test_images(first.card, first.paths.root)
    public, private = shakeup.boards([scores], groups, public_share=share, test_images=images)
    in_public = round(share * images)
    return view.Boards((private - public)[:, 0], in_public, images - in_public)
