"""How a time budget is spent: on the length of the trainings, folds, the input size and views.

    time = Σ over folds (start + updates · update + epochs · validation + views · (OOF + test images) · prediction)
         + choice of the rules, with a submission, after the first fold and after the last; report

Seconds come from a trial on this machine, and from the first fold once it is trained. What does not fit is given up in
this order: views, the length of the trainings, folds, the held-out share, the input size. One fold is a held-out share:
the rules are chosen on it, and one model predicts the test set. Folds go before the input size, because several short
trainings at a smaller size score lower than one at the full size (docs/log.md). If nothing fits, the only training
becomes as short as LEAST_UPDATES, and then the size as small as that of Choices.last_sizes. A smaller encoder would
come last; but a draft has the smallest one with ImageNet weights in a package, so the encoder stays.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.config import Config
from pipeline.progress import clock

USABLE_SHARE = 0.94  # of the time left is planned for; the rest absorbs a machine that becomes slower
BETWEEN = 6.0  # seconds between the steps of a plan, and of the end of the process
VALIDATED = 24  # held-out images that an epoch is scored on, at most
SHORTEST_SHARE = 0.5  # of a training, to which that of the last fold may be shortened
VALIDATION_SHARE = 0.15  # of the time of a training that may be spent on validation
FEWEST_EPOCHS, MOST_EPOCHS = 4, 16  # of a training: validations, from which the best is chosen
FINER_SPLITS = (20, 100)  # folds, one of which is trained: of many images, a smaller share is held out
LEAST_UPDATES = 40  # of the only training, if nothing longer fits: about what turns pretrained weights into masks
SUBMISSION, REPORT = 4.0, 8.0  # seconds of a submission and of the report, beside those of each image
FEWEST_HELD_OUT, FEWEST_MASKED = 30, 10  # images, and images with a mask, of such a share


class Length(NamedTuple):
    """The length of a training: passes over the training images, between a smallest and a largest number of updates."""

    passes: int
    fewest: int
    most: int


SHORTEST = Length(3, 200, 1000)  # of the only training
OF_SEVERAL = Length(8, 600, 1500)  # of the trainings of several folds: longer ones gain more than another fold
LONG = Length(20, 1600, 5000)  # after which views come first
LONGEST = Length(200, 6000, 1_000_000)


class Counts(NamedTuple):
    """Numbers of images."""

    train: int
    test: int
    folds: int  # that the images are split into, if the time allows it
    batch: int  # images per update
    masked: int  # training images with a mask

    def held_out(self, split: int) -> int:
        """Images of one of `split` folds, rounded up."""
        return -(-self.train // split)

    def validated(self, split: int) -> int:
        """Held-out images that an epoch is scored on."""
        return min(self.held_out(split), VALIDATED)

    def updates(self, length: Length) -> int:
        """Updates of the training of a fold."""
        passes = round(length.passes * (self.train - self.held_out(self.folds)) / self.batch)
        return min(max(passes, length.fewest), length.most)


class Costs(NamedTuple):
    """Seconds on this machine, at the size that the config was drafted for."""

    start: float  # of a fold: reading the index, building the model
    update: float  # of the weights, on one batch of crops
    predict: float  # of one image in one view, with reading it
    choose: float  # of weights and rules, per image out of fold
    submit: float = SUBMISSION  # beside the choice of rules
    report: float = REPORT  # beside its images
    draw: float = 0.0  # of the report, per image out of fold

    def at(self, size: float) -> "Costs":
        """The costs at a share of the size of both sides; the choice of rules is at the size of the files."""
        return self._replace(update=self.update * size**2, predict=self.predict * size**2)


class Choices(NamedTuple):
    """What may be planned, each with its fallbacks, in their order."""

    sizes: tuple[float, ...]  # shares of the drafted size of both sides
    views: tuple[tuple[str, ...], ...]
    last_sizes: tuple[float, ...] = ()  # as sizes, but too small for some objects: only if nothing else fits
    finer_splits: bool = True  # whether a smaller share than a fold may be held out


class Plan(NamedTuple):
    """What is trained and predicted."""

    split: int  # folds that the images are split into
    folds: int  # that are trained
    size: float  # share of the drafted size
    updates: int  # of each training
    epochs: int  # of each training: it is validated after each
    views: tuple[str, ...]

    def describe(self) -> str:
        """The plan in one line."""
        size = "" if self.size == 1 else f", input size × {self.size:g}"
        return (
            f"{self.folds} of {self.split} folds, {self.updates} updates each in {self.epochs} epochs{size}, "
            f"{len(self.views)} view{'s' * (len(self.views) > 1)}"
        )


def plan_of(cfg: Config, counts: Counts, draws: int) -> Plan:
    """The plan of a config as it is: all of its folds and views.

    Args:
        draws: training images, or windows of them, of one fold.
    """
    updates = sum(phase.epochs * max(1, int(draws * phase.repeats) // counts.batch) for phase in cfg.train.phases)
    epochs = sum(phase.epochs for phase in cfg.train.phases)
    return Plan(counts.folds, counts.folds, 1.0, updates, epochs, cfg.predict.views)


class Spending(NamedTuple):
    """The seconds that a plan takes."""

    start: float
    training: float
    validation: float
    prediction: float
    choice: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


def spend(plan: Plan, counts: Counts, costs: Costs, *, done: int = 0) -> Spending:
    """The seconds of a plan.

    Args:
        done: folds that are trained and predicted already, with the plan's views.
    """
    at, left = costs.at(plan.size), plan.folds - done
    predicted = left * (counts.held_out(plan.split) + counts.test) * len(plan.views)
    early = plan.folds > 1 and not done  # after the first fold, for a submission that exists early
    chosen = counts.held_out(plan.split) * (plan.folds + early)
    return Spending(
        left * at.start,
        left * plan.updates * at.update,
        left * plan.epochs * counts.validated(plan.split) * at.predict,
        predicted * at.predict,
        chosen * at.choose + (1 + early) * at.submit + reporting(plan, counts, costs),
    )


def reporting(plan: Plan, counts: Counts, costs: Costs) -> float:
    """The seconds of the report."""
    return costs.report + counts.held_out(plan.split) * plan.folds * costs.draw


def fold_training(plan: Plan, counts: Counts, costs: Costs) -> float:
    """The seconds of one fold's training with its validations."""
    one = spend(plan._replace(folds=1), counts, costs)
    return one.training + one.validation


