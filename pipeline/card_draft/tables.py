"""Which CSV is the sample submission, which the training table, which has further columns; and what their columns are.

A table of masks is recognized by its texts: most cells of one column are masks, or tokens of an empty one.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import pandas as pd

from pipeline.card_draft.listing import Listing, spread
from pipeline.competition import Columns
from pipeline.data.file_index import normalize_id
from pipeline.data.tables import read_table
from pipeline.quoting import listed, shortened
from pipeline.rle import EMPTY_TOKENS, Dialect, RLEError

MAX_TABLES = 40  # that are read; a folder with more has one for each image
NUM_CELLS = 300  # of a column, that are looked at
MIN_MASKS = 0.9  # of the cells of a column of masks
MAX_CLASSES = 100
FEW_CLASSES = 20  # of which each may be in one row
MIN_KNOWN = 0.5  # of the ids of a table must have a file, for it to be a table of images
SEPARATORS = ("_", "-", "|", ":", " ", "#", "@")
MASK_NAME = re.compile(r"rle|encod|pixel|mask|segment|annot|predict", re.IGNORECASE)
ID_NAME = re.compile(r"(^|[^a-z])id|Id$|ID$|image|img|file|name|record|scene|slice", re.IGNORECASE)
CLASS_NAME = re.compile(r"class|label|categor", re.IGNORECASE)
SAMPLE_NAME = re.compile(r"sample|submission", re.IGNORECASE)
ROW_NUMBER = re.compile(r"unnamed: \d+|index", re.IGNORECASE)  # a column of the numbers of rows, as pandas writes it
EMPTY_WORD = re.compile(r"[A-Za-z-]{1,20}")  # a word for an empty mask, as NaN, none or authentic
MAX_DIFFERENT = 0.5  # values of a column of classes for each row: a class is in several rows, a box in one


@dataclass(frozen=True, eq=False)
class Table:
    """A CSV as text."""

    name: str  # path below the data folder
    cells: pd.DataFrame
    _values: dict[str, list[str]] = field(default_factory=dict, repr=False)  # of columns that were asked for

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return list(self.cells.columns)

    def values(self, column: str) -> list[str]:
        """All cells of a column, as ids are compared."""
        if column not in self._values:
            self._values[column] = list(map(normalize_id, self.cells[column].tolist()))
        return self._values[column]

    @cached_property
    def mask_columns(self) -> list[str]:
        """The columns whose texts are masks of more than one run; of several those named as masks are."""
        found = [name for name in self.columns if _share_of_masks(spread(self.cells[name].tolist(), NUM_CELLS)) > 0]
        return [name for name in found if MASK_NAME.search(name)] or found

    @property
    def mask_column(self) -> str | None:
        """The first column of masks; None without one."""
        return next(iter(self.mask_columns), None)


@dataclass(frozen=True)
class RowLayout:
    """The columns of a table of masks, and the classes in it.

    Args:
        classes: in the order of the table; one without a name, "", if no column tells them apart.
    """

    columns: Columns
    classes: tuple[str, ...] = ("",)


def read_tables(listing: Listing) -> tuple[list[Table], list[str]]:
    """The CSVs of a folder, and one line for each that cannot be read, with its path below the folder."""
    names = sorted(listing.tables, key=lambda name: (name.count("/"), name))
    tables, faults = [], []
    for name in [name for name in names if "/" not in name] + [name for name in names if "/" in name][:MAX_TABLES]:
        try:
            table = Table(name, read_table(listing.root / name, []))
        except (ValueError, FileNotFoundError) as error:
            faults.append(str(error).removeprefix(f"{listing.root}/"))
            continue
        if len(table.columns) == 1 and (mark := next((m for m in ";\t|" if m in table.columns[0]), None)):
            faults.append(f"{name}: its columns are separated by {mark!r}, save it with commas")
        elif table.columns:
            tables.append(table)
    return tables, faults


def is_mask_text(text: str) -> bool:
    """Whether a text is a mask with pixels: pairs of numbers, a list of them, or COCO's counts in base64."""
    words = text.split()
    if len(words) >= 2 and len(words) % 2 == 0:
        return all(word.lstrip("-").isdecimal() for word in words)
    return form_of(text) in ("list", "coco") if len(words) == 1 or text.startswith("[") else False


