"""Base class of the losses for one mask per channel."""

from torch import Tensor, nn

from pipeline.losses.inputs import LossInputs, prepare_inputs


class MultiLabelLoss(nn.Module):
    """A loss on the sigmoid of logits, with one mask per channel as target. Masks may overlap.

    `forward` checks and converts the inputs; a subclass implements its formula in `compute`. Pixels of
    target 255 are void and ignored. A channel of an image without a valid pixel is left out of means
    over images. Without any valid pixel, the loss and its gradient are 0.

    Attributes:
        supports_soft: whether the formula is defined for a target between 0 and 1.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if logits and target differ in shape, or the target has another value.
    """

    supports_soft = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with prepare_inputs(logits, target) as inputs:
            return self.compute(inputs)

    def compute(self, inputs: LossInputs) -> Tensor:
        """The loss, a scalar, of inputs that are already checked."""
        raise NotImplementedError
