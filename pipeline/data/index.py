"""The index: one row per image. Competition columns get this project's names here, once.

Columns: image_id (str), path, height, width; for training images also rle (the text of the mask, its rows in lines;
of several classes a tuple of texts; rle_void likewise, where pixels count for nothing) or mask_paths (a tuple: no file
is an empty mask, several are objects or parts of one), coverage (share of the image that is masked, 0 to 1; of several
classes also coverage_<class>), empty, group, and every column of the card's meta table.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.coco import read_coco
from pipeline.data.file_index import Search, as_id, find_files, find_parts, match_files, nothing_found, say_once
from pipeline.data.labels import Labels, one_hot, texts_of
from pipeline.data.medical import slice_of
from pipeline.data.polygons import read_polygons
from pipeline.data.reader import AS_SEEN, ImageError, Reader
from pipeline.data.tables import read_rows, read_table, runs_of_rows
from pipeline.quoting import shortened
from pipeline.rle import Dialect, area

log = logging.getLogger(__name__)

# Columns of the index, of its windows and of its folds: no column of a meta table may have such a name.
OWN = ("image_id", "path", "height", "width", "rle", "rle_void", "mask_paths", "line", "coverage", "empty", "group")
OWN += ("box", "image", "fold")
UNKNOWN = {"", "nan", "NaN", "NaT", "None", "null", "NULL", "<NA>"}  # a group that nobody filled in


def read_index(card: Competition, root: Path, skip_bad: bool = False, reader: Reader = AS_SEEN) -> pd.DataFrame:
    """One row per training image, sorted by id.

    Args:
        card: names the files and columns.
        root: folder that the card's paths start from.
        skip_bad: leave out, and list, images that cannot be read; else the first one is an error.
        reader: as the config wants its images: turned or as stored, which decides their size.

    Raises:
        FileNotFoundError: if a table or folder is missing, with what to do.
        ValueError: for duplicate ids, ids without an image, images without a row, an RLE that does
            not decode, a mask of another size than its image.
    """
    index, files, search = read_label_texts(card, root, reader), train_files(card, root), train_search(card, root)
    if card.images_without_rows == "ignore":
        files = {image_id: files[image_id] for image_id in files.keys() & set(index["image_id"])}
    index["path"] = match_files(index["image_id"], files, search, skip_lost=skip_bad)
    index = _measure(index, skip_bad, reader)
    if index.empty:
        raise ValueError(f"{search.folder}: no training image is left: {search.ids_from.name} names none that reads")
    index = _add_coverage(index, card, root, exif=reader.exif)
    index = join_meta(index, card, root)
    index["group"] = group_of(index, card)
    return index.sort_values("image_id", ignore_index=True)


def read_test_index(card: Competition, root: Path, skip_bad: bool = False, reader: Reader = AS_SEEN) -> pd.DataFrame:
    """One row per test image of the sample submission, in its order; none where the test data are still hidden.

    An image without a row is not among them: `unlisted_test_images` names those. With `skip_bad`, an image that cannot
    be read stays out: its row of the submission will be empty.

    Raises:
        As `read_index`.
    """
    rows = read_rows(root / card.files.sample_submission, [card.columns], card.classes, rle=False)
    if not (card.several_rows or card.instances):
        refuse_repeats(rows, root / card.files.sample_submission)
    index, search = pd.DataFrame({"image_id": rows["image_id"].unique()}), test_search(card, root)
    files = search.find(hidden=index.empty or skip_bad)
    index["path"] = match_files(index["image_id"], files, search, skip_lost=skip_bad)
    return _measure(index, skip_bad, reader)


def unlisted_test_images(card: Competition, root: Path, listed: Iterable[str]) -> list[str]:
    """Ids of the test images that have no row in the sample submission, sorted: these are not predicted.

    Args:
        listed: ids that have a row.
    """
    return sorted(set(test_search(card, root).find(hidden=True)) - set(listed))


def describe_unlisted(card: Competition, unlisted: Sequence[str]) -> str:
    """A line about test images without a row."""
    return (
        f"{len(unlisted)} test images have no row in {card.files.sample_submission} and are not predicted, the first "
        f"is '{shortened(unlisted[0])}'"
    )


def train_search(card: Competition, root: Path) -> Search:
    """Which files are training images, and for whose ids."""
    files = card.files
    ids_from = root / files.train_masks if files.train_masks else labels_file(card, root)
    return Search("training", ids_from, root / files.train_images, files.suffix, files.pattern)


def mask_search(card: Competition, root: Path) -> Search:
    """Which files are masks; their own names are the ids."""
    files, folder = card.files, root / card.files.train_masks
    return Search("training", folder, folder, files.mask_suffix, files.mask_pattern)


def test_search(card: Competition, root: Path) -> Search:
    """Which files are test images, and for whose ids."""
    files = card.files
    return Search("test", root / files.sample_submission, root / files.test_images, files.suffix, files.pattern)


def read_label_texts(card: Competition, root: Path, reader: Reader = AS_SEEN) -> pd.DataFrame:
    """Ids with their labels: rle (a text, of several classes a text each), rle_void and line; or mask_paths.

    Where the training table has the card's column of groups, that too, as `group`.

    Raises:
        FileNotFoundError, ValueError: as `read_index`; for a table without a row, a folder without a mask.
    """
    if card.files.train_masks:
        masks = _mask_files(card, root)
        index = pd.DataFrame({"image_id": sorted(masks), "mask_paths": [masks[key] for key in sorted(masks)]})
        return _with_images_without_rows(index, card, root) if card.images_without_rows == "empty" else index
    rows = _label_rows(card, root, reader)
    if rows.empty:
        raise ValueError(f"{labels_file(card, root)}: no row is about a training image: nothing to train on")
    first = rows.groupby("image_id", sort=False).first()
    index = pd.DataFrame({"image_id": first.index, "line": first["line"].to_numpy()})
    texts = [_texts(rows[rows["label"] == name], first.index) for name in card.classes]
    index["rle"] = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
    void = rows[~rows["label"].isin(card.classes)]
    if len(void):
        index["rle_void"] = _texts(void, first.index)
    if "group" in rows:
        _refuse_two_groups(rows, labels_file(card, root), card.group_column)
        names = ["group", *([] if is_own(card.group_column) else [card.group_column])]
        index[names] = first[["group"] * len(names)].to_numpy()
    return _with_images_without_rows(index, card, root) if card.images_without_rows == "empty" else index


def _mask_files(card: Competition, root: Path) -> dict[str, tuple[Path, ...]]:
    """The mask images of each id: one, or where that means something, several."""
    search = mask_search(card, root)
    files = find_parts(search.folder, search.suffix, search.pattern)
    if _may_overlap(card) and not _masks_are_told_first(card):
        images = set(_image_files(card, root).values())
        files = {image_id: paths for image_id, paths in files.items() if not images.intersection(paths)}
    if not files:
        raise ValueError(f"no mask: {nothing_found(search)}")
    if card.several_rows or (card.instances and not card.masks.objects):
        return files
    for image_id, (first, *others) in files.items():
        if others:
            raise ValueError(
                f"{others[0]} and {first} are both the mask of '{image_id}': mend the card's mask_pattern. If each "
                f"object has a file, set instances = true; if a mask's parts have one each, several_rows = true"
            )
    return files


def _texts(rows: pd.DataFrame, ids: pd.Index) -> list[str]:
    """The text of each image, its rows in lines; blank without a row."""
    return rows.groupby("image_id")["rle"].agg("\n".join).reindex(ids, fill_value="").tolist()


def train_files(card: Competition, root: Path) -> dict[str, Path]:
    """The training images by id; of images and masks in one folder, those that are no masks.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two images of one id; if the card takes the same files for images and for masks.
    """
    images = _image_files(card, root)
    if not _may_overlap(card) or not _masks_are_told_first(card):
        return images
    search = mask_search(card, root)
    masks = {path for paths in find_parts(search.folder, search.suffix, search.pattern).values() for path in paths}
    left = {image_id: path for image_id, path in images.items() if path not in masks}
    if images and not left:
        raise ValueError(
            f"{root / card.files.train_images}: by the card, all {len(images)} files are images and masks, such as "
            f"'{shortened(min(images))}': tell them apart by suffix and mask_suffix, or pattern and mask_pattern"
        )
    return left


def _image_files(card: Competition, root: Path) -> dict[str, Path]:
    return find_files(root / card.files.train_images, card.files.suffix, card.files.pattern)


def _may_overlap(card: Competition) -> bool:
    """Whether a file could be an image and a mask: where their folders are one, or one lies in the other."""
    images, masks = Path(card.files.train_images), card.files.train_masks
    return masks is not None and (images.is_relative_to(masks) or Path(masks).is_relative_to(images))


def _masks_are_told_first(card: Competition) -> bool:
    """Whether a file that could be an image and a mask is a mask: unless the images' suffix says more."""
    files = card.files
    return bool(files.pattern or files.mask_pattern) or len(files.mask_suffix) >= len(files.suffix)


