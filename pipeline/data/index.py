"""The index: a table with one row per image. Here the competition's columns get this project's names.

Columns: image_id (str), path, height and width in pixels. Training images also have

- rle: the text of the mask, one row of the table per line; of several classes a tuple of texts; and rle_void, the text
  of the ignored pixels. Or mask_paths: a tuple of mask images; none is an empty mask, several are objects or parts, or
  those of the classes whose numbers are in mask_classes.
- coverage: the share of the image that is masked, 0 to 1; of several classes also coverage_<class>.
- empty ("yes" or "no") and group: images of one group stay in one fold.
- meta.<column>: every column of the card's meta table.

With several files for an image, sources has them all, and path the first; with neighbours, sources has theirs too,
own_start is the position of path, and series and slice are where the image is.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition, Files
from pipeline.data.coco import read_coco
from pipeline.data.file_cache import FileCache
from pipeline.data.file_index import (
    FileSearch,
    describe_no_files,
    find_each,
    find_parts,
    match_files,
    normalize_id,
)
from pipeline.data.labels import Labels
from pipeline.data.medical import slice_of
from pipeline.data.polygons import read_polygons
from pipeline.data.rasters import REMEDY
from pipeline.data.reader import DEFAULT_READER, ImageError, Reader
from pipeline.data.sample import META, Sample, samples_of, texts_of
from pipeline.data.series import place_of_id, with_neighbours
from pipeline.data.tables import parse_rows, read_header, read_rows, read_table
from pipeline.progress import track
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect, area

log = logging.getLogger(__name__)

PLACE = "series", "slice"  # columns, with neighbours: the series of an image and its number in it
NO_CACHE = FileCache()
MISSING = {"", "nan", "NaN", "NaT", "None", "null", "NULL", "<NA>"}  # texts of a group that was not filled in


def read_index(
    card: Competition,
    root: Path,
    skip_bad: bool = False,
    reader: Reader = DEFAULT_READER,
    cache: FileCache = NO_CACHE,
    *,
    grouped: bool = True,
) -> pd.DataFrame:
    """The index of the training images, sorted by id.

    Args:
        card: names the files and columns.
        root: folder that the card's paths start from.
        skip_bad: leave out images that cannot be read, and log each; else the first one is an error.
        reader: of the config: sizes depend on whether images are rotated by EXIF.
        cache: of sizes, and of the coverage of mask images.
        grouped: add the column group, which only folds need.

    Raises:
        FileNotFoundError: if a table or folder is missing, with what to do.
        ValueError: for duplicate ids, ids without an image, images without a row, an RLE that cannot be decoded, a mask
            of another size than its image.
    """
    index, search = read_label_texts(card, root, reader), train_search(card, root)
    sources, files = label_sources(card, root, index["image_id"])
    index["path"] = match_files(index["image_id"], files, search, skip_missing=skip_bad)
    index = _add_sizes(_add_channels(index, sources, card), skip_bad, reader, cache)
    if index.empty:
        raise ValueError(
            f"{search.folder}: no training image is left: none of the images in {search.ids_from.name} can be read"
        )
    index = _add_coverage(index, card, root, cache, exif=reader.exif)
    cache.save()
    index = add_neighbours(join_meta(index, card, root), sources, reader)
    if grouped:
        index["group"] = find_groups(index, card)
    return index.sort_values("image_id", ignore_index=True)


def read_test_index(
    card: Competition,
    root: Path,
    skip_bad: bool = False,
    reader: Reader = DEFAULT_READER,
    cache: FileCache = NO_CACHE,
) -> pd.DataFrame:
    """The index of the test images in the sample submission, in its order; empty while the test data are hidden.

    Images without a row are not in it: `unlisted_test_images` lists them. With `skip_bad`, images that cannot be read
    are not in it either: their rows of the submission will be empty.

    Args:
        card, root, skip_bad, reader, cache: as for `read_index`.

    Raises:
        FileNotFoundError, ValueError: as `read_index`.
    """
    rows = read_rows(root / card.files.sample_submission, [card.columns], card.classes, rle=False)
    if not (card.several_rows or card.instances):
        refuse_duplicates(rows, root / card.files.sample_submission)
    index, search = pd.DataFrame({"image_id": rows["image_id"].unique()}), test_search(card, root)
    sources = search.find_sources(hidden=index.empty or skip_bad)
    index["path"] = match_files(index["image_id"], first_files(sources), search, skip_missing=skip_bad)
    index = _add_sizes(_add_channels(index, sources, card), skip_bad, reader, cache)
    cache.save()
    return add_neighbours(index, sources, reader)


def first_files(sources: Mapping[str, tuple[Path, ...]]) -> dict[str, Path]:
    """The file of each image's first channel."""
    return {image_id: paths[0] for image_id, paths in sources.items()}


