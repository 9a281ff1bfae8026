"""Hidden test data, or test images other than those of the sample: every stage works and reports it."""

import json
import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import competition, config, stages
from pipeline.cli import main
from pipeline.data.index import read_test_index
from pipeline.data.integrity import survey_test
from pipeline.kaggle.input_mounts import find_competition
from pipeline.kaggle.mock_test_set import write_hidden, write_known
from pipeline.serving.bundle import read_bundle
from pipeline.stages.bundling import run_bundle, write_weights
from pipeline.stages.ensembling import load_members

pytestmark = pytest.mark.slow

CONFIG = "configs/tiny.toml"
SAMPLE = Path("tiny/sample_submission.csv")
IMAGES = Path("tiny/test/images")


def hide() -> None:
    """Hide the test data as in a code competition: a header, and no folder."""
    shutil.rmtree("tiny/test")
    SAMPLE.write_text("id,rle_mask\n")


def shorten(rows: int) -> None:
    """Keep only the first rows of the sample."""
    SAMPLE.write_text("".join(SAMPLE.read_text().splitlines(keepends=True)[: rows + 1]))


@pytest.fixture
def bundle(submitted):
    cfgs = [config.load(CONFIG)]
    write_weights(Path("bundle"), load_members(cfgs), stages.ensemble(cfgs))
    return Path("bundle")


# ---------------------------------------------------------------------------------------------- hidden


def test_without_test_data_the_submission_is_the_header_with_a_warning(submitted, capsys):
    hide()
    assert main(["ensemble", CONFIG]) == 0
    assert Path("submissions/tiny.csv").read_text() == "id,rle_mask\n"
    said = capsys.readouterr().err
    assert "sample_submission.csv has no rows: the test data are hidden" in said
    assert json.loads(Path("submissions/tiny.json").read_text())["rows"] == 0


@pytest.mark.parametrize("command", ["data", "doctor", "folds", "audit", "report", "predict"])
def test_without_test_data_each_stage_works(submitted, command):
    hide()
    assert main([command, CONFIG]) == 0


def test_a_bundle_built_without_test_data_predicts_hidden_test_data(submitted, capsys):
    hide()
    cfgs = [config.load(CONFIG)]
    write_weights(Path("bundle"), load_members(cfgs), stages.ensemble(cfgs))
    done = run_bundle(Path("bundle"), Path("tiny"), Path("out.csv"))
    assert (done.images, Path("out.csv").read_text()) == (0, "id,rle_mask\n")
    assert done.warnings(read_bundle(Path("bundle")).card) == [
        "sample_submission.csv has no row: the submission is the header alone"
    ]
    count = write_hidden(competition.load("tiny.toml"), Path("tiny"), Path("rerun"))
    done = run_bundle(Path("bundle"), Path("rerun"), Path("out.csv"))
    assert (done.images, done.summary.rows, len(done.problems)) == (count, 24, 1)
    assert (done.images_without_file, done.files_without_row) == ([], [])
    assert main(["run-bundle", "bundle", "--data", "tiny", "--csv", "out.csv"]) == 0
    assert "the submission is the header alone" in capsys.readouterr().err


def test_rows_without_a_test_folder_are_refused_before_training(tiny):
    shutil.rmtree("tiny/test")
    with pytest.raises(FileNotFoundError, match=r"tiny/test/images: no such folder"):
        read_test_index(competition.load("tiny.toml"), Path("tiny"))


@pytest.mark.parametrize(
    ("columns", "header", "first"),
    [
        ('id = "id"\nrle = "rle_mask"', "id,rle_mask", [["0000", "-1"]]),
        ('id = "id"\nrle = "rle_mask"\nclass = "kind"', "id,kind,rle_mask", [["0000", "a", "-1"], ["0000", "b", "-1"]]),
        ('id = "id"\nrle = "rle_mask"\nid_separator = "_"', "id,rle_mask", [["0000_a", "-1"], ["0000_b", "-1"]]),
    ],
    ids=["one class", "a column of classes", "image and class in one"],
)
def test_without_test_images_the_mock_test_set_uses_training_images(tiny, edit, columns, header, first):
    hide()
    SAMPLE.write_text(header + "\n")
    edit("tiny.toml", 'id = "id"\nrle = "rle_mask"', columns)
    if len(first) > 1:
        edit("tiny.toml", '["disc"]', '["a", "b"]')
    with Path("tiny.toml").open("a") as file:
        file.write('\n[dialect]\nempty = "-1"\n')
    card = competition.load("tiny.toml")
    assert write_known(card, Path("tiny"), Path("known")) == 0
    assert write_hidden(card, Path("tiny"), Path("hidden")) == 24
    table = pd.read_csv("hidden/sample_submission.csv", dtype=str)
    assert [row[1:] for row in table.to_numpy().tolist()[: len(first)]] == [row[1:] for row in first]
    assert [row[0] for row in table.to_numpy().tolist()[: len(first)]] == [f"hidden_0_{row[0]}" for row in first]
    assert len(list(Path("hidden/test/images").iterdir())) == 24


def test_a_mounted_competition_without_test_images_is_found(tiny):
    hide()
    shutil.copytree("tiny", "kaggle/input/tiny")
    assert find_competition(Path("kaggle"), competition.load("tiny.toml")) == Path("kaggle/input/tiny")


# ---------------------------------------------------------------------------------------------- other images than rows


def test_test_images_without_a_row_are_counted_and_not_predicted(submitted, capsys):
    shorten(2)
    assert main(["ensemble", CONFIG]) == 0
    assert "3 test images have no row in sample_submission.csv and are not predicted" in capsys.readouterr().err
    manifest = json.loads(Path("submissions/tiny.json").read_text())
    assert (manifest["rows"], manifest["test_images_without_row"]) == (2, 3)
    assert main(["doctor", CONFIG]) == 0
    assert "look  test images" in capsys.readouterr().out


def test_a_bundle_counts_test_images_without_a_row(bundle, caplog):
    caplog.set_level(logging.INFO, "pipeline")
    shorten(2)
    done = run_bundle(bundle, Path("tiny"), Path("out.csv"))
    assert "predicting 2 images of sample_submission.csv" in caplog.messages
    (line,) = done.warnings(read_bundle(bundle).card)
    assert line in caplog.messages
    assert line.startswith("3 test images have no row in sample_submission.csv and are not predicted, the first is ")
    assert json.loads(Path("out.json").read_text())["test_images_without_row"] == 3


def test_a_bundle_counts_rows_without_a_test_image(bundle, caplog):
    lost = sorted(IMAGES.iterdir())[:2]
    for path in lost:
        path.unlink()
    done = run_bundle(bundle, Path("tiny"), Path("out.csv"))
    assert sorted(done.images_without_file) == [path.stem for path in lost]
    assert "2 of 5 images of sample_submission.csv are not in test/images/, the first is " in caplog.text
    assert json.loads(Path("out.json").read_text())["images_without_file"] == 2


def test_a_rerun_without_a_test_folder_names_it(bundle):
    shutil.rmtree("tiny/test")
    with pytest.raises(ValueError, match=r"none of 5 images could be predicted, the first is '\d+': no such image"):
        run_bundle(bundle, Path("tiny"), Path("out.csv"))


def test_the_doctor_accepts_hidden_and_shortened_test_sets(tiny):
    card = competition.load("tiny.toml")
    shorten(2)
    assert survey_test(card, Path("tiny")) == []
    hide()
    assert survey_test(card, Path("tiny")) == []
