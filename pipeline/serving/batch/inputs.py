"""The images to predict: a glob pattern or a table of paths, on local disk or at any fsspec URL."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline.data.file_index import is_hidden
from pipeline.quoting import listed

LOCAL = "file://"
TEXT_TYPE = pa.large_string()  # 64-bit offsets: a column may exceed 2 GiB
CHUNK_SIZE = 10_000  # images that are Python objects at the same time


class Input(NamedTuple):
    """An image to predict."""

    image_id: str
    path: str  # a URL


class Inputs(Sequence[Input]):
    """Images to predict, in order, stored as two Arrow columns: about 100 bytes per image instead of 500.

    Args:
        columns: batches of image_id and path.
    """

    def __init__(self, columns: Sequence[pa.RecordBatch]):
        self._table = pa.Table.from_batches(columns, pa.schema([("image_id", TEXT_TYPE), ("path", TEXT_TYPE)]))

    @property
    def ids(self) -> pa.ChunkedArray:
        """The column of image ids."""
        return self._table["image_id"]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, at: int | slice) -> Input | list[Input]:
        numbers = range(len(self))[at]
        if isinstance(numbers, int):
            return self[numbers : numbers + 1][0]
        part = self._table.slice(numbers.start, len(numbers))  # a step other than 1 is not supported
        return list(map(Input, part["image_id"].to_pylist(), part["path"].to_pylist()))

    def __iter__(self) -> Iterator[Input]:
        for start in range(0, len(self), CHUNK_SIZE):
            yield from self[start : start + CHUNK_SIZE]


def split_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Split a URL into its file system and the path in it.

    Raises:
        ValueError: for an unknown protocol, or one whose package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: a package is not installed: {error}") from None


def list_inputs(source: str) -> Inputs:
    """List the images of a glob pattern, sorted by path, or of a Parquet table with a column path, in its order.

    The ids are the table's column image_id; without it, the file names without suffix.

    Raises:
        FileNotFoundError: if nothing matches.
        ValueError: for a table whose paths or ids are not text, and for two images with the same id.
    """
    inputs = Inputs(list(_of_table(source) if source.endswith(".parquet") else _of_pattern(source)))
    if not inputs:
        raise FileNotFoundError(f"{source}: it lists no image")
    duplicates = len(inputs) - len(pc.unique(inputs.ids))
    if duplicates:
        found = pc.value_counts(inputs.ids)
        first = found.filter(pc.greater(found.field("counts"), 1))[0]["values"]
        raise ValueError(
            f"{source}: {duplicates} of {len(inputs)} images share an id, the first is '{first}': give a "
            f".parquet with columns path and image_id"
        )
    return inputs


def _of_pattern(pattern: str) -> Iterator[pa.RecordBatch]:
    files, path = split_url(pattern)
    if _is_local(files):
        paths = glob.iglob(path, recursive=True)  # noqa: PTH207 - text, for a million of them
        urls = [LOCAL + path for path in sorted(paths) if _is_image(path) and os.path.isfile(path)]  # noqa: PTH113
    else:
        chain = "".join(pattern.partition("::")[1:])  # of "zip://*.png::images.zip": "::images.zip"
        found = files.glob(path, detail=True)
        paths = [path for path in sorted(found) if _is_image(path) and found[path]["type"] == "file"]
        urls = [files.unstrip_protocol(path) + chain for path in paths]
    if not urls:
        hint = (
            f"it is a folder: give a pattern, such as {pattern.rstrip('/')}/*.png"
            if files.isdir(path)
            else "quote the pattern, so that the shell does not expand it"
        )
        raise FileNotFoundError(f"{pattern}: no file matches: {hint}")
    for start in range(0, len(urls), CHUNK_SIZE):
        some = urls[start : start + CHUNK_SIZE]
        yield _columns(map(_stem, some), some)


def _of_table(source: str) -> Iterator[pa.RecordBatch]:
    files, path = split_url(source)
    if not files.exists(path):
        raise FileNotFoundError(f"{source}: no such file")
    table = ds.dataset(path, filesystem=files, format="parquet")
    names = table.schema.names
    if "path" not in names:
        raise ValueError(f"{source}: no column 'path', found {listed(names)}")
    wanted = [name for name in ("path", "image_id") if name in names]
    for name in wanted:
        _check_type(source, name, table.schema.field(name).type)
    row = 0
    for batch in table.to_batches(columns=wanted, batch_size=CHUNK_SIZE):
        columns = {name: _texts(source, batch, name, row) for name in wanted}
        urls = list(map(_with_protocol, columns["path"]))
        for url in {url.partition("://")[0]: url for url in urls}.values():  # one per protocol
            split_url(url)  # an unsupported protocol fails here, not after an hour
        yield _columns(columns.get("image_id") or map(_stem, urls), urls)
        row += len(batch)


def _check_type(source: str, name: str, found: pa.DataType) -> None:
    found = found.value_type if pa.types.is_dictionary(found) else found
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if not is_text and not (name == "image_id" and pa.types.is_integer(found)):
        raise ValueError(f"{source}: column '{name}' is of type {found}, expected text: write it as strings")


def _texts(source: str, batch: pa.RecordBatch, name: str, row: int) -> list[str]:
    """Return a column as strings.

    Raises:
        ValueError: if a value is missing or empty.
    """
    values = batch[name].to_pylist()
    for at, value in enumerate(values):
        if value is None or value == "":
            raise ValueError(f"{source}: row {row + at} (from 0) has no {name}: fill it in, or leave the row out")
    return list(map(str, values))


def _columns(ids: Iterator[str] | Sequence[str], paths: Sequence[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(ids, TEXT_TYPE), pa.array(paths, TEXT_TYPE)], names=["image_id", "path"])


def _is_local(files: fsspec.AbstractFileSystem) -> bool:
    return "file" in files.protocol


def _is_image(path: str) -> bool:
    """Whether a file is not hidden, such as ._im1.png of macOS."""
    return not is_hidden(path.rpartition("/")[2])


def _with_protocol(path: str) -> str:
    """Return an absolute URL: other processes may have another working directory."""
    return path if "://" in path else LOCAL + os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - quick


def _stem(path: str) -> str:
    name = path.partition("::")[0].rpartition("/")[2]
    return name.rpartition(".")[0] or name


def inputs_digest(inputs: Sequence[Input]) -> str:
    """A hash of ids and paths, which identifies a list of images."""
    found = hashlib.sha256()
    for each in inputs:
        found.update(f"{each.image_id}\0{each.path}\n".encode())
    return found.hexdigest()[:16]


@contextmanager
def local_copies(inputs: Sequence[Input]) -> Iterator[list[tuple[str, Path | None]]]:
    """Copy remote images to local files, which are deleted when the block ends.

    Yields id and local path of each image; None for a file that does not exist.
    """
    with TemporaryDirectory() as folder:
        yield [(each.image_id, _local(each.path, Path(folder) / str(at))) for at, each in enumerate(inputs)]


def _local(url: str, copy: Path) -> Path | None:
    if url.startswith(LOCAL):
        return Path(url.removeprefix(LOCAL))
    files, path = split_url(url)
    if _is_local(files):
        return Path(path)
    copy = copy.with_suffix(Path(path).suffix)  # the reader is selected by the suffix
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        return None
    return copy
