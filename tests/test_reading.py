"""Stages on images with EXIF orientation, non-finite pixels, other channels or mixed bit depths."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline import competition, config, rle
from pipeline.cli import main
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.duplicates import find_duplicates

CARD = "tiny.toml"


@pytest.fixture
def first(tiny):
    """The first training image's path."""
    return sorted(Path("tiny/train/images").iterdir())[0]


def run(capsys, command, *settings):
    status = main([command, "configs/tiny.toml", *(word for each in settings for word in ("--set", each))])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def store_turned(path):
    """Store an image rotated by 90° to the left, with its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.asarray(Image.open(path))
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(path, exif=exif)


def store_as_tiff(path, pixels):
    """Replace a PNG by a TIFF with the same name: the format is detected from the content."""
    tifffile.imwrite(path, pixels, photometric="minisblack")


def test_exif_orientation_is_applied_in_all_stages(first, capsys):
    before = read_index(competition.load(CARD), Path("tiny"))
    whole = Reader(1).read(Sample.from_file(first))
    store_turned(first)
    after = read_index(competition.load(CARD), Path("tiny"))
    assert after.equals(before)
    assert np.array_equal(Reader(1).read(Sample.from_file(first)), whole)
    for command in ("data", "doctor"):
        status, said = run(capsys, command)
        assert status == 0
        assert "1 of 23 images have an EXIF orientation: it is applied" in " ".join(said.split())
        assert command == "data" or "if their masks were not drawn so, set data.exif = false" in " ".join(said.split())


def test_exif_orientation_is_ignored_if_disabled(first, capsys):
    store_turned(first)
    as_stored = Reader(1, exif=False)
    index = read_index(competition.load(CARD), Path("tiny"), reader=as_stored)
    assert tuple(index.loc[0, ["height", "width"]]) == as_stored.read(Sample.from_file(first)).shape[:2] == (44, 36)
    _, said = run(capsys, "data", "data.exif=false")
    assert "EXIF orientation: it is ignored (data.exif = false)" in " ".join(said.split())


def test_duplicate_search_applies_exif_orientation(first, tmp_path):
    Image.fromarray(np.asarray(Image.open(first))).save(tmp_path / "copy.png")
    store_turned(first)
    index = read_index(competition.load(CARD), Path("tiny")).head(1)
    images = index.assign(part="train")
    images = images.loc[[0, 0]].assign(image_id=["a", "b"], path=[first, tmp_path / "copy.png"])
    images = images.reset_index(drop=True)
    assert find_duplicates(images)["view"].tolist() == ["identity"]
    assert find_duplicates(images, Reader(exif=False))["view"].tolist() != ["identity"]


def test_mask_images_follow_the_exif_option_of_images(tiny, tmp_path):
    mask = np.zeros((36, 44), np.uint8)
    mask[:9, :5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    store_turned(tmp_path / "mask.png")
    card = competition.load(CARD)
    sample = Sample("image", (tmp_path / "image.png",), (36, 44), mask_paths=(tmp_path / "mask.png",))
    assert np.array_equal(Labels.of(card).read(sample)[..., 0], mask > 0)
    sample = replace(sample, size=(44, 36))
    assert np.array_equal(Labels.of(card, exif=False).read(sample)[..., 0], np.rot90(mask > 0))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("command", ["data", "doctor", "folds"])
def test_non_finite_pixels_stop_every_stage_unless_nodata_is_set(tiny, capsys, part, command):
    path = sorted(Path(f"tiny/{part}/images").iterdir())[1]
    pixels = np.asarray(Image.open(path)).astype(np.float32)
    pixels[3:5, 7] = np.nan
    store_as_tiff(path, pixels)
    status, said = run(capsys, command, "data.percentiles=[1, 99]")
    assert status in (1, 2)
    assert f"{path}: 2 of 1584 pixels are not finite (nan), the first at row 3, column 7" in " ".join(said.split())
    for nodata in ("zero", "mean"):
        status, _ = run(capsys, command, "data.percentiles=[1, 99]", f"data.nodata='{nodata}'", "data.doctor=false")
        assert status == 0


def test_skip_bad_skips_images_with_non_finite_pixels(first, caplog):
    store_as_tiff(first, np.full((36, 44), np.inf, np.float32))
    card = competition.load(CARD)
    index = read_index(card, Path("tiny"), skip_bad=True)
    assert first.stem not in set(index["image_id"])
    assert any("left out: " in line and "not finite (inf)" in line for line in caplog.messages)
    assert first.stem in set(read_index(card, Path("tiny"), True, Reader(1, nodata="zero"))["image_id"])
    assert len(read_test_index(card, Path("tiny"), skip_bad=True)) == 5


@pytest.mark.parametrize("command", ["data", "doctor"])
def test_a_wrong_number_of_channels_is_refused_before_training(first, capsys, command):
    store_as_tiff(first, np.zeros((4, 36, 44), np.uint8))
    status, said = run(capsys, command)
    assert status in (1, 2)
    assert f"{first}: 4 channels, expected 1: set model.in_channels = 4" in " ".join(said.split())


def test_mixed_bit_depths_are_reported_unless_percentiles_are_set(first, capsys):
    store_as_tiff(first, np.asarray(Image.open(first)).astype(np.uint16) * 16)
    _, said = run(capsys, "data")
    assert "mixed bit depths (22 of uint8, 1 of uint16)" in " ".join(said.split())
    _, said = run(capsys, "data", "data.percentiles=[1, 99]")
    assert "mixed bit depths" not in said


@pytest.mark.parametrize("setting", ["percentiles = [1, 99]", 'nodata = "mean"'])
def test_options_that_need_whole_images_are_refused_with_tiles(edit, setting):
    edit("configs/tiny.toml", 'root = "tiny"', f'root = "tiny"\n{setting}')
    edit("configs/tiny.toml", "[train]", "[predict.tiles]\nsize = 64\nstride = 48\n\n[train]")
    with pytest.raises(ValueError, match=r"needs the whole image, which predict\.tiles never reads"):
        config.load("configs/tiny.toml")


def test_slices_of_volumes_are_read_as_training_images_and_masks(tiny, tmp_path):
    import nibabel

    rng = np.random.default_rng(0)
    for part, count in (("train", 2), ("masks", 2), ("test", 1)):
        (tmp_path / "ct" / part).mkdir(parents=True)
        for number in range(count):
            values = rng.integers(0, 2 if part == "masks" else 900, (12, 10, 3)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "ct" / part / f"v{number}.nii.gz")
    (tmp_path / "ct" / "sample_submission.csv").write_text("id,rle_mask\nv0_000,\nv0_001,\nv0_002,\n")
    (tmp_path / "ct.toml").write_text(
        'name = "ct"\ntitle = "CT"\nclasses = ["liver"]\nmetric = "mean_dice"\n[files]\ntrain_images = "train"\n'
        'test_images = "test"\ntrain_masks = "masks"\nsuffix = ".nii.gz"\nmask_suffix = ".nii.gz"\n'
        '[columns]\nid = "id"\nrle = "rle_mask"\n'
    )
    card = competition.load(str(tmp_path / "ct.toml"))
    index = read_index(card, tmp_path / "ct")
    assert index["image_id"].tolist() == [f"v{volume}_{number:03}" for volume in range(2) for number in range(3)]
    assert set(zip(index["height"], index["width"], strict=True)) == {(10, 12)}
    assert index["group"].tolist() == ["v0"] * 3 + ["v1"] * 3, "slices of one volume would leak over folds"
    volume = np.asarray(nibabel.load(tmp_path / "ct" / "masks" / "v1.nii.gz").dataobj)
    sample = samples_of(index)[5]
    assert np.array_equal(Labels.of(card).read(sample)[..., 0], volume[..., 2].T)
    assert index["coverage"][5] == pytest.approx(volume[..., 2].mean())
    assert len(read_test_index(card, tmp_path / "ct")) == 3
    assert rle.encode(Labels.of(card).read(sample)[..., 0])
