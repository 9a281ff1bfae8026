"""The stages `train`, `oof` and `predict`: one model per fold, its out-of-fold and its test predictions."""

import json
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline import competition, config, folds, hardware
from pipeline.competition import Competition
from pipeline.config import Config, place
from pipeline.data.crops import crop_index
from pipeline.data.index import describe_unlisted
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.data.unpacked import Unpacked, unpacking
from pipeline.data.windows import can_read_windows
from pipeline.files import file_lock, write_text
from pipeline.inference.prediction_store import PredictionStore, is_complete, start_store
from pipeline.inference.predictor import Predictor, predict_to_store
from pipeline.metrics import detection_rates, epoch_metric, pixel_metric
from pipeline.models import build_model, for_prediction
from pipeline.models.segmenter import Segmenter
from pipeline.models.weights import load_network
from pipeline.schema import read_json_lines
from pipeline.stages.distilling import settings_of_teachers, teachers_of
from pipeline.stages.extra_sets import table_digest
from pipeline.stages.labelling import label_fold, refuse_other_folds, source_of_labels
from pipeline.stages.preflight import check_training
from pipeline.stages.preparing import Context, Paths, counts_at_half, index_test_images, make_context, scores_at_half
from pipeline.stages.starting_weights import (
    check_checkpoint,
    checkpoint_of,
    encoder_checkpoint_of,
    fold_to_start_from,
    refuse_leak,
    source_of_weights,
)
from pipeline.stages.worst_images import draw_worst
from pipeline.training.batch_size import choose_batch_size, with_chosen_batch_size
from pipeline.training.checkpoint import FULL, Fold, load_checkpoint, load_weights, read_record, refuse_other_settings
from pipeline.training.distributed import processes
from pipeline.training.fold_data import FoldData, PseudoData, TeacherData
from pipeline.training.full_fit import median_best_epochs, median_epochs, with_epochs
from pipeline.training.history import Epoch, describe_progress, kept_line
from pipeline.training.step_memory import log_checkpointing
from pipeline.training.trackers import Run, Trackers
from pipeline.training.train_job import TrainJob
from pipeline.training.train_state import TrainState
from pipeline.training.trainer import fit

log = logging.getLogger(__name__)
UNIMPORTANT = {
    "model": {"grad_checkpointing"},
    "data": {"root", "skip_bad", "doctor", "extra"},  # `settings` has what counts of the extra sets
    "train": {"workers", "trackers", "compile", "profile", "max_minutes"},
    "predict": {"batch_size", "full"},
}  # options that do not change the weights, or the probabilities of a teacher
FULL_SEED = 999  # of the full fit, in place of a fold's number
MAX_THRESHOLD_SHIFT = 0.2  # between the phases' best thresholds; a larger shift is logged


class Trained(NamedTuple):
    """The result of the stage `train`."""

    weights: Path
    oof: float | None  # score of the held-out fold at threshold .5; None for a full fit


def train(cfg: Config, fold: Fold) -> Trained:
    """Train the model that holds out a fold, then predict that fold; for fold "full", train on every image.

    Writes: runs/<config>/fold<k>/best.safetensors, metrics.jsonl, oof/; or runs/<config>/full/ without oof/
    """
    context = make_context(cfg)
    _refuse_imported(cfg)
    if fold == FULL:
        return Trained(train_full(context), None)
    weights = train_fold(context, fold)
    return Trained(weights, scores_at_half(context, _held_out(context, fold), [fold]).mean())


def oof(cfg: Config) -> list[dict[str, Any]]:
    """Train and predict every fold; returns the table of scores at threshold .5, one row per fold.

    Writes: runs/<config>/oof.json
    """
    return oof_of(make_context(cfg))


def predict(cfg: Config) -> None:
    """Predict the test set with the model of every fold; with `predict.full`, also with that of the full fit.

    Writes: runs/<config>/fold<k>/test/
    """
    predict_test(make_context(cfg))


def train_fold(context: Context, fold: int) -> Path:
    """Train a fold and predict its held-out images, as far as that is not done; returns the path of its weights.

    Raises:
        ValueError: as `is_trained`; for imported predictions.
    """
    _refuse_imported(context.cfg)
    train_index, valid_index = folds.hold_out(context.index, context.folds, fold)
    if is_done(context, fold):  # checked without a lock: the folder of a finished run may be read-only
        return context.paths.weights(fold)
    with _lock_fold(context, fold):
        if not is_trained(context, fold):
            check_training(context)
            with _unpacked(context) as opened:
                _fit(opened, fold, train_index, valid_index)
        fill_store(context, fold, valid_index, context.paths.oof(fold), f"fold {fold} OOF")
    return context.paths.weights(fold)


