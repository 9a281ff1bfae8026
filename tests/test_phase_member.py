"""Members of an ensemble that are the networks of an earlier phase."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline import config, stages
from pipeline.cli import main
from pipeline.config import Config
from pipeline.schema import parse
from pipeline.stages.phase_member import _tables, _until
from pipeline.training.checkpoint import load_weights, read_record, save_checkpoint

pytestmark = pytest.mark.slow


def run(*words: str) -> int:
    return main(["phase", "configs/tiny.toml", *words])


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    return load_weights(Path(folder) / "best.safetensors")


def test_the_copied_weights_are_those_that_a_training_without_the_later_phases_gives(submitted, monkeypatch):
    assert run("--phase", "1") == 0
    Path("configs/tiny_phase1.toml").rename("configs/again.toml")
    stages.train(config.load("configs/again.toml"), 0)
    copied, trained = weights_of("runs/tiny_phase1/fold0"), weights_of("runs/again/fold0")
    assert copied.keys() == trained.keys()
    assert all(torch.equal(copied[name], trained[name]) for name in copied)
    one, other = (read_record(Path(f"runs/{name}/fold0/best.safetensors")) for name in ("tiny_phase1", "again"))
    assert one == other


def test_an_ensemble_of_both_phases_trains_nothing(submitted, monkeypatch):
    assert run() == 0
    monkeypatch.setattr(stages.training, "_fit", None)
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny tiny_phase1"]) == 0
    assert Path("submissions/tiny+tiny_phase1.csv").is_file()


def test_options_of_the_command_line_are_in_the_config_but_not_its_data_folder(submitted):
    Path("tiny").rename("elsewhere")
    words = ["--data", "elsewhere", "--set", "predict.batch_size=3"]
    assert run(*words) == 0
    cfg = config.load("configs/tiny_phase1.toml")
    assert (cfg.predict.batch_size, str(cfg.data.root), len(cfg.train.phases)) == (3, "tiny", 1)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--phase", "2"], "--phase 2: expected 1, before the last of the 2 phases of configs/tiny.toml"),
        (["--phase", "0"], "--phase 0: expected 1, before the last of the 2 phases of configs/tiny.toml"),
        (["--set", "model.encoder=tu-resnet10t"], "was trained with model.encoder = tu-test_efficientnet, now it is"),
        (
            ["--set", "train.phases=[{loss={bce=1.0},epochs=1,lr=0.1}]"],
            "configs/tiny.toml has one phase: a phase before",
        ),
    ],
)
def test_what_has_no_earlier_phase_is_refused_before_anything_is_written(submitted, capsys, words, error):
    assert run(*words) == 2
    assert error in capsys.readouterr().err
    assert not Path("configs/tiny_phase1.toml").exists()


def test_a_config_of_the_same_name_is_kept(submitted, capsys):
    path = Path("configs/tiny_phase1.toml")
    shutil.copyfile("configs/tiny.toml", path)
    assert run() == 2
    assert f"{path}: another config has this name" in capsys.readouterr().err
    assert path.read_bytes() == Path("configs/tiny.toml").read_bytes()


def test_weights_that_were_made_with_other_settings_are_kept(submitted, capsys):
    assert run() == 0
    weights = Path("runs/tiny_phase1/fold0/best.safetensors")
    save_checkpoint(weights, load_weights(weights), {**read_record(weights), "settings": {"seed": 1}})
    before = weights.read_bytes()
    assert run() == 2
    assert "runs/tiny_phase1/fold0 was trained with" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_what_later_phases_alone_use_is_left_out(tiny):
    extra = [{"ratio": 0.1, "phases": [3]}, {"ratio": 0.2, "phases": [1, 3]}]
    assert _until({"from": "a", "phases": [2, 3]}, 1) is None
    assert _until({"from": "b"}, 1) == {"from": "b"}  # by default, of the first phase
    assert _until(extra, 1) == [{"ratio": 0.2, "phases": [1]}]
    assert _until(extra, 3) == extra
    cfg = config.load("configs/tiny.toml", ["train.pseudo={from='a', phases=[2]}", "data.extra=[{phases=[2]}]"])
    tables = _tables(cfg, 1)
    assert (tables["train"]["pseudo"], tables["data"]["extra"]) == (None, [])
    assert len(parse(Config, {"name": "tiny_phase1", **tables}, "the tables").train.phases) == 1


def test_a_config_that_is_not_trained_says_what_to_do(tiny, capsys):
    assert run() == 2
    assert "no fold is trained: run make oof CONFIG=tiny first" in capsys.readouterr().err
