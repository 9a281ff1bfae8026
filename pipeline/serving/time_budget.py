"""Measures how long a prediction takes per image, and estimates how long the remaining images take."""

import time
from dataclasses import dataclass, field

from pipeline.serving.budget_plan import Costs, Plan

MIN_MEASURED = 8  # images, after the first batch, from which the rest is estimated
EARLY_SHARE = 0.25  # of the time left: before a batch that costs more, fewer measured images are enough
SAFETY_FACTOR = 1.25  # by which an image may take longer than every image before it
CHECK_INTERVAL = 60.0  # seconds between two checks of the budget
MIN_CHECKS = 20  # in a short budget, which is checked more often than every CHECK_INTERVAL
SINGLE_IMAGE_BATCHES = 2  # at the start: the first image warms up, the second is measured


@dataclass
class _Measurement:
    """Time and model runs of some images."""

    since: float  # seconds after the start
    images: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # of each member's models
    model_runs: dict[str, float] = field(default_factory=dict)


class TimeBudget:
    """Measures the time per image and compares the estimated total with a budget.

    Args:
        images: number of images to predict.
        seconds: the budget; None: unlimited.
    """

    def __init__(self, images: int, seconds: float | None):
        self.images, self.seconds = images, seconds
        self.started = time.monotonic()
        self.done = self.batches = 0
        self.first_estimate: float | None = None  # seconds in all
        self._interval = CHECK_INTERVAL if seconds is None else min(CHECK_INTERVAL, seconds / MIN_CHECKS)
        self._last_check = self._last_batch_end = 0.0
        self._warm_up, self._later = _Measurement(0.0), _Measurement(0.0)
        self._slowest = 0.0  # seconds per image of the slowest batch under the current plan

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return self.seconds - self.elapsed

    def start_first_batch(self) -> None:
        """Start measuring; earlier work, such as loading models, is not part of the time per image."""
        if not self.batches:
            self._warm_up.since = self.elapsed

    def add_model_time(self, member: str, model_runs: float, seconds: float) -> None:
        """Add the time of a member's models on one batch."""
        measured = self._later if self.batches else self._warm_up
        measured.seconds[member] = measured.seconds.get(member, 0.0) + seconds
        measured.model_runs[member] = measured.model_runs.get(member, 0.0) + model_runs

    def finish_batch(self, images: int) -> None:
        """Count a batch of images that are predicted, post-processed and written."""
        elapsed = self.elapsed
        if self.batches:
            self._later.images += images
            self._slowest = max(self._slowest, (elapsed - self._last_batch_end) / images)
        else:
            self._warm_up.images, self._later.since = images, elapsed
        self.done, self.batches, self._last_batch_end = self.done + images, self.batches + 1, elapsed

    def is_check_due(self, images: int, per_image: float) -> bool:
        """Whether to compare the budget with the estimate before the next batch.

        Args:
            images: in the next batch.
            per_image: seconds on average.
        """
        if self.seconds is None or not (self._later if self._later.images else self._warm_up).seconds:
            return False
        if self.first_estimate is None:
            return self._later.images >= MIN_MEASURED or images * per_image > EARLY_SHARE * self.left
        return self.elapsed - self._last_check >= self._interval

    def costs(self) -> Costs:
        """Measured seconds per image; the first batch counts only as long as there is no other."""
        return self._costs(self._later if self._later.images else self._warm_up)

    def _costs(self, measured: _Measurement) -> Costs:
        until = self._later.since if measured is self._warm_up else self._last_batch_end
        overhead = max(0.0, until - measured.since - sum(measured.seconds.values())) / max(1, measured.images)
        return Costs(overhead, {name: measured.seconds[name] / runs for name, runs in measured.model_runs.items()})

    def finish_check(self, *, plan_changed: bool) -> None:
        """Note the time of a check; under a smaller plan the slowest batch so far no longer counts."""
        self._last_check = self.elapsed
        self._slowest = 0.0 if plan_changed else self._slowest

    def next_image_limit(self, plan: Plan) -> float:
        """Seconds that the next image may take under a plan: SAFETY_FACTOR times the slowest so far."""
        warm_up = [self._warm_up] if self._later.images < MIN_MEASURED else []
        known = [self._costs(measured).per_image(plan) for measured in (*warm_up, self._later) if measured.images]
        return SAFETY_FACTOR * max([self._slowest, *known])

    def count_that_fit(self, images: int, per_image: float) -> int:
        """How many of `images` end within the budget if each takes `per_image` seconds."""
        if self.seconds is None:
            return images
        if self.left <= 0:  # loading the models can use up the whole budget
            return 0
        return min(images, int(self.left / per_image) if per_image else images)

    def estimate_total(self, per_image: float) -> float:
        """Estimated seconds from start to end if each remaining image takes `per_image` seconds."""
        return self.elapsed + per_image * (self.images - self.done)
