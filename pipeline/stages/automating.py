"""The stage `auto`: from a folder of files to a submission, within a time budget.

    card ─▶ fingerprint, config ─▶ trial ─▶ plan ─▶ folds, one after the other ─▶ submission, report

The plan is made before the first fold and revised after each one, at the speed that was measured. A submission exists
from the first fold on. The time of a stopped run counts: the same command resumes with the time that is left.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline import competition, config
from pipeline.card_draft.row_keys import check_metric
from pipeline.card_draft.text import one_line
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.crops import count_windows
from pipeline.data.reader import Reader
from pipeline.files import file_digest, file_lock, write_text
from pipeline.metrics import selection_metric
from pipeline.planning.budget import (
    BETWEEN,
    Choices,
    Costs,
    Counts,
    Plan,
    describe_limit,
    fold_training,
    make_plan,
    plan_of,
    reporting,
    revise,
    spend,
    time_for,
)
from pipeline.planning.budget_clock import BudgetClock, RunState
from pipeline.planning.config_options import ConfigDraft
from pipeline.planning.config_text import to_text
from pipeline.planning.page import plan_page
from pipeline.planning.schedule import choices_of, fewer_views, planned
from pipeline.progress import clock
from pipeline.schema import parse
from pipeline.stages.drafting_card import card_file, card_name, draft_card, files_of
from pipeline.stages.drafting_config import DraftedConfig, config_file, config_head, measure_and_draft
from pipeline.stages.ensembling import Ensembled, ensemble
from pipeline.stages.preparing import Context, Paths, index_test_images, index_training_images, make_context, with_folds
from pipeline.stages.reporting import report
from pipeline.stages.training import epoch_seconds, predict_test, train_fold
from pipeline.stages.trial import measure_costs

log = logging.getLogger(__name__)
CHEAP = 0.05  # of the time left: a submission of all folds so far is written if that takes no more
SLACK = 1.25  # a training that others follow may take so many times its planned seconds
MARGIN = 0.02  # of the budget, that no training may use
LEAST_MINUTES = 0.1  # of a training


class AutoResult(NamedTuple):
    """What the stage `auto` made; `state.results` has its score and its files in words."""

    plan_page: Path
    submission: Ensembled | None  # None: an earlier run had finished, and no time is left for more
    state: RunState
    budget: float  # seconds


class Job(NamedTuple):
    """What all folds of a run have in common."""

    root: Path  # of the competition's files
    drafted: DraftedConfig
    card: Competition
    index: pd.DataFrame  # of the training images
    draws: int  # training images, or windows of them
    counts: Counts
    choices: Choices

    @property
    def path(self) -> Path:
        """Of the config."""
        return self.drafted.path

    def config(self, plan: Plan | None = None, folds: int | None = None) -> Config:
        """The config, with the views and the folds of a plan; the drafted one, if there is no file yet.

        Args:
            folds: the first of them, in place of all that the plan trains.
        """
        cfg = _config_of(self.drafted, self.root)
        if plan is None:
            return cfg
        number = plan.folds if folds is None else folds
        only = () if number == plan.split else tuple(range(number))
        return cfg.model_copy(
            update={
                "folds": cfg.folds.model_copy(update={"only": only}),
                "predict": cfg.predict.model_copy(update={"views": plan.views}),
            }
        )


def auto(
    data: Path,
    budget: float,
    name: str = "",
    metric: str = "",
    card: str = "",
    *,
    table: str = "",
    skip_bad: bool = False,
    spent: float = 0.0,
) -> AutoResult:
    """Draft a card and a config, plan, train, and write a submission and a report, within a time budget.

    A card or a config that exists is used as it is; of such a config, the plan chooses folds and views.

    Args:
        data: the folder of the competition's files, or a zip.
        budget: seconds, of all runs of this command together.
        name: of the card, the config, the submission and the report; empty: that of the folder, with "-auto" if
            there is a config, or a fold file, of this name that no run of `auto` wrote.
        metric: of the drafted card; empty: mean_dice.
        card: name or path of a card, in place of a drafted one.
        table: the training table of the drafted card, if several could be it.
        skip_bad: leave out images that cannot be read.
        spent: seconds of the budget that the process took before, as to import libraries.

    Writes: cards/<name>.toml, configs/<name>.toml, submissions/<name>.csv, reports/<name>.html, reports/<name>-plan.md,
        runs/<name>/auto.json

    Raises:
        ValueError: if the budget is too small for one model, or another process runs the same; as the stages.
    """
    name = card_name(data, name) if name else _free_name(card_name(data))
    state = _state_file(name)
    state.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(state.with_name("auto.lock"), f"{state.parent} (auto)", wait=False):
        timer = BudgetClock(state, budget, spent)
        with timer.running():
            return _run(timer, data, name, metric, card, table, skip_bad)


def _free_name(name: str) -> str:
    """The name, or another one if there is a config, or a fold file, of this name that no run of `auto` wrote."""
    is_taken = config_file(name).is_file() or Path(f"folds/{name}.csv").is_file()
    return f"{name}-auto" if is_taken and not _state_file(name).is_file() else name


def _state_file(name: str) -> Path:
    return Path("runs") / name / "auto.json"


def _run(timer: BudgetClock, data: Path, name: str, metric: str, card: str, table: str, skip_bad: bool) -> AutoResult:
    with timer.step("card"):
        card, data = _card_and_files(timer, data, name, metric, card, table)
        _refuse_other_inputs(timer, data, card, metric, table)
    page = Path("reports") / f"{name}-plan.md"
    if _is_finished(timer, config_file(name)):
        return AutoResult(page, None, timer.state, timer.budget)
    with timer.step("fingerprint"):
        skip_bad = skip_bad or (config_file(name).is_file() and config.load(config_file(name)).data.skip_bad)
        job = _make_job(timer, measure_and_draft(name, card, data, skip_bad=skip_bad), card, data)
    timer.save(views=job.choices.views, finished="")
    if timer.state.plan is None:
        with timer.step("trial"):
            plan, costs = _first_plan(timer, job)
        timer.save(first_plan=plan, plan=plan, costs=costs, counts=job.counts)
    if not job.path.is_file():
        _write_config(timer, job, timer.state.plan)
    limit = describe_limit(timer.state.plan, job.counts, job.choices.views, is_given=timer.state.is_given)
    log.info("plan: %s. %s", timer.state.plan.describe(), limit)
    submission = _train_folds(timer, job)
    with timer.step("report", reporting(timer.state.plan, job.counts, timer.state.costs)):
        report_path = report([job.config(timer.state.plan)], name, submission.selection)
    results = _results(submission, report_path, card, job.path, timer.state.unsure)
    timer.save(finished=file_digest(job.path), results=results)
    write_text(page, _plan_page(timer, job))
    return AutoResult(page, submission, timer.state, timer.budget)


def _refuse_other_inputs(timer: BudgetClock, data: Path, card: str, metric: str, table: str) -> None:
    """Raise ValueError if an earlier run of this name had other files or another card, or the card other options."""
    found = {"data": str(data.resolve()), "card": card}
    for key, value in found.items():
        earlier = getattr(timer.state, key)
        if earlier and earlier != value:
            raise ValueError(
                f"{timer.path}: an earlier run of this name had {key} = {earlier}, this one has {value}: give another "
                f"NAME, or remove {timer.path.parent}"
            )
    path, known = competition.card_path(card), competition.load(card)
    if metric and check_metric(metric) != known.metric:
        raise ValueError(f"METRIC={metric}: {path} has the metric {known.metric}: edit it there")
    if table and table != known.files.train_csv:
        labels = f"the training table {known.files.train_csv}" if known.files.train_csv else "no training table"
        raise ValueError(f"TABLE={table}: {path} has {labels}: edit it there")
    digest = file_digest(path)
    if timer.state.plan is not None and timer.state.card_digest not in ("", digest):
        raise ValueError(
            f"{path} has changed since an earlier run of this name made its plan: give another NAME, with CARD={path}"
        )
    timer.save(**found, card_digest=digest)


def _is_finished(timer: BudgetClock, config_path: Path) -> bool:
    """Whether an earlier run finished with this config, and the time that is left is enough for no further fold."""
    state = timer.state
    if not state.finished or not config_path.is_file() or file_digest(config_path) != state.finished:
        return False
    done = state.submitted[0]
    return revise(state.plan, timer.left, state.counts, state.costs, state.views, done=done).folds <= done


def _results(
    submission: Ensembled, report_path: Path, card: str, config_path: Path, unsure: Sequence[str]
) -> tuple[str, ...]:
    """What the run ends with, in lines."""
    score, summary = submission.interval, submission.summary
    check = f"; not sure, check before you submit: {', '.join(unsure)}" if unsure else ""
    chosen_by = selection_metric(submission.metric)
    official = None if submission.official is None else f"{submission.metric}, cross-fitted: {submission.official:.4f}"
    return (
        f"{chosen_by}, out of fold, cross-fitted: {score.mean:.4f}, {score}",
        *([official] if official else []),
        f"submission: {submission.csv}, {summary.rows} rows, {summary.empty} of them empty",
        f"report: {report_path}",
        f"card: {card}{check}",
        f"config: {config_path}; the same submission again: make ensemble CONFIG={config_path.stem}",
    )


def _plan_page(timer: BudgetClock, job: Job) -> str:
    draft = None if timer.state.is_given else _planned_draft(job, timer.state.plan)
    return plan_page(job.path.stem, draft, job.drafted.fingerprint, job.counts, timer.state, timer.budget)


def _card_and_files(timer: BudgetClock, data: Path, name: str, metric: str, card: str, table: str) -> tuple[str, Path]:
    """The card, and the folder of its files; the card is drafted now if there is none, and what is not sure is logged.

    Args:
        card: name or path of a card; empty: that of the config, if there is one, or the drafted one.
    """
    if not card and config_file(name).is_file():
        card = config.load(config_file(name)).competition
    if not card and card_file(name).is_file():
        card = card_file(name).as_posix()
    if card:
        return card, files_of(card, data)
    drafted = draft_card(data, name, metric, table)
    for key in drafted.draft.unsure:
        log.warning("%s: not sure: %s: %s", drafted.path, key.name, one_line(key.reason))
    timer.save(unsure=tuple(key.name for key in drafted.draft.unsure))
    return drafted.path.as_posix(), drafted.root


def _make_job(timer: BudgetClock, drafted: DraftedConfig, card_name: str, root: Path) -> Job:
    if timer.state.plan is None:
        timer.save(is_given=drafted.path.is_file())
    cfg, card = _config_of(drafted, root), competition.load(card_name)
    paths, choices = Paths(cfg, card), choices_of(drafted.draft, drafted.fingerprint)
    if timer.state.is_given:
        choices = choices._replace(views=fewer_views(cfg.predict.views))
    if paths.folds.is_file():  # all configs of a card share its folds
        choices = choices._replace(finer_splits=False)
    index, test_index = index_training_images(cfg, card, paths), index_test_images(cfg, card, paths)
    draws = count_windows(index, cfg.data.crops, Reader.of(cfg, card).resize) if cfg.data.crops else len(index)
    counts = timer.state.counts
    if counts is None:
        folds = _number_of_folds(paths.folds) if paths.folds.is_file() else with_folds(cfg, card).folds.count
        masked = int((index["coverage"] > 0).sum())
        counts = Counts(len(index), len(test_index), folds, cfg.train.least_batch_size(), masked)
    return Job(root, drafted, card, index, draws, counts, choices)


def _config_of(drafted: DraftedConfig, root: Path) -> Config:
    """The config, with this folder of the files; the drafted one, if there is no file yet."""
    if drafted.path.is_file():
        cfg = config.load(drafted.path)
    else:
        cfg = parse(Config, {"name": drafted.path.stem, **drafted.draft.tables()}, str(drafted.path))
    return cfg.model_copy(update={"data": cfg.data.model_copy(update={"root": root})})


def _number_of_folds(path: Path) -> int:
    return int(pd.read_csv(path)["fold"].max()) + 1


def _first_plan(timer: BudgetClock, job: Job) -> tuple[Plan, Costs]:
    """The plan for the time that is left, and the costs by a trial; of a config that exists, its folds and views.

    Raises:
        ValueError: if the time is too short for one model.
    """
    costs = measure_costs(job.config(), job.card, job.index)
    if timer.state.is_given:
        plan = revise(
            plan_of(job.config(), job.counts, _draws(job, job.counts.folds)),
            timer.left,
            job.counts,
            costs,
            job.choices.views,
            done=0,
        )
        if not plan.folds:
            raise ValueError(
                f"{clock(max(timer.left, 0))} are left, and one fold of {job.path} takes about "
                f"{clock(time_for(spend(plan._replace(folds=1), job.counts, costs).total))}: give a larger BUDGET, or "
                f"remove the config, and one is planned"
            )
        return plan, costs
    return make_plan(timer.left, job.counts, costs, job.choices), costs


def _write_config(timer: BudgetClock, job: Job, plan: Plan) -> None:
    """Write the config of a plan, unless the file is not the one that was written before."""
    if job.path.is_file() and file_digest(job.path) != timer.state.written:
        log.info("%s was edited and is kept: the folds and views of the revised plan are not written to it", job.path)
        return
    write_text(job.path, _config_text(job, plan))
    timer.save(written=file_digest(job.path))


def _draws(job: Job, split: int) -> int:
    """Training images, or windows of them, of one fold."""
    return job.draws * (split - 1) // split


def _planned_draft(job: Job, plan: Plan) -> ConfigDraft:
    draft = planned(job.drafted.draft, plan, job.counts, _draws(job, plan.split))
    if plan.split == job.counts.folds:
        return draft
    why = "a smaller share is held out than by the competition's folds"
    return draft.with_option("folds.name", f"{job.path.stem}-{plan.split}", why)


def _config_text(job: Job, plan: Plan) -> str:
    return to_text(_planned_draft(job, plan), config_head(job.path.stem, job.card, job.drafted.fingerprint))


def _train_folds(timer: BudgetClock, job: Job) -> Ensembled:
    """Train the plan's folds, one after the other, and revise it after each; returns the last submission."""
    submission, done = None, _folds_done(job, timer.state.plan)
    while done == 0 or done < _revise(timer, job, done).folds:
        _train_fold(timer, job, done)
        done += 1
        plan, costs = timer.state.plan, timer.state.costs
        choice = costs.choose * job.counts.held_out(plan.split) * done
        has_two = job.counts.held_out(plan.split) * done > 1  # rules are scored on other images than they are chosen on
        if done < plan.folds and has_two and (done == 1 or choice < CHEAP * timer.left):
            submission = _submit(timer, job, done)
    is_last = timer.state.submitted == (done, timer.state.plan.views)
    return submission if submission and is_last else _submit(timer, job, done)


