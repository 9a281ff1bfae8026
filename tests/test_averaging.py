"""Averages of weights (SWA and soup): candidates, results, resuming after a kill, and files on disk."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline import config
from pipeline.models import build_model
from pipeline.training import trainer
from pipeline.training.averaging import (
    AveragedWeights,
    RunningMean,
    batch_norms,
    candidates,
    estimate_batch_statistics,
    greedy_soup,
    last_epochs,
    mean_weights,
)
from pipeline.training.checkpoint import read_record
from pipeline.training.train_state import TrainState
from pipeline.training.validation import Validator
from tests.fitting import RUN, fit_tiny, history, validation

ALL_ON = (
    "train.phases.0.epochs=4",
    "train.phases.0.cycles=2",
    "train.phases.0.swa=0.5",
    "train.phases.0.soup=2",
    "train.phases.0.crop=32",
    "train.phases.0.scale=[0.8, 1.3]",
    "train.phases.0.mix={ cutmix = 0.3, mosaic = 0.3, copy_paste = 0.2, mixup = 0.2 }",
)


def random_weights(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 2, generator=generator), "count": torch.tensor(seed)}


def test_running_mean_averages_weights_and_keeps_the_last_counters():
    many = [random_weights(seed) for seed in range(5)]
    mean = mean_weights(many)
    assert torch.allclose(mean["a"], torch.stack([weights["a"] for weights in many]).mean(dim=0), atol=1e-6)
    assert mean["count"] == 4


def test_running_mean_copies_the_weights_it_is_given():
    weights = random_weights(0)
    mean = RunningMean()
    mean.add(weights)
    before = mean.weights["a"].clone()
    weights["a"] += 1
    assert torch.equal(mean.weights["a"], before)
    mean.add(random_weights(1))
    assert torch.equal(weights["a"] - 1, random_weights(0)["a"] + 1 - 1)


def test_running_mean_resumes_bit_for_bit():
    whole, first = RunningMean(), RunningMean()
    for seed in range(4):
        whole.add(random_weights(seed))
        if seed < 2:
            first.add(random_weights(seed))
    second = RunningMean(**vars(first))
    for seed in (2, 3):
        second.add(random_weights(seed))
    assert second.count == 4
    assert torch.equal(whole.weights["a"], second.weights["a"])


@pytest.mark.parametrize(
    ("epochs", "share", "expected"),
    [(10, 0.3, [8, 9, 10]), (4, 0.5, [3, 4]), (3, 0.01, [3]), (3, 1.0, [1, 2, 3]), (3, 0, []), (5, 0.5, [3, 4, 5])],
)
def test_last_epochs_are_rounded_up(epochs, share, expected):
    assert list(last_epochs(epochs, share)) == expected


def lines(scores):
    return [{"epoch": epoch, "selection": score} for epoch, score in enumerate(scores, start=1)]


def test_candidates_are_the_best_epochs_and_ties_go_to_the_earlier():
    assert candidates(lines([0.5, 0.9, 0.7, 0.9]), 3, 4) == [2, 4, 3]


def test_candidates_include_the_best_epoch_of_each_cycle():
    scores = [0.1, 0.3, 0.2, 0.8, 0.7, 0.6]
    assert candidates(lines(scores), 2, 2) == [4, 5, 2]
    assert candidates(lines(scores[:3]), 1, 2) == [2, 3]  # a cycle that is not over has a best too
    assert candidates(lines(scores), 2, 6) == [4, 5]


@pytest.mark.parametrize("seed", range(20))
def test_epoch_that_is_no_longer_a_candidate_never_becomes_one_again(seed):
    rng = np.random.default_rng(seed)
    best, cycle, scores = rng.integers(2, 5), rng.choice([12, 3]), rng.integers(0, 6, 12) / 6
    kept = set()
    for epoch in range(1, 13):
        wanted = candidates(lines(scores[:epoch]), best, cycle)
        assert set(wanted) <= kept | {epoch}
        assert len(wanted) <= best + (4 if cycle == 3 else 0)
        kept = set(wanted)


def evaluate_by(table):
    def evaluate(epochs):
        return AveragedWeights("soup", epochs, validation(table[tuple(epochs)]), {}, 0.0)

    return evaluate


def test_greedy_soup_keeps_what_does_not_lower_the_score():
    table = {(4, 2): 0.80, (4, 2, 7): 0.79, (4, 2, 1): 0.82}
    soup = greedy_soup([4, 2, 7, 1], 0.80, evaluate_by(table))
    assert (soup.epochs, soup.validation.score) == ([4, 2, 1], 0.82)


def test_greedy_soup_of_only_the_best_epoch_is_none():
    assert greedy_soup([4, 2], 0.8, evaluate_by({(4, 2): 0.7})) is None
    assert greedy_soup([4], 0.8, evaluate_by({})) is None


def small_net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def test_batch_statistics_are_the_mean_over_the_batches():
    torch.manual_seed(0)
    net = small_net().eval()
    batches = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    estimate_batch_statistics(net, batch_norms(net), batches)
    features = [net[0](images).detach() for images in batches]
    means = torch.stack([each.mean(dim=(0, 2, 3)) for each in features]).mean(dim=0)
    variances = torch.stack([each.var(dim=(0, 2, 3)) for each in features]).mean(dim=0)
    assert torch.allclose(net[1].running_mean, means, atol=1e-6)
    assert torch.allclose(net[1].running_var, variances, atol=1e-6)
    assert net[1].momentum == 0.1
    assert not any(module.training for module in net.modules())


def test_estimating_batch_statistics_draws_no_random_number_and_changes_no_weight():
    net = small_net().eval()
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    state = torch.random.get_rng_state()
    batches = [torch.ones(4, 1, 8, 8) * number for number in range(3)]
    estimate_batch_statistics(net, batch_norms(net), batches)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())


FOUR = "train.phases.0.epochs=4"


class Killed(BaseException):
    pass


def kill_at(monkeypatch, number):
    """Raise Killed instead of the write of that number, from 1."""
    left = [number]

    def counted(original):
        def write(*args):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return original(*args)

        return write

    for owner, name in ((trainer, "save_checkpoint"), (trainer, "write_history"), (TrainState, "save")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def test_run_killed_at_any_write_ends_with_the_weights_of_an_undisturbed_run(tiny, monkeypatch):
    # An epoch writes four times at most: each run gets further than the last, and is killed somewhere else.
    fit_tiny(*ALL_ON)
    undisturbed, expected = load_file(RUN / "best.safetensors"), history()
    assert [line.get("candidate") for line in expected][:5] == [None] * 4 + ["swa"]
    RUN.rename("undisturbed")
    stopped_at = []
    while not (RUN / "best.safetensors").exists():
        with monkeypatch.context() as patch, suppress(Killed):
            kill_at(patch, 5)
            fit_tiny(*ALL_ON)
        state = TrainState.load(RUN / "state.pt") or TrainState({})
        stopped_at.append((state.epoch, state.averages_evaluated))
    assert {(1, False), (4, False)} < set(stopped_at)  # the second: while the averages were evaluated
    resumed = load_file(RUN / "best.safetensors")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)
    assert history() == expected
    assert not list(RUN.glob("soup*"))


def scored(monkeypatch, scores):
    """Let the evaluation return these scores, one after the other; returns the weights that were evaluated."""
    given, left = [], iter(scores)

    def evaluate(self, model):
        given.append({key: value.clone() for key, value in model.state_dict().items()})
        return validation(next(left))

    monkeypatch.setattr(Validator, "__call__", evaluate)
    return given


@pytest.mark.slow
def test_swa_with_the_best_score_becomes_the_phases_best_weights(tiny, monkeypatch):
    raw, original = [], trainer.train_one_epoch

    def spy(model, *args, **options):
        loss = original(model, *args, **options)
        raw.append({key: value.clone() for key, value in model.state_dict().items()})
        return loss

    monkeypatch.setattr(trainer, "train_one_epoch", spy)
    scored(monkeypatch, [0.1, 0.2, 0.3, 0.25, 0.9])
    fit_tiny(FOUR, "train.phases.0.swa=0.5")
    best = load_file(RUN / "phase1.safetensors")
    for name in ("net.segmentation_head.0.weight", "net.encoder.model.conv_stem.weight"):
        assert torch.allclose(best[name], (raw[2][name] + raw[3][name]) / 2, atol=1e-6)
    line = history()[4]
    assert (line["candidate"], line["epochs"], line["epoch"], line["best"]) == ("swa", [3, 4], 4, True)
    assert (line["loss"], line["lr"], line["score"], line["phase"]) == (None, None, 0.9, 1)
    record = read_record(RUN / "phase1.safetensors")
    assert (record["score"], record["candidate"], record["epochs"]) == (0.9, "swa", [3, 4])
    assert read_record(RUN / "best.safetensors")["score"] == 0.9


@pytest.mark.slow
def test_swa_with_a_lower_score_is_logged_and_not_kept(tiny, monkeypatch):
    given = scored(monkeypatch, [0.1, 0.2, 0.7, 0.3, 0.6])
    fit_tiny(FOUR, "train.phases.0.swa=0.5")
    line = history()[4]
    assert (line["candidate"], line["best"]) == ("swa", False)
    record = read_record(RUN / "phase1.safetensors")
    assert (record["epoch"], record["score"]) == (3, 0.7)
    assert "candidate" not in record
    best = load_file(RUN / "phase1.safetensors")
    assert all(torch.equal(best[key], given[2][key]) for key in best)


@pytest.mark.slow
def test_soup_is_the_mean_of_the_ema_weights_of_the_epochs_that_raise_the_score(tiny, monkeypatch):
    # Epochs by score: 3, 4, 1, 2. With 4 it falls, with 1 it does not; 2 is not among the best three.
    given = scored(monkeypatch, [0.6, 0.1, 0.8, 0.7, 0.75, 0.85])
    fit_tiny(FOUR, "train.phases.0.soup=3")
    line = history()[4]
    assert (line["candidate"], line["epochs"], line["score"], line["best"]) == ("soup", [3, 1], 0.85, True)
    best = load_file(RUN / "phase1.safetensors")
    name = "net.segmentation_head.0.weight"
    assert torch.allclose(best[name], (given[2][name] + given[0][name]) / 2, atol=1e-6)
    assert all(torch.equal(best[key], given[5][key]) for key in best)  # batch statistics too are those that were scored


@pytest.mark.slow
def test_soup_includes_the_best_of_each_cycle_and_keeps_only_candidates_on_disk(tiny, monkeypatch):
    on_disk, save_state = [], TrainState.save

    def spy(state, path):
        on_disk.append(sorted(file.name for file in path.parent.glob("soup*")))
        save_state(state, path)

    monkeypatch.setattr(TrainState, "save", spy)
    scored(monkeypatch, [0.3, 0.2, 0.8, 0.7, 0.6, 0.9])
    fit_tiny(FOUR, "train.phases.0.soup=2", "train.phases.0.cycles=2")
    assert on_disk[3] == ["soup1-1.safetensors", "soup1-3.safetensors", "soup1-4.safetensors"]
    assert history()[4]["epochs"] == [3, 1]  # .6 with 4 is less than .8, .9 with the first cycle's best is not
    assert not list(RUN.glob("soup*"))


@pytest.mark.slow
def test_second_phase_starts_from_the_best_average_and_evaluates_its_own(tiny, monkeypatch):
    started, original = [], trainer.load_checkpoint

    def spy(path, *args):
        started.append(read_record(path).get("candidate"))
        return original(path, *args)

    monkeypatch.setattr(trainer, "load_checkpoint", spy)
    scored(monkeypatch, [0.1, 0.2, 0.3, 0.2, 0.1, 0.25])
    fit_tiny("train.phases.0.swa=0.5", "train.phases.1.swa=0.5", phases=2)
    assert [(line["phase"], line.get("candidate")) for line in history()] == [
        (1, None),
        (1, None),
        (1, "swa"),
        (2, None),
        (2, None),
        (2, "swa"),
    ]
    assert started[0] == "swa"


@pytest.mark.slow
def test_batch_statistics_of_a_frozen_encoder_do_not_change(tiny):
    fit_tiny("train.phases.0.freeze_encoder=true", "train.phases.0.swa=1.0")
    assert history()[-1]["candidate"] == "swa"
    torch.manual_seed(0)
    fresh = build_model(config.load("configs/tiny.toml").model).encoder.state_dict()
    trained = load_file(RUN / "phase1.safetensors")
    encoder = {key.removeprefix("net.encoder."): value for key, value in trained.items() if "net.encoder." in key}
    assert all(torch.equal(encoder[key], fresh[key]) for key in fresh)


@pytest.mark.slow
def test_without_swa_and_soup_no_average_is_evaluated_or_written(tiny, monkeypatch):
    states = []
    monkeypatch.setattr(TrainState, "save", lambda state, path: states.append(state))
    fit_tiny()
    assert [line.get("candidate") for line in history()] == [None, None]
    assert [state.tensors["swa"] for state in states] == [None, None]
    assert {path.name for path in RUN.iterdir()} == {"best.safetensors", "metrics.jsonl", "phase1.safetensors"}
