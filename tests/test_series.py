"""Neighbours of slices: which slice gets into which channel, from the index to the CSV."""

import gc
import pickle
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import tifffile
import torch
from PIL import Image

from pipeline import competition, config, pseudo_labels, rle, stages
from pipeline.cli import main
from pipeline.config import Config
from pipeline.data import reader as reader_module
from pipeline.data import series as series_module
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.dataset import MaskedImages
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.reader import ImageError, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.series import Series, neighbours_of
from pipeline.data.slice_cache import SliceCache
from pipeline.data.windows import Box
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.models import build_model
from pipeline.serving.batch.inputs import make_inputs
from pipeline.serving.batch.neighbours import find_neighbours
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.preparing import make_context
from tests.conftest import CARD, CONFIG, draw
from tests.miniatures import write_dicom

PATTERN = "volume_pattern = '(.+)_(\\d+)'\n"
SIZE = (36, 44)

# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("own", "numbers", "offsets", "border", "expected", "missing"),
    [
        (3, [1, 2, 3, 4, 5], [-2, -1, 0, 1, 2], "repeat", [1, 2, 3, 4, 5], []),
        (1, [1, 2, 3, 4, 5], [-2, -1, 0, 1, 2], "repeat", [1, 1, 1, 2, 3], []),
        (1, [1, 2, 3, 4, 5], [-2, -1, 0, 1, 2], "reflect", [3, 2, 1, 2, 3], []),
        (5, [1, 2, 3, 4, 5], [-4, 0, 4], "reflect", [1, 5, 1], []),
        (5, [1, 2, 3, 4, 5], [0, 9], "reflect", [5, 4], []),  # 5, back to 1 after 4, and forth again to 4 after 7, …
        (2, [1, 2], [-3, 0, 3], "reflect", [1, 2, 1], []),
        (7, [7], [-1, 0, 1], "reflect", [7, 7, 7], []),
        (7, [7], [-1, 0, 1], "repeat", [7, 7, 7], []),
        (20, [0, 10, 20, 30], [-1, 0, 1], "repeat", [10, 20, 30], []),  # steps of 10
        (4, [1, 2, 3, 4, 8, 9], [-1, 0, 1, 2, 3], "repeat", [3, 4, 4, 4, 8], [5, 6, 7]),  # at 6 the tie is the image's
        (8, [1, 2, 3, 4, 8, 9], [-2, -1, 0], "repeat", [8, 8, 8], [6, 7]),
    ],
)
def test_neighbours_by_hand(own, numbers, offsets, border, expected, missing):
    assert neighbours_of(own, numbers, offsets, border) == (expected, missing)


@pytest.mark.parametrize("border", ["repeat", "reflect"])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_neighbours_of_a_whole_series_are_those_of_numpys_padding(border, length):
    numbers, mode = list(range(length)), {"repeat": "edge", "reflect": "reflect"}[border]
    padded = np.pad(numbers, 5, mode=mode)
    for own in numbers:
        assert neighbours_of(own, numbers, range(-5, 6), border)[0] == padded[own : own + 11].tolist()


# ---------------------------------------------------------------------------------------------- files


def load(card: str = PATTERN, settings: str = "neighbours = 1", files: str = "") -> Config:
    """A config of the files in the folder `tiny`; its card is loaded by name."""
    Path("tiny.toml").write_text(f"{card}{CARD}".replace("[files]", f"[files]\n{files}"))
    Path("configs").mkdir(exist_ok=True)
    text = CONFIG.replace("in_channels = 1\n", "").replace("[data]", f"[data]\n{settings}")
    Path("configs/tiny.toml").write_text(text)
    return config.load("configs/tiny.toml")


def reader_and_index(cfg: Config, part: str = "train", **options: object) -> tuple[Reader, pd.DataFrame]:
    card = competition.load("tiny.toml")
    reader = Reader.of(cfg, card)
    read = read_index if part == "train" else read_test_index
    return reader, read(card, Path("tiny"), reader=reader, **options)