def _add_channels(index: pd.DataFrame, sources: Mapping[str, tuple[Path, ...]], card: Competition) -> pd.DataFrame:
    """Add sources, the file of each channel, if an image has several."""
    return index.assign(sources=index["image_id"].map(sources)) if card.files.channels else index


def add_neighbours(index: pd.DataFrame, sources: Mapping[str, tuple[Path, ...]], reader: Reader) -> pd.DataFrame:
    """Add sources with the files of the neighbours, own_start, series and slice, if the config asks for neighbours.

    Args:
        sources: of all images in the folder: a slice without labels, or without a row, may be a neighbour.

    Raises:
        ValueError: for an image that is in no series.
    """
    series = reader.series
    if series is None:
        return index
    every = [Sample(image_id, paths) for image_id, paths in sources.items()]
    found = with_neighbours(samples_of(index), series, every)
    index = index.assign(
        sources=pd.Series([sample.sources for sample in found], index.index, dtype=object),
        own_start=[sample.own_start for sample in found],
    )
    if not series.neighbours_are_images:
        return index
    places = [series.place(sample) for sample in found]
    return index.assign(**{name: [place[number] for place in places] for number, name in enumerate(PLACE)})


def unlisted_test_images(card: Competition, root: Path, listed: Iterable[str]) -> list[str]:
    """Ids of the test images without a row in the sample submission, sorted: they are not predicted.

    Args:
        listed: ids with a row.

    Raises:
        ValueError: for two images with the same id.
    """
    return sorted(set(test_search(card, root).find(hidden=True)) - set(listed))


def describe_unlisted(card: Competition, unlisted: Sequence[str]) -> str:
    """One line about test images without a row: how many, and the first id."""
    return (
        f"{len(unlisted)} test images have no row in {card.files.sample_submission} and are not predicted, the first "
        f"is '{shortened(unlisted[0])}'"
    )


def index_column(index: pd.DataFrame, name: str, key: str) -> pd.Series:
    """A column of the index by the name that a config uses: one of the index's own, else one of the meta table.

    Args:
        key: of the config that names the column, for the error message.

    Raises:
        ValueError: if there is no such column, with those that there are.
    """
    for column in (name, META + name):
        if column in index:
            return index[column]
    names = [str(column).removeprefix(META) for column in index]
    raise ValueError(f"{key}: no column '{shortened(name)}'. Known columns: {listed(names, 200)}")


def train_search(card: Competition, root: Path) -> FileSearch:
    """The search for the training images."""
    files = card.files
    ids_from = root / files.train_masks if files.train_masks else labels_file(card, root)
    return FileSearch("training", ids_from, root / files.train_images, *_rules(files))


def _rules(files: Files) -> tuple[str, str | None, tuple[str, ...]]:
    return files.suffix, files.pattern, files.channel_paths


def mask_search(card: Competition, root: Path) -> FileSearch:
    """The search for the mask images, whose names are the ids."""
    files, folder = card.files, root / card.files.train_masks
    paths = tuple(files.mask_paths.values())
    return FileSearch("training", folder, folder, files.mask_suffix, files.mask_pattern, paths)


