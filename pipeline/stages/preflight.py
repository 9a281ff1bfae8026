"""Checks before a training: errors in data or config that would stop it, or make it useless, in any fold."""

import logging
from collections.abc import Mapping

import pandas as pd

from pipeline import folds
from pipeline.config import Config, place
from pipeline.data.index import coverage_columns
from pipeline.models import check_batch
from pipeline.quoting import shortened
from pipeline.stages.distilling import refuse_other_channels, teachers_of
from pipeline.stages.doctor import quick_check
from pipeline.stages.input_sizes import check_sizes, network_sizes, resize_of_phase
from pipeline.stages.labelling import source_of_labels
from pipeline.stages.preparing import Context, check, index_test_images
from pipeline.stages.starting_weights import source_of_weights, starting_files
from pipeline.training.checkpoint import FULL, Fold
from pipeline.training.distributed import processes
from pipeline.training.fold_data import balance_labels
from pipeline.training.trackers import check_installed

log = logging.getLogger(__name__)


def check_training(context: Context, *, full: bool = False) -> None:
    """Check the data and options of all folds, so that no fold fails after others have been trained.

    Args:
        full: check the full fit, which trains on every image, instead of the folds.

    Writes: reports/<competition>-doctor.png, if the masks are refused

    Raises:
        ValueError: if all masks are of one kind, or do not match their images (unless data.doctor = false); if images
            of several sizes would be in one batch, or smaller than the network's stride; if there are too few images
            for a batch or an update; if train.balance is an unknown column; if a tracker's library is not installed;
            if a config that the pseudo-labels or the starting weights come from is invalid.
        ConnectionError, FileNotFoundError: as `starting_files`.
    """
    cfg, index = context.cfg, context.index
    with place(cfg, "train.trackers"):
        check_installed(cfg.train.trackers)
    with place(cfg):
        balance_labels(index, cfg.train.balance)
    _check_sources(cfg)
    with place(cfg):
        starting_files(cfg)
    if cfg.model.weights == "none" and cfg.train.phases[0].freeze_encoder:
        log.warning("%s: train.phases.0.freeze_encoder: the encoder has random weights: set model.weights", cfg.file)
    if cfg.data.doctor:
        _refuse_masks_of_one_kind(context, FULL, index)
    numbers = context.fold_numbers()
    parts = {FULL: index} if full else {fold: folds.hold_out(index, context.folds, fold)[0] for fold in numbers}
    if cfg.data.doctor:
        for fold, part in parts.items():
            _refuse_masks_of_one_kind(context, fold, part)
    _refuse_mixed_sizes(context, parts)
    _refuse_few_images(context, parts)
    check_sizes(context)
    if cfg.data.doctor and not full:
        quick_check(context.card, index, context.reader)


def _check_sources(cfg: Config, users: tuple[str, ...] = ()) -> None:
    """Check the configs whose models label for a config, teach it or are its starting weights, and theirs in turn.

    Args:
        users: names of the configs that use this one.

    Raises:
        FileNotFoundError, ValueError: for an invalid config, and for one that would need its own models.
    """
    users = (*users, cfg.name)
    for key, sources_of, what in (
        ("train.pseudo.from", lambda cfg: [source_of_labels(cfg)], "label for"),
        ("model.weights", lambda cfg: [source_of_weights(cfg)], "start from"),
        ("train.teacher.from", teachers_of, "learn from"),
    ):
        with place(cfg, key):
            for source in filter(None, sources_of(cfg)):
                if source.name in users:
                    raise ValueError(f"{' from '.join([*users, source.name])}: a config cannot {what} itself")
                if source.imported:
                    raise ValueError(f"{source.name} has no model, its predictions are imported: name another config")
                check(source)
                if sources_of is teachers_of:
                    refuse_other_channels(cfg, source)
                _check_sources(source, users)


def _refuse_masks_of_one_kind(context: Context, fold: Fold, index: pd.DataFrame) -> None:
    """Refuse masks from which nothing can be learned: all empty or, for exclusive classes, all of one class.

    Args:
        fold: the fold that trains on these images; "full": the images are all training images.
    """
    card = context.card
    if card.exclusive:
        columns = zip(card.classes, coverage_columns(card.classes), strict=True)
        present = [name for name, column in columns if index[column].any()]
        if len(present) > 1:
            return
        found = f"have one class only ({present[0]})" if present else "are void everywhere"
    elif index["coverage"].any():
        return
    else:
        found = "are empty"
    if fold == FULL:
        raise ValueError(
            f"card {card.name}: all {len(index)} training masks {found}: nothing can be learned from them. Check with "
            f"make doctor how they are read, or train anyway with data.doctor=false"
        )
    raise ValueError(
        f"{context.paths.folds}: fold {fold} trains on {len(index)} images whose masks {found}: nothing can be "
        f"learned from them. Make other folds (folds.count, folds.seed, folds.name), or train anyway with "
        f"data.doctor=false"
    )


