"""Which images to predict: a pattern of paths, or a table of them, on local disk or behind any fsspec URL."""

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

HERE = "file://"
TEXT = pa.large_string()  # of any length in all
AT_ONCE = 10_000  # images, where each needs Python's own objects for a moment


class Input(NamedTuple):
    """An image to predict."""

    image_id: str
    path: str  # a URL


class Inputs(Sequence[Input]):
    """Images to predict, in order; held as two columns of text, some 100 bytes per image in place of 500.

    Args:
        columns: batches of image_id and path.
    """

    def __init__(self, columns: Sequence[pa.RecordBatch]):
        self._table = pa.Table.from_batches(columns, pa.schema([("image_id", TEXT), ("path", TEXT)]))

    @property
    def ids(self) -> pa.ChunkedArray:
        """Their ids, a column."""
        return self._table["image_id"]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, at: int | slice) -> Input | list[Input]:
        numbers = range(len(self))[at]
        if isinstance(numbers, int):
            return self[numbers : numbers + 1][0]
        part = self._table.slice(numbers.start, len(numbers))  # without steps: nobody asks for every other image
        return list(map(Input, part["image_id"].to_pylist(), part["path"].to_pylist()))

    def __iter__(self) -> Iterator[Input]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]


def opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError: for a protocol that nobody knows, or whose package is not here.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: a package is not here: {error}") from None


def list_inputs(source: str) -> Inputs:
    """The images of a glob pattern, sorted by path; or of a Parquet table with columns path and image_id, in its order.

    Without image_id, an image is called as its file, without the suffix.

    Raises:
        FileNotFoundError: if nothing matches.
        ValueError: for a table without paths or ids that are text, and for two images of one id.
    """
    inputs = Inputs(list(_of_table(source) if source.endswith(".parquet") else _of_pattern(source)))
    if not inputs:
        raise FileNotFoundError(f"{source}: no image is listed in it")
    again = len(inputs) - len(pc.unique(inputs.ids))
    if again:
        found = pc.value_counts(inputs.ids)
        first = found.filter(pc.greater(found.field("counts"), 1))[0]["values"]
        raise ValueError(
            f"{source}: {again} of {len(inputs)} images have the id of another, the first is '{first}': give a "
            f".parquet with columns path and image_id"
        )
    return inputs


def _of_pattern(pattern: str) -> Iterator[pa.RecordBatch]:
    files, inside = opened(pattern)
    if _is_local(files):
        paths = glob.iglob(inside, recursive=True)  # noqa: PTH207 - text, for a million of them
        urls = [HERE + path for path in sorted(paths) if _is_image(path) and os.path.isfile(path)]  # noqa: PTH113
    else:
        chain = "".join(pattern.partition("::")[1:])  # "zip://*.png::images.zip": what the files lie in
        found = files.glob(inside, detail=True)
        paths = [path for path in sorted(found) if _is_image(path) and found[path]["type"] == "file"]
        urls = [files.unstrip_protocol(path) + chain for path in paths]
    if not urls:
        hint = (
            f"it is a folder, give a pattern, such as {pattern.rstrip('/')}/*.png"
            if files.isdir(inside)
            else "quote the pattern, so that the shell leaves it alone"
        )
        raise FileNotFoundError(f"{pattern}: no file matches: {hint}")
    for start in range(0, len(urls), AT_ONCE):
        some = urls[start : start + AT_ONCE]
        yield _columns(map(_stem, some), some)


def _of_table(source: str) -> Iterator[pa.RecordBatch]:
    files, inside = opened(source)
    if not files.exists(inside):
        raise FileNotFoundError(f"{source}: no such file")
    table = ds.dataset(inside, filesystem=files, format="parquet")
    names = table.schema.names
    if "path" not in names:
        raise ValueError(f"{source}: no column 'path', found {', '.join(names)}")
    wanted = [name for name in ("path", "image_id") if name in names]
    for name in wanted:
        _check_type(source, name, table.schema.field(name).type)
    row = 0
    for batch in table.to_batches(columns=wanted, batch_size=AT_ONCE):
        columns = {name: _texts(source, batch, name, row) for name in wanted}
        urls = list(map(_whole, columns["path"]))
        for url in {url.partition("://")[0]: url for url in urls}.values():  # one of each protocol
            opened(url)  # what cannot be, now and not after an hour
        yield _columns(columns.get("image_id") or map(_stem, urls), urls)
        row += len(batch)


def _check_type(source: str, name: str, found: pa.DataType) -> None:
    found = found.value_type if pa.types.is_dictionary(found) else found
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if not is_text and not (name == "image_id" and pa.types.is_integer(found)):
        raise ValueError(f"{source}: column '{name}' is of type {found}, expected text: write it as strings")


def _texts(source: str, batch: pa.RecordBatch, name: str, row: int) -> list[str]:
    """A column's values.

    Raises:
        ValueError: if one is missing, or empty.
    """
    values = batch[name].to_pylist()
    for at, value in enumerate(values):
        if value is None or value == "":
            raise ValueError(f"{source}: row {row + at} (from 0) has no {name}: fill it in, or leave the row out")
    return list(map(str, values))


def _columns(ids: Iterator[str] | Sequence[str], paths: Sequence[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(ids, TEXT), pa.array(paths, TEXT)], names=["image_id", "path"])


def _is_local(files: fsspec.AbstractFileSystem) -> bool:
    return "file" in files.protocol


def _is_image(path: str) -> bool:
    """Whether a file is none of the system's, such as macOS's ._im1.png."""
    return not is_hidden(path.rpartition("/")[2])


def _whole(path: str) -> str:
    """With its protocol: another process stands elsewhere."""
    return path if "://" in path else HERE + os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - quick


def _stem(path: str) -> str:
    name = path.partition("::")[0].rpartition("/")[2]
    return name.rpartition(".")[0] or name


def digest(inputs: Sequence[Input]) -> str:
    """What tells one list of images from another."""
    found = hashlib.sha256()
    for each in inputs:
        found.update(f"{each.image_id}\0{each.path}\n".encode())
    return found.hexdigest()[:16]


@contextmanager
def brought_here(inputs: Sequence[Input]) -> Iterator[list[tuple[str, Path | None]]]:
    """Ids and local files of images, until the block ends; None for one that could not be fetched."""
    with TemporaryDirectory() as folder:
        yield [(each.image_id, _local(each.path, Path(folder) / str(at))) for at, each in enumerate(inputs)]


def _local(url: str, copy: Path) -> Path | None:
    if url.startswith(HERE):
        return Path(url.removeprefix(HERE))
    files, path = opened(url)
    if _is_local(files):
        return Path(path)
    copy = copy.with_suffix(Path(path).suffix)  # the suffix says what reads it
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        return None
    return copy
