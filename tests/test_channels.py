"""Channels from several files, and derived ones: which value of which file gets into which channel."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import competition, config, stages
from pipeline.cli import main
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.channels import with_input_channels
from pipeline.data.derived import DERIVED
from pipeline.data.file_index import find_channels
from pipeline.data.index import read_index
from pipeline.data.integrity import survey_train
from pipeline.data.reader import ImageError, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.windows import Box
from pipeline.schema import parse
from tests.conftest import CARD, CONFIG

BANDS = '[files]\nchannels = ["{id}/red.png", "{id}/nir.npy", "{id}/coarse.npy"]'

RED = np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8)
NIR = np.array([[100, 200, 300, 400], [500, 600, 700, 800]], np.uint16)
COARSE = np.array([[-1.0, 3.0]], np.float32)


def load(card: str = BANDS, settings: str = "") -> tuple[Config, Competition]:
    """A config and a card of the files in the current folder."""
    Path("tiny.toml").write_text(CARD.replace("[files]", card))
    Path("configs").mkdir(exist_ok=True)
    Path("configs/tiny.toml").write_text(
        CONFIG.replace("in_channels = 1\n", "").replace("[data]", f"[data]\n{settings}")
    )
    return config.load("configs/tiny.toml"), competition.load("tiny.toml")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    return tmp_path


@pytest.fixture
def scene(folder):
    """The files of one image of three channels, of another dtype each, the last one at half the size."""
    (folder / "x").mkdir()
    Image.fromarray(RED).save("x/red.png")
    np.save("x/nir.npy", NIR)
    np.save("x/coarse.npy", COARSE)
    return Sample("x", tuple(map(Path, ("x/red.png", "x/nir.npy", "x/coarse.npy"))))


EACH = """channels = [
    { name = "nir", window = [0, 1000] },
    "red",
    { name = "coarse", window = [-1, 3] },
    { name = "nir", percentiles = [0, 100] },
]"""


def test_each_channel_has_the_values_of_its_file_in_its_own_window(scene):
    image = Reader.of(*load(settings=EACH)).read(scene)
    assert image.dtype == np.float32
    assert image.shape == (2, 4, 4)
    assert image[..., 0] == pytest.approx(NIR * 0.255)
    assert np.array_equal(image[..., 1], RED)
    assert np.array_equal(image[..., 2], [[0, 0, 255, 255], [0, 0, 255, 255]])  # each pixel of the coarse file is 2 × 2
    assert image[..., 3] == pytest.approx((NIR - 100.0) * 255 / 700)


def test_without_a_selection_the_channels_are_the_files_of_the_card_in_its_order(scene):
    cfg, card = load(BANDS.replace(', "{id}/coarse.npy"', ""))
    image = Reader.of(cfg, card).read(Sample("x", scene.sources[:2]))
    assert np.array_equal(image[..., 0], RED)
    assert image[..., 1] == pytest.approx(NIR * (255 / 65535))
    assert with_input_channels(cfg, card).model.in_channels == 2


def test_channels_of_8_bits_stay_8_bits(folder):
    for name in "ab":
        Image.fromarray(RED + (name == "b")).save(f"{name}.png")
    image = Reader.of(*load('[files]\nchannels = ["{id}a.png", "{id}b.png"]')).read(
        Sample("", (Path("a.png"), Path("b.png")))
    )
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.stack([RED, RED + 1], axis=-1))


@pytest.mark.parametrize("box", [(0, 0, 2, 4), (0, 1, 1, 2), (1, 1, 1, 3), (1, 3, 1, 1), (0, 2, 2, 1)])
def test_a_window_equals_that_of_the_whole_image(scene, box):
    settings = EACH.replace(
        '{ name = "nir", percentiles = [0, 100] }', '{ name = "ratio(nir, coarse)", window = [-9, 9] }'
    )
    reader = Reader.of(*load(settings=settings))
    assert np.array_equal(reader.window(scene, Box(*box)), reader.read(scene)[Box(*box).slices])


def test_the_size_is_that_of_the_largest_file(scene):
    reader = Reader.of(*load(settings=EACH))
    assert reader.size(scene) == reader.check(scene) == (2, 4)


@pytest.mark.parametrize("size", [(1, 3), (2, 3), (2, 2), (1, 4)])
def test_sizes_that_no_whole_factor_explains_are_refused_with_both(scene, size):
    np.save("x/coarse.npy", np.zeros(size, np.float32))
    reader = Reader.of(*load(settings='channels = ["coarse", "red"]'))
    message = (
        rf"coarse\.npy: {size[0]} × {size[1]} pixels, but red\.png has 2 × 4: expected the same size, or a whole part"
    )
    for read in (reader.read, reader.size, reader.check, lambda sample: reader.window(sample, Box(0, 0, 1, 1))):
        with pytest.raises(ImageError, match=message):
            read(scene)


def test_a_file_with_several_channels_is_refused(scene):
    np.save("x/nir.npy", np.zeros((2, 4, 8), np.uint8))
    with pytest.raises(ImageError, match=r"nir\.npy: 8 channels, expected 1 in each of the files .* set files\.frame"):
        Reader.of(*load(settings=EACH)).read(scene)


# ---------------------------------------------------------------------------------------------- derived


@pytest.mark.parametrize(
    ("name", "window", "expected"),
    [
        ("ratio(nir, red)", "window = [0, 20]", 500 / 40 * 255 / 20),
        ("ratio(red, nir)", "window = [0, 1]", 40 / 500 * 255),
        ("difference(nir, red)", "window = [0, 510]", 460 / 2),
        ("difference(red, nir)", "window = [-500, 0]", 40 * 255 / 500),
        ("normalized_difference(nir, red)", "", (460 / 540 + 1) / 2 * 255),
        ("normalized_difference(1, 0)", "", (460 / 540 + 1) / 2 * 255),
        (" ratio( nir , 0 ) ", "percentiles = [0, 100]", 255.0),
    ],
)
def test_a_derived_channel_is_computed_from_raw_values_by_hand(scene, name, window, expected):
    # At row 1, column 0: red is 40, near infrared 500. data.window scales neither of them before.
    channel = f'{{ name = "{name}", {window} }}' if window else f'"{name}"'
    np.save("x/nir.npy", np.maximum(NIR, 1))
    Image.fromarray(np.maximum(RED, 40)).save("x/red.png")
    image = Reader.of(*load(settings=f"window = [7, 9]\nchannels = [{channel}]")).read(scene)
    assert image.shape == (2, 4, 1)
    assert image[1, 0, 0] == pytest.approx(expected, abs=1e-4)


def test_ash_colour_by_hand(folder):
    # red: 271 - 272 = -1 of -4 … 2; green: 273 - 270 = 3 of -4 … 5; blue: 273 of 243 … 303.
    for band, kelvin in {"11": 270.0, "13": 272.0, "14": 273.0, "15": 271.0}.items():
        np.save(f"band_{band}.npy", np.full((1, 1), kelvin, np.float32))
    card = '[files]\nchannel_path = "{id}band_{channel}.npy"\nchannels = ["11", "13", "14", "15"]'
    cfg, card = load(card, 'channels = ["ash_color(11, 13, 14, 15)", { name = "11", window = [0, 540] }]')
    files = tuple(Path(f"band_{band}.npy") for band in (11, 13, 14, 15))
    assert Reader.of(cfg, card).read(Sample("", files))[0, 0] == pytest.approx([127.5, 7 / 9 * 255, 127.5, 127.5])
    assert with_input_channels(cfg, card).model.in_channels == 4


def test_channels_of_one_file_are_selected_and_derived_by_number(folder):
    np.save("x.npy", np.array([[[1, 2, 3, 9]]], np.uint8))
    cfg, card = load("[files]", 'channels = ["3", "0", { name = "ratio(3, 2)", window = [0, 51] }]')
    assert Reader.of(cfg, card).read(Sample.from_file(Path("x.npy"))).tolist() == [[[9, 1, 15]]]
    assert with_input_channels(cfg, card).model.in_channels == 3
    np.save("x.npy", np.zeros((1, 1, 3), np.uint8))
    with pytest.raises(ImageError, match=r"3 channels, but data\.channels has '3': expected numbers from 0 to 2"):
        Reader.of(cfg, card).read(Sample.from_file(Path("x.npy")))


def test_a_division_by_zero_is_refused_or_filled(scene):
    settings = 'channels = [{ name = "ratio(nir, red)", window = [0, 100] }]'
    with pytest.raises(
        ImageError, match=r"red\.png: ratio\(nir, red\): 1 of 8 pixels are not finite \(inf\), the first"
    ):
        Reader.of(*load(settings=settings)).read(scene)
    filled = Reader.of(*load(settings=f'nodata = "zero"\n{settings}')).read(scene)
    assert filled[0, 0, 0] == 0
    assert filled[0, 1, 0] == pytest.approx(20 * 2.55)


def test_every_derived_channel_names_its_arguments_and_ranges():
    for derived in DERIVED.values():
        results = derived.compute(*(np.full((2, 3), 300 + n, np.float32) for n in range(len(derived.arguments))))
        assert len(results) == len(derived.ranges)
        assert all(result.shape == (2, 3) and result.dtype == np.float32 for result in results)


# ---------------------------------------------------------------------------------------------- cards and configs


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('channels = ["blue"]', "data.channels.0: no channel 'blue' on the card. Known: red, nir, coarse, or a number"),
        ('channels = ["red", "3"]', "data.channels.1: no channel '3' on the card."),
        ('channels = ["ratioo(red, nir)"]', "data.channels.0: unknown function 'ratioo'. Did you mean 'ratio'?"),
        ('channels = ["ratio(red)"]', "data.channels.0: 'ratio(red)' has 1 arguments: expected ratio(a, b)"),
        (
            'channels = ["ratio(red, nir)"]',
            "the values of 'ratio(red, nir)' depend on the units: set which become 0 and",
        ),
        (
            'channels = [{ name = "ash_color(0, 1, 2, 0)", window = [0, 1] }]',
            "ash_color gives 3 channels with ranges of their own: no window",
        ),
        ("channels = []", "channels = [] leaves no channel"),
        ('channels = [{ name = "red", window = [2, 1] }]', "window [2.0, 1.0]: expected two increasing values"),
        ('channels = [{ naem = "red" }]', "unknown key 'naem' in [data.channels.0]. Did you mean 'name'?"),
    ],
)
def test_a_channel_that_cannot_be_is_refused_in_one_line(folder, capsys, settings, message):
    with pytest.raises(ValueError, match=r".") as caught:
        Reader.of(*load(settings=settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_the_channels_of_one_file_are_colours(folder):
    assert Reader.of(*load("[files]")).has_colours
    assert not Reader.of(*load()).has_colours
    assert not Reader.of(*load("[files]", 'channels = ["0", "1", "2"]')).has_colours
    assert not Reader.of(*load("[files]", "neighbours = 1")).has_colours


def test_another_number_of_channels_is_refused_before_any_file_is_read(folder, capsys):
    load(settings='channels = ["red", "nir"]')
    assert main(["data", "configs/tiny.toml", "--set", "model.in_channels=3"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "model.in_channels is 3, but the input has 2 channels: leave it out, or set 2" in said


def test_an_id_may_be_in_the_folder_and_in_the_name_of_a_channel_and_is_the_same_there(tmp_path):
    for path in ("a1/a1_t1.png", "a1/a1_t2.png", "b2/a1_t1.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    found = find_channels(tmp_path, ["{id}/{id}_t1.png", "{id}/{id}_t2.png"])
    assert found == {"a1": (tmp_path / "a1/a1_t1.png", tmp_path / "a1/a1_t2.png")}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ('channels = ["red.png"]', "channels: 'red.png': expected {id}"),
        ('channels = ["{id}/red.png", "{id}_red.tif"]', "channels: 'red' is repeated"),
        ('channels = ["a"]\nchannel_path = "{id}.npy"', "channel_path = '{id}/band_{channel}.npy' needs {channel}"),
        ("channels = [\"{id}.png\"]\npattern = '(.+)'", "channels name the files of each id: leave out pattern"),
        ("frame = 4\nslice_pattern = '(.+)'", "set slice_pattern (slices are files) or frame (they are pages"),
    ],
)
def test_a_card_with_files_that_contradict_each_other_is_refused(folder, files, message):
    with pytest.raises(ValueError, match=r".") as caught:
        load(f"[files]\n{files}")
    assert message in str(caught.value)


def test_channels_are_named_after_their_files():
    files = {"train_images": "a", "test_images": "b", "channels": ["{id}/band_08.npy", "{id}_red.tif", "B04/{id}.tif"]}
    assert parse(competition.Files, files, "card").channel_names == ("band_08", "red", "B04")


# ---------------------------------------------------------------------------------------------- the index


@pytest.mark.slow
def test_a_run_on_other_files_of_the_card_is_refused(scenes):
    fast = ["folds.count=2", "train.phases.0.epochs=1", "train.phases.1.epochs=1"]
    stages.train(config.load("configs/tiny.toml", fast), 0)
    text = Path("tiny.toml").read_text()
    Path("tiny.toml").write_text(text.replace('["{id}_a.png", "{id}_b.png"]', '["{id}_b.png", "{id}_a.png"]'))
    with pytest.raises(ValueError, match=r"was trained with channels\.0 = \{id\}_a\.png, now it is \{id\}_b\.png"):
        stages.train(config.load("configs/tiny.toml", fast), 0)


@pytest.fixture
def scenes(tiny):
    """The tiny competition with two files for each image: the image, and its negative at half the size."""
    for part in ("train", "test"):
        for path in (tiny / "tiny" / part / "images").iterdir():
            image = np.asarray(Image.open(path))
            path.rename(path.with_name(f"{path.stem}_a.png"))
            Image.fromarray(255 - image[::2, ::2]).save(path.with_name(f"{path.stem}_b.png"))
    return load('[files]\nchannels = ["{id}_a.png", "{id}_b.png"]')


def test_the_index_has_the_files_of_each_channel(scenes):
    cfg, card = scenes
    reader = Reader.of(cfg, card)
    index = read_index(card, Path("tiny"), reader=reader)
    for sample in samples_of(index):
        image = reader.read(sample)
        assert sample.size == image.shape[:2] == (36, 44)
        assert np.array_equal(image[::2, ::2, 0], 255 - image[1::2, 1::2, 1])


def test_a_missing_channel_is_one_line_with_id_channel_and_pattern(scenes, capsys):
    Path("tiny/train/images/0919_b.png").unlink()
    assert main(["data", "configs/tiny.toml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "0919_b.png: no such file, of channel 'b' (files.channels: {id}_b.png): get the file again, or leave" in said


def test_the_doctor_lists_all_missing_channels(scenes):
    cfg, card = scenes
    for image_id in ("0919", "0757"):
        Path(f"tiny/train/images/{image_id}_b.png").unlink()
    index, errors = survey_train(card, Path("tiny"), reader=Reader.of(cfg, card))
    assert len(index) == 16
    assert [error.partition(":")[0] for error in errors] == [f"tiny/train/images/{i}_b.png" for i in ("0919", "0757")]


@pytest.mark.parametrize("channel", "ab")
def test_an_image_without_a_channel_can_be_left_out(scenes, caplog, channel):
    cfg, card = scenes
    Path(f"tiny/train/images/0919_{channel}.png").unlink()
    index = read_index(card, Path("tiny"), skip_bad=True, reader=Reader.of(cfg, card))
    assert len(index) == 17
    assert "0919" not in set(index["image_id"])
    assert f"no such file, of channel '{channel}'" in caplog.text


def test_the_files_of_all_channels_are_found_in_one_walk(folder, monkeypatch):
    for name in ("7/red.png", "7/nir.PNG", "8/red.png", "8/other.png", "9/other.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    walks, walk = [], os.walk
    monkeypatch.setattr(os, "walk", lambda *args, **options: walks.append(args) or walk(*args, **options))
    found = find_channels(Path(), ["{id}/red.png", "{id}/nir.png", "{id}/blue.png"])
    assert found == {
        "7": (Path("7/red.png"), Path("7/nir.PNG"), Path("7/blue.png")),
        "8": (Path("8/red.png"), Path("8/nir.png"), Path("8/blue.png")),
    }
    assert len(walks) == 1
