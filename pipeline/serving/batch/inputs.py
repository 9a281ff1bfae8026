"""The images to predict: a glob pattern or a table of paths, on local disk or at any fsspec URL."""

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.data.file_index import is_hidden, path_regex
from pipeline.data.sample import Sample
from pipeline.quoting import listed

LOCAL = "file://"
TEXT_TYPE = pd.ArrowDtype(pa.large_string())  # a tenth of the memory of Python's; 64-bit: a column may exceed 2 GiB


def split_url(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Split a URL into its file system and the path in it.

    Raises:
        ValueError: for an unknown protocol, or one whose package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: a package is not installed: {error}") from None


def list_inputs(source: str, channels: Sequence[str] = ()) -> pd.DataFrame:
    """List the images of a glob pattern, sorted by path, or of a Parquet table with a column path, in its order.

    The ids are the table's column image_id; without it, the file names without suffix.

    Args:
        channels: the card's files.channels, if an image has several files: paths are those of the first channel, and
            have the id in them.

    Returns:
        image_id and path, an absolute URL, of each image.

    Raises:
        FileNotFoundError: if nothing matches.
        ValueError: for a table whose paths or ids are not text, for two images with the same id, and for a path that
            is no file of the first channel.
    """
    inputs = _of_table(source) if source.endswith(".parquet") else _of_pattern(source)
    if inputs.empty:
        raise FileNotFoundError(f"{source}: it lists no image")
    if channels:
        inputs = inputs.assign(image_id=[channel_urls(url, channels)[0] for url in inputs["path"]])
    ids = inputs["image_id"]
    duplicates = ids.duplicated().sum()
    if duplicates:
        first = ids[ids.duplicated(keep=False)].iloc[0]
        raise ValueError(
            f"{source}: {duplicates} of {len(inputs)} images share an id, the first is '{first}': give a "
            f".parquet with columns path and image_id"
        )
    return inputs


def channel_urls(url: str, channels: Sequence[str]) -> tuple[str, list[str]]:
    """The id in the URL of an image's first channel, and the URL of each channel.

    Args:
        channels: as for `list_inputs`; at least one.

    Raises:
        ValueError: for a URL that is no file of the first channel.

    >>> channel_urls("s3://sky/7/red.tif", ["{id}/red.tif", "{id}/blue.tif"])
    ('7', ['s3://sky/7/red.tif', 's3://sky/7/blue.tif'])
    """
    found = re.fullmatch(f"(.*/){path_regex(channels[0])}(::.*)?", url)
    if not found:
        raise ValueError(f"{url}: not a file of the first channel, {channels[0]}: list the first channel's files alone")
    folder, image_id, chain = found.groups(default="")
    return image_id, [folder + channel.replace("{id}", image_id) + chain for channel in channels]


def make_inputs(paths: Sequence[str], ids: Sequence[str]) -> pd.DataFrame:
    """A table of images to predict, as `list_inputs` returns it."""
    return pd.DataFrame({"image_id": ids, "path": paths}, dtype=TEXT_TYPE)


def _of_pattern(pattern: str) -> pd.DataFrame:
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
    return make_inputs(urls, list(map(_stem, urls)))


def _of_table(source: str) -> pd.DataFrame:
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
    columns = table.to_table(columns=wanted).to_pydict()
    for name, values in columns.items():
        for row, value in enumerate(values):
            if value is None or value == "":
                raise ValueError(f"{source}: row {row} (from 0) has no {name}: fill it in, or leave the row out")
    urls = list(map(_with_protocol, columns["path"]))
    for url in {url.partition("://")[0]: url for url in urls}.values():  # one per protocol
        split_url(url)  # an unsupported protocol fails here, not after an hour
    return make_inputs(urls, list(map(str, columns.get("image_id", map(_stem, urls)))))


def _check_type(source: str, name: str, found: pa.DataType) -> None:
    found = found.value_type if pa.types.is_dictionary(found) else found
    is_text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if not is_text and not (name == "image_id" and pa.types.is_integer(found)):
        raise ValueError(f"{source}: column '{name}' is of type {found}, expected text: write it as strings")


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


def inputs_digest(inputs: pd.DataFrame) -> str:
    """A hash of ids and paths, which identifies a list of images."""
    found = hashlib.sha256()
    for each in inputs.itertuples():
        found.update(f"{each.image_id}\0{each.path}\n".encode())
    return found.hexdigest()[:16]


@contextmanager
def local_copies(inputs: pd.DataFrame, channels: Sequence[str] = ()) -> Iterator[list[tuple[str, Sample | None]]]:
    """Copy remote images to local files, which are deleted when the block ends.

    Yields id and local files of each image; None for an image without a file.

    Args:
        channels: as for `list_inputs`.
    """
    with TemporaryDirectory() as folder:
        yield [
            (each.image_id, _local_sample(each.image_id, each.path, channels, Path(folder) / str(number)))
            for number, each in enumerate(inputs.itertuples())
        ]


def _local_sample(image_id: str, url: str, channels: Sequence[str], copy: Path) -> Sample | None:
    """The image with local files, one for each channel; a missing one is an error when it is read."""
    if not channels:
        path = _local(url, copy)
        return None if path is None else Sample(image_id, (path,))
    urls = channel_urls(url, channels)[1]
    copies = [copy.with_name(f"{copy.name}-{number}") for number in range(len(urls))]
    return Sample(image_id, tuple(_local(each, place) or place for each, place in zip(urls, copies, strict=True)))


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