def form_of(text: str) -> str:
    """The form of a text of a mask, as `Dialect.form`.

    >>> form_of("1 2 7 3"), form_of("[1, 2, 7, 3]")
    ('pairs', 'list')
    """
    for form in ("list", "coco"):
        try:
            dialect = Dialect(form=form)
            if dialect.runs(dialect.split(text)[0])[0].size:
                return form
        except RLEError:
            continue
    return "pairs"


def is_empty_text(text: str) -> bool:
    """Whether a text stands for an empty mask in some competition, or is a word that may."""
    word = text.strip()
    return word in EMPTY_TOKENS | {""} or bool(EMPTY_WORD.fullmatch(word))


def _share_of_masks(texts: Sequence[str]) -> float:
    """The share of texts that are masks; 0 if others are neither masks nor empty, or no mask has two runs."""
    filled = [text for text in texts if not is_empty_text(text)]
    masks = [text for text in filled if is_mask_text(text)]
    if not masks or len(masks) < MIN_MASKS * len(filled) or _are_boxes(masks):
        return 0.0
    long = [text for text in masks if len(text.split()) > 2 or form_of(text) != "pairs"]
    return len(masks) / len(texts) if len(long) >= len(masks) / 3 else 0.0


def _are_boxes(texts: Sequence[str]) -> bool:
    """Whether all texts are four numbers which, as two runs, overlap in most of them: the sides of boxes."""
    numbers = [[int(word) for word in text.split()] for text in texts if form_of(text) == "pairs"]
    if len(numbers) < len(texts) or any(len(each) != 4 for each in numbers):
        return False
    ascending = sum(first + length <= second for first, length, second, _ in numbers)
    return ascending < MIN_MASKS * len(texts)


def find_sample(tables: Sequence[Table]) -> Table | None:
    """The sample submission: by its name, or the only table in whose last column all cells are one."""
    named = [table for table in tables if _is_named_sample(table) and _may_hold_masks(table)]
    if named:
        return max(named, key=lambda table: ("sample" in table.name.lower(), -table.name.count("/"), table.name))
    constant = [table for table in tables if len(table.columns) > 1 and len(table.cells) > 1 and _is_constant(table)]
    return constant[0] if len(constant) == 1 else None


def _is_named_sample(table: Table) -> bool:
    return bool(SAMPLE_NAME.search(PurePosixPath(table.name).name))


def _may_hold_masks(table: Table) -> bool:
    """Whether a column is named as one of masks, or the last one has short or empty masks: not grades of images."""
    last = spread(table.cells[table.columns[-1]].tolist(), NUM_CELLS)
    are_numbers = all(re.fullmatch(r"\d+(\.\d+)?", text.strip()) for text in last) and len(last) > 0
    return any(map(MASK_NAME.search, table.columns)) or (all(map(is_placeholder, last)) and not are_numbers)


def _is_constant(table: Table) -> bool:
    return table.cells[table.columns[-1]].nunique() == 1 and (
        bool(MASK_NAME.search(table.columns[-1])) and is_placeholder(table.cells[table.columns[-1]].iloc[0])
    )


def is_placeholder(text: str) -> bool:
    """Whether a text can stand in a sample submission: an empty mask, or a short one."""
    return is_empty_text(text) or is_mask_text(text)


def find_labels(tables: Sequence[Table], sample: Table | None) -> list[Table]:
    """The tables with a column of masks, without sample submissions and solutions, which have the same ids."""
    samples = [table for table in tables if table is sample or _is_named_sample(table)]
    tested = [ids for each in samples if (ids := set(each.values(each.columns[0])))]
    return [
        table
        for table in tables
        if table not in samples
        and table.mask_column
        and not any(set(table.values(name)) <= ids for ids in tested for name in table.columns)
    ]


def _are_placeholders(table: Table, column: str) -> bool:
    """Whether a column has empty or short masks, one of them with pixels."""
    some = spread(table.cells[column].tolist(), NUM_CELLS)
    return all(map(is_placeholder, some)) and any(map(is_mask_text, some))


