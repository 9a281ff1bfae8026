"""Damaged files of the pipeline are reported in one line with the file, the error and a remedy."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.inference.prediction_store import is_complete, start_store
from pipeline.quoting import MAX_MESSAGE
from pipeline.schema import JsonRecord, read_json, read_json_lines
from pipeline.training.checkpoint import read_record, save_checkpoint
from pipeline.training.train_state import TrainState


class Shape(JsonRecord):
    number: int


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"number": 1', "not JSON"),
        ("", "not JSON"),
        ("\x00\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected a table"),
        ("null", "expected a table"),
        ("{}", "'number' is missing"),
        ('{"number": "' + "x" * 5000 + '"}', "number: expected a whole number"),
    ],
)
def test_an_invalid_json_file_is_reported_in_one_line_with_a_remedy(tmp_path, text, said):
    path = tmp_path / "kept.json"
    path.write_text(text, encoding="latin-1")
    for read in (read_json, read_json_lines):
        with pytest.raises(ValueError, match=r"kept\.json: .*: make it again$") as caught:
            read(path, "make it again", Shape)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < MAX_MESSAGE
    with pytest.raises(ValueError, match=said):
        read_json(path, "make it again", Shape)


def test_additional_keys_are_kept(tmp_path):
    (tmp_path / "kept.json").write_text('{"more": [1, NaN], "number": 1}')
    assert list(read_json(tmp_path / "kept.json", "", Shape)) == ["more", "number"]


def test_a_damaged_line_is_reported_with_its_number(tmp_path):
    (tmp_path / "kept.jsonl").write_text('{"number": 1}\n{"numb')
    with pytest.raises(ValueError, match=r"kept\.jsonl: line 2: not JSON"):
        read_json_lines(tmp_path / "kept.jsonl", "", Shape)


def half(text):
    return text[: len(text) // 2]


def first_phase_alone(text):
    return "".join(line for line in text.splitlines(keepends=True) if json.loads(line)["phase"] == 1)


CASES = [
    ("runs/tiny/fold0/metrics.jsonl", half, "remove runs/tiny/fold0 and train the fold again"),
    ("runs/tiny/fold0/metrics.jsonl", lambda _: "", "empty: remove"),
    ("runs/tiny/fold0/metrics.jsonl", lambda _: "null\n", "line 1: expected a table"),
    ("runs/tiny/fold0/metrics.jsonl", first_phase_alone, "no epoch of phase 2"),
    ("folds/tiny.json", half, "not JSON"),
    ("folds/tiny.json", lambda _: "{}", "'index' is missing"),
    ("folds/tiny.json", lambda _: "[]", "expected a table"),
]


@pytest.mark.parametrize(("name", "tamper", "said"), CASES)
def test_a_damaged_file_is_reported_with_a_remedy(submitted, capsys, name, tamper, said):
    path = Path(name)
    path.write_text(tamper(path.read_text()))
    assert main(["oof", "configs/tiny.toml"]) == 2
    error = capsys.readouterr().err
    assert f"pipeline oof: {name}: " in error
    assert said in error
    assert len(error) <= MAX_MESSAGE + 1


@pytest.mark.parametrize("tamper", [half, lambda _: "{}", lambda _: "[]"])
def test_a_damaged_manifest_is_reported_with_the_command_that_rewrites_it(submitted, capsys, tamper):
    Path("submissions/tiny.json").write_text(tamper(Path("submissions/tiny.json").read_text()))
    assert main(["final", "tiny", "seed1", "--competition", "tiny.toml"]) == 2
    assert "submissions/tiny.json: " in (error := capsys.readouterr().err)
    assert 'make ensemble CONFIGS="tiny" writes it again' in error


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]"])
def test_a_store_with_a_damaged_record_is_deleted(tmp_path, text):
    start_store(tmp_path / "store", {"views": []})
    (tmp_path / "store" / "store.json").write_text(text)
    (tmp_path / "store" / "000-00000.safetensors").write_text("unknown")
    assert not is_complete(tmp_path / "store", [], {"views": []})
    start_store(tmp_path / "store", {"views": []})
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["store.json"]


class Runs:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.write_text, (Path("ran"), "code of a checkpoint"))


def test_a_malicious_checkpoint_does_not_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(vars(TrainState({}, phase=Runs())), "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: cannot be read .*: remove it to train the fold again"):
        TrainState.load(Path("state.pt"))
    torch.save(Runs(), "best.safetensors")
    with pytest.raises(ValueError, match=r"best\.safetensors: not a checkpoint of this pipeline"):
        read_record(Path("best.safetensors"))
    assert not Path("ran").exists()


@pytest.mark.parametrize("state", [{}, [], {"settings": {}}, {"settings": {}, "phase": 1}])
def test_an_invalid_training_state_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt: not a training state: remove it"):
        TrainState.load(tmp_path / "state.pt")


@pytest.mark.parametrize("record", [{}, [], None, "text"])
def test_weights_with_an_invalid_record_are_refused(tmp_path, record):
    save_checkpoint(tmp_path / "best.safetensors", {"weight": torch.ones(1)}, record)
    with pytest.raises(ValueError, match=r"best\.safetensors: not a checkpoint of this pipeline"):
        read_record(tmp_path / "best.safetensors")
