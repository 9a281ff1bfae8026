"""Which images to predict: a pattern of paths, or a table of them, on local disk or behind any fsspec URL."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import fsspec
import pandas as pd


class Input(NamedTuple):
    """An image to predict."""

    image_id: str
    path: str  # local, or a URL


def list_inputs(source: str) -> list[Input]:
    """The images of a glob pattern, sorted by path; or of a Parquet table with columns path and image_id, in its order.

    Without image_id, an image is called as its file, without the suffix.

    Raises:
        FileNotFoundError: if nothing matches.
        ValueError: for a table without paths, and for two images of one id.
    """
    inputs = _of_table(source) if source.endswith(".parquet") else _of_pattern(source)
    if not inputs:
        raise FileNotFoundError(f"{source}: no file matches: quote the pattern, so that the shell leaves it alone")
    ids = pd.Series([each.image_id for each in inputs])
    again = ids[ids.duplicated()]
    if len(again):
        raise ValueError(
            f"{source}: {len(again)} of {len(ids)} images have the id of another, the first is '{again.iloc[0]}': give "
            f"a .parquet with columns path and image_id"
        )
    return inputs


def _of_pattern(pattern: str) -> list[Input]:
    files, _, paths = fsspec.get_fs_token_paths(pattern, expand=True)
    return [Input(_stem(path), files.unstrip_protocol(path)) for path in sorted(paths) if files.isfile(path)]


def _of_table(source: str) -> list[Input]:
    table = pd.read_parquet(source)
    if "path" not in table:
        raise ValueError(f"{source}: no column 'path', found {', '.join(map(str, table.columns))}")
    paths = table["path"].astype(str).map(_whole)
    ids = table["image_id"].astype(str) if "image_id" in table else paths.map(_stem)
    return list(map(Input, ids, paths))


def _whole(path: str) -> str:
    """With its protocol: another process stands elsewhere."""
    files, path = fsspec.core.url_to_fs(path)
    return files.unstrip_protocol(path)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


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
    files, path = fsspec.core.url_to_fs(url)
    if "file" in files.protocol:
        return Path(path)
    copy = copy.with_suffix(Path(path).suffix)  # the suffix says what reads it
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        return None
    return copy
