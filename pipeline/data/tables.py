"""CSVs as text, and what their rows are about: an image, and a class."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.competition import Columns
from pipeline.rle import Dialect, RLEError, Runs
from pipeline.schema import did_you_mean


def read_table(path: Path, columns: Sequence[str], *, only: bool = False) -> pd.DataFrame:
    """A CSV as text: ids keep their zeros, a blank stays a blank.

    Args:
        columns: that must be there.
        only: keep no others in memory.

    Raises:
        FileNotFoundError: with what to do.
        ValueError: if a column is missing, with the columns that are there.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Put the competition's files into {path.parent}/, or say where they are "
            f"with DATA=folder (make) or --data folder"
        )
    try:
        wanted = (lambda name: name.strip() in columns) if only else None
        table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=wanted)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV: {error}") from None
    table.columns = table.columns.str.strip()  # SIIM's header has a leading space
    for column in columns:
        if column not in table:
            raise ValueError(f"{path}: no column '{column}', it has: {', '.join(table.columns)}")
    return table


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
    table = read_table(path, [*columns.keys, *([columns.rle] if rle else [])])
    rows = pd.DataFrame({"image_id": table[columns.id], "line": range(2, len(table) + 2)})
    if columns.joint:
        rows[["image_id", "label"]] = _parted(table[columns.id], columns.joint)
    else:
        rows["label"] = table[columns.label] if columns.label else classes[0]
    _refuse_strangers(rows, path, classes)
    if rle:
        rows["rle"] = table[columns.rle]
    if columns.group in table:
        rows["group"] = table[columns.group]
    return rows


def read_cells(path: Path, columns: Columns) -> pd.DataFrame:
    """The objects of a CSV whose rows hold all of an image's, by `columns.cell`: image_id, confidence, rle, line.

    An image without an object has one row with a blank rle.

    Raises:
        As `read_table`; ValueError for a repeated id, or a cell that is not made of such words, with its line.
    """
    table, words = read_table(path, columns.header), columns.cell.split()
    again = table.duplicated(columns.id)
    if again.any():
        first = int(again.argmax())
        raise ValueError(
            f"{path}: line {first + 2}: id '{table[columns.id].iloc[first]}' repeats: expected one row each"
        )
    rows = []
    for line, (image_id, cell) in enumerate(zip(table[columns.id], table[columns.rle], strict=True), start=2):
        objects = parted_cell(cell, words, f"{path}: line {line}, id '{image_id}'")
        rows += [(image_id, confidence, rle, line) for confidence, rle in objects or [(0.0, "")]]
    return pd.DataFrame(rows, columns=["image_id", "confidence", "rle", "line"])


def parted_cell(cell: str, words: Sequence[str], where: str) -> list[tuple[float, str]]:
    """Confidence and rle of each object of a cell; `words` are those of `columns.cell`.

    Raises:
        ValueError: for a cell that is not made of such words, beginning with `where`.
    """
    found = cell.split()
    expected = f"expected {len(words)} words for each object, '{' '.join(words)}'"
    if len(found) % len(words):
        raise ValueError(f"{where}: {len(found)} words: {expected}")
    objects = [dict(zip(words, found[start:], strict=False)) for start in range(0, len(found), len(words))]
    try:
        return [(float(each["{confidence}"]), each["{mask}"]) for each in objects]
    except ValueError as error:
        raise ValueError(f"{where}: {error}: {expected}") from None


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
        raise ValueError(f"{path}: line {row['line']}, id '{row['image_id']}': {error.fault}") from None


def _layout(path: Path, layouts: Sequence[Columns], rle: bool) -> Columns:
    if len(layouts) == 1:
        return layouts[0]
    found = set(read_table(path, []).columns)
    for columns in layouts:
        if found.issuperset([*columns.keys, *([columns.rle] if rle else [])]):
            return columns
    known = " or ".join(", ".join([*columns.keys, columns.rle]) for columns in layouts)
    raise ValueError(f"{path}: it has the columns {', '.join(sorted(found))}: expected {known}")


def _parted(ids: pd.Series, joint: str) -> pd.DataFrame:
    """Image and class of each id; an id without the joint has no class."""
    parts = ids.str.rsplit(joint, n=1, expand=True)
    if parts.shape[1] < 2:
        parts[1] = ""
    return parts.fillna("").set_axis(["image_id", "label"], axis=1)


def _refuse_strangers(rows: pd.DataFrame, path: Path, classes: Sequence[str]) -> None:
    strange = rows[~rows["label"].isin(list(classes))]
    if len(strange):
        first = strange.iloc[0]
        raise ValueError(
            f"{path}: line {first['line']}, image '{first['image_id']}': class '{first['label']}' is not on the card. "
            f"{did_you_mean(first['label'], classes)}"
        )
