"""All stages from files to CSV by the command line, checked by code that is independent of the pipeline."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline import config, stages
from pipeline.cli import main
from pipeline.ensemble.candidate_weights import Chooser
from pipeline.ensemble.combine import Weighting
from pipeline.postprocess.rules import Rules
from pipeline.stages import training
from tests.test_files import leave
from tests.test_submission import decode_by_loops


def dice_by_loops(rows, truth, height, width):
    scores = []
    for image_id, text in truth.items():
        one, other = (decode_by_loops(csv_text, height, width) for csv_text in (rows[image_id], text))
        total = one.sum() + other.sum()
        scores.append(2 * (one & other).sum() / total if total else 1.0)
    return np.mean(scores)


def read_rows(path):
    return dict(list(csv.reader(Path(path).read_text().splitlines()))[1:])


def test_ensemble_writes_a_valid_csv_and_score_computes_its_dice(submitted, capsys):
    rows, truth = read_rows(submitted), read_rows("tiny/solution.csv")
    assert list(rows) == list(read_rows("tiny/sample_submission.csv"))
    capsys.readouterr()
    Path("cards").mkdir()
    assert main(["score", "tiny.toml", str(submitted), "tiny/solution.csv"]) == 0
    printed = float(capsys.readouterr().out.split()[1])
    assert printed == pytest.approx(dice_by_loops(rows, truth, 36, 44), abs=5e-5)


def test_manifest_records_folds_configs_and_scores(submitted):
    manifest = json.loads(submitted.with_suffix(".json").read_text())
    assert manifest["folds"] == {"tiny": [0, 1, 2]}
    assert manifest["rows"] == 5
    assert 0 < manifest["threshold"] < 1
    assert manifest["configs"]["tiny"]["train"]["phases"][1]["loss"] == {"lovasz": 1.0, "dice": 0.5}
    assert manifest["oof_score_in_sample"] >= manifest["oof_score_at_half"]
    assert manifest["oof_interval"][0] <= manifest["oof_score"] <= manifest["oof_interval"][1]


def test_ensemble_writes_the_picture_of_predictions(submitted):
    from PIL import Image

    with Image.open("reports/tiny.png") as sheet:
        assert sheet.size[0] > 1000


@pytest.mark.slow
def test_a_second_run_neither_trains_nor_predicts_and_gives_the_same_csv(submitted, monkeypatch):
    before = submitted.read_bytes()
    for name in ("fit", "predict_to_store"):
        monkeypatch.setattr(training, name, lambda *_, **__: pytest.fail("did again what was done"))
    stages.ensemble([config.load("configs/tiny.toml")])
    assert submitted.read_bytes() == before


@pytest.mark.slow
def test_an_ensemble_removes_unfinished_files_of_a_killed_process(submitted):
    left = [
        leave(submitted.parent, "tiny.csv"),
        leave(Path("reports"), "tiny.png"),
        leave(Path("runs/tiny"), "oof.json"),
    ]
    assert main(["ensemble", "configs/tiny.toml"]) == 0
    assert not any(path.exists() for path in left)


@pytest.mark.slow
def test_other_views_predict_again_without_training(submitted, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained again"))
    cfg = config.load("configs/tiny.toml", ["predict.views=['identity','transpose']"])
    stages.ensemble([cfg])
    made_by = json.loads(Path("runs/tiny/fold0/oof/store.json").read_text())
    assert made_by["views"] == ["identity", "transpose"]


@pytest.mark.slow
def test_two_configs_are_averaged_by_their_weights(submitted, monkeypatch):
    weightings = {1: Weighting("mean", (1.0,)), 2: Weighting("mean", (0.25, 0.75))}
    monkeypatch.setattr(
        "pipeline.ensemble.selection.make_chooser",
        lambda images, fold_of, metric, members, groups: Chooser(
            lambda _: weightings[members], lambda _: weightings[members].weights
        ),
    )
    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", lambda *_: ("total", Rules(0.5, 0)))
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny seed1"]) == 0
    manifest = json.loads(Path("submissions/tiny+seed1.json").read_text())
    assert manifest["weights"] == {"tiny": 0.25, "seed1": 0.75}
    stored = {name: read_stores(f"runs/{name}/fold*/test/*.safetensors") for name in ("tiny", "seed1")}
    rows, others = read_rows("submissions/tiny+seed1.csv"), dict.fromkeys(stored, 0)
    for image_id, text in rows.items():
        means = {name: np.mean([store[image_id][0] for store in stores], axis=0) for name, stores in stored.items()}
        levels = 0.25 * means["tiny"] + 0.75 * means["seed1"]
        sure = np.abs(levels - 127.5) > 1  # rounding moves no other pixel over the threshold
        mask = decode_by_loops(text, 36, 44)
        assert (mask == (levels > 127.5))[sure].all()
        for name, mean in means.items():
            others[name] += ((mean > 127.5) != (mask == 1)).sum()
    assert all(others.values()), "masks of one member alone differ, or the average says nothing"


def read_stores(pattern):
    """The stored values of each fold: ids to (C, H, W)."""
    return [load_file(path) for path in sorted(Path().glob(pattern))]


def test_no_stage_except_score_reads_the_solution(tiny):
    Path("tiny/solution.csv").unlink()
    stages.ensemble([config.load("configs/tiny.toml")])
    assert Path("submissions/tiny.csv").exists()


def test_repeated_configs_are_refused(tiny):
    cfg = config.load("configs/tiny.toml")
    with pytest.raises(ValueError, match="one is named twice"):
        stages.ensemble([cfg, cfg])
