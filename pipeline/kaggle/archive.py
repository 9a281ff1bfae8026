"""Archives taken apart without trust: nothing lands outside the folder, nothing fills the disk, nothing is half."""

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from pipeline.files import atomic_write
from pipeline.progress import track

BOMB_RATIO, BOMB_BYTES = 200, 1 << 30  # that many times its packed size, and more than that: no competition's data
DEEPEST = 3  # zips in zips; Kaggle ships a zip in a zip, and a zip can hold itself


def unpack(archive: Path, folder: Path, depth: int = 1) -> list[Path]:
    """Unpack a zip, and the zips in it, into a folder; each zip is removed once all in it is unpacked whole.

    What is there in its full size is not unpacked again, so that a run that was cut off goes on. A zip inside,
    train.zip, becomes the folder train/.

    Args:
        depth: of zips in zips, from 1.

    Returns:
        the files, without the zips inside.

    Raises:
        ValueError: for a damaged or encrypted zip, a member that would land outside the folder, one that blows up,
            and zips in zips without end.
        OSError: if the disk has no room, before anything is written.
    """
    if depth > DEEPEST:
        raise ValueError(f"{archive}: a zip in a zip, {depth} deep: do not trust it")
    try:
        files = _extract_all(archive, folder)
        inside = [(path, _place_of(path)) for path in files if path.suffix == ".zip"]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: a damaged zip ({error}): remove it, and run the command again") from None
    except RuntimeError as error:  # zipfile's, for secrets and for packings that it does not know
        raise ValueError(f"{archive}: cannot be unpacked here ({error}): unpack it by hand into {folder}") from None
    unpacked = [path for path in files if path.suffix != ".zip"]
    for path, place in inside:
        unpacked += unpack(path, place, depth + 1)
    archive.unlink()  # last: until then it says that there is more to do
    return unpacked


def _extract_all(archive: Path, folder: Path) -> list[Path]:
    with zipfile.ZipFile(archive) as packed:
        members = [member for member in packed.infolist() if not member.is_dir()]
        _check(archive, folder, members)
        return [_extract(packed, member, folder) for member in track(members, f"unpack {archive.name}")]


def _place_of(archive: Path) -> Path:
    """Where a zip inside belongs: a folder of its name, unless all that it holds lies in such a folder already."""
    with zipfile.ZipFile(archive) as packed:
        tops = {name.partition("/")[0] for name in packed.namelist()}
    return archive.parent if tops == {archive.stem} else archive.with_suffix("")


def _check(archive: Path, folder: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip before anything of it is written."""
    for member in members:
        if _leaves(member):
            raise ValueError(
                f"{archive}: member '{member.filename}' would land outside of {folder}: do not trust this zip"
            )
    # The archive's own size: members may overlap, so that their packed sizes add up to more than there is.
    total, packed = sum(member.file_size for member in members), archive.stat().st_size
    if total > BOMB_BYTES and total > BOMB_RATIO * packed:
        raise ValueError(f"{archive}: {packed >> 20} MiB would become {total >> 20} MiB: do not trust this zip")
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(member.file_size for member in members if not _is_there(member, folder))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{archive}: needs {needed >> 20} MiB, and {folder} has {free >> 20} MiB left: make room")


def _leaves(member: zipfile.ZipInfo) -> bool:
    """Whether a member points out of its folder: upwards, from the root or a drive, or by a link."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    drive = path.parts[:1] and ":" in path.parts[0]
    return bool(path.is_absolute() or ".." in path.parts or drive or stat.S_ISLNK(member.external_attr >> 16))


def _is_there(member: zipfile.ZipInfo, folder: Path) -> bool:
    path = folder / member.filename
    return path.is_file() and path.stat().st_size == member.file_size


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> Path:
    path = folder / member.filename
    if not _is_there(member, folder):
        # No more than the stated size is ever written, and the checksum is compared at the end.
        with atomic_write(path) as unfinished, packed.open(member) as source, unfinished.open("wb") as target:
            shutil.copyfileobj(source, target)
    return path
