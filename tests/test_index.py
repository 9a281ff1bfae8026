"""The index: ids stay text, labels are checked row by row, and every mismatch is reported."""

import os
from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline import competition, config, stages
from pipeline.data import file_index
from pipeline.data.crops import crop_index
from pipeline.data.index import index_column, read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.sample import META, Sample, samples_of


def test_ids_keep_leading_zeros_and_empty_masks_are_empty_text(tiny, card):
    index = read_index(card, tiny / "tiny")
    assert len(index) == 18
    assert all(len(image_id) == 4 for image_id in index["image_id"])
    assert (index["rle"][index["empty"] == "yes"] == "").all()
    assert (index["coverage"] == 0).sum() == 6


def test_coverage_is_the_masked_share_of_the_decoded_mask(tiny, card):
    index = read_index(card, tiny / "tiny")
    for sample, coverage in zip(samples_of(index), index["coverage"], strict=True):
        assert coverage == pytest.approx(Labels.of(card).read(sample)[..., 0].mean())


def test_test_index_follows_the_sample(tiny, card):
    sample = [line.split(",")[0] for line in (tiny / "tiny/sample_submission.csv").read_text().splitlines()[1:]]
    assert list(read_test_index(card, tiny / "tiny")["image_id"]) == sample


def test_masks_as_images_give_the_same_index(tiny, card, edit):
    by_rle = read_index(card, tiny / "tiny")
    (tiny / "tiny/train/masks").mkdir()
    for sample in samples_of(by_rle):
        mask = Labels.of(card).read(sample)[..., 0]
        Image.fromarray(mask * 255).save(tiny / f"tiny/train/masks/{sample.image_id}.png")
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    by_mask = read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert by_mask[["image_id", "coverage"]].equals(by_rle[["image_id", "coverage"]])
    for one, other in zip(samples_of(by_rle), samples_of(by_mask), strict=True):
        assert np.array_equal(Labels.of(card).read(one), Labels.of(card).read(other))


def write_masks(tiny, edit, change, masks=""):
    """Write the tiny competition with mask images, changed by a function; `masks` are lines of the card's [masks]."""
    index = read_index(competition.load("tiny.toml"), tiny / "tiny")
    (tiny / "tiny/train/masks").mkdir()
    for sample in samples_of(index):
        mask = Labels.of(competition.load("tiny.toml")).read(sample)[..., 0]
        Image.fromarray(change(mask)).save(tiny / f"tiny/train/masks/{sample.image_id}.png")
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    edit("tiny.toml", "[columns]", f"[masks]\n{masks}\n[columns]")
    return index


def test_separate_folders_of_images_and_masks_are_listed_once_each(tiny, edit, monkeypatch):
    write_masks(tiny, edit, lambda mask: mask * np.uint8(255))
    listed, scandir = [], os.scandir
    monkeypatch.setattr(file_index.os, "scandir", lambda folder: listed.append(folder.name) or scandir(folder))
    read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert sorted(listed) == ["images", "masks"]


@pytest.mark.parametrize(
    ("change", "masks"),
    [
        (lambda mask: mask * np.uint8(128), "values = { disc = 128 }"),
        (lambda mask: 7 - mask * np.uint8(4), "values = { disc = 3 }\nbackground = 7"),
        (lambda mask: 1 - mask, "values = { disc = 0 }\nbackground = 1"),
        (lambda mask: mask[..., None] * np.uint8([255, 0, 9]), "values = { disc = [255, 0, 9] }"),
        (lambda mask: 99 + mask * np.uint8(60), "above = 127"),
    ],
    ids=["128", "background 7", "black on white", "colour", "above"],
)
def test_mask_values_of_one_class_are_read_as_the_card_defines(tiny, edit, change, masks):
    by_rle = write_masks(tiny, edit, change, masks)
    by_mask = read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert by_mask["coverage"].tolist() == by_rle["coverage"].tolist()


