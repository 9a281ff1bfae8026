"""The clock of a run with a time budget, and the state that a stopped run resumes from."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.files import write_text
from pipeline.planning.budget import Costs, Counts, Plan
from pipeline.progress import clock
from pipeline.schema import Table, read_json

log = logging.getLogger(__name__)
SECONDS_BETWEEN_SAVES = 2.0


class Step(Table):
    """A finished step of a run, with its planned and its true seconds."""

    name: str
    planned: float | None = None
    seconds: float


class RunState(Table):
    """The state that a stopped run resumes from."""

    seconds: float = 0.0  # spent so far, in all processes
    first_plan: Plan | None = None
    plan: Plan | None = None  # as revised
    costs: Costs | None = None  # as measured
    steps: tuple[Step, ...] = ()
    submitted: tuple[int, tuple[str, ...]] = (0, ())  # folds and views of the submission that is written
    data: str = ""  # the folder of the files
    card: str = ""
    card_digest: str = ""  # of the card that the plan was made for
    unsure: tuple[str, ...] = ()  # keys of the drafted card that the files do not prove
    counts: Counts | None = None  # that the plan was made for
    views: tuple[tuple[str, ...], ...] = ()  # that may be planned, the most first
    is_given: bool = False  # whether a person wrote the config
    written: str = ""  # digest of the config as it was written; another one is that of an edited config
    finished: str = ""  # digest of the config that a finished run ended with
    results: tuple[str, ...] = ()  # of a finished run, in words


class BudgetClock:
    """Counts the seconds of a run; its state is in a file, written every few seconds, so a killed run's time counts.

    Args:
        path: of the file.
        budget: seconds.
        spent: seconds that this process took before.
    """

    def __init__(self, path: Path, budget: float, spent: float = 0.0):
        self.path, self.budget = path, budget
        found = read_json(path, f"remove {path} to start again", RunState) if path.is_file() else {}
        self.state = RunState.model_validate(found)
        self._before, self._started = self.state.seconds + spent, time.monotonic()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Seconds spent, in this process and in stopped ones."""
        return self._before + time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 if the budget is overspent."""
        return self.budget - self.seconds

    def save(self, **changes: Any) -> None:
        """Write the state, with changes."""
        with self._lock:
            self.state = self.state.model_copy(update={**changes, "seconds": self.seconds})
            write_text(self.path, self.state.model_dump_json(indent=1) + "\n")

    @contextmanager
    def step(self, name: str, planned: float | None = None) -> Iterator[None]:
        """Measure the block, and add it to the state's steps if it ends without an error."""
        started = time.monotonic()
        yield
        done = Step(name=name, planned=planned, seconds=time.monotonic() - started)
        self.save(steps=(*self.state.steps, done))
        expected = "" if planned is None else f", planned {clock(planned)}"
        log.info("%s took %s%s; %s left", name, clock(done.seconds), expected, clock(max(self.left, 0)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write the state every few seconds while the block runs."""
        ended = threading.Event()

        def save() -> None:
            while not ended.wait(SECONDS_BETWEEN_SAVES):
                self.save()

        thread = threading.Thread(target=save, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.save()
