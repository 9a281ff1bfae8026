"""The stages, and the files between them: the only place that knows paths and their order.

    data ─▶ folds ─▶ train ─▶ oof ─▶ predict ─▶ ensemble

A stage calls the ones before it. Each looks at what is on disk, does what is missing and no more, so any of them
can be the first command on a fresh clone, and any can be run again after a kill.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import competition, folds, postprocess, submission
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.images import ImageError, Reader, read_image
from pipeline.data.index import read_index, read_target, read_test_index
from pipeline.ensemble import average
from pipeline.files import write_text
from pipeline.inference.store import PredictionStore, is_complete, start_store
from pipeline.inference.tta import check_views
from pipeline.manifest import made_with
from pipeline.metrics import METRICS, Counts, count
from pipeline.progress import is_main_process, track

log = logging.getLogger(__name__)

# torch and timm take seconds to import: a stage that trains or predicts imports them itself, the others do without.


class Paths:
    """Where a config's files lie, below the current folder."""

    def __init__(self, cfg: Config, card: Competition):
        name = cfg.folds.name or card.name
        self.root = cfg.data.root or Path("data") / name
        self.folds = Path("folds") / f"{name}.csv"
        self.run = Path("runs") / cfg.name

    def fold(self, fold: int) -> Path:
        return self.run / f"fold{fold}"

    def weights(self, fold: int) -> Path:
        return self.fold(fold) / "best.safetensors"

    def oof(self, fold: int) -> Path:
        return self.fold(fold) / "oof"

    def test(self, fold: int) -> Path:
        return self.fold(fold) / "test"


class Prepared(NamedTuple):
    """What every stage after `folds` starts from."""

    card: Competition
    paths: Paths
    index: pd.DataFrame
    folds: pd.DataFrame

    def numbers(self) -> list[int]:
        return sorted(self.folds["fold"].unique().tolist())


def check(cfg: Config) -> Competition:
    """The config's card, after refusing what would fail later: before any file is read or hour spent.

    Raises:
        ValueError: naming what is wrong and what exists.
    """
    from pipeline.losses import build_loss
    from pipeline.models import check_model

    card = competition.load(cfg.competition)
    if len(card.classes) != cfg.model.classes:
        raise ValueError(f"model.classes is {cfg.model.classes}, the card {card.name} has {len(card.classes)}")
    check_model(cfg.model)
    check_views(cfg.predict.views)
    for phase in cfg.train.phases:
        build_loss(phase.loss)
    return card


# ---------------------------------------------------------------------------------------------- data, folds


def data(cfg: Config) -> None:
    """Make the demo's data if that is what the config asks for, and read every image once.

    Writes: data/<name>/, for a generated competition
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    _make_data(card, paths)
    index = read_index(card, paths.root, cfg.data.skip_bad)
    test = read_test_index(card, paths.root, cfg.data.skip_bad)
    bad = [error for path in track([*index["path"], *test["path"]], "read images") if (error := _image_error(path))]
    for error in bad[1:]:
        log.error("%s", error)
    if bad:
        raise bad[0]
    empty = (index["coverage"] == 0).mean()
    log.info("%s: %d training images, %d test images", card.title, len(index), len(test))
    log.info("coverage %.3f on average, %.0f%% of the masks are empty", index["coverage"].mean(), 100 * empty)


def _image_error(path: Path) -> ImageError | None:
    try:
        read_image(path, channels=3)
    except ImageError as error:
        return error
    return None


def _make_data(card: Competition, paths: Paths) -> None:
    if card.generated == "demo" and not paths.root.exists() and is_main_process():
        from pipeline.data.demo import make_demo

        log.info("making the demo's images in %s/", paths.root)
        make_demo(paths.root)
    elif not paths.root.is_dir():
        raise FileNotFoundError(
            f"{paths.root}: no such folder. Put the files of {card.url or card.title} there, or say where they are "
            f"with DATA=folder (make) or --data folder"
        )


def prepare(cfg: Config) -> Prepared:
    """Card, index and folds of a config; data and folds are made if they are missing."""
    card = check(cfg)
    paths = Paths(cfg, card)
    _make_data(card, paths)
    index = read_index(card, paths.root, cfg.data.skip_bad)
    if not paths.folds.exists() and is_main_process():
        folds.write_folds(paths.folds, folds.assign_folds(index, cfg.folds.count, cfg.folds.seed))
        log.info("wrote %s: commit it, every score is read on it", paths.folds)
    return Prepared(card, paths, index, folds.read_folds(paths.folds, index))


def split(cfg: Config) -> pd.DataFrame:
    """The stage `folds`: assign the folds if they are missing; returns their description.

    Writes: folds/<name>.csv
    """
    prepared = prepare(cfg)
    return folds.describe(prepared.index, prepared.folds)


# ---------------------------------------------------------------------------------------------- train, predict


def train(cfg: Config, fold: int) -> None:
    """Train the model that leaves one fold out, then predict that fold.

    Writes: runs/<config>/fold<k>/best.safetensors, metrics.jsonl, oof/
    """
    with _main_process_first():
        prepared = prepare(cfg)
    train_index, valid_index = folds.hold_out(prepared.index, prepared.folds, fold)
    if not _is_trained(cfg, prepared, fold):
        _refuse_mixed_sizes(cfg, train_index)
        _fit(cfg, prepared, fold, train_index, valid_index)
    _predict(cfg, prepared, fold, valid_index, prepared.paths.oof(fold), f"fold {fold} OOF")


def oof(cfg: Config) -> list[dict[str, Any]]:
    """Train and predict every fold; returns the table of scores, at threshold .5.

    Writes: runs/<config>/oof.json
    """
    prepared = prepare(cfg)
    for fold in prepared.numbers():
        train(cfg, fold)
    path = prepared.paths.run / "oof.json"
    write_text(path, json.dumps([_fold_row(cfg, prepared, fold) for fold in prepared.numbers()], indent=1) + "\n")
    return oof_table(cfg)


def oof_table(cfg: Config) -> list[dict[str, Any]]:
    """The table that the stage `oof` wrote."""
    path = Paths(cfg, competition.load(cfg.competition)).run / "oof.json"
    return json.loads(path.read_text(encoding="utf-8"))


def mean_row(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of the OOF table: mean of the scores, sum of images and seconds."""
    total = {key: sum(row[key] for row in table) for key in table[0]}
    averaged = {key: total[key] / len(table) for key in table[0] if key.startswith("phase") or key == "oof"}
    return {**total, **averaged, "fold": "mean", "best phase": ""}


