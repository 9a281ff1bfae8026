"""Extra training images, `data.extra`: of other folders or cards with the same classes.

They are mixed into the training images of the phases that the config names, and are never validated on. The scores stay
comparable because no extra image trains a fold that it gives away: near-duplicates of an image that a fold holds out
are left out of that fold's training, and near-duplicates of test images are left out of every training.
"""

import hashlib
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline import competition
from pipeline.competition import Columns, Competition
from pipeline.config import Config, Extra, place
from pipeline.data.crops import crop_index
from pipeline.data.file_cache import FileCache
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.medical import file_of
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.duplicates import find_duplicates, write_duplicates
from pipeline.files import file_digest
from pipeline.progress import track
from pipeline.quoting import listed, shortened
from pipeline.schema import parse
from pipeline.training.checkpoint import Fold
from pipeline.training.fold_data import ExtraData

log = logging.getLogger(__name__)


class ExtraSet(NamedTuple):
    """One set of extra images with its labels."""

    name: str  # of its table in the config
    options: Extra
    labels: Labels
    index: pd.DataFrame  # as of `read_index`


class ExtraSets(NamedTuple):
    """The extra sets of a config, and what they have in common with the training and the test set."""

    sets: tuple[ExtraSet, ...]
    duplicates: pd.DataFrame  # as `find_duplicates` returns it; first: training or test images, second: extra images

    def settings(self) -> list[dict[str, Any]]:
        """What the weights depend on, as plain values: not the folders, which may move."""
        labels = ["image_id", "rle", "rle_void", "coverage"]
        return [
            {
                "ratio": each.options.ratio,
                "phases": list(each.options.phases),
                "labels": table_digest(each.index[each.index.columns.intersection(labels)]),
                "dialect": asdict(each.labels.dialect),
                "masks": each.labels.masks.model_dump(mode="json", exclude_defaults=True),
                "annotators": each.labels.annotators,
                "duplicates": table_digest(self._of(each)[["first", "first_part", "second"]]),
            }
            for each in self.sets
        ]

    def indices_of_fold(self, fold: Fold, folds: pd.DataFrame) -> list[pd.DataFrame]:
        """The images of each set that train a fold: without near-duplicates of test images and of held-out ones."""
        found = []
        for each in self.sets:
            of_test, of_held_out = self._left_out(each, fold, folds)
            found.append(each.index[~each.index["image_id"].isin(of_test | of_held_out)].reset_index(drop=True))
        return found

    def of_fold(self, fold: Fold, folds: pd.DataFrame, cfg: Config, reader: Reader) -> tuple[ExtraData, ...]:
        """The images that train a fold; of a config with `data.crops`, their windows."""
        found = []
        for each, index in zip(self.sets, self.indices_of_fold(fold, folds), strict=True):
            of_test, of_held_out = self._left_out(each, fold, folds)
            log.info(
                "fold %s: %s: %d of %d images; left out are %d near-duplicates of test images and %d of held-out ones",
                *(fold, each.name, len(index), len(each.index), len(of_test), len(of_held_out)),
            )
            labels = replace(each.labels, unpacked=reader.unpacked)
            if cfg.data.crops and len(index):
                index = crop_index(index, labels, cfg.data.crops, reader.resize)
            found.append(ExtraData(each.name, index, labels, each.options.ratio, each.options.phases))
        return tuple(found)

    def counts(self, folds: pd.DataFrame | None) -> list[dict[str, Any]]:
        """For each set the number of its images, and of its near-duplicates of test images and of each fold.

        An image that is a near-duplicate of both is counted with the test images.

        Args:
            folds: None if there are none yet.
        """
        numbers = [] if folds is None else sorted(folds["fold"].unique().tolist())
        rows = []
        for each in self.sets:
            found = {"test images": self._left_out(each)[0]}
            found |= {f"fold {number}": self._left_out(each, number, folds)[1] for number in numbers}
            row = {"set": each.name, "images": len(each.index)}
            rows += [row | {"near-duplicates of": what, "number": len(ids)} for what, ids in found.items()]
        return rows

    def _of(self, each: ExtraSet) -> pd.DataFrame:
        return self.duplicates[self.duplicates["second_part"] == each.name]

    def _left_out(
        self, each: ExtraSet, fold: Fold | None = None, folds: pd.DataFrame | None = None
    ) -> tuple[set[str], set[str]]:
        """Ids of the near-duplicates of test images, and of the others that are near-duplicates of held-out images."""
        pairs, held_out = self._of(each), [] if folds is None else folds["image_id"][folds["fold"] == fold]
        of_test = set(pairs["second"][pairs["first_part"] == "test"])
        of_held_out = pairs["second"][(pairs["first_part"] == "train") & pairs["first"].isin(held_out)]
        return of_test, set(of_held_out) - of_test


def check_extra_sets(cfg: Config, card: Competition) -> tuple[Competition, ...]:
    """Check the extra sets of a config before any image is read; returns their cards.

    Raises:
        FileNotFoundError, ValueError: naming the config's file and the set, and what is wrong with it.
    """
    cards = []
    for number, options in enumerate(cfg.data.extra):
        with place(cfg, f"data.extra.{number}"):
            if not (options.competition or options.root or options.images or options.csv):
                raise ValueError("the training set itself: set competition, root, images or csv")
            cards.append(_card_of(options, card))
            _refuse_other_kind(cfg, card, cards[-1])
    return tuple(cards)


