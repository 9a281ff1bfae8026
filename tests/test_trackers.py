"""Experiment trackers: what TensorBoard, MLflow and W&B are given, and that none of them ends or changes a training."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline import config, stages
from pipeline.cli import main
from pipeline.metrics import Counts, pixel_metric
from pipeline.models import build_model
from pipeline.stages import worst_images
from pipeline.stages.training import settings
from pipeline.training.checkpoint import load_weights
from pipeline.training.distributed import processes
from pipeline.training.selection import Validation
from pipeline.training.trackers import PACKAGES, TRACKERS, Run, Trackers, check_installed
from pipeline.training.train_job import TrainJob
from pipeline.training.trainer import fit
from pipeline.training.validation import Validator, spread_by_coverage
from tests.fitting import RUN, fold_data, history

ROOT = Path(__file__).parents[1]
ALL = 'train.trackers=["tensorboard","mlflow","wandb"]'
CALLS = ("start", "log", "log_image", "close")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow's tracker would set it for all later tests
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))  # without a login


class Recorder:
    """A tracker that records its calls, and raises in one of them."""

    fails, calls = None, []

    def __init__(self, run, record):
        self.id, self.place = record.id or f"run {len(self.calls)}", "a list"
        self._call("start", record.id)

    def _call(self, what, *values):
        self.calls.append((what, *values))
        if self.fails == what:
            raise OSError("no space left on device\nsecond line")

    def log(self, metrics, step):
        self._call("log", step)

    def log_image(self, path, step):
        self._call("log_image", path.name, step)

    def close(self, *, failed):
        self._call("close", failed)


@pytest.fixture
def recorder(monkeypatch):
    """Two trackers that record their calls: "mlflow", whose calls can fail, and "wandb", which always works."""

    class Failing(Recorder):
        calls = []  # noqa: RUF012

    class Working(Recorder):
        calls = []  # noqa: RUF012

    monkeypatch.setitem(TRACKERS, "mlflow", Failing)
    monkeypatch.setitem(TRACKERS, "wandb", Working)
    return Failing, Working


def run_of(folder=RUN):
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, "tiny", {"train": {"lr": 0.1}})


def draw(data):
    return lambda *args: worst_images.draw_worst(data, "float32", *args)


def fit_tracked(*names, pairs=(), resumed=False):
    cfg, data = config.load("configs/tiny.toml", pairs), fold_data()
    torch.manual_seed(0)
    train = cfg.train.model_copy(update={"phases": cfg.train.phases[:1]})
    with Trackers(names, run_of(), draw(data), resumed=resumed) as trackers:
        fit(TrainJob(build_model(cfg.model), data, train, RUN, seed=0, encoder=cfg.model.encoder, trackers=trackers))
    return load_weights(RUN / "best.safetensors")


def line(epoch, **changes):
    return {"phase": 1, "epoch": epoch, "loss": 0.5, "lr": 0.1, "score": None, "best": True, **changes}


def test_every_name_of_the_config_has_a_tracker_and_a_package():
    names = set(get_args(get_args(config.Train.model_fields["trackers"].annotation)[0]))
    assert names == TRACKERS.keys() == PACKAGES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("fails", CALLS)
def test_a_tracker_that_raises_is_off_with_one_warning_and_the_training_and_the_others_go_on(
    tiny, recorder, caplog, fails
):
    failing, working = recorder
    failing.fails = fails
    fit_tracked("mlflow", "wandb")
    assert len(history()) == 2
    assert working.calls == [
        ("start", None),
        ("log", 0),
        ("log", 1),
        ("log_image", "worst1.png", 1),
        ("close", False),
    ]
    assert failing.calls == working.calls[: [call[0] for call in working.calls].index(fails) + 1]
    warnings = [each.getMessage() for each in caplog.records if "is off" in each.getMessage()]
    assert warnings == ["tracker mlflow is off, the training continues: no space left on device"]


def test_a_full_disk_where_the_record_is_written_switches_trackers_off_only(tiny, recorder, monkeypatch, caplog):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.trackers.write_text", full)
    with Trackers(("mlflow", "wandb"), run_of()) as trackers:
        assert not trackers.active
    assert sum("is off" in each.getMessage() for each in caplog.records) == 2


def test_images_that_cannot_be_drawn_do_not_end_a_training(tiny, recorder, monkeypatch, caplog):
    def fail(*_args):
        raise MemoryError("too large")

    monkeypatch.setattr(worst_images, "write_sheet", fail)
    fit_tracked("mlflow")
    assert [call[0] for call in recorder[0].calls] == ["start", "log", "log", "close"]
    warned = [each for each in caplog.records if "cannot be drawn" in each.getMessage()]
    assert len(warned) == 1


def test_a_training_that_fails_closes_its_runs_as_failed(tiny, recorder):
    with pytest.raises(KeyboardInterrupt), Trackers(("wandb",), run_of()):
        raise KeyboardInterrupt
    assert recorder[1].calls[-1] == ("close", True)


def test_a_resumed_training_continues_its_run_and_logs_no_epoch_twice(tiny, recorder):
    with Trackers(("mlflow",), run_of()) as trackers:
        trackers.log_epoch(line(1), 0)
        trackers.log_epoch(line(2), 1)
        Path("runs/worst1.png").touch()
        trackers.log_worst(1, 1)
    failing, working = recorder
    failing.calls.clear()
    with Trackers(("mlflow", "wandb"), run_of(), resumed=True) as trackers:
        for epoch in (1, 2, 3):
            trackers.log_epoch(line(epoch), epoch - 1)
        trackers.log_worst(1, 2)
    assert failing.calls == [("start", "run 0"), ("log", 2), ("close", False)]
    # A tracker that is new when the training resumes gets the earlier epochs too.
    assert [call[1] for call in working.calls if call[0] == "log"] == [0, 1, 2]


@pytest.mark.parametrize("text", ["{", "[]", '{"mlflow": {"run": 1}}', '{"mlflow": 3}'])
def test_an_unreadable_record_makes_a_new_run(tiny, recorder, text):
    run = run_of()
    Path("runs/trackers.json").write_text(text)
    with Trackers(("mlflow",), run, resumed=True) as trackers:
        trackers.log_epoch(line(1), 0)
    assert recorder[0].calls[:2] == [("start", None), ("log", 0)]


def test_a_training_that_starts_anew_has_a_new_run(tiny, recorder):
    for _ in range(2):
        with Trackers(("mlflow",), run_of()) as trackers:
            trackers.log_epoch(line(1), 0)
    assert [call for call in recorder[0].calls if call[0] != "close"] == [("start", None), ("log", 0)] * 2


def test_averages_of_weights_are_not_logged_as_epochs(tiny, recorder):
    with Trackers(("mlflow",), run_of()) as trackers:
        trackers.log_epoch(line(2, candidate="swa"), 1)
    assert [call[0] for call in recorder[0].calls] == ["start", "close"]


@pytest.mark.slow
def test_trackers_do_not_change_the_weights(tiny, recorder):
    # swa draws the images of an average, whose weights are put into the model for that.
    pairs = ("train.phases.0.swa=0.5", "train.phases.0.soup=2")
    plain = fit_tracked(pairs=pairs)
    for path in RUN.iterdir():
        path.unlink()
    tracked = fit_tracked("mlflow", pairs=pairs)
    assert (RUN / "worst1.png").is_file()
    assert plain.keys() == tracked.keys()
    assert all(torch.equal(plain[name], tracked[name]) for name in plain)


def test_trackers_are_no_part_of_the_settings(tiny):
    plain, tracked = (config.load("configs/tiny.toml", pairs) for pairs in ([], [ALL]))
    assert settings(stages.make_context(plain)) == settings(stages.make_context(tracked))


def test_worst_images_by_hand(monkeypatch):
    # Dice of images a to d is 1/2, undefined (left out: nothing in the target), 0 and 1/2; equal ones keep their order.
    counts = [Counts(*np.array(each)[:, None, None]) for each in ([1, 1, 3], [0, 0, 0], [0, 4, 4], [2, 4, 4])]
    whole = Counts(
        *(np.concatenate([np.repeat(term[None], 255, axis=2) for term in terms]) for terms in zip(*counts, strict=True))
    )
    soft = Counts(*(term[..., 0].astype(float) for term in whole))
    metric = pixel_metric("mean_dice_ignore_empty")
    found = Validation.from_counts(whole, soft, metric, exclusive=False, image_ids="abcd")
    assert found.worst == (("c", 0.0), ("a", 0.5), ("d", 0.5))
    monkeypatch.setattr("pipeline.training.selection.WORST", 2)
    found = Validation.from_counts(whole, soft, metric, exclusive=False, image_ids="abcd")
    assert found.worst == (("c", 0.0), ("a", 0.5))


def test_the_sheet_shows_the_images_that_an_epoch_was_scored_on(tiny, monkeypatch, recorder):
    sheets = []
    monkeypatch.setattr(worst_images, "write_sheet", lambda path, rows, columns: sheets.append(rows))
    fit_tracked("mlflow", pairs=["train.validation_images=2"])
    shown = {panel.title.split()[0] for row in sheets[-1].values() for panel in row}
    assert shown == {each[:10] for each in spread_by_coverage(fold_data().valid_index, 2)["image_id"]}


@pytest.mark.parametrize(("largest", "drawn"), [(1 << 22, 1), (100, 0)])
def test_small_images_that_are_predicted_by_tiles_are_drawn(tiny, monkeypatch, largest, drawn):
    sheets = []
    monkeypatch.setattr(worst_images, "write_sheet", lambda *given: sheets.append(given))
    monkeypatch.setattr(worst_images, "MAX_TILED", largest)
    cfg, data = config.load("configs/tiny.toml"), fold_data(tiles=config.Tiles(size=32, stride=24))
    model = build_model(cfg.model)
    validation = Validator(data, cfg.train, processes())(model)
    worst_images.draw_worst(data, "float32", model, validation, RUN / "worst.png")
    assert len(sheets) == drawn


def test_the_sheet_has_the_scores_of_the_best_weights_and_the_masks_that_got_them(tiny, monkeypatch, recorder):
    sheets = []
    monkeypatch.setattr(worst_images, "write_sheet", lambda path, rows, columns: sheets.append(rows))
    fit_tracked("mlflow")
    panels = [panel for row in sheets[-1].values() for panel in row]
    scores = [dice_by_hand(panel.masks[0], panel.target[0]) for panel in panels]
    assert [panel.title.split()[1] for panel in panels] == [f"{score:.2f}" for score in scores]
    assert scores == sorted(scores)
    assert len(panels) == len(fold_data().valid_index) == 6  # all of them, so their mean is the epoch's score
    best = [each for each in history() if each["best"]][-1]
    assert np.mean(scores) == pytest.approx(best["score_at_threshold"])


def dice_by_hand(mask, target):
    return 2 * (mask * target).sum() / (mask.sum() + target.sum()) if mask.any() or target.any() else 1.0


def test_a_missing_library_is_one_line_before_any_training(tiny, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.training.trackers.find_spec", lambda name: None)
    status = main(["train", "configs/tiny.toml", "--fold", "0", "--set", 'train.trackers=["wandb"]'])
    assert status == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pipeline train: configs/tiny.toml: train.trackers: "
        '"wandb" needs a package that is not installed: pip install wandb'
    )
    assert not Path("runs/tiny/fold0/metrics.jsonl").exists()


def test_a_folder_of_runs_is_no_installed_library(tmp_path, monkeypatch):
    (tmp_path / "nolibrary").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGES, "nolibrary", "nolibrary")
    with pytest.raises(ValueError, match="pip install nolibrary"):
        check_installed(["nolibrary"])


def test_the_old_option_is_refused(tiny):
    with pytest.raises(ValueError, match="unknown key 'tensorboard'"):
        config.load("configs/tiny.toml", ["train.tensorboard=true"])


# Kills the training some seconds after a step has been logged.
KILLED = """
import os, signal, sys, time
from pipeline.cli import main
from pipeline.training.trackers import Trackers