def usable_of(seconds: float) -> float:
    """The seconds that may be planned for, of those that are left; below 0 if nothing can be."""
    return USABLE_SHARE * seconds - BETWEEN


def time_for(planned: float) -> float:
    """The seconds that must be left for planned ones: the inverse of `usable_of`."""
    return (planned + BETWEEN) / USABLE_SHARE


def make_plan(seconds: float, counts: Counts, costs: Costs, choices: Choices) -> Plan:
    """The plan for a time budget: the first one in the order of what is given up that fits.

    Args:
        seconds: that are left, of which `usable_of(seconds)` may be planned for.

    Raises:
        ValueError: if not even the least plan fits, with the seconds that it needs.
    """
    usable = usable_of(seconds)
    for plan in _ladder(counts, choices):
        longest = _lengthened(plan, usable, counts, costs)
        if longest is not None:
            return _with_views(longest, usable, counts, costs, choices.views)
    least = time_for(spend(plan, counts, costs).total)
    raise ValueError(
        f"{clock(max(seconds, 0))} are left, and one short training with its predictions takes about {clock(least)}: "
        f"give a larger BUDGET"
    )


def _ladder(counts: Counts, choices: Choices) -> Iterator[Plan]:
    """The shortest plans with the fewest views, from all folds down to the smallest size."""
    fewest = 1 if counts.held_out(counts.folds) > 1 else 2  # rules are scored on other images than they are chosen on
    splits = [(counts.folds, folds) for folds in range(counts.folds, fewest - 1, -1)]
    finest = min(counts.train // FEWEST_HELD_OUT, counts.masked // FEWEST_MASKED) if choices.finer_splits else 0
    splits += [(split, 1) for split in FINER_SPLITS if counts.folds < split <= finest]
    for split, folds in splits:
        updates = counts.updates(OF_SEVERAL if folds > 1 else SHORTEST)
        yield Plan(split, folds, choices.sizes[0], updates, FEWEST_EPOCHS, choices.views[-1])
    for size in choices.sizes[1:]:
        yield Plan(*splits[-1], size, counts.updates(SHORTEST), FEWEST_EPOCHS, choices.views[-1])
    for size in (choices.sizes[-1], *choices.last_sizes):
        yield Plan(*splits[-1], size, LEAST_UPDATES, FEWEST_EPOCHS, choices.views[-1])


def _lengthened(plan: Plan, usable: float, counts: Counts, costs: Costs) -> Plan | None:
    """The plan with as many updates as fit, and as many epochs as leave them most of the time; None if nothing fits."""
    update = costs.at(plan.size).update
    validation = spend(plan._replace(folds=1, epochs=1), counts, costs).validation
    seconds = (usable - spend(plan._replace(updates=0, epochs=0), counts, costs).total) / plan.folds
    for_validation = min(VALIDATION_SHARE * seconds, seconds - plan.updates * update)
    epochs = min(max(int(for_validation / validation), FEWEST_EPOCHS), MOST_EPOCHS)
    updates = int((seconds - epochs * validation) / update)
    if updates < plan.updates:
        return None
    updates = min(updates, counts.updates(LONGEST))
    return plan._replace(updates=updates, epochs=epochs)


def _with_views(plan: Plan, usable: float, counts: Counts, costs: Costs, views: Sequence[tuple[str, ...]]) -> Plan:
    """The plan with the most views that leave a long training, and fewer updates for them."""
    long = counts.updates(LONG)
    for some in views[:-1]:
        with_views = _lengthened(plan._replace(views=some, updates=min(long, plan.updates)), usable, counts, costs)
        if with_views is not None and with_views.updates >= long:
            return with_views
    return plan


def describe_limit(plan: Plan, counts: Counts, views: Sequence[tuple[str, ...]], *, is_given: bool) -> str:
    """What keeps the plan from being larger, in one line: the time, or that the images have no use for more.

    Args:
        views: that may be planned, the most first.
        is_given: whether a person wrote the config, so the plan chose only its folds and views.
    """
    has_all = (plan.folds, plan.size, plan.views) == (counts.folds, 1, views[0])
    if not has_all or (plan.updates < counts.updates(LONGEST) and not is_given):
        return "The time budget limits the plan."
    if is_given:
        return "The config limits the plan: all of its folds and views fit into the time budget."
    return (
        f"The number of images limits the plan: all folds, all views, and the longest trainings, {plan.updates:,} "
        f"updates ({LONGEST.passes} passes over the training images, or {LONGEST.fewest:,} updates if that is more)."
    )


def revise(
    plan: Plan, seconds: float, counts: Counts, costs: Costs, views: Sequence[tuple[str, ...]], *, done: int
) -> Plan:
    """The plan with as many folds, and then views, as fit into the time that is left, at the speed of the folds so far.

    Length and size stay: folds with other settings would not be those of one config. Only the training of the last fold
    is planned shorter, by `max_minutes`.

    Args:
        views: that may be planned.
        done: folds that are trained and predicted with the plan's views; these are predicted again with other ones.
    """
    folds = range(done, plan.split + 1 if plan.split == counts.folds else done + 1)
    usable = usable_of(seconds)
    whole = [
        each
        for each in (plan._replace(folds=number, views=some) for number in folds for some in views)
        if _left_to_do(each, plan, counts, costs, done) <= usable
    ]
    shortened = (1 - SHORTEST_SHARE) * fold_training(plan, counts, costs)
    last = [
        each
        for each in (plan._replace(folds=number) for number in folds[1:])
        if _left_to_do(each, plan, counts, costs, done) - shortened <= usable
    ]
    return max(whole + last, key=lambda each: (each.folds, len(each.views)), default=plan._replace(folds=done))


def _left_to_do(each: Plan, plan: Plan, counts: Counts, costs: Costs, done: int) -> float:
    """The seconds from `done` folds with the views of `plan` to the end of another plan."""
    if each.folds == done and each.views == plan.views:  # its submission is written already
        return 0.0
    left = spend(each, counts, costs, done=done).total
    if each.views == plan.views:
        return left
    return left + spend(each._replace(folds=done), counts, costs).prediction  # of the folds that are done, again
