"""Files that appear whole or not at all, and a lock that dies with its process."""

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

FULL = 1 << 20  # bytes left below which a failed write is put down to the disk
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}  # of a file system


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` once the block ends without an error.

    The rename is atomic, so a reader sees the old file or the new one, never a half. When the block
    fails (a full disk, a kill, an exception) `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The process id keeps two processes that write the same file out of each other's way.
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as file:
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
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def locked(path: Path, what: str, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock that one process has at a time, here or on any machine that shares the file system.

    The kernel holds it for the process and takes it back when that one ends, `kill -9` included: no lock is ever
    stale. The file stays and says who has it, or had it last: its process number, and the machine.

    Args:
        path: the lock's file.
        what: is locked, for the line that says who is waited for.
        wait: until whoever has it is done.

    Raises:
        ValueError: if another has it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _lock(file, path, what, wait)
        try:
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child that was forked has the file open too


def _lock(file: TextIO, path: Path, what: str, wait: bool) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8").strip() or "unknown"
            if not wait:
                raise ValueError(f"{what} is in the hands of another process ({owner}): wait for it") from None
            log.info("%s is in the hands of another process (%s): waiting for it", what, owner)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks: see to it that no other process works on %s", path, what)
