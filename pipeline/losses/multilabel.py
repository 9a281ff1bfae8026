"""What all losses of one sigmoid per channel share: a call with its checks, around a formula."""

from torch import Tensor, nn

from pipeline.losses.inputs import Pixels, full_precision


class MultiLabelLoss(nn.Module):
    """A loss of logits against a mask per channel. A pixel may be in several channels, or in none.

    `forward` checks and converts, once; a subclass writes its formula in `value`. A pixel of
    target 255 is void: the loss is that of the image with these pixels cut out. A channel of an
    image that is void everywhere is left out of means over images, and where nothing at all is
    valid, the loss and its gradient are 0.

    Shapes:
        logits: (N, C, H, W) float, before the sigmoid.
        target: (N, C, H, W), 0 or 1, or 255 for void.
        returns: scalar, at least float32.

    Raises:
        NotFiniteError: if a logit is NaN.
        ValueError: if logits and target differ in shape, or the target holds another value.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        with full_precision(logits, target) as pixels:
            return self.value(pixels)

    def value(self, pixels: Pixels) -> Tensor:
        """The scalar, from pixels that are already checked."""
        raise NotImplementedError
