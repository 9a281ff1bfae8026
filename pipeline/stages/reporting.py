"""The stage `report`: everything that is known of a config or an ensemble, gathered for one page."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import shakeup
from pipeline.bootstrap import interval
from pipeline.config import Config
from pipeline.ensemble import Choice, Chosen, Oof, blend
from pipeline.manifest import made_with
from pipeline.postprocess import apply, count_by_label
from pipeline.progress import track
from pipeline.report import view
from pipeline.report.page import write_report
from pipeline.report.suspicion import reliability, suspicion
from pipeline.stages.ensembling import choose_members, ensemble_name, load_members, oof_of_members, oof_rows, test_masks
from pipeline.stages.preparing import Prepared, count_rows, count_test_images
from pipeline.stages.training import fold_row, predict_test

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
    chosen, alone = choose_members(members, rows)
    oof, by_fold = oof_of_members(members, rows), _choice_of(chosen)
    images, counts = _images(rows, oof, by_fold, chosen)
    reader, path_of = first.reader, dict(zip(rows["image_id"], rows["path"], strict=True))
    fold_of = dict(zip(rows["image_id"], rows["fold"], strict=True))

    def picture(image_id: str) -> view.Picture:
        values, target = oof.read(image_id)
        choice = by_fold[fold_of[image_id]]
        blended = blend(values, np.array(choice.weights), choice.how)
        return view.Picture(reader(path_of[image_id]), target, blended, apply(blended, choice.cut))

    return view.View(
        title=title,
        competition=first.card.title,
        metric=first.card.metric,
        made=made_with(),
        images=images,
        honest=view.Honest(
            interval(chosen.fitted.scores, rows["group"].to_numpy()), chosen.fitted.in_sample, chosen.at_half()
        ),
        picture=picture,
        history=_history(members),
        folds=_folds(members, chosen),
        classes=_classes(first, images),
        surfaces={name: _surface(chosen) for name in first.card.classes},
        reliability=reliability(counts.sum(axis=0)),
        members=_members(members, chosen.shipped, alone) if len(members) > 1 else None,
        submission=_submission(members, test_index, chosen.shipped),
        boards=_boards(first, chosen.fitted.scores, rows["group"].to_numpy()),
    )


def _choice_of(chosen: Chosen) -> dict[int, Choice]:
    """The choice that was made without each fold."""
    return dict(zip(chosen.fitted.folds.tolist(), chosen.fitted.chosen, strict=True))


def _images(
    rows: pd.DataFrame, oof: Oof, by_fold: dict[int, Choice], chosen: Chosen
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of images, and the stored values inside and outside of each one's target, (N, 2, 256)."""
    predicted, counts = [], []
    for row in track(rows.itertuples(), "look at OOF masks", total=len(rows)):
        values, target = oof.read(row.image_id)
        choice = by_fold[row.fold]
        blended = blend(values, np.array(choice.weights), choice.how)
        predicted.append(float(apply(blended, choice.cut).mean()))
        counts.append(count_by_label(blended, target))
    stacked = np.stack(counts)
    apart = [column for column in _telling(rows) if column not in view.RESULTS]
    images = rows[["image_id", "fold", "coverage", *apart]].assign(
        score=chosen.fitted.scores, predicted=predicted, suspicion=suspicion(stacked)
    )
    return images, stacked


def _telling(rows: pd.DataFrame) -> list[str]:
    """Columns that may tell kinds of images apart: few values, but more than one; and the group, where it is shared."""
    inner = {"image_id", "path", "mask_path", "rle", "line", "fold", "coverage", "group", "height", "width"}
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


def _folds(members: Sequence[Prepared], chosen: Chosen) -> pd.DataFrame:
    means = dict(zip(chosen.fitted.folds.tolist(), chosen.fitted.fold_means.tolist(), strict=True))
    if len(members) > 1:
        sizes = members[0].folds.groupby("fold").size()
        return pd.DataFrame([{"fold": fold, "images": sizes[fold], "cross-fitted": means[fold]} for fold in means])
    rows = [fold_row(members[0], fold) for fold in means]
    return pd.DataFrame([{**row, "cross-fitted": means[row["fold"]]} for row in rows])


def _classes(first: Prepared, images: pd.DataFrame) -> pd.DataFrame:
    filled = images[images["coverage"] > 0]
    row = {
        "images": len(images),
        "with a mask": len(filled),
        "score": images["score"].mean(),
        "score with a mask": filled["score"].mean(),
        "coverage": images["coverage"].mean(),
        "predicted": images["predicted"].mean(),
    }
    return pd.DataFrame([{"class": name, **row} for name in first.card.classes])


def _surface(chosen: Chosen) -> view.Surface:
    """Thresholds and smallest total areas, whichever rules ship: the two that everyone knows."""
    total = chosen.surfaces["total"]
    folds = total.folds.tolist()
    without = {fold: total.best([each for each in folds if each != fold])[0] for fold in folds}
    cuts = {fold: view.Chosen(cut.threshold, cut.min_area) for fold, cut in without.items()}
    best, _ = total.best()
    return view.Surface(total.areas, total.means(), view.Chosen(best.threshold, best.min_area), cuts)


def _members(members: Sequence[Prepared], choice: Choice, alone: Sequence[Chosen]) -> view.Members:
    table = pd.DataFrame(
        {
            "name": [member.cfg.name for member in members],
            "weight": choice.weights,
            "score": [each.fitted.honest for each in alone],
        }
    )
    return view.Members(table, np.corrcoef([1 - each.fitted.scores for each in alone]))


def _submission(members: Sequence[Prepared], test_index: pd.DataFrame, choice: Choice) -> view.Submission:
    mask_of = test_masks(members, set(test_index["image_id"]), choice)
    coverage = np.array([mask_of(image_id).mean() for image_id in track(test_index["image_id"], "look at test masks")])
    rows = count_rows(members[0].card, members[0].paths.root)
    return view.Submission(rows, rows - int((coverage > 0).sum()), coverage)


def _boards(first: Prepared, scores: np.ndarray, groups: np.ndarray) -> view.Boards:
    share, images = first.card.leaderboard.public_share, count_test_images(first.card, first.paths.root)
    public, private = shakeup.boards(scores[None], groups, public_share=share, test_images=images)
    in_public = round(share * images)
    return view.Boards((private - public)[:, 0], in_public, images - in_public)
