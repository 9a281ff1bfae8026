"""Unusual tables and names are read as intended, or refused in one line with a remedy."""

import csv
import re
import time
import unicodedata

import numpy as np
import pytest

from pipeline import competition
from pipeline.data.index import read_index, read_test_index
from pipeline.data.integrity import survey_test, survey_train
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.data.tables import sample_header
from pipeline.submission import check_submission, write_submission
from tests.odd_tables import GROUPS, HEIGHT, IDS, ODD, WIDTH, mask_of, write


def read(root):
    """The inputs of the stages: the card, the training index and the test index."""
    card = competition.load(str(root / "card.toml"))
    sample_header(root / card.files.sample_submission, card.columns)
    return card, read_index(card, root), read_test_index(card, root)


def masks_of(image_id):
    """Masks of three classes, (3, H, W): the first pixel, none, all."""
    masks = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    masks[0, 0, 0] = masks[2] = 1
    return masks


@pytest.mark.parametrize("name", ODD)
def test_unusual_tables_are_read_as_intended_or_refused_in_one_line(tmp_path, name):
    root = tmp_path / "data"
    layout, says = write(name, root)
    if says:
        with pytest.raises((ValueError, FileNotFoundError), match=says) as refusal:
            read(root)
        line = str(refusal.value).replace(str(tmp_path), "")
        assert "\n" not in line
        assert len(line) <= 300, line
        return
    card, index, test = read(root)
    assert_is_as_drawn(card, index, layout)
    assert_is_written_for(card, root, test, layout)


def assert_is_as_drawn(card, index, layout):
    """Ids, masks, coverage and groups are those of the plain competition."""
    assert index["image_id"].tolist() == sorted(layout.ids)
    classes = card.classes if len(card.classes) > 1 else ()
    assert [column for column in index if column.startswith("coverage_")] == [f"coverage_{name}" for name in classes]
    labels = Labels.of(card)
    for row, sample in zip(index.itertuples(), samples_of(index), strict=True):
        place = IDS.index(row.image_id.removesuffix(".png"))
        mask = mask_of(place) * (row.image_id not in layout.empty)
        assert np.array_equal(labels.read(sample)[..., 0], mask)
        assert row.coverage == pytest.approx(mask.mean())
        assert row.empty == ("no" if mask.any() else "yes")
        assert row.path.is_file()
        assert (row.height, row.width) == (HEIGHT, WIDTH)
        assert row.group == (GROUPS[place] if card.group_column else row.image_id)


def assert_is_written_for(card, root, test, layout):
    """The submission has exactly the header and ids of the sample, and passes the check."""
    sample = root / card.files.sample_submission
    assert len(test) == len(layout.sample[1:]) / len(card.classes)
    write_submission(root / "mine.csv", card, sample, masks_of)
    check_submission(root / "mine.csv", card, sample, dict.fromkeys(test["image_id"], (HEIGHT, WIDTH)).get)
    with (root / "mine.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    with sample.open(encoding="utf-8-sig", newline="") as file:
        expected, *keys = csv.reader(file)
    assert header == expected
    place = [name.strip() for name in header].index("id")
    assert [row[place] for row in rows] == [row[place] for row in keys]
    assert {unicodedata.normalize("NFC", row[place]).strip() for row in keys} >= (
        set(test["image_id"]) if card.columns.id_separator is None else set()
    )


@pytest.mark.parametrize("name", ODD)
def test_the_survey_of_the_doctor_reports_the_same_errors(tmp_path, name):
    _, says = write(name, tmp_path)
    card = competition.load(str(tmp_path / "card.toml"))
    _, faults = survey_train(card, tmp_path)
    faults += survey_test(card, tmp_path)
    if says is None:
        assert faults == []
    elif "its header is" not in says:  # the doctor has a separate finding for it
        assert any(re.search(says, fault) for fault in faults), faults


@pytest.mark.parametrize("name", ["another suffix", "a folder too many", "an empty folder", "ids with the suffix"])
def test_skip_bad_does_not_skip_a_folder_without_any_matching_image(tmp_path, name):
    _, says = write(name, tmp_path)
    card = competition.load(str(tmp_path / "card.toml"))
    with pytest.raises(ValueError, match=says):
        read_index(card, tmp_path, skip_bad=True)


def test_a_training_set_without_a_readable_image_is_refused(tmp_path):
    layout, _ = write("nothing odd", tmp_path)
    for name in layout.images:
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no training image is left: none of the images in train\.csv can be read"):
        read_index(competition.load(str(tmp_path / "card.toml")), tmp_path, skip_bad=True)


def test_files_of_the_operating_system_are_counted_in_one_line(tmp_path, caplog):
    write("hidden files", tmp_path)
    with caplog.at_level("INFO", logger="pipeline"):
        read(tmp_path)
        read(tmp_path)
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 2  # of train and of test
    assert lines[0].endswith("train: 6 files of the operating system are left out, such as '.DS_Store'")


def test_a_million_columns_are_refused_within_seconds(tmp_path):
    write("a million columns", tmp_path)
    start = time.process_time()
    with pytest.raises(ValueError, match="columns, expected at most"):
        read(tmp_path)
    assert time.process_time() - start < 5