def fold_weights(cfg: Config, fold: int) -> Path:
    """Where a fold's weights lie."""
    return Paths(cfg, competition.load(cfg.competition)).weights(fold)


def predict(cfg: Config) -> None:
    """Predict the test set with the model of every fold.

    Writes: runs/<config>/fold<k>/test/
    """
    oof(cfg)
    prepared = prepare(cfg)
    test_index = read_test_index(prepared.card, prepared.paths.root, cfg.data.skip_bad)
    for fold in prepared.numbers():
        _predict(cfg, prepared, fold, test_index, prepared.paths.test(fold), f"fold {fold} test")


def _fit(cfg: Config, prepared: Prepared, fold: int, train_index: pd.DataFrame, valid_index: pd.DataFrame) -> None:
    from pipeline.models import build_model
    from pipeline.training.phases import Split, fit, seed_all

    folder = prepared.paths.fold(fold)
    seed = cfg.seed * 1000 + fold
    seed_all(seed)
    parts = Split(fold, train_index, valid_index, prepared.card.dialect, prepared.card.metric, _reader(cfg))
    fit(build_model(cfg.model), parts, cfg.train, folder=folder, seed=seed, settings=settings(cfg, prepared))


def _reader(cfg: Config) -> Reader:
    return Reader(cfg.model.in_channels, cfg.data.percentiles)


def _refuse_mixed_sizes(cfg: Config, index: pd.DataFrame) -> None:
    sizes = index.groupby(["height", "width"]).size().sort_values()
    whole = [number for number, phase in enumerate(cfg.train.phases) if phase.crop is None]
    if len(sizes) > 1 and whole:
        few, most = (f"{height}×{width}" for height, width in (sizes.index[0], sizes.index[-1]))
        raise ValueError(
            f"images of {len(sizes)} sizes ({most} mostly, {few} least often) do not fit into one batch: "
            f"set the phase's crop, such as train.phases.{whole[0]}.crop=256"
        )


def _is_trained(cfg: Config, prepared: Prepared, fold: int) -> bool:
    """Whether the fold's weights are there.

    Raises:
        ValueError: if they, or the state of a run that was cut off, come from other settings.
    """
    from pipeline.training.checkpoint import load_state, read_record, refuse_other_settings

    folder, path = prepared.paths.fold(fold), prepared.paths.weights(fold)
    if path.exists():
        refuse_other_settings(folder, read_record(path)["settings"], settings(cfg, prepared))
        return True
    state = load_state(folder / "state.pt")
    if state:
        refuse_other_settings(folder, state["settings"], settings(cfg, prepared))
    return False


