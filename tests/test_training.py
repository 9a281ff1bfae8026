"""Training: phases, resuming, averaged weights, and no training on held-out images."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline import config, stages
from pipeline.data import dataset
from pipeline.inference.prediction_store import PredictionStore
from pipeline.stages import training
from pipeline.stages.training import _log_threshold_shift, check_before_training
from pipeline.training import trainer
from pipeline.training.checkpoint import load_checkpoint, load_weights, read_record, save_checkpoint
from pipeline.training.distributed import processes
from pipeline.training.freezing import frozen_layers
from pipeline.training.full_fit import median_best_epochs, with_epochs
from pipeline.training.optimizer import learning_rate
from pipeline.training.train_state import TrainState
from pipeline.training.validation import Validator, spread_by_coverage
from tests import fitting

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def load(*pairs):
    return config.load("configs/tiny.toml", pairs)


def history(fold=0):
    return [json.loads(line) for line in Path(f"runs/tiny/fold{fold}/metrics.jsonl").read_text().splitlines()]


def test_held_out_images_are_never_trained_on(tiny, monkeypatch):
    seen = set()
    original = dataset.MaskedImages.__getitem__

    def spy(self, key):
        seen.add(self.samples[key[0]].image_id)
        return original(self, key)

    monkeypatch.setattr(dataset.MaskedImages, "__getitem__", spy)
    stages.train(load(), 1)
    context = stages.make_context(load())
    held_out = set(context.folds["image_id"][context.folds["fold"] == 1])
    assert seen == set(context.index["image_id"]) - held_out
    assert PredictionStore(Path("runs/tiny/fold1/oof")).ids() == held_out


def test_loading_a_checkpoint_of_another_fold_is_refused(tiny):
    model = torch.nn.Linear(2, 1)
    save_checkpoint(tiny / "w.safetensors", model.state_dict(), {"fold": 1})
    assert load_checkpoint(tiny / "w.safetensors", model, 1)["fold"] == 1
    with pytest.raises(ValueError, match=r"w\.safetensors held out fold 1, not fold 0: it was trained on these images"):
        load_checkpoint(tiny / "w.safetensors", model, 0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "running_mean"], ids=["a weight", "a batch norm's statistics"])
def test_checkpoint_with_weights_that_are_not_finite_is_refused(tiny, name, number):
    weights = torch.nn.BatchNorm2d(3).state_dict()
    weights[name][1] = number
    save_checkpoint(tiny / "w.safetensors", weights, {"fold": 0})
    said = rf"w\.safetensors: 1 of the 3 numbers of '{name}' are not finite"
    with pytest.raises(ValueError, match=said):
        load_checkpoint(tiny / "w.safetensors", torch.nn.BatchNorm2d(3), 0)
    with pytest.raises(ValueError, match=said):
        load_weights(tiny / "w.safetensors")


@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_training_state_whose_weights_are_not_finite_is_refused(tiny, part):
    tensors = {name: torch.nn.Linear(2, 1).state_dict() for name in ("model", "ema")}
    tensors[part]["bias"][0] = float("nan")
    TrainState({}, tensors=tensors).save(tiny / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: 1 of the 1 numbers of 'bias' are not finite"):
        TrainState.load(tiny / "state.pt")


def test_checkpoint_of_another_model_or_a_truncated_one_is_refused(tiny):
    path = tiny / "w.safetensors"
    save_checkpoint(path, torch.nn.Linear(2, 1).state_dict(), {"fold": 0})
    with pytest.raises(ValueError, match="weights of another model"):
        load_checkpoint(path, torch.nn.Linear(3, 1), 0)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="not a checkpoint of this pipeline"):
        read_record(path)


def test_each_phase_starts_from_the_best_weights_of_the_phase_before(tiny, monkeypatch):
    loaded = []
    original = trainer.load_checkpoint

    def spy(path, model, fold):
        loaded.append(Path(path).name)
        return original(path, model, fold)

    monkeypatch.setattr(trainer, "load_checkpoint", spy)
    stages.train(load(), 0)
    assert [(line["phase"], line["epoch"]) for line in history()] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert loaded[0] == "phase1.safetensors"
    best = max(history(), key=lambda line: line["selection"])
    record = read_record(Path("runs/tiny/fold0/best.safetensors"))
    assert (record["phase"], record["score"], record["selection"]) == (best["phase"], best["score"], best["selection"])


@pytest.mark.slow
def test_same_seed_gives_the_same_weights_and_another_seed_gives_others(tiny):
    def weights(name, *pairs):
        Path(f"configs/{name}.toml").write_text(Path("configs/tiny.toml").read_text())
        stages.train(config.load(f"configs/{name}.toml", pairs), 0)
        return load_file(f"runs/{name}/fold0/best.safetensors")

    one, same, other = weights("one"), weights("same", "train.workers=2"), weights("other", "seed=1")
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def start_training(*options):
    command = [sys.executable, "-m", "pipeline", "train", "configs/tiny.toml", "--fold", "0", *options]
    with Path("stderr.txt").open("w") as stderr:
        return subprocess.Popen(command, env=ENV, stderr=stderr)


def kill_after_epoch(process, epochs):
    """kill -9 once `metrics.jsonl` holds that many epochs, in the middle of what follows."""
    path = Path("runs/tiny/fold0/metrics.jsonl")
    deadline = time.monotonic() + 400
    while not path.exists() or len(path.read_text().splitlines()) < epochs:
        assert process.poll() is None, Path("stderr.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_run_killed_twice_ends_with_the_weights_of_an_undisturbed_run(tiny):
    # In bfloat16, so that a phase that is resumed must also find its precision again.
    pairs = ("train.phases.0.repeats=4", "train.phases.1.repeats=4", "train.precision=bfloat16")
    options = [word for pair in pairs for word in ("--set", pair)]
    assert start_training(*options).wait() == 0
    undisturbed, lines = load_file("runs/tiny/fold0/best.safetensors"), history()
    Path("runs").rename("undisturbed")
    for epochs in (1, 3):  # in the middle of phase 1, and of phase 2
        kill_after_epoch(start_training(*options), epochs)
        assert not Path("runs/tiny/fold0/best.safetensors").exists()
    process = start_training(*options)
    assert process.wait() == 0, Path("stderr.txt").read_text()
    resumed = load_file("runs/tiny/fold0/best.safetensors")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)
    for one, other in zip(lines, history(), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert not list(Path("runs/tiny/fold0").glob(".*.part"))


def test_a_trained_fold_is_not_trained_again(tiny):
    stages.train(load(), 0)
    path = Path("runs/tiny/fold0/best.safetensors")
    before = path.stat().st_mtime_ns
    stages.train(load(), 0)
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_training_state_next_to_final_weights_is_removed(tiny):
    stages.train(load(), 0)
    shutil.rmtree("runs/tiny/fold0/oof")  # as if killed between the last weights and the removal of the state
    state = Path("runs/tiny/fold0/state.pt")
    state.write_bytes(b"")
    stages.train(load(), 0)
    assert not state.exists()


@pytest.mark.slow
def test_resuming_with_other_settings_names_the_first_that_differs(tiny):
    stages.train(load(), 0)
    with pytest.raises(
        ValueError, match=r"runs/tiny/fold0 was trained with train\.phases\.1\.lr = 0\.001, now it is 0\.5"
    ):
        stages.train(load("train.phases.1.lr=0.5"), 0)


def test_nan_loss_stops_with_batch_learning_rate_and_remedy(tiny, monkeypatch):
    from pipeline.losses import WeightedLoss

    monkeypatch.setattr(WeightedLoss, "forward", lambda self, logits, target: logits.sum() * float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at batch 1, learning rate .*lower the phase's lr"):
        stages.train(load(), 0)


@pytest.mark.slow
def test_patience_ends_a_phase(tiny, monkeypatch):
    found = iter([0.3, 0.4, 0.4, 0.1, 0.2])
    monkeypatch.setattr(Validator, "__call__", lambda *_: fitting.validation(next(found)))
    stages.train(load("train.patience=1", "train.phases.0.epochs=6"), 0)
    assert [(line["phase"], line["best"]) for line in history()] == [
        (1, True),
        (1, True),
        (1, False),
        (2, True),
        (2, True),
    ]


@pytest.mark.slow
def test_frozen_encoder_keeps_weights_and_statistics(tiny):
    pairs = ("train.phases.0.freeze_encoder=true", "train.phases.1.freeze_encoder=true")
    from pipeline.models import build_model

    stages.train(load(*pairs), 0)
    torch.manual_seed(0)
    fresh = build_model(load().model).encoder.state_dict()
    trained = load_file("runs/tiny/fold0/best.safetensors")
    encoder = {key.removeprefix("net.encoder."): value for key, value in trained.items() if "net.encoder." in key}
    assert all(torch.equal(encoder[key], fresh[key]) for key in fresh)


@pytest.mark.slow
def test_accumulated_batches_make_one_update(tiny, monkeypatch):
    steps, build = [], trainer.build_optimizer

    def build_counted(*args):
        optimizer = build(*args)
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        return optimizer

    monkeypatch.setattr(trainer, "build_optimizer", build_counted)
    stages.train(load("train.accumulate=3"), 0)
    assert len(steps) == 4  # each epoch has 3 batches and makes one update; 2 phases of 2 epochs
    with pytest.raises(ValueError, match=r"3 batches an epoch, and train\.accumulate = 9 of them make one update"):
        stages.train(load("train.accumulate=9"), 1)


def test_balance_by_an_unknown_column_lists_the_known_columns(tiny):
    with pytest.raises(ValueError, match=r"train\.balance: no column 'kind'\. Known columns: image_id"):
        stages.train(load("train.balance=kind"), 0)


@pytest.mark.slow
def test_compiled_network_learns_the_same_weights(tiny, monkeypatch):
    # The inductor backend takes minutes; only where the model is compiled and what is saved is tested.
    monkeypatch.setattr("pipeline.training.trainer._compile", lambda model, device: model.compile(backend="aot_eager"))
    slow = (
        "train.phases.0.lr=1e-4",
        "train.phases.1.lr=1e-4",
    )  # at 3e-3 Adam amplifies rounding errors of float32 to percents
    plain = load_file(stages.train(load("name=plain", *slow), 0).weights)
    found = load_file(stages.train(load("name=compiled", "train.compile=true", *slow), 0).weights)
    assert found.keys() == plain.keys()
    for name, values in plain.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4)


def test_failing_compiler_is_reported_in_one_line(tiny, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Failed to find C++ compiler. Please specify via CXX")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(
        ValueError, match=r"train.compile = true does not run here \(Failed to find C\+\+ .*leave it out"
    ):
        stages.train(load("train.compile=true"), 0)


def test_every_phase_computes_in_the_configured_precision(tiny, monkeypatch):
    from pipeline.models.segmenter import Segmenter

    dtypes = []
    original = Segmenter.forward

    def spy(self, images):
        logits = original(self, images)
        if images.device.type != "meta":  # the dry run before training
            dtypes.append((self.training, logits.dtype))
        return logits

    monkeypatch.setattr(Segmenter, "forward", spy)
    stages.train(
        load("train.precision=bfloat16", "predict.backend=eager"), 0
    )  # other backends first compare with float32
    assert set(dtypes) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert all(np.isfinite(line["loss"]) for line in history())


@pytest.mark.slow
def test_float16_trains_every_phase_and_keeps_its_scale(tiny, monkeypatch):
    # accelerate wrapped `forward` of the second phase's model, and averaged weights computed in float16 for ever.
    scales = []
    original = TrainState.save

    def keep(state, path):
        scales.append(state.tensors["scaler"]["scale"])
        original(state, path)

    monkeypatch.setattr(TrainState, "save", keep)
    fitting.fit_tiny("train.precision=float16", phases=2)
    lines = fitting.history()
    assert [(line["phase"], line["epoch"]) for line in lines] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all(scale > 0 for scale in scales)


@pytest.mark.slow
def test_nothing_wraps_the_forward_pass_of_a_model(tiny, monkeypatch):
    models = []
    original = trainer.Trainer.run

    def keep(self):
        original(self)
        models.extend([self.model, self.ema.module])

    monkeypatch.setattr(trainer.Trainer, "run", keep)
    fitting.fit_tiny("train.precision=float16", phases=2, epochs=(1, 1))
    assert len(models) == 4
    assert all("forward" not in vars(module) for model in models for module in model.modules())


def test_an_epoch_says_what_it_waited_for(tiny, monkeypatch, caplog):
    caplog.set_level("INFO", "pipeline")
    original = dataset.MaskedImages.__getitem__

    def slow(self, key):
        time.sleep(0.05)
        return original(self, key)

    monkeypatch.setattr(dataset.MaskedImages, "__getitem__", slow)
    fitting.fit_tiny(epochs=(1,))
    (line,) = [line for line in caplog.messages if line.startswith("time: ")]
    shares = dict(re.findall(r"(data|network|validation) (\d+)%", line))
    assert list(shares) == ["data", "network", "validation"]
    assert sum(map(int, shares.values())) == pytest.approx(100, abs=2)
    assert int(shares["data"]) > 10


@pytest.mark.slow
def test_a_profile_is_a_trace_of_the_first_updates_and_changes_no_weight(tiny):
    fitting.fit_tiny(phases=2, epochs=(1, 1))
    plain = load_file(fitting.RUN / "best.safetensors")
    shutil.rmtree(fitting.RUN)
    fitting.fit_tiny("train.profile=true", phases=2, epochs=(1, 1))  # 3 updates of each phase, fewer than 20
    profiled = load_file(fitting.RUN / "best.safetensors")
    assert all(torch.equal(plain[name], profiled[name]) for name in plain)
    for number in (1, 2):
        events = json.loads((fitting.RUN / f"trace{number}.json").read_text())["traceEvents"]
        assert any("convolution" in event.get("name", "") for event in events)


def test_learning_rate_rises_to_its_peak_and_falls_to_its_final_value():
    rates = [learning_rate(step, 100, peak=1.0, warmup=0.1, final=0.01) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_learning_rate_restarts_in_every_cycle():
    alone = [learning_rate(step, 40, peak=1.0, warmup=0.1, final=0.01) for step in range(40)]
    cycled = [learning_rate(step, 120, peak=1.0, warmup=0.1, final=0.01, cycles=3) for step in range(120)]
    assert cycled == alone * 3


@pytest.mark.slow
def test_full_fit_trains_on_every_image_for_the_given_epochs_without_selection(tiny, monkeypatch):
    seen, averages = set(), []
    original, save_state = dataset.MaskedImages.__getitem__, TrainState.save

    def spy(self, key):
        seen.add(self.samples[key[0]].image_id)
        return original(self, key)

    def keep(state, path):
        averages.append({name: weights.clone() for name, weights in state.tensors["ema"].items()})
        save_state(state, path)

    monkeypatch.setattr(dataset.MaskedImages, "__getitem__", spy)
    monkeypatch.setattr(TrainState, "save", keep)
    monkeypatch.setattr(Validator, "__init__", None)  # must not be called
    data = fitting.fold_data("full")
    pairs = (
        "train.patience=1",
        "train.phases.0.swa=1.0",
        "train.phases.0.soup=2",
    )  # these select weights, and have no effect here
    fitting.fit_tiny(*pairs, data=data, phases=2, epochs=(3, 1))
    assert seen == set(data.train_index["image_id"])
    lines = fitting.history()
    assert [(line["fold"], line["phase"], line["epoch"]) for line in lines] == [
        ("full", 1, 1),
        ("full", 1, 2),
        ("full", 1, 3),
        ("full", 2, 1),
    ]
    assert {(line["score"], line["threshold"]) for line in lines} == {(None, None)}
    assert [line["best"] for line in lines] == [False, False, True, True]
    assert lines[2]["lr"] == pytest.approx(3e-5)  # the schedule ends with the given epochs
    for name, saved in (("phase1", 2), ("phase2", 3), ("best", 3)):
        weights = load_file(fitting.RUN / f"{name}.safetensors")
        assert all(torch.equal(weights[key], averages[saved][key]) for key in weights)
    assert read_record(fitting.RUN / "best.safetensors")["fold"] == "full"


@pytest.mark.slow
def test_killed_full_fit_ends_with_the_weights_of_an_undisturbed_one(tiny):
    fitting.fit_tiny(data=fitting.fold_data("full"), epochs=(2,))
    undisturbed, expected = load_file(fitting.RUN / "best.safetensors"), fitting.history()
    fitting.RUN.rename("undisturbed")
    with fitting.stopped_after(1):
        fitting.fit_tiny(data=fitting.fold_data("full"), epochs=(2,))
    fitting.fit_tiny(data=fitting.fold_data("full"), epochs=(2,))
    resumed = load_file(fitting.RUN / "best.safetensors")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)
    assert fitting.history() == expected


def test_full_fit_checkpoint_is_refused_for_a_fold(tiny):
    model = torch.nn.Linear(2, 1)
    save_checkpoint(tiny / "w.safetensors", model.state_dict(), {"fold": "full"})
    assert load_checkpoint(tiny / "w.safetensors", model, "full")["fold"] == "full"
    for fold in (0, 1):
        with pytest.raises(ValueError, match=rf"held out no fold, not fold {fold}: it was trained on these images"):
            load_checkpoint(tiny / "w.safetensors", model, fold)


@pytest.mark.parametrize(("fold", "expected"), [("full", "none"), (0, "some")])
def test_full_fit_must_not_and_a_fold_must_have_validation_images(tiny, fold, expected):
    data = fitting.fold_data()
    with pytest.raises(ValueError, match=f"fold {fold}: expected {expected} images to validate on"):
        dataclasses.replace(data, fold=fold, valid_index=None if fold == 0 else data.valid_index)


def history_with_best(*epochs):
    """History of a fold whose best epoch of phase n is epochs[n]; there is an earlier best and a later epoch."""
    return [
        {"phase": phase, "epoch": epoch, "best": best}
        for phase, top in enumerate(epochs, start=1)
        for epoch, best in ((1, True), (top, True), (top + 1, False))
    ]


def test_median_best_epochs_are_rounded_up():
    assert median_best_epochs([history_with_best(9, 2), history_with_best(4, 2), history_with_best(5, 7)]) == (5, 2)
    assert median_best_epochs([history_with_best(4, 2), history_with_best(7, 3)]) == (6, 3)


def test_median_best_epochs_refuse_folds_that_are_not_trained_to_the_end():
    with pytest.raises(ValueError, match=r"history number 1 has phases \[1\], the first has \[1, 2\]: train all folds"):
        median_best_epochs([history_with_best(4, 2), history_with_best(7)])
    with pytest.raises(ValueError, match="no fold is trained"):
        median_best_epochs([])


def test_a_full_fit_freezes_the_layers_that_its_folds_froze_within_a_time_limit():
    phase = config.Phase(loss={"bce": 1.0}, epochs=12, lr=0.1, freeze_encoder=4, unfreeze_epochs=3)
    train = config.Train(phases=(phase,), max_minutes=5)

    def frozen(best, trained):
        limited = with_epochs(train, (best,), (trained,)).phases[0]
        return [frozen_layers(limited, epoch, 4) for epoch in range(best)]

    for best, trained in ((4, 4), (2, 4), (3, 12), (6, 12)):
        of_folds = [frozen_layers(phase, (epoch + 1) * 12 // trained - 1, 4) for epoch in range(best)]
        assert frozen(best, trained) == of_folds
    assert frozen(4, 4) == [4, 2, 0, 0]


def test_with_epochs_rounds_up_to_whole_cycles(tiny):
    cfg = load("train.phases.0.cycles=2").train
    assert [phase.epochs for phase in with_epochs(cfg, (5, 5)).phases] == [6, 5]
    with pytest.raises(ValueError, match=r"epochs \[5\] for 2 phases: expected one number per phase"):
        with_epochs(cfg, (5,))


@pytest.mark.slow
def test_resuming_with_another_dialect_is_refused(tiny, edit):
    stages.train(load(), 0)
    edit("tiny.toml", "[columns]", '[dialect]\norder = "row"\n\n[columns]')
    with pytest.raises(ValueError, match=r"was trained with dialect\.order = column, now it is row"):
        stages.train(load(), 0)


@pytest.mark.slow
def test_history_has_the_best_threshold_of_each_epoch_and_the_table_that_of_each_phase(tiny, caplog):
    from pipeline.postprocess.threshold_counts import THRESHOLDS

    table = stages.oof(load())
    lines = history()
    assert all(min(abs(THRESHOLDS - line["threshold"])) < 1e-3 for line in lines)
    best = {n: max((line for line in lines if line["phase"] == n), key=lambda line: line["selection"]) for n in (1, 2)}
    assert [table[0][f"threshold {n}"] for n in (1, 2)] == [best[n]["threshold"] for n in (1, 2)]


def test_missing_folds_of_all_configs_are_logged_and_checked_before_the_first_is_trained(monkeypatch, caplog):
    def context(name, *, imported=None):
        return SimpleNamespace(cfg=SimpleNamespace(name=name, imported=imported), fold_numbers=lambda: [0, 1, 2])

    done, checked = {("a", 1), ("done", 0), ("done", 1), ("done", 2)}, []
    trained = {*done, ("c", 0), ("c", 1), ("c", 2)}
    monkeypatch.setattr(training, "check_training", lambda each: checked.append(each.cfg.name))
    monkeypatch.setattr(training, "is_done", lambda each, fold: (each.cfg.name, fold) in done)
    monkeypatch.setattr(training, "is_trained", lambda each, fold: (each.cfg.name, fold) in trained)
    with caplog.at_level("INFO", logger="pipeline"):
        check_before_training([*map(context, ("a", "done", "b", "c")), context("theirs", imported=True)])
        check_before_training([context("done")])
        check_before_training([context("done"), context("a")])
    assert caplog.messages == [
        "to be trained or predicted first: a fold 0, 2; b fold 0, 1, 2; c fold 0, 1, 2",
        "to be trained or predicted first: a fold 0, 2",
    ]
    assert checked == ["b", "a"], "training of the first config begins with its check, c has its weights"


def test_threshold_shift_between_phases_is_logged(caplog):
    kept = {"fold": 0, "threshold 1": 0.5, "threshold 2": 0.61}
    moved = {"fold": 1, "threshold 1": 0.5, "threshold 2": 0.82}
    with caplog.at_level("WARNING", logger="pipeline"):
        _log_threshold_shift("a", [kept, moved])
    assert len(caplog.records) == 1
    assert "a, fold 1: the best threshold was 0.50, then 0.82" in caplog.text


@pytest.mark.slow
def test_training_a_fold_prints_its_out_of_fold_score(tiny, capsys):
    from pipeline.cli import main

    assert main(["train", "configs/tiny.toml", "--fold", "1"]) == 0
    said = capsys.readouterr().out
    expected = stages.oof(load())[1]["oof"]
    assert f"fold 1: OOF {expected:.4f} at threshold .5, runs/tiny/fold1/best.safetensors" in said.replace("\n", " ")


def test_an_epoch_is_scored_on_some_images_of_evenly_spread_coverage():
    coverage = [0.0, 0.5, 0.1, 0.4, 0.2, 0.3, 0.0]
    index = pd.DataFrame({"image_id": [*"abcdefg"], "coverage": coverage})
    assert spread_by_coverage(index, 3)["image_id"].tolist() == ["a", "b", "e"]  # none, .2 and .5, in their order
    assert spread_by_coverage(index, None) is index
    assert spread_by_coverage(index, 7) is index


def test_few_validation_images_score_an_epoch_and_all_are_predicted(tiny):
    stages.train(load("train.validation_images=2"), 0)
    held_out = pd.read_csv("folds/tiny.csv").query("fold == 0")
    assert len(PredictionStore(Path("runs/tiny/fold0/oof")).ids()) == len(held_out) > 2
    job = fitting.job_of_tiny("train.validation_images=2")
    assert len(Validator(job.data, job.cfg, processes()).ids) == 2
