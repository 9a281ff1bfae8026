"""The stages `data` and `folds`, and the context that every later stage starts from."""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from pipeline import competition, folds
from pipeline.competition import Competition
from pipeline.config import Config, Folds, place
from pipeline.data.augment import check_channels
from pipeline.data.channels import with_input_channels
from pipeline.data.file_cache import FileCache
from pipeline.data.index import check_meta_column, read_index, read_test_index, unlisted_test_images
from pipeline.data.labels import Labels
from pipeline.data.rasters import Header
from pipeline.data.reader import ImageError, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.tables import sample_header
from pipeline.data.transform_list import check_transforms
from pipeline.data.unpacked import Unpacked
from pipeline.demos.bands import make_bands_demo
from pipeline.demos.camvid import make_camvid_demo
from pipeline.demos.defects import make_defects_demo
from pipeline.demos.instances import make_instances_demo
from pipeline.demos.large import make_large_demo
from pipeline.demos.salt import make_salt_demo
from pipeline.demos.volumes import make_volumes_demo
from pipeline.duplicates import merge_groups, read_duplicates
from pipeline.duplicates.search import search_duplicates, searched_others
from pipeline.files import file_lock, remove_orphans
from pipeline.inference.prediction_store import PredictionStore
from pipeline.inference.tta import check_views
from pipeline.kinds import assign_kinds, join_kinds, kinds_by_fold
from pipeline.losses import build_loss
from pipeline.metrics import Counts, Scores, epoch_metric, pixel_metric, stack
from pipeline.models import check_model, for_prediction
from pipeline.models.encoder import image_side
from pipeline.models.image_size import with_image_size
from pipeline.postprocess.threshold_counts import HALF, count_pixels
from pipeline.progress import track
from pipeline.schema import parse, read_toml
from pipeline.stages.extra_sets import (
    ExtraSets,
    all_images,
    check_extra_sets,
    duplicates_path,
    find_extra_duplicates,
    read_extra_sets,
)
from pipeline.stages.train_test_shift import Predictions, TrainTestShift, bin_likeness, find_shift
from pipeline.submission import sample_rows
from pipeline.training.checkpoint import FULL, Fold
from pipeline.training.distributed import processes
from pipeline.training.freezing import check_freezing
from pipeline.training.optimizer import check_optimizer, encoder_layers

log = logging.getLogger(__name__)


class Paths:
    """The paths of a config's files, relative to the current folder."""

    def __init__(self, cfg: Config, card: Competition):
        self.root = cfg.data.root or Path("data") / card.name
        self.folds = Path("folds") / f"{cfg.folds.name or card.name}.csv"
        self.duplicates = self.folds.with_suffix(".duplicates.csv")
        self.run = Path("runs") / cfg.name
        self.files = Path("runs") / f"{card.name}.files.json"
        self.statistics = Path("runs") / f"{card.name}.statistics.json"
        self.batch_size = self.run / "batch_size.json"
        self.known_batch_sizes = Path("runs") / "batch_sizes.json"
        self.oof_table = self.run / "oof.json"
        self.imported_test = self.run / "test"  # imported predictions of the test set that belong to no fold

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock for making data or folds; look inside it again for what another process may have made."""
        return file_lock(self.folds.with_name(".lock"), f"{self.folds.parent}/")

    def fold(self, fold: Fold) -> Path:
        """The folder of a fold's training."""
        return self.run / (FULL if fold == FULL else f"fold{fold}")

    def pseudo(self, fold: Fold) -> Path:
        """The folder of the pseudo-labels that a fold is trained on."""
        return self.run / "pseudo" / self.fold(fold).name

    def weights(self, fold: Fold) -> Path:
        """The best weights of a fold, which exist once the fold is trained."""
        return self.fold(fold) / "best.safetensors"

    def trained(self, fold: Fold) -> Path:
        """The prediction store of the images that a fold's model was trained on, for students that learn from it."""
        return self.fold(fold) / "trained"

    def oof(self, fold: int) -> Path:
        """The prediction store of a fold's held-out images."""
        return self.fold(fold) / "oof"

    def test(self, fold: Fold) -> Path:
        """The prediction store of the test images by a fold's model."""
        return self.fold(fold) / "test"