def _predict(cfg: Config, prepared: Prepared, fold: int, index: pd.DataFrame, folder: Path, what: str) -> None:
    """Fill a store with a fold's predictions of the index, if it is not full."""
    from pipeline.training.checkpoint import read_record

    record = read_record(prepared.paths.weights(fold))
    made_by = {"views": sorted(cfg.predict.views), "weights": record, "fold": fold}
    if is_complete(folder, index["image_id"], made_by):
        return
    from pipeline.inference.predict import Predictor, predict_to_store
    from pipeline.models import build_model
    from pipeline.training.checkpoint import load_checkpoint

    model = build_model(cfg.model.model_copy(update={"weights": "none"}))
    load_checkpoint(prepared.paths.weights(fold), model, fold)
    with _main_process_first():
        start_store(folder, made_by)
    predict_to_store(
        Predictor(model, cfg.predict.views, cfg.train.precision),
        index,
        folder,
        rank=_state().process_index,
        world=_state().num_processes,
        reader=_reader(cfg),
        batch_size=cfg.predict.batch_size,
        workers=cfg.train.workers,
        what=what,
    )
    _state().wait_for_everyone()


def _state() -> Any:
    """This process among those of torchrun or `accelerate launch`; alone, process 0 of 1."""
    from accelerate import PartialState

    from pipeline import hardware

    return PartialState(cpu=hardware.device().type == "cpu")


def _main_process_first() -> Any:
    return _state().main_process_first()


def settings(cfg: Config, prepared: Prepared) -> dict[str, Any]:
    """What a fold's weights depend on, as plain values: a run goes on only with the same."""
    chosen = cfg.model_dump(mode="json", include={"seed": True, "data": {"percentiles"}, "model": True, "train": True})
    for speed_only in ("workers", "tensorboard"):
        del chosen["train"][speed_only]
    digest = hashlib.sha256(prepared.folds.to_csv(index=False).encode()).hexdigest()[:16]
    return {"competition": prepared.card.name, "folds": digest, **chosen}


def _fold_row(cfg: Config, prepared: Prepared, fold: int) -> dict[str, Any]:
    """A fold's scores and time, one row of the OOF table."""
    from pipeline.training.checkpoint import read_record

    paths = prepared.paths
    history = [json.loads(line) for line in (paths.fold(fold) / "metrics.jsonl").read_text().splitlines()]
    _, valid_index = folds.hold_out(prepared.index, prepared.folds, fold)
    store = PredictionStore(paths.oof(fold))
    counts = [
        count(
            (store.read(row.image_id)[0] >= postprocess.level(0.5)).astype(np.uint8),
            read_target(row, prepared.card.dialect),
        )
        for row in valid_index.itertuples()
    ]
    phases = range(1, len(cfg.train.phases) + 1)
    return {
        "fold": fold,
        "images": len(valid_index),
        **{f"phase {n}": max(line["score"] for line in history if line["phase"] == n) for n in phases},
        "oof": float(METRICS[prepared.card.metric](Counts(*np.array(counts).T)).mean()),
        "best phase": read_record(paths.weights(fold))["phase"],
        "seconds": round(sum(line["seconds"] for line in history)),
    }


# ---------------------------------------------------------------------------------------------- ensemble


class Ensembled(NamedTuple):
    """What the stage `ensemble` made."""

    csv: Path
    sheet: Path
    score: float  # OOF, in-sample: threshold and area were searched on the same images
    plain: float  # OOF, at threshold .5 and without a smallest area
    cut: postprocess.Cut
    summary: submission.Summary


def ensemble(cfgs: Sequence[Config]) -> Ensembled:
    """Average the configs, search the cut on OOF, write the submission; does all that is missing before.

    Writes: submissions/<name>.csv and .json, reports/<name>.png; the name joins the configs' names with "+"
    """
    members = _members(cfgs)
    first = members[0]
    search = _search(members)
    sheet = Path("reports") / f"{_name(cfgs)}.png"
    csv = Path("submissions") / f"{_name(cfgs)}.csv"
    tests = [[PredictionStore(member.paths.test(fold)) for fold in member.numbers()] for member in members]
    predicted = set.intersection(*(store.ids() for stores in tests for store in stores))
    _refuse_missing(first, cfgs[0], predicted)

    def mask_of(image_id: str) -> np.ndarray | None:
        if image_id not in predicted:  # its file could not be read, and skip_bad said to go on
            return None
        return postprocess.apply(average(tests, image_id)[0], search.cut)

    sample = first.paths.root / first.card.files.sample_submission
    summary = submission.write_submission(csv, first.card, sample, mask_of)
    plain = float(search.scores[0, postprocess.level(0.5) - 1])
    write_text(
        csv.with_suffix(".json"),
        json.dumps(_manifest(cfgs, members, search, plain, summary), indent=1) + "\n",
    )
    _draw_sheet(sheet, cfgs[0], members, search.cut, mask_of)
    return Ensembled(csv, sheet, search.score, plain, search.cut, summary)


