"""Starting weights: of an encoder from a file of any program, or of a whole network of this pipeline."""

import logging
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.files import FAILED_DOWNLOADS, START
from pipeline.quoting import shortened

log = logging.getLogger(__name__)

# Prefixes of tensor names that this and other programs write: smp "encoder.model.", a pipeline's checkpoint
# "net.encoder.model.", DistributedDataParallel "module.", torch.compile "_orig_mod.", timm and others "backbone.".
PREFIXES = ("module.", "_orig_mod.", "net.", "model.", "encoder.", "backbone.")
BATCH_COUNTER = "num_batches_tracked"  # of a batch norm; older files do not have it, and it has no effect
OPTIONAL_HEADS = ("image_head.", "net.aux_heads.")  # of which only some networks have weights
SAFETENSORS_HEADER = 8  # bytes before the header of a .safetensors file, which is JSON
PICKLES = (b"PK", b"\x80")  # first bytes of the files that torch.save writes, or wrote before 1.6
LEARNED = ("weight", "bias", "running_mean", "gamma", "gamma_1", "gamma_2")  # ends of names; gammas scale a layer
MIN_SHARE = 0.9  # of an encoder's tensors that a file must contain


def load_encoder(
    encoder: nn.Module, name: str, channels: int, path: Path, options: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Load the weights of a file into an encoder, and log how many of its tensors fit.

    Names may have any of PREFIXES, and be those of timm's model or of its feature extractor ("stages.0" or "stages_0").
    Official checkpoints that timm can convert are converted, and so are weights for another image size: timm resamples
    their position embeddings. Other tensors of the file (a decoder, a classifier) are
    ignored. Kernels for another number of input channels are adapted as in timm.

    Args:
        encoder: an smp encoder on a timm model.
        name: timm's name of that model.
        channels: input channels of the encoder.
        options: timm's arguments of that model, such as its image size.
        path: a .safetensors file, or a state dict written by torch.save, which is read with `weights_only`.

    Raises:
        ValueError: if the file cannot be read, if fewer than 90 % of the encoder's tensors fit, if it is of a deeper
            model or one with further layers, or for a number that is not finite.
    """
    tensors = _read(path)
    own = encoder.state_dict()
    fitting = _matching(tensors, own, channels)
    if len(_without_counters(fitting)) < len(_without_counters(own)):
        converted = convert(tensors, name, options)
        fitting_converted = _matching(converted, own, channels)
        if len(_without_counters(fitting_converted)) > len(_without_counters(fitting)):
            tensors, fitting = converted, fitting_converted
    found, expected = len(_without_counters(fitting)), len(_without_counters(own))
    missing = next((key for key in _without_counters(own) if key not in fitting), None)
    if found < MIN_SHARE * expected:
        first = next(iter(_without_counters(tensors) or tensors))
        raise ValueError(
            f"model.weights: {path}: {found} of the {expected} tensors of {name} fit, expected 90 % or more. First "
            f"expected: {_describe(missing, own)}; first found: {_describe(first, tensors)}. Is it another model?"
        )
    if further := _of_further_layers(tensors, own, name):
        raise ValueError(
            f"model.weights: {path} has {len(further)} weights in stages of {name} that {name} does not have, first "
            f"{_describe(further[0], tensors)}: it is of another model, deeper or with further layers. Set "
            f"model.encoder to that model, or give the file of {name}"
        )
    refuse_not_finite(f"model.weights: {path}", fitting, "Get it again, or name another file")
    encoder.load_state_dict(fitting, strict=False)
    log.info("%s: %d of the %d tensors of %s fit", path, found, expected, name)
    if missing:
        log.warning("%s has no %s: it starts at random", path, _describe(missing, own))


def load_network(
    model: nn.Module, weights: Mapping[str, Tensor], where: Path, *, classes: tuple[int, int], channels: tuple[int, int]
) -> None:
    """Load the weights of a whole network into one of the same architecture, and log what is not loaded.

    Layers of another number of classes start anew, and so do heads that the weights do not have (of the image, of deep
    supervision). Heads that only the weights have are left out. Kernels for another number of input channels are
    adapted as in `load_encoder`; for as many, images are normalized as for the weights.

    Args:
        where: the file, for messages.
        classes, channels: output classes and input channels of the weights, and of the model.

    Raises:
        ValueError: if the weights are of another architecture, with the first difference.
    """
    own, fitting, anew = model.state_dict(), {}, []
    for key, tensor in own.items():
        found = weights.get(key)
        if key in ("mean", "std") and found is not None and found.shape != tensor.shape:
            continue  # for another number of channels; of as many, the tag of the weights may be another
        if found is None and key.startswith(OPTIONAL_HEADS):
            anew.append(key)
        elif found is not None and found.shape == tensor.shape:
            fitting[key] = found
        elif found is not None and _is_input(key, found, tensor, channels):
            fitting[key] = _adapt_channels(found, channels[1])
        elif found is not None and _has_other_classes(found, tensor, classes):
            anew.append(key)
        else:
            came = "it has no such tensor" if found is None else f"it has {tuple(found.shape)}"
            raise ValueError(
                f"model.weights: {where} is of another network: this one has {_describe(key, own)}, {came}. Set the "
                f"same arch, encoder and decoder options, and the same crop if the encoder takes one image size; or "
                f"name the file without run: for its encoder alone"
            )
    model.load_state_dict(fitting, strict=False)
    notes = [f"{', '.join(sorted({key.rpartition('.')[0] for key in anew}))} start anew"] if anew else []
    notes += [f"classes {classes[0]}, now {classes[1]}"] if classes[0] != classes[1] else []
    notes += [f"input channels {channels[0]}, adapted to {channels[1]}"] if channels[0] != channels[1] else []
    log.info("starts from the whole network %s%s", where, f" ({'; '.join(notes)})" if notes else "")


def _is_input(key: str, found: Tensor, own: Tensor, channels: tuple[int, int]) -> bool:
    """Whether a tensor is the kernel of the first convolution, for another number of channels."""
    rest = (found.shape[0], *found.shape[2:]) == (own.shape[0], *own.shape[2:])
    return key.startswith("net.encoder.") and own.ndim == 4 and rest and (found.shape[1], own.shape[1]) == channels


def _has_other_classes(found: Tensor, own: Tensor, classes: tuple[int, int]) -> bool:
    """Whether two shapes differ in numbers of classes only."""
    pairs = zip(found.shape, own.shape, strict=False)
    return found.ndim == own.ndim and all(pair == classes or pair[0] == pair[1] for pair in pairs)


def refuse_not_finite(
    where: str, weights: Mapping[str, Tensor], remedy: str = "Restore it, or remove it and train again"
) -> None:
    """Check that weights have no NaN and no infinity.

    Args:
        where: the key and the file, for the message.

    Raises:
        ValueError: naming the file and the first such tensor.
    """
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not (good := tensor.isfinite()).all():
            wrong, all_ = int((~good).sum()), tensor.numel()
            raise ValueError(
                f"{where}: {wrong} of the {all_} numbers of '{shortened(name, 50)}' are not finite (NaN or infinity): "
                f"the file is damaged, or its training diverged. {remedy}"
            )


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(START)
    for magic, what in FAILED_DOWNLOADS.items():
        if re.match(magic, start):
            raise ValueError(f"model.weights: {path} is {what}")
    is_safetensors, is_pickle = start[SAFETENSORS_HEADER:].startswith(b"{"), start.startswith(PICKLES)
    try:
        found = load_file(path) if is_safetensors else timm.models.load_state_dict(str(path), weights_only=True)
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    except Exception as error:  # of two libraries, each with errors of its own
        if is_pickle and isinstance(error.__cause__, pickle.UnpicklingError):
            raise ValueError(
                f"model.weights: {path} has Python objects beside tensors, and loading them would execute code: save "
                f"the state dict of its model alone, torch.save(model.state_dict(), …)"
            ) from None
        reason = shortened(" ".join(str(error).split()), 80) or type(error).__name__
        if not (is_safetensors or is_pickle):
            reason = f"it begins with {start[:SAFETENSORS_HEADER]!r}"
        raise ValueError(
            f"model.weights: {path} cannot be read ({reason}): expected a .safetensors file, or a state dict that "
            f"torch.save wrote (.pt, .pth)"
        ) from None
    if not tensors:
        raise ValueError(f"model.weights: {path} holds no tensor by name: expected a state dict")
    return tensors


def convert(tensors: dict[str, Tensor], name: str, options: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors converted by timm, of an official checkpoint or for another image size; unchanged if timm cannot do it.

    Args:
        name: timm's name of the model.
        options: timm's arguments of the model that they are converted for.
    """
    if name not in timm.list_models():
        return tensors
    convert_in_timm = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert_in_timm is None:
        return tensors
    try:
        model = _timm_model(name, options)
        own = {canonical(key): key for key in model.state_dict()}
        plain = {own.get(canonical(key), _strip_prefixes(key)): value for key, value in tensors.items()}
        with warnings.catch_warnings(action="ignore"):  # of torch, about how timm interpolates
            return convert_in_timm(plain, model)
    except Exception:  # timm's converters raise many kinds of error for files of other authors
        return tensors


def _timm_model(name: str, options: Mapping[str, object]) -> nn.Module:
    """A whole model of timm. Random numbers that are drawn later do not depend on whether a file needs it."""
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, pretrained=False, **options)


