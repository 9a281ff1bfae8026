"""The unit of a sweep: the training of one fold of one config, and its result."""

from pathlib import Path
from typing import NamedTuple

FAILED = "FAILED:"


class Job(NamedTuple):
    """The training of one fold of one config."""

    folder: Path  # of the fold
    command: tuple[str, ...]  # arguments of `python -m pipeline`

    @property
    def log(self) -> Path:
        """The file that the training's output is appended to."""
        return self.folder / "train.log"

    def last_line(self) -> str:
        """The last line of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2]


class JobResult(NamedTuple):
    """The outcome of a job; as text, one line."""

    job: Job
    failed: bool
    message: str

    def __str__(self) -> str:
        if self.failed:
            return f"{self.job.folder}: {FAILED} {self.message} (see {self.job.log})"
        return f"{self.job.folder}: done" + (f", {self.message}" if self.message else "")