def _refuse_imported(cfg: Config) -> None:
    if cfg.imported:
        raise ValueError(f"{cfg.file}: imported predictions have no model to train, start from or learn from")


def is_done(context: Context, fold: int) -> bool:
    """Whether a fold has its weights and all of its out-of-fold predictions.

    Raises:
        ValueError: if they were made with other settings, or the fold does not exist.
    """
    held_out = _held_out(context, fold)["image_id"]
    if not is_trained(context, fold):
        return False
    return is_complete(context.paths.oof(fold), held_out, _made_by(context, fold))


@contextmanager
def _lock_fold(context: Context, fold: Fold) -> Iterator[None]:
    """Lock a fold's folder against other trainings; the processes of one distributed training share the lock."""
    among, folder = processes(), context.paths.fold(fold)
    with ExitStack() as stack:
        if among.is_main:
            stack.enter_context(file_lock(folder / "lock", str(folder)))
        among.wait()
        yield


def train_full(context: Context) -> Path:
    """Train on every image, for the median of the folds' best numbers of epochs; trains missing folds first.

    Raises:
        ValueError: for a part of the folds; if the config or one of its teachers uses pseudo-labels, because every
            labelling model was trained on some of the images.
    """
    if context.cfg.folds.only:
        raise ValueError("a full fit takes its epochs from all folds: leave out folds.only, or FOLDS")
    if labelled := _on_pseudo_labels(context.cfg.name, settings(context)):
        raise ValueError(
            f"a full fit on pseudo-labels is not supported: no model that held out all images could make the labels of "
            f"{labelled[0]}. Leave out train.pseudo, or the full fit (predict.full, --fold full)"
        )
    oof_of(context)
    if is_trained(context, FULL):
        return context.paths.weights(FULL)
    with _lock_fold(context, FULL):
        if not is_trained(context, FULL):
            check_training(context, full=True)
            histories = [read_history(context, fold) for fold in context.fold_numbers()]
            epochs = median_best_epochs(histories)
            numbers = ", ".join(map(str, epochs))
            log.info("%s, full fit: %s epochs per phase, the medians of the folds' best", context.cfg.name, numbers)
            with _unpacked(context) as opened:
                train = with_epochs(context.cfg.train, epochs, median_epochs(histories))
                _fit(opened, FULL, context.index, None, train)
    return context.paths.weights(FULL)


def _on_pseudo_labels(name: str, made_by: dict[str, Any]) -> list[str]:
    """The names of the configs that train on pseudo-labels: a config, its teachers, and theirs in turn.

    Args:
        made_by: the settings of the config.
    """
    teachers = made_by.get("teacher", {}).items()
    own = [name] if made_by["train"]["pseudo"] else []
    return own + [found for each in teachers for found in _on_pseudo_labels(*each)]


def check_before_training(contexts: Sequence[Context]) -> None:
    """Log which folds of which configs are missing, and check the options of all configs before the first is trained.

    Raises:
        ConnectionError, FileNotFoundError, ValueError: as `is_done` and `check_training`.
    """
    missing = {
        each.cfg.name: [fold for fold in each.fold_numbers() if not is_done(each, fold)]
        for each in contexts
        if not each.cfg.imported
    }
    folds_of = [f"{name} fold {', '.join(map(str, numbers))}" for name, numbers in missing.items() if numbers]
    if folds_of:
        log.info("to be trained or predicted first: %s", "; ".join(folds_of))
    for context in contexts[1:]:  # the first is trained first, and `train_fold` checks it
        if any(not is_trained(context, fold) for fold in missing.get(context.cfg.name, ())):
            check_training(context)


def oof_of(context: Context) -> list[dict[str, Any]]:
    """As the stage `oof`, for a context."""
    for fold in context.fold_numbers():
        if context.cfg.imported:
            held_out = _held_out(context, fold)["image_id"]
            _refuse_missing(f"fold {fold}", held_out, context.oof_store([fold]), of=context)
        else:
            train_fold(context, fold)
    table = [fold_row(context, fold) for fold in context.fold_numbers()]
    write_text(context.paths.oof_table, json.dumps(table, indent=1) + "\n")
    _log_threshold_shift(context.cfg.name, table)
    return table