log_epoch = Trackers.log_epoch

def log_and_die(self, line, step):
    log_epoch(self, line, step)
    if step == 1:
        time.sleep(5)
        os.kill(os.getpid(), signal.SIGKILL)

Trackers.log_epoch = log_and_die
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_the_libraries_have_the_metrics_of_metrics_jsonl_after_a_kill_and_a_resume(tiny):
    command = ["train", "configs/tiny.toml", "--fold", "0", "--set", ALL]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env["WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL"] = "0.1"  # seconds; W&B's default of 15 would lose two epochs here
    died = subprocess.run([sys.executable, "-c", KILLED, *command], env=env, stdin=subprocess.DEVNULL)
    assert died.returncode == -signal.SIGKILL
    first = json.loads(Path("runs/tiny/fold0/trackers.json").read_text())
    resumed = subprocess.run([sys.executable, "-m", "pipeline", *command], env=env, stdin=subprocess.DEVNULL)
    assert resumed.returncode == 0
    second = json.loads(Path("runs/tiny/fold0/trackers.json").read_text())
    assert {name: each["id"] for name, each in first.items()} == {name: each["id"] for name, each in second.items()}
    lines = [json.loads(each) for each in Path("runs/tiny/fold0/metrics.jsonl").read_text().splitlines()]
    expected = [
        {name: value for name, value in each.items() if isinstance(value, float)} | {"step": step}
        for step, each in enumerate(lines)
    ]
    assert len(expected) == 4
    assert {"loss", "score", "selection", "lr", "seconds", "dice"} < expected[0].keys()
    assert read_mlflow(second["mlflow"]["id"]) == expected
    assert read_wandb(second["wandb"]["id"]) == expected
    # Events hold float32.
    assert read_tensorboard() == [pytest.approx(each, rel=1e-6) for each in expected]