def sample_layout(sample: Table, known: Collection[str]) -> RowLayout:
    """The columns of a sample submission.

    Args:
        known: texts that are ids of images: names of files and folders.

    Raises:
        ValueError: for several columns of masks.
    """
    masks = [name for name in sample.columns if MASK_NAME.search(name) and _are_placeholders(sample, name)]
    if len(masks) > 1:
        raise ValueError(
            f"{sample.name}: {len(masks)} columns of masks, {listed(masks, 60)}: expected one: write it with a row for "
            "each image and class, and bring the submission into the other form at the end"
        )
    rle = next((name for name in reversed(sample.columns) if MASK_NAME.search(name)), sample.columns[-1])
    return _layout(sample, rle, known)


def labels_layout(table: Table, known: Collection[str], like: Columns | None) -> RowLayout:
    """The columns of a training table.

    Args:
        known: as for `sample_layout`.
        like: columns of the sample submission, whose names count if both have them.

    Raises:
        ValueError: for several columns of masks, no column beside it, and a column of too many classes.
    """
    masks = table.mask_columns
    if like and like.rle in masks:
        masks = [like.rle]
    if len(masks) > 1:
        raise ValueError(
            f"{table.name}: {len(masks)} columns of masks, {listed(masks, 60)}: expected one, with a row for each "
            "image and class, and a column of the class: write the table so"
        )
    return _layout(table, masks[0], known, like)


def _layout(table: Table, rle: str, known: Collection[str], like: Columns | None = None) -> RowLayout:
    others = [name for name in table.columns if name != rle]
    if not others:
        raise ValueError(f"{table.name}: one column, '{rle}': expected a column of ids beside it")
    id_column = _id_column(table, others, known, like)
    rest = [name for name in others if name != id_column]
    label = _class_column(table, id_column, rest, like)
    if label:
        classes = in_order(dict.fromkeys(filter(None, table.values(label))))  # rows of empty images may have none
        return RowLayout(Columns(id=id_column, rle=rle, label=label), classes or ("",))
    ids = table.values(id_column)
    if found := _split(ids, known):
        separator, names = found
        return RowLayout(Columns(id=id_column, rle=rle, id_separator=separator), in_order(names))
    return RowLayout(Columns(id=id_column, rle=rle))


def without_classes(layout: RowLayout) -> RowLayout:
    """The columns of a table without that of classes, so that all rows of an image are of one mask."""
    return RowLayout(layout.columns.model_copy(update={"label": None}))


def classes_with_masks(table: Table, layout: RowLayout) -> set[str]:
    """The classes of which some row has a mask: "none" has none, and a 0 that says that there is no mask."""
    rows = zip(labels_of(table, layout), table.cells[layout.columns.rle], strict=True)
    return {label for label, text in rows if not is_empty_text(text)}


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes in the table's order; numbers ascending."""
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else names)


def _id_column(table: Table, others: Sequence[str], known: Collection[str], like: Columns | None) -> str:
    if like and like.id in others:
        return like.id
    share = {name: share_known(table.values(name), known) for name in others}
    best = max(others, key=lambda name: (share[name], not ROW_NUMBER.fullmatch(name)))
    if share[best] >= MIN_KNOWN:
        return best
    return next((name for name in others if ID_NAME.search(name)), others[0])


def share_known(ids: Sequence[str], known: Collection[str]) -> float:
    """The share of some of the ids that are known, 0 to 1."""
    some = spread(ids, NUM_CELLS)
    return sum(image_id in known for image_id in some) / max(1, len(some))


def _class_column(table: Table, id_column: str, rest: Sequence[str], like: Columns | None) -> str | None:
    """The column of a row's class: by its name, or because ids repeat and it alone tells their rows apart.

    Raises:
        ValueError: for too many values in the column that the sample submission has its classes in.
    """
    few = [name for name in rest if table.cells[name].nunique() <= MAX_CLASSES and not ROW_NUMBER.fullmatch(name)]
    if like and like.label in rest:
        _check_classes(table, like.label)
        return like.label
    if named := [name for name in few if CLASS_NAME.search(name)]:
        return named[0]
    ids = table.cells[id_column]
    if not ids.duplicated().any():
        return None
    shared = [name for name in few if table.cells[name].nunique() <= MAX_DIFFERENT * len(ids)]
    return next((name for name in shared if not table.cells.duplicated([id_column, name]).any()), None)