class Context(NamedTuple):
    """A config with its card, paths, index and folds."""

    cfg: Config
    card: Competition
    paths: Paths
    index: pd.DataFrame
    folds: pd.DataFrame
    extra: ExtraSets | None = None
    unpacked: Unpacked | None = None  # of a training on windows

    @property
    def labels(self) -> Labels:
        """The reader of the training masks."""
        labels = Labels.of(self.card, self.cfg.data.boundary, exif=self.cfg.data.exif)
        return replace(labels, unpacked=self.unpacked)

    @property
    def reader(self) -> Reader:
        """The reader of the images."""
        return replace(Reader.of(self.cfg, self.card), unpacked=self.unpacked)

    def predictions(self) -> Predictions | None:
        """The OOF predictions, and the test predictions of each fold's model; None if those are imported as a mean.

        A mean of models is smoother than one of them, which is no difference between the images.
        """
        if self.paths.imported_test.is_dir():
            return None
        return Predictions(self.oof_store(), [PredictionStore(self.paths.test(fold)) for fold in self.fold_numbers()])

    def fold_numbers(self) -> list[int]:
        """The numbers of the folds, ascending; of those in `folds.only`, if it is set."""
        return sorted(self.cfg.folds.only) or sorted(self.folds["fold"].unique().tolist())

    def oof_store(self, of: Sequence[int] | None = None) -> PredictionStore:
        """The OOF predictions of these folds; None: of all folds."""
        return PredictionStore(*(self.paths.oof(fold) for fold in of or self.fold_numbers()))

    def test_folds(self) -> list[Fold]:
        """The folds whose models predict the test set; with all folds and `predict.full`, the full fit too."""
        full = self.cfg.predict.full and not self.cfg.folds.only
        return [*self.fold_numbers(), FULL] if full else list(self.fold_numbers())

    def unlisted(self, test_index: pd.DataFrame) -> list[str]:
        """Ids of test images that have no row in the sample submission."""
        return unlisted_test_images(self.card, self.paths.root, test_index["image_id"])

    def test_stores(self) -> list[PredictionStore]:
        """The test predictions of the folds of `test_folds`; imported ones may belong to no fold."""
        if self.paths.imported_test.is_dir():
            return [PredictionStore(self.paths.imported_test)]
        return [PredictionStore(self.paths.test(fold)) for fold in self.test_folds()]


def check(cfg: Config) -> Competition:
    """Check a config before any image is read; returns its card.

    Raises:
        FileNotFoundError, ValueError: naming the config's file and key, what is wrong with it and what exists.
    """
    with place(cfg, "competition"):
        path = competition.card_path(cfg.competition)
        if not path.is_file():
            read_toml(path)  # raises with the names of the cards that exist
    card = competition.load(cfg.competition)
    if cfg.ensemble.group is not None and (card.exclusive or card.instances):
        with place(cfg, "ensemble.group"):
            _refuse_groups(card)
    if cfg.imported:
        return card
    with place(cfg):
        cfg = with_image_size(with_input_channels(cfg, card))
        _check_channels(cfg, card)
        check_model(cfg.model, cfg.train.least_batch_size())
        if cfg.data.crops:
            _check_crops(cfg, card)
        if card.exclusive:
            _refuse_multilabel_options(cfg)
    if cfg.predict.output_stride:
        with place(cfg, "predict.output_stride"):
            check_model(for_prediction(cfg))
    with place(cfg):
        check_optimizer(cfg.train)
    with place(cfg, "predict.views"):
        check_views(cfg.predict.views, image_side(cfg.model))
    soft = any(Labels.of(each).is_soft for each in (card, *check_extra_sets(cfg, card)))
    names = Labels.of(card, cfg.data.boundary).channel_names
    taught = cfg.train.teacher.phases if cfg.train.teacher else ()
    for number, phase in enumerate(cfg.train.phases):
        is_soft = soft or phase.makes_soft or number + 1 in taught
        targets = {"exclusive": card.exclusive, "soft": is_soft, "classes": names}
        with place(cfg, f"train.phases.{number}.loss"):
            build_loss(phase.loss, **targets)
        with place(cfg, f"train.phases.{number}.loss_options"):
            build_loss(phase.loss, phase.loss_options, **targets)
        with place(cfg, f"train.phases.{number}.augment"):
            check_channels(phase.augment, cfg.model.in_channels, 1 if card.exclusive else len(names) * (1 + is_soft))
            if not isinstance(phase.augment, str):
                check_transforms(phase.augment, cfg.model.in_channels, phase.crop)
        if phase.layer_decay != 1:
            with place(cfg, f"train.phases.{number}.layer_decay"):
                encoder_layers(cfg.model.encoder)
        with place(cfg, f"train.phases.{number}"):
            check_freezing(cfg.model, phase)
    return card


