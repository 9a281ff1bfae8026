"""The index: one row per image. Competition columns get this project's names here, once.

Columns: image_id (str), path, height, width; for training images also rle (the text of the mask, its rows in lines;
of several classes a tuple of texts; rle_void likewise, where pixels count for nothing) or mask_paths (a tuple: no file
is an empty mask, several are objects or parts of one), coverage (share of the image that is masked, 0 to 1; of several
classes also coverage_<class>), empty, group, and every column of the card's meta table.
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.competition import Competition
from pipeline.data.images import ImageError, glance, read_size
from pipeline.data.labels import Labels, one_hot, texts_of
from pipeline.data.places import find_files, find_parts, match_files
from pipeline.data.polygons import read_polygons
from pipeline.data.tables import read_rows, read_table, runs_of_rows
from pipeline.rle import Dialect, area

log = logging.getLogger(__name__)


def read_index(card: Competition, root: Path, skip_bad: bool = False) -> pd.DataFrame:
    """One row per training image, sorted by id.

    Args:
        card: names the files and columns.
        root: folder that the card's paths start from.
        skip_bad: leave out, and list, images that cannot be read; else the first one is an error.

    Raises:
        FileNotFoundError: if a table or folder is missing, with what to do.
        ValueError: for duplicate ids, ids without an image, images without a row, an RLE that does
            not decode, a mask of another size than its image.
    """
    index = read_label_texts(card, root)
    files, folder = train_files(card, root), root / card.files.train_images
    if card.rowless == "ignore":
        files = {image_id: files[image_id] for image_id in files.keys() & set(index["image_id"])}
    index["path"] = match_files(index["image_id"], files, folder, skip_lost=skip_bad)
    index = _measure(index, skip_bad)
    index = _add_coverage(index, card, root)
    index = join_meta(index, card, root)
    index["group"] = group_of(index, card)
    return index.sort_values("image_id", ignore_index=True)


def read_test_index(card: Competition, root: Path, skip_bad: bool = False) -> pd.DataFrame:
    """One row per test image, in the order of the sample submission.

    With `skip_bad`, an image that cannot be read stays out: its row of the submission will be empty.

    Raises:
        As `read_index`.
    """
    rows = read_rows(root / card.files.sample_submission, [card.columns], card.classes, rle=False)
    if not (card.several_rows or card.instances):
        refuse_repeats(rows, root / card.files.sample_submission)
    index = pd.DataFrame({"image_id": rows["image_id"].unique()})
    folder = root / card.files.test_images
    files = find_files(folder, card.files.suffix, card.files.pattern)
    index["path"] = match_files(index["image_id"], files, folder, skip_lost=skip_bad)
    return _measure(index, skip_bad)


def read_label_texts(card: Competition, root: Path) -> pd.DataFrame:
    """Ids with their labels: rle (a text, of several classes a text each), rle_void and line; or mask_paths."""
    if card.files.train_masks:
        masks = _mask_files(card, root)
        index = pd.DataFrame({"image_id": sorted(masks), "mask_paths": [masks[key] for key in sorted(masks)]})
        return _with_rowless(index, card, root) if card.rowless == "empty" else index
    rows = _label_rows(card, root)
    first = rows.groupby("image_id", sort=False).first()
    index = pd.DataFrame({"image_id": first.index, "line": first["line"].to_numpy()})
    texts = [_texts(rows[rows["label"] == name], first.index) for name in card.classes]
    index["rle"] = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
    void = rows[~rows["label"].isin(card.classes)]
    if len(void):
        index["rle_void"] = _texts(void, first.index)
    if "group" in rows:
        index[card.group_column] = first["group"].to_numpy()
    return _with_rowless(index, card, root) if card.rowless == "empty" else index


def _mask_files(card: Competition, root: Path) -> dict[str, tuple[Path, ...]]:
    """The mask images of each id: one, or where that means something, several."""
    files = find_parts(root / card.files.train_masks, card.files.mask_suffix, card.files.mask_pattern)
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


def _label_rows(card: Competition, root: Path) -> pd.DataFrame:
    """A row for each mask, or part of one: image_id, label, rle, line, and group where the card has one.

    Rows of void have the label `card.void_rows`.
    """
    path, labels = labels_file(card, root), [*card.classes, *filter(None, [card.void_rows])]
    if card.files.train_polygons:
        return read_polygons(path, train_files(card, root), labels, card.dialect)
    rows = read_rows(path, card.training_layouts, labels)
    if not (card.several_rows or card.instances):
        refuse_repeats(rows, path)
    return rows


def labels_file(card: Competition, root: Path) -> Path:
    return root / (card.files.train_csv or card.files.train_polygons)


def _with_rowless(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """The index and the images of the training folder that have no label: their masks are empty."""
    ids = sorted(set(train_files(card, root)) - set(index["image_id"]))
    empty = "" if len(card.classes) == 1 else ("",) * len(card.classes)
    nothing = {"mask_paths": (), "rle": empty, "rle_void": "", "line": 0}
    cells = {name: [value] * len(ids) for name, value in nothing.items() if name in index}
    return pd.concat([index, pd.DataFrame({"image_id": ids, **cells})], ignore_index=True)


def refuse_repeats(rows: pd.DataFrame, path: Path) -> None:
    again = rows.duplicated(["image_id", "label"])
    if again.any():
        first = rows[again].iloc[0]
        of_class = f", class '{first['label']}'" if rows["label"].nunique() > 1 else ""
        raise ValueError(
            f"{path}: {again.sum()} of {len(rows)} rows repeat an id, the first is '{first['image_id']}'{of_class} "
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


def train_files(card: Competition, root: Path) -> dict[str, Path]:
    return find_files(root / card.files.train_images, card.files.suffix, card.files.pattern)


def _measure(index: pd.DataFrame, skip_bad: bool) -> pd.DataFrame:
    """Add height and width, from the headers; with `skip_bad`, decode too, and drop what cannot be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path, image_id in zip(index["path"], index["image_id"], strict=True):
        if path is None:
            log.warning("left out: no image for '%s'", image_id)
            continue
        try:
            sizes[path] = glance(path, channels=1).shape[:2] if skip_bad else read_size(path)
        except ImageError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
    index = index[index["path"].isin(list(sizes))].reset_index(drop=True)
    height, width = zip(*(sizes[path] for path in index["path"]), strict=True) if len(index) else ((), ())
    return index.assign(height=height, width=width)


