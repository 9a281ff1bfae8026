"""Inputs of a notebook are found by their content; a missing one is named."""

import json
from pathlib import Path

import pytest

from pipeline import competition
from pipeline.kaggle.input_mounts import (
    LAYOUT_FILE,
    copy_project_files,
    find_competition,
    find_weights,
    is_rerun,
    resume_runs,
)


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.parent


@pytest.mark.parametrize("mount", ["x-weights", "datasets/me/x-weights", "notebooks/me/x-weights"])
def test_weights_are_found_in_any_mount_point(tmp_path, mount):
    put(tmp_path / "input/other/readme.txt")
    folder = put(tmp_path / "input" / mount / "bundle.json")
    assert find_weights(tmp_path) == folder


@pytest.mark.parametrize("mount", ["tiny", "competitions/tiny", "datasets/me/tiny"])
def test_a_competition_is_found_in_any_mount_point(tiny, mount):
    folder = put(Path("kaggle/input") / mount / "sample_submission.csv")
    (folder / "test/images").mkdir(parents=True)
    assert find_competition(Path("kaggle"), competition.load("tiny.toml")) == folder


def test_missing_weights_are_reported_with_the_attached_inputs(tmp_path):
    put(tmp_path / "input/other/readme.txt")
    with pytest.raises(FileNotFoundError, match=r"bundle\.json: attach the dataset <name>-weights .*Attached: other"):
        find_weights(tmp_path)


def test_missing_inputs_are_reported_as_nothing(tiny):
    Path("kaggle").mkdir()
    with pytest.raises(FileNotFoundError, match=r"attach the competition tiny .*Attached: nothing"):
        find_competition(Path("kaggle"), competition.load("tiny.toml"))


def test_two_attached_bundles_are_refused(tmp_path):
    for name in ("a", "b"):
        put(tmp_path / "input" / name / "bundle.json")
    with pytest.raises(ValueError, match=r"2 folders with bundle\.json: .*/a, .*/b: detach all but one"):
        find_weights(tmp_path)


def test_project_files_are_copied_to_their_paths(tmp_path):
    layout = {"configs-x.toml": "configs/x.toml", "folds-y.csv": "folds/y.csv"}
    for name in layout:
        put(tmp_path / "code" / name, name)
    put(tmp_path / "code" / LAYOUT_FILE, json.dumps(layout))
    assert copy_project_files(tmp_path / "code", tmp_path / "working") == ["configs/x.toml", "folds/y.csv"]
    assert (tmp_path / "working/folds/y.csv").read_text() == "folds-y.csv"


@pytest.mark.parametrize("place", ["../outside.toml", "/outside.toml", "configs/../../outside.toml"])
def test_a_layout_outside_the_project_is_refused(tmp_path, place):
    put(tmp_path / "code/x", "x")
    put(tmp_path / "code" / LAYOUT_FILE, json.dumps({"x": place}))
    (tmp_path / "working").mkdir()
    with pytest.raises(ValueError, match="is outside the project"):
        copy_project_files(tmp_path / "code", tmp_path / "working")
    assert not (tmp_path / "outside.toml").exists()


@pytest.mark.parametrize("mount", ["input/earlier-output", "input/notebooks/me/earlier-output"])
def test_attached_runs_are_copied_and_existing_runs_kept(tmp_path, mount):
    for name in ("a", "b"):
        put(tmp_path / mount / f"runs/{name}/fold0/metrics.jsonl", "attached")
    put(tmp_path / "working/runs/b/fold0/metrics.jsonl", "mine")
    assert resume_runs(tmp_path, tmp_path / "working") == ["a"]
    assert (tmp_path / "working/runs/a/fold0/metrics.jsonl").read_text() == "attached"
    assert (tmp_path / "working/runs/b/fold0/metrics.jsonl").read_text() == "mine"


def test_the_rerun_is_detected_by_kaggles_variable(monkeypatch):
    monkeypatch.delenv("KAGGLE_IS_COMPETITION_RERUN", raising=False)
    assert not is_rerun()
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert is_rerun()