def _card_of(options: Extra, card: Competition) -> Competition:
    """The card of an extra set: without groups and meta tables, which it does not need, with the set's own files."""
    own = competition.load(options.competition) if options.competition else card
    files, layouts, changes = {"train_meta": None, "test_meta": None}, own.train_columns, {}
    if options.images:
        files["train_images"] = options.images
    if options.csv:
        none = dict.fromkeys(("train_masks", "train_polygons", "train_coco"))
        files |= {"train_csv": options.csv, "mask_paths": {}, **none}
        layouts = (*own.train_columns, own.columns)
        changes |= {"images_without_rows": "ignore", "masks": {}}
    tables = own.model_dump(by_alias=True, exclude_unset=True)
    tables |= {"files": tables["files"] | files, "columns": _without_group(own.columns)}
    tables |= {"train_columns": [*map(_without_group, layouts)]}
    return parse(Competition, tables | changes, f"card {own.name}")


def _without_group(columns: Columns) -> dict[str, Any]:
    return columns.model_dump(by_alias=True, exclude_unset=True, exclude={"group"})


def _refuse_other_kind(cfg: Config, card: Competition, extra: Competition) -> None:
    """Refuse a card whose masks or images mean something else than those of the config's card."""
    if extra.classes != card.classes:
        raise ValueError(
            f"card {extra.name} has the classes {listed(extra.classes, 60)}, {card.name} {listed(card.classes, 60)}: "
            f"expected the same. If only their names differ, write a card for these files with the names of {card.name}"
        )
    if extra.exclusive != card.exclusive:
        one, other = (extra, card) if extra.exclusive else (card, extra)
        raise ValueError(f"card {one.name} has exclusive classes, {other.name} does not: expected the same")
    if cfg.data.boundary and not extra.instances:
        raise ValueError(f"data.boundary needs objects, and card {extra.name} has none (instances = true)")
    if Reader.of(cfg, extra) != Reader.of(cfg, card):
        raise ValueError(f"card {extra.name} has other channels or slices than {card.name}: expected the same")


def read_extra_sets(
    cfg: Config, card: Competition, root: Path, index: pd.DataFrame, test: pd.DataFrame, cache: FileCache
) -> tuple[ExtraSet, ...]:
    """Read the indices of the extra sets.

    Args:
        card, root, index, test: of the config, and its training and test images.
        cache: as for `read_index`.

    Raises:
        FileNotFoundError, ValueError: as `read_index`; for a set with files of the training or the test set.
    """
    sets = []
    for number, (options, own) in enumerate(zip(cfg.data.extra, check_extra_sets(cfg, card), strict=True)):
        name = f"data.extra.{number}"
        folder = options.root or (Path("data") / own.name if options.competition else root)
        with place(cfg, name):
            extra = read_index(own, folder, cfg.data.skip_bad, Reader.of(cfg, own), cache, grouped=False)
            _refuse_own_files(extra, test, "test", "labels that others predicted leak the folds: use train.pseudo")
            _refuse_own_files(extra, index, "training", "expected other images")
        sets.append(ExtraSet(name, options, Labels.of(own, cfg.data.boundary, exif=cfg.data.exif), extra))
    return tuple(sets)


def _refuse_own_files(extra: pd.DataFrame, own: pd.DataFrame, part: str, remedy: str) -> None:
    files = {path.resolve() for path in own["path"]}
    same = [row.image_id for row in extra.itertuples() if row.path.resolve() in files]
    if same:
        raise ValueError(
            f"{len(same)} of its {len(extra)} images are files of the {part} set, the first is "
            f"'{shortened(same[0])}': {remedy}"
        )


def all_images(index: pd.DataFrame, test: pd.DataFrame, sets: tuple[ExtraSet, ...]) -> pd.DataFrame:
    """The images of the training, the test and the extra sets, with their `part`, as `find_duplicates` takes them."""
    extra = (each.index.assign(part=each.name) for each in sets)
    return pd.concat([index.assign(part="train"), test.assign(part="test"), *extra], ignore_index=True)


def duplicates_path(folds: Path, images: pd.DataFrame, reader: Reader, cache: FileCache) -> Path:
    """The file of the near-duplicates of extra images, beside that of the folds.

    Images of other content, and options that change what the search sees, have another file. The time of change does
    not count: a copy of the project finds its file.

    Args:
        images: as of `all_images`.
        cache: of the digests of files.
    """
    samples = samples_of(images)
    own = [sample.sources[sample.own_start : sample.own_start + reader.inputs.files] for sample in samples]
    content = [
        ",".join(_content(path, cache) for path in paths) for paths in track(own, "compare with the last search")
    ]
    cache.save()
    frame = reader.series.frame if reader.series else None
    nodata = " ".join([reader.nodata, *map(str, reader.nodata_values)])
    found = images[["part", "image_id"]].assign(content=content, exif=reader.exif, nodata=nodata, frame=frame)
    return folds.with_name(f"{folds.stem}.extra-{table_digest(found)[:8]}.csv")


def _content(path: Path, cache: FileCache) -> str:
    """What tells an image from others: a digest of its file, and of a slice of a volume its number."""
    file = file_of(path)
    return cache.get("sha256", [file], lambda: file_digest(file)) + ("" if file == path else f" {path.name}")


def find_extra_duplicates(path: Path, images: pd.DataFrame, reader: Reader) -> None:
    """Find the near-duplicates between extra images and those of the training and the test set.

    Writes: folds/<name>.extra-<digest>.csv
    """
    log.info("search for near-duplicates of extra images among the training and test images, once")
    pairs = find_duplicates(images, reader)
    own = ["train", "test"]
    write_duplicates(path, pairs[pairs["first_part"].isin(own) & ~pairs["second_part"].isin(own)])


def table_digest(table: pd.DataFrame) -> str:
    """A digest of the cells of a table, 16 hexadecimal digits."""
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]
