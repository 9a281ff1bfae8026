"""Atomic writes of files and folders, and a lock on a file that the kernel releases when its process ends."""

import errno
import glob
import hashlib
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

import psutil

try:
    import fcntl
except ImportError:  # Windows: msvcrt is used instead
    fcntl = None

log = logging.getLogger(__name__)

DISK_FULL_BELOW = 1 << 20  # free bytes below which a failed write is reported as a full disk
LOCKS_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # errors of file systems without locks
LOCK_OFFSET = 1 << 30  # byte that is locked on Windows: far behind the text, which stays readable for all processes
POLL_INTERVAL = 0.1  # seconds between two attempts to acquire a lock that another process holds
TEMPORARY_NAME = re.compile(r"\..*\.(?P<host>[\w-]*)\.(?P<process>\d+)\.[0-9a-f]{8}\.part", re.DOTALL)
DAY = 24 * 3600  # seconds
START = 160  # bytes of a file that tell its format

# What may have been downloaded instead of a file, by a regular expression for its first bytes; and what to do.
FAILED_DOWNLOADS = {
    rb"$": "empty: get the file again",
    rb"version https://git-lfs": "a pointer of Git LFS: get the file itself (git lfs pull)",
    rb"\s*<(!DOCTYPE|!doctype|html|HTML|\?xml)": "a web page or XML: get the file again",
}


def temporary_name(name: str) -> str:
    """A hidden name for the unfinished file or folder `name`, unique over all processes and machines."""
    return f".{name[:50]}.{_host()}.{os.getpid()}.{uuid4().hex[:8]}.part"


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)[:40]


def is_orphaned(name: str, age: float = 0) -> bool:
    """Whether a name was made by `temporary_name` in a process that has ended.

    Args:
        age: seconds since the file last changed. The processes of other machines are not visible here: their files
            count as orphaned after a day without a change.
    """
    found = TEMPORARY_NAME.fullmatch(name)
    if not found:
        return False
    return not psutil.pid_exists(int(found["process"])) if found["host"] == _host() else age > DAY


def remove_orphans(folder: Path, pattern: str = "**/.*.part") -> None:
    """Remove the temporary files and folders of killed processes that match `pattern` below a folder."""
    for path in sorted(folder.glob(pattern)):
        if is_orphaned(path.name, _age(path)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """Seconds since the path last changed."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # renamed or removed in the meantime
        return 0


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    The rename is atomic: a reader sees the old file or the new one, never a part of it. If the block fails (full
    disk, kill, exception), `path` stays as it was. Temporary files of this path from killed processes are removed
    first.

    Raises:
        OSError: if the disk is full, or the file exceeds the process's limit for file sizes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path.parent, f".{glob.escape(path.name[:50])}.*.part")
    partial = path.with_name(temporary_name(path.name))
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows does not flush a file that is open for reading only
            os.fsync(file.fileno())
        partial.replace(path)
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        # torch and safetensors wrap the system's error; safetensors fails before the disk is completely full.
        if free < DISK_FULL_BELOW or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(
                errno.ENOSPC,
                f"{path}: the disk is full ({free >> 10} KiB left): free some space and run the command again",
            ) from error
        if os.strerror(errno.EFBIG) in str(error) or _reaches_size_limit(partial):
            raise OSError(
                errno.EFBIG,
                f"{path}: the file exceeds this process's file size limit (ulimit -f): raise the limit and run the "
                f"command again",
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _reaches_size_limit(path: Path) -> bool:
    """Whether a file is as large as this process may write one; torch's error does not give the reason."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return False
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return limit != resource.RLIM_INFINITY and path.is_file() and path.stat().st_size >= limit


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and rename it to `path` when the block ends without an error.

    Args:
        replace: an existing folder stays until the new one is complete; no file system replaces a folder in one step,
            so for the time of two renamings there is none.

    Raises:
        FileExistsError: if `path` already exists, unless it is replaced.
    """
    if path.exists() and not replace:
        raise FileExistsError(f"{path} already exists: remove it to generate it again")
    partial = path.with_name(temporary_name(path.name))
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.exists():
            path.rename(old := path.with_name(temporary_name(path.name)))
            partial.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 text file atomically, with "\n" line ends on every system."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def file_lock(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock, on this machine or on any that shares the file system.

    The kernel releases the lock when the process ends, after `kill -9` too. The lock's file stays and holds the
    process number and the host of its current or last owner. Orphaned temporary files in the file's folder and below
    it are removed.

    Args:
        path: the lock's file.
        what: the name of what is locked, for messages.
        wait: whether to wait until the current owner releases the lock.

    Raises:
        ValueError: if another process holds the lock and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file, _system_lock(file, path, what, wait):
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_orphans(path.parent)
        yield


@contextmanager
def _system_lock(file: TextIO, path: Path, what: str, wait: bool) -> Iterator[None]:
    """Hold the system's lock of an open file; log a warning where the file system has no locks."""
    try:
        _acquire(file, path, what, wait)
    except OSError as error:
        if error.errno not in LOCKS_UNSUPPORTED:
            raise
        log.warning("%s: this file system does not support locks: run no other process on %s", path, what)
        yield
        return
    try:
        yield
    finally:
        _release(file)


def _acquire(file: TextIO, path: Path, what: str, wait: bool) -> None:
    waited = False
    while not _try_acquire(file):
        message = f"{what} is locked by {_owner(path)}"
        if not wait:
            raise ValueError(f"{message}: run this again when that process has ended")
        if not waited:
            log.info("%s: waiting until it is released", message)
        waited = True
        time.sleep(POLL_INTERVAL)


def _owner(path: Path) -> str:
    process, _, host = path.read_text(encoding="utf-8").strip().partition(" on ")
    return f"process {process} on host {host}" if host else "another process"


def _try_acquire(file: TextIO) -> bool:
    """Acquire the system's lock of an open file; False if another process holds it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _msvcrt_lock(file, "LK_NBLCK")
    except (BlockingIOError, PermissionError):
        return False
    return True


def _release(file: TextIO) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_UN)  # a forked child has the file open too, so closing it is not enough
    else:
        _msvcrt_lock(file, "LK_UNLCK")


def _msvcrt_lock(file: TextIO, mode: str) -> None:
    import msvcrt

    os.lseek(file.fileno(), LOCK_OFFSET, os.SEEK_SET)
    msvcrt.locking(file.fileno(), getattr(msvcrt, mode), 1)
