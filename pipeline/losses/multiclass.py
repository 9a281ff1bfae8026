"""What the losses of one class per pixel share: a call with its checks, around a formula."""

from torch import Tensor, nn

from pipeline.losses.inputs import full_precision_classes


class MultiClassLoss(nn.Module):
    """A loss of logits, through a softmax over the channels, against the class of each pixel.

    `forward` checks and converts, once; a subclass writes its formula in `value`. A pixel of
    class 255 is void: the loss is that of the image with these pixels cut out, and where nothing
    is valid, the loss and its gradient are 0.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if the shapes do not fit, or the target holds another value.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with full_precision_classes(logits, target) as (logits, target):
            return self.value(logits, target)

    def value(self, logits: Tensor, target: Tensor) -> Tensor:
        """The scalar, from logits and an int64 target that are already checked."""
        raise NotImplementedError
