"""Starting weights of an encoder from a file, whose tensors may have other prefixes in their names."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from pipeline.quoting import shortened

log = logging.getLogger(__name__)

# Prefixes of tensor names that this and other programs write: smp "encoder.model.", a pipeline's checkpoint
# "net.encoder.model.", DistributedDataParallel "module.", torch.compile "_orig_mod.", timm and others "backbone.".
PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "encoder.", "backbone.")
BATCH_COUNTER = "num_batches_tracked"  # of a batch norm; older files do not have it, and it has no effect
MIN_SHARE = 0.9  # of an encoder's tensors that a file must contain


def load_encoder(encoder: nn.Module, name: str, channels: int, path: Path) -> None:
    """Load the weights of a file into an encoder, and log how many of its tensors fit.

    Names may have any of PREFIXES, and be those of timm's model or of its feature extractor ("stages.0" or "stages_0").
    Official checkpoints that timm can convert are converted. Other tensors of the file (a decoder, a classifier) are
    ignored. Kernels for another number of input channels are adapted as in timm.

    Args:
        encoder: an smp encoder on a timm model.
        name: timm's name of that model.
        channels: input channels of the encoder.
        path: a .safetensors file, or a state dict written by torch.save, which is read with `weights_only`.

    Raises:
        ValueError: if the file cannot be read, if fewer than 90 % of the encoder's tensors fit, or for a number that is
            not finite.
    """
    tensors = _read(path)
    own = encoder.state_dict()
    fitting = _matching(tensors, own, channels)
    if len(_without_counters(fitting)) < len(_without_counters(own)):
        converted = _matching(_convert_official(tensors, name), own, channels)
        fitting = max(fitting, converted, key=lambda each: len(_without_counters(each)))
    found, expected = len(_without_counters(fitting)), len(_without_counters(own))
    missing = next((key for key in _without_counters(own) if key not in fitting), None)
    if found < MIN_SHARE * expected:
        first = next(iter(_without_counters(tensors) or tensors))
        raise ValueError(
            f"model.weights: {path}: {found} of the {expected} tensors of {name} fit, expected 90 % or more. First "
            f"expected: {_describe(missing, own)}; first found: {_describe(first, tensors)}. Is it another model?"
        )
    refuse_not_finite(path, fitting)
    encoder.load_state_dict(fitting, strict=False)
    log.info("%s: %d of the %d tensors of %s fit", path, found, expected, name)
    if missing:
        log.warning("%s has no %s: it starts at random", path, _describe(missing, own))


def refuse_not_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Check that weights have no NaN and no infinity.

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


def _convert_official(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """An official checkpoint converted to timm's names and shapes; unchanged if timm cannot convert it."""
    convert = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    plain = {_strip_prefixes(key): value for key, value in tensors.items()}
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights of the model do not depend on this file
            return convert(plain, timm.create_model(name, pretrained=False))
    except Exception:  # timm's converters raise many kinds of error for files of other authors
        return tensors


def _matching(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The tensors whose name and shape fit, by the names of the encoder."""
    by_name = {_canonical(key): value for key, value in tensors.items()}
    found = {key: by_name[_canonical(key)] for key in own if _canonical(key) in by_name}
    found |= {
        key: _adapt_channels(found[key], channels)
        for key in found
        if own[key].ndim == found[key].ndim == 4 and own[key].shape[1] == channels
    }
    return {key: tensor for key, tensor in found.items() if tensor.shape == own[key].shape}


def _adapt_channels(kernels: Tensor, channels: int) -> Tensor:
    """Kernels of a first convolution for another number of input channels; equal channels give the same output.

    Shapes:
        kernels: (out, in, h, w); returned as (out, channels, h, w).
    """
    found = kernels.shape[1]
    if channels in (1, found):
        return kernels if channels == found else kernels.sum(dim=1, keepdim=True)
    return kernels.repeat(1, -(-channels // found), 1, 1)[:, :channels] * (found / channels)


def _without_counters(tensors: Mapping[str, Tensor]) -> list[str]:
    return [key for key in tensors if not key.endswith(BATCH_COUNTER)]


def _strip_prefixes(key: str) -> str:
    """A tensor's name without prefixes."""
    while stripped := next((key.removeprefix(each) for each in PREFIXES if key.startswith(each)), None):
        key = stripped
    return key


def _canonical(key: str) -> str:
    """A name that is the same in timm's model and in its feature extractor."""
    return _strip_prefixes(key).replace(".", "_")


def _describe(key: str, tensors: Mapping[str, Tensor]) -> str:
    return f"'{shortened(key, 50)}' {tuple(tensors[key].shape)}"