def _log_threshold_shift(name: str, table: list[dict[str, Any]]) -> None:
    """Log a warning for each fold whose best threshold differs strongly between the phases."""
    for row in table:
        thresholds = [value for key, value in row.items() if key.startswith("threshold")]
        if thresholds and max(thresholds) - min(thresholds) > MAX_THRESHOLD_SHIFT:
            log.warning(
                "%s, fold %d: the best threshold was %s in its phases: calibration shifted between them. The threshold "
                "search on OOF compensates for it; in an ensemble of phases (make phase), their temperatures may",
                name,
                row["fold"],
                ", then ".join(f"{threshold:.2f}" for threshold in thresholds),
            )


def predict_test(context: Context) -> pd.DataFrame:
    """Fill the test stores of every fold; returns the index of the test images."""
    # Read before training, which takes hours: an error in the test set is reported at once.
    test_index = index_test_images(context.cfg, context.card, context.paths)
    _log_test_set(context, test_index)
    if context.cfg.imported:
        _refuse_missing("test", test_index["image_id"], *context.test_stores(), of=context)
        if context.cfg.imported.oof:
            oof_of(context)
        return test_index
    if FULL in context.test_folds():
        train_full(context)
    else:
        oof_of(context)
    for fold in context.test_folds():
        folder = context.paths.test(fold)
        if not is_complete(folder, test_index["image_id"], _made_by(context, fold)):
            with _lock_fold(context, fold):
                fill_store(context, fold, test_index, folder, f"fold {fold} test")
    return test_index


def _refuse_missing(part: str, ids: pd.Series, *stores: PredictionStore, of: Context) -> None:
    """Raise ValueError if an imported prediction store has not all images."""
    for store in stores:
        if missing := sorted(set(ids) - store.ids()):
            raise ValueError(
                f"{of.paths.run}: {len(missing)} of {len(ids)} {part} images have no imported prediction, such as "
                f"'{missing[0]}': run make import NAME={of.cfg.name} again, or use the folds that have them (FOLDS)"
            )


def _log_test_set(context: Context, test_index: pd.DataFrame) -> None:
    """Log a warning if test images have no row in the sample submission, or if it has no rows at all."""
    card = context.card
    if unlisted := context.unlisted(test_index):
        log.warning("%s", describe_unlisted(card, unlisted))
    if test_index.empty:
        log.warning(
            "%s has no rows: the test data are hidden, or there are none, and the submission is a header only. make "
            "bundle writes a bundle that predicts hidden ones on Kaggle",
            card.files.sample_submission,
        )


@contextmanager
def _unpacked(context: Context) -> Iterator[Context]:
    """The context for a training on windows: files that have to be decoded whole are decoded once."""
    if context.cfg.data.crops is None:
        yield context
        return
    with unpacking() as own:
        folders = processes().gather((socket.gethostname(), own.folder))
        # Processes of one machine share the folder of the first of them.
        unpacked = Unpacked(next(folder for host, folder in folders if host == socket.gethostname()))
        samples, exif = samples_of(context.index), context.cfg.data.exif
        whole = [each for each in samples if not all(can_read_windows(path, exif=exif) for path in each.sources)]
        if whole:
            pixels = sum(height * width for height, width in (each.size for each in whole))
            log.info(
                "%d of %d images cannot be read by window: each is decoded once, about %.1f GiB in %s (TMPDIR)",
                len(whole),
                len(samples),
                pixels * context.reader.channels / 2**30,
                unpacked.folder,
            )
        yield context._replace(unpacked=unpacked)
        processes().wait()  # until none reads the folder any more


