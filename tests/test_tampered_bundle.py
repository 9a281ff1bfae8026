"""A tampered bundle is refused in one line, and no file outside of it is read or written."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import config, stages
from pipeline.cli import main
from pipeline.kaggle.input_mounts import LAYOUT_FILE, copy_project_files, describe_runs, resume_runs
from pipeline.serving.bundle import RECORD_FILE, read_bundle
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from tests.conftest import build_once


@pytest.fixture(scope="session")
def bundled_once(submitted_once, tmp_path_factory):
    def build() -> None:
        shutil.copytree(submitted_once, Path(), dirs_exist_ok=True)
        cfgs = [config.load("configs/tiny.toml")]
        write_weights(Path("bundle"), load_members(cfgs), stages.ensemble(cfgs))

    return build_once(tmp_path_factory, "bundled", build)


@pytest.fixture
def bundle(bundled_once, tmp_path, monkeypatch):
    """A folder with a copy of a bundle and the competition's files, as current folder."""
    for name in ("bundle", "tiny"):
        shutil.copytree(bundled_once / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return Path("bundle")


def put(*keys, value):
    """Set the value at these keys of the record."""

    def tamper(folder: Path) -> None:
        record = json.loads((folder / RECORD_FILE).read_text())
        table = record
        for key in keys[:-1]:
            table = table[key]
        table[keys[-1]] = value
        (folder / RECORD_FILE).write_text(json.dumps(record))

    return tamper


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def edit(name, old, new):
    def tamper(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return tamper


def link_out(name):
    """Replace a file by a link to a copy outside the bundle."""

    def tamper(folder: Path) -> None:
        outside = (folder.parent / "outside").absolute()
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return tamper


def absolute_weights(folder: Path) -> None:
    path = (folder / "tiny-fold0.safetensors").absolute()
    put("weights", "tiny", "0", value=str(path))(folder)


WEIGHTS = ("weights", "tiny", "0")
FALLBACK = {"drop": "view", "member": "tiny", "name": "identity"}
TAMPERED = {
    "absolute path of weights": (absolute_weights, "weights.tiny.0"),
    "weights above the bundle": (put(*WEIGHTS, value="../x.safetensors"), "weights.tiny.0"),
    "weights in a folder of Windows": (put(*WEIGHTS, value="..\\x.safetensors"), "weights.tiny.0"),
    "weights that are no safetensors": (put(*WEIGHTS, value="x.pt"), "weights.tiny.0"),
    "a name with a zero byte": (put(*WEIGHTS, value="x\0.safetensors"), "weights.tiny.0"),
    "weights that are a link out of it": (link_out("tiny-fold0.safetensors"), "is outside this folder"),
    "a record that is a link out of it": (link_out(RECORD_FILE), "is outside this folder"),
    "a card that is a link out of it": (link_out("card.toml"), "is outside this folder"),
    "weights of another fold's name": (put("weights", "tiny", value={"٣": "x.safetensors"}), "weights.tiny"),
    "weights of no fold": (put("weights", "tiny", value={}), "configs and weights have different names"),
    "weights that are no file": (write("tiny-fold0.safetensors", b"x" * 100), "not a checkpoint of this pipeline"),
    "a threshold of 7": (put("chosen", "threshold", value=7), "threshold = 7"),
    "a threshold below 0": (put("chosen", "threshold", value=-0.1), "threshold = -0.1"),
    "a threshold that is no number": (put("chosen", "threshold", value=float("nan")), "threshold = nan"),
    "a threshold of text": (put("chosen", "threshold", value="0.5"), "threshold = '0.5'"),
    "an endless threshold": (put("chosen", "threshold", value=float("inf")), "threshold = inf"),
    "a negative area": (put("chosen", "min_area", value=-1), "min_area = -1"),
    "an area of text": (put("chosen", "min_area", value="many" * 500), "min_area = "),
    "no largest component": (put("chosen", "keep_largest", value=0), "keep_largest = 0"),
    "a weight that is no number": (put("chosen", "weights", "tiny", value=float("nan")), "0 = nan"),
    "a negative weight": (put("chosen", "weights", "tiny", value=-1.0), "0 = -1.0"),
    "no weight at all": (put("chosen", "weights", "tiny", value=0.0), "expected one above 0"),
    "weights in a list": (put("chosen", "weights", value=[1.0]), "weights of [1.0]"),
    "an unknown combination": (put("chosen", "combination", value=["mean"]), "unknown combination"),
    "unknown rules": (put("chosen", "rule_set", value={"a": 1}), "rule_set {'a': 1}"),
    "rules for instances": (
        put("chosen", "rule_set", value="instances"),
        "the post-processing is instances, card.toml asks for multilabel",
    ),
    "nothing chosen": (put("chosen", value=[]), "chosen"),
    "a fallback that drops nothing": (
        put("fallbacks", value=[FALLBACK | {"name": "sideways"}]),
        "there is no view 'sideways'",
    ),
    "a fallback of an unknown member": (put("fallbacks", value=[FALLBACK | {"member": "else"}]), "of 'else' to drop"),
    "steps that drop all": (
        put("fallbacks", value=[FALLBACK, FALLBACK | {"name": "flip_horizontal"}]),
        "is the last one, and cannot be dropped",
    ),
    "a config under another name": (put("configs", "tiny", "seed", value=-1), "seed"),
    "an unknown encoder": (put("configs", "tiny", "model", "encoder", value="tu-no" * 300), "encoder"),
    "an encoder from a folder": (put("configs", "tiny", "model", "encoder", value="tu-local-dir:/etc"), "encoder"),
    "an encoder from the network": (put("configs", "tiny", "model", "encoder", value="tu-hf-hub:a/b"), "encoder"),
    "an unknown view": (put("configs", "tiny", "predict", "views", value=["sideways"]), "unknown view 'sideways'"),
    "another number of classes": (put("configs", "tiny", "model", "classes", value=2), "model.classes is 2"),
    "nested deeply": (write(RECORD_FILE, b'{"format": ' + b"[" * 100_000), "bundle.json: not JSON"),
    "nested, and closed": (put("configs", "tiny", "x", value=json.loads("[" * 500 + "]" * 500)), "unknown key 'x'"),
    "bytes that are no text": (write(RECORD_FILE, b"\xff\xfe\x00"), "bundle.json: not JSON"),
    "a list": (write(RECORD_FILE, b"[]"), "bundle.json"),
    "a number": (write(RECORD_FILE, b"7"), "bundle.json"),
    "images above the data": (
        edit("card.toml", '"test/images"', '"../test/images"'),
        "files.test_images = '../test/images' leads out of the data folder",
    ),
    "a sample anywhere": (
        edit("card.toml", "[columns]", 'sample_submission = "/etc/hosts"\n[columns]'),
        "files.sample_submission = '/etc/hosts' leads out",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_bundle_is_refused_in_one_line(bundle, capsys, name):
    tamper, expected = TAMPERED[name]
    tamper(bundle)
    assert main(["run-bundle", "bundle", "--data", "tiny"]) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert len(said.splitlines()) == 1
    assert len(said) <= 400, "a line, and the paths of this test"


def test_the_untampered_bundle_runs(bundle):
    assert main(["run-bundle", "bundle", "--data", "tiny"]) == 0


def test_a_bundle_whose_folder_is_a_link_is_read(bundle):
    Path("elsewhere").symlink_to(bundle.absolute())
    assert read_bundle(Path("elsewhere")).record.name == "tiny"


def test_a_config_has_the_name_that_its_weights_have(bundle):
    put("configs", "tiny", "name", value="other")(bundle)
    assert [cfg.name for cfg in read_bundle(bundle).cfgs] == ["tiny"]


# ---------------------------------------------------------------------------------------------- the code dataset


def lay_out(layout, **files):
    """Copy the project files of a dataset with this layout into `working/`."""
    Path("code").mkdir()
    for name, content in files.items():
        Path("code", name).write_text(content)
    Path("code", LAYOUT_FILE).write_text(layout if isinstance(layout, str) else json.dumps(layout))
    return copy_project_files(Path("code"), Path("working"))


PACKAGE = Path(__file__).parent.parent / "pipeline"
LAYOUT_FILES = {
    "a file from outside of the dataset": ({"../secret.toml": "configs/x.toml"}, "is outside this folder"),
    "an absolute file": ({str(PACKAGE / "__init__.py"): "configs/x.toml"}, "is outside this folder"),
    "a file of a folder": ({"a/b.toml": "configs/x.toml"}, "is outside this folder"),
    "no name": ({"": "configs/x.toml"}, "is outside this folder"),
    "a place above the project": ({"x.toml": "../x.toml"}, "is outside the project"),
    "an absolute place": ({"x.toml": "/tmp/x.toml"}, "is outside the project"),
    "a place of Windows": ({"x.toml": "..\\..\\x.toml"}, "is outside the project"),
    "a place with a zero byte": ({"x.toml": "configs/\0.toml"}, "is outside the project"),
    "a program": ({"x.toml": "pipeline/__init__.py"}, "is no config, card, table of folds or weights"),
    "what python runs at its start": ({"x.toml": "sitecustomize.py"}, "is no config, card, table of folds or weights"),
    "two files in one place": (
        {"x.toml": "configs/x.toml", "y.toml": "configs/x.toml"},
        "two files have the same path",
    ),
    "a file that is not there": ({"z.toml": "configs/x.toml"}, "no such file"),
    "a list": ([], "expected the name of each file and its path"),
    "a place that is no text": ({"x.toml": 7}, "expected the name of each file and its path"),
    "nested deeply": ("[" * 100_000, "layout.json: not JSON"),
}


@pytest.mark.parametrize("name", LAYOUT_FILES)
def test_a_layout_outside_the_project_is_refused_and_nothing_is_copied(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("working").mkdir()
    Path("secret.toml").write_text("secret")
    layout, expected = LAYOUT_FILES[name]
    before = sorted(Path().rglob("*"))
    with pytest.raises((ValueError, OSError), match=expected) as refused:
        lay_out(layout, **{"x.toml": "x", "y.toml": "y"})
    assert "\n" not in str(refused.value)
    assert sorted(path for path in Path().rglob("*") if "code" not in path.parts) == before


def test_a_link_out_of_the_dataset_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("secret.toml").write_text("secret")
    Path("code").mkdir()
    Path("code/x.toml").symlink_to(Path("secret.toml").absolute())
    Path("code", LAYOUT_FILE).write_text('{"x.toml": "configs/x.toml"}')
    with pytest.raises(ValueError, match="is outside this folder"):
        copy_project_files(Path("code"), Path("working"))
    assert not Path("working").exists()


def test_a_target_behind_a_link_out_of_the_project_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("working").mkdir()
    Path("elsewhere").mkdir()
    Path("working/configs").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(ValueError, match="is outside the project"):
        lay_out({"x.toml": "configs/x.toml"}, **{"x.toml": "x"})
    assert list(Path("elsewhere").iterdir()) == []


def test_an_existing_file_that_differs_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("working/configs").mkdir(parents=True)
    Path("working/configs/x.toml").write_text("mine")
    with pytest.raises(ValueError, match=r"x\.toml: already exists, and differs"):
        lay_out({"x.toml": "configs/x.toml"}, **{"x.toml": "x"})
    assert Path("working/configs/x.toml").read_text() == "mine"


def test_project_files_may_be_copied_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lay_out({"x.toml": "cards/x.toml"}, **{"x.toml": "x"}) == ["cards/x.toml"]
    assert copy_project_files(Path("code"), Path("working")) == ["cards/x.toml"]


# ---------------------------------------------------------------------------------------------- runs that are attached


def test_a_link_out_of_an_attached_run_is_not_followed(tmp_path):
    run = tmp_path / "input/notebooks/me/earlier/runs/a/fold0"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")
    (tmp_path / "secret").write_text("secret")
    (run / "state.pt").symlink_to(tmp_path / "secret")
    assert resume_runs(tmp_path, tmp_path / "working") == ["a"]
    assert [path.name for path in (tmp_path / "working/runs/a/fold0").iterdir()] == ["metrics.jsonl"]


def test_describe_runs_lists_resumed_folds_or_a_fresh_start(tmp_path):
    assert describe_runs(tmp_path) == ["no earlier run is attached: training starts from the beginning"]
    for fold, file in (("fold0", "best.safetensors"), ("fold1", "state.pt"), ("fold2", "state.pt")):
        (tmp_path / "runs/a" / fold).mkdir(parents=True)
        (tmp_path / "runs/a" / fold / file).touch()
    (tmp_path / "runs/a/fold1/metrics.jsonl").write_text('{"phase": 1, "epoch": 3}\n{"phase": 2, "epoch": 4}\n')
    assert describe_runs(tmp_path) == [
        "resumed: runs/a/fold0, training complete",
        "resumed: runs/a/fold1, after epoch 4 of phase 2",
        "resumed: runs/a/fold2, from where it was stopped",
    ]
