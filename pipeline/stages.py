"""The stages, and the files between them: the only place that knows paths and their order.

    data ─▶ folds ─▶ train ─▶ oof ─▶ predict ─▶ ensemble

A stage calls the ones before it. Each looks at what is on disk, does what is missing and no more, so any of them can be
the first command on a fresh clone, and any can be run again after a kill.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from accelerate import PartialState

from pipeline import competition, folds, hardware, postprocess, submission
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.images import ImageError, Reader, read_image
from pipeline.data.index import read_index, read_target, read_test_index
from pipeline.ensemble import average
from pipeline.files import write_text
from pipeline.inference.predict import Predictor, predict_to_store
from pipeline.inference.store import PredictionStore, is_complete, start_store
from pipeline.inference.tta import check_views
from pipeline.losses import build_loss
from pipeline.manifest import made_with
from pipeline.metrics import METRICS, count, mean_score
from pipeline.models import build_model, check_model, for_prediction
from pipeline.progress import track
from pipeline.report.overlays import COLUMNS, Panel, choose_examples, write_sheet
from pipeline.training.checkpoint import load_checkpoint, load_state, read_record, refuse_other_settings
from pipeline.training.objective import HeadWeights
from pipeline.training.phases import FoldData, fit, seed_weights

log = logging.getLogger(__name__)
MOVED = 0.2  # difference of the phases' best thresholds that is worth a word
MaskOf = Callable[[str], np.ndarray | None]


class Paths:
    """Where a config's files lie, below the current folder."""

    def __init__(self, cfg: Config, card: Competition):
        self.root = cfg.data.root or Path("data") / card.name
        self.folds = Path("folds") / f"{cfg.folds.name or card.name}.csv"
        self.run = Path("runs") / cfg.name
        self.oof_table = self.run / "oof.json"

    def fold(self, fold: int) -> Path:
        return self.run / f"fold{fold}"

    def weights(self, fold: int) -> Path:
        return self.fold(fold) / "best.safetensors"

    def oof(self, fold: int) -> Path:
        return self.fold(fold) / "oof"

    def test(self, fold: int) -> Path:
        return self.fold(fold) / "test"


class Prepared(NamedTuple):
    """A config with what every stage after `folds` starts from."""

    cfg: Config
    card: Competition
    paths: Paths
    index: pd.DataFrame
    folds: pd.DataFrame

    @property
    def reader(self) -> Reader:
        return Reader(self.cfg.model.in_channels, self.cfg.data.percentiles)

    def numbers(self) -> list[int]:
        return sorted(self.folds["fold"].unique().tolist())

    def oof_store(self) -> PredictionStore:
        return PredictionStore(*(self.paths.oof(fold) for fold in self.numbers()))

    def test_stores(self) -> list[PredictionStore]:
        return [PredictionStore(self.paths.test(fold)) for fold in self.numbers()]


def check(cfg: Config) -> Competition:
    """The config's card, after refusing what would fail later: before any file is read or hour spent.

    Raises:
        ValueError: naming what is wrong and what exists.
    """
    card = competition.load(cfg.competition)
    if len(card.classes) != cfg.model.classes:
        raise ValueError(f"model.classes is {cfg.model.classes}, the card {card.name} has {len(card.classes)}")
    check_model(cfg.model, cfg.train.batch_size)
    if cfg.predict.output_stride:
        check_model(for_prediction(cfg))
    check_views(cfg.predict.views)
    for phase in cfg.train.phases:
        build_loss(phase.loss, phase.loss_options)
    return card


# ---------------------------------------------------------------------------------------------- data, folds


def data(cfg: Config) -> None:
    """Make the demo's data if that is what the config asks for, and read every image once.

    Writes: data/<competition>/, for a generated competition

    Raises:
        ImageError: the first image that cannot be read; the others are logged.
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
    if paths.root.is_dir():
        return
    if card.generated != "demo":
        raise FileNotFoundError(
            f"{paths.root}: no such folder. Put the files of {card.url or card.title} there, or say where they are "
            f"with DATA=folder (make) or --data folder"
        )
    from pipeline.data.demo import make_demo

    log.info("making the demo's images in %s/", paths.root)
    make_demo(paths.root)


def prepare(cfg: Config) -> Prepared:
    """Card, index and folds of a config; data and folds are made if they are missing.

    Raises:
        ValueError: if the folds are not those of the data, or not as many as the config says.
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    with _processes().main_process_first():
        _make_data(card, paths)
        index = read_index(card, paths.root, cfg.data.skip_bad)
        if not paths.folds.exists():
            folds.write_folds(paths.folds, folds.assign_folds(index, cfg.folds.count, cfg.folds.seed))
            log.info("wrote %s: commit it, every score is read on it", paths.folds)
    table = folds.read_folds(paths.folds, index, subset=cfg.data.skip_bad)
    found = table["fold"].max() + 1
    if found != cfg.folds.count:
        raise ValueError(
            f"{paths.folds} has {found} folds, folds.count is {cfg.folds.count}: set it to {found}, or make another "
            f"file with folds.name"
        )
    return Prepared(cfg, card, paths, index, table)