def _fit(
    context: Context,
    fold: Fold,
    train_index: pd.DataFrame,
    valid_index: pd.DataFrame | None,
    train: config.Train | None = None,
) -> None:
    """Train a fold from its initial weights, or resume its training.

    Args:
        train: how, in place of the config's.
    """
    cfg = context.cfg
    seed = cfg.seed * 1000 + (FULL_SEED if fold == FULL else fold)
    # Before pseudo-labels are made, which takes hours: weights may not fit.
    model = _initial_model(context, fold, valid_index, seed)
    teacher = _teacher(context, fold)
    if cfg.data.crops:
        train_index = crop_index(train_index, context.labels, cfg.data.crops, context.reader.resize)
    data = FoldData(
        fold,
        train_index,
        valid_index,
        context.labels,
        epoch_metric(context.card.metric),
        context.reader,
        _pseudo_labels(context, fold),
        cfg.predict.tiles,
        cfg.predict.batch_size,
        context.extra.of_fold(fold, context.folds, cfg, context.reader) if context.extra else (),
        teacher,
    )
    folder = context.paths.fold(fold)
    resumed = (folder / "state.pt").is_file()
    start = f"resumes {describe_progress(folder)}" if resumed else "starts from the beginning"
    log.info("%s, fold %s: %s", cfg.name, fold, start)
    job = TrainJob(
        model,
        data,
        train or cfg.train,
        folder=folder,
        seed=seed,
        settings=settings(context),
        aux_weight=cfg.model.deep_supervision,
        image_weight=cfg.model.image_head,
        encoder=cfg.model.encoder,
        grad_checkpointing=cfg.model.grad_checkpointing,
        name=cfg.name,
    )
    job = _with_batch_size(context, job)
    if job.grad_checkpointing:
        log_checkpointing(job, processes())
    with Trackers(
        cfg.train.trackers if processes().is_main else (),
        Run(folder, context.card.name, job.settings),
        partial(draw_worst, data, cfg.train.precision),
        resumed=resumed,
    ) as trackers:
        fit(replace(job, trackers=trackers))


def _with_batch_size(context: Context, job: TrainJob) -> TrainJob:
    """The job with the batch size that its run has chosen, which is chosen now if this is the run's first fold."""
    if job.cfg.batch_size != "auto":
        return job
    path, group = context.paths.batch_size, processes()
    if not group.gather(path.is_file())[0]:  # as the main process finds it, so that all do the same
        with place(context.cfg):
            choose_batch_size(job, group, path, context.paths.known_batch_sizes)
    return replace(job, cfg=with_chosen_batch_size(job.cfg, path), settings=settings(context))


def _initial_model(context: Context, fold: Fold, valid_index: pd.DataFrame | None, seed: int) -> Segmenter:
    """The model with its starting weights; a config whose networks it starts from is trained first.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: if the weights cannot be read or do not fit, or if they were
            trained on an image that the fold holds out.
    """
    cfg, path, record = context.cfg, checkpoint_of(context.cfg), None
    if path:
        with place(cfg):
            record = check_checkpoint(context, path, fold, table_digest(context.folds))
    elif encoder := encoder_checkpoint_of(cfg):
        with place(cfg):
            check_checkpoint(context, encoder, fold, table_digest(context.folds))
    elif source := source_of_weights(cfg):
        other = make_context(source)
        with place(cfg, "model.weights"):
            refuse_leak(context, other, fold, valid_index)
        theirs = fold_to_start_from(context, other, fold)
        path = train_full(other) if theirs == FULL else train_fold(other, theirs)
        record = read_record(path)
    torch.manual_seed(seed)  # of the initial weights
    with place(cfg):
        if record is None:
            return build_model(cfg.model)
        model, found = build_model(cfg.model.model_copy(update={"weights": "none"})), record["settings"]["model"]
        classes, channels = ((found[key], getattr(cfg.model, key)) for key in ("classes", "in_channels"))
        load_network(model, load_weights(path), path, classes=classes, channels=channels)
    return model


def _pseudo_labels(context: Context, fold: Fold) -> PseudoData | None:
    """The pseudo-labels that the config asks for; their source config is trained and predicts first."""
    if (cfg := source_of_labels(context.cfg)) is None:
        return None
    source = make_context(cfg)
    refuse_other_folds(context, source, "train.pseudo")
    predict_test(source)
    # The config's own index: the files of an image's channels and neighbours may be others than the source's.
    test_index = index_test_images(context.cfg, context.card, context.paths)
    return label_fold(context, source, test_index, fold)


def _teacher(context: Context, fold: Fold) -> TeacherData | None:
    """The probabilities that a fold learns from; the teachers' models of the same fold are trained and predict first.

    Writes: runs/<teacher>/fold<k>/trained/
    """
    options, stores = context.cfg.train.teacher, []
    for cfg in teachers_of(context.cfg):
        source = make_context(cfg)
        refuse_other_folds(context, source, "train.teacher")
        if fold == FULL:
            train_full(source)
            index = source.index
        else:
            train_fold(source, fold)
            index = folds.hold_out(source.index, source.folds, fold)[0]
        stores.append(source.paths.trained(fold))
        if not is_complete(stores[-1], index["image_id"], _made_by(source, fold)):
            with _lock_fold(source, fold):
                fill_store(source, fold, index, stores[-1], f"fold {fold}, {cfg.name} teaches")
    return TeacherData(tuple(stores), options.weight, options.phases) if options else None


