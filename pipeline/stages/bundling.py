"""The stages `bundle` and `run-bundle`: pack trained models for an offline Kaggle notebook, and predict with them."""

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
from pipeline.ensemble.serialization import to_record
from pipeline.files import write_text
from pipeline.inference.prediction_store import PredictionStore
from pipeline.kaggle.input_mounts import LAYOUT_FILE, WEIGHTS, is_rerun
from pipeline.kaggle.metadata import read_metadata, write_bundle_metadata
from pipeline.kaggle.wheels import write_wheels
from pipeline.manifest import read_submission_manifest
from pipeline.metrics import selection_metric
from pipeline.serving.budget_plan import Fallback, Member, parse_duration
from pipeline.serving.bundle import (
    Bundle,
    BundleRecord,
    Evaluation,
    Provenance,
    read_bundle,
    weights_name,
    write_bundle,
)
from pipeline.serving.bundle_prediction import PredictionResult, predict_test
from pipeline.serving.tta_ablation import rank_fallbacks
from pipeline.stages.distilling import teachers_of
from pipeline.stages.ensembling import Ensembled, ensemble, ensemble_name, load_members, oof_of_members, oof_rows
from pipeline.stages.labelling import source_of_labels
from pipeline.stages.preparing import Context, Paths
from pipeline.stages.starting_weights import source_of_weights, starting_files
from pipeline.stages.training import fill_store, fold_row

log = logging.getLogger(__name__)

DIST = Path("dist/kaggle")
PLACEHOLDER_OWNER = "your-name"
MAX_IMAGES = 200  # training images on which the score loss of a view is measured


class BundleResult(NamedTuple):
    """The outcome of the stage `bundle`."""

    folder: Path
    owner: str
    root: Path  # the folder of the competition's files
    bundle: Bundle
    done: Ensembled
    megabytes: dict[str, float]  # of each dataset


def bundle(
    cfgs: Sequence[Config], owner: str | None = None, *, half: bool | None = None, name: str = ""
) -> BundleResult:
    """Write everything that Kaggle needs; runs the stages before it where needed.

    Writes: dist/kaggle/<name>/code/ (wheels, configs, folds, starting weights), weights/ (see `serving.bundle`), and a
    folder for each notebook, all with their metadata

    Args:
        owner: the name of the Kaggle account; None: as in the existing bundle, or a placeholder.
        half: store weights as bfloat16; None: as in the existing bundle, or False.
        name: of the submission and the bundle; by default that of `ensemble`.

    Raises:
        ValueError: for a member without a model, whose predictions are imported.
    """
    if imported := [cfg.name for cfg in cfgs if cfg.imported]:
        raise ValueError(
            f"{', '.join(imported)}: imported predictions have no model, so a bundle cannot predict other images: "
            f"leave it out of CONFIGS, or submit the CSV of make ensemble"
        )
    name = name or ensemble_name(cfgs)
    folder = DIST / name
    former_owner, former_half = _existing_options(folder)
    owner, half = owner or former_owner, former_half if half is None else half
    done, members = ensemble(cfgs, name), load_members(cfgs)
    made = write_weights(folder / "weights", members, done, half=half)
    write_code(folder / "code", members)
    write_bundle_metadata(folder, owner, made.record, made.card)
    sizes = {name: sum(file.stat().st_size for file in (folder / name).iterdir()) / 1e6 for name in ("code", "weights")}
    return BundleResult(folder, owner, members[0].paths.root, made, done, sizes)


def run_bundle(weights: Path, root: Path, csv: Path, *, budget: str = "", workers: int = 0) -> PredictionResult:
    """Predict a test set with a bundle, see `serving.bundle_prediction.predict_test`; always leaves a valid CSV.

    Args:
        weights: the bundle's folder.
        root: the folder of the competition's files.
        budget: such as "8h30m"; empty: unlimited.
        workers: processes that read ahead.

    Raises:
        ValueError: if no image could be predicted. In the rerun on hidden data, which must not fail, it is not raised.
    """
    done = predict_test(
        read_bundle(weights), root, csv, budget=parse_duration(budget) if budget else None, workers=workers
    )
    if done.images and len(done.problems) == done.images and not is_rerun():
        image_id, problem = next(iter(done.problems.items()))
        raise ValueError(f"none of {done.images} images could be predicted, the first is '{image_id}': {problem}")
    return done


def write_weights(folder: Path, members: Sequence[Context], done: Ensembled, *, half: bool = False) -> Bundle:
    """Measure the score loss of each view, write the bundle's weights and bundle.json, and read them back.

    Raises:
        ValueError: if folds were trained with different settings.
    """
    manifest = read_submission_manifest(done.manifest)
    if (manifest["commit"] or "").endswith("+"):
        log.warning("files differ from commit %s: the bundle cannot be reproduced from it", manifest["commit"][:7])
    record = _record(members, done, manifest, measure_fallbacks(members, done)).model_copy(update={"half": half})
    paths = {(each.cfg.name, fold): each.paths.weights(fold) for each in members for fold in each.test_folds()}
    write_bundle(folder, record, competition.card_path(members[0].cfg.competition), paths)
    return read_bundle(folder)


def _existing_options(folder: Path) -> tuple[str, bool]:
    """Owner of a bundle, and whether its weights are bfloat16; the defaults where it is missing or damaged."""
    owner, half = PLACEHOLDER_OWNER, False
    with suppress(OSError, ValueError):
        owner = read_metadata(folder / "weights").id.partition("/")[0]
    with suppress(OSError, ValueError):
        half = read_bundle(folder / "weights").record.half
    return owner, half