def _check_classes(table: Table, label: str) -> None:
    """Refuse a column of classes with too many, or with another one in most of its many rows."""
    values = table.values(label)
    found = len(set(values))
    if found > MAX_CLASSES or (found > FEW_CLASSES and found > MAX_DIFFERENT * len(values)):
        raise ValueError(
            f"{table.name}: {found} different texts in {len(values)} rows of the column of classes, '{label}', such as "
            f"'{shortened(max(values, key=len), 30)}', expected few, at most {MAX_CLASSES}: leave one class in each "
            "cell, without attributes"
        )


def _split(ids: Sequence[str], known: Collection[str]) -> tuple[str, list[str]] | None:
    """The separator between image and class in ids that are no images, and the classes; None if there is none."""
    if share_known(ids, known) >= MIN_KNOWN or not ids:
        return None
    return _split_at_images(ids, known) or _split_evenly(ids)


def _split_at_images(ids: Sequence[str], known: Collection[str]) -> tuple[str, list[str]] | None:
    for separator in SEPARATORS:
        parts = [_known_start(image_id, separator, known) for image_id in ids]
        found = [part for part in parts if part]
        classes = list(dict.fromkeys(label for _, label in found))
        if len(found) >= MIN_MASKS * len(ids) and 1 < len(classes) <= MAX_CLASSES:
            return separator, classes
    return None


def _known_start(text: str, separator: str, known: Collection[str]) -> tuple[str, str] | None:
    place = len(text)
    while (place := text.rfind(separator, 0, place)) > 0:
        if text[:place] in known:
            return text[:place], text[place + len(separator) :]
    return None


def _split_evenly(ids: Sequence[str]) -> tuple[str, list[str]] | None:
    """Where no image is known: each text before the separator occurs with the same texts after it, not all numbers
    with zeros at the start, which are slices.
    """
    for separator in SEPARATORS:
        parts = [image_id.rpartition(separator) for image_id in ids]
        if not all(found for _, found, _ in parts):
            continue
        starts, ends = Counter(start for start, _, _ in parts), Counter(end for _, _, end in parts)
        is_product = len(starts) * len(ends) == len(ids) == len(set(ids))
        if is_product and 1 < len(ends) <= min(MAX_CLASSES, len(starts)) and not any(re.match(r"0\d", e) for e in ends):
            return separator, list(ends)
    return None


def image_ids(table: Table, layout: RowLayout) -> list[str]:
    """The image of each row."""
    ids = table.values(layout.columns.id)
    if not layout.columns.id_separator:
        return ids
    ends = sorted((layout.columns.id_separator + name for name in layout.classes), key=len, reverse=True)
    return [next((text.removesuffix(end) for end in ends if text.endswith(end)), text) for text in ids]


def labels_of(table: Table, layout: RowLayout) -> list[str]:
    """The class of each row; "" if the table has no classes."""
    if layout.columns.label:
        return table.values(layout.columns.label)
    if not layout.columns.id_separator:
        return [""] * len(table.cells)
    ids = table.values(layout.columns.id)
    starts = image_ids(table, layout)
    separator = layout.columns.id_separator
    return [text[len(start) + len(separator) :] for text, start in zip(ids, starts, strict=True)]


def find_meta(tables: Sequence[Table], used: Sequence[Table], ids: Collection[str]) -> Iterator[tuple[Table, str]]:
    """Tables with one row for each training image, and their column of ids; those of most columns first.

    Args:
        used: the sample and the training table.
        ids: of all training images.
    """
    wanted = set(ids)
    for table in sorted(tables, key=lambda table: -len(table.columns)):
        if table in used or len(table.columns) < 2 or table.mask_column:
            continue
        for name in table.columns:
            values = table.values(name)
            if len(set(values)) == len(values) and wanted <= set(values):
                yield table, name
                break


def describe_tables(tables: Sequence[Table]) -> str:
    """The names of some tables with their columns, for messages."""
    return shortened("; ".join(f"{table.name} ({listed(table.columns, 60)})" for table in tables[:4]))


def known_texts(paths: Sequence[str]) -> set[str]:
    """Texts that ids of images may be: names of files, with and without their suffix, of folders, and paths from any
    folder on, with and without the suffix.
    """
    known: set[str] = set()
    for path in paths:
        parts = path.split("/")
        known.update(parts)
        for depth in range(len(parts)):
            rest = "/".join(parts[depth:])
            known |= {rest, rest.rpartition(".")[0]}
        known.add(parts[-1].partition(".")[0])
    return known
