"""Batch normalisation over the images of all processes, as one process with the whole batch would compute it.

On NVIDIA GPUs it is torch's, which needs them; elsewhere, such as in tests on CPUs, it is the one below.
"""

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

ENOUGH_IMAGES = 16  # per process, for good statistics


def needs_sync(setting: bool | None, images: int) -> bool:
    """Whether batch norms compute their statistics over all processes.

    The statistics of small batches are noisy: in the first source, the error of a classifier is 23.6 % with 32 images
    per GPU, 23.7 % with 16, 24.8 % with 8 and 27.3 % with 4; in the second, a detector with 2 images per GPU gains by
    synchronisation. From 16 images on it costs time and gains little.

    Args:
        setting: `train.sync_batch_norm`; None: for fewer than 16 images.
        images: per process and batch.

    Source:
        Wu & He, Group Normalization, https://arxiv.org/abs/1803.08494, table 2.
        Peng et al., MegDet, https://arxiv.org/abs/1711.07240.
    """
    return images < ENOUGH_IMAGES if setting is None else setting


def sync_batch_norms(model: nn.Module, device: torch.device) -> None:
    """Make a model's batch norms compute their statistics over all processes; weights and their names do not change."""
    if any(isinstance(module, SyncBatchNorm | nn.SyncBatchNorm) for module in model.modules()):
        return  # by an earlier phase; converted again, timm's layers would lose their activation
    if device.type == "cuda":
        convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = type(f"Synced{type(module).__name__}", (SyncBatchNorm, type(module)), {})


class SyncBatchNorm(_BatchNorm):
    """A batch norm that in training uses the statistics of all processes' images; in evaluation it is unchanged."""

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return super().forward(images)
        normalised, mean, variance = _Normalise.apply(images, self.weight, self.bias, self.eps)
        self._update_statistics(mean, variance)
        if hasattr(self, "act"):  # timm's layer of norm, dropout and activation
            return self.act(self.drop(normalised))
        return normalised

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics with a batch's, as torch does."""
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _Normalise(torch.autograd.Function):
    """(images - mean) / sqrt(variance + eps) * weight + bias, with the mean and variance of all processes' images.

    With d the gradient of the output, x the normalised images, and means over all processes:

        gradient = weight / sqrt(variance + eps) * (d - mean(d) - x * mean(d * x))

    Source:
        Ioffe & Szegedy, Batch Normalization, https://arxiv.org/abs/1502.03167.
    """

    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        values = images.float()
        count = _all_reduce(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _all_reduce(_channel_sums(values)) / count
        # In a second pass: the mean of squares minus the square of the mean would lose precision.
        variance = _all_reduce(_channel_sums((values - _expand(mean)).square())) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(images, weight, mean, scale, count)
        normalised = (values - _expand(mean)) * _expand(scale * weight) + _expand(bias)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        ctx.mark_non_differentiable(mean, unbiased)
        return normalised.to(images.dtype), mean, unbiased

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, scale, count = ctx.saved_tensors
        d, x = gradient.float(), (images.float() - _expand(mean)) * _expand(scale)
        bias_gradient, weight_gradient = _channel_sums(d), _channel_sums(d * x)
        mean_d, mean_dx = _all_reduce(torch.stack([bias_gradient, weight_gradient])) / count
        images_gradient = (d - _expand(mean_d) - x * _expand(mean_dx)) * _expand(scale * weight)
        return images_gradient.to(images.dtype), weight_gradient.to(weight.dtype), bias_gradient.to(weight.dtype), None


def _channel_sums(values: Tensor) -> Tensor:
    """Sums over all axes but the channels: (N, C, ...) to (C,)."""
    return values.sum(dim=[axis for axis in range(values.ndim) if axis != 1])


def _expand(values: Tensor) -> Tensor:
    """Reshape (C,) to (C, 1, 1), which broadcasts with (N, C, H, W)."""
    return values[:, None, None]


def _all_reduce(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values