def _folds_done(job: Job, plan: Plan) -> int:
    """The number of folds, from the first on, that are trained."""
    paths = Paths(job.config(plan), job.card)
    numbers = range(plan.split)
    return next((number for number in numbers if not paths.weights(number).is_file()), plan.split)


def _revise(timer: BudgetClock, job: Job, done: int) -> Plan:
    """Revise the plan at the speed so far; with other views, the folds that are done are predicted again."""
    plan = timer.state.plan
    revised = revise(plan, timer.left, job.counts, timer.state.costs, job.choices.views, done=done)
    if revised != plan:
        log.info("plan revised: %s", revised.describe())
        if not timer.state.is_given:
            _write_config(timer, job, revised)
    if revised.views != plan.views:
        with timer.step(f"predictions in {len(revised.views)} view{'s' * (len(revised.views) > 1)}"):
            predict_test(make_context(job.config(revised, done)))
    timer.save(plan=revised)
    return revised


def _train_fold(timer: BudgetClock, job: Job, fold: int) -> None:
    """Train a fold, not longer than planned, and predict its held-out and the test images; measures its costs."""
    plan, costs, counts = timer.state.plan, timer.state.costs, job.counts
    context = make_context(job.config(plan, fold + 1))
    training = fold_training(plan, counts, costs)
    rest = spend(plan, counts, costs, done=fold).total - training  # of all that follows
    before = sum(epoch_seconds(context, fold))  # by a stopped run: the limit is of all epochs of the fold
    limit = timer.left + before - rest - MARGIN * timer.budget - BETWEEN
    if fold + 1 < plan.folds and not timer.state.is_given:
        limit = min(limit, SLACK * training)
    with timer.step(f"fold {fold}: training", training + costs.start):
        train_fold(_limited(context, limit), fold)
    with timer.step(f"fold {fold}: test images", counts.test * len(plan.views) * costs.at(plan.size).predict):
        predict_test(context)
    timer.save(costs=_measured(context, fold, plan, counts, costs))


