"""Members of an ensemble that are the networks of an earlier phase."""

from pathlib import Path

import pytest
import torch

from pipeline import config, stages
from pipeline.cli import main
from pipeline.training.checkpoint import load_weights, read_record

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


def test_a_config_that_is_not_trained_says_what_to_do(tiny, capsys):
    assert run() == 2
    assert "no fold is trained: run make oof CONFIG=tiny first" in capsys.readouterr().err
