"""Base class of the losses for one class per pixel."""

from torch import Tensor, nn

from pipeline.losses.inputs import prepare_class_inputs


class MultiClassLoss(nn.Module):
    """A loss on the softmax of logits over the channels, with the class of each pixel as target.

    `forward` checks and converts the inputs; a subclass implements its formula in `compute`. Pixels of
    class 255 are void and ignored. Without a valid pixel, the loss and its gradient are 0. A target has no shares of
    classes: a card with exclusive classes has no soft masks.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if the shapes do not fit, or the target has another value.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with prepare_class_inputs(logits, target) as (logits, target):
            return self.compute(logits, target)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of inputs that are already checked.

        Shapes:
            logits: (N, C, H, W), at least float32.
            target: (N, H, W) int64.
            returns: scalar.
        """
        raise NotImplementedError
