"""Base class of the losses for one class per pixel."""

from torch import Tensor, nn

from pipeline.losses.inputs import ClassInputs, prepare_class_inputs, split_maps


class MultiClassLoss(nn.Module):
    """A loss on the softmax of logits over the channels, with the class of each pixel as target.

    `forward` checks and converts the inputs; a subclass implements its formula in `compute`. Pixels of
    class 255 are void and ignored. Without a valid pixel, the loss and its gradient are 0. A target has no shares of
    classes: a card with exclusive classes has no soft masks.

    Attributes:
        target_maps: maps of each class that the formula needs, by their key in `target_maps.TARGET_MAPS`.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        maps: (N, len(target_maps) * C, H, W), as `target_maps.make_maps`.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if the shapes do not fit, the target has another value, or maps are missing.
    """

    target_maps: tuple[str, ...] = ()

    def forward(self, logits: Tensor, target: Tensor, maps: Tensor | None = None) -> Tensor:
        with prepare_class_inputs(logits, target) as inputs:
            return self.compute(inputs._replace(maps=split_maps(maps, self.target_maps, inputs.logits)))

    def compute(self, inputs: ClassInputs) -> Tensor:
        """The loss, a scalar, of inputs that are already checked."""
        raise NotImplementedError
