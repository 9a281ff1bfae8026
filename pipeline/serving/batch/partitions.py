"""The output of batch inference: one Parquet file per partition, written atomically; missing files are still to do."""

import errno
import io
import json
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import is_orphaned, temporary_name
from pipeline.serving.batch.inputs import inputs_digest, split_url

PLAN_FILE = "_plan.json"  # readers of a Parquet folder ignore names that start with "_"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("class", pa.string()),
        ("rle", pa.string()),  # null if there is a problem
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("problem", pa.string()),  # null if there is none
    ]
)


class MaskRow(NamedTuple):
    """One mask or object of an image; or the reason why there is none."""

    image_id: str
    label: str | None
    rle: str | None
    height: int | None
    width: int | None
    problem: str | None = None


class Output:
    """A folder of partitions, on local disk or at any fsspec URL."""

    def __init__(self, url: str):
        self._files, self._folder = split_url(url)
        self.url = self._files.unstrip_protocol(self._folder)  # absolute: the same in every process

    def start(self, inputs: pd.DataFrame, model: str, rows: int) -> None:
        """Write _plan.json, or check that the existing one describes the same prediction.

        Args:
            model: identifies the bundle.
            rows: images per partition.

        Raises:
            ValueError: if the folder has partitions of other images, another bundle or another size, or no _plan.json.
        """
        plan = {"images": len(inputs), "inputs": inputs_digest(inputs), "model": model, "rows": rows}
        found = self._plan()
        for key in () if found is None else plan:
            if found.get(key) != plan[key]:
                raise ValueError(
                    f"{self.url} was started with {key} = {found.get(key)}, now it is {plan[key]}: give another "
                    f"--output, or remove it"
                )
        if found is None and any(_is_partition(name) for name in self._names()):
            raise ValueError(f"{self.url} has partitions but no {PLAN_FILE}: give another --output")
        for name in self._names():  # left over by killed runs
            if is_orphaned(name):
                self._remove(f"{self._folder}/{name}")
        if found is None:
            self._write(PLAN_FILE, json.dumps(plan, indent=1).encode())

    def _plan(self) -> dict[str, object] | None:
        path = f"{self._folder}/{PLAN_FILE}"
        if not self._files.exists(path):
            return None
        try:
            return dict(json.loads(self._files.cat_file(path)))
        except (ValueError, TypeError):
            raise ValueError(
                f"{self.url}/{PLAN_FILE}: expected the plan of a batch prediction: give another --output, or remove it"
            ) from None

    def missing(self, count: int) -> list[int]:
        """The numbers below `count` whose partition is not written yet."""
        there = set(self._names())
        return [number for number in range(count) if _name(number) not in there]

    def _names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            return [path.rpartition("/")[2] for path in self._files.ls(self._folder, detail=False)]
        except FileNotFoundError:
            return []

    def write(self, number: int, rows: Iterable[MaskRow]) -> None:
        """Write a partition atomically.

        Raises:
            ValueError: if it cannot be written.
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
        self._write(_name(number), buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        """Write to a temporary name, then rename: readers and other runs never see a partial file."""
        path, partial = f"{self._folder}/{name}", f"{self._folder}/{temporary_name(name)}"
        try:
            self._files.makedirs(self._folder, exist_ok=True)
            with self._files.open(partial, "wb") as file:
                file.write(content)
            self._files.mv(partial, path)
        except OSError as error:
            self._remove(partial)
            remedy = "free some space" if error.errno in DISK_FULL else "fix that"
            raise ValueError(
                f"{self.url}/{name}: cannot be written ({error}): {remedy}, and run the same command again to resume"
            ) from error
        except BaseException:  # such as KeyboardInterrupt
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
    """The number of partitions of `rows` images each; the last one may be smaller."""
    return -(-images // rows)
