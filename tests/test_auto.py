"""Tests of `make auto`: from a folder to a submission within a time budget."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest

from pipeline import config, stages
from pipeline.cli import INTERRUPTED, main
from pipeline.files import file_digest
from pipeline.planning import budget
from pipeline.planning.budget import Costs, Length
from pipeline.planning.budget_clock import BudgetClock, RunState
from pipeline.stages import automating, drafting_card, drafting_config, trial

ABOUT = 1.25  # of a budget: other tests start beside these, and no plan knows that
SLOW = Costs(start=1.0, update=1.0, predict=0.1, choose=0.1)  # slower than it is: trainings of few updates are planned


@pytest.fixture
def short(monkeypatch):
    """Short trainings, planned by a trial whose result is given, so that a test takes some seconds."""
    for name, updates in (("SHORTEST", 6), ("OF_SEVERAL", 6), ("LONG", 9), ("LONGEST", 12)):
        monkeypatch.setattr(budget, name, Length(1, updates, updates))
    monkeypatch.setattr(automating, "measure_costs", lambda *_: SLOW)
    return SLOW


def enough() -> int:
    """A budget in seconds that is enough for one fold, also on a slow machine."""
    return round(80 * max(1.0, trial._pace()))


def run(seconds=200.0):
    return stages.auto(Path("tiny"), seconds, "mine", card="tiny.toml")


def state():
    return RunState.model_validate_json(Path("runs/mine/auto.json").read_text())


@pytest.mark.slow
def test_a_folder_becomes_a_submission_that_its_config_makes_again(tiny):
    seconds = enough()
    done = run(seconds)
    csv = done.submission.csv.read_bytes()
    assert done.submission.csv == Path("submissions/mine.csv")
    for path in ("configs/mine.toml", "reports/mine-plan.md", "reports/mine.html", "submissions/mine.json"):
        assert Path(path).is_file()
    assert 0 < done.state.seconds <= ABOUT * seconds
    again = stages.ensemble([config.load("configs/mine.toml")])  # trains nothing: the folds are those of the config
    assert again.csv.read_bytes() == csv
    page = done.plan_page.read_text()
    assert f"{done.submission.interval.mean:.4f}" in page
    assert done.state.plan.describe() in page
    assert "limits the plan" in page


@pytest.mark.slow
def test_the_config_of_a_plan_trains_as_long_as_planned(tiny, short):
    plan = run().state.first_plan
    cfg = config.load("configs/mine.toml")
    held_out = -(-18 // plan.split)
    updates = sum(
        phase.epochs * (round((18 - held_out) * phase.repeats) // cfg.train.batch_size) for phase in cfg.train.phases
    )
    assert updates == pytest.approx(plan.updates, rel=0.1)
    assert cfg.folds.count == plan.split


@pytest.mark.slow
def test_a_killed_run_goes_on_within_its_budget(tiny):
    seconds = enough()
    command = [sys.executable, "-m", "pipeline", "auto", "--data", "tiny", "--name", "mine", "--budget", f"{seconds}s"]
    root = Path(stages.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--card", "tiny.toml"], env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + seconds
        while not Path("runs/mine/fold0/state.pt").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    before = state()
    assert before.seconds > 1
    assert before.plan is not None
    done = run(seconds)
    csv = done.submission.csv.read_bytes()
    assert done.state.seconds > before.seconds
    assert done.state.seconds <= ABOUT * seconds
    assert done.state.first_plan == before.first_plan
    assert done.submission.summary.rows == 5
    # The submission is that of the folds, as a run without an interruption of its choice makes it.
    assert stages.ensemble([config.load("configs/mine.toml")]).csv.read_bytes() == csv


@pytest.mark.slow
def test_a_submission_exists_after_the_first_fold(tiny, short, monkeypatch):
    trained = []
    original = automating.train_fold

    def train_or_stop(context, fold):
        if trained:
            assert Path("submissions/mine.csv").is_file()
            raise KeyboardInterrupt
        trained.append(fold)
        return original(context, fold)

    monkeypatch.setattr(automating, "train_fold", train_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert state().submitted[0] == 1
    folds = pd.read_csv("folds/tiny.csv", dtype=str)
    scored = pd.read_csv("submissions/mine.oof.csv", dtype=str)
    assert sorted(scored["image_id"]) == sorted(folds["image_id"][folds["fold"] == "0"])


@pytest.mark.slow
def test_a_machine_that_is_slower_than_planned_trains_fewer_folds(tiny, short, monkeypatch):
    monkeypatch.setattr(automating, "measure_costs", lambda *_: SLOW._replace(update=0.001))
    monkeypatch.setattr(automating, "_measured", lambda *_: SLOW._replace(update=1000.0))
    done = run()
    assert (done.state.first_plan.folds, done.state.plan.folds) == (5, 1)
    assert config.load("configs/mine.toml").folds.only == (0,)


@pytest.mark.slow
def test_a_config_that_a_person_wrote_is_kept_and_its_folds_are_planned(tiny, short, edit):
    Path("configs/mine.toml").write_text(Path("configs/tiny.toml").read_text())
    before = Path("configs/mine.toml").read_bytes()
    done = run()
    assert Path("configs/mine.toml").read_bytes() == before
    assert done.state.plan.folds == config.load("configs/mine.toml").folds.count


@pytest.mark.slow
def test_a_finished_run_does_nothing_again_and_more_time_trains_more_folds(tiny, short, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(automating, "revise", lambda plan, *_, done: plan._replace(folds=done))
        first = run(seconds=60.0)
    folds, csv = first.state.plan.folds, first.submission.csv.read_bytes()
    again = run(seconds=first.state.seconds + 1)
    assert again.submission is None
    assert again.state.results == first.state.results
    assert first.submission.csv.read_bytes() == csv
    text = Path("configs/mine.toml").read_text()
    Path("configs/mine.toml").write_text(f"{text}\n# edited\n")
    edited = run(seconds=first.state.seconds + 1)
    assert edited.submission is not None
    more = run(seconds=1000.0)
    assert more.state.plan.folds == more.state.plan.split > folds
    assert more.submission.csv.read_bytes() != csv


def test_a_budget_that_is_too_small_is_refused_with_the_least_one(tiny, short):
    with pytest.raises(ValueError, match=r"are left, and one short training .* takes about .*: give a larger BUDGET"):
        run(seconds=3.0)


def test_two_runs_at_once_are_refused(tiny, monkeypatch):
    def second(*_):
        with pytest.raises(ValueError, match="runs/mine"):
            run()
        raise KeyboardInterrupt

    monkeypatch.setattr(drafting_config, "measure", second)
    with pytest.raises(KeyboardInterrupt):
        run()


def test_the_time_of_a_stopped_run_counts(tmp_path):
    first = BudgetClock(tmp_path / "auto.json", 100.0)
    with first.running(), first.step("first"):
        time.sleep(0.05)
    second = BudgetClock(tmp_path / "auto.json", 100.0)
    assert second.state.seconds >= 0.05
    assert second.state.steps == first.state.steps
    assert second.left < 100 - 0.05


def test_the_time_before_the_clock_counts(tmp_path):
    with BudgetClock(tmp_path / "auto.json", 100.0, spent=7.0).running():
        pass
    second = BudgetClock(tmp_path / "auto.json", 100.0, spent=5.0)
    assert 80.0 < second.left < 88.0


def test_the_command_line_counts_from_the_start_of_its_process(monkeypatch):
    given = []

    def auto(*_, spent, **__):
        given.append(spent)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "auto", auto)
    assert main(["auto", "--data", "tiny", "--budget", "80s"]) == INTERRUPTED
    assert given == [pytest.approx(time.time() - psutil.Process().create_time(), abs=1.0)]


@pytest.mark.parametrize(
    ("durations", "expected", "calls"), [((31, 1, 1), 31, 1), ((9, 5, 1), 5, 2), ((3, 2, 3), 2.5, 3), ((1, 0, 0), 0, 4)]
)
def test_a_trial_times_few_steps_of_a_slow_machine(monkeypatch, durations, expected, calls):
    now, left, called = [0.0], iter((*durations, *[0] * 9)), []

    def step():
        called.append(True)
        now[0] += next(left)

    monkeypatch.setattr(trial.time, "monotonic", lambda: now[0])
    assert trial._mean_seconds(step, 3) == expected
    assert len(called) == calls


def test_a_step_that_fails_is_not_counted_as_done(tmp_path):
    timer = BudgetClock(tmp_path / "auto.json", 100.0)
    with pytest.raises(ZeroDivisionError), timer.step("broken"):
        raise ZeroDivisionError
    assert timer.state.steps == ()


def test_a_damaged_state_is_one_line(tmp_path):
    path = tmp_path / "auto.json"
    path.write_text('{"seconds": "many"}')
    with pytest.raises(ValueError, match=r"auto\.json.*remove .*auto\.json to start again"):
        BudgetClock(path, 100.0)


def test_a_run_without_a_name_leaves_the_config_of_a_person_alone(tiny, monkeypatch):
    used = []
    monkeypatch.setattr(automating, "_run", lambda timer, data, name, *_: used.append(name))
    stages.auto(Path("tiny"), 100.0)  # configs/tiny.toml exists
    stages.auto(Path("tiny"), 100.0, "tiny")
    Path("other").mkdir()
    stages.auto(Path("other"), 100.0)
    Path("runs/other").joinpath("auto.json").write_text("{}")
    Path("configs/other.toml").touch()  # by the run before
    stages.auto(Path("other"), 100.0)
    Path("third").mkdir()
    Path("folds").mkdir(exist_ok=True)
    Path("folds/third.csv").touch()  # of another set
    stages.auto(Path("third"), 100.0)
    assert used == ["tiny-auto", "tiny", "other", "other", "third-auto"]


def stop_after_the_plan(monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(automating, "_train_folds", stop)


def planned_run(monkeypatch, seconds=200.0, **options):
    stop_after_the_plan(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stages.auto(Path("tiny"), seconds, "mine", **{"card": "tiny.toml", **options})
    return state()


def test_folds_that_exist_are_used(tiny, short, monkeypatch):
    stages.describe_folds(config.load("configs/tiny.toml", ["folds.count=2"]))
    assert planned_run(monkeypatch, 2000.0).plan.split == 2
    assert config.load("configs/mine.toml").folds.count == 2


def test_a_finished_run_is_not_measured_again(tiny, short, monkeypatch):
    planned = planned_run(monkeypatch, 2000.0)
    assert planned.plan.folds == planned.plan.split  # nothing is left to train
    digest = file_digest(Path("configs/mine.toml"))
    timer = BudgetClock(Path("runs/mine/auto.json"), 2000.0)
    timer.save(finished=digest, submitted=(planned.plan.split, planned.plan.views), results=("a score",))
    monkeypatch.setattr(automating, "measure_and_draft", None)  # it measures the images
    again = run(seconds=2000.0)
    assert (again.submission, again.state.results) == (None, ("a score",))


def test_a_resumed_run_keeps_the_counts_of_its_plan(tiny, short, monkeypatch):
    first = planned_run(monkeypatch)
    again = planned_run(monkeypatch)
    assert (again.counts, again.plan, again.written) == (first.counts, first.plan, first.written)


def test_another_folder_or_card_under_the_same_name_is_refused(tiny, short, monkeypatch):
    planned_run(monkeypatch)
    Path("other.toml").write_text(Path("tiny.toml").read_text())
    with pytest.raises(
        ValueError, match=r"an earlier run of this name had card = tiny\.toml, this one has other\.toml"
    ):
        stages.auto(Path("tiny"), 200.0, "mine", card="other.toml")
    shutil.copytree("tiny", "elsewhere")
    with pytest.raises(ValueError, match=r"an earlier run of this name had data = .*tiny, this one has .*elsewhere"):
        stages.auto(Path("elsewhere"), 200.0, "mine", card="tiny.toml")


def test_a_card_that_was_changed_after_the_plan_is_refused(tiny, short, monkeypatch, edit):
    planned_run(monkeypatch)
    edit("tiny.toml", 'metric = "mean_dice"', 'metric = "mean_iou"')
    with pytest.raises(ValueError, match=r"tiny\.toml has changed since .* give another NAME, with CARD=tiny\.toml"):
        run()


def test_a_metric_may_be_given_in_any_spelling(tiny, short, monkeypatch):
    planned_run(monkeypatch, metric=" mean_dice(empty=1) ")
    with pytest.raises(ValueError, match=r"METRIC=mean_dice\(empty=0\): tiny\.toml has the metric mean_dice"):
        planned_run(monkeypatch, metric="mean_dice(empty=0)")


def test_what_is_not_sure_on_a_drafted_card_is_logged_and_named_at_the_end(tiny, short, monkeypatch, caplog):
    Path("tiny.toml").rename("tiny/hidden.toml")
    found = planned_run(monkeypatch, card="")
    assert "metric" in found.unsure
    assert "cards/mine.toml: not sure: metric: no file shows the metric" in caplog.text
    interval = SimpleNamespace(mean=0.5)
    submission = SimpleNamespace(
        interval=interval,
        summary=SimpleNamespace(rows=1, empty=0),
        metric="ap60",
        official=0.25,
        csv=Path("submissions/mine.csv"),
    )
    lines = automating._results(submission, Path("r.html"), "cards/mine.toml", Path("c.toml"), found.unsure)
    assert lines[:2] == ("f1_60, out of fold, cross-fitted: 0.5000, namespace(mean=0.5)", "ap60, cross-fitted: 0.2500")
    assert any(line.startswith("card: cards/mine.toml; not sure, check before you submit: ") for line in lines)


def test_the_limit_of_a_resumed_training_counts_its_epochs_before_the_stop(tiny, short, monkeypatch):
    planned_run(monkeypatch, 2000.0)
    limits = []

    def limited(context, seconds):
        limits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(automating, "_limited", limited)
    timer = BudgetClock(Path("runs/mine/auto.json"), 2000.0)
    drafted = automating.measure_and_draft("mine", "tiny.toml", Path("tiny"), skip_bad=False)
    job = automating._make_job(timer, drafted, "tiny.toml", Path("tiny"))
    timer.save(plan=timer.state.plan._replace(folds=1))
    with pytest.raises(KeyboardInterrupt):
        automating._train_fold(timer, job, 0)
    monkeypatch.setattr(automating, "epoch_seconds", lambda *_: [60.0, 40.0])
    with pytest.raises(KeyboardInterrupt):
        automating._train_fold(timer, job, 0)
    assert limits[1] - limits[0] == pytest.approx(100, abs=20)  # what passed between the two calls


@pytest.mark.parametrize("given", ["tiny.toml", ""])
def test_a_missing_sample_submission_is_drafted_once_in_one_folder(tiny, short, monkeypatch, edit, given):
    Path("tiny/sample_submission.csv").unlink()
    edit("tiny.toml", "[files]", '[files]\nsample_submission = "drafted_sample_submission.csv"')
    written, original = [], drafting_card.write_empty_sample
    monkeypatch.setattr(
        drafting_card, "write_empty_sample", lambda path, *_: written.append(path) or original(path, *_)
    )
    planned_run(monkeypatch, card=given, table="train.csv")  # solution.csv could be it too
    folder = Path("data") / (given.removesuffix(".toml") or "mine")  # of the card that is given, or drafted
    assert written == [folder / "drafted_sample_submission.csv"]
    assert list(Path("data").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "global_dice"}, "METRIC=global_dice: tiny.toml has the metric mean_dice: edit it there"),
        ({"table": "solution.csv"}, "TABLE=solution.csv: tiny.toml has the training table train.csv: edit it there"),
    ],
)
def test_another_metric_or_table_than_the_cards_is_refused(tiny, short, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        stages.auto(Path("tiny"), 200.0, "mine", card="tiny.toml", **options)


def test_an_edited_config_is_kept(tiny, short, monkeypatch, caplog):
    planned_run(monkeypatch)
    text = Path("configs/mine.toml").read_text() + "# mine\n"
    Path("configs/mine.toml").write_text(text)
    timer = BudgetClock(Path("runs/mine/auto.json"), 200.0)
    automating._write_config(timer, SimpleNamespace(path=Path("configs/mine.toml")), timer.state.plan)
    assert Path("configs/mine.toml").read_text() == text


def test_a_person_s_config_with_a_card_of_few_folds_is_planned(tiny, short, monkeypatch, edit):
    edit("tiny.toml", 'name = "tiny"', 'name = "tiny"\nfolds = 4')
    text = Path("configs/tiny.toml").read_text().replace("[folds]\ncount = 3\n", "")
    assert "count" not in text
    Path("configs/mine.toml").write_text(text)
    assert planned_run(monkeypatch, 2000.0).plan.folds == 4
