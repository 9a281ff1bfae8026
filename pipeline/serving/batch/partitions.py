"""Where rows go: a Parquet file per partition, whole or not at all; what is missing is what is left to do."""

import errno
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import is_orphaned, temporary_name
from pipeline.serving.batch.inputs import Input, Inputs, digest, opened

PLAN = "_plan.json"  # so begins what `pandas.read_parquet` of the folder leaves out
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
        self._files, self._folder = opened(url)
        self.url = self._files.unstrip_protocol(self._folder)  # whole: another process stands elsewhere

    def start(self, inputs: Inputs | Sequence[Input], model: str, rows: int) -> None:
        """Note what the folder is of, or check that it is of that.

        Args:
            model: what tells one model from another.
            rows: images per partition.

        Raises:
            ValueError: if it holds predictions of other images, by another model, in other partitions, or of unknown
                origin.
        """
        plan = {"images": len(inputs), "inputs": digest(inputs), "model": model, "rows": rows}
        found = self._plan()
        for key in () if found is None else plan:
            if found.get(key) != plan[key]:
                raise ValueError(
                    f"{self.url} was begun with {key} = {found.get(key)}, now it is {plan[key]}: give another "
                    f"--output, or remove it"
                )
        if found is None and any(_is_partition(name) for name in self._names()):
            raise ValueError(
                f"{self.url} holds partitions without a {PLAN}: nobody knows of what, give another --output"
            )
        for name in self._names():  # of killed runs
            if is_orphaned(name):
                self._remove(f"{self._folder}/{name}")
        if found is None:
            self._write(PLAN, json.dumps(plan, indent=1).encode())

    def _plan(self) -> dict[str, object] | None:
        path = f"{self._folder}/{PLAN}"
        if not self._files.exists(path):
            return None
        try:
            return dict(json.loads(self._files.cat_file(path)))
        except (ValueError, TypeError):
            raise ValueError(
                f"{self.url}/{PLAN}: not the plan of a prediction: give another --output, or remove it"
            ) from None

    def missing(self, count: int) -> list[int]:
        """Numbers of the partitions, of so many, that are not there."""
        there = set(self._names())
        return [number for number in range(count) if _name(number) not in there]

    def _names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            return [path.rpartition("/")[2] for path in self._files.ls(self._folder, detail=False)]
        except FileNotFoundError:
            return []

    def write(self, number: int, rows: Iterable[Row]) -> None:
        """Write a partition."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
        self._write(_name(number), buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        """Under a name of its own first: a reader, or another run, sees a file whole or not at all."""
        path, partial = f"{self._folder}/{name}", f"{self._folder}/{temporary_name(name)}"
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            with self._files.open(partial, "wb") as file:
                file.write(content)
            self._files.mv(partial, path)
        except OSError as error:
            self._remove(partial)
            what = "make room" if error.errno in FULL else "see to that"
            raise ValueError(
                f"{self.url}/{name}: cannot be written ({error}): {what}, and the same command goes on"
            ) from error
        except BaseException:  # Ctrl-C, mostly
            self._remove(partial)
            raise

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            self._files.rm_file(path)


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _is_partition(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet")


def count_partitions(images: int, rows: int) -> int:
    return -(-images // rows)
