"""Unpacks untrusted zip files: nothing is written outside the folder, and no file is left incomplete."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.files import atomic_write, write_text
from pipeline.progress import track

MAX_RATIO, MAX_BYTES = 200, 1 << 30  # a zip that exceeds both when unpacked is taken for a zip bomb
MAX_DEPTH = 3  # of zips in zips: Kaggle nests two, and a zip can contain itself


def unpack(archive: Path, folder: Path, depth: int = 1) -> list[Path]:
    """Unpack a zip and the zips in it into a folder; each zip is deleted after all its files are unpacked.

    A file that exists in its full size is not unpacked again, so an interrupted run resumes. An inner train.zip is
    unpacked into the folder train/.

    Args:
        depth: of zips in zips, from 1.

    Returns:
        the files, without the inner zips.

    Raises:
        ValueError: for a damaged or encrypted zip, a path outside the folder, a zip bomb, and zips nested deeper than
            MAX_DEPTH.
        OSError: if the files do not fit on the disk; nothing is written then.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{archive}: zips nested {depth} deep, expected at most {MAX_DEPTH}: do not trust it")
    unpacked = _unpack_nested(archive, folder, depth)
    archive.unlink()  # last: as long as it exists, unpacking is not complete
    return unpacked


def unpack_copy(archive: Path, folder: Path, *, alone: bool) -> None:
    """As `unpack`, but the zip stays. A hidden file in the folder records that it was unpacked, and is not again.

    Args:
        alone: the zip has all files, so they go into the folder itself; else, as an inner zip, into one of its name.

    Raises:
        ValueError, OSError: as `unpack`.
    """
    record, stat = folder / f".{archive.name}.unpacked", archive.stat()
    version = f"{stat.st_size} {stat.st_mtime_ns}\n"
    if record.is_file() and record.read_text(encoding="utf-8") == version:
        return
    try:
        target = folder if alone else folder / _inner_folder(archive).relative_to(archive.parent)
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive}: damaged zip ({error}): get it again") from None
    _unpack_nested(archive, target, depth=1)
    write_text(record, version)


def is_unpacked_beside(archive: Path) -> bool:
    """Whether all files of a zip are in its folder, or in one of its name beside it, as after unpacking by hand."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, OSError):
        return False
    folders = (archive.parent, archive.with_suffix(""))
    return any(all(_is_unpacked(member, folder) for member in members) for folder in folders)


def _unpack_nested(archive: Path, folder: Path, depth: int) -> list[Path]:
    try:
        files = _extract_all(archive, folder)
        inner = [(path, _inner_folder(path)) for path in files if path.suffix == ".zip"]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: damaged zip ({error}): remove it, and run the command again") from None
    except RuntimeError as error:  # an encrypted zip, or an unknown compression method
        raise ValueError(f"{archive}: cannot be unpacked here ({error}): unpack it by hand into {folder}") from None
    unpacked = [path for path in files if path.suffix != ".zip"]
    for path, target in inner:
        unpacked += unpack(path, target, depth + 1)
    return unpacked


def _extract_all(archive: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(archive) as packed:
        members = [member for member in packed.infolist() if not member.is_dir()]
        _check(archive, folder, members)
        return [_extract(packed, member, folder) for member in track(members, f"unpack {archive.name}")]


def _inner_folder(archive: Path) -> Path:
    """The folder that an inner zip is unpacked into: one of its name, unless all its paths start with that name."""
    with zipfile.ZipFile(archive) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
    return archive.parent if tops == {archive.stem} else archive.with_suffix("")


def _check(archive: Path, folder: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise an error for an untrusted or too large zip before anything is written."""
    for member in members:
        if _is_outside(member):
            raise ValueError(f"{archive}: '{member.filename}' would be written outside {folder}: do not trust this zip")
    # Compare with the size of the archive: members may overlap, so the sum of their packed sizes can be larger.
    total, packed = sum(member.file_size for member in members), archive.stat().st_size
    if total > MAX_BYTES and total > MAX_RATIO * packed:
        raise ValueError(
            f"{archive}: {packed >> 20} MiB would become {total >> 20} MiB unpacked: do not trust this zip"
        )
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(member.file_size for member in members if not _is_unpacked(member, folder))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{archive}: needs {needed >> 20} MiB, {folder} has {free >> 20} MiB free: free some space")


def _is_outside(member: zipfile.ZipInfo) -> bool:
    """Whether a member leads outside the folder: by "..", an absolute path, a drive, or a symbolic link."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    drive = path.parts[:1] and ":" in path.parts[0]
    return bool(path.is_absolute() or ".." in path.parts or drive or stat.S_ISLNK(member.external_attr >> 16))


def _is_unpacked(member: zipfile.ZipInfo, folder: Path) -> bool:
    path = folder / member.filename
    return path.is_file() and path.stat().st_size == member.file_size


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    path = folder / member.filename
    if not _is_unpacked(member, folder):
        # zipfile writes no more than the stated size, and compares the checksum at the end.
        with atomic_write(path) as partial, packed.open(member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path
