"""Starting weights of a whole network, `model.weights = "run:…"`: of another config's fold, or of a checkpoint file.

A network that was trained on a held-out image knows its mask, so the scores of that fold would be too high. If a run
has the folds of this config, fold k starts from the network that held out fold k. Any other network has to have been
trained on other images: no training image of it, nor of the networks that it started from itself, may be a held-out or
a test image, as the same file or as a copy of it, whatever its name. Near-duplicates are not searched: to find them,
name the other data as an extra set for `make audit`.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import config
from pipeline.config import Config
from pipeline.data.medical import file_of
from pipeline.files import file_digest
from pipeline.folds import hold_out
from pipeline.models.encoder_name import parse
from pipeline.models.pretrained import project_file, weights_file
from pipeline.quoting import shortened
from pipeline.stages.labelling import load_beside
from pipeline.stages.preparing import Context, index_test_images, make_context
from pipeline.training.checkpoint import FULL, Fold, read_record

log = logging.getLogger(__name__)
RUN = "run:"
CHECKPOINT = ".safetensors"


def source_of_weights(cfg: Config) -> Config | None:
    """The config whose networks a config starts from; None if it starts from none, or from a file.

    Raises:
        FileNotFoundError, ValueError: if there is no such config, or it is not valid.
    """
    name = cfg.model.weights.removeprefix(RUN)
    if not cfg.model.weights.startswith(RUN) or name.endswith(CHECKPOINT):
        return None
    path = Path("configs") / f"{name}.toml"
    if not path.is_file() and ("/" in name or name.endswith((".pt", ".pth"))):
        raise ValueError(f"{cfg.model.weights} is neither the name of a config nor a {CHECKPOINT} file of a fold")
    other = config.load(path)
    return load_beside(cfg, name) if other.competition == cfg.competition else other


def checkpoint_of(cfg: Config) -> Path | None:
    """The checkpoint file that a config's whole networks start from; None if there is none."""
    name = cfg.model.weights.removeprefix(RUN)
    return Path(name) if cfg.model.weights.startswith(RUN) and name.endswith(CHECKPOINT) else None


def encoder_checkpoint_of(cfg: Config) -> Path | None:
    """The checkpoint file of this pipeline that a config's encoders start from; None if there is none."""
    path = Path(cfg.model.weights)
    if path.suffix != CHECKPOINT or not path.is_file():
        return None
    try:
        read_record(path)
    except ValueError:  # weights of another program
        return None
    return path


def starting_files(cfg: Config) -> dict[Path, Path]:
    """The files of weights that a config's training starts from: where each is, by its path in the project.

    Raises:
        ConnectionError, FileNotFoundError, ValueError: as `weights_file`; for a checkpoint that does not exist.
    """
    if path := checkpoint_of(cfg):
        _refuse_missing(path)
        return {path: path}
    if cfg.model.weights.startswith(RUN) or not (path := weights_file(cfg.model)):
        return {}
    return {project_file(parse(cfg.model.encoder)) if cfg.model.weights == "imagenet" else path: path}


def _refuse_missing(checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"model.weights: {checkpoint}: no such file: expected a {CHECKPOINT} file of a trained fold"
        )


def fold_to_start_from(context: Context, source: Context, fold: Fold) -> Fold:
    """The fold of the source whose network a fold starts from: the same; if the source has no such fold, its first."""
    if has_same_folds(context, source) or fold in source.fold_numbers():
        return fold
    return source.fold_numbers()[0]


def has_same_folds(context: Context, source: Context) -> bool:
    """Whether fold k of both contexts holds out the same images."""
    return source.card.name == context.card.name and source.folds.equals(context.folds)


def refuse_leak(context: Context, source: Context, fold: Fold, valid_index: pd.DataFrame | None) -> None:
    """Refuse a source whose network was trained on an image that a fold holds out, or on a test image.

    Args:
        fold: to be trained, from the network of `fold_to_start_from`.
        valid_index: the images that it holds out.

    Raises:
        ValueError: with the number of such images, and the first.
    """
    if has_same_folds(context, source):
        return
    test = index_test_images(context.cfg, context.card, context.paths)
    parts = {"held-out": test[:0] if valid_index is None else valid_index, "test": test}
    theirs = fold_to_start_from(context, source, fold)
    trained_on = _trained_on(source, theirs)
    for part, images in parts.items():
        if len(seen := images[images["path"].isin(same_files(images["path"], trained_on))]):
            raise ValueError(
                f"{source.paths.fold(theirs)} was trained on {len(seen)} of the {len(images)} {part} images of fold "
                f"{fold}, the first is '{shortened(seen['image_id'].iloc[0])}': the scores would be too high. Start "
                f"from a run with the folds of {context.paths.folds}, or from one of other images"
            )


def _trained_on(context: Context, fold: Fold) -> list[Path]:
    """The images that a fold's network was trained on with their masks, and those of the networks it started from."""
    index = context.index if fold == FULL else hold_out(context.index, context.folds, fold)[0]
    extra = context.extra.indices_of_fold(fold, context.folds) if context.extra else []
    paths = [path for each in (index, *extra) for path in each["path"]]
    if (source := source_of_weights(context.cfg)) is None:
        return paths
    earlier = make_context(source)
    return [*paths, *_trained_on(earlier, fold_to_start_from(context, earlier, fold))]


def same_files(paths: Iterable[Path], others: Iterable[Path]) -> set[Path]:
    """Those of the paths that are one of the others, or a copy of one; of a NIfTI volume all slices.

    Only files of the same size are read.
    """
    by_size: dict[int, set[Path]] = defaultdict(set)
    for path in others:
        file = file_of(path).resolve()
        by_size[file.stat().st_size].add(file)
    digest, found = cache(file_digest), set()
    for path in paths:
        file = file_of(path).resolve()
        candidates = by_size.get(file.stat().st_size, set())
        if file in candidates or (candidates and digest(file) in map(digest, candidates)):
            found.add(path)
    return found


def check_checkpoint(context: Context, path: Path, fold: Fold, folds: str) -> dict[str, Any]:
    """Check that a checkpoint file can start a fold; returns its record.

    A file alone does not tell which images it was trained on, only its competition and folds.

    Args:
        folds: digest of the context's folds, as in the settings of a run.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, it is none of this pipeline, or it was trained on this
            competition but held out another fold.
    """
    _refuse_missing(path)
    try:
        record = read_record(path)
    except ValueError as error:
        raise ValueError(f"model.weights: {error}, or name the file without run: to load its encoder alone") from None
    made_by = record["settings"]
    if made_by.get("competition") != context.card.name:
        log.warning(
            "%s: trained on %s: whether its images include held-out or test images cannot be checked",
            path,
            made_by.get("competition", "another competition"),
        )
    elif fold != FULL and (made_by.get("folds"), record["fold"]) != (folds, fold):
        what = "the whole training set" if record["fold"] == FULL else f"all but fold {record['fold']}"
        other = "" if made_by.get("folds") == folds else " of other folds"
        raise ValueError(
            f"model.weights: {path} was trained on {what}{other}: it has seen images that fold {fold} holds out. "
            f'Name the config, "{RUN}<config>": each fold then starts from its own network'
        )
    return record
