"""Tiles: their weights, the tiled prediction, and memory."""

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.config import Tiles
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample
from pipeline.data.windows import Box
from pipeline.inference import tiles as tiling
from pipeline.inference.predictor import Predictor
from pipeline.inference.tiles import WINDOWS, TensorImage, predict_strips, tile_positions
from pipeline.rle import Dialect

TILES = st.builds(
    lambda size, share, window: Tiles(size=size, stride=max(1, int(size * share)), window=window),
    st.integers(1, 40),
    st.floats(0.05, 1),
    st.sampled_from(list(WINDOWS)),
)


@given(length=st.integers(1, 300), tiles=TILES)
def test_weights_of_every_pixel_sum_to_one(length, tiles):
    total = np.zeros(length)
    for span in tile_positions(length, tiles):
        inside = slice(max(0, span.start), min(span.start + tiles.size, length))
        assert (span.weights[: inside.start - span.start] == 0).all()
        assert (span.weights[inside.stop - span.start :] == 0).all()
        total[inside] += span.weights[inside.start - span.start : inside.stop - span.start]
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(length=st.integers(1, 300), tiles=TILES)
def test_tiles_are_one_stride_apart_and_centred(length, tiles):
    starts = [span.start for span in tile_positions(length, tiles)]
    assert set(np.diff(starts)) <= {tiles.stride}
    after = starts[-1] + tiles.size - length
    assert 0 <= after + starts[0] <= 1, "equal margins at both ends"
    if len(starts) > 1:
        assert after - starts[0] < tiles.stride, "one tile less would not cover the axis"


def test_windows_by_hand():
    assert tiling.flat(3).tolist() == [1, 1, 1]
    np.testing.assert_allclose(tiling.pyramid(5), np.array([1, 2, 3, 2, 1]) / 3)
    bell = tiling.gaussian(16)  # a standard deviation of 2
    np.testing.assert_allclose(bell[8] / bell[10], np.exp((2.5**2 - 0.5**2) / 8))
    assert bell.min() == tiling.MIN_WEIGHT