def _refuse_groups(card: Competition) -> None:
    kind = "exclusive classes have no threshold" if card.exclusive else "those of objects are common to all images"
    raise ValueError(f"thresholds by group are for masks that may overlap; {kind}: remove it")


def _check_channels(cfg: Config, card: Competition) -> None:
    if cfg.data.boundary and not card.instances:
        raise ValueError(
            f"data.boundary separates touching objects, but {card.name} has one mask per class: remove data.boundary"
        )
    channels = Labels.of(card, cfg.data.boundary).channels
    if channels != cfg.model.classes:
        boundary = " and the boundary between objects" if cfg.data.boundary else ""
        raise ValueError(
            f"model.classes is {cfg.model.classes}, but the card {card.name} has {len(card.classes)} "
            f"({', '.join(card.classes)}){boundary}: set model.classes = {channels}"
        )


def _check_crops(cfg: Config, card: Competition) -> None:
    if not Labels.of(card, cfg.data.boundary).supports_windows:
        other = "exclusive classes" if card.exclusive else "boundaries between objects (data.boundary)"
        raise ValueError(f"data.crops reads masks by window, which does not support {other}: remove one of the two")
    for number, phase in enumerate(cfg.train.phases):
        if phase.size:
            raise ValueError(
                f"train.phases.{number}.size: data.crops are cut at one size for all phases: set data.size instead"
            )
        if phase.crop is None or phase.crop > cfg.data.crops.size:
            raise ValueError(
                f"data.crops.size is {cfg.data.crops.size} pixels, but train.phases.{number}.crop is {phase.crop}: "
                f"expected at most data.crops.size"
            )


def _refuse_multilabel_options(cfg: Config) -> None:
    """Raise ValueError for an option that needs one mask per class; exclusive classes do not have them."""
    asked = {
        "model.image_head": cfg.model.image_head,
        "model.image_gate": cfg.model.image_gate,
        "train.pseudo": cfg.train.pseudo,
        "train.teacher": cfg.train.teacher,
        **{
            f"train.phases.{number}.mix.{mix}": mix in phase.mix
            for number, phase in enumerate(cfg.train.phases)
            for mix in ("copy_paste", "mixup")
        },
    }
    wrong = [key for key, value in asked.items() if value]
    if wrong:
        raise ValueError(f"{wrong[0]} needs one mask per class, but the card's classes are exclusive: remove it")


