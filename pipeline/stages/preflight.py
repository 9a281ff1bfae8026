"""What is refused before the first step of a training: whatever would end it, or make it worthless, in any fold."""

from collections.abc import Iterator, Mapping

import pandas as pd

from pipeline import folds
from pipeline.config import Config, place
from pipeline.data.index import coverage_columns, read_test_index
from pipeline.models import check_batch
from pipeline.quoting import shortened
from pipeline.stages.doctor import quick_check
from pipeline.stages.labelling import source_of_labels
from pipeline.stages.preparing import Context, check, processes
from pipeline.training.checkpoint import FULL, Fold
from pipeline.training.fold_data import balance_labels


def check_training(context: Context, *, full: bool = False) -> None:
    """Refuse what would end the training of any fold, so that none fails after another has been trained.

    Args:
        full: of the full fit, which trains on every image; else of all folds.

    Writes: reports/<competition>-doctor.png, if it refuses the masks

    Raises:
        ValueError: for masks that nothing can be learned of, or that lie beside what they mask (unless
            data.doctor = false); for images of several sizes in one batch; for too few images for a batch or an update;
            for an unknown column of train.balance; for a source of pseudo-labels with a mistake in it.
    """
    cfg, index = context.cfg, context.index
    with place(cfg):
        balance_labels(index, cfg.train.balance)
    with place(cfg, "train.pseudo.from"):
        _check_sources(cfg)
    if cfg.data.doctor:
        _refuse_masks_of_one_kind(context, FULL, index)
    parts = {FULL: index} if full else dict(_training_parts(context))
    if cfg.data.doctor:
        for fold, part in parts.items():
            _refuse_masks_of_one_kind(context, fold, part)
    _refuse_mixed_sizes(context, parts)
    _refuse_few_images(context, parts)
    if cfg.data.doctor and not full:
        quick_check(context.card, index, context.reader)


def _check_sources(cfg: Config) -> None:
    """Check the configs whose models label, one for the other; none may label for itself."""
    names = [cfg.name]
    while cfg.train.pseudo:
        if cfg.train.pseudo.from_ in names:
            raise ValueError(f"{' from '.join([*names, names[0]])}: a config cannot label for itself")
        cfg = source_of_labels(cfg)
        names.append(cfg.name)
        check(cfg)


def _training_parts(context: Context) -> Iterator[tuple[Fold, pd.DataFrame]]:
    for fold in context.fold_numbers():
        yield fold, folds.hold_out(context.index, context.folds, fold)[0]


def _refuse_masks_of_one_kind(context: Context, fold: Fold, index: pd.DataFrame) -> None:
    """Refuse masks of which nothing can be learned: all empty; of exclusive classes, all of one class.

    Args:
        fold: that trains on these images; "full" for all training images together.
    """
    card = context.card
    if card.exclusive:
        columns = zip(card.classes, coverage_columns(card.classes), strict=True)
        there = [name for name, column in columns if index[column].any()]
        if len(there) > 1:
            return
        found = f"hold one class alone ({there[0]})" if there else "are void everywhere"
    elif index["coverage"].any():
        return
    else:
        found = "are empty"
    if fold == FULL:
        raise ValueError(
            f"card {card.name}: all {len(index)} training masks {found}: nothing can be learned of them. See how they "
            f"are read by make doctor, or train all the same with data.doctor=false"
        )
    raise ValueError(
        f"{context.paths.folds}: fold {fold} trains on {len(index)} images whose masks {found}: nothing can be "
        f"learned of them. Make other folds (folds.count, folds.seed, folds.name), or train all the same with "
        f"data.doctor=false"
    )


def _refuse_mixed_sizes(context: Context, parts: Mapping[Fold, pd.DataFrame]) -> None:
    """Refuse what cannot be one batch, before the hours of the labels' source too."""
    phases, pseudo = context.cfg.train.phases, context.cfg.train.pseudo
    whole = [number for number, phase in enumerate(phases) if phase.crop is None]
    for part in parts.values():
        _refuse_sizes(context, part, whole)
    if pseudo:
        test = read_test_index(context.card, context.paths.root, context.cfg.data.skip_bad, context.reader)
        drawing = [number for number in whole if number + 1 in pseudo.phases]
        for part in parts.values():
            _refuse_sizes(context, pd.concat([part, test]), drawing)


def _refuse_sizes(context: Context, index: pd.DataFrame, whole: list[int]) -> None:
    """Refuse images of several sizes in phases, by number from 0, that draw them whole."""
    sizes = index.groupby(["height", "width"]).size().sort_values()
    if len(sizes) > 1 and whole:
        few, most = (f"{height}×{width}" for height, width in (sizes.index[0], sizes.index[-1]))
        odd = index.set_index(["height", "width"])["image_id"].loc[[sizes.index[0]]].iloc[0]
        raise ValueError(
            f"{context.cfg.file}: images of {len(sizes)} sizes ({most} mostly, {few} least often, as "
            f"'{shortened(odd)}') do not fit into one batch: set the phase's crop, such as "
            f"train.phases.{whole[0]}.crop=256"
        )


def _refuse_few_images(context: Context, parts: Mapping[Fold, pd.DataFrame]) -> None:
    """Refuse parts that are too small for a batch that trains, or for an update."""
    cfg = context.cfg
    if cfg.data.crops:  # of which an image gives many, and which are large
        return
    for number in range(len(cfg.train.phases)):
        if cfg.train.pseudo and number + 1 in cfg.train.pseudo.phases:
            continue  # more images come, nobody knows yet how many
        for fold, part in parts.items():
            with place(cfg, f"train.phases.{number}"):
                _refuse_part(context, number, fold, part)


def _refuse_part(context: Context, number: int, fold: Fold, part: pd.DataFrame) -> None:
    train, world = context.cfg.train, processes().num_processes
    phase = train.phases[number]
    draws = len(part) * phase.repeats // world
    what = f"fold {fold} trains on {len(part)} image{'s' * (len(part) != 1)}"
    if not draws:
        raise ValueError(f"{what}, for {world} processes: start fewer, or raise repeats = {phase.repeats}")
    batch = min(train.batch_size, draws)
    if draws // batch < train.accumulate:
        raise ValueError(
            f"{what}, {draws // batch} batches an epoch, and train.accumulate = {train.accumulate} of them make one "
            f"update: lower it, or raise repeats = {phase.repeats}"
        )
    if batch * world == 1:
        side = (phase.crop, phase.crop) if phase.crop else tuple(part[["height", "width"]].iloc[0].tolist())
        remedy = "train.batch_size = 2 or more" if draws > 1 else f"repeats = {phase.repeats + 1} or more"
        try:
            check_batch(context.cfg.model, side, frozen=phase.freeze_encoder)
        except ValueError as error:
            raise ValueError(f"{what}, one to a batch: {error}: set {remedy}, or a larger crop") from None
