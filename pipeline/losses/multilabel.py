"""Base class of the losses for one mask per channel."""

from torch import Tensor, nn

from pipeline.losses.inputs import LossInputs, prepare_inputs, split_maps


class MultiLabelLoss(nn.Module):
    """A loss on the sigmoid of logits, with one mask per channel as target. Masks may overlap.

    `forward` checks and converts the inputs; a subclass implements its formula in `compute`. Pixels of
    target 255 are void and ignored. A channel of an image without a valid pixel is left out of means
    over images. Without any valid pixel, the loss and its gradient are 0.

    Attributes:
        supports_soft: whether the formula is defined for a target between 0 and 1.
        target_maps: maps of the target that the formula needs, by their key in `target_maps.TARGET_MAPS`.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W) of 0, 1, or 255 for void; floats from 0 to 1, or 255, if it is soft.
        maps: (N, len(target_maps) * C, H, W), as `target_maps.make_maps`.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if logits and target differ in shape, the target has another value, or maps are missing.
    """

    supports_soft = True
    target_maps: tuple[str, ...] = ()

    def forward(self, logits: Tensor, target: Tensor, maps: Tensor | None = None) -> Tensor:
        with prepare_inputs(logits, target) as inputs:
            return self.compute(inputs._replace(maps=split_maps(maps, self.target_maps, inputs.logits)))

    def compute(self, inputs: LossInputs) -> Tensor:
        """The loss, a scalar, of inputs that are already checked."""
        raise NotImplementedError