def is_trained(context: Context, fold: Fold) -> bool:
    """Whether the fold has its final weights.

    Raises:
        ValueError: if they, or the state of a stopped run, were made with other settings.
    """
    folder, path = context.paths.fold(fold), context.paths.weights(fold)
    if path.exists():
        refuse_other_settings(folder, _with_defaults(read_record(path)["settings"]), settings(context))
        return True
    state = TrainState.load(folder / "state.pt")
    if state:
        refuse_other_settings(folder, _with_defaults(state.settings), settings(context))
    return False


def settings(context: Context) -> dict[str, Any]:
    """What a fold's weights depend on, as plain values; a run resumes only with the same settings."""
    train = with_chosen_batch_size(context.cfg.train, context.paths.batch_size)
    options = context.cfg.model_copy(update={"train": train})
    cfg = options.model_dump(mode="json", include={"seed", "data", "model", "train"}, exclude=UNIMPORTANT)
    labels = context.index[["image_id", *context.index.columns.intersection(["rle", "rle_void", "coverage"])]]
    # Further options of the card, if it sets them, that change how labels are read and scored.
    label_options = {"exclusive", "size", "masks", "annotators"} & context.card.model_fields_set
    unset = {} if context.card.masks.soft else {"masks": {"soft"}}  # which older runs do not know
    return {
        "competition": context.card.name,
        "metric": context.card.metric,
        "dialect": asdict(context.card.dialect),
        "labels": table_digest(labels),
        "folds": table_digest(context.folds),
        **context.card.model_dump(mode="json", include=label_options, exclude=unset),
        **_input_options(context.card, neighbours=context.cfg.data.neighbours is not None),
        **({"extra": context.extra.settings()} if context.extra else {}),
        **({"teacher": settings_of_teachers(context.cfg, UNIMPORTANT)} if context.cfg.train.teacher else {}),
        **cfg,
    }