def _label_rows(card: Competition, root: Path, reader: Reader) -> pd.DataFrame:
    """A row for each mask, or part of one: image_id, label, rle, line, and group where the card has one.

    Rows of void have a label that is none of the card's classes.
    """
    path, labels = labels_file(card, root), [*card.classes, *filter(None, [card.ignore_class])]
    if card.files.train_polygons:
        return read_polygons(path, train_files(card, root), labels, card.dialect, reader)
    if card.files.train_coco:
        folder, options = root / card.files.train_images, {"suffix": card.files.suffix, "void": card.ignore_class}
        return read_coco(path, folder, train_files(card, root), card.classes, card.dialect, reader, **options)
    rows = read_rows(path, card.training_layouts, labels)
    if not (card.several_rows or card.instances):
        refuse_repeats(rows, path)
    return rows


def labels_file(card: Competition, root: Path) -> Path:
    """The file that holds a card's labels, where they are in one file."""
    return root / (card.files.train_csv or card.files.train_polygons or card.files.train_coco)


def _with_images_without_rows(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """The index and the images of the training folder that have no label: their masks are empty."""
    ids = sorted(set(train_files(card, root)) - set(index["image_id"]))
    empty = "" if len(card.classes) == 1 else ("",) * len(card.classes)
    nothing = {"mask_paths": (), "rle": empty, "rle_void": "", "line": 0}
    cells = {name: [value] * len(ids) for name, value in nothing.items() if name in index}
    return pd.concat([index, pd.DataFrame({"image_id": ids, **cells})], ignore_index=True)


def refuse_repeats(rows: pd.DataFrame, path: Path) -> None:
    """Refuse rows that repeat an image and class.

    Raises:
        ValueError: with the first repeated id and its line.
    """
    again = rows.duplicated(["image_id", "label"])
    if again.any():
        first = rows[again].iloc[0]
        of_class = f", class '{first['label']}'" if rows["label"].nunique() > 1 else ""
        raise ValueError(
            f"{path}: {again.sum()} of {len(rows)} rows repeat an id, the first is "
            f"'{shortened(first['image_id'])}'{of_class} "
            f"(line {first['line']}): expected one row per mask. If a mask's parts have a row each, set "
            f"several_rows = true on the card"
        )


def _refuse_duplicates(index: pd.DataFrame, path: Path) -> None:
    twice = index["image_id"][index["image_id"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} of {len(index)} rows repeat an id, the first is '{twice.iloc[0]}' "
            f"(line {twice.index[0] + 2}): expected one row per image"
        )


def _measure(index: pd.DataFrame, skip_bad: bool, reader: Reader) -> pd.DataFrame:
    """Add height and width, from the headers; with `skip_bad`, decode too, and drop what cannot be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path, image_id in zip(index["path"], index["image_id"], strict=True):
        if path is None:
            log.warning("left out: no image for '%s'", image_id)
            continue
        try:
            sizes[path] = reader.check(path) if skip_bad else reader.size(path)
        except ImageError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
    index = index[index["path"].isin(list(sizes))].reset_index(drop=True)
    height, width = zip(*(sizes[path] for path in index["path"]), strict=True) if len(index) else ((), ())
    return index.assign(height=height, width=width)


def _add_coverage(index: pd.DataFrame, card: Competition, root: Path, *, exif: bool) -> pd.DataFrame:
    """The masked share of each image, and of each class; decodes every label on the way: bad labels fail early."""
    if card.files.train_masks:
        labels = Labels.of(card, exif=exif)
        shares = np.array([mask_coverage(row, labels) for row in index.itertuples()]).reshape(len(index), -1)
    else:
        shares = _rle_coverage(index, card, labels_file(card, root))
    index["coverage"] = shares.sum(axis=1).clip(max=1)
    index["empty"] = np.where(index["coverage"] == 0, "yes", "no")
    if len(card.classes) == 1:
        return index
    return index.assign(**dict(zip(coverage_columns(card.classes), shares.T, strict=True)))


def coverage_columns(classes: Sequence[str]) -> list[str]:
    """The index's columns of each class's masked share."""
    return [f"coverage_{name}" for name in classes] if len(classes) > 1 else ["coverage"]


def _rle_coverage(index: pd.DataFrame, card: Competition, path: Path) -> np.ndarray:
    """The masked share of each image and class, (N, C); of several rows, their sum. Texts of void are read too."""
    if "rle_void" in index:
        _areas(index.assign(rle=index["rle_void"]), path, card.dialect)
    areas = _areas(index, path, card.dialect)
    return areas / (index["height"] * index["width"]).to_numpy()[:, None]


def _areas(index: pd.DataFrame, path: Path, dialect: Dialect) -> np.ndarray:
    """The pixels of each image's texts, (N, C)."""
    cells = index.assign(rle=index["rle"].map(texts_of)).explode("rle")
    places = np.repeat(np.arange(len(cells)), cells["rle"].str.count("\n") + 1)  # of each text among images × classes
    rows = cells.iloc[places].assign(rle=[line for text in cells["rle"] for line in text.split("\n")])
    shapes = list(zip(rows["height"].tolist(), rows["width"].tolist(), strict=True))
    areas = [area(runs) for runs in runs_of_rows(rows, path, dialect, shapes)]
    return np.bincount(places, areas, minlength=len(cells)).reshape(len(index), -1)


def mask_coverage(row: object, labels: Labels) -> list[float]:
    """The masked share (0 to 1) of an image for each class; void counts as not masked."""
    mask = labels.read(row)
    masks = one_hot(mask, len(labels.classes)) if labels.exclusive else mask
    return (masks == 1).mean(axis=(0, 1)).tolist()


def group_of(index: pd.DataFrame, card: Competition) -> pd.Series:
    """What tells which images belong together; without groups, each image is its own, and each NIfTI volume.

    Raises:
        ValueError: if the card names a column that no table has, if it is blank for an image, or if the card's pattern
            does not match an id.
    """
    if card.group_pattern:
        parts = index["image_id"].str.extract(f"^(?:{card.group_pattern})")
        if parts.isna().all(axis=1).any():
            stranger = index["image_id"][parts.isna().all(axis=1)].iloc[0]
            raise ValueError(
                f"card {card.name}: group_pattern '{card.group_pattern}' does not match the id "
                f"'{shortened(stranger)}': images "
                f"would leak over folds"
            )
        return parts.fillna("").agg("_".join, axis=1)
    if card.group_column is None:
        ids = zip(index["image_id"], index["path"], strict=True)
        groups = [image_id.rpartition("_")[0] if slice_of(path) else image_id for image_id, path in ids]
        return pd.Series(groups, index.index, dtype=str)
    if "group" not in index:
        where = " or ".join(filter(None, (card.files.train_csv, card.files.train_meta)))
        raise ValueError(
            f"card {card.name}: no column '{card.group_column}' (columns.group) in {where}: images would leak over "
            f"folds"
        )
    unknown = index["image_id"][index["group"].isna() | index["group"].isin(UNKNOWN)]
    if len(unknown):
        raise ValueError(
            f"card {card.name}: no '{card.group_column}' (columns.group) for {len(unknown)} of {len(index)} training "
            f"images, the first is '{shortened(unknown.iloc[0])}': related images might part in the folds. Fill it "
            f"in: a value of its own for an image that belongs to no other"
        )
    return index["group"]


def _refuse_two_groups(rows: pd.DataFrame, path: Path, column: str) -> None:
    """Refuse rows of one image that differ in their group."""
    groups = rows.groupby("image_id", sort=False)["group"].nunique()
    if (groups > 1).any():
        image_id = groups.index[groups > 1][0]
        one, other, *_ = rows["group"][rows["image_id"] == image_id].unique()
        raise ValueError(
            f"{path}: the rows of image '{shortened(image_id)}' have the {column} '{shortened(one, 30)}' and "
            f"'{shortened(other, 30)}': expected one"
        )


def join_meta(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """Add the meta table's columns, but for those called as one of the index's own; and `group`, if it is there."""
    if card.files.train_meta is None:
        return index
    path = root / card.files.train_meta
    if not path.exists() and (card.group_column is None or "group" in index):
        return index  # nothing that the card says depends on it
    table = read_table(path, [card.columns.id])
    meta = pd.DataFrame({"image_id": table[card.columns.id].map(as_id)})
    _refuse_duplicates(meta, path)
    without = sorted(set(index["image_id"]) - set(meta["image_id"]))
    if without:
        raise ValueError(
            f"{path}: no row for {len(without)} of {len(index)} training images, the first is '{shortened(without[0])}'"
        )
    if card.group_column in table and "group" not in index:
        meta["group"] = table[card.group_column].map(as_id)
    own = [column for column in table if column == card.columns.id or is_own(column) or column in index]
    known = {card.group_column, *(name for each in card.training_layouts for name in (*each.keys, each.rle))}
    if ignored := [column for column in own if column not in known]:
        say_once("%s: left out, as the index has columns of these names: %s", path, ", ".join(ignored))
    meta = pd.concat([meta, table.drop(columns=own)], axis=1)
    return index.merge(meta, on="image_id", how="left", validate="one_to_one")


def is_own(column: str) -> bool:
    """Whether a column of the index means something to the code: no column of a meta table may have its name."""
    return column in OWN or column.startswith("coverage_")