def describe_folds(cfg: Config) -> pd.DataFrame:
    """The stage `folds`: assign the folds if they are missing; returns how even they are.

    Writes: folds/<name>.csv
    """
    prepared = prepare(cfg)
    return folds.describe(prepared.index, prepared.folds)


# ---------------------------------------------------------------------------------------------- train, predict


class Trained(NamedTuple):
    """What the stage `train` made."""

    weights: Path
    oof: float  # score of the fold held out, at threshold .5


def train(cfg: Config, fold: int) -> Trained:
    """Train the model that leaves one fold out, then predict that fold.

    Writes: runs/<config>/fold<k>/best.safetensors, metrics.jsonl, oof/
    """
    prepared = prepare(cfg)
    return Trained(_train(prepared, fold), _fold_row(prepared, fold)["oof"])


def oof(cfg: Config) -> list[dict[str, Any]]:
    """Train and predict every fold; returns the table of scores, at threshold .5.

    Writes: runs/<config>/oof.json
    """
    return _oof(prepare(cfg))


def predict(cfg: Config) -> None:
    """Predict the test set with the model of every fold.

    Writes: runs/<config>/fold<k>/test/
    """
    _predict_test(prepare(cfg))


def _train(prepared: Prepared, fold: int) -> Path:
    train_index, valid_index = folds.hold_out(prepared.index, prepared.folds, fold)
    if not _is_trained(prepared, fold):
        _refuse_mixed_sizes(prepared.cfg, train_index)
        _fit(
            prepared,
            FoldData(fold, train_index, valid_index, prepared.card.dialect, prepared.card.metric, prepared.reader),
        )
    _fill_store(prepared, fold, valid_index, prepared.paths.oof(fold), f"fold {fold} OOF")
    return prepared.paths.weights(fold)


def _oof(prepared: Prepared) -> list[dict[str, Any]]:
    for fold in prepared.numbers():
        _train(prepared, fold)
    table = [_fold_row(prepared, fold) for fold in prepared.numbers()]
    write_text(prepared.paths.oof_table, json.dumps(table, indent=1) + "\n")
    _say_moved_thresholds(table)
    return table


def _say_moved_thresholds(table: list[dict[str, Any]]) -> None:
    for row in table:
        thresholds = [value for key, value in row.items() if key.startswith("threshold")]
        if max(thresholds) - min(thresholds) > MOVED:
            log.warning(
                "fold %d: the best threshold was %s from phase to phase: probabilities do not mean the same in them. "
                "The search on OOF makes up for it; do not average models of different phases",
                row["fold"],
                ", then ".join(f"{threshold:.2f}" for threshold in thresholds),
            )


def _predict_test(prepared: Prepared) -> pd.DataFrame:
    """Fill the test stores of every fold; returns the index of the test images."""
    # Before the hours of training: a mistake in it must show at once.
    test_index = read_test_index(prepared.card, prepared.paths.root, prepared.cfg.data.skip_bad)
    _oof(prepared)
    for fold in prepared.numbers():
        _fill_store(prepared, fold, test_index, prepared.paths.test(fold), f"fold {fold} test")
    return test_index


def _fit(prepared: Prepared, parts: FoldData) -> None:
    cfg, seed = prepared.cfg, prepared.cfg.seed * 1000 + parts.fold
    seed_weights(seed)
    folder = prepared.paths.fold(parts.fold)
    heads = HeadWeights(sides=cfg.model.deep_supervision, image=cfg.model.image_head)
    fit(build_model(cfg.model), parts, cfg.train, folder=folder, seed=seed, settings=settings(prepared), heads=heads)


def _refuse_mixed_sizes(cfg: Config, index: pd.DataFrame) -> None:
    sizes = index.groupby(["height", "width"]).size().sort_values()
    whole = [number for number, phase in enumerate(cfg.train.phases) if phase.crop is None]
    if len(sizes) > 1 and whole:
        few, most = (f"{height}×{width}" for height, width in (sizes.index[0], sizes.index[-1]))
        raise ValueError(
            f"images of {len(sizes)} sizes ({most} mostly, {few} least often) do not fit into one batch: "
            f"set the phase's crop, such as train.phases.{whole[0]}.crop=256"
        )


