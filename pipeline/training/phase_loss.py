"""The loss of a phase, with weights of classes that are computed from the fold's training masks."""

import logging

from torch import nn

from pipeline import config
from pipeline.losses import build_loss
from pipeline.losses.class_weights import PER_CLASS
from pipeline.training.fold_data import FoldData

log = logging.getLogger(__name__)


def build_phase_loss(phase: config.Phase, number: int, data: FoldData, *, log_weights: bool = False) -> nn.Module:
    """The weighted sum of losses that a phase asks for.

    Args:
        number: of the phase; a teacher makes the targets of some phases soft, and so does a mix.
        log_weights: log the class weights that are computed, a line for each loss.
    """
    labels, options = data.labels, phase.loss_options or {}
    methods = [
        (name, option, value)
        for name, each in options.items()
        for option, value in each.items()
        if option in PER_CLASS and isinstance(value, str)
    ]
    loss = build_loss(
        phase.loss,
        phase.loss_options,
        exclusive=labels.exclusive,
        soft=data.is_soft(number, phase),
        classes=labels.channel_names,
        areas=data.class_areas() if methods else None,
    )
    for name, option, method in methods if log_weights else []:
        if name in loss.losses:
            weights = zip(labels.channel_names, getattr(loss.losses[name], option), strict=True)
            numbers = ", ".join(f"{each} {weight:g}" for each, weight in weights)
            log.info("fold %s: %s of %s by %s: %s", data.fold, option, name, method, numbers)
    return loss
