"""Batch normalisation over the images of all processes: as one process with the whole batch has it.

torch.nn.SyncBatchNorm does it on GPUs alone, and does not know timm's layers that normalise and activate in one. This
one runs wherever `torch.distributed` does, so what is tested on CPUs is what GPUs run.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def sync_batch_norms(model: nn.Module) -> None:
    """Make the batch norms of a model share their statistics; names of weights and what is saved stay as they are."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            module.__class__ = type(f"Synced{type(module).__name__}", (SyncBatchNorm, type(module)), {})


class SyncBatchNorm(_BatchNorm):
    """In training, a batch norm whose statistics are of all processes' images; else what it was before."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        normalised, mean, variance = _Normalise.apply(images, self.weight, self.bias, self.eps)
        self._follow(mean, variance)
        if hasattr(self, "act"):  # timm's norm, dropout and activation in one
            return self.act(self.drop(normalised))
        return normalised

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as torch does."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """(images - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of all processes' images.

    With d the gradient of what comes out, x the normalised images, and means over all processes:

        gradient = weight / sqrt(variance + eps) * (d - mean(d) - x * mean(d * x))

    Source:
        Ioffe & Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167.
    """

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        values = images.float()
        count = _summed(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _summed(_per_channel(values)) / count
        # In a second pass: the mean of squares less the square of the mean would lose the digits that matter.
        variance = _summed(_per_channel((values - _spread(mean)).square())) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(images, weight, mean, scale, count)
        normalised = (values - _spread(mean)) * _spread(scale * weight) + _spread(bias)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        ctx.mark_non_differentiable(mean, unbiased)
        return normalised.to(images.dtype), mean, unbiased

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        given, x = gradient.float(), (images.float() - _spread(mean)) * _spread(scale)
        of_bias, of_weight = _per_channel(given), _per_channel(given * x)
        both = _summed(torch.stack([of_bias, of_weight])) / count
        back = (given - _spread(both[0]) - x * _spread(both[1])) * _spread(scale * weight)
        return back.to(images.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


def _per_channel(values: Tensor) -> Tensor:
    """(N, C, ...) to its sums, (C,)."""
    return values.sum(dim=[axis for axis in range(values.ndim) if axis != 1])


def _spread(values: Tensor) -> Tensor:
    """(C,) beside (N, C, H, W)."""
    return values[:, None, None]


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values
