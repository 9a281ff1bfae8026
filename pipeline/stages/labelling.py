"""Pseudo-labels for one fold: test images, labelled by the model that held that fold out."""

import numpy as np
import pandas as pd

from pipeline import config
from pipeline.inference.store import PredictionStore
from pipeline.pseudo import calibrated, image_confidence, write_labels
from pipeline.stages.preparing import Prepared, scores_at_half
from pipeline.training.checkpoint import read_record
from pipeline.training.fold import PseudoData


def label_fold(prepared: Prepared, source: Prepared, test_index: pd.DataFrame, fold: int) -> PseudoData:
    """The test images that the source's model of a fold is sure of, as labels for the training of the same fold.

    That model, and no other of the source, never saw the fold's masks: labels by another would carry them into the
    training of a model that is then scored on them. What counts as sure is calibrated on the other folds' OOF images,
    by each model's own scale: one is surer than another without being better.

    Writes: runs/<config>/pseudo/fold<k>/

    Raises:
        ValueError: if the source has other folds.
    """
    if not source.folds.equals(prepared.folds):
        raise ValueError(
            f"train.pseudo: {source.cfg.name} ({source.paths.folds}) has other folds than {prepared.cfg.name} "
            f"({prepared.paths.folds}): its models saw images that these hold out"
        )
    options, folder = prepared.cfg.train.pseudo, prepared.paths.pseudo(fold)
    confidences, scores, fold_of = _calibration(source)
    labelling = calibrated(confidences, scores, fold_of, fold, floor=options.floor, low=options.low, high=options.high)
    store = PredictionStore(source.paths.test(fold))
    predicted = ((image_id, store.read(image_id)) for image_id in test_index["image_id"])
    table = write_labels(folder, fold, predicted, labelling, {"weights": read_record(source.paths.weights(fold))})
    labelled = test_index[test_index["image_id"].isin(table["image_id"])].reset_index(drop=True)
    return PseudoData(labelled, folder, options.weight, options.phases)


def _calibration(source: Prepared) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, score and fold of every OOF image that the metric counts."""
    scores = scores_at_half(source, source.index).each()
    counted = source.index[np.isfinite(scores)]
    fold_of = source.folds.set_index("image_id")["fold"][counted["image_id"]]
    store = source.oof_store()
    confidences = [image_confidence(store.read(image_id)) for image_id in counted["image_id"]]
    return np.array(confidences), scores[np.isfinite(scores)], fold_of.to_numpy()


def with_pseudo(cfg: config.Config) -> config.Config:
    """The config itself if it asks for pseudo-labels; else one beside it that trains on the config's own."""
    if cfg.train.pseudo:
        return cfg
    options = config.Pseudo(from_=cfg.name)
    return cfg.model_copy(
        update={"name": f"{cfg.name}_pseudo", "train": cfg.train.model_copy(update={"pseudo": options})}
    )