def test_background_pixels_belong_to_neither_of_two_classes(tiny, edit):
    edit("tiny.toml", 'classes = ["disc"]', 'classes = ["disc", "rim"]')
    edit("tiny.toml", 'id = "id"', 'id = "id"\nid_separator = "_"')
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    edit("tiny.toml", "[columns]", "[masks]\nvalues = { disc = 1, rim = 2 }\n[columns]")
    codes = np.array([[0, 1, 2], [2, 0, 0]], np.uint8)
    Image.fromarray(codes).save(tiny / "codes.png")
    sample = Sample("x", (tiny / "x.png",), (2, 3), mask_paths=(tiny / "codes.png",))
    read = Labels.of(competition.load("tiny.toml")).read(sample)
    assert read[..., 0].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert read[..., 1].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_a_mask_with_undeclared_values_is_refused_with_the_line_for_the_card(tiny, edit):
    write_masks(tiny, edit, lambda mask: mask * np.uint8(128))
    with pytest.raises(ValueError, match=r"masks/\d+\.png: .*values 0, 128: .*\[masks\] values = { disc = 128 }"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")


def test_the_meta_table_may_name_its_own_id_column(tiny, card, edit):
    # As where the submission's id column is ImageId_ClassId, and the meta table's is ImageId.
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_csv = "train.csv"\ntrain_meta = "meta.csv"')
    edit("tiny.toml", "[columns]", '[columns]\nmeta_id = "ImageId"')
    ids = read_index(card, tiny / "tiny")["image_id"]
    (tiny / "tiny/meta.csv").write_text("id,ImageId\n" + "".join(f"x{key[1]},{key}\n" for key in reversed(ids)))
    index = read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert index["meta.id"].tolist() == [f"x{key[1]}" for key in index["image_id"]]
    assert "meta.ImageId" not in index
    edit("tiny.toml", 'meta_id = "ImageId"', 'meta_id = "image"')
    with pytest.raises(ValueError, match=r"meta\.csv: .*'image'"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")


def test_group_comes_from_the_meta_table(tiny, edit):
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_csv = "train.csv"\ntrain_meta = "meta.csv"')
    edit("tiny.toml", 'rle = "rle_mask"', 'rle = "rle_mask"\ngroup = "well"')
    ids = [line.split(",")[0] for line in (tiny / "tiny/train.csv").read_text().splitlines()[1:]]
    (tiny / "tiny/meta.csv").write_text("id,well\n" + "".join(f"{key},0{key[0]}\n" for key in ids))
    index = read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert list(index["group"]) == ["0" + key[0] for key in index["image_id"]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0919,", "0919,5 1 7\n#", r"train\.csv: line 3, id '0919': .*no length"),
        ("0919,", "0919,5 1 a 2\n#", r"train\.csv: line 3, id '0919': .*'a'"),
        ("0919,", "0919,5 4 6 2\n#", r"train\.csv: line 3, id '0919': .*run 2"),
        ("0919,", "0919,1580 9\n#", r"train\.csv: line 3, id '0919': .*past the last of the 1584 pixels"),
    ],
)
def test_a_bad_rle_is_refused_with_its_line_and_run(tiny, card, edit, old, new, message):
    edit("tiny/train.csv", old, new)
    # The original text is moved to a separate line, which is removed.
    path = tiny / "tiny/train.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("#")) + "\n")
    with pytest.raises(ValueError, match=message):
        read_index(card, tiny / "tiny")


def test_a_repeated_id_is_refused_with_its_line(tiny, card):
    with (tiny / "tiny/train.csv").open("a") as file:
        file.write("0000,\n")
    with pytest.raises(ValueError, match=r"1 of 19 rows repeat an id, the first is '0000' \(line 20\)"):
        read_index(card, tiny / "tiny")


def test_rows_without_images_and_images_without_rows_are_refused(tiny, card):
    (tiny / "tiny/train/images/0919.png").rename(tiny / "tiny/train/images/9999.png")
    with pytest.raises(
        ValueError, match=r"no image for 1 of 18 training ids in train\.csv, such as '0919'; there are 18"
    ):
        read_index(card, tiny / "tiny")
    (tiny / "tiny/train/images/0919.png").write_bytes((tiny / "tiny/train/images/9999.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of 19 training images have no row in train\.csv, such as '9999\.png'"):
        read_index(card, tiny / "tiny")


def test_a_mask_of_another_size_is_refused_with_both_sizes(tiny, edit):
    (tiny / "tiny/train/masks").mkdir()
    for path in (tiny / "tiny/train/images").iterdir():
        Image.fromarray(np.zeros((36, 45), np.uint8)).save(tiny / "tiny/train/masks" / path.name)
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    with pytest.raises(ValueError, match=r"mask of \(36, 45\), its image .* is \(36, 44\)"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")


def test_skip_bad_logs_and_skips_bad_images(tiny, card, caplog):
    broken = tiny / "tiny/train/images/0919.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (tiny / "tiny/train/images/0838.png").unlink()
    index = read_index(card, tiny / "tiny", skip_bad=True)
    assert len(index) == 16
    assert not {"0919", "0838"} & set(index["image_id"])
    assert "0919.png" in caplog.text
    assert "no image for '0838'" in caplog.text


def test_a_missing_table_is_reported_with_its_expected_folder(tiny, card):
    (tiny / "tiny/train.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.csv: no such file.*DATA=folder"):
        read_index(card, tiny / "tiny")


def test_a_missing_column_is_reported_with_the_existing_ones(tiny, card, edit):
    edit("tiny/train.csv", "rle_mask", "mask")
    with pytest.raises(ValueError, match=r"no column 'rle_mask', it has: id, mask: correct .* \[columns\]"):
        read_index(card, tiny / "tiny")


def test_group_can_be_a_column_of_the_training_table(tiny, edit):
    edit("tiny.toml", 'rle = "rle_mask"', 'rle = "rle_mask"\ngroup = "well"')
    path = tiny / "tiny/train.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},well", *(f"{row},0{row[0]}" for row in rows)]) + "\n")
    index = read_index(competition.load("tiny.toml"), tiny / "tiny")
    assert list(index["group"]) == ["0" + key[0] for key in index["image_id"]]
    assert list(index_column(index, "well", "train.balance")) == list(index["group"])