def data(cfg: Config) -> None:
    """Generate the data of a demo if they are missing, and read every image once.

    Writes: data/<competition>/, for a generated competition

    Raises:
        ImageError: for the first image that cannot be read; the others are logged.
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    make_data(card, paths)
    _refuse_other_header(card, paths.root)
    reader = Reader.of(cfg, card)
    index = index_training_images(cfg, card, paths)
    test = index_test_images(cfg, card, paths)
    found = [*samples_of(index), *samples_of(test)]
    bad = [error for sample in track(found, "read images") if (error := _image_error(sample, reader))]
    for error in bad[1:]:
        log.error("%s", error)
    if bad:
        raise bad[0]
    _log_mixed_inputs(found, reader)
    empty = (index["coverage"] == 0).mean()
    log.info("%s: %d training images, %d test images", card.title, len(index), len(test))
    log.info("coverage %.3f on average, %.0f%% of the masks are empty", index["coverage"].mean(), 100 * empty)


def _log_mixed_inputs(samples: Sequence[Sample], reader: Reader) -> None:
    """Log how many images have an EXIF orientation, and warn about mixed bit depths."""
    headers = [reader.stored_header(sample) for sample in samples]
    if message := describe_turned_images(headers, reader):
        log.info("%s", message)
    kinds = Counter(str(header.dtype) for header in headers)
    if len(kinds) > 1 and not (reader.value_range or reader.percentiles):
        shown = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
        log.warning("mixed bit depths (%s): each image is scaled by the range of its type; set data.percentiles", shown)


def describe_turned_images(headers: Sequence[Header], reader: Reader) -> str | None:
    """How many images have an EXIF orientation, and how they are read; None if none has one."""
    turned = sum(header.orientation != 1 for header in headers)
    how = "it is applied" if reader.exif else "it is ignored (data.exif = false)"
    return f"{turned} of {len(headers)} images have an EXIF orientation: {how}" if turned else None


def _image_error(sample: Sample, reader: Reader) -> ImageError | None:
    try:
        reader.check(sample)
    except ImageError as error:
        return error
    return None


def index_training_images(cfg: Config, card: Competition, paths: Paths) -> pd.DataFrame:
    """The index of the training images, as `read_index`; unchanged files are not decoded again."""
    return read_index(card, paths.root, cfg.data.skip_bad, Reader.of(cfg, card), FileCache(paths.files))


def index_test_images(cfg: Config, card: Competition, paths: Paths) -> pd.DataFrame:
    """The index of the test images, as `read_test_index`; unchanged files are not decoded again."""
    return read_test_index(card, paths.root, cfg.data.skip_bad, Reader.of(cfg, card), FileCache(paths.files))


def make_data(card: Competition, paths: Paths) -> None:
    """Generate the data of a demo if the data folder is missing.

    Raises:
        FileNotFoundError: if the folder of another competition is missing.
    """
    if paths.root.is_dir():
        return
    if card.generated is None:
        raise FileNotFoundError(
            f"{paths.root}: no such folder. Put the files of {card.url or card.title} there, or give their folder "
            f"with DATA=folder (make) or --data folder"
        )
    with paths.lock():
        if not paths.root.is_dir():
            log.info("generating the demo data in %s/", paths.root)
            remove_orphans(paths.root.parent, f".{paths.root.name}.*.part")
            GENERATORS[card.generated](paths.root)


GENERATORS = {
    "demo": make_salt_demo,
    "camvid_demo": make_camvid_demo,
    "defects_demo": make_defects_demo,
    "instances_demo": make_instances_demo,
    "large_demo": make_large_demo,
    "volumes_demo": make_volumes_demo,
    "bands_demo": make_bands_demo,
}


def make_context(cfg: Config) -> Context:
    """Read the card, index and folds of a config; demo data and folds are made if they are missing.

    Raises:
        ValueError: if the folds do not match the images or the config, or the metric is not defined on one of them.
    """
    card = check(cfg)
    cfg, paths = with_folds(with_image_size(with_input_channels(cfg, card)), card), Paths(cfg, card)
    with processes().main_first():
        make_data(card, paths)
        _refuse_other_header(card, paths.root)
        index = index_training_images(cfg, card, paths)
        if cfg.ensemble.group is not None:
            with place(cfg, "ensemble.group"):
                check_meta_column(index, card, paths.root, cfg.ensemble.group)
        if not paths.folds.exists():
            with paths.lock():
                if not paths.folds.exists():
                    _make_folds(cfg, card, paths, index)
        extra = read_extra(cfg, card, paths, index) if cfg.data.extra else None
    index = keep_together(index, cfg, paths)
    whole = join_kinds(index, cfg.folds.hold_out)
    table = folds.read_folds(paths.folds, whole, subset=cfg.data.skip_bad)
    found = table["fold"].max() + 1
    if found != cfg.folds.count:
        raise ValueError(
            f"{cfg.file}: folds.count is {cfg.folds.count}, {paths.folds} has {found} folds: set it to {found}, or "
            f"set folds.name to make another file"
        )
    _refuse_fold_without_score(card, paths.folds, index, table)
    return Context(cfg, card, paths, index, table, extra)


def with_folds(cfg: Config, card: Competition) -> Config:
    """The config with the card's number of folds, unless it sets another.

    Raises:
        ValueError: if `folds.only` names a fold that does not exist then.
    """
    if "count" in cfg.folds.model_fields_set:
        return cfg
    options = cfg.folds.model_dump(exclude_unset=True) | {"count": card.folds or cfg.folds.count}
    checked = parse(Folds, options, f"{cfg.file}: folds")
    return cfg if card.folds is None else cfg.model_copy(update={"folds": checked})


def read_extra(cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame) -> ExtraSets:
    """The extra sets of a config, and their near-duplicates among its images, which are searched once.

    Args:
        index: the training images.

    Writes: folds/<name>.extra-<digest>.csv

    Raises:
        FileNotFoundError, ValueError: as `read_extra_sets`.
    """
    reader, test = Reader.of(cfg, card), index_test_images(cfg, card, paths)
    cache = FileCache(paths.files)
    sets = read_extra_sets(cfg, card, paths.root, index, test, cache)
    images = all_images(index, test, sets)
    path = duplicates_path(paths.folds, images, reader, cache)
    if not path.exists():
        with paths.lock():
            if not path.exists():
                find_extra_duplicates(path, images, reader)
    return ExtraSets(sets, read_duplicates(path))


def _refuse_other_header(card: Competition, root: Path) -> None:
    """Raise ValueError if the card's columns are not those of the sample submission, if there is one."""
    sample = root / card.files.sample_submission
    if sample.is_file():
        sample_header(sample, card.columns)


