"""The stage `import`: makes a member of an ensemble of the predictions of another tool."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import config
from pipeline.config import Config
from pipeline.data.labels import Labels
from pipeline.data.predictions import Size, Source, Values, find_scale, open_predictions, to_stored
from pipeline.files import atomic_folder, write_text
from pipeline.inference.prediction_store import StoreWriter, start_store
from pipeline.progress import track
from pipeline.quoting import shortened
from pipeline.schema import toml_tables
from pipeline.stages.preparing import Context, index_test_images, make_context

NAME = re.compile(r"\w[\w.-]*")
TEXT = """\
# Predictions of another tool. `make import NAME={name} CONFIG={like}` wrote them and this file; there is no model.
#
#   make ensemble CONFIGS="{like} {name}"
"""
# Of the config that they join: what decides which images there are, how large they are, how masks are read, and which
# rules may be chosen.
SHARED = {"folds": {"only"}, "data": {"skip_bad", "doctor", "crops", "extra"}, "ensemble": set()}  # without these


class ImportResult(NamedTuple):
    """The outcome of the stage `import`."""

    config: Path
    run: Path
    oof: dict[int, int]  # images of each fold
    test: int  # images
    test_folds: tuple[int, ...]  # with predictions of the test set of their own; none: one for all folds
    scales: dict[str, float]  # by type of values: the one that stands for probability 1
    notes: tuple[str, ...]


class Part(NamedTuple):
    """Images of one store, and where their predictions are read from."""

    folder: Path  # below the run's folder
    source: Source
    sizes: dict[str, Size]  # by image id

    def read(self, task: str) -> Iterator[tuple[str, str, np.ndarray]]:
        """The id, the place (for messages) and the values of each image."""
        for image_id, size in track(self.sizes.items(), task):
            yield image_id, f"{self.source.where}, image '{shortened(image_id)}'", self.source.read(image_id, size)


def import_member(
    cfg: Config, name: str, *, oof: Path | None, test: Path | None, scale: float | None = None
) -> ImportResult:
    """Write another tool's predictions as those of a config of its own, on the data and folds of `cfg`.

    Every file is read and checked before anything is written.

    Writes: runs/<name>/fold<k>/oof/; runs/<name>/fold<k>/test/, or runs/<name>/test/ if they belong to no fold;
    configs/<name>.toml

    Args:
        oof: the folder, or the CSV, of the out-of-fold predictions of whole folds; None: there are none.
        test: likewise, of the test set; None only while the test images are hidden.
        scale: the value that stands for probability 1; None: see `predictions.find_scale`.

    Raises:
        FileNotFoundError, ValueError: for a name that is taken, and predictions that are missing, of other images or
            sizes, of other folds, or no probabilities; with the first of them.
    """
    context, path = make_context(cfg), Path("configs") / f"{name}.toml"
    _refuse_name(name, cfg, path)
    labels, run = context.labels, Path("runs") / name
    tests = _test_parts(context, labels, test)
    oofs, notes = _oof_parts(context, labels, oof) if oof else ({}, [])
    parts = [*oofs.values(), *tests]
    scales = _scales(parts, scale)
    with atomic_folder(run, replace=True) as folder:  # of an earlier import
        for part in parts:
            _write(part, folder / part.folder, scales)
    _write_config(path, name, as_in_its_file(cfg), oof, test)
    folds = tuple(fold for fold in context.fold_numbers() if any(part.folder == _test_of(fold) for part in tests))
    of_all = {str(dtype): value for dtype, value in scales.items()}
    sizes = {fold: len(part.sizes) for fold, part in oofs.items()}
    return ImportResult(path, run, sizes, len(tests[0].sizes) if tests else 0, folds, of_all, tuple(notes))


def _refuse_name(name: str, cfg: Config, path: Path) -> None:
    """Raise ValueError for a name that is no file name, or that of a config or run with a model."""
    if not NAME.fullmatch(name):
        raise ValueError(f"NAME={shortened(name)}: expected letters, digits, '_', '-' and '.', as in a file's name")
    if name == cfg.name or (path.exists() and "[imported]" not in path.read_text(encoding="utf-8")):
        raise ValueError(f"{path} is the config of a model: give the imported member a name of its own, NAME=other")
    if any((Path("runs") / name).glob("*/best.safetensors")):
        raise ValueError(f"runs/{name} has trained models: give the imported member a name of its own, NAME=other")


# ---------------------------------------------------------------------------------------------- which images


def _oof_parts(context: Context, labels: Labels, path: Path) -> tuple[dict[int, Part], list[str]]:
    """The images of each fold that has out-of-fold predictions, and what is not known about them."""
    rows = context.index.merge(context.folds, on="image_id")
    sources = open_predictions(path, rows["image_id"], context.card, labels)
    fold_of = dict(zip(rows["image_id"], rows["fold"].tolist(), strict=True))
    for fold, source in sources.items():
        unknown = sorted(source.ids - set(fold_of))
        if unknown:
            raise ValueError(
                f"{source.where}: {len(unknown)} of {len(source.ids)} predictions are of images that have no fold in "
                f"{context.paths.folds}, such as '{shortened(unknown[0])}': expected ids of training images"
            )
        others = sorted(each for each in source.ids if fold not in (None, fold_of[each]))
        if others:
            raise ValueError(
                f"{source.where}: image '{others[0]}' was predicted by the model of fold {fold}, but "
                f"{context.paths.folds} has it in fold {fold_of[others[0]]}: train on its folds, or the scores are too "
                f"high"
            )
    sizes, parts = _sizes(context, rows), {}
    for fold in context.fold_numbers():
        source, wanted = sources.get(fold, sources.get(None)), rows["image_id"][rows["fold"] == fold].tolist()
        missing = [image_id for image_id in wanted if source is None or image_id not in source.ids]
        if source is not None and 0 < len(missing) < len(wanted):
            raise ValueError(
                f"{source.where}: {len(missing)} of {len(wanted)} images of fold {fold} have no prediction, such as "
                f"'{shortened(missing[0])}': expected all images of a fold, or none"
            )
        if not missing:
            parts[fold] = Part(Path(f"fold{fold}/oof"), source, {image_id: sizes[image_id] for image_id in wanted})
    if None not in sources:
        return parts, []
    return parts, [
        f"{path} does not say which fold's model made a prediction (folders fold0, fold1, …): they are out of fold "
        f"only if the models were trained on {context.paths.folds}"
    ]


def _test_parts(context: Context, labels: Labels, path: Path | None) -> list[Part]:
    index = index_test_images(context.cfg, context.card, context.paths)
    if index.empty and path is None:
        return []
    if path is None:
        raise ValueError(f"TEST=folder is missing: the predictions of the {len(index)} test images")
    sizes, parts = _sizes(context, index), []
    for fold, source in open_predictions(path, sizes, context.card, labels).items():
        missing = sorted(set(sizes) - source.ids)
        if missing:
            raise ValueError(
                f"{source.where}: {len(missing)} of {len(sizes)} test images have no prediction, such as "
                f"'{shortened(missing[0])}'; it has {len(source.ids)}, such as '{shortened(min(source.ids))}': "
                f"expected a prediction of each"
            )
        if fold is not None and fold not in context.fold_numbers():
            raise ValueError(f"{path}: there is no fold {fold} in {context.paths.folds}")
        parts.append(Part(Path("test") if fold is None else _test_of(fold), source, sizes))
    return parts


def _test_of(fold: int) -> Path:
    return Path(f"fold{fold}/test")


def _sizes(context: Context, index: pd.DataFrame) -> dict[str, Size]:
    """The height and width of each image's predictions: of submitted masks if the card says so, else the image's."""
    own = zip(index["height"].tolist(), index["width"].tolist(), strict=True)
    return {image_id: context.card.size or size for image_id, size in zip(index["image_id"], own, strict=True)}


# ---------------------------------------------------------------------------------------------- values


def _scales(parts: list[Part], given: float | None) -> dict[np.dtype, float]:
    """The value that stands for probability 1, by type of values; reads every file."""
    found: dict[np.dtype, tuple[Values, bool]] = {}
    for part in parts:
        for _, where, values in part.read(f"check {part.folder}"):
            seen, images = found.setdefault(values.dtype, (Values(values.dtype), part.source.are_images))
            seen.add(values, where)
            found[values.dtype] = seen, images and part.source.are_images
    return {dtype: find_scale(seen, images=images, scale=given) for dtype, (seen, images) in found.items()}


def _write(part: Part, folder: Path, scales: Mapping[np.dtype, float]) -> None:
    start_store(folder, {"imported": str(part.source.where)})
    writer = StoreWriter(folder)
    for image_id, _, values in part.read(f"write {part.folder}"):
        writer.write(image_id, to_stored(values, scales[values.dtype]))
    writer.flush()


# ---------------------------------------------------------------------------------------------- config


def as_in_its_file(cfg: Config) -> Config:
    """The config with the data folder of its file: another one may be given on the command line."""
    if not Path(cfg.file).is_file():
        return cfg
    root = config.load(cfg.file).data.root
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"root": root})})


def _write_config(path: Path, name: str, cfg: Config, oof: Path | None, test: Path | None) -> None:
    tables: dict[str, Any] = {"competition": cfg.competition}
    for key, without in SHARED.items():
        if changed := getattr(cfg, key).model_dump(mode="json", exclude_defaults=True, exclude=without):
            tables[key] = changed
    tables["imported"] = {"oof": oof and str(oof), "test": test and str(test)}
    write_text(path, TEXT.format(name=name, like=cfg.name) + toml_tables(tables))