def test_a_group_column_missing_from_all_tables_is_refused(tiny, edit):
    edit("tiny.toml", 'rle = "rle_mask"', 'rle = "rle_mask"\ngroup = "patient"')
    with pytest.raises(ValueError, match=r"no column 'patient' \(columns\.group\) in train\.csv: images would leak"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")


# Names of columns of the index, of windows and of folds, and one other name.
NAMES = ["box", "image", "fold", "path", "height", "rle", "mask_paths", "coverage", "empty", "group", "sources", "kind"]


@pytest.fixture
def with_meta(tiny, edit):
    """The tiny competition with a meta table whose columns have these names; its cells are their column's name."""
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_csv = "train.csv"\ntrain_meta = "meta.csv"')
    ids = [line.split(",")[0] for line in (tiny / "tiny/train.csv").read_text().splitlines()[1:]]
    rows = [",".join(["id", *NAMES]), *(",".join([key, *(f"{name} {key[1]}" for name in NAMES)]) for key in ids)]
    (tiny / "tiny/meta.csv").write_text("\n".join(rows) + "\n")
    return competition.load("tiny.toml")


def test_columns_of_a_meta_table_may_have_any_name(tiny, card, with_meta):
    plain, index = read_index(card, tiny / "tiny"), read_index(with_meta, tiny / "tiny")
    assert index[list(plain)].equals(plain)
    windows = crop_index(index, Labels.of(card), config.Crops(size=16, stride=16))
    for table, name in product((index, windows), NAMES):
        assert table[f"meta.{name}"].tolist() == [f"{name} {image_id[1]}" for image_id in table["image_id"]]
    assert {sample.box is None for sample in samples_of(index)} == {True}
    assert {sample.box[2:] for sample in samples_of(windows)} == {(16, 16)}


@pytest.mark.slow
def test_meta_columns_with_reserved_names_work_in_folds_training_and_report(tiny, with_meta):
    pairs = (
        "data.crops={size=32,stride=16}",
        "train.phases.0.crop=32",
        "train.phases.1.crop=32",
        "train.balance=box",
        "folds.balance=['fold','image']",
    )
    cfg = config.load("configs/tiny.toml", pairs)
    assert {"fold=fold 0", "image=image 9"} <= set(stages.describe_folds(cfg)[0])
    columns = set(stages.collect_report_data([cfg]).images)
    assert {"box", "image", "path", "kind", META + "fold", META + "coverage", META + "group"} <= columns


def test_index_columns_take_precedence_over_meta_columns_and_unknown_ones_are_refused(tiny, with_meta):
    index = read_index(with_meta, tiny / "tiny")
    assert set(index_column(index, "empty", "train.balance")) == {"yes", "no"}
    assert index_column(index, "kind", "train.balance").equals(index[META + "kind"])
    with pytest.raises(ValueError, match=r"train\.balance: no column 'kid'\. Known columns: image_id, .*, kind, group"):
        index_column(index, "kid", "train.balance")
