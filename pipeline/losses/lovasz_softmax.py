"""Lovász-Softmax loss: a surrogate of the mean Jaccard loss over classes, for one class per pixel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.losses.class_weights import check_class_weights, to_channels, weighted_mean
from pipeline.losses.inputs import ClassInputs, masked_mean
from pipeline.losses.lovasz import to_rows
from pipeline.losses.lovasz_extension import lovasz_extension
from pipeline.losses.multiclass import MultiClassLoss
from pipeline.losses.overlap import check_reduction
from pipeline.metrics import VOID
from pipeline.quoting import shortened
from pipeline.schema import did_you_mean

COUNTED = {
    "present": lambda target, valid: target.any(dim=-1),  # classes with a pixel in the target
    "all": lambda target, valid: valid.any(dim=-1),
}


class LovaszSoftmaxLoss(MultiClassLoss):
    """Lovász extension of each class's Jaccard loss over probability errors, averaged over classes.

        m_i(c) = 1 - p_i(c) where the target is c, p_i(c) elsewhere,  p = softmax(logits)
        loss   = mean over c of (sum over k of m_(k)(c) * (J_c(k) - J_c(k-1)))

    Border cases: a class without a pixel in the target costs its largest probability; with "present"
    it is left out. With one channel the softmax is 1 everywhere, so nothing can be learned.

    Args:
        classes: a key of COUNTED: the mean is over "present" classes or "all".
        over: "batch", as in the paper: a class's pixels of all images of the batch are one set. "image":
            the mean per image, then over images with a valid pixel.
        class_weights: as CrossEntropyLoss; the mean over the classes is weighted.

    Shapes:
        logits: (N, C, H, W) float, before the softmax.
        target: (N, H, W) of 0 … C-1, or 255 for void.
        returns: scalar in [0, 1].

    Raises:
        ValueError: for unknown `classes` or `over`, invalid class weights, or as MultiClassLoss.
        NotFiniteError: as MultiClassLoss.

    Source:
        Berman et al., The Lovász-Softmax loss, https://arxiv.org/abs/1705.08790, equation 10
        and algorithm 1; "present" and "all" are as in the authors' code.
    """

    def __init__(self, classes: str = "present", over: str = "batch", class_weights: Sequence[float] = ()):
        super().__init__()
        check_reduction(over, "count")
        check_class_weights(class_weights)
        if classes not in COUNTED:
            raise ValueError(f"unknown classes '{shortened(classes)}'. {did_you_mean(classes, COUNTED)}")
        self.classes = classes
        self.over, self.class_weights = over, class_weights

    def compute(self, inputs: ClassInputs) -> Tensor:
        logits, target, _ = inputs
        images, classes = logits.shape[:2] if self.over == "image" else (1, logits.shape[1])
        probs = torch.softmax(logits, dim=1)
        positive = target[:, None] == torch.arange(classes, device=target.device)[:, None, None]
        valid = (target != VOID)[:, None].expand_as(positive)
        errors, positive, valid = (
            to_rows(each, self.over) for each in (torch.where(positive, 1 - probs, probs), positive, valid)
        )
        per_class = lovasz_extension(errors, positive, valid).view(images, classes)
        counted = COUNTED[self.classes](positive, valid).view(images, classes)
        if self.class_weights:
            counted = counted * to_channels(self.class_weights, logits)
        return masked_mean(weighted_mean(per_class, counted, dim=1), counted.any(dim=1))
