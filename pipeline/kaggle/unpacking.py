"""Archives taken apart without trust: nothing lands outside the folder, nothing fills the disk, nothing is half."""

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from pipeline.files import whole
from pipeline.progress import track

BOMB_RATIO, BOMB_BYTES = 200, 1 << 30  # that many times its packed size, and more than that: no competition's data


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack a zip, and the zips in it, into a folder; the zips are removed once they are unpacked whole.

    What is there in its full size is not unpacked again, so that a run that was cut off goes on. A zip inside,
    train.zip, becomes the folder train/.

    Returns:
        the files, without the zips inside.

    Raises:
        ValueError: for a damaged zip, a member that would land outside the folder, and one that blows up.
        OSError: if the disk has no room, before anything is written.
    """
    files: list[Path] = []
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            _check(archive, folder, members)
            for member in track(members, f"unpack {archive.name}"):
                files.append(_extract(packed, member, folder))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive}: a damaged zip ({error}): remove it, and run the command again") from None
    archive.unlink()
    return [file for each in files for file in ([each] if each.suffix != ".zip" else unpack(each, _place_of(each)))]


def _place_of(archive: Path) -> Path:
    """Where a zip inside belongs: a folder of its name, unless all that it holds lies in such a folder already."""
    with zipfile.ZipFile(archive) as packed:
        tops = {PurePosixPath(name).parts[0] for name in packed.namelist()}
    return archive.parent if tops == {archive.stem} else archive.with_suffix("")


def _check(archive: Path, folder: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or _is_link(member):
            raise ValueError(
                f"{archive}: member '{member.filename}' would land outside of {folder}: do not trust this zip"
            )
    total, packed = (sum(getattr(member, size) for member in members) for size in ("file_size", "compress_size"))
    if total > BOMB_BYTES and total > BOMB_RATIO * packed:
        raise ValueError(f"{archive}: {packed >> 20} MiB would become {total >> 20} MiB: do not trust this zip")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if total > free:
        raise OSError(f"{archive}: needs {total >> 20} MiB, and {folder} has {free >> 20} MiB left: make room")


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    path = folder / member.filename
    if not (path.is_file() and path.stat().st_size == member.file_size):
        with whole(path) as unfinished, packed.open(member) as source, unfinished.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path