def slices_in_channels(cfg: Config, part: str = "train") -> dict[str, list[int]]:
    """The value of each channel of each image; files are constant, with the slice's number as their value."""
    reader, index = reader_and_index(cfg, part)
    images = {sample.image_id: reader.read(sample) for sample in samples_of(index)}
    assert all((image == image[:1, :1]).all() for image in images.values())
    return {image_id: image[0, 0].tolist() for image_id, image in images.items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    reader_module.log_replaced.cache_clear()  # the files of all tests have the same names
    return tmp_path


def write_slices(ids: dict[str, int], *, suffix: str = ".png", part: str = "train") -> None:
    """An image of each id with a constant value, and a table with a row for each."""
    images = Path("tiny") / part / "images"
    images.mkdir(parents=True)
    for image_id, value in ids.items():
        Image.fromarray(np.full(SIZE, value, np.uint8)).save(images / f"{image_id}{suffix}")
    table = "train.csv" if part == "train" else "sample_submission.csv"
    (Path("tiny") / "sample_submission.csv").write_text("id,rle_mask\n")
    (Path("tiny") / table).write_text("id,rle_mask\n" + "".join(f"{image_id},1 9\n" for image_id in ids))


def test_the_channels_of_a_slice_are_the_slices_around_it(folder):
    write_slices({"b_2": 12, "a_10": 10, "a_9": 9, "a_8": 8, "b_1": 11})
    assert slices_in_channels(load(settings="neighbours = 1")) == {
        "a_8": [8, 8, 9],
        "a_9": [8, 9, 10],
        "a_10": [9, 10, 10],
        "b_1": [11, 11, 12],
        "b_2": [11, 12, 12],
    }
    reflected = slices_in_channels(load(settings='neighbours = { offsets = [-2, 0, 1], border = "reflect" }'))
    assert reflected["a_8"] == [10, 8, 9]
    assert reflected["a_10"] == [8, 10, 9]
    assert slices_in_channels(load(settings="neighbours = 0"))["a_9"] == [9]


def test_test_slices_have_neighbours_too_in_the_order_of_the_sample(folder):
    write_slices({"a_1": 1})
    write_slices({"c_3": 3, "c_1": 1, "c_2": 2}, part="test")
    assert slices_in_channels(load(), "test") == {"c_3": [2, 3, 3], "c_1": [1, 1, 2], "c_2": [1, 2, 3]}


def test_a_slice_without_a_row_is_a_neighbour(folder):
    write_slices({"a_1": 1, "a_2": 2, "a_3": 3})
    Path("tiny/train.csv").write_text("id,rle_mask\na_1,1 9\n")
    cfg = load(f'{PATTERN}images_without_rows = "ignore"\n')
    assert slices_in_channels(cfg) == {"a_1": [1, 1, 2]}


def test_missing_numbers_are_replaced_by_the_nearest_slice_and_counted(folder, caplog):
    series_module.log_once.cache_clear()
    write_slices({"a_1": 1, "a_2": 2, "a_5": 5, "b_1": 11, "b_2": 12})
    assert slices_in_channels(load(settings="neighbours = 2"))["a_5"] == [2, 5, 5, 5, 5]
    assert "3 of 5 slices have neighbours whose number is missing, the first is 'a_1' (number 3): the" in caplog.text


def test_neighbours_combine_with_channels_of_several_files(folder):
    write_slices(
        {f"{volume}_{n}{band}": 10 * n + (band == "y") for volume in "abc" for n in (1, 2, 3) for band in "xy"}
    )
    Path("tiny/train.csv").write_text("id,rle_mask\n" + "".join(f"{v}_{n},1 9\n" for v in "abc" for n in (1, 2, 3)))
    cfg = load(files='channels = ["{id}x.png", "{id}y.png"]')
    assert slices_in_channels(cfg)["a_2"] == [10, 11, 20, 21, 30, 31]
    _, index = reader_and_index(cfg)
    assert [sample.path.name for sample in samples_of(index)] == [f"{image_id}x.png" for image_id in index["image_id"]]
    assert make_context(cfg).cfg.model.in_channels == 6
    derived = load(
        files='channels = ["{id}x.png", "{id}y.png"]',
        settings='neighbours = 1\nchannels = ["y", { name = "difference(y, x)", window = [0, 255] }]',
    )
    assert slices_in_channels(derived)["b_3"] == [21, 1, 31, 1, 31, 1]


def test_files_beside_the_image_are_its_neighbours(folder):
    # As in Vesuvius: a folder for each fragment, of which one layer is the image.
    for fragment in "12":
        layers = Path("tiny/train/images") / fragment / "layers"
        layers.mkdir(parents=True)
        for layer in range(30, 35):
            Image.fromarray(np.full(SIZE, layer + 100 * int(fragment == "2"), np.uint8)).save(layers / f"{layer}.png")
        (layers / "notes.txt").write_text("no layer")
    Path("tiny/train.csv").write_text("id,rle_mask\n1,1 9\n2,\n")
    files = "pattern = '([^/]+)/layers/32\\.png'\nslice_pattern = '(\\d+)\\.png'"
    assert slices_in_channels(load("", "neighbours = [-2, 0, 1]", files)) == {"1": [30, 32, 33], "2": [130, 132, 133]}
    assert slices_in_channels(load("", "neighbours = [-3, 0]", files))["1"] == [30, 32]
    assert slices_in_channels(load("", "window = [0, 255]\nneighbours = 0", files))["1"] == [32]
    Path("tiny/train/images/1/layers/33.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    reader, index = reader_and_index(load("", "neighbours = 1", files))
    with pytest.raises(ImageError, match=r"33\.png: cannot be read"):
        reader.check(samples_of(index)[0])


def test_a_name_that_the_slice_pattern_does_not_match_is_refused(folder):
    write_slices({"a": 1})
    with pytest.raises(ValueError, match=r"a\.png: the card's files\.slice_pattern .* does not match this name"):
        reader_and_index(load("", files="slice_pattern = '(\\d+)\\.png'"))


def test_pages_of_a_file_are_slices(folder):
    images = Path("tiny/train/images")
    images.mkdir(parents=True)
    np.save(images / "x.npy", np.broadcast_to(np.arange(8, dtype=np.uint8), (*SIZE, 8)))
    Path("tiny/train.csv").write_text("id,rle_mask\nx,1 9\n")
    files = 'frame = 4\nsuffix = ".npy"'
    assert slices_in_channels(load("", "", files)) == {"x": [4]}
    assert slices_in_channels(load("", "neighbours = 1", files)) == {"x": [3, 4, 5]}
    assert slices_in_channels(load("", "neighbours = [-4, 0, 3, 5]", files)) == {"x": [0, 4, 7, 7]}
    reader, index = reader_and_index(load("", "neighbours = [-4, 0, 3]", files))
    (sample,) = samples_of(index)
    assert reader.window(sample, Box(1, 2, 3, 4))[0, 0].tolist() == [0, 4, 7]
    assert np.unique(reader.picture(sample)).tolist() == [4]
    assert np.unique(reader.preview(sample, 1)).tolist() == [4]
    with pytest.raises(ImageError, match=r"x\.npy: 8 pages, but the card's files\.frame is 8 \(from 0\)"):
        Reader.of(load("", "", 'frame = 8\nsuffix = ".npy"'), competition.load("tiny.toml")).read(sample)


def test_slices_of_a_nifti_volume_are_a_series_without_an_entry_on_the_card(folder):
    images = Path("tiny/train/images")
    images.mkdir(parents=True)
    for name, first in (("a", 0), ("b", 50)):
        voxels = np.broadcast_to(first + np.arange(3, dtype=np.uint8), (44, 36, 3))
        nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.eye(4)), images / f"{name}.nii")
    Path("tiny/train.csv").write_text("id,rle_mask\n" + "".join(f"{v}_00{n},1 9\n" for v in "ab" for n in range(3)))
    found = slices_in_channels(load("", files='suffix = ".nii"'))
    assert found["a_001"] == [0, 1, 2]
    assert found["b_002"] == [51, 52, 52]


