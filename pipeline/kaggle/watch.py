"""Where the time of a prediction goes, and what the rest of it will take."""

import time

from pipeline.kaggle.plan import Costs

MEASURED = 8  # images, after the first batch, from which the rest is foreseen
LOOK_AGAIN, LOOKS = 60.0, 20  # seconds after which it is foreseen anew, or so often in a short budget


class Watch:
    """Where the time goes, and what the rest will take."""

    def __init__(self, images: int, seconds: float | None):
        self.images, self.seconds = images, seconds
        self.started = time.monotonic()
        self.done = 0
        self.foreseen: float | None = None
        self._spent: dict[str, float] = {}
        self._passes: dict[str, int] = {}
        self._since: tuple[float, int] | None = None  # the first batch warms up, and tells nothing of the others
        self._pause = LOOK_AGAIN if seconds is None else min(LOOK_AGAIN, seconds / LOOKS)
        self._looked = -self._pause

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds is not None and self.elapsed >= self.seconds

    def spent(self, member: str, passes: int, seconds: float) -> None:
        """Note what a member's models took for a batch."""
        if self._since:
            self._spent[member] = self._spent.get(member, 0.0) + seconds
            self._passes[member] = self._passes.get(member, 0) + passes

    def finished(self, images: int) -> None:
        """Note images that are predicted, drawn and written."""
        self.done += images
        self._since = self._since or (self.elapsed, self.done)

    def is_time_to_look(self) -> bool:
        """Whether there is a budget, enough was measured, and the last look is some time ago."""
        measured = self._since and self.done - self._since[1] >= MEASURED
        return bool(self.seconds and measured and self._spent and self.elapsed - self._looked >= self._pause)

    def costs(self) -> Costs:
        """Seconds per image, as measured so far."""
        self._looked = self.elapsed
        elapsed, images = self.elapsed - self._since[0], self.done - self._since[1]
        overhead = max(0.0, elapsed - sum(self._spent.values())) / images
        return Costs(overhead, {name: self._spent[name] / passes for name, passes in self._passes.items()})

    def foresee(self, per_image: float) -> float:
        """Seconds in all, if each image that is left takes so many."""
        return self.elapsed + per_image * (self.images - self.done)
