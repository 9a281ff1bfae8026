"""CSV files as text, and the image and class that each of their rows is about."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from pipeline.competition import DRAFTED_SAMPLE, Columns
from pipeline.data.file_index import log_once, normalize_id
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect, RLEError, Runs, suggest_empty_token
from pipeline.schema import did_you_mean

MAX_COLUMNS = 10_000
NOT_TEXT = {  # other files that are named .csv, by their first bytes
    b"PK\x03\x04": "a zip file: unpack it",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"\xff\xfe": "in UTF-16: save it as UTF-8",
    b"\xfe\xff": "in UTF-16: save it as UTF-8",
}

csv.field_size_limit((1 << 31) - 1)  # characters; the default is 128 KiB, and the RLE of a large mask has megabytes


def read_table(path: Path, columns: Sequence[str], *, only: bool = False) -> pd.DataFrame:
    """Read a CSV as text: ids keep their leading zeros, blank cells stay blank. Columns without a name are left out.

    Args:
        columns: that the file must have.
        only: read no other columns.

    Raises:
        FileNotFoundError: without the file, with what to do.
        ValueError: if a column is missing, with those that there are; for a file that is no CSV, with the line.
    """
    return _read(path, columns, only=only)[0]


def read_header(path: Path) -> list[str]:
    """The names of a CSV's columns exactly as in the file, with the blanks around them.

    Raises:
        FileNotFoundError, ValueError: as `read_table`.
    """
    with _csv_reader(path) as reader:
        return _read_header(path, reader)


def sample_header(path: Path, columns: Columns) -> list[str]:
    """The header of a sample submission exactly as in the file: a submission needs the same.

    Columns without a name, such as the row numbers that pandas writes, are left out.

    Args:
        columns: of the card.

    Raises:
        FileNotFoundError, ValueError: as `read_table`; ValueError if its columns are not those of the card, with both.
    """
    header, expected = [name for name in read_header(path) if normalize_id(name)], columns.header
    names = [normalize_id(name) for name in header]
    if sorted(names) == sorted(expected):
        return header
    more = [name for name in names if name not in expected]
    advice = (
        f"add to [columns] on the card: copied = {shortened([*columns.copied, *more])}"
        if set(expected) < set(names)
        else "write the sample's names into [columns] on the card"
    )
    raise ValueError(
        f"{path}: its header is {shortened(','.join(header))}, the card's is {shortened(','.join(expected))}: {advice}"
    )


def _read(path: Path, columns: Sequence[str], *, only: bool, advice: str = "") -> tuple[pd.DataFrame, list[int]]:
    """The table, and the line of the file at which each of its rows begins."""
    rows: list[list[str]] = []
    lines: list[int] = []
    trailing = 0
    with _csv_reader(path) as reader:
        names = [normalize_id(name) for name in _read_header(path, reader)]
        _check_columns(path, names, columns, advice)
        first = {
            name: place for place, name in reversed(list(enumerate(names))) if name and (name in columns or not only)
        }
        kept = sorted(first.values())
        line = reader.line_num
        for row in reader:
            if row and (normalize_id(row[0]) or any(map(normalize_id, row))):  # else a blank line
                if len(row) != len(names):
                    _check_length(f"{path}: line {line + 1}", row, len(names))
                    trailing += 1
                rows.append([row[place] for place in kept])
                lines.append(line + 1)
            line = reader.line_num
    if trailing:
        log_once("%s: %d rows end in a comma: the blank field after it is left out", path, trailing)
    cells = zip(*rows, strict=True) if rows else repeat(())
    table = {names[place]: pd.Series(column, dtype=str) for place, column in zip(kept, cells, strict=False)}
    return pd.DataFrame(table, index=pd.RangeIndex(len(rows))), lines


def _check_length(where: str, row: Sequence[str], count: int) -> None:
    """Refuse a row with fewer fields than the header, or with more of which one is not blank."""
    if len(row) < count:
        raise ValueError(f"{where}: {len(row)} fields, the header has {count}: is the file truncated?")
    if any(map(normalize_id, row[count:])):
        advice = "a cell with a comma in it needs quotes around it"
        raise ValueError(f"{where}: {len(row)} fields, the header has {count}: {advice}")


@contextmanager
def _csv_reader(path: Path) -> Iterator[Any]:
    """A reader of the rows of a CSV; its errors become one line that names the file."""
    if path.name == DRAFTED_SAMPLE and not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file: make card DATA={path.parent} writes it to data/<name>/, beside links to the files: "
            f"use that folder"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Put the competition's files into {path.parent}/, or set their folder with "
            f"DATA=folder (make) or --data folder"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_refuse_zero_bytes(file, path), strict=True)
        try:
            yield reader
        except csv.Error as error:
            raise ValueError(f"{path}: not a CSV: line {reader.line_num}: {error}: is a quote missing?") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a CSV: {_describe_encoding(path)}") from None


def _refuse_zero_bytes(file: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise ValueError(f"{path}: not a CSV: line {number} has zero bytes: the file is damaged: get it again")
        yield line


def _describe_encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    found = next((what for mark, what in NOT_TEXT.items() if start.startswith(mark)), None)
    return f"it is {found}" if found else "it is not in UTF-8: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"


def _read_header(path: Path, reader: Any) -> list[str]:
    header = next((row for row in reader if any(map(normalize_id, row))), None)
    if header is None:
        raise ValueError(f"{path}: not a CSV: it is empty, expected a header")
    if len(header) > MAX_COLUMNS:
        raise ValueError(f"{path}: {len(header)} columns, expected at most {MAX_COLUMNS}: is the table transposed?")
    return header


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str], advice: str) -> None:
    for column in columns:
        if column not in names:
            mark = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
            advice = f": its columns are separated by {mark!r}, save it with commas" if mark else advice
            raise ValueError(f"{path}: no column '{column}', it has: {listed(names)}{advice}")
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    for name in repeated:
        if name in columns:
            raise ValueError(f"{path}: two columns are named '{shortened(name)}': rename or remove one")
    if repeated:
        log_once("%s: several columns have one name (%s): the first of each is read", path, listed(repeated))


def read_rows(path: Path, layouts: Sequence[Columns], classes: Sequence[str], *, rle: bool = True) -> pd.DataFrame:
    """The rows of a CSV of masks: image_id, label (the class), rle, line (1 is the header), and group if it is there.

    Args:
        layouts: alternative names of its columns; the first of which all columns exist is used.
        classes: that a row may be about; a single class needs no column.
        rle: whether the RLE column is needed.

    Raises:
        FileNotFoundError, ValueError: as `read_table`; ValueError for an unknown class and a blank id, with the line.
    """
    columns = _choose_layout(path, layouts, rle)
    names, advice = [*columns.keys, *([columns.rle] if rle else [])], ": correct the names in [columns] on the card"
    table, lines = _read(path, names, only=False, advice=advice)
    ids = [normalize_id(text) for text in table[columns.id]]
    if columns.id_separator:
        parts = _split_ids(ids, columns.id_separator, classes)
    else:
        labels = map(normalize_id, table[columns.label]) if columns.label else repeat(classes[0])
        parts = list(zip(ids, labels, strict=False))
    rows = pd.DataFrame(parts, columns=["image_id", "label"], dtype=str).assign(line=lines)
    _refuse_unknown_classes(rows, path, classes)
    _refuse_blank_ids(rows, path)
    if rle:
        rows["rle"] = _in_one_line(table[columns.rle])
    if columns.group in table:
        rows["group"] = table[columns.group].map(normalize_id)
    return rows


def _in_one_line(texts: pd.Series) -> pd.Series:
    """Texts with blanks for line breaks within a cell: in the index, each line of a text is one row of the table."""
    return (
        texts.str.replace(r"[\r\n]+", " ", regex=True) if any("\n" in text or "\r" in text for text in texts) else texts
    )


def read_packed_objects(path: Path, columns: Columns, empty: str = "") -> pd.DataFrame:
    """The objects of a CSV with one row per image, whose cell packs all of its objects: one row per object.

    Columns: image_id, confidence, rle, line. An image without an object has one row with a blank rle.

    Args:
        columns: of the card; packed_objects is the form of one object.
        empty: the text of a cell without an object, in addition to a blank cell.

    Raises:
        FileNotFoundError, ValueError: as `read_table`; ValueError for a repeated id, or a cell of another form, with
            its line.
    """
    table, lines = _read(path, columns.header, only=False)
    ids = table[columns.id].map(normalize_id)
    repeated = ids.duplicated()
    if repeated.any():
        first = int(repeated.argmax())
        raise ValueError(
            f"{path}: line {lines[first]}: id '{shortened(ids.iloc[first])}' repeats: expected one row each"
        )
    words, rows = columns.packed_objects.split(), []
    for line, image_id, cell in zip(lines, ids, table[columns.rle], strict=True):
        where = f"{path}: line {line}, id '{shortened(image_id)}'"
        objects = [] if cell.strip() == empty.strip() else split_packed_objects(cell, words, where)
        rows += [(image_id, confidence, rle, line) for confidence, rle in objects or [(0.0, "")]]
    return pd.DataFrame(rows, columns=["image_id", "confidence", "rle", "line"])


def split_packed_objects(cell: str, words: Sequence[str], where: str) -> list[tuple[float, str]]:
    """Confidence and rle of each object of a cell.

    Args:
        words: of one object, as in `columns.packed_objects`.
        where: the start of the error message.

    Raises:
        ValueError: for a cell of another form.
    """
    found = cell.split()
    expected = f"expected {len(words)} words for each object, '{' '.join(words)}'"
    if len(found) % len(words):
        raise ValueError(f"{where}: {len(found)} words: {suggest_empty_token(cell) or expected}")
    objects = [dict(zip(words, found[start:], strict=False)) for start in range(0, len(found), len(words))]
    try:
        pairs = [(float(each["{confidence}"]), each["{mask}"]) for each in objects]
    except ValueError as error:
        raise ValueError(f"{where}: {shortened(error)}: {expected}") from None
    if unordered := [confidence for confidence, _ in pairs if not math.isfinite(confidence)]:
        raise ValueError(f"{where}: confidence {unordered[0]}: expected a finite number")
    return pairs


def parse_rows(
    rows: pd.DataFrame, path: Path, dialect: Dialect, shapes: Sequence[tuple[int, int]] | None = None
) -> list[Runs]:
    """The runs of each row's rle.

    Args:
        rows: with image_id, rle and line, as `read_rows` gives them.
        path: the file that they are from, for the error message.
        shapes: (height, width) of each row's mask, in pixels; None: whether runs are inside the image is not checked.

    Raises:
        ValueError: for a text that cannot be decoded, with file, line and id.
    """
    try:
        return dialect.runs_of(rows["rle"].tolist(), shapes)
    except RLEError as error:
        row = rows.iloc[error.number]
        raise ValueError(f"{path}: line {row['line']}, id '{shortened(row['image_id'])}': {error.fault}") from None


def _choose_layout(path: Path, layouts: Sequence[Columns], rle: bool) -> Columns:
    if len(layouts) == 1:
        return layouts[0]
    found = {normalize_id(name) for name in read_header(path)}
    for columns in layouts:
        if found.issuperset([*columns.keys, *([columns.rle] if rle else [])]):
            return columns
    known = " or ".join(", ".join([*columns.keys, columns.rle]) for columns in layouts)
    raise ValueError(f"{path}: it has the columns {shortened(', '.join(sorted(found)))}: expected {known}")


def _split_ids(ids: Sequence[str], id_separator: str, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Image and class of each id: the longest class that it ends in; else the text after the last separator, or "".

    >>> _split_ids(["im0_large_bowel"], "_", ["bowel", "large_bowel"])
    [('im0', 'large_bowel')]
    """
    ends = {id_separator + name: name for name in sorted(classes, key=len, reverse=True)}

    def split(text: str) -> tuple[str, str]:
        for end, name in ends.items():
            if text.endswith(end):
                return text.removesuffix(end), name
        image_id, found, label = text.rpartition(id_separator)
        return (image_id, label) if found else (text, "")

    return list(map(split, ids))


def _refuse_unknown_classes(rows: pd.DataFrame, path: Path, classes: Sequence[str]) -> None:
    unknown = rows[~rows["label"].isin(list(classes))]
    if len(unknown):
        first = unknown.iloc[0]
        raise ValueError(
            f"{path}: line {first['line']}, image '{shortened(first['image_id'], 60)}': class "
            f"'{shortened(first['label'], 60)}' is not on the card. {shortened(did_you_mean(first['label'], classes))}"
        )


def _refuse_blank_ids(rows: pd.DataFrame, path: Path) -> None:
    blank = rows["line"][rows["image_id"] == ""]
    if len(blank):
        raise ValueError(f"{path}: line {blank.iloc[0]}: {len(blank)} rows have no id: fill it in, or remove the row")
