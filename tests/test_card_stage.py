"""The command `card`: folders and zips, names, a card that exists, and errors in one line."""

import shutil
import zipfile
from pathlib import Path

import pytest

from pipeline import competition, stages
from pipeline.cli import main
from pipeline.data.index import read_test_index
from tests.miniatures import write_miniature
from tests.public_sets import SETS

SLUG = "tgs-salt-identification-challenge"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files of a competition in salt/, beside an empty working folder."""
    monkeypatch.delenv("DATA", raising=False)
    write_miniature(SLUG, tmp_path / "salt")
    (tmp_path / "salt/solution.csv").unlink()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "salt"


def zip_folder(folder: Path, path: Path, start: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, start + file.relative_to(folder).as_posix())
    return path


def written_text(done: stages.DraftedCard) -> str:
    return done.path.read_text(encoding="utf-8")


def test_a_card_is_named_as_its_folder_and_a_second_draft_keeps_it(files):
    done = stages.draft_card(files)
    assert (done.path, done.is_kept, done.root) == (Path("cards/salt.toml"), False, files)
    assert competition.load("cards/salt.toml").files.train_csv == "train.csv"
    done.path.write_text("changed by hand")
    again = stages.draft_card(files)
    assert again.is_kept
    assert written_text(again) == "changed by hand"


def test_a_zip_of_zips_gives_the_same_card_as_its_folder_and_stays(files, tmp_path):
    plain = written_text(stages.draft_card(files, "x"))
    Path("cards/x.toml").unlink()
    inner = tmp_path / "inner"
    inner.mkdir()
    zip_folder(files / "train", inner / "train.zip")
    zip_folder(files / "test", inner / "test.zip", "test/")
    for name in ("train.csv", "sample_submission.csv"):
        (files / name).rename(inner / name)
    archive = zip_folder(inner, tmp_path / "kaggle.zip")
    done = stages.draft_card(archive, "x")
    assert (done.root, archive.exists()) == (Path("data/x"), True)
    assert written_text(done) == plain


def test_zips_beside_files_are_unpacked_and_the_files_linked(files, tmp_path):
    plain = written_text(stages.draft_card(files, "x"))
    Path("cards/x.toml").unlink()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for part in ("train", "test"):
        zip_folder(files / part, mixed / f"{part}.zip")
    for name in ("train.csv", "sample_submission.csv"):
        (files / name).rename(mixed / name)
    done = stages.draft_card(mixed, "x")
    assert written_text(done) == plain
    assert sorted(path.name for path in mixed.iterdir()) == [
        "sample_submission.csv",
        "test.zip",
        "train.csv",
        "train.zip",
    ]


@pytest.mark.parametrize("start", ["", "train/"])
def test_a_zip_that_was_unpacked_beside_itself_is_left_out(files, start):
    archive = zip_folder(files / "train", files / "train.zip", start)
    assert stages.draft_card(files).root == files
    assert not Path("data").exists()
    next((files / "train").rglob("*.png")).unlink()
    Path("cards/salt.toml").unlink()
    assert stages.draft_card(files).root == Path("data/salt")
    assert not Path("data/salt/train.zip").exists()
    assert archive.exists()


def assert_later_commands_take(data: Path, name: str) -> None:
    stages.draft_card(data, name)
    assert main(["config", name, "--data", str(data)]) == 0
    assert main(["data", f"configs/{name}.toml", "--data", str(data)]) == 0
    assert stages.files_of(f"cards/{name}.toml", data) == Path("data") / name


def test_later_commands_take_the_same_zip(files, tmp_path):
    assert_later_commands_take(zip_folder(files, tmp_path / "kaggle.zip"), "zipped")
    assert stages.files_of("cards/zipped.toml", files) == files
    assert stages.files_of("cards/zipped.toml", Path("missing")) == Path("missing")
    assert main(["data", "configs/zipped.toml", "--data", "missing"]) == 2


def test_a_second_draft_unpacks_nothing(files, tmp_path):
    archive = zip_folder(files, tmp_path / "kaggle.zip")
    stages.draft_card(archive, "x")
    changed = Path("data/x/train.csv")
    changed.write_text("id,rle_mask\n")
    with pytest.raises(ValueError, match="no labels"):
        stages.draft_card(archive, "x")
    assert changed.read_text() == "id,rle_mask\n"


def test_the_command_prints_keys_evidence_and_what_comes_next(files, capsys):
    assert main(["card", "--data", str(files), "--name", "mine", "--metric", "tgs_precision"]) == 0
    printed = capsys.readouterr().out
    assert "training table    train.csv: 12 rows of 12 images" in printed
    assert "not sure, to check on the competition's pages:\n  classes: one class; no file names it" in printed
    assert "cards/mine.toml: written" in printed
    assert f"make config NAME=mine DATA={files}" in printed
    assert main(["card", "--data", str(files), "--name", "mine"]) == 0
    assert "cards/mine.toml: exists and is kept" in capsys.readouterr().out


@pytest.fixture
def without_sample(tmp_path, monkeypatch):
    """A set with training, validation and test images, and no tables."""
    monkeypatch.delenv("DATA", raising=False)
    SETS["isic2018"](tmp_path / "isic")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "isic"


def test_later_commands_take_the_folder_without_a_sample_submission(without_sample):
    assert_later_commands_take(without_sample, "lesions")


def test_without_a_sample_submission_one_is_written_beside_links_to_the_files(without_sample):
    before = sorted(without_sample.rglob("*"))
    done = stages.draft_card(without_sample)
    assert done.root == Path("data/isic")
    rows = (done.root / competition.DRAFTED_SAMPLE).read_text().split()
    assert rows == ["id,rle", *(f"ISIC_{number:07}," for number in (2001, 2004, 2007, 2010))]
    assert sorted(without_sample.rglob("*")) == before
    text = written_text(done)
    again = stages.draft_card(done.root, "isic")
    assert (again.root, written_text(again)) == (done.root, text)


def test_a_drafted_sample_submission_follows_the_card(without_sample):
    path = stages.draft_card(without_sample).path
    path.write_text(path.read_text().replace('id = "id"', 'id = "image"'))
    done = stages.draft_card(without_sample)
    assert (done.root / competition.DRAFTED_SAMPLE).read_text().startswith("image,rle\n")


def test_without_test_images_the_drafted_sample_submission_is_a_header(tmp_path, monkeypatch):
    SETS["camvid_segnet"](tmp_path / "streets")
    shutil.rmtree(tmp_path / "streets/CamVid/test")
    monkeypatch.chdir(tmp_path)
    done = stages.draft_card(tmp_path / "streets", "towns")
    assert (done.root / competition.DRAFTED_SAMPLE).read_text() == "id,class,rle\n"


def test_links_to_the_files_of_another_set_are_refused(without_sample, tmp_path):
    stages.draft_card(without_sample)
    SETS["isic2018"](tmp_path / "other/isic")
    with pytest.raises(ValueError, match=r"data/isic/\S+ is a link to .*: remove data/isic, or give another NAME"):
        stages.draft_card(tmp_path / "other/isic")


def test_the_files_without_the_drafted_sample_submission_are_one_line(without_sample):
    done = stages.draft_card(without_sample)
    card = competition.load(done.path.as_posix())
    with pytest.raises(FileNotFoundError, match=r"drafted_sample_submission\.csv: no such file: make card DATA=.*isic"):
        read_test_index(card, without_sample)
    assert len(read_test_index(card, done.root)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "which files? Give their folder, or zip"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", "../salt", "--name", "a/b"], "NAME=a/b: expected letters"),
        (["--data", "../salt", "--metric", "dise"], "METRIC=dise: unknown metric 'dise'"),
        (["--data", "../salt", "--table", "x.csv"], "TABLE=x.csv: not a table with ids and RLE texts"),
        (["--data", "../salt/train.csv"], "expected a folder, or a zip"),
        (["--data", "../damaged.zip"], "damaged zip"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(files, tmp_path, capsys, options, message):
    (tmp_path / "damaged.zip").write_bytes(b"PK\x03\x04 damaged")
    assert main(["card", *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not Path("cards").exists()