def _with_defaults(found: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the defaults of options that did not exist when it was started.

    A table with an option that exists no more stays as it is, and the comparison reports it.
    """
    completed = dict(found)
    tables = {"data": config.Data, "model": config.Model, "train": config.Train, "predict": config.Predict}
    for name, table in tables.items():
        with suppress(ValueError, KeyError):
            completed[name] = table.model_validate(found[name]).model_dump(mode="json", exclude=UNIMPORTANT.get(name))
    if "teacher" in found:
        completed["teacher"] = {name: _with_defaults(each) for name, each in found["teacher"].items()}
    return completed


def _input_options(card: Competition, *, neighbours: bool) -> dict[str, Any]:
    """What the card says about the files of an image and of its neighbours, beyond one file of the image's own."""
    files = card.files
    slices = {"volume_pattern": card.volume_pattern, "slice_pattern": files.slice_pattern} if neighbours else {}
    shared = {"shared_images": files.shared_images}
    options = {"channels": list(files.channel_paths), "frame": files.frame, **shared, **slices}
    return {key: value for key, value in options.items() if value not in (None, [], {})}


def _made_by(context: Context, fold: Fold) -> dict[str, Any]:
    """What a fold's predictions depend on, as plain values."""
    cfg = context.cfg
    return {
        "views": sorted(cfg.predict.views),
        "output_stride": cfg.predict.output_stride,
        "weights": read_record(context.paths.weights(fold)),
        "fold": fold,
        **({"size": context.card.size} if context.card.size else {}),
        **({"scale": cfg.predict.scale} if cfg.predict.scale != config.Predict().scale else {}),
        **({"backend": cfg.predict.backend} if cfg.predict.backend != config.Predict().backend else {}),
        **({"tiles": cfg.predict.tiles.model_dump()} if cfg.predict.tiles else {}),
        **({"image_head": True} if cfg.model.image_head else {}),  # its probabilities are stored as well
    }


def fill_store(context: Context, fold: Fold, index: pd.DataFrame, folder: Path, what: str) -> None:
    """Predict the images of the index with a fold's model into a store, unless the store is complete.

    Args:
        what: label of the progress bar.
    """
    cfg, path, made_by = context.cfg, context.paths.weights(fold), _made_by(context, fold)
    if is_complete(folder, index["image_id"], made_by):
        return
    model = build_model(for_prediction(cfg))
    load_checkpoint(path, model, fold)
    among = processes()
    with among.main_first():
        start_store(folder, made_by)
        (path.parent / "state.pt").unlink(missing_ok=True)  # left by a kill after the final weights were written
    with place(cfg):  # the backend may not run on this machine
        predictor = Predictor.from_config(model, cfg, exclusive=context.card.exclusive)
    predict_to_store(
        predictor,
        index,
        folder,
        rank=among.rank,
        world=among.world,
        reader=Reader.for_prediction(cfg, context.card),
        batch_size=cfg.predict.batch_size,
        workers=hardware.num_workers(cfg.train.workers),
        what=what,
        size=context.card.size,
    )
    among.wait()


def machines_of(context: Context) -> list[dict[str, Any]]:
    """The machines that a config's folds were trained on, without repetition; none of imported predictions."""
    if context.cfg.imported:
        return []
    found = [read_record(context.paths.weights(fold))["machine"] for fold in context.fold_numbers()]
    return [machine for number, machine in enumerate(found) if machine not in found[:number]]


def read_history(context: Context, fold: Fold) -> list[dict[str, Any]]:
    """The lines of a fold's metrics.jsonl, at least one per phase.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged; only another training can restore it.
    """
    folder = context.paths.fold(fold)
    path, remedy = folder / "metrics.jsonl", f"remove {folder} and train the fold again"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: {remedy}")
    lines = read_json_lines(path, remedy, Epoch)
    missing = set(range(1, len(context.cfg.train.phases) + 1)) - {line["phase"] for line in lines}
    if missing:
        raise ValueError(f"{path}: no epoch of phase {min(missing)}: {remedy}")
    return lines


def epoch_seconds(context: Context, fold: Fold) -> list[float]:
    """Seconds of each epoch that a fold has trained so far, with its validation; none before the first one.

    Raises:
        ValueError: if metrics.jsonl is damaged.
    """
    folder = context.paths.fold(fold)
    path = folder / "metrics.jsonl"
    lines = read_json_lines(path, f"remove {folder} and train the fold again", Epoch) if path.is_file() else []
    return [line["seconds"] for line in lines if "candidate" not in line]


def fold_row(context: Context, fold: int) -> dict[str, Any]:
    """A fold's scores and training time, one row of the OOF table; of imported predictions, scores alone."""
    held_out = _held_out(context, fold)
    counts = counts_at_half(context, held_out)
    without_boundary = counts.at(np.s_[:, : len(context.card.classes)])
    found = detection_rates(without_boundary)
    scores = {
        "oof": pixel_metric(epoch_metric(context.card.metric)).scores(counts).mean(),
        "dice": found.dice,
        "found": found.found,
        "left empty": found.left_empty,
    }
    if context.cfg.imported:
        return {"fold": fold, "images": len(held_out), **scores}
    history = read_history(context, fold)
    phases = range(1, len(context.cfg.train.phases) + 1)
    best = {n: kept_line([line for line in history if line["phase"] == n]) for n in phases}
    exclusive = context.card.exclusive  # a pixel gets the most probable class, so there is no threshold
    return {
        "fold": fold,
        "images": len(held_out),
        **{f"phase {n}": line["score"] for n, line in best.items()},
        **{f"threshold {n}": line["threshold"] for n, line in best.items() if not exclusive},
        **scores,
        "best phase": read_record(context.paths.weights(fold))["phase"],
        "seconds": round(sum(line["seconds"] for line in history)),
    }


def _held_out(context: Context, fold: int) -> pd.DataFrame:
    return folds.hold_out(context.index, context.folds, fold)[1]


def oof_table(cfg: Config) -> list[dict[str, Any]]:
    """Read the table that the stage `oof` wrote."""
    return json.loads(Paths(cfg, competition.load(cfg.competition)).oof_table.read_text(encoding="utf-8"))


def mean_row(table: list[dict[str, Any]]) -> dict[str, Any]:
    """The last row of the OOF table: means of the scores and rates, sums of images and seconds."""
    values = {key: [row[key] for row in table if row[key] is not None] for key in table[0]}
    means = {key: sum(some) / len(some) if some else None for key, some in values.items()}
    sums = {key: sum(values[key]) for key in ("images", "seconds") if key in values}
    return {**means, **sums, "fold": "mean", **({"best phase": ""} if "best phase" in means else {})}