def _add_coverage(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """The masked share of each image, and of each class; decodes every label on the way: none fails in the night."""
    if card.files.train_masks:
        labels = Labels.of(card)
        shares = np.array([mask_coverage(row, labels) for row in index.itertuples()]).reshape(len(index), -1)
    else:
        shares = _rle_coverage(index, card, labels_file(card, root))
    index["coverage"] = shares.sum(axis=1).clip(max=1)
    index["empty"] = np.where(index["coverage"] == 0, "yes", "no")
    if len(card.classes) == 1:
        return index
    return index.assign(**{f"coverage_{name}": share for name, share in zip(card.classes, shares.T, strict=True)})


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
    mask = labels.read(row)
    masks = one_hot(mask, len(labels.classes)) if labels.exclusive else mask
    return (masks == 1).mean(axis=(0, 1)).tolist()


def group_of(index: pd.DataFrame, card: Competition) -> pd.Series:
    """What tells which images belong together; without groups, each image is its own.

    Raises:
        ValueError: if the card names a column that no table has, or its pattern matches not every id.
    """
    if card.group_pattern:
        parts = index["image_id"].str.extract(f"^(?:{card.group_pattern})")
        if parts.isna().all(axis=1).any():
            stranger = index["image_id"][parts.isna().all(axis=1)].iloc[0]
            raise ValueError(
                f"card {card.name}: group_pattern '{card.group_pattern}' does not match the id '{stranger}': images "
                f"would leak over folds"
            )
        return parts.fillna("").agg("_".join, axis=1)
    group = card.group_column
    if group is not None and group not in index:
        where = " or ".join(filter(None, (card.files.train_csv, card.files.train_meta)))
        raise ValueError(
            f"card {card.name}: no column '{group}' (columns.group) in {where}: images would leak over folds"
        )
    return index[group or "image_id"]


def join_meta(index: pd.DataFrame, card: Competition, root: Path) -> pd.DataFrame:
    """Add the meta table's columns; a name that the index already uses keeps the index's own value."""
    if card.files.train_meta is None:
        return index
    path = root / card.files.train_meta
    if not path.exists() and (card.group_column is None or card.group_column in index):
        return index  # nothing that the card says depends on it
    meta = read_table(path, [card.columns.id]).rename(columns={card.columns.id: "image_id"})
    _refuse_duplicates(meta, path)
    without = sorted(set(index["image_id"]) - set(meta["image_id"]))
    if without:
        raise ValueError(f"{path}: no row for {len(without)} training images, the first is '{without[0]}'")
    reserved = {"rle", "rle_void", "mask_paths", "line", "fold", "group"} - {card.group_column}
    extra = [column for column in meta if column == "image_id" or column not in reserved.union(index.columns)]
    return index.merge(meta[extra], on="image_id", how="left", validate="one_to_one")