def test_search(card: Competition, root: Path) -> FileSearch:
    """The search for the test images."""
    files = card.files
    return FileSearch("test", root / files.sample_submission, root / files.test_images, *_rules(files))


def read_label_texts(card: Competition, root: Path, reader: Reader = DEFAULT_READER) -> pd.DataFrame:
    """The labels of each id: columns image_id and rle, rle_void, line; or image_id and mask_paths, mask_classes.

    If the training table has the card's group column, it is there too, as `group` and under its own name.

    Args:
        card, root, reader: as for `read_index`.

    Raises:
        FileNotFoundError, ValueError: as `read_index`; for a table without a row, a folder without a mask.
    """
    if card.files.train_masks:
        index = _masks_by_class(card, root) if card.files.mask_paths else _masks_of_all_classes(card, root)
        return _with_images_without_rows(index, card, root) if card.images_without_rows == "empty" else index
    rows = _label_rows(card, root, reader)
    if rows.empty:
        raise ValueError(f"{labels_file(card, root)}: no row is about a training image: nothing to train on")
    first = rows.groupby("image_id", sort=False).first()
    index = pd.DataFrame({"image_id": first.index, "line": first["line"].to_numpy()})
    texts = [_join_texts(rows[rows["label"] == name], first.index) for name in card.classes]
    index["rle"] = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
    void = rows[~rows["label"].isin(card.classes)]
    if len(void):
        index["rle_void"] = _join_texts(void, first.index)
    if "group" in rows:
        _refuse_two_groups(rows, labels_file(card, root), card.group_column)
        index[["group", META + card.group_column]] = first[["group", "group"]].to_numpy()
    return _with_images_without_rows(index, card, root) if card.images_without_rows == "empty" else index


def _masks_by_class(card: Competition, root: Path) -> pd.DataFrame:
    """The mask images of each id, and the number of the class that each shows: image_id, mask_paths, mask_classes."""
    search, paths = mask_search(card, root), card.files.mask_paths
    found = find_each(search.folder, [paths[name] for name in card.classes])
    seen = {number for files in found.values() for number in files}
    if missing := [name for number, name in enumerate(card.classes) if number not in seen]:
        raise ValueError(
            f"{search.folder}: no mask of the class '{missing[0]}', as mask_paths = '{shortened(paths[missing[0]])}': "
            f"correct the path on the card, or leave out the class"
        )
    masks = [tuple(files[number] for number in sorted(files)) for files in found.values()]
    numbers = [tuple(sorted(files)) for files in found.values()]
    return pd.DataFrame({"image_id": list(found), "mask_paths": masks, "mask_classes": numbers})


def _masks_of_all_classes(card: Competition, root: Path) -> pd.DataFrame:
    """The mask images of each id, image_id and mask_paths: one, or several where the card allows it."""
    files = _mask_files(card, root)
    return pd.DataFrame({"image_id": sorted(files), "mask_paths": [files[key] for key in sorted(files)]})


def _mask_files(card: Competition, root: Path) -> dict[str, tuple[Path, ...]]:
    search = mask_search(card, root)
    files = find_parts(search.folder, search.suffix, search.pattern)
    if _may_overlap(card) and not _masks_come_first(card):
        images = {path for paths in train_search(card, root).find_sources().values() for path in paths}
        files = {image_id: paths for image_id, paths in files.items() if not images.intersection(paths)}
    if not files:
        raise ValueError(f"no mask: {describe_no_files(search)}")
    if card.several_rows or card.annotators or (card.instances and not card.masks.objects):
        return files
    for image_id, (first, *others) in files.items():
        if others:
            raise ValueError(
                f"{others[0]} and {first} are both the mask of '{image_id}': correct the card's mask_pattern. If each "
                f"object has a file, set instances = true; if each part of a mask has one, several_rows = true; if "
                f"each annotator has one, annotators"
            )
    return files


def _join_texts(rows: pd.DataFrame, ids: pd.Index) -> list[str]:
    """The text of each image, one row per line; blank without a row."""
    return rows.groupby("image_id")["rle"].agg("\n".join).reindex(ids, fill_value="").tolist()


