"""Mutated training tables: they are read as written, or refused."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import rle
from pipeline.competition import Competition
from pipeline.data.index import read_index

SIZE = (5, 7)  # height and width of every image
Table = list[list[str]]

CARD = Competition.model_validate(
    {
        "name": "fuzz",
        "title": "Fuzzed tables",
        "classes": ["thing"],
        "metric": "mean_dice",
        "files": {"train_images": "train", "test_images": "test", "train_csv": "train.csv"},
        "columns": {"id": "id", "rle": "rle", "group": "patient"},
    }
)


def fuzz_table(rng: np.random.Generator, folder: Path) -> str:
    """Read a mutated training table as every stage does.

    Equivalent ways of writing a table must give the same index. After any other change, masks must lie inside their
    images.

    Raises:
        AssertionError: if the index differs from the table.
    """
    table = _table(rng)
    for image_id, *_ in table[1:]:
        _write_image(folder / "train" / f"{image_id}.png")
    data = _written(rng, table)
    changed = rng.random() < 0.6
    if changed:
        for _ in range(rng.integers(1, 4)):
            data = MUTATIONS[rng.integers(len(MUTATIONS))](rng, data)
    (folder / "train.csv").write_bytes(data)
    index = read_index(CARD, folder)
    found = {row.image_id: (row.rle, row.group) for row in index.itertuples()}
    if not changed:
        assert found == {image_id: (text, patient) for image_id, text, patient in table[1:]}, data
    for text, _ in found.values():
        for line in text.split("\n"):
            assert CARD.dialect.decode(line, SIZE).max(initial=0) <= 1
    return "read"


def _table(rng: np.random.Generator) -> Table:
    rows = [["id", "rle", "patient"]]
    for number in range(rng.integers(1, 6)):
        mask = (rng.random(SIZE) < rng.choice([0.0, 0.1, 0.5])).astype(np.uint8)
        name = ["{:03}", "x{}", "é{}", "A b{}"][rng.integers(4)].format(number)
        rows.append([name, rle.encode(mask), f"p{number % 2}"])
    return rows


def _write_image(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)


def _written(rng: np.random.Generator, table: Table) -> bytes:
    """The table as a CSV, in one of several ways of writing it."""
    order = rng.permutation(3)
    rows = [[row[place] for place in order] for row in table]
    if rng.random() < 0.3:  # an additional column
        name = rng.choice(["notes", "fold", "path", "box", "image_id", "coverage", "line", "label", "group"])
        rows = [[*row, "x" if number else str(name)] for number, row in enumerate(rows)]
    if rng.random() < 0.2:
        rows[0] = [f" {name} " for name in rows[0]]
    quoting = csv.QUOTE_ALL if rng.random() < 0.3 else csv.QUOTE_MINIMAL
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=["\n", "\r\n"][rng.integers(2)]).writerows(rows)
    return text.getvalue().encode("utf-8-sig" if rng.random() < 0.3 else "utf-8")


def _other_byte(rng: np.random.Generator, data: bytes) -> bytes:
    at = rng.integers(len(data)) if data else 0
    return data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]


def _truncated(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _inserted(rng: np.random.Generator, data: bytes) -> bytes:
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.choice(ODD_TEXTS).encode(errors="surrogatepass") + data[at:]


def _odd_cell(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.integers(len(lines))
    cells = lines[at].split(b",")
    cells[rng.integers(len(cells))] = rng.choice(ODD_TEXTS).encode(errors="surrogatepass")
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _row_twice(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = rng.integers(len(lines))
    return b"\n".join([*lines[:at], lines[at], *lines[at:]])


def _without_row(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.integers(len(lines))]
    return b"\n".join(lines)


def _trailing_comma(rng: np.random.Generator, data: bytes) -> bytes:
    return data.replace(b"\n", b",\n")


def _other_separator(rng: np.random.Generator, data: bytes) -> bytes:
    return data.replace(b",", rng.choice([b";", b"\t", b"|"]))


ODD_TEXTS = [
    "", " ", ",", '"', "\n", "\r", "\0", "-1", "nan", "None", "[]", "x", "\ufeff", "é", "e\u0301", "[/x]", "../../x",
    "0 1", "1 0", "1 99", "36 1", "1 1 1 1", "1.5 2", "1e400 1", "9" * 30 + " 1", "1 1" + " 3 1" * 500,
]  # fmt: skip

MUTATIONS: list[Callable[[np.random.Generator, bytes], bytes]] = [
    _other_byte, _truncated, _inserted, _odd_cell, _odd_cell, _row_twice, _without_row, _trailing_comma,
    _other_separator,
]  # fmt: skip
