"""Pseudo-labels for one fold: test images, labelled by the model that held that fold out."""

import logging
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import competition, config
from pipeline.files import write_text
from pipeline.inference.prediction_store import PredictionStore
from pipeline.pseudo_labels import calibrated, mean_expected_dice, write_labels
from pipeline.stages.preparing import Context, scores_at_half
from pipeline.training.checkpoint import read_record
from pipeline.training.distributed import processes
from pipeline.training.fold_data import PseudoData

log = logging.getLogger(__name__)

COMPANION = """\
# {name} with pseudo-labels: test images with a high expected score by its model of the same fold, used in phase 1.
# `make pseudo` wrote it as a copy of {name}.toml with [train.pseudo] at its end; both may be changed.
#
#   make pseudo CONFIG={name}_pseudo
#
{text}

[train.pseudo]
from = "{name}"
"""


def label_fold(context: Context, source: Context, test_index: pd.DataFrame, fold: int) -> PseudoData:
    """Label test images by the source's model of a fold, for the training of the same fold.

    Only that model of the source was not trained on the fold's masks: labels of another would leak them into the
    training of a model that is then scored on them. The minimum expected Dice is calibrated on the other folds' OOF
    images, by each model's own quantiles, since models are calibrated differently.

    Writes: runs/<config>/pseudo/fold<k>/

    Args:
        source: with the folds of the context, see `refuse_other_folds`.
    """
    options, folder = context.cfg.train.pseudo, context.paths.pseudo(fold)
    dice, scores, fold_of = _calibration(source)
    labelling = calibrated(dice, scores, fold_of, fold, options)
    store = PredictionStore(source.paths.test(fold))
    predicted = ((image_id, store.read(image_id)) for image_id in test_index["image_id"])
    made_by = {"weights": read_record(source.paths.weights(fold))}
    with processes().main_first():  # the others find all labels written
        table = write_labels(folder, fold, predicted, labelling, made_by)
    labelled = test_index[test_index["image_id"].isin(table["image_id"])].reset_index(drop=True)
    return PseudoData(labelled, folder, options.weight, options.phases)


def refuse_other_folds(context: Context, source: Context, key: str) -> None:
    """Refuse a source of labels whose models were trained on images that the folds to be trained hold out.

    Args:
        key: of the config that names the source.

    Raises:
        ValueError: if the source has other folds.
    """
    if not source.folds.equals(context.folds):
        raise ValueError(
            f"{context.cfg.file}: {key}: {source.cfg.name} ({source.paths.folds}) has other folds than "
            f"{context.cfg.name} ({context.paths.folds}): its models were trained on images that these hold out"
        )


def source_of_labels(cfg: config.Config) -> config.Config | None:
    """The config whose models make the labels, on the same data; None without pseudo-labels."""
    return load_beside(cfg, cfg.train.pseudo.from_) if cfg.train.pseudo else None


def _calibration(source: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected Dice, score and fold of every OOF image that counts for the metric, (N,) each."""
    scores = scores_at_half(source, source.index).per_image()
    counted = source.index[np.isfinite(scores)]
    fold_of = source.folds.set_index("image_id")["fold"][counted["image_id"]]
    store = source.oof_store()
    dice = [mean_expected_dice(store.read(image_id)) for image_id in counted["image_id"]]
    return np.array(dice), scores[np.isfinite(scores)], fold_of.to_numpy()


def with_pseudo(cfg: config.Config) -> config.Config:
    """The config itself if it has [train.pseudo]; else its companion, which trains on the config's own labels.

    Writes: configs/<config>_pseudo.toml, if it is missing

    Raises:
        ValueError: for a companion without [train.pseudo], or with labels of another config.
    """
    if cfg.train.pseudo:
        return cfg
    path = companion_path(cfg)
    with processes().main_first():
        if not path.exists():
            _write_companion(path, cfg.name)
    return read_companion(cfg)


def companion_path(cfg: config.Config) -> Path:
    """The file of the companion, the config that trains on the labels of another."""
    return Path("configs") / f"{cfg.name}_pseudo.toml"


def read_companion(cfg: config.Config) -> config.Config:
    """The companion as its file has it, on the config's data.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: as `with_pseudo`.
    """
    companion = load_beside(cfg, companion_path(cfg).stem)
    if companion.train.pseudo is None or companion.train.pseudo.from_ != cfg.name:
        raise ValueError(
            f'{companion_path(cfg)}: expected train.pseudo with from = "{cfg.name}": add it, or remove the file and '
            f"make pseudo writes it"
        )
    return companion


def load_beside(cfg: config.Config, name: str) -> config.Config:
    """Read the config of another name, with the data folder of this one.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not valid, or of another competition.
    """
    place = {"root": cfg.data.root, "skip_bad": cfg.data.skip_bad, "exif": cfg.data.exif}
    other = config.load(Path("configs") / f"{name}.toml")
    theirs, ours = (competition.load(each.competition).name for each in (other, cfg))
    if theirs != ours:
        raise ValueError(
            f"{other.file}: its competition is {theirs}, that of {cfg.name} is {ours}, and labels have to be of the "
            f"same classes: name another config"
        )
    return other.model_copy(update={"data": other.data.model_copy(update=place)})


def _write_companion(path: Path, name: str) -> None:
    """Write the config's text under a new header, with [train.pseudo] at its end.

    The config's own header is left out: its cost and score are not the companion's.
    """
    lines = path.with_name(f"{name}.toml").read_text(encoding="utf-8").splitlines()
    kept = dropwhile(lambda line: line.startswith("#") or not line.strip(), lines)
    write_text(path, COMPANION.format(name=name, text="\n".join(kept).rstrip()))
    log.info("wrote %s: commit it, since reports and ensembles refer to it", path)