def _refuse_fold_without_score(card: Competition, path: Path, index: pd.DataFrame, table: pd.DataFrame) -> None:
    """Raise ValueError for a fold whose images are all empty, if the metric ignores empty images."""
    metric = epoch_metric(card.metric)
    if pixel_metric(metric).counts_empties:
        return
    rows = index.merge(table, on="image_id")
    largest = rows.groupby("fold")["coverage"].max()
    for fold in largest.index[largest == 0]:
        ids = rows["image_id"][rows["fold"] == fold].sort_values().tolist()
        raise ValueError(
            f"{path}: {metric} is not defined on fold {fold}: none of its {len(ids)} images ({', '.join(ids[:3])}"
            f"{', …' if len(ids) > 3 else ''}) has a mask, and empty images do not count. Set folds.name = "
            f'"{path.stem}2" in the config and lower folds.count, or change folds.seed; existing runs keep their folds'
        )


def _make_folds(cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame) -> None:
    if cfg.folds.grouped:
        _find_missing_duplicates(cfg, card, paths, index)
    index = keep_together(index, cfg, paths)
    if cfg.folds.like_test:
        index = _with_likeness(cfg, card, paths, index)
    with place(cfg):
        if cfg.folds.hold_out:
            table = assign_kinds(index, cfg.folds.count, cfg.folds.hold_out)
        else:
            table = folds.assign_folds(index, cfg.folds.count, cfg.folds.seed, balanced_columns(cfg))
    options = cfg.folds.model_dump(mode="json", exclude={"name", "only"}) | {"balance": balanced_columns(cfg)}
    folds.write_folds(paths.folds, table, index, options)
    log.info("wrote %s: commit it, since all scores depend on it", paths.folds)


def keep_together(index: pd.DataFrame, cfg: Config, paths: Paths) -> pd.DataFrame:
    """The index with near-duplicates merged into the groups, if they were searched; or without groups."""
    if not cfg.folds.grouped:
        return index.assign(group=index["image_id"])
    if not paths.duplicates.exists():
        return index
    return index.assign(group=merge_groups(index, read_duplicates(paths.duplicates)))


LIKENESS = "like_test"  # the index's column of `folds.like_test`


def balanced_columns(cfg: Config) -> list[str]:
    """The columns of the index whose values are balanced over the folds."""
    return [*cfg.folds.balance, *([LIKENESS] if cfg.folds.like_test else [])]