def _refuse_mixed_sizes(context: Context, parts: Mapping[Fold, pd.DataFrame]) -> None:
    """Refuse images of several sizes in one batch, before hours are spent on pseudo-labels."""
    phases, pseudo = context.cfg.train.phases, context.cfg.train.pseudo
    whole = [number for number, phase in enumerate(phases) if phase.crop is None]
    for part in parts.values():
        _refuse_sizes(context, part, whole)
    if pseudo:
        test = index_test_images(context.cfg, context.card, context.paths)
        drawing = [number for number in whole if number + 1 in pseudo.phases]
        for part in parts.values():
            _refuse_sizes(context, pd.concat([part, test]), drawing)
    for extra in context.extra.sets if context.extra else ():
        drawing = [number for number in whole if number + 1 in extra.options.phases]
        for part in parts.values():
            _refuse_sizes(context, pd.concat([part, extra.index]), drawing)


def _refuse_sizes(context: Context, index: pd.DataFrame, whole: list[int]) -> None:
    """Refuse images of several sizes if a phase trains on whole images.

    Args:
        whole: numbers, from 0, of the phases without a crop.
    """
    for number in whole:
        _refuse_sizes_of_phase(context, network_sizes(index, resize_of_phase(context.cfg, number)), number)


def _refuse_sizes_of_phase(context: Context, index: pd.DataFrame, number: int) -> None:
    sizes = index.groupby(["height", "width"]).size().sort_values()
    if len(sizes) > 1:
        rarest, commonest = (f"{height}×{width}" for height, width in (sizes.index[0], sizes.index[-1]))
        example = index.set_index(["height", "width"])["image_id"].loc[[sizes.index[0]]].iloc[0]
        raise ValueError(
            f"{context.cfg.file}: images of {len(sizes)} sizes (mostly {commonest}, least often {rarest}, such as "
            f"'{shortened(example)}') do not fit into one batch: set the phase's crop, such as "
            f"train.phases.{number}.crop=256, or one size, such as data.size={{exact=[256, 256]}}"
        )


def _refuse_few_images(context: Context, parts: Mapping[Fold, pd.DataFrame]) -> None:
    """Refuse folds with too few training images for a batch that can train, or for an update."""
    cfg = context.cfg
    if cfg.data.crops:  # an image gives many crops, and they are large
        return
    for number in range(len(cfg.train.phases)):
        if cfg.train.pseudo and number + 1 in cfg.train.pseudo.phases:
            continue  # pseudo-labelled images are added, and their number is not known yet
        if any(number + 1 in each.phases for each in cfg.data.extra):
            continue
        for fold, part in parts.items():
            with place(cfg, f"train.phases.{number}"):
                _refuse_part(context, number, fold, part)


def _refuse_part(context: Context, number: int, fold: Fold, part: pd.DataFrame) -> None:
    train, group = context.cfg.train, processes()
    phase = train.phases[number]
    draws = round(len(part) * phase.repeats) // group.world
    what = f"fold {fold} trains on {len(part)} image{'s' * (len(part) != 1)}"
    if not draws:
        raise ValueError(f"{what}, for {group.world} processes: start fewer, or raise repeats = {phase.repeats}")
    batch = min(group.batch_size_per_process(train.least_batch_size(group.world)), draws)
    if draws // batch < train.accumulate:
        raise ValueError(
            f"{what}, {draws // batch} batches an epoch, and train.accumulate = {train.accumulate} of them make one "
            f"update: lower it, or raise repeats = {phase.repeats}"
        )
    if batch * group.world == 1:
        first = network_sizes(part.iloc[:1], resize_of_phase(context.cfg, number))[["height", "width"]].iloc[0]
        side = (phase.crop, phase.crop) if phase.crop else tuple(first.tolist())
        remedy = "train.batch_size = 2 or more" if draws > 1 else f"repeats = {int(phase.repeats) + 1} or more"
        try:
            check_batch(context.cfg.model, side, frozen=phase.keeps_statistics)
        except ValueError as error:
            raise ValueError(f"{what}, one per batch: {error}: set {remedy}, or a larger crop") from None
