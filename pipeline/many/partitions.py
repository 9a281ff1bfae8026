"""Where rows go: a Parquet file per partition, whole or not at all; what is missing is what is left to do."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.many.inputs import Input, digest

PLAN = "plan.json"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("class", pa.string()),
        ("rle", pa.string()),  # null where there is a problem
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("problem", pa.string()),  # null where there is none
    ]
)


class Row(NamedTuple):
    """A mask, or an object; or why there is none."""

    image_id: str
    label: str | None
    rle: str | None
    height: int | None
    width: int | None
    problem: str | None = None


class Output:
    """A folder of partitions, on local disk or behind any fsspec URL."""

    def __init__(self, url: str):
        self._files, self._folder = fsspec.core.url_to_fs(url)
        self.url = self._files.unstrip_protocol(self._folder)  # whole: another process stands elsewhere

    def start(self, inputs: Sequence[Input], model: str, rows: int) -> None:
        """Note what the folder is of, or check that it is of that.

        Args:
            model: what tells one model from another.
            rows: images per partition.

        Raises:
            ValueError: if it holds predictions of other images, by another model, or in other partitions.
        """
        plan = {"images": len(inputs), "inputs": digest(inputs), "model": model, "rows": rows}
        found = self._plan()
        for key in plan if found else ():
            if found[key] != plan[key]:
                raise ValueError(
                    f"{self.url} was begun with {key} = {found[key]}, now it is {plan[key]}: give another --output, or "
                    f"remove it"
                )
        if not found:
            self._write(PLAN, json.dumps(plan, indent=1).encode())

    def _plan(self) -> dict[str, object] | None:
        path = f"{self._folder}/{PLAN}"
        return json.loads(self._files.cat_file(path)) if self._files.exists(path) else None

    def missing(self, count: int) -> list[int]:
        """Numbers of the partitions, of so many, that are not there."""
        self._files.invalidate_cache()
        there = {path.rpartition("/")[2] for path in self._files.ls(self._folder, detail=False)}
        return [number for number in range(count) if _name(number) not in there]

    def write(self, number: int, rows: Iterable[Row]) -> None:
        """Write a partition."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
        self._write(_name(number), buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        """Under another name first: a reader, or a run that goes on, sees a file whole or not at all."""
        self._files.makedirs(self._folder, exist_ok=True)
        unfinished, path = f"{self._folder}/.{name}.part", f"{self._folder}/{name}"
        try:
            with self._files.open(unfinished, "wb") as file:
                file.write(content)
            self._files.mv(unfinished, path)
        except OSError as error:
            raise OSError(
                error.errno, f"{self.url}/{name}: cannot be written ({error}): make room, and go on"
            ) from error


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def partition(inputs: Sequence[Input], number: int, rows: int) -> Sequence[Input]:
    """The images of a partition."""
    return inputs[number * rows : (number + 1) * rows]


def count_partitions(images: int, rows: int) -> int:
    return -(-images // rows)
