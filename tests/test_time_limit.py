"""Tests of `train.max_minutes`, the time limit of a fold's training."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import config
from pipeline.training import trainer
from pipeline.training.trainer import fit
from tests.fitting import RUN, fit_tiny, fold_data, job_of_tiny, stopped_after

SECONDS = 30  # that each epoch takes by the clock of these tests


@pytest.fixture
def slow(monkeypatch):
    """A clock by which every epoch takes SECONDS: it is read three times in an epoch, first and last for its length."""
    now = iter(range(0, 1_000_000 * SECONDS, SECONDS // 2))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: next(now)))


def epochs():
    """The phase of each epoch that was trained."""
    return [json.loads(line)["phase"] for line in (RUN / "metrics.jsonl").read_text().splitlines()]


def rates():
    """The learning rate at the end of each epoch."""
    return [json.loads(line)["lr"] for line in (RUN / "metrics.jsonl").read_text().splitlines()]


TEN = ["train.phases.0.epochs=10", "train.phases.1.epochs=5"]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(100, [1] * 10 + [2] * 5), (7.5, [1] * 10 + [2] * 5), (3, [1] * 4 + [2] * 2), (0.1, [1, 2])],
)
def test_each_phase_has_its_part_of_the_time_and_at_least_one_epoch(tiny, slow, minutes, expected):
    fit_tiny(*TEN, f"train.max_minutes={minutes}", phases=2)
    assert epochs() == expected


def test_the_rate_falls_to_the_end_of_a_shortened_phase(tiny, slow):
    fit_tiny(*TEN, "train.max_minutes=3")
    last = config.load("configs/tiny.toml").train.phases[0]
    assert len(rates()) == 6
    assert rates()[-1] == pytest.approx(last.lr * last.final_lr, rel=1e-3)


def test_a_limit_that_is_not_reached_changes_no_weight(tiny, slow):
    fit_tiny()
    expected = (RUN / "best.safetensors").read_bytes()
    for path in RUN.iterdir():
        path.unlink()
    fit_tiny("train.max_minutes=1000")
    assert (RUN / "best.safetensors").read_bytes() == expected


@pytest.mark.parametrize("saves", [1, 4, 5])
def test_a_stopped_training_goes_on_within_the_same_limit(tiny, slow, saves):
    pairs = (*TEN, "train.max_minutes=3")
    with stopped_after(saves):
        fit_tiny(*pairs, phases=2)
    fit(job_of_tiny(*pairs, phases=2))
    assert epochs() == [1] * 4 + [2] * 2


@pytest.mark.parametrize("option", ['train.select="last"', "train.phases.0.swa=0.5", "train.phases.0.cycles=2"])
def test_options_that_need_the_number_of_epochs_are_refused(tiny, option):
    with pytest.raises(ValueError, match="max_minutes may end a phase early"):
        config.load(Path("configs/tiny.toml"), ["train.max_minutes=5", option])


@pytest.mark.parametrize("minutes", [100, 3, 0.1])
def test_a_full_fit_has_the_weights_of_its_last_epoch_whenever_its_time_ends(tiny, slow, minutes):
    data = fold_data("full")
    fit_tiny(*TEN, f"train.max_minutes={minutes}", data=data, phases=2, epochs=(10, 5))
    assert (RUN / "best.safetensors").is_file()
    assert json.loads((RUN / "metrics.jsonl").read_text().splitlines()[-1])["best"]