def read_mlflow(run_id):
    """The metrics of each step, after a check of the settings, the images and the status."""
    from mlflow import MlflowClient

    client = MlflowClient(Path("runs/tiny/mlruns").resolve().as_uri())
    run = client.get_run(run_id)
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert client.get_experiment(run.info.experiment_id).name == "tiny"
    assert (run.info.run_name, run.info.status) == ("tiny/fold0", "FINISHED")
    assert run.data.params["train.phases.1.lr"] == "0.001"
    assert run.data.params["model.decoder_channels"] == "[16, 16, 8, 8, 8]"
    assert {each.path for each in client.list_artifacts(run_id)} == {"worst1.png", "worst2.png"}
    steps = {}
    for name in run.data.metrics:
        for each in client.get_metric_history(run_id, name):
            assert name not in steps.setdefault(each.step, {"step": each.step})  # logged once
            steps[each.step][name] = each.value
    return [steps[step] for step in sorted(steps)]


def read_wandb(run_id):
    """The metrics of each step in the files of the run, one of each process that wrote it, without a login."""
    paths = sorted(Path("runs/tiny/wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in paths] == [f"run-{run_id}.wandb"] * 2
    rows, images, names = [], set(), set()
    for record in (each for path in paths for each in wandb_records(path)):
        if record.HasField("run"):
            names.add((record.run.project, record.run.run_group, record.run.display_name))
            config = {each.key: json.loads(each.value_json) for each in record.run.config.update}
            assert config["train"]["phases"][1]["lr"] == 0.001
        if record.HasField("history"):
            row = {each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in record.history.item}
            images |= {name.partition(".")[0] for name in row if name.startswith("worst")}
            values = {name: value for name, value in row.items() if not name.startswith(("worst", "_"))}
            rows += [{**values, "step": row["_step"]}] if values else []  # the last one has only the images
    assert (names, images) == ({("tiny", "tiny", "tiny/fold0")}, {"worst1", "worst2"})
    return rows


def wandb_records(path):
    """The records of W&B's file: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def read_tensorboard():
    """The metrics of each step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("runs/tiny/fold0/tensorboard")
    events.Reload()
    assert {"worst1", "worst2"} == set(events.Tags()["images"])
    assert "settings/text_summary" in events.Tags()["tensors"]
    steps = {}
    for name in events.Tags()["scalars"]:
        for each in events.Scalars(name):
            assert name not in steps.setdefault(each.step, {"step": each.step})  # logged once
            steps[each.step][name] = each.value
    return [steps[step] for step in sorted(steps)]


@pytest.mark.slow
def test_mlflow_writes_where_its_variable_says(tiny, monkeypatch):
    from mlflow import MlflowClient

    uri = (tiny / "elsewhere").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with Trackers(("mlflow",), run_of(Path("runs/tiny/fold0"))) as trackers:
        trackers.log_epoch(line(1), 0)
    (found,) = MlflowClient(uri).search_runs([MlflowClient(uri).get_experiment_by_name("tiny").experiment_id])
    assert found.data.metrics == {"loss": 0.5, "lr": 0.1}
    assert not Path("runs/tiny/mlruns").exists()


@pytest.mark.slow
def test_processes_of_one_training_have_one_run(tiny):
    command = ["train", "configs/tiny.toml", "--fold", "0", "--set", 'train.trackers=["tensorboard"]']
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*torchrun, "-m", "pipeline", *command], env=env, check=True, stdin=subprocess.DEVNULL)
    assert len(list(Path("runs/tiny/fold0/tensorboard").glob("events*"))) == 1
    assert [each["step"] for each in read_tensorboard()] == [0, 1, 2, 3]