def _matching(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """The tensors whose name and shape fit, by the names of the encoder."""
    by_name = {canonical(key): value for key, value in tensors.items()}
    found = {key: by_name[canonical(key)] for key in own if canonical(key) in by_name}
    found |= {
        key: _adapt_channels(found[key], channels)
        for key in found
        if own[key].ndim == found[key].ndim == 4 and own[key].shape[1] == channels
    }
    return {key: tensor for key, tensor in found.items() if tensor.shape == own[key].shape}


def _of_further_layers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> list[str]:
    """Names of the weights in the encoder's stages that timm's model does not have: of ResNet-34 or SE-ResNet-18, or
    the statistics of a ResNet with batch norm, in one with group norm.

    A feature extractor leaves out layers after the last map (GhostNet's), which are no reason to refuse a file.
    """
    names = {canonical(key) for key in own}
    numberless = {_numberless(key) for key in own}
    further = [
        key
        for key in tensors
        if key.endswith(LEARNED) and canonical(key) not in names and _is_in_a_stage(key, names, numberless)
    ]
    if not further or name not in timm.list_models():
        return further
    whole = {canonical(key) for key in _timm_model(name, {}).state_dict()}
    return [key for key in further if canonical(key) not in whole]


def _is_in_a_stage(key: str, names: set[str], numberless: set[str]) -> bool:
    """Whether a tensor of a file is in one of the encoder's stages: the stage is what its first number is an entry of,
    such as "layer1" of "layer1.2.conv1.weight". Where numbers are parts of names ("denselayer25.conv1.weight"), it is
    in a stage if the encoder has its block, or the same name with other numbers.

    Args:
        names: of the encoder's tensors, `canonical`.
        numberless: the same, `_numberless`.
    """
    parts = _strip_prefixes(key).split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), 0)
    if number:
        return _has(names, parts[:number])
    ends = [index for index, part in enumerate(parts[:-2], start=1) if part[-1:].isdigit()]
    return _numberless(key) in numberless or (bool(ends) and _has(names, parts[: ends[-1]]))


def _has(names: set[str], parts: list[str]) -> bool:
    """Whether there are tensors in a module, which is given by the parts of its name."""
    prefix = canonical(".".join(parts)) + "_"
    return any(name.startswith(prefix) for name in names)


def _numberless(key: str) -> str:
    return re.sub(r"\d+", "#", canonical(key))


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


def canonical(key: str) -> str:
    """A name that is the same in timm's model and in its feature extractor."""
    return _strip_prefixes(key).replace(".", "_")


def _describe(key: str, tensors: Mapping[str, Tensor]) -> str:
    return f"'{shortened(key, 50)}' {tuple(tensors[key].shape)}"