def _name(cfgs: Sequence[Config]) -> str:
    return "+".join(cfg.name for cfg in cfgs)


def _members(cfgs: Sequence[Config]) -> list[Prepared]:
    """Every config trained and predicted, on one competition and the same folds."""
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) != len(names):
        raise ValueError(f"configs {' '.join(names)}: one is named twice")
    for cfg in cfgs:
        predict(cfg)
    members = [prepare(cfg) for cfg in cfgs]
    for name, member in zip(names[1:], members[1:], strict=True):
        if member.card.name != members[0].card.name:
            raise ValueError(
                f"{name} is for {member.card.name}, {names[0]} for {members[0].card.name}: nothing to average"
            )
        if not member.folds.equals(members[0].folds):
            raise ValueError(f"{name} and {names[0]} have different folds: their OOF cannot be scored together")
    return members


def _refuse_missing(member: Prepared, cfg: Config, predicted: set[str]) -> None:
    wanted = read_test_index(member.card, member.paths.root, cfg.data.skip_bad)["image_id"]
    missing = sorted(set(wanted) - predicted)
    if missing:
        raise ValueError(
            f"{member.paths.run}: {len(missing)} test images are not predicted, the first is '{missing[0]}'"
        )


def _oof_stores(members: Sequence[Prepared]) -> list[list[PredictionStore]]:
    return [[PredictionStore(*(member.paths.oof(fold) for fold in member.numbers()))] for member in members]


def _search(members: Sequence[Prepared]) -> postprocess.Search:
    """The cut that scores best on the averaged OOF predictions."""
    first, stores = members[0], _oof_stores(members)
    ordered = first.index.merge(first.folds).sort_values(["fold", "image_id"])  # the order in which shards lie
    rows = track(ordered.itertuples(), "search threshold and area", total=len(ordered))
    pairs = ((average(stores, row.image_id)[0], read_target(row, first.card.dialect)) for row in rows)
    return postprocess.search(pairs, METRICS[first.card.metric])


def _manifest(
    cfgs: Sequence[Config],
    members: Sequence[Prepared],
    search: postprocess.Search,
    plain: float,
    summary: submission.Summary,
) -> dict[str, Any]:
    """What made a submission."""
    return {
        "competition": members[0].card.name,
        "configs": {
            cfg.name: cfg.model_dump(mode="json", exclude={"name": True, "data": {"root", "skip_bad"}}) for cfg in cfgs
        },
        "weights": {cfg.name: 1 / len(cfgs) for cfg in cfgs},
        "folds": {cfg.name: member.numbers() for cfg, member in zip(cfgs, members, strict=True)},
        "threshold": search.cut.threshold,
        "min_area": search.cut.min_area,
        "metric": members[0].card.metric,
        "oof_score": search.score,
        "oof_score_at_half": plain,
        "rows": summary.rows,
        "empty_rows": summary.empty,
        **made_with(),
    }


def _draw_sheet(path: Path, cfg: Config, members: Sequence[Prepared], cut: postprocess.Cut, mask_of: Any) -> None:
    """Best, middling and worst OOF images with truth and prediction, and the first test images."""
    from pipeline.report.overlays import COLUMNS, Panel, write_sheet

    first, stores = members[0], _oof_stores(members)
    card, reader = first.card, _reader(cfg)
    panels: list[tuple[float, Any]] = []
    for row in first.index[first.index["coverage"] > 0].itertuples():
        mask = postprocess.apply(average(stores, row.image_id)[0], cut)
        counts = Counts(*(np.array([number]) for number in count(mask, read_target(row, card.dialect))))
        panels.append((float(METRICS[card.metric](counts)[0]), row))
    panels.sort(key=lambda pair: -pair[0])

    def panel(score: float, row: Any) -> Panel:
        mask = postprocess.apply(average(stores, row.image_id)[0], cut)
        return Panel(
            f"{row.image_id[:10]}  {score:.2f}",
            reader(row.path),
            mask,
            read_target(row, card.dialect),
        )

    middle = max(0, len(panels) // 2 - COLUMNS // 2)
    chosen = {
        "OOF, best": panels[:COLUMNS],
        "OOF, middle": panels[middle : middle + COLUMNS],
        "OOF, worst": panels[-COLUMNS:],
    }
    rows = [(name, [panel(*pair) for pair in pairs]) for name, pairs in chosen.items()]
    test = read_test_index(card, first.paths.root, cfg.data.skip_bad).head(COLUMNS)
    rows.append(
        (
            "test",
            [Panel(row.image_id[:10], reader(row.path), mask_of(row.image_id)) for row in test.itertuples()],
        )
    )
    write_sheet(path, rows)


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    return card.metric, *submission.score(card, csv, solution)
