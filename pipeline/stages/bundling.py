"""The stage `bundle`: what an offline notebook on Kaggle needs, from models that are trained and chosen."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition
from pipeline.config import Config
from pipeline.files import write_text
from pipeline.inference.prediction_store import PredictionStore
from pipeline.kaggle.descriptions import describe
from pipeline.kaggle.input_mounts import LAYOUT, is_rerun
from pipeline.kaggle.metadata import read_metadata
from pipeline.kaggle.wheels import write_wheels
from pipeline.manifest import read_submission_manifest
from pipeline.metrics import selection_metric
from pipeline.serving.budget_plan import Member, Plan, Step, seconds_of
from pipeline.serving.bundle import Bundle, Origin, Record, Worth, read_bundle, weights_name, write_bundle
from pipeline.serving.bundle_prediction import Predicted, predict_test
from pipeline.serving.tta_ablation import price_steps
from pipeline.stages.ensembling import Ensembled, ensemble, ensemble_name, load_members, oof_of_members, oof_rows
from pipeline.stages.preparing import Context
from pipeline.stages.training import fill_store, fold_row

log = logging.getLogger(__name__)

DIST = Path("dist/kaggle")
NOBODY = "your-name"
SAMPLE = 200  # training images on which the price of a view is measured


class Bundled(NamedTuple):
    """What the stage `bundle` made."""

    folder: Path
    owner: str
    root: Path  # where the competition's files lie
    bundle: Bundle
    done: Ensembled
    megabytes: dict[str, float]  # of each dataset


def bundle(cfgs: Sequence[Config], owner: str | None = None, *, half: bool | None = None) -> Bundled:
    """Write all that Kaggle needs; trains and chooses what is missing before.

    Writes: dist/kaggle/<name>/code/ (wheels, configs, folds), weights/ (see `serving.bundle`), notebook/ and train/ (a
    notebook each), all with their metadata

    Args:
        owner: the name of the Kaggle account; None: that of the bundle that is there, or nobody's.
        half: weights in bfloat16; None: as in the bundle that is there, or not.
    """
    folder = folder_of(cfgs)
    owner = owner or owner_of(folder)
    done, members = ensemble(cfgs), load_members(cfgs)
    made = write_weights(folder / "weights", members, done, half=_is_half(folder) if half is None else half)
    write_code(folder / "code", members)
    describe(folder, owner, made.record, made.card)
    sizes = {name: sum(file.stat().st_size for file in (folder / name).iterdir()) / 1e6 for name in ("code", "weights")}
    return Bundled(folder, owner, members[0].paths.root, made, done, sizes)


def run_bundle(weights: Path, root: Path, csv: Path, *, budget: str = "", workers: int = 0) -> Predicted:
    """Predict a test set with a bundle: `kaggle.prediction.predict_test`, which never ends without a valid CSV.

    Args:
        weights: the bundle's folder.
        root: where the competition's files lie.
        budget: such as "8h30m"; empty: as long as it takes.

    Raises:
        ValueError: if no image at all could be predicted, unless this is the run on hidden data, which must not fail.
    """
    done = predict_test(read_bundle(weights), root, csv, budget=seconds_of(budget) if budget else None, workers=workers)
    if done.images and len(done.problems) == done.images and not is_rerun():
        image_id, problem = next(iter(done.problems.items()))
        raise ValueError(f"not one of {done.images} images could be predicted, the first is '{image_id}': {problem}")
    return done


def write_weights(folder: Path, members: Sequence[Context], done: Ensembled, *, half: bool = False) -> Bundle:
    """Write the bundle itself, after measuring what each view is worth, and read it back.

    Raises:
        ValueError: for folds that were trained with different settings.
    """
    manifest = read_submission_manifest(done.manifest)
    if (manifest["commit"] or "").endswith("+"):
        log.warning("files differ from commit %s: what is bundled cannot be made again from it", manifest["commit"][:7])
    record = _record(members, done, manifest, price(members, done)).model_copy(update={"half": half})
    paths = {(each.cfg.name, fold): each.paths.weights(fold) for each in members for fold in each.test_folds()}
    write_bundle(folder, record, competition.path_of(members[0].cfg.competition), paths)
    return read_bundle(folder)


def owner_of(folder: Path) -> str:
    """The account that a bundle in a folder is for; nobody's if there is none yet, or a damaged one."""
    with suppress(OSError, ValueError):
        return read_metadata(folder / "weights").id.partition("/")[0]
    return NOBODY


