"""CSVs as text, and what their rows are about: an image, and a class."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from pipeline.competition import Columns
from pipeline.data.file_index import as_id, say_once
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect, RLEError, Runs, suggest_empty_token
from pipeline.schema import did_you_mean

MOST_COLUMNS = 10_000
NO_TEXT = {  # what a file that is called .csv may be, by its first bytes
    b"PK\x03\x04": "a zip file: unpack it",
    b"\x1f\x8b": "a gzip file: unpack it",
    b"\xff\xfe": "in UTF-16: save it as UTF-8",
    b"\xfe\xff": "in UTF-16: save it as UTF-8",
}

csv.field_size_limit((1 << 31) - 1)  # characters; the text of a large mask has megabytes, and 128 KiB are the default


def read_table(path: Path, columns: Sequence[str], *, only: bool = False) -> pd.DataFrame:
    """A CSV as text: ids keep their zeros, a blank stays a blank. Columns without a name are left out.

    Args:
        columns: that must be there.
        only: keep no others in memory.

    Raises:
        FileNotFoundError: with what to do.
        ValueError: if a column is missing, with the columns that are there; for what is no CSV, with the line.
    """
    return _read(path, columns, only=only)[0]


def read_header(path: Path) -> list[str]:
    """The names of a CSV's columns as they stand in the file, blanks around them included.

    Raises:
        As `read_table`.
    """
    with _opened(path) as reader:
        return _header(path, reader)


def sample_header(path: Path, columns: Columns) -> list[str]:
    """The header of a sample submission as it stands: a submission has the same, letter by letter.

    Columns without a name, such as the row numbers that pandas writes, are left out.

    Raises:
        As `read_table`; ValueError if its columns are not those of the card, with both.
    """
    header, expected = [name for name in read_header(path) if as_id(name)], columns.header
    names = [as_id(name) for name in header]
    if sorted(names) == sorted(expected):
        return header
    more = [name for name in names if name not in expected]
    advice = (
        f"add to [columns] on the card: copied = {shortened([*columns.copied, *more])}"
        if set(expected) < set(names)
        else "write the sample's names into [columns] on the card"
    )
    raise ValueError(
        f"{path}: its header is {shortened(','.join(header))}, a submission by the card has "
        f"{shortened(','.join(expected))}: {advice}"
    )


def _read(path: Path, columns: Sequence[str], *, only: bool) -> tuple[pd.DataFrame, list[int]]:
    """The table, and the line of the file at which each of its rows begins."""
    rows: list[list[str]] = []
    lines: list[int] = []
    cut = 0
    with _opened(path) as reader:
        names = [as_id(name) for name in _header(path, reader)]
        _refuse_columns(path, names, columns)
        first = {
            name: place for place, name in reversed(list(enumerate(names))) if name and (name in columns or not only)
        }
        kept = sorted(first.values())
        line = reader.line_num
        for row in reader:
            if row and (as_id(row[0]) or any(map(as_id, row))):  # else a blank line
                if len(row) != len(names):
                    _refuse_other_length(f"{path}: line {line + 1}", row, len(names))
                    cut += 1
                rows.append([row[place] for place in kept])
                lines.append(line + 1)
            line = reader.line_num
    if cut:
        say_once("%s: %d rows end in a comma: the blank field after it is left out", path, cut)
    cells = zip(*rows, strict=True) if rows else repeat(())
    table = {names[place]: pd.Series(column, dtype=str) for place, column in zip(kept, cells, strict=False)}
    return pd.DataFrame(table, index=pd.RangeIndex(len(rows))), lines


def _refuse_other_length(where: str, row: Sequence[str], count: int) -> None:
    """Refuse a row of other fields than the header's, but for blank ones beyond them."""
    if len(row) < count:
        raise ValueError(f"{where}: {len(row)} fields, the header has {count}: is the file cut off?")
    if any(map(as_id, row[count:])):
        advice = "a cell with a comma in it needs quotes around it"
        raise ValueError(f"{where}: {len(row)} fields, the header has {count}: {advice}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A reader of the rows of a CSV, whose faults come as one line."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Put the competition's files into {path.parent}/, or say where they are "
            f"with DATA=folder (make) or --data folder"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_without_zeros(file, path), strict=True)
        try:
            yield reader
        except csv.Error as error:
            raise ValueError(f"{path}: not a CSV: line {reader.line_num}: {error}: is a quote missing?") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a CSV: {_in_place_of_text(path)}") from None