def _record(
    members: Sequence[Context], done: Ensembled, manifest: Mapping[str, Any], fallbacks: Sequence[Fallback]
) -> BundleRecord:
    names = [each.cfg.name for each in members]
    return BundleRecord(
        name=done.csv.stem,
        configs=manifest["configs"],
        weights={
            each.cfg.name: {str(f): weights_name(each.cfg.name, f) for f in each.test_folds()} for each in members
        },
        chosen=to_record(done.selection.renderer, names, members[0].card.classes),
        fallbacks=tuple(fallbacks),
        evaluation=Evaluation(metric=selection_metric(done.metric), score=done.interval.mean, interval=done.bounds),
        provenance=Provenance(**{key: manifest[key] for key in Provenance.model_fields}),
    )


def measure_fallbacks(members: Sequence[Context], done: Ensembled) -> list[Fallback]:
    """Rank what can be dropped when time is short by its score loss on MAX_IMAGES of the training images."""
    rows = oof_rows(members)
    rows = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, MAX_IMAGES).round().astype(int))]
    plan = tuple(Member(each.cfg.name, tuple(each.test_folds()), each.cfg.predict.views) for each in members)
    stores = {
        (member.name, view): _view_store(context, rows, view)
        for member, context in zip(plan, members, strict=True)
        for view in member.views
    }
    scores = {each.cfg.name: {fold: fold_row(each, fold)["oof"] for fold in each.fold_numbers()} for each in members}
    return rank_fallbacks(
        plan,
        done.selection.renderer,
        oof_of_members(members, rows),
        lambda member, view, image_id: stores[member, view].read(image_id),
        selection_metric(members[0].card.metric),
        scores,
    )


def _view_store(context: Context, rows: pd.DataFrame, view: str) -> PredictionStore:
    """Out-of-fold predictions of the rows by one view alone; existing predictions are reused."""
    if context.cfg.predict.views == (view,):
        return context.oof_store()
    cfg = context.cfg.model_copy(update={"predict": context.cfg.predict.model_copy(update={"views": (view,)})})
    single_view, folders = context._replace(cfg=cfg), []
    for fold in context.fold_numbers():
        folder, held_out = context.paths.fold(fold) / "views" / view, rows["image_id"][rows["fold"] == fold]
        # The member's own index: the files of an image's neighbours are others in another member's.
        index = context.index[context.index["image_id"].isin(held_out)]
        fill_store(single_view, fold, index, folder, f"fold {fold}, {view} alone")
        folders.append(folder)
    return PredictionStore(*folders)


def write_code(folder: Path, members: Sequence[Context]) -> None:
    """Write wheels and the project files that a training on Kaggle reads, with layout.json of their paths.

    The files include the starting weights: a training there has no network, and no package with weights.
    """
    write_wheels(folder, DIST.with_name("wheels"))
    for old in [path for path in folder.iterdir() if path.suffix in WEIGHTS]:
        old.unlink()
    cfgs = _with_sources([each.cfg for each in members])
    files = {path: path for cfg in cfgs for path in _training_files(cfg) if path.is_file() and not path.is_absolute()}
    for cfg in cfgs:
        files |= _starting_files(cfg)
    layout = {"-".join(path.parts): path.as_posix() for path in files}
    for name, source in zip(layout, files.values(), strict=True):
        shutil.copyfile(source, folder / name)
    write_text(folder / LAYOUT_FILE, json.dumps(layout, indent=1) + "\n")


def _with_sources(cfgs: Sequence[Config]) -> list[Config]:
    """The configs, and those that have to be trained before them: to label, to teach, or as starting weights."""
    found: dict[str, Config] = {}
    remaining = [*cfgs]
    while remaining:
        cfg = remaining.pop(0)
        if cfg.name not in found:
            found[cfg.name] = cfg
            remaining += filter(None, (source_of_labels(cfg), source_of_weights(cfg), *teachers_of(cfg)))
    return list(found.values())


def _starting_files(cfg: Config) -> dict[Path, Path]:
    """As `starting_files`, those that can be in a bundle; others are logged, since prediction does not need them."""
    found = {}
    try:
        for path, source in starting_files(cfg).items():
            _check_starting_file(path)
            found[path] = source
    except (OSError, ValueError) as error:
        log.warning("%s: its training notebook will not find its starting weights: %s", cfg.file, error)
    return found


def _check_starting_file(path: Path) -> None:
    """Raise ValueError for a file of weights that a bundle cannot have."""
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"model.weights: {path}: expected a path below the project's folder, such as weights/{path.name}"
        )
    if path.suffix not in WEIGHTS:
        raise ValueError(f"model.weights: {path}: expected a name that ends in {', '.join(WEIGHTS)}")


def _training_files(cfg: Config) -> list[Path]:
    """The project files that a config's training reads; some may not exist."""
    paths = Paths(cfg, competition.load(cfg.competition))
    cards = [cfg.competition, *(extra.competition or "" for extra in cfg.data.extra)]
    return [
        Path("configs") / f"{cfg.name}.toml",
        *(Path(card) for card in cards if card.endswith(".toml")),
        *(paths.folds, paths.folds.with_suffix(".json"), paths.duplicates),
        *(sorted(paths.folds.parent.glob(f"{paths.folds.stem}.extra-*.csv")) if cfg.data.extra else []),
    ]