def test_two_tiles_by_hand():
    first, second = tile_positions(6, Tiles(size=4, stride=2, window="pyramid"))  # 1 2 2 1, and 1 2 2 1 two pixels on
    np.testing.assert_allclose(first.weights, [1, 1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(second.weights, [1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize(("size", "stride"), [(64, 65), (64, 0), (64, -8)])
def test_a_stride_with_gaps_or_without_movement_is_refused(size, stride):
    with pytest.raises(
        ValueError, match=rf"stride = {stride} (leaves gaps|does not move the tiles).* of 64 pixels: expected 1 to 64"
    ):
        Tiles(size=size, stride=stride)


def pixelwise(images):
    """A pointwise model of two classes."""
    values = images.float() / 255
    return torch.cat([values, 1 - values], dim=1)


def image_of(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, height, width)).astype(np.uint8))


@settings(deadline=None)
@given(shape=st.tuples(st.integers(1, 70), st.integers(1, 70)), tiles=TILES.filter(lambda tiles: tiles.stride > 2))
def test_tiled_prediction_of_a_pointwise_model_equals_that_of_the_whole_image(shape, tiles):
    image = image_of(*shape)
    strips = list(predict_strips(pixelwise, TensorImage(image), tiles, 3))
    assert all(strip.shape[1] == shape[0] for strip in strips)
    found = torch.cat(strips, dim=2)
    torch.testing.assert_close(found, pixelwise(image[None])[0], atol=1e-6, rtol=0)


def test_tiled_prediction_of_a_constant_is_constant():
    def constant(images):
        return torch.full((len(images), 1, *images.shape[-2:]), 0.4)

    strips = predict_strips(constant, TensorImage(image_of(101, 203)), Tiles(size=32, stride=20), 4)
    assert (np.rint(torch.cat(list(strips), dim=2).numpy() * 255) == 102).all()


class Blur(nn.Module):
    """Logits that depend on pixels up to 4 away."""

    def __init__(self):
        super().__init__()
        self.blur = nn.Conv2d(1, 1, 9, padding=4, padding_mode="reflect")

    def forward(self, images):
        return self.blur(images.float() / 255)


REACH = 4  # receptive field of Blur to each side


def sure(length, tiles):
    """The pixels of an axis that are in one tile only, with their whole receptive field."""
    spans = tile_positions(length, tiles)
    seen, clear = np.zeros(length), np.zeros(length)
    for span in spans:
        seen[max(0, span.start) : span.start + tiles.size] += 1
        clear[max(0, span.start + REACH) : max(0, span.start + tiles.size - REACH)] += 1
    return (seen == 1) & (clear == 1)


def test_tile_centres_equal_the_whole_prediction_and_windows_reduce_errors_at_borders():
    torch.manual_seed(0)
    model, image = Blur(), image_of(110, 150)
    whole = Predictor(model, ("identity",), "float32")(image[None])[0, 0]
    faults = {}
    for window in WINDOWS:
        tiles = Tiles(size=48, stride=32, window=window)
        tiled = Predictor(model, ("identity",), "float32", tiles=tiles)(image[None])[0, 0]
        rows, columns = (np.flatnonzero(sure(length, tiles)) for length in image.shape[1:])
        assert len(rows) * len(columns) > 500
        torch.testing.assert_close(tiled[rows][:, columns], whole[rows][:, columns], atol=1e-6, rtol=0)
        faults[window] = (tiled - whole).abs().mean().item()
    assert faults["gaussian"] < faults["pyramid"] < faults["flat"]


def test_an_image_of_one_tile_is_predicted_whole():
    torch.manual_seed(0)
    model, image = Blur(), image_of(48, 48)
    whole = Predictor(model, ("identity",), "float32")(image[None])
    tiled = Predictor(model, ("identity",), "float32", tiles=Tiles(size=48, stride=32))(image[None])
    torch.testing.assert_close(tiled, whole)


def test_each_tile_is_predicted_in_all_views():
    class Ramp(nn.Module):
        """Logits depend on the column, so views differ."""

        def forward(self, images):
            ramp = torch.linspace(-2, 2, images.shape[-1]).expand(images.shape[-2:])
            return images.float() * 0 + ramp

    views, image = ("identity", "flip_horizontal"), image_of(20, 50)
    tiled = Predictor(Ramp(), views, "float32", tiles=Tiles(size=16, stride=8))(image[None])
    expected = torch.linspace(-2, 2, 16).sigmoid()
    expected = (expected + expected.flip(0)) / 2  # of one tile: the mean of both views
    assert tiled.min() >= expected.min() - 1e-6
    assert tiled.max() <= expected.max() + 1e-6


def test_empty_tiles_are_not_predicted():
    seen = []

    def predict(images):
        seen.append(len(images))
        return pixelwise(images)

    image = torch.full((1, 64, 256), 240, dtype=torch.uint8)
    image[:, :, 200:] = image_of(64, 56)
    tiles = Tiles(size=32, stride=32, window="flat", background=5.0)
    found = torch.cat(list(predict_strips(predict, TensorImage(image), tiles, 8)), dim=2)
    assert sum(seen) == 1 + 2 * 2, "the first tile gives the number of classes; then only tiles with content"
    assert (found[:, :32, 32:192] == 0).all()
    torch.testing.assert_close(found[..., 224:], pixelwise(image[None])[0][..., 224:], atol=1e-6, rtol=0)


class Counted:
    """An image that computes its pixels on demand and records the largest window."""

    def __init__(self, height, width):
        self.shape, self.largest = (height, width), 0

    def read(self, box: Box):
        self.largest = max(self.largest, box.height * box.width)
        rows, columns = (np.arange(part.start, part.stop) for part in box.slices)
        return ((rows[:, None] // 7 + columns // 5) % 2 * 255).astype(np.uint8)[..., None]


def test_rle_is_encoded_from_strips_without_reading_the_whole_image():
    image, dialect = Counted(300, 500), Dialect()
    strips = predict_strips(pixelwise, image, Tiles(size=64, stride=48), 8)
    text = dialect.encode_strips((strip[0] > 0.5).numpy() for strip in strips)
    whole = image.read(Box(0, 0, *image.shape))[..., 0] > 127
    image.largest = 0
    list(predict_strips(pixelwise, image, Tiles(size=64, stride=48), 8))
    assert text == dialect.encode(whole)
    assert image.largest <= 64 * 500


def test_prediction_by_window_equals_prediction_of_the_whole_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (150, 200, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), photometric="rgb", compression="deflate")
    predictor = Predictor(Blur(), ("identity",), "float32", tiles=Tiles(size=64, stride=48))
    reader, sample = Reader(1), Sample.from_file(tmp_path / "a.tif")
    with reader.open_windows(sample) as image:
        found = torch.cat(list(predictor.strips(image)), dim=2)
    whole = torch.from_numpy(reader.read(sample).transpose(2, 0, 1).copy())
    torch.testing.assert_close(found, predictor(whole[None])[0])