def _without_zeros(file: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise ValueError(f"{path}: not a CSV: line {number} has zero bytes: the file is damaged, get it again")
        yield line


def _in_place_of_text(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    found = next((what for mark, what in NO_TEXT.items() if start.startswith(mark)), None)
    return f"it is {found}" if found else "it is not in UTF-8: save it so (in a spreadsheet: CSV UTF-8)"


def _header(path: Path, reader: Any) -> list[str]:
    header = next((row for row in reader if any(map(as_id, row))), None)
    if header is None:
        raise ValueError(f"{path}: not a CSV: it is empty, expected a header")
    if len(header) > MOST_COLUMNS:
        raise ValueError(
            f"{path}: {len(header)} columns, expected at most {MOST_COLUMNS}: are rows and columns turned?"
        )
    return header


def _refuse_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            mark = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
            advice = f": its columns are separated by {mark!r}, save it with commas" if mark else ""
            raise ValueError(f"{path}: no column '{column}', it has: {listed(names)}{advice}")
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    for name in repeated:
        if name in columns:
            raise ValueError(f"{path}: column '{shortened(name)}' is there twice: rename or remove one")
    if repeated:
        say_once("%s: columns that are there twice (%s): the first of each is read", path, listed(repeated))


def read_rows(path: Path, layouts: Sequence[Columns], classes: Sequence[str], *, rle: bool = True) -> pd.DataFrame:
    """The rows of a CSV: image_id, label (the class), rle, line (in the file, whose first is the header), and group.

    Args:
        layouts: columns that it may have; the first that is all there is taken.
        classes: that a row may be about; of one class alone, every row is about it.
        rle: whether the RLE column is needed.

    Raises:
        As `read_table`; ValueError for a row of no known class, with its line.
    """
    columns = _layout(path, layouts, rle)
    table, lines = _read(path, [*columns.keys, *([columns.rle] if rle else [])], only=False)
    ids = [as_id(text) for text in table[columns.id]]
    if columns.id_separator:
        parts = _parts(ids, columns.id_separator, classes)
    else:
        parts = list(zip(ids, map(as_id, table[columns.label]) if columns.label else repeat(classes[0]), strict=False))
    rows = pd.DataFrame(parts, columns=["image_id", "label"], dtype=str).assign(line=lines)
    _refuse_strangers(rows, path, classes)
    _refuse_blank_ids(rows, path)
    if rle:
        rows["rle"] = _in_one_line(table[columns.rle])
    if columns.group in table:
        rows["group"] = table[columns.group].map(as_id)
    return rows


def _in_one_line(texts: pd.Series) -> pd.Series:
    """Texts whose line breaks within a cell are blanks: here, a line of a text is one of several rows."""
    return (
        texts.str.replace(r"[\r\n]+", " ", regex=True) if any("\n" in text or "\r" in text for text in texts) else texts
    )


def read_cells(path: Path, columns: Columns, empty: str = "") -> pd.DataFrame:
    """The objects of a CSV whose rows hold all of an image's, by `columns.packed_objects`.

    Columns: image_id, confidence, rle, line.

    An image without an object has one row with a blank rle.

    Args:
        empty: the text of a cell without an object, beside a blank one.

    Raises:
        As `read_table`; ValueError for a repeated id, or a cell that is not made of such words, with its line.
    """
    table, lines = _read(path, columns.header, only=False)
    ids = table[columns.id].map(as_id)
    again = ids.duplicated()
    if again.any():
        first = int(again.argmax())
        raise ValueError(
            f"{path}: line {lines[first]}: id '{shortened(ids.iloc[first])}' repeats: expected one row each"
        )
    words, rows = columns.packed_objects.split(), []
    for line, image_id, cell in zip(lines, ids, table[columns.rle], strict=True):
        where = f"{path}: line {line}, id '{shortened(image_id)}'"
        objects = [] if cell.strip() == empty.strip() else parted_cell(cell, words, where)
        rows += [(image_id, confidence, rle, line) for confidence, rle in objects or [(0.0, "")]]
    return pd.DataFrame(rows, columns=["image_id", "confidence", "rle", "line"])


def parted_cell(cell: str, words: Sequence[str], where: str) -> list[tuple[float, str]]:
    """Confidence and rle of each object of a cell; `words` are those of `columns.packed_objects`.

    Raises:
        ValueError: for a cell that is not made of such words, beginning with `where`.
    """
    found = cell.split()
    expected = f"expected {len(words)} words for each object, '{' '.join(words)}'"
    if len(found) % len(words):
        raise ValueError(f"{where}: {len(found)} words: {suggest_empty_token(cell) or expected}")
    objects = [dict(zip(words, found[start:], strict=False)) for start in range(0, len(found), len(words))]
    try:
        return [(float(each["{confidence}"]), each["{mask}"]) for each in objects]
    except ValueError as error:
        raise ValueError(f"{where}: {shortened(error)}: {expected}") from None


def runs_of_rows(
    rows: pd.DataFrame, path: Path, dialect: Dialect, shapes: Sequence[tuple[int, int]] | None = None
) -> list[Runs]:
    """The runs of each row's rle.

    Args:
        rows: with image_id, rle and line, as `read_rows` gives them.
        shapes: (height, width) of each row's mask, in pixels; None leaves unchecked whether runs lie inside.

    Raises:
        ValueError: for a text that does not read, with file, line and id.
    """
    try:
        return dialect.runs_of(rows["rle"].tolist(), shapes)
    except RLEError as error:
        row = rows.iloc[error.number]
        raise ValueError(f"{path}: line {row['line']}, id '{shortened(row['image_id'])}': {error.fault}") from None


def _layout(path: Path, layouts: Sequence[Columns], rle: bool) -> Columns:
    if len(layouts) == 1:
        return layouts[0]
    found = {as_id(name) for name in read_header(path)}
    for columns in layouts:
        if found.issuperset([*columns.keys, *([columns.rle] if rle else [])]):
            return columns
    known = " or ".join(", ".join([*columns.keys, columns.rle]) for columns in layouts)
    raise ValueError(f"{path}: it has the columns {shortened(', '.join(sorted(found)))}: expected {known}")


def _parts(ids: Sequence[str], id_separator: str, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Image and class of each id: the longest class that it ends in; else what stands behind the last joint, or none.

    >>> _parts(["im0_large_bowel"], "_", ["bowel", "large_bowel"])
    [('im0', 'large_bowel')]
    """
    ends = {id_separator + name: name for name in sorted(classes, key=len, reverse=True)}

    def part(text: str) -> tuple[str, str]:
        for end, name in ends.items():
            if text.endswith(end):
                return text.removesuffix(end), name
        image_id, found, label = text.rpartition(id_separator)
        return (image_id, label) if found else (text, "")

    return list(map(part, ids))


def _refuse_strangers(rows: pd.DataFrame, path: Path, classes: Sequence[str]) -> None:
    strange = rows[~rows["label"].isin(list(classes))]
    if len(strange):
        first = strange.iloc[0]
        raise ValueError(
            f"{path}: line {first['line']}, image '{shortened(first['image_id'], 60)}': class "
            f"'{shortened(first['label'], 60)}' is not on the card. {shortened(did_you_mean(first['label'], classes))}"
        )


def _refuse_blank_ids(rows: pd.DataFrame, path: Path) -> None:
    blank = rows["line"][rows["image_id"] == ""]
    if len(blank):
        raise ValueError(f"{path}: line {blank.iloc[0]}: {len(blank)} rows have no id: fill it in, or remove the row")
