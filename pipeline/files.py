"""Files that appear whole or not at all, and a lock that dies with its process."""

import errno
import glob
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
except ImportError:  # Windows has msvcrt in its place
    fcntl = None

log = logging.getLogger(__name__)

FULL = 1 << 20  # bytes left below which a failed write is put down to the disk
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # of a file system
LOCKED_BYTE = 1 << 30  # of the file, on Windows: far behind the text, which all may read
LOOK_UP = 0.1  # seconds between two looks at a lock that another process has
UNFINISHED = re.compile(r"\..*\.(?P<host>[\w-]*)\.(?P<process>\d+)\.[0-9a-f]{8}\.part", re.DOTALL)
DAY = 24 * 3600


def unfinished(name: str) -> str:
    """A hidden name for what is to become the file or folder `name`: no other process has it, on no machine."""
    return f".{name[:50]}.{_host()}.{os.getpid()}.{uuid4().hex[:8]}.part"


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)[:40]


def is_left_over(name: str, age: float = 0) -> bool:
    """Whether a name that `unfinished` gave is of a process that lives no more.

    Args:
        age: seconds since it last changed. Processes of other machines cannot be asked for here: what they have not
            changed for a day is left over.
    """
    found = UNFINISHED.fullmatch(name)
    if not found:
        return False
    return not psutil.pid_exists(int(found["process"])) if found["host"] == _host() else age > DAY


def remove_left_overs(folder: Path, pattern: str = "**/.*.part") -> None:
    """Remove what killed processes left unfinished in a folder and those below it; or what fits another pattern."""
    for path in sorted(folder.glob(pattern)):
        if is_left_over(path.name, _age(path)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # finished meanwhile, or removed
        return 0


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` once the block ends without an error.

    The rename is atomic, so a reader sees the old file or the new one, never a half. When the block
    fails (a full disk, a kill, an exception) `path` is as it was. What killed processes left of it is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(path.parent, f".{glob.escape(path.name[:50])}.*.part")
    partial = path.with_name(unfinished(path.name))
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows flushes no file that is open for reading alone
            os.fsync(file.fileno())
        partial.replace(path)
    except Exception as error:
        free = shutil.disk_usage(path.parent).free
        # torch and safetensors report a full disk in words of their own, safetensors before it is quite full.
        if free < FULL or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(
                errno.ENOSPC,
                f"{path}: the disk is full ({free >> 10} KiB left): make room, and run the command again",
            ) from error
        if os.strerror(errno.EFBIG) in str(error) or _reaches_limit(partial):
            raise OSError(
                errno.EFBIG,
                f"{path}: the system lets this process write no file so large (ulimit -f): raise that limit, and run "
                f"the command again",
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _reaches_limit(path: Path) -> bool:
    """Whether a file is as large as this process may write one; torch does not say why it cannot write on."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return False
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return limit != resource.RLIM_INFINITY and path.is_file() and path.stat().st_size >= limit


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` once the block ends without an error.

    Raises:
        FileExistsError: if `path` is there already.
    """
    if path.exists():
        raise FileExistsError(f"{path}: is there already: remove it to generate it again")
    partial = path.with_name(unfinished(path.name))
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; lines end in a line feed on every system."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def locked(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that one process has at a time, here or on any machine that shares the file system.

    The kernel holds it for the process and takes it back when that one ends, `kill -9` included: no lock is ever
    stale. The file stays and says who has it, or had it last: its process number, and the machine. What killed
    processes left unfinished in the file's folder, and below it, is removed.

    Args:
        path: the lock's file.
        what: is locked, for the line that says who is waited for.
        wait: until the process that has it is done.

    Raises:
        ValueError: if another process has it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file, _held(file, path, what, wait):
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_left_overs(path.parent)
        yield


@contextmanager
def _held(file: TextIO, path: Path, what: str, wait: bool) -> Iterator[None]:
    """The system's lock of an open file; where there are none, a warning."""
    try:
        _take_or_wait(file, path, what, wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks: let no other process work on %s", path, what)
        yield
        return
    try:
        yield
    finally:
        _give_back(file)


def _take_or_wait(file: TextIO, path: Path, what: str, wait: bool) -> None:
    waited = False
    while not _take(file):
        owner = path.read_text(encoding="utf-8").strip() or "unknown"
        if not wait:
            raise ValueError(f"{what} is locked by another process ({owner}): wait for it")
        if not waited:
            log.info("%s is locked by another process (%s): waiting for it", what, owner)
        waited = True
        time.sleep(LOOK_UP)


def _take(file: TextIO) -> bool:
    """Take the system's lock of an open file, unless another process has it."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_byte(file, "LK_NBLCK")
    except (BlockingIOError, PermissionError):
        return False
    return True


def _give_back(file: TextIO) -> None:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked has the file open too
    else:
        _lock_byte(file, "LK_UNLCK")


def _lock_byte(file: TextIO, mode: str) -> None:
    import msvcrt

    os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
    msvcrt.locking(file.fileno(), getattr(msvcrt, mode), 1)