def _is_trained(prepared: Prepared, fold: int) -> bool:
    """Whether the fold's weights are there.

    Raises:
        ValueError: if they, or the state of a run that was cut off, come from other settings.
    """
    folder, path = prepared.paths.fold(fold), prepared.paths.weights(fold)
    if path.exists():
        refuse_other_settings(folder, read_record(path)["settings"], settings(prepared))
        return True
    state = load_state(folder / "state.pt")
    if state:
        refuse_other_settings(folder, state["settings"], settings(prepared))
    return False


def settings(prepared: Prepared) -> dict[str, Any]:
    """What a fold's weights depend on, as plain values: a run goes on only with the same."""
    kept = {"seed": True, "data": {"percentiles"}, "model": True, "train": True}
    chosen = prepared.cfg.model_dump(mode="json", include=kept)
    for speed_only in ("workers", "tensorboard"):
        del chosen["train"][speed_only]
    labels = prepared.index[["image_id", *prepared.index.columns.intersection(["rle", "coverage"])]]
    return {
        "competition": prepared.card.name,
        "metric": prepared.card.metric,
        "dialect": asdict(prepared.card.dialect),
        "labels": _digest(labels),
        "folds": _digest(prepared.folds),
        **chosen,
    }


def _digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def _fill_store(prepared: Prepared, fold: int, index: pd.DataFrame, folder: Path, what: str) -> None:
    """Fill a store with a fold's predictions of the index, if it is not full."""
    cfg, path = prepared.cfg, prepared.paths.weights(fold)
    made_by = {
        "views": sorted(cfg.predict.views),
        "output_stride": cfg.predict.output_stride,
        "weights": read_record(path),
        "fold": fold,
    }
    if is_complete(folder, index["image_id"], made_by):
        return
    model = build_model(for_prediction(cfg))
    load_checkpoint(path, model, fold)
    processes = _processes()
    with processes.main_process_first():
        start_store(folder, made_by)
    predict_to_store(
        Predictor(model, cfg.predict.views, cfg.train.precision),
        index,
        folder,
        rank=processes.process_index,
        world=processes.num_processes,
        reader=prepared.reader,
        batch_size=cfg.predict.batch_size,
        workers=cfg.train.workers,
        what=what,
    )
    processes.wait_for_everyone()


def _processes() -> PartialState:
    """This process among those of torchrun or `accelerate launch`; alone, process 0 of 1."""
    return PartialState(cpu=hardware.device().type == "cpu")