def train_files(card: Competition, root: Path) -> dict[str, Path]:
    """The training images by id, of several channels the first one's. Masks in the same folder are left out.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two images with the same id; if the card selects the same files as images and as masks.
    """
    return first_files(train_sources(card, root))


def train_sources(card: Competition, root: Path) -> dict[str, tuple[Path, ...]]:
    """As `train_files`, with the file of each channel.

    Raises:
        FileNotFoundError, ValueError: as `train_files`.
    """
    images = train_search(card, root).find_sources()
    if not _may_overlap(card) or not _masks_come_first(card):
        return images
    masks = _all_masks(mask_search(card, root))
    files = {image_id: paths for image_id, paths in images.items() if not masks.intersection(paths)}
    if images and not files:
        raise ValueError(
            f"{root / card.files.train_images}: the card selects all {len(images)} files as images and as masks, such "
            f"as '{shortened(min(images))}': separate them by suffix and mask_suffix, or pattern and mask_pattern"
        )
    return files


def _all_masks(search: FileSearch) -> set[Path]:
    if search.channels:
        return {path for files in find_each(search.folder, search.channels).values() for path in files.values()}
    return {path for paths in find_parts(search.folder, search.suffix, search.pattern).values() for path in paths}


def label_sources(
    card: Competition, root: Path, ids: Iterable[str]
) -> tuple[dict[str, tuple[Path, ...]], dict[str, Path]]:
    """The training images, and by which ids they are compared with the labels.

    Args:
        ids: of the labels.

    Returns:
        as `train_sources`, with the ids that share images (`files.shared_images`) too, so that their neighbours are
        found; and the first file of each id that has labels, or must have them: an image needs those of one id only.

    Raises:
        FileNotFoundError, ValueError: as `train_sources`.
    """
    own, labelled = train_sources(card, root), set(ids)
    shared = {
        start + image_id.removeprefix(other): paths
        for start, other in card.files.shared_images.items()
        for image_id, paths in own.items()
        if image_id.startswith(other)
    }
    sources = shared | own
    has_labels = {sources[image_id] for image_id in labelled & sources.keys()}
    must_have = {key for key in own if card.images_without_rows != "ignore" and own[key] not in has_labels}
    compared = labelled | must_have
    return sources, first_files({key: paths for key, paths in sources.items() if key in compared})


def _may_overlap(card: Competition) -> bool:
    """Whether the folders of images and masks are the same, or one is inside the other."""
    images, masks = Path(card.files.train_images), card.files.train_masks
    return masks is not None and (images.is_relative_to(masks) or Path(masks).is_relative_to(images))


def _masks_come_first(card: Competition) -> bool:
    """Whether a file that fits both rules is a mask: it is an image if only the images' suffix is the longer one."""
    files = card.files
    return bool(files.pattern or files.mask_pattern or files.mask_paths) or len(files.mask_suffix) >= len(files.suffix)


def _label_rows(card: Competition, root: Path, reader: Reader) -> pd.DataFrame:
    """One row per mask, or part of one: image_id, label, rle, line, and group if the card has one.

    The label of ignored pixels is none of the card's classes.
    """
    path, labels = labels_file(card, root), [*card.classes, *filter(None, [card.ignore_class])]
    if card.files.train_polygons:
        return read_polygons(path, train_files(card, root), labels, card.dialect, reader)
    if card.files.train_coco:
        folder, options = root / card.files.train_images, {"suffix": card.files.suffix, "void": card.ignore_class}
        return read_coco(path, folder, train_files(card, root), card.classes, card.dialect, reader, **options)
    rows = read_rows(path, card.training_layouts, labels)
    if not (card.several_rows or card.annotators or card.instances):
        refuse_duplicates(rows, path)
    return rows


def labels_file(card: Competition, root: Path) -> Path:
    """The file with all labels of a card: CSV, outlines, or COCO; not for a card with mask images."""
    return root / (card.files.train_csv or card.files.train_polygons or card.files.train_coco)


