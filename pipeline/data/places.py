"""Which file belongs to which image id."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd


def find_files(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, Path]:
    """Files by id: of the folder itself by their suffix, or of all folders below it by a pattern.

    Args:
        suffix: of the file's name; what comes before it is the id.
        pattern: a regular expression for the whole path below the folder; its groups, joined by "_", are the id.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two files of one id.
    """
    files: dict[str, Path] = {}
    for image_id, path in _named(folder, suffix, pattern):
        if image_id in files:
            raise ValueError(f"{path} and {files[image_id]} are both image '{image_id}': mend the card's pattern")
        files[image_id] = path
    return files


def find_parts(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, tuple[Path, ...]]:
    """As `find_files`, but all files of an id, sorted: a mask may have a file for each object."""
    files: dict[str, list[Path]] = {}
    for image_id, path in _named(folder, suffix, pattern):
        files.setdefault(image_id, []).append(path)
    return {image_id: tuple(sorted(paths)) for image_id, paths in files.items()}


def _named(folder: Path, suffix: str, pattern: str | None) -> Iterator[tuple[str, Path]]:
    """Each file with its id."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: unpack the competition's images there")
    if pattern is None:
        yield from ((path.name.removesuffix(suffix), path) for path in folder.iterdir() if path.name.endswith(suffix))
        return
    whole = re.compile(pattern)
    for path in sorted(folder.rglob("*")):
        if found := whole.fullmatch(path.relative_to(folder).as_posix()):
            yield "_".join(part for part in found.groups() if part), path


def match_files(ids: pd.Series, files: dict[str, Path], folder: Path, *, skip_lost: bool) -> list[Path | None]:
    """The file of each id; ids and files must be the same set, but for lost files with `skip_lost`, which are None.

    Raises:
        ValueError: for ids without a file, and files without an id, with the first.
    """
    if wrong := mismatches(ids, files, folder, skip_lost=skip_lost):
        raise ValueError(wrong[0])
    return [files.get(image_id) for image_id in ids]


def mismatches(ids: pd.Series, files: dict[str, Path], folder: Path, *, skip_lost: bool) -> list[str]:
    """What `match_files` refuses: ids without a file, and files without an id, a line each."""
    lines = []
    without = sorted(set(ids) - set(files))
    if without and not skip_lost:
        lines.append(
            f"{folder}: no image for {len(without)} of {len(ids)} ids of the CSV, the first is '{without[0]}': "
            f"get the file, or leave it out with --skip-bad"
        )
    strangers = sorted(set(files) - set(ids))
    if strangers:
        lines.append(
            f"{folder}: {len(strangers)} of {len(files)} images have no row in the CSV, the first is "
            f"'{files[strangers[0]].relative_to(folder)}': add a row or remove the file. If images without a row are "
            f'images without a mask, set rowless = "empty" on the card; if they are no training images, "ignore"'
        )
    return lines