def _is_half(folder: Path) -> bool:
    """Whether the bundle in a folder has weights in bfloat16; a damaged one counts as none."""
    with suppress(OSError, ValueError):
        return read_bundle(folder / "weights").record.half
    return False


def folder_of(cfgs: Sequence[Config]) -> Path:
    """Where the bundle of configs lies."""
    return DIST / ensemble_name(cfgs)


def _record(members: Sequence[Context], done: Ensembled, manifest: Mapping[str, Any], steps: Sequence[Step]) -> Record:
    names = [each.cfg.name for each in members]
    return Record(
        name=ensemble_name([each.cfg for each in members]),
        configs=manifest["configs"],
        weights={
            each.cfg.name: {str(f): weights_name(each.cfg.name, f) for f in each.test_folds()} for each in members
        },
        chosen=done.decision.shipped.record(names, members[0].card.classes),
        steps=tuple(steps),
        worth=Worth(metric=done.metric, score=done.honest.mean, interval=done.ends),
        origin=Origin(**{key: manifest[key] for key in Origin.model_fields}),
    )


def price(members: Sequence[Context], done: Ensembled) -> list[Step]:
    """What may be dropped when time is short, with what it costs on some of the training images."""
    rows = oof_rows(members)
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).round().astype(int))]
    plan = plan_of(members)
    stores = {
        (member.name, view): _view_store(context, rows, view)
        for member, context in zip(plan, members, strict=True)
        for view in member.views
    }
    scores = {each.cfg.name: {fold: fold_row(each, fold)["oof"] for fold in each.fold_numbers()} for each in members}
    return price_steps(
        plan,
        done.decision.shipped,
        oof_of_members(members, rows),
        lambda member, view, image_id: stores[member, view].read(image_id),
        selection_metric(members[0].card.metric),
        scores,
    )


def plan_of(members: Sequence[Context]) -> Plan:
    """All folds and views of all members."""
    return tuple(Member(each.cfg.name, tuple(each.test_folds()), each.cfg.predict.views) for each in members)


def _view_store(context: Context, rows: pd.DataFrame, view: str) -> PredictionStore:
    """The rows' predictions out of fold by one view alone; what is there already is not made again."""
    if context.cfg.predict.views == (view,):
        return context.oof_store()
    cfg = context.cfg.model_copy(update={"predict": context.cfg.predict.model_copy(update={"views": (view,)})})
    alone, folders = context._replace(cfg=cfg), []
    for fold in context.fold_numbers():
        folder = context.paths.fold(fold) / "views" / view
        fill_store(alone, fold, rows[rows["fold"] == fold], folder, f"fold {fold}, {view} alone")
        folders.append(folder)
    return PredictionStore(*folders)


def write_code(folder: Path, members: Sequence[Context]) -> None:
    """Wheels, and the files of the project that a training on Kaggle reads, with where they lie."""
    write_wheels(folder, DIST.with_name("wheels"))
    files = [Path("configs") / f"{each.cfg.name}.toml" for each in members]
    for each in members:
        files += [each.paths.folds, each.paths.folds.with_suffix(".json"), each.paths.duplicates]
        files += [Path(each.cfg.competition)] if each.cfg.competition.endswith(".toml") else []
        files += [Path("configs") / f"{each.cfg.train.pseudo.from_}.toml"] if each.cfg.train.pseudo else []
    there = dict.fromkeys(path for path in files if path.is_file())
    layout = {"-".join(path.parts): path.as_posix() for path in there if not path.is_absolute()}
    for name, path in layout.items():
        shutil.copyfile(path, folder / name)
    write_text(folder / LAYOUT, json.dumps(layout, indent=1) + "\n")
