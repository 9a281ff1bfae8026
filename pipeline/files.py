"""Files that appear whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = 1 << 20  # bytes left below which a failed write is put down to the disk


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