def _with_likeness(cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame) -> pd.DataFrame:
    """The index with the column LIKENESS, the quantile of each image's likeness to the test images.

    Raises:
        ValueError: if training and test images cannot be compared.
    """
    shift = compare_with_test(cfg, card, paths, index, index_test_images(cfg, card, paths))
    if shift.found is None:
        raise ValueError(f"{cfg.file}: folds.like_test: {shift.missing}: remove it")
    return index.assign(**{LIKENESS: bin_likeness(shift, index["image_id"], cfg.folds.count)})


def compare_with_test(
    cfg: Config,
    card: Competition,
    paths: Paths,
    index: pd.DataFrame,
    test_index: pd.DataFrame,
    predictions: Predictions | None = None,
) -> TrainTestShift:
    """As `find_shift`; unchanged images are not read again.

    Writes: runs/<competition>.statistics.json
    """
    pairs = read_duplicates(paths.duplicates) if paths.duplicates.exists() else None
    return find_shift(cfg, card, index, test_index, pairs, FileCache(paths.statistics), predictions)


def find_all_duplicates(cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame) -> pd.DataFrame:
    """Near-duplicates among the training images, and between training and test images; searched once.

    Writes: folds/<name>.duplicates.csv, .duplicates.json
    """
    with paths.lock():
        _find_missing_duplicates(cfg, card, paths, index)
    return read_duplicates(paths.duplicates)


def _find_missing_duplicates(cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame) -> None:
    test = index_test_images(cfg, card, paths)
    images = pd.concat([index.assign(part="train"), test.assign(part="test")], ignore_index=True)
    are_known, are_of_others = paths.duplicates.exists(), searched_others(paths.duplicates, images)
    if are_known and are_of_others and paths.folds.exists():
        log.warning("%s is of other images: near-duplicates of new ones are not in it", paths.duplicates)
    elif are_known and not are_of_others:
        log.info("using the near-duplicates in %s: remove it to search again", paths.duplicates)
    else:
        search_duplicates(paths.duplicates, images, Reader.of(cfg, card))


def describe_folds(cfg: Config) -> tuple[pd.DataFrame, float]:
    """The stage `folds`: assign the folds if they are missing; returns their balance and the worst deviation.

    Writes: folds/<name>.csv
    """
    context = make_context(cfg)
    index = context.index
    if cfg.folds.like_test:
        index = _with_likeness(context.cfg, context.card, context.paths, index)
    described = folds.describe_folds(index, context.folds, balanced_columns(cfg))
    deviation = folds.worst_deviation(described)
    if cfg.folds.hold_out:
        described["kinds"] = kinds_by_fold(index, context.folds, cfg.folds.hold_out)
    return described, deviation


def count_test_images(card: Competition, root: Path) -> int:
    """The number of test images, public and private: as the card says, or as in the sample submission."""
    return card.leaderboard.images or sample_rows(card, root / card.files.sample_submission)["image_id"].nunique()


def scores_at_half(context: Context, index: pd.DataFrame, of: Sequence[int] | None = None) -> Scores:
    """The out-of-fold scores of training images at threshold .5, or by argmax for exclusive classes.

    They are scores of the metric that training uses: mean Dice where the official metric scores objects.

    Args:
        of: as for `counts_at_half`.
    """
    return pixel_metric(epoch_metric(context.card.metric)).scores(counts_at_half(context, index, of))


def counts_at_half(context: Context, index: pd.DataFrame, of: Sequence[int] | None = None) -> Counts:
    """The out-of-fold counts of training images at threshold .5, (N, C) each.

    Args:
        of: the folds of these images; other folds may not have predictions yet. None: all.
    """
    store, labels = context.oof_store(of), context.labels
    counts = []
    for sample in samples_of(index):
        pair = (torch.from_numpy(each)[None] for each in (store.read(sample.image_id), labels.read_scored(sample)))
        at_all, _ = count_pixels(*pair, exclusive=labels.exclusive)
        counts.append(at_all.at(np.s_[0, :, HALF]))
    return stack(counts)
