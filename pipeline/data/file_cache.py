"""What was computed from files, so that the next command does not decode them again."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline.data.medical import file_of
from pipeline.files import write_text

log = logging.getLogger(__name__)
T = TypeVar("T")


class FileCache:
    """Values by file: a value counts as long as its files have the size and the time of change that they had.

    Args:
        path: a JSON file; a damaged one is replaced. None: nothing is kept.
    """

    def __init__(self, path: Path | None = None):
        self._path, self._changed = path, False
        self._entries: dict[str, dict[str, list[Any]]] = {} if path is None else _load(path)

    def get(self, what: str, files: Sequence[Path], compute: Callable[[], T]) -> T:
        """The value of files, computed if it is unknown or a file has changed.

        Args:
            what: the kind of the value, with all settings that it depends on.
            compute: its result has to be JSON: numbers, texts and lists. What it raises is not kept.
        """
        if self._path is None or not files:
            return compute()
        state, key = [_state(path) for path in files], "\n".join(map(str, files))
        if None in state:
            return compute()
        values = self._entries.setdefault(what, {})
        if key in values and values[key][0] == state:
            return values[key][1]
        value = compute()
        if state == [_state(path) for path in files]:  # else a file was written meanwhile
            values[key], self._changed = [state, value], True
        return value

    def save(self) -> None:
        """Write the file, if there are new values; in a folder that cannot be written to, nothing is kept."""
        if self._changed:
            try:
                write_text(self._path, json.dumps(self._entries, separators=(",", ":")))
            except OSError as error:
                log.debug("%s: not written (%s)", self._path, error)
            self._changed = False


def _state(path: Path) -> list[int] | None:
    """Size in bytes, and time of change in nanoseconds, of a slice of a NIfTI volume those of the volume; else None."""
    file = file_of(path)
    if not file.is_file():
        return None
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _load(path: Path) -> dict[str, dict[str, list[Any]]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        valid = isinstance(found, dict) and all(
            isinstance(values, dict) and all(isinstance(entry, list) and len(entry) == 2 for entry in values.values())
            for values in found.values()
        )
    except (OSError, ValueError, RecursionError):
        return {}
    return found if valid else {}
