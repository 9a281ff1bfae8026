"""What was computed from files is used again as long as they do not change, and nothing else is."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline import competition, config
from pipeline.data import index as index_module
from pipeline.data.file_cache import FileCache
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.stages.preparing import Paths, index_test_images, index_training_images


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("12345")
    return paths


def lookup(path, files, value, what="size"):
    """What the cache in `path` answers if the value would be computed as `value`."""
    cache = FileCache(path)
    found = cache.get(what, files, lambda: value)
    cache.save()
    return found


def test_a_value_is_computed_once_for_unchanged_files(tmp_path, files):
    path = tmp_path / "cache.json"
    assert lookup(path, files, [1, 2]) == lookup(path, files, "other") == [1, 2]
    assert lookup(path, files[::-1], 3) == 3
    assert lookup(path, files, 4, what="coverage") == 4
    assert lookup(path, files, 5) == [1, 2]


@pytest.mark.parametrize("size", [5, 6])
def test_a_changed_file_is_read_again(tmp_path, files, size):
    path = tmp_path / "cache.json"
    lookup(path, files, 1)
    before = files[1].stat()
    files[1].write_text("x" * size)
    if size != 5:
        os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert lookup(path, files, 2) == 2
    assert lookup(path, files, 3) == 2


def test_a_slice_counts_as_changed_if_its_volume_did(tmp_path):
    volume, path = tmp_path / "mask.nii", tmp_path / "cache.json"
    volume.write_text("12345")
    assert lookup(path, [volume / "000"], 1) == lookup(path, [volume / "000"], 2) == 1
    volume.write_text("123456")
    assert lookup(path, [volume / "000"], 3) == 3


def test_values_of_files_that_do_not_exist_are_not_kept(tmp_path):
    path = tmp_path / "cache.json"
    assert lookup(path, [tmp_path / "gone"], 1) == 1
    assert lookup(path, [tmp_path / "gone"], 2) == 2


def test_errors_and_files_that_change_meanwhile_are_not_kept(tmp_path, files):
    cache = FileCache(tmp_path / "cache.json")

    def fail():
        raise ValueError("damaged")

    def change():
        files[0].write_text("changed")
        return 1

    with pytest.raises(ValueError, match="damaged"):
        cache.get("size", files, fail)
    assert cache.get("size", files, change) == 1
    assert cache.get("size", files, lambda: 2) == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"size": 3}', '{"size": {"a": 1}}', "\x00", "[" * 5000])
def test_a_damaged_cache_is_replaced(tmp_path, files, text):
    (tmp_path / "cache.json").write_text(text)
    assert lookup(tmp_path / "cache.json", files, 1) == lookup(tmp_path / "cache.json", files, 2) == 1


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path, files):
    (tmp_path / "file").write_text("")
    assert lookup(tmp_path / "file" / "cache.json", files, 1) == 1
    assert FileCache().get("size", files, lambda: 1) == 1


MASKS = """
classes = ["road", "car"]
exclusive = true
metric = "class_iou"
[files]
train_images = "images"
train_masks = "masks"
test_images = "images"
sample_submission = "sample.csv"
suffix = ".png"
[columns]
id = "id"
rle = "rle"
label = "class"
[masks.values]
road = 0
car = 1
"""


@pytest.fixture
def masked(tmp_path, monkeypatch):
    """A competition of mask images of 4 × 6 pixels, in the current folder; its config and card."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("data/images", "data/masks"):
        Path(name).mkdir(parents=True)
    for number in range(5):
        cv2.imwrite(f"data/images/{number}.png", rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        cv2.imwrite(f"data/masks/{number}.png", rng.integers(0, 2, (4, 6), dtype=np.uint8))
    Path("data/sample.csv").write_text(
        "id,class,rle\n" + "".join(f"{n},{c},\n" for n in range(5) for c in ("road", "car"))
    )
    Path("masked.toml").write_text('name = "masked"\ntitle = "masked"\nurl = "https://example.com"\n' + MASKS)
    Path("configs").mkdir()
    Path("configs/masked.toml").write_text(
        'competition = "masked.toml"\n[data]\nroot = "data"\n[model]\nclasses = 2\n'
        "[[train.phases]]\nloss = { cross_entropy = 1.0 }\nepochs = 1\nlr = 1e-3\n"
    )
    cfg = config.load("configs/masked.toml")
    return cfg, competition.load(cfg.competition)


def test_a_second_command_decodes_no_mask_and_reads_no_header_again(masked, monkeypatch):
    cfg, card = masked
    first = index_training_images(cfg, card, Paths(cfg, card)), index_test_images(cfg, card, Paths(cfg, card))
    read = []
    monkeypatch.setattr(Labels, "read", lambda self, sample: read.append(sample.image_id))
    monkeypatch.setattr(Reader, "size", lambda self, sample: read.append(sample.image_id))
    second = index_training_images(cfg, card, Paths(cfg, card)), index_test_images(cfg, card, Paths(cfg, card))
    assert not read
    for one, other in zip(first, second, strict=True):
        assert one.equals(other)
        assert one.dtypes.equals(other.dtypes)


def test_a_changed_mask_or_card_is_decoded_again(masked, monkeypatch):
    cfg, card = masked
    index_training_images(cfg, card, Paths(cfg, card))
    decoded, original = [], index_module.mask_coverage

    def spy(sample, labels):
        decoded.append(sample.image_id)
        return original(sample, labels)

    monkeypatch.setattr(index_module, "mask_coverage", spy)
    cv2.imwrite("data/masks/3.png", np.ones((4, 6), np.uint8))
    index = index_training_images(cfg, card, Paths(cfg, card)).set_index("image_id")
    assert decoded == ["3"]
    assert index.loc["3", "coverage_car"] == 1
    other = card.model_copy(update={"masks": card.masks.model_copy(update={"void": 7})})
    index_training_images(cfg, other, Paths(cfg, other))
    assert decoded == ["3", *"01234"]


def test_the_cache_holds_no_settings_of_this_machine_but_paths(masked):
    cfg, card = masked
    index_training_images(cfg, card, Paths(cfg, card))
    found = json.loads(Paths(cfg, card).files.read_text())
    assert sorted(len(values) for values in found.values()) == [5, 5]
