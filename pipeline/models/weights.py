"""Starting weights of an encoder from a file: known prefixes of names are removed, and it is said what share fits."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from pipeline.quoting import shortened

log = logging.getLogger(__name__)

# What other programs, and this one, write before a tensor's name: smp "encoder.model.", a pipeline's checkpoint
# "net.encoder.model.", DistributedDataParallel "module.", torch.compile "_orig_mod.", timm and others "backbone.".
PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "encoder.", "backbone.")
COUNTER = "num_batches_tracked"  # of a batch norm; older files do not have it, and nothing depends on it
SHARE = 0.9  # of an encoder's tensors that a file must hold


def load_encoder(encoder: nn.Module, name: str, channels: int, path: Path) -> None:
    """Put the weights of a file into an encoder, and log how many of its tensors the file has.

    Names may carry any of PREFIXES, and be those of timm's model or of its list of features ("stages.0" or
    "stages_0"); official checkpoints that timm knows how to convert are converted. What the file has beside the encoder
    (a decoder, a classifier) is left out. Kernels of another number of input channels are adapted, as timm does it.

    Args:
        encoder: an smp encoder on a timm model.
        name: timm's name of that model.
        channels: of the images that the encoder takes.
        path: a .safetensors file, or a state dict as torch.save writes it, which is read without running code.

    Raises:
        ValueError: if the file cannot be read, if fewer than 90 % of the encoder's tensors fit, or for a number that is
            not finite.
    """
    tensors = _read(path)
    own = encoder.state_dict()
    fitting = _fitting(tensors, own, channels)
    if len(_counted(fitting)) < len(_counted(own)):
        converted = _fitting(_converted(tensors, name), own, channels)
        fitting = max(fitting, converted, key=lambda each: len(_counted(each)))
    found, expected = len(_counted(fitting)), len(_counted(own))
    missing = next((key for key in _counted(own) if key not in fitting), None)
    if found < SHARE * expected:
        first = next(iter(_counted(tensors) or tensors))
        raise ValueError(
            f"model.weights: {path}: {found} of the {expected} tensors of {name} fit, expected 90 % or more. First "
            f"expected: {_described(missing, own)}; first found: {_described(first, tensors)}. Is it another model?"
        )
    refuse_not_finite(path, fitting)
    encoder.load_state_dict(fitting, strict=False)
    log.info("%s: %d of the %d tensors of %s fit", path, found, expected, name)
    if missing:
        log.warning("%s has no %s: it starts at random", path, _described(missing, own))


def refuse_not_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights with a NaN or an infinity: what they predict is no probability.

    Raises:
        ValueError: naming the file and the first such tensor.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not (good := tensor.isfinite()).all():
            wrong, all_ = int((~good).sum()), tensor.numel()
            raise ValueError(
                f"{path}: {wrong} of the {all_} numbers of '{shortened(name, 50)}' are not finite (NaN or infinity): "
                f"the file is damaged, or its training diverged. Restore it, or remove it and train again"
            )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found = timm.models.load_state_dict(str(path), weights_only=True)
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:  # of two libraries, each with errors of its own
        reason = shortened(" ".join(str(error).split()), 80) or type(error).__name__
        raise ValueError(
            f"model.weights: {path} cannot be read ({reason}): expected a .safetensors file, or a state dict that "
            f"torch.save wrote (.pt, .pth)"
        ) from None
    if not tensors:
        raise ValueError(f"model.weights: {path} holds no tensor by name: expected a state dict")
    return tensors


def _converted(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """An official checkpoint with timm's names and shapes; as it is where timm has no way or the file is none."""
    convert = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    plain = {_bare(key): value for key, value in tensors.items()}
    try:
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn the same, whatever file there is
            return convert(plain, timm.create_model(name, pretrained=False))
    except Exception:  # timm's converters expect one author's files and raise anything on others
        return tensors


def _fitting(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The tensors that fit, by the encoder's names."""
    by_name = {_alike(key): value for key, value in tensors.items()}
    found = {key: by_name[_alike(key)] for key in own if _alike(key) in by_name}
    found |= {
        key: _of_channels(found[key], channels)
        for key in found
        if own[key].ndim == found[key].ndim == 4 and own[key].shape[1] == channels
    }
    return {key: tensor for key, tensor in found.items() if tensor.shape == own[key].shape}


def _of_channels(kernels: Tensor, channels: int) -> Tensor:
    """Kernels of a first convolution for another number of input channels; to alike channels they answer the same."""
    found = kernels.shape[1]
    if channels in (1, found):
        return kernels if channels == found else kernels.sum(dim=1, keepdim=True)
    return kernels.repeat(1, -(-channels // found), 1, 1)[:, :channels] * (found / channels)


def _counted(tensors: Mapping[str, Tensor]) -> list[str]:
    return [key for key in tensors if not key.endswith(COUNTER)]


def _bare(key: str) -> str:
    """A tensor's name without prefixes."""
    while stripped := next((key.removeprefix(each) for each in PREFIXES if key.startswith(each)), None):
        key = stripped
    return key


def _alike(key: str) -> str:
    """What is equal for the names of timm's model and of its list of features."""
    return _bare(key).replace(".", "_")


def _described(key: str, tensors: Mapping[str, Tensor]) -> str:
    return f"'{shortened(key, 50)}' {tuple(tensors[key].shape)}"