def _with_images_without_rows(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """The index with the images of the training folder that have no label added: their masks are empty."""
    ids = sorted(set(train_files(card, root)) - set(index["image_id"]))
    empty = "" if len(card.classes) == 1 else ("",) * len(card.classes)
    nothing = {"mask_paths": (), "mask_classes": (), "rle": empty, "rle_void": "", "line": 0}
    cells = {name: [value] * len(ids) for name, value in nothing.items() if name in index}
    return pd.concat([index, pd.DataFrame({"image_id": ids, **cells})], ignore_index=True)


def refuse_duplicates(rows: pd.DataFrame, path: Path) -> None:
    """Refuse rows that repeat an image and class.

    Args:
        rows: with image_id, label and line, as `tables.read_rows` gives them.
        path: the file that they are from, for the error message.

    Raises:
        ValueError: with the first repeated id and its line.
    """
    repeated = rows.duplicated(["image_id", "label"])
    if repeated.any():
        first = rows[repeated].iloc[0]
        of_class = f", class '{first['label']}'" if rows["label"].nunique() > 1 else ""
        raise ValueError(
            f"{path}: {repeated.sum()} of {len(rows)} rows repeat an id, the first is "
            f"'{shortened(first['image_id'])}'{of_class} "
            f"(line {first['line']}): expected one row per mask. If each part of a mask has a row, set "
            f"several_rows = true on the card; if each annotator has one, annotators"
        )


def _refuse_duplicate_ids(index: pd.DataFrame, path: Path) -> None:
    repeated = index["image_id"][index["image_id"].duplicated()]
    if len(repeated):
        raise ValueError(
            f"{path}: {len(repeated)} of {len(index)} rows repeat an id, the first is '{repeated.iloc[0]}' "
            f"(line {repeated.index[0] + 2}): expected one row per image"
        )


def _add_sizes(index: pd.DataFrame, skip_bad: bool, reader: Reader, cache: FileCache) -> pd.DataFrame:
    """Add height and width, from the headers; with `skip_bad`, decode too, and drop images that cannot be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    measure = reader.check if skip_bad else reader.size
    what = f"size, decoded as {reader}" if skip_bad else f"size, exif {reader.exif}, {reader.inputs}"
    for sample in samples_of(index):
        path = sample.path
        if path is None:
            log.warning("left out: no image for '%s'", sample.image_id)
            continue
        try:
            sizes[path] = tuple(cache.get(what, sample.sources, partial(measure, sample)))
        except ImageError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", str(error).removesuffix(f": {REMEDY}"))
    index = index[index["path"].isin(list(sizes))].reset_index(drop=True)
    height, width = zip(*(sizes[path] for path in index["path"]), strict=True) if len(index) else ((), ())
    return index.assign(height=height, width=width)


def _add_coverage(index: pd.DataFrame, card: Competition, root: Path, cache: FileCache, *, exif: bool) -> pd.DataFrame:
    """Add coverage, of each class too, and empty. Every label is decoded for it, so that bad labels fail early."""
    if not card.files.train_masks:
        shares = _rle_coverage(index, card, labels_file(card, root))
    if card.files.train_masks or card.annotators:
        labels = Labels.of(card, exif=exif)
        found = [
            cache.get(f"coverage, {labels}", _label_files(sample), partial(mask_coverage, sample, labels))
            for sample in track(samples_of(index), "decode masks")
        ]
        shares = np.array(found).reshape(len(index), -1)
    index["coverage"] = shares.sum(axis=1).clip(max=1)
    index["empty"] = np.where(index["coverage"] == 0, "yes", "no")
    if len(card.classes) == 1:
        return index
    return index.assign(**dict(zip(coverage_columns(card.classes), shares.T, strict=True)))


def _label_files(sample: Sample) -> tuple[Path, ...]:
    """The files that an image's coverage depends on, with its own, whose size masks have to have; none for RLE."""
    return (sample.path, *sample.mask_paths) if sample.mask_paths else ()


def coverage_columns(classes: Sequence[str]) -> list[str]:
    """The index's columns of the masked share of each class."""
    return [f"coverage_{name}" for name in classes] if len(classes) > 1 else ["coverage"]


def _rle_coverage(index: pd.DataFrame, card: Competition, path: Path) -> np.ndarray:
    """The masked share of each image and class, (N, C); the sum over its rows. Texts of ignored pixels are checked."""
    if "rle_void" in index:
        _areas(index.assign(rle=index["rle_void"]), path, card.dialect)
    areas = _areas(index, path, card.dialect)
    return areas / (index["height"] * index["width"]).to_numpy()[:, None]


def _areas(index: pd.DataFrame, path: Path, dialect: Dialect) -> np.ndarray:
    """The number of pixels of each image's texts, (N, C)."""
    cells = index.assign(rle=index["rle"].map(texts_of)).explode("rle")
    places = np.repeat(np.arange(len(cells)), cells["rle"].str.count("\n") + 1)  # of each text among images × classes
    rows = cells.iloc[places].assign(rle=[line for text in cells["rle"] for line in text.split("\n")])
    shapes = list(zip(rows["height"].tolist(), rows["width"].tolist(), strict=True))
    areas = [area(runs) for runs in parse_rows(rows, path, dialect, shapes)]
    return np.bincount(places, areas, minlength=len(cells)).reshape(len(index), -1)


def mask_coverage(sample: Sample, labels: Labels) -> list[float]:
    """The masked share of an image for each class, 0 to 1, of the masks that soft ones stand for.

    Ignored pixels count as not masked.

    Raises:
        ImageError, RLEError: as `Labels.read`.
    """
    masks = labels.by_class(labels.read_mask(sample))
    return (masks == 1).mean(axis=(0, 1)).tolist()


def find_groups(index: pd.DataFrame, card: Competition) -> pd.Series:
    """The group of each image, which stays in one fold; by default each volume is one, or each image.

    Where images have neighbours, groups that share a series are one.

    Raises:
        ValueError: if the card names a column that no table has, if it is blank for an image, or if the card's pattern
            does not match an id.
    """
    groups = _groups_of_card(index, card)
    return _join_by_series(groups, index["series"]) if "series" in index else groups


def _join_by_series(groups: pd.Series, series: pd.Series) -> pd.Series:
    """The groups, where those with a series in common become one."""
    while True:
        joined = groups.groupby(series).transform("min")
        joined = joined.groupby(groups).transform("min")
        if joined.equals(groups):
            return groups
        groups = joined


def _groups_of_card(index: pd.DataFrame, card: Competition) -> pd.Series:
    if card.group_pattern:
        parts = index["image_id"].str.extract(f"^(?:{card.group_pattern})")
        if parts.isna().all(axis=1).any():
            unmatched = index["image_id"][parts.isna().all(axis=1)].iloc[0]
            raise ValueError(
                f"card {card.name}: group_pattern '{card.group_pattern}' does not match the id "
                f"'{shortened(unmatched)}': images would leak between folds"
            )
        return parts.fillna("").agg("_".join, axis=1)
    if card.group_column is None and card.volume_pattern:
        return index["image_id"].map(lambda image_id: place_of_id(image_id, card.volume_pattern, card.name)[0])
    if card.group_column is None:
        ids = zip(index["image_id"], index["path"], strict=True)
        groups = [image_id.rpartition("_")[0] if slice_of(path) else image_id for image_id, path in ids]
        return pd.Series(groups, index.index, dtype=str)
    if "group" not in index:
        where = " or ".join(filter(None, (card.files.train_csv, card.files.train_meta)))
        raise ValueError(
            f"card {card.name}: no column '{card.group_column}' (columns.group) in {where}: images would leak between "
            f"folds"
        )
    missing = index["image_id"][index["group"].isna() | index["group"].isin(MISSING)]
    if len(missing):
        raise ValueError(
            f"card {card.name}: no '{card.group_column}' (columns.group) for {len(missing)} of {len(index)} training "
            f"images, the first is '{shortened(missing.iloc[0])}': related images could be split over folds. Fill it "
            f"in, with a value of its own for an image that is related to no other"
        )
    return index["group"]


def check_meta_column(index: pd.DataFrame, card: Competition, root: Path, column: str) -> None:
    """Refuse a column that the meta tables of the training and of the test images do not both have.

    Args:
        index: of the training images.

    Raises:
        FileNotFoundError: without the table of the test images.
        ValueError: if the card names no such table, or the column is not in both, with those that are.
    """
    if card.files.test_meta is None:
        raise ValueError(
            f"'{shortened(column)}' must be known of test images too: set files.test_meta, a table of the test images "
            f"with this column, on the card {card.name}"
        )
    in_test = {normalize_id(name) for name in read_header(root / card.files.test_meta)} - {card.meta_id}
    both = [name for each in index if (name := str(each).removeprefix(META)) != each and name in in_test]
    if column not in both:
        raise ValueError(
            f"no column '{shortened(column)}' in both files.train_meta and files.test_meta of the card {card.name}. "
            f"Columns of both: {listed(both, 200) or 'none'}"
        )


def read_test_meta(card: Competition, root: Path, column: str) -> dict[str, str]:
    """A column of the meta table of the test images, by id; images where it is missing are left out.

    Raises:
        FileNotFoundError: without the table.
        ValueError: for a table without the column, or that repeats an id.
    """
    path = root / (card.files.test_meta or "")
    table = read_table(path, [card.meta_id, column], only=True)
    ids = table[card.meta_id].map(normalize_id)
    _refuse_duplicate_ids(ids.to_frame("image_id"), path)
    return known_values(ids, table[column])


def known_values(ids: Iterable[str], values: Iterable[str]) -> dict[str, str]:
    """The values of a column of a meta table by id, in the form in which they are compared, without missing ones."""
    found = {image_id: normalize_id(value) for image_id, value in zip(ids, values, strict=True)}
    return {image_id: value for image_id, value in found.items() if value not in MISSING}


def _refuse_two_groups(rows: pd.DataFrame, path: Path, column: str) -> None:
    """Refuse rows of one image with different groups."""
    groups = rows.groupby("image_id", sort=False)["group"].nunique()
    if (groups > 1).any():
        image_id = groups.index[groups > 1][0]
        one, other, *_ = rows["group"][rows["image_id"] == image_id].unique()
        raise ValueError(
            f"{path}: the rows of image '{shortened(image_id)}' have the {column} '{shortened(one, 30)}' and "
            f"'{shortened(other, 30)}': expected one"
        )


def join_meta(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """Add the columns of the meta table as `meta.<column>`, and `group` if the card's group column is among them.

    Raises:
        FileNotFoundError: without the table, if the card's group column must be in it.
        ValueError: for a table that cannot be read, repeats an id, or has no row for a training image.
    """
    if card.files.train_meta is None:
        return index
    path = root / card.files.train_meta
    if not path.exists() and (card.group_column is None or "group" in index):
        return index  # the table is optional if groups do not come from it
    table = read_table(path, [card.meta_id])
    meta = pd.DataFrame({"image_id": table[card.meta_id].map(normalize_id)})
    _refuse_duplicate_ids(meta, path)
    missing = sorted(set(index["image_id"]) - set(meta["image_id"]))
    if missing:
        raise ValueError(
            f"{path}: no row for {len(missing)} of {len(index)} training images, the first is '{shortened(missing[0])}'"
        )
    if card.group_column in table and "group" not in index:
        meta["group"] = table[card.group_column].map(normalize_id)
    labels = {card.meta_id, *(columns.rle for columns in card.training_layouts)}  # the meta table may be the labels'
    new = [column for column in table if column not in labels and META + column not in index]
    meta = pd.concat([meta, table[new].add_prefix(META)], axis=1)
    return index.merge(meta, on="image_id", how="left", validate="one_to_one")