def _limited(context: Context, seconds: float) -> Context:
    """The context with a time limit of the training, unless a person's config has options that exclude one."""
    train = context.cfg.train
    if train.select == "last" or any(phase.swa or phase.cycles > 1 for phase in train.phases):
        return context
    minutes = min(max(seconds / 60, LEAST_MINUTES), train.max_minutes or math.inf)
    limited = train.model_copy(update={"max_minutes": minutes})
    return context._replace(cfg=context.cfg.model_copy(update={"train": limited}))


def _measured(context: Context, fold: int, plan: Plan, counts: Counts, costs: Costs) -> Costs:
    """The costs, corrected by the time that the epochs of a fold took."""
    epochs = epoch_seconds(context, fold)
    all_epochs = sum(phase.epochs for phase in context.cfg.train.phases)
    ratio = sum(epochs) / (fold_training(plan, counts, costs) * len(epochs) / all_epochs)
    return costs._replace(update=costs.update * ratio, predict=costs.predict * ratio)


def _submit(timer: BudgetClock, job: Job, folds: int) -> Ensembled:
    """Write the submission of the first folds, and measure how long the choice of its rules takes."""
    plan, costs = timer.state.plan, timer.state.costs
    held_out = job.counts.held_out(plan.split) * folds
    with timer.step(f"submission of {folds} fold{'s' * (folds > 1)}", costs.submit + costs.choose * held_out):
        submission = ensemble([job.config(plan, folds)], job.path.stem)
    choose = max(timer.state.steps[-1].seconds - costs.submit, 0) / held_out
    timer.save(submitted=(folds, plan.views), costs=costs._replace(choose=choose))
    score = submission.interval
    log.info("submission: %s, OOF score %.4f, %s", submission.csv, score.mean, score)
    return submission