def _fold_row(prepared: Prepared, fold: int) -> dict[str, Any]:
    """A fold's scores and time, one row of the OOF table."""
    lines = (prepared.paths.fold(fold) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    _, valid_index = folds.hold_out(prepared.index, prepared.folds, fold)
    store, half = PredictionStore(prepared.paths.oof(fold)), postprocess.Cut(0.5, 0)
    counts = (
        count(postprocess.apply(store.read(row.image_id)[0], half), read_target(row, prepared.card.dialect))
        for row in valid_index.itertuples()
    )
    phases = range(1, len(prepared.cfg.train.phases) + 1)
    best = {n: max((line for line in history if line["phase"] == n), key=lambda line: line["score"]) for n in phases}
    return {
        "fold": fold,
        "images": len(valid_index),
        **{f"phase {n}": line["score"] for n, line in best.items()},
        **{f"threshold {n}": line["threshold"] for n, line in best.items()},
        "oof": mean_score(prepared.card.metric, counts),
        "best phase": read_record(prepared.paths.weights(fold))["phase"],
        "seconds": round(sum(line["seconds"] for line in history)),
    }


def oof_table(cfg: Config) -> list[dict[str, Any]]:
    """The table that the stage `oof` wrote."""
    path = Paths(cfg, competition.load(cfg.competition)).oof_table
    return json.loads(path.read_text(encoding="utf-8"))


def mean_row(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of the OOF table: mean of the scores, sum of images and seconds."""
    total = {key: sum(row[key] for row in table) for key in table[0]}
    averaged = {key: total[key] / len(table) for key in table[0] if key.startswith(("phase", "threshold", "oof"))}
    return {**total, **averaged, "fold": "mean", "best phase": ""}


# ---------------------------------------------------------------------------------------------- ensemble


class Ensembled(NamedTuple):
    """What the stage `ensemble` made."""

    csv: Path
    sheet: Path
    search: postprocess.Search  # its score is in-sample: threshold and area were searched on the same images
    summary: submission.Summary

    @property
    def plain(self) -> float:
        """The OOF score at threshold .5 and without a smallest area."""
        return float(self.search.scores[0, postprocess.HALF])


def ensemble(cfgs: Sequence[Config]) -> Ensembled:
    """Average the configs, search the cut on OOF, write the submission; does all that is missing before.

    Writes: submissions/<name>.csv and .json, reports/<name>.png; the name joins the configs' names with "+"
    """
    members = _members(cfgs)
    test_index, *_ = [_predict_test(member) for member in members]
    first, name = members[0], "+".join(cfg.name for cfg in cfgs)
    rows = first.index.merge(first.folds, on="image_id").sort_values(["fold", "image_id"])
    search = _search(members, rows)
    mask_of = _test_masks(members, set(test_index["image_id"]), search.cut)
    csv = Path("submissions") / f"{name}.csv"
    sample = first.paths.root / first.card.files.sample_submission
    done = Ensembled(
        csv,
        Path("reports") / f"{name}.png",
        search,
        submission.write_submission(csv, first.card, sample, mask_of),
    )
    write_text(csv.with_suffix(".json"), json.dumps(_manifest(members, done), indent=1) + "\n")
    panels = _test_panels(first, test_index.head(COLUMNS), mask_of)
    _draw_sheet(done.sheet, members, rows.assign(score=search.image_scores), search.cut, panels)
    return done


def _members(cfgs: Sequence[Config]) -> list[Prepared]:
    """The configs, on one competition and the same folds."""
    names = [cfg.name for cfg in cfgs]
    if len(set(names)) != len(names):
        raise ValueError(f"configs {' '.join(names)}: one is named twice")
    first, *others = [prepare(cfg) for cfg in cfgs]
    for other in others:
        if other.card != first.card:
            raise ValueError(
                f"{other.cfg.name} is for {other.card.name}, {first.cfg.name} for {first.card.name}: nothing to average"
            )
        if not other.folds.equals(first.folds):
            raise ValueError(
                f"{other.cfg.name} and {first.cfg.name} have different folds: their OOF cannot be scored together"
            )
    return [first, *others]


def _search(members: Sequence[Prepared], rows: pd.DataFrame) -> postprocess.Search:
    """The cut that scores best on the averaged OOF predictions of the rows."""
    card, stores = members[0].card, [[member.oof_store()] for member in members]
    tracked = track(rows.itertuples(), "search threshold and area", total=len(rows))
    pairs = ((average(stores, row.image_id)[0], read_target(row, card.dialect)) for row in tracked)
    return postprocess.search(pairs, METRICS[card.metric])


def _test_masks(members: Sequence[Prepared], readable: set[str], cut: postprocess.Cut) -> MaskOf:
    """From a test image's id to its mask; None for an image that could not be read and was left out."""
    stores = [member.test_stores() for member in members]

    def mask_of(image_id: str) -> np.ndarray | None:
        return postprocess.apply(average(stores, image_id)[0], cut) if image_id in readable else None

    return mask_of


def _manifest(members: Sequence[Prepared], done: Ensembled) -> dict[str, Any]:
    """What made a submission."""
    unimportant = {"name": True, "data": {"root", "skip_bad"}}
    return {
        "competition": members[0].card.name,
        "configs": {each.cfg.name: each.cfg.model_dump(mode="json", exclude=unimportant) for each in members},
        "weights": {each.cfg.name: 1 / len(members) for each in members},
        "folds": {each.cfg.name: each.numbers() for each in members},
        **done.search.cut._asdict(),
        "metric": members[0].card.metric,
        "oof_score": done.search.score,
        "oof_score_at_half": done.plain,
        "rows": done.summary.rows,
        "empty_rows": done.summary.empty,
        **made_with(),
    }


def _test_panels(prepared: Prepared, rows: pd.DataFrame, mask_of: MaskOf) -> list[Panel]:
    return [Panel(row.image_id[:10], prepared.reader(row.path), mask_of(row.image_id)) for row in rows.itertuples()]


def _draw_sheet(
    path: Path, members: Sequence[Prepared], rows: pd.DataFrame, cut: postprocess.Cut, test_panels: list[Panel]
) -> None:
    """The best, middling and worst OOF images with truth and prediction, and test images."""
    first, stores = members[0], [[member.oof_store()] for member in members]

    def oof_panel(row: Any) -> Panel:
        mask = postprocess.apply(average(stores, row.image_id)[0], cut)
        title = f"{row.image_id[:10]}  {row.score:.2f}"
        return Panel(title, first.reader(row.path), mask, read_target(row, first.card.dialect))

    chosen = choose_examples(rows[rows["coverage"] > 0])
    panels = {f"OOF, {name}": [oof_panel(row) for row in part.itertuples()] for name, part in chosen.items()}
    write_sheet(path, {**panels, "test": test_panels})


def score(card_name: str, csv: Path, solution: Path) -> tuple[str, float, int]:
    """The name of a competition's metric, the score of a submission by it, and the number of images."""
    card = competition.load(card_name)
    return card.metric, *submission.score(card, csv, solution)
