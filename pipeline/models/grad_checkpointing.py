"""Gradient checkpointing of an encoder: fewer activations are kept, and computed again in the backward pass.

timm decides where: most encoders keep the inputs of their stages. The gradients are the same, since dropout and drop
path draw the same random numbers again. A batch norm would update its statistics in both passes; here only the first
one does.

Source:
    Chen et al., Training deep nets with sublinear memory cost, https://arxiv.org/abs/1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.hooks import RemovableHandle

from pipeline import config
from pipeline.models.encoder_name import NATIVE, parse
from pipeline.models.segmenter import PROBE_SIZE
from pipeline.quoting import first_line


@contextmanager
def checkpointed(encoder: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Gradient checkpointing of an encoder inside the block, which holds forward and backward pass.

    Args:
        encoder: of a `Segmenter`.
        enabled: False: the block runs without it.

    Raises:
        AssertionError, AttributeError: if timm does not support it.
    """
    if not enabled:
        yield
        return
    wrapped = getattr(encoder.model, "model", encoder.model)  # timm's model inside a wrapper that gives its features
    owner = encoder.model if hasattr(encoder.model, "set_grad_checkpointing") else wrapped
    norms = [norm for norm in encoder.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    owner.set_grad_checkpointing(True)
    hooks = [hook for norm in norms for hook in _keep_statistics_in_backward(norm)]
    try:
        with set_checkpoint_early_stop(False):  # which ends the repeated pass by an error inside its last layer
            yield
    finally:
        for hook in hooks:
            hook.remove()
        owner.set_grad_checkpointing(False)


def _keep_statistics_in_backward(norm: _BatchNorm) -> tuple[RemovableHandle, RemovableHandle]:
    """Make a batch norm keep its statistics in forward passes that a backward pass repeats.

    Without the buffers it would keep them too, but save fewer tensors, which torch.utils.checkpoint does not allow.
    """
    momentum = norm.momentum

    def before(_norm: nn.Module, _inputs: object) -> None:
        norm.momentum = 0.0 if _is_backward() else momentum

    def after(_norm: nn.Module, _inputs: object, _output: object) -> None:
        norm.momentum = momentum
        if norm.training and _is_backward():
            norm.num_batches_tracked -= 1

    return norm.register_forward_pre_hook(before), norm.register_forward_hook(after)


def _is_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint finds out


def check_grad_checkpointing(cfg: config.Model, build: Callable[[config.Model], nn.Module]) -> None:
    """Check that timm supports gradient checkpointing of an encoder, and that it keeps fewer activations.

    Args:
        build: of a `Segmenter`, such as one on the meta device.

    Raises:
        ValueError: if not.
    """
    if not cfg.grad_checkpointing:
        return
    if parse(cfg.encoder).model in NATIVE:
        raise ValueError(f"model.grad_checkpointing: '{cfg.encoder}' is smp's, which does not support it: take it out")
    model = build(cfg).train()
    side = max(PROBE_SIZE, model.net.stride)  # an encoder that takes one size of images has it as stride
    images = torch.zeros(2, model.mean.shape[1], side, side, device=model.mean.device)
    try:
        kept = [_kept_bytes(model.encoder, images, enabled) for enabled in (False, True)]
    except Exception as error:  # of many kinds: timm refuses, or a layer cannot be computed twice
        reason = first_line(error) or type(error).__name__
        raise ValueError(
            f"model.grad_checkpointing: '{cfg.encoder}' does not support it ({reason}): take it out"
        ) from None
    if kept[1] >= kept[0]:
        raise ValueError(f"model.grad_checkpointing has no effect on '{cfg.encoder}': take it out")


def _kept_bytes(encoder: nn.Module, images: Tensor, enabled: bool) -> int:
    """Bytes of the activations that a forward pass keeps; the backward pass must run too."""
    with checkpointed(encoder, enabled), count_saved_bytes(encoder) as saved:
        features = [each for each in tree_leaves(encoder(images)) if isinstance(each, Tensor) and each.requires_grad]
        sum(each.sum() for each in features).backward()
    return sum(saved.values())


@contextmanager
def count_saved_bytes(model: nn.Module) -> Iterator[dict[int, int]]:
    """Count the bytes that autograd keeps for one backward pass, on any device; those of the weights do not count.

    Yields:
        bytes by storage, complete after the forward pass.
    """
    own = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