def test_a_dicom_series_is_sorted_by_its_headers(folder):
    images = Path("tiny/train/images")
    images.mkdir(parents=True)
    for name, (series, number) in {"q": ("1.2", 2), "c": ("1.2", 1), "m": ("1.3", 1), "a": ("1.2", 3)}.items():
        path = images / f"{name}.dcm"
        write_dicom(path, np.full(SIZE, number + 100 * (series == "1.3"), np.uint8), bits=8)
        header = pydicom.dcmread(path)
        header.SeriesInstanceUID, header.InstanceNumber = series, number
        header.save_as(path)
    Path("tiny/train.csv").write_text("id,rle_mask\n" + "".join(f"{name},1 9\n" for name in "qcma"))
    cfg = load("", files='suffix = ".dcm"')
    assert slices_in_channels(cfg) == {"a": [2, 3, 3], "c": [1, 1, 2], "m": [101, 101, 101], "q": [1, 2, 3]}
    _, index = reader_and_index(cfg)
    assert index.groupby("group")["image_id"].agg("".join).tolist() == ["acq", "m"]


@pytest.mark.parametrize("settings", ["neighbours = 1", "neighbours = 1\nsize = { exact = [18, 22] }"])
def test_slices_are_windows_of_the_whole_image(folder, settings):
    rng, images = np.random.default_rng(0), Path("tiny/train/images")
    write_slices({f"a_{n}": 0 for n in range(3)})
    for path in images.iterdir():
        Image.fromarray(rng.integers(0, 256, SIZE).astype(np.uint8)).save(path)
    reader, index = reader_and_index(load(settings=settings))
    sample = samples_of(index)[1]
    image, box = reader.read(sample), Box(3, 5, 11, 13)
    assert image.shape == (*reader.target(sample), 3)
    assert np.array_equal(reader.window(sample, box), image[box.slices])
    alone = [
        Reader(1, resize=reader.resize).read(each) for each in map(type(sample).from_file, sorted(images.iterdir()))
    ]
    assert np.array_equal(image, np.concatenate(alone, axis=2))


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("neighbours = [-1, 1]", "offsets [-1, 1]: expected ascending numbers with 0, the slice itself"),
        ("neighbours = [0, -1]", "offsets [0, -1]: expected ascending numbers"),
        ("neighbours = -1", "data.neighbours.offsets"),
        ('neighbours = { offsets = 1, border = "mirror" }', "expected 'repeat' or 'reflect'"),
    ],
)
def test_a_config_that_cannot_be_is_refused_in_one_line(folder, settings, message):
    with pytest.raises(ValueError, match=r".") as caught:
        load(settings=settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_number_of_channels_is_refused(folder):
    write_slices({"a_1": 1})
    load()
    cfg = config.load("configs/tiny.toml", ["model.in_channels=4"])
    with pytest.raises(
        ValueError, match=r"in_channels is 4, but the input has 3 slices × 1 channels: leave it out, or"
    ):
        reader_and_index(cfg)


def test_colours_of_slices_are_channels_if_the_config_has_room_for_them(folder):
    write_slices({"a_1": 1})
    colours = np.full((*SIZE, 3), (10, 20, 30), np.uint8)
    Image.fromarray(colours).save("tiny/train/images/a_1.png")
    load()
    cfg = config.load("configs/tiny.toml", ["model.in_channels=9"])
    assert slices_in_channels(cfg) == {"a_1": [10, 20, 30] * 3}
    assert slices_in_channels(load()) == {"a_1": [18] * 3}  # grey


def test_neighbours_on_a_card_without_series_are_one_line(folder, capsys):
    write_slices({"a_1": 1})
    write_slices({"b_1": 1}, part="test")
    load(card="")
    assert main(["data", "configs/tiny.toml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "data.neighbours: no series on the card tiny, and tiny/train/images/a_1.png is no NIfTI slice or DICOM" in said
    )
    assert "set volume_pattern = '(.+)_(\\d+)' (volume, slice number), files.slice_pattern or files.frame" in said


def test_an_id_that_the_pattern_does_not_match_is_refused(folder):
    write_slices({"a_1": 1, "nothing": 2})
    with pytest.raises(ValueError, match=r"volume_pattern '\(\.\+\)_\(\\d\+\)' does not match the id 'nothing'"):
        reader_and_index(load())


def test_two_slices_with_one_number_are_refused(folder):
    write_slices({"a_1": 1, "a_01": 2})
    with pytest.raises(ValueError, match=r"'a_01' and 'a_1' are both slice 1 of 'a': expected one slice per number"):
        reader_and_index(load())


def test_slices_of_different_sizes_are_refused_with_both(folder):
    write_slices({"a_1": 1, "a_2": 2})
    Image.fromarray(np.zeros((30, 44), np.uint8)).save("tiny/train/images/a_2.png")
    reader, index = reader_and_index(load())
    message = r"a_2\.png: 30 × 44 pixels, but .*a_1\.png of the same series has 36 × 44: expected one size"
    for read in (reader.read, lambda sample: reader.window(sample, Box(0, 0, 5, 5))):
        with pytest.raises(ImageError, match=message):
            read(samples_of(index)[0])


def test_a_neighbour_that_cannot_be_read_is_replaced_by_the_next_slice_only_if_bad_images_are_left_out(folder, caplog):
    write_slices({f"a_{n}": n for n in range(1, 6)})
    Path("tiny/train/images/a_4.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    cfg = config.load("configs/tiny.toml", ["data.skip_bad=true"]) if load(settings="neighbours = 2") else None
    reader, index = reader_and_index(cfg, skip_bad=True)
    samples = {sample.image_id: sample for sample in samples_of(index)}
    assert sorted(samples) == ["a_1", "a_2", "a_3", "a_5"]
    assert reader.read(samples["a_3"])[0, 0].tolist() == [1, 2, 3, 3, 5]
    assert reader.read(samples["a_5"])[0, 0].tolist() == [3, 5, 5, 5, 5]
    assert reader.window(samples["a_3"], Box(0, 0, 2, 2))[0, 0].tolist() == [1, 2, 3, 3, 5]
    assert "the next slice takes the place of a neighbour" in caplog.text
    strict = Reader.of(load(settings="neighbours = 2"), competition.load("tiny.toml"))
    with pytest.raises(ImageError, match=r"a_4\.png: cannot be read"):
        strict.read(samples["a_3"])


def test_a_slice_that_is_replaced_is_logged_once_and_its_errors_are_not_kept(folder, monkeypatch, caplog):
    write_slices({f"a_{n}": n for n in range(1, 4)})
    reader, index = reader_and_index(config.load("configs/tiny.toml", ["data.skip_bad=true"]) if load() else None)
    read_raster, raised = reader_module.read_raster, []

    def read(path, **options):
        if path.name != "a_2.png":
            return read_raster(path, **options)
        error = ImageError(f"{path}: read {len(raised) + 1}")
        raised.append(weakref.ref(error))
        raise error

    monkeypatch.setattr(reader_module, "read_raster", read)
    monkeypatch.setattr(reader_module, "RECENT", SliceCache())
    assert [reader.read(samples_of(index)[0])[0, 0].tolist() for _ in range(3)] == [[1, 1, 1]] * 3
    assert (
        caplog.messages.count("the next slice takes the place of a neighbour: tiny/train/images/a_2.png: read 1") == 1
    )
    assert len(raised) == 3
    assert "read 2" not in caplog.text
    gc.collect()
    assert not any(error() for error in raised)


def write_not_finite(path):
    pixels = np.full(SIZE, 2, np.float32)
    pixels[3, 4] = np.nan
    tifffile.imwrite(path, pixels, tile=(16, 16))


def write_damaged_tile(path):
    tifffile.imwrite(path, np.full(SIZE, 2, np.float32), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


def write_two_channels(path):
    tifffile.imwrite(path, np.full((2, *SIZE), 2, np.float32), tile=(16, 16), photometric="minisblack")


@pytest.mark.parametrize("write", [write_not_finite, write_damaged_tile, write_two_channels])
def test_a_neighbour_whose_pixels_cannot_be_read_is_replaced_by_window_too(folder, write):
    write_slices({f"a_{n}": n for n in range(1, 6)}, suffix=".tif")
    for path in Path("tiny/train/images").iterdir():
        tifffile.imwrite(path, np.full(SIZE, int(path.stem[-1]), np.float32), tile=(16, 16))
    strict, index = reader_and_index(load(settings="neighbours = 2\nwindow = [0, 255]", files='suffix = ".tif"'))
    write(Path("tiny/train/images/a_2.tif"))
    reader, samples = replace(strict, substitute=True), samples_of(index)
    box = Box(0, 0, 8, 8)
    for sample, expected in ((samples[0], [1, 1, 1, 1, 3]), (samples[3], [3, 3, 4, 5, 5])):
        assert reader.read(sample)[0, 0].tolist() == expected
        assert np.array_equal(reader.window(sample, box), reader.read(sample)[box.slices])
        with pytest.raises(ImageError, match=r"a_2\.tif"):
            strict.window(sample, box)
    with pytest.raises(ImageError, match=r"a_2\.tif"):  # the image itself is never replaced
        reader.window(samples[1], box)


# ---------------------------------------------------------------------------------------------- folds


def test_a_fold_never_parts_a_series(folder):
    write_slices({f"{volume}_{n}": n for volume in "abcdef" for n in range(3)})
    context = make_context(load())
    rows = context.index.merge(context.folds, on="image_id")
    assert (rows.groupby("series")["fold"].nunique() == 1).all()
    assert rows["fold"].nunique() == 3


def test_a_group_of_the_card_that_parts_a_series_is_joined(folder):
    ids = {f"{volume}_{n}": n for volume in "abcd" for n in range(2)}
    write_slices(ids)
    patients = {"a_0": "p", "a_1": "q", "b_0": "q", "b_1": "q", "c_0": "r", "c_1": "r", "d_0": "s", "d_1": "s"}
    Path("tiny/train.csv").write_text("id,rle_mask,patient\n" + "".join(f"{i},1 9,{patients[i]}\n" for i in ids))
    cfg = load()
    card = competition.load("tiny.toml")
    card = card.model_copy(update={"columns": card.columns.model_copy(update={"group": "patient"})})
    index = read_index(card, Path("tiny"), reader=Reader.of(cfg, card))
    assert index.groupby("group")["image_id"].agg(" ".join).tolist() == ["a_0 a_1 b_0 b_1", "c_0 c_1", "d_0 d_1"]


def test_folds_that_part_a_series_are_refused(folder):
    write_slices({f"{volume}_{n}": n for volume in "abc" for n in range(4)})
    make_context(load())
    path = Path("folds/tiny.csv")
    path.write_text("image_id,fold\n" + "".join(f"{v}_{n},{(n + (v == 'b')) % 3}\n" for v in "abc" for n in range(4)))
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"tiny\.csv: group 'a' is in 3 folds, so its images would leak"):
        make_context(load())


# ---------------------------------------------------------------------------------------------- reads


@pytest.fixture
def reads(monkeypatch):
    """The paths that were decoded, in order, with an empty cache."""
    decoded = []

    def read(path, **options):
        decoded.append(path)
        return read_raster(path, **options)

    read_raster = reader_module.read_raster
    monkeypatch.setattr(reader_module, "read_raster", read)
    monkeypatch.setattr(reader_module, "RECENT", SliceCache())
    return decoded


def test_a_prediction_reads_each_slice_about_once(folder, reads):
    # The ids are not in order as text: 10 comes before 2.
    write_slices({f"{volume}_{n}": n for volume in "abc" for n in range(1, 17)})
    cfg = make_context(load(settings="neighbours = 3")).cfg
    reader, index = reader_and_index(cfg)
    reads.clear()
    reader_module.RECENT = SliceCache(limit=10 * 36 * 44)  # of 48 slices, ten fit
    predictor = Predictor(build_model(cfg.model).eval(), ("identity",), "float32")
    options = {"reader": reader, "batch_size": 4, "workers": 0, "what": "predict"}
    assert len(list(predict_images(predictor, index.sample(frac=1, random_state=0), **options))) == 48
    assert len(reads) <= 1.3 * 48
    assert set(reads) == set(index["path"])


def test_training_reads_each_slice_once_and_keeps_it(folder, reads):
    write_slices({f"{volume}_{n}": n for volume in "ab" for n in range(1, 9)})
    reader, index = reader_and_index(load(settings="neighbours = 2"))
    images = MaskedImages(
        index, Labels.of(competition.load("tiny.toml")), reader, Augment(make_recipe("none", None, 1))
    )
    order = np.random.default_rng(0).permutation(16)
    first = [images[(int(position), 0)][0] for position in order]
    assert sorted(reads) == sorted(index["path"])
    reader_module.RECENT = SliceCache(limit=1)
    assert all(map(torch.equal, first, (images[(int(position), 0)][0] for position in order)))
    assert len(reads) == 16, "the second epoch reads no file"


def test_a_cache_that_is_too_small_only_costs_time(folder, reads):
    write_slices({f"a_{n}": n for n in range(1, 5)})
    reader, index = reader_and_index(load())
    expected = [reader.read(sample) for sample in samples_of(index)]
    reader_module.RECENT = SliceCache(limit=1)
    reads.clear()
    assert all(map(np.array_equal, expected, (reader.read(sample) for sample in samples_of(index))))
    assert len(reads) == 3 * 4


def test_a_file_that_changed_is_read_again(folder, reads):
    write_slices({"a_1": 1, "a_2": 2})
    reader, index = reader_and_index(load())
    sample = samples_of(index)[0]
    assert reader.read(sample)[0, 0].tolist() == [1, 1, 2]
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(sample.sources[2])
    assert reader.read(sample)[0, 0].tolist() == [1, 1, 7]


# ---------------------------------------------------------------------------------------------- to the CSV


@pytest.fixture
def volumes(folder):
    """A competition of volumes that is trained on in seconds: discs, shifted from slice to slice."""
    rng = np.random.default_rng(0)
    for part, names in (("train", "abcd"), ("test", "xy")):
        images = Path("tiny") / part / "images"
        images.mkdir(parents=True)
        rows = []
        for volume in names:
            image, mask = draw(rng, *SIZE, empty=False)
            for number in range(1, 12, 2):  # numbers in steps of 2, and 11 sorts before 3
                image_id = f"{volume}_{number}"
                Image.fromarray(np.roll(image, number, axis=1)).save(images / f"{image_id}.png")
                rows.append(f"{image_id},{rle.encode(np.roll(mask, number, axis=1))}")
        name = "train" if part == "train" else "solution"
        (Path("tiny") / f"{name}.csv").write_text("id,rle_mask\n" + "\n".join(rows) + "\n")
    sample = "".join(f"{row.partition(',')[0]},1 1\n" for row in rows)
    Path("tiny/sample_submission.csv").write_text(f"id,rle_mask\n{sample}")
    return folder


FAST = ["folds.count=2", "train.phases.0.epochs=1", "train.phases.1.epochs=1", "train.phases.0.repeats=3"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["predict.views=['identity','flip_horizontal']"],
        ["predict.tiles={size=32,stride=24}", "data.crops={size=32,stride=24}", "train.phases.0.crop=32"],
        ["data.size={exact=[32,40]}", "data.neighbours={offsets=[-1,0,2],border='reflect'}"],
    ],
    ids=["views", "tiles and crops", "another size"],
)
def test_the_bundle_and_batch_prediction_write_the_masks_of_the_ensemble(volumes, options):
    load(settings="neighbours = 1")
    more = ["train.phases.1.crop=32"] if "crops" in options[-2:][0] or len(options) == 3 else []
    cfg = config.load("configs/tiny.toml", [*FAST, *options, *more, "ensemble.shares=['image']"])
    done = stages.ensemble([cfg])
    bundle = write_weights(Path("bundle"), load_members([cfg]), done)
    assert [each.model.in_channels for each in bundle.cfgs] == [3]
    result = predict_test(bundle, Path("tiny"), Path("bundled.csv"), workers=1)
    assert not result.problems
    assert Path("bundled.csv").read_text() == done.csv.read_text()
    submitted = pd.read_csv(done.csv, dtype=str, keep_default_na=False)
    for rows in (4, 1):  # a partition of 4 ends within a volume: its last slices have neighbours in the next one
        stages.batch_predict(Path("bundle"), "tiny/test/images/*.png", f"parts{rows}", rows=rows)
        masks = pd.read_parquet(f"parts{rows}").set_index("image_id")["rle"].to_dict()
        assert masks == dict(zip(submitted["id"], submitted["rle_mask"], strict=True))
    assert submitted["rle_mask"].nunique() > 2, "else equal masks would mean nothing"


@pytest.mark.parametrize("rows", [12, 5, 1])
def test_neighbours_are_those_of_the_whole_series_in_partitions_of_any_size(rows):
    ids = [*(f"a_{n}" for n in range(1, 13)), "b_1", "b_01", "b_2", "nothing"]
    inputs = make_inputs([f"file:///images/{each}.png" for each in ids], ids)
    series = Series("card", (-4, -2, 0, 2, 4), volume_pattern="(.+)_(\\d+)")
    neighbours_of_part, found, problems = find_neighbours(inputs, [series]), {}, {}
    for first in range(0, len(ids), rows):
        part = inputs[first : first + rows]
        neighbours = neighbours_of_part(part)
        outside = neighbours.outside["image_id"].tolist()
        assert not set(outside) & set(part["image_id"])
        samples = {each: Sample(each, (Path(f"{each}.png"),)) for each in [*part["image_id"], *outside]}
        find = pickle.loads(pickle.dumps(neighbours.finders([series], samples)))[series]
        for image_id in part["image_id"]:
            try:
                sample = find(samples[image_id])
            except ValueError as error:
                problems[image_id] = str(error)
            else:
                assert sample.path == Path(f"{image_id}.png")
                found[image_id] = " ".join(path.stem.partition("_")[2] for path in sample.sources)
    assert found["a_5"] == "1 3 5 7 9"
    assert found["a_1"] == "1 1 1 3 5"
    assert found["a_12"] == "8 10 12 12 12"
    assert found["b_2"] == "1 1 2 2 2"
    assert len(found) == 13
    assert sorted(problems) == ["b_01", "b_1", "nothing"]
    assert "both slice 1 of 'b'" in problems["b_1"]


def test_remote_images_whose_series_is_in_the_file_are_refused():
    inputs = make_inputs(["s3://scans/1.dcm"], ["1"])
    with pytest.raises(ValueError, match=r"s3://scans/1\.dcm: no local file, but its series .* set volume_pattern on"):
        find_neighbours(inputs, [Series("card", (-1, 0, 1))])
    find_neighbours(inputs, [Series("card", (-1, 0, 1), volume_pattern="(.*)(.)")])


@pytest.mark.slow
def test_a_bundle_of_models_with_and_without_neighbours_writes_the_csv_of_the_ensemble(volumes):
    load(settings="neighbours = 1")
    alone = Path("configs/tiny.toml").read_text().replace("neighbours = 1", "")
    Path("configs/alone.toml").write_text(
        f"seed = 1\n{alone.replace('[model]', '[model]' + chr(10) + 'in_channels = 1')}"
    )
    cfgs = [config.load(f"configs/{name}.toml", FAST) for name in ("tiny", "alone")]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    assert sorted(each.model.in_channels for each in bundle.cfgs) == [1, 3]
    rows = pd.read_csv("tiny/sample_submission.csv", dtype=str).sample(frac=1, random_state=0)
    rows.to_csv("tiny/sample_submission.csv", index=False, lineterminator="\n")
    predict_test(bundle, Path("tiny"), Path("bundled.csv"))
    submitted, bundled = (pd.read_csv(path, dtype=str).set_index("id") for path in (done.csv, "bundled.csv"))
    assert bundled.index.tolist() == rows["id"].tolist()
    assert bundled.loc[submitted.index].equals(submitted)
    assert submitted["rle_mask"].nunique() > 2


@pytest.mark.slow
@pytest.mark.parametrize(("own", "source"), [(1, 0), (0, 1)])
def test_labels_of_models_with_other_neighbours_are_trained_on(volumes, monkeypatch, own, source):
    monkeypatch.setattr(pseudo_labels, "calibrate", lambda *_: 0.0)  # every test image gets a label
    load(settings=f"neighbours = {source}")
    text = Path("configs/tiny.toml").read_text().replace("count = 3", "count = 2").replace("epochs = 2", "epochs = 1")
    Path("configs/tiny.toml").write_text(text)
    text = text.replace(f"neighbours = {source}", f"neighbours = {own}")
    Path("configs/pseudo.toml").write_text(f"{text}\n[train.pseudo]\nfrom = 'tiny'\nfloor = 0.0\n")
    assert stages.train(config.load("configs/pseudo.toml"), 0).weights.exists()
    assert len(pd.read_csv("runs/pseudo/pseudo/fold0/labels.csv")) == 12


@pytest.mark.slow
def test_a_broken_slice_of_a_hidden_test_set_costs_its_own_mask_only(volumes):
    cfg = config.load("configs/tiny.toml", FAST) if load(settings="neighbours = 1") else None
    done = stages.ensemble([cfg])
    bundle = write_weights(Path("bundle"), load_members([cfg]), done)
    shutil.copytree("tiny", "hidden")
    Path("hidden/test/images/x_5.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    result = predict_test(bundle, Path("hidden"), Path("hidden.csv"))
    assert list(result.problems) == ["x_5"]
    tables = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (done.csv, "hidden.csv"))
    known, hidden = (table.set_index("id")["rle_mask"] for table in tables)
    assert hidden["x_5"] == "1 1"
    others = [image_id for image_id in known.index if image_id not in ("x_3", "x_5", "x_7")]
    assert (known[others] == hidden[others]).all()
    assert known[others].nunique() > 2


@pytest.mark.slow
def test_a_run_with_other_neighbours_is_refused(volumes):
    load(settings="neighbours = 1")
    stages.train(config.load("configs/tiny.toml", FAST), 0)
    with pytest.raises(ValueError, match=r"was trained with data\.neighbours\.offsets = 1, now it is 2"):
        stages.train(config.load("configs/tiny.toml", [*FAST, "data.neighbours=2"]), 0)
