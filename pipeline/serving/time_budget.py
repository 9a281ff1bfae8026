"""Where the time of a prediction goes, and what the rest of it will take."""

import time
from dataclasses import dataclass, field

from pipeline.serving.budget_plan import Costs, Plan

MEASURED = 8  # images, after the first batch, from which the rest is estimated
EARLY = 0.25  # share of the time left: a next batch that costs more is not started on fewer measured images
MARGIN = 1.25  # by which an image may take longer than all before it
LOOK_AGAIN, LOOKS = 60.0, 20  # seconds after which it is estimated anew, or so often in a short budget
SINGLES = 2  # batches of one image at the start: the first warms up, the second measures


@dataclass
class _Measured:
    """What some images took, from a moment on."""

    since: float  # seconds after the start
    images: int = 0
    spent: dict[str, float] = field(default_factory=dict)  # seconds of each member's models
    passes: dict[str, int] = field(default_factory=dict)


class Watch:
    """Where the time goes, and what the rest will take.

    Args:
        images: to predict.
        seconds: the budget; None: none.
    """

    def __init__(self, images: int, seconds: float | None):
        self.images, self.seconds = images, seconds
        self.started = time.monotonic()
        self.done = self.batches = 0
        self.foreseen: float | None = None
        self._pause = LOOK_AGAIN if seconds is None else min(LOOK_AGAIN, seconds / LOOKS)
        self._looked = self._finished = 0.0
        self._warm_up, self._later = _Measured(0.0), _Measured(0.0)
        self._worst = 0.0  # seconds per image of the slowest batch under the plan that runs

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.seconds - self.elapsed

    def begin(self) -> None:
        """Note that the first batch begins: what came before, such as loading models, no image takes again."""
        if not self.batches:
            self._warm_up.since = self.elapsed

    def spent(self, member: str, passes: int, seconds: float) -> None:
        """Note what a member's models took for a batch."""
        into = self._later if self.batches else self._warm_up
        into.spent[member] = into.spent.get(member, 0.0) + seconds
        into.passes[member] = into.passes.get(member, 0) + passes

    def finished(self, images: int) -> None:
        """Note a batch of images that are predicted, drawn and written."""
        elapsed = self.elapsed
        if self.batches:
            self._later.images += images
            self._worst = max(self._worst, (elapsed - self._finished) / images)
        else:
            self._warm_up.images, self._later.since = images, elapsed
        self.done, self.batches, self._finished = self.done + images, self.batches + 1, elapsed

    def is_time_to_look(self, images: int, per_image: float) -> bool:
        """Whether to compare budget and costs before the next batch.

        Args:
            images: in the next batch.
            per_image: seconds on average.
        """
        if self.seconds is None or not (self._later if self._later.images else self._warm_up).spent:
            return False
        if self.foreseen is None:
            return self._later.images >= MEASURED or images * per_image > EARLY * self.left
        return self.elapsed - self._looked >= self._pause

    def costs(self) -> Costs:
        """Seconds per image, as measured so far; of the first batch alone only where there is no other."""
        return self._costs(self._later if self._later.images else self._warm_up)

    def _costs(self, measured: _Measured) -> Costs:
        until = self._later.since if measured is self._warm_up else self._finished
        overhead = max(0.0, until - measured.since - sum(measured.spent.values())) / max(1, measured.images)
        return Costs(overhead, {name: measured.spent[name] / passes for name, passes in measured.passes.items()})

    def looked(self, *, dropped: bool) -> None:
        """Note a look, and whether less is run from now on."""
        self._looked = self.elapsed
        self._worst = 0.0 if dropped else self._worst

    def next_image(self, plan: Plan) -> float:
        """Seconds that the next image may take under a plan: more than the slowest so far."""
        few = [self._warm_up] if self._later.images < MEASURED else []
        known = [self._costs(measured).of(plan) for measured in (*few, self._later) if measured.images]
        return MARGIN * max([self._worst, *known])

    def fitting(self, images: int, per_image: float) -> int:
        """How many of so many images end within the budget, if each takes so many seconds."""
        if self.seconds is None:
            return images
        if self.left <= 0:  # loading the models may take it all
            return 0
        return min(images, int(self.left / per_image) if per_image else images)

    def foresee(self, per_image: float) -> float:
        """Seconds in all, if each image that is left takes so many."""
        return self.elapsed + per_image * (self.images - self.done)
