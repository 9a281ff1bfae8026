"""Test-time augmentation and the prediction store."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import Tiles
from pipeline.data.index import read_index
from pipeline.data.reader import Reader
from pipeline.data.resize import resize_image
from pipeline.inference import prediction_store
from pipeline.inference.prediction_store import PredictionStore, StoreWriter, is_complete, probs_to_uint8, start_store
from pipeline.inference.predictor import Predictor, predict_images, predict_to_store
from pipeline.inference.resampling import resize_probs
from pipeline.inference.tta import average_views, check_views
from pipeline.symmetries import SYMMETRIES

UNIQUE = torch.arange(24.0).reshape(1, 1, 4, 6)


def test_tta_of_a_pointwise_model_equals_the_model():
    assert torch.allclose(average_views(torch.sin, UNIQUE, tuple(SYMMETRIES)), torch.sin(UNIQUE))


def test_tta_inverts_each_view_before_averaging():
    # A model that marks the top left corner of its input: the views mark all four corners.
    def corner(images):
        marked = torch.zeros_like(images)
        marked[..., 0, 0] = 1
        return marked

    average = average_views(corner, UNIQUE, tuple(SYMMETRIES))[0, 0]
    assert average[0, 0] == average[0, -1] == average[-1, 0] == average[-1, -1] == 0.25
    assert average.sum() == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [(("flip",), "unknown view 'flip'"), ((), "one or more"), (("identity", "identity"), "different views")],
)
def test_invalid_views_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_views(names)


@given(st.floats(0, 1))
def test_stored_probabilities_are_rounded_to_the_nearest_level(prob):
    assert abs(int(probs_to_uint8(torch.tensor(prob))) / 255 - prob) <= 1 / 510 + 1e-7


def make_store(folder, ids, shape=(1, 5, 7)):
    start_store(folder, {"views": ["identity"]})
    writer = StoreWriter(folder)
    values = {image_id: np.full(shape, number % 256, np.uint8) for number, image_id in enumerate(ids)}
    for image_id, value in values.items():
        writer.write(image_id, value)
    writer.flush()
    return values


def test_store_round_trip_keeps_ids_as_text(tmp_path):
    values = make_store(tmp_path / "store", ["001", "1", "a.b/c", "ü"])
    store = PredictionStore(tmp_path / "store")
    assert store.ids() == set(values)
    assert all(np.array_equal(store.read(key), value) for key, value in values.items())


def test_store_is_written_in_shards_and_resumes(tmp_path):
    folder = tmp_path / "store"
    make_store(folder, [f"{number:04}" for number in range(300)])
    assert len(list(folder.glob("*.safetensors"))) == 2
    writer = StoreWriter(folder)
    assert len(writer.done) == 300
    writer.write("late", np.zeros((1, 2, 2), np.uint8))
    writer.flush()
    assert len(PredictionStore(folder)) == 301


def test_removing_a_damaged_shard_repeats_only_its_images(tmp_path):
    folder = tmp_path / "store"
    make_store(folder, [f"{number:04}" for number in range(600)])  # three shards
    (folder / "000-00000.safetensors").unlink()
    writer = StoreWriter(folder)
    lost = [f"{number:04}" for number in range(600) if f"{number:04}" not in writer.done]
    for image_id in lost:
        writer.write(image_id, np.zeros((1, 5, 7), np.uint8))
    writer.flush()
    assert len(lost) == 256
    assert len(PredictionStore(folder)) == 600


def test_a_shard_written_by_another_command_is_not_replaced(tmp_path, monkeypatch):
    make_store(tmp_path / "store", ["a"])
    other, save = tmp_path / "store" / "000-00001.safetensors", prediction_store.save_file

    def save_beside_another_command(tensors, path, metadata):
        save(tensors, path, metadata)
        other.write_bytes(b"of the other command")

    monkeypatch.setattr(prediction_store, "save_file", save_beside_another_command)
    writer = StoreWriter(tmp_path / "store")
    writer.write("b", np.zeros((1, 5, 7), np.uint8))
    with pytest.raises(FileExistsError, match="written by another command at the same time"):
        writer.flush()
    assert other.read_bytes() == b"of the other command"


@pytest.mark.parametrize("ids", [["a"], ["b"]], ids=["the same images", "others"])
def test_a_store_restarted_by_another_command_is_not_mixed_with_the_old_one(tmp_path, ids):
    make_store(tmp_path / "store", ["a"])
    store = PredictionStore(tmp_path / "store")
    start_store(tmp_path / "store", {"views": ["transpose"]})
    writer = StoreWriter(tmp_path / "store")
    for image_id in ids:
        writer.write(image_id, np.zeros((1, 5, 7), np.uint8))
    writer.flush()
    with pytest.raises(
        ValueError, match=r"store: replaced by predictions with other settings while it was read: run one"
    ):
        store.read("a")


def test_a_missing_image_is_reported_with_the_folder(tmp_path):
    make_store(tmp_path / "store", ["a"])
    with pytest.raises(ValueError, match=r"store: no prediction of image 'b': run one command at a time"):
        PredictionStore(tmp_path / "store").read("b")


def test_a_store_of_other_settings_is_deleted(tmp_path):
    folder = tmp_path / "store"
    make_store(folder, ["a"])
    assert is_complete(folder, ["a"], {"views": ["identity"]})
    assert not is_complete(folder, ["a", "b"], {"views": ["identity"]})
    assert not is_complete(folder, ["a"], {"views": ["transpose"]})
    start_store(folder, {"views": ["transpose"]})
    assert len(PredictionStore(folder)) == 0


def test_an_id_in_two_stores_is_refused(tmp_path):
    make_store(tmp_path / "one", ["a", "b"])
    make_store(tmp_path / "two", ["b", "c"])
    with pytest.raises(ValueError, match=r"two.*image 'b' is also in .*one"):
        PredictionStore(tmp_path / "one", tmp_path / "two")


def test_reading_keeps_one_shard_mapped(tmp_path):
    folder = tmp_path / "store"
    ids = [f"{number:04}" for number in range(600)]
    make_store(folder, ids, shape=(1, 40, 40))
    store = PredictionStore(folder)
    for image_id in ids:
        store.read(image_id)
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(str(folder)) <= 2  # one file may be mapped in two pieces


class Brightness(torch.nn.Module):
    """Logits that increase with the pixel value."""

    def forward(self, images):
        return (images.float() - 128) / 16


def test_prediction_adds_missing_images_and_is_split_over_processes(tiny, card):
    index = read_index(card, tiny / "tiny")
    options = {"reader": Reader(1), "batch_size": 4, "workers": 0, "what": "test"}
    predictor = Predictor(Brightness(), ("identity", "transpose"), "float32")
    start_store(tiny / "store", {})
    predict_to_store(predictor, index, tiny / "store", rank=0, world=2, **options)
    assert len(PredictionStore(tiny / "store")) == 9
    predict_to_store(predictor, index, tiny / "store", rank=1, world=2, **options)
    before = sorted(path.name for path in (tiny / "store").iterdir())
    predict_to_store(predictor, index, tiny / "store", **options)
    assert PredictionStore(tiny / "store").ids() == set(index["image_id"])
    assert sorted(path.name for path in (tiny / "store").iterdir()) == before


@pytest.mark.parametrize("tiles", [None, Tiles(size=16, stride=16)], ids=["whole", "tiles"])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_test_set_gives_an_empty_store(tiny, card, tiles, workers):
    nothing = read_index(card, tiny / "tiny").iloc[:0]
    start_store(tiny / "store", {})
    predictor = Predictor(Brightness(), ("identity",), "float32", tiles=tiles)
    options = {"reader": Reader(1), "batch_size": 4, "workers": workers, "what": "test"}
    predict_to_store(predictor, nothing, tiny / "store", **options)
    assert is_complete(tiny / "store", [], {})


class Overflowing(torch.nn.Module):
    """A model whose scores are too large for float16."""

    def forward(self, images):
        dtype = torch.float16 if torch.is_autocast_enabled("cpu") else torch.float32
        large = (images.float() * 1000).to(dtype)
        return large - large.max() + 1  # infinity minus infinity is NaN


def test_on_float16_overflow_prediction_continues_in_float32(caplog):
    predictor = Predictor(Overflowing(), ("identity",), "float16")
    images = torch.full((1, 1, 4, 4), 200, dtype=torch.uint8)
    probs = predictor(images)
    assert torch.allclose(probs, torch.sigmoid(torch.ones(())))
    assert torch.equal(predictor(images), probs)
    assert sum("float16 overflows" in line for line in caplog.messages) == 1


class NotFinite(torch.nn.Module):
    """A model that gives NaN at pixels of 7 in every precision."""

    def forward(self, images):
        return torch.where(images == 7, torch.nan, images.float())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tiles", [None, Tiles(size=16, stride=16)], ids=["whole", "tiles"])
@pytest.mark.parametrize("size", [None, (9, 11)], ids=["own size", "resized"])
def test_non_finite_probabilities_are_refused(tiny, card, precision, tiles, size):
    index = read_index(card, tiny / "tiny").iloc[:4]
    odd = index.iloc[2]
    Image.fromarray(np.full((36, 44), 7, np.uint8)).save(odd["path"])
    predictor = Predictor(NotFinite(), ("identity", "transpose"), precision, tiles=tiles)
    options = {"reader": Reader(1), "batch_size": 4, "workers": 0, "what": "test", "size": size}
    with pytest.raises(
        FloatingPointError, match=rf"image '{odd['image_id']}': \d+ of \d+ probabilities are not finite"
    ):
        list(predict_images(predictor, index, **options))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_non_finite_probabilities_are_not_stored(number):
    with pytest.raises(FloatingPointError, match="1 of 2 probabilities are not finite"):
        probs_to_uint8(torch.tensor([0.5, number]))


class Ramp(torch.nn.Module):
    """A model whose logits depend on the column."""

    def forward(self, images):
        return images * torch.linspace(-1, 1, images.shape[-1])


def test_given_views_replace_those_of_the_predictor():
    one = Predictor(Ramp(), ("identity",), "float32")
    both = Predictor(Ramp(), ("identity", "flip_horizontal"), "float32")
    images = torch.arange(16, dtype=torch.float32).reshape(1, 1, 4, 4) / 8
    assert torch.equal(one(images, both.views), both(images))
    assert not torch.equal(one(images), both(images))


@pytest.mark.parametrize("height", [4, 8, 12])
def test_a_shrinking_axis_is_averaged_for_any_size_of_the_other(height):
    probs = torch.zeros(1, 1, 8, 8)
    probs[..., ::4] = 1  # every fourth column
    quarter = torch.full((1, 1, height, 2), 0.25)
    torch.testing.assert_close(resize_probs(probs, (height, 2)), quarter)
    torch.testing.assert_close(resize_probs(probs.transpose(2, 3), (2, height)), quarter.transpose(2, 3))


@pytest.mark.parametrize("size", [(101, 90), (125, 128), (40, 130), (200, 60)])
def test_probabilities_are_resized_as_images_and_edges_stay_in_place(size):
    probs = torch.rand(2, 3, 128, 100, generator=torch.Generator().manual_seed(0))
    images = [resize_image(np.ascontiguousarray(each.permute(1, 2, 0)), size) for each in probs]
    expected = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    torch.testing.assert_close(resize_probs(probs, size), expected, atol=1e-6, rtol=0)

    # The value of a pixel is its place along both axes, at its centre, as a share of the image. A mean over areas of
    # constant pixels is off by a few hundredths of a pixel.
    down, across = ((torch.arange(length) + 0.5) / length for length in (128, 100))
    ramp = torch.stack(torch.meshgrid(down, across, indexing="ij"))[None]
    wanted = torch.stack(torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in size), indexing="ij"))[None]
    inner = np.s_[..., 2:-2, 2:-2]
    torch.testing.assert_close(resize_probs(ramp, size)[inner], wanted[inner], atol=0.07 / min(size), rtol=0)


def test_axes_are_resized_independently():
    probs = torch.rand(2, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    one_by_one = resize_probs(resize_probs(probs, (4, 6)), (4, 15))
    torch.testing.assert_close(resize_probs(probs, (4, 15)), one_by_one)
    turned = resize_probs(probs.transpose(2, 3), (15, 4)).transpose(2, 3)
    torch.testing.assert_close(turned, one_by_one)
