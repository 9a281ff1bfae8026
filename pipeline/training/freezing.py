"""Which layers of the encoder train in an epoch of a phase.

A frozen layer keeps its weights: they have no gradient, so neither momentum nor weight decay changes them. It is in
evaluation mode: its batch norms use and keep their statistics, and its dropout and drop path are off. Layers are only
unfrozen within a phase, never frozen again, so the optimizer has no momentum of a frozen weight.
"""

from collections import defaultdict

from torch import nn

from pipeline import config
from pipeline.models import dry_run
from pipeline.models.weights import canonical
from pipeline.training.averaging import batch_norms
from pipeline.training.optimizer import encoder_layers


class Freezing:
    """Freezes an encoder's layers as a phase asks for.

    Args:
        encoder: of a `Segmenter`.
        name: as in `model.encoder`.
    """

    def __init__(self, encoder: nn.Module, phase: config.Phase, name: str):
        self.encoder, self.phase = encoder, phase
        self.layers = _layers(encoder, name) if phase.unfreeze_epochs else [list(encoder.parameters())]

    def set_epoch(self, epoch: int, epochs: int) -> bool:
        """Set which weights need a gradient in an epoch (from 0); returns whether that has changed any.

        Args:
            epochs: of the phase; if a time limit lowers them, layers are unfrozen earlier, and all train in the last.
        """
        planned = (epoch + 1) * self.phase.epochs // epochs - 1
        frozen = frozen_layers(self.phase, planned, len(self.layers))
        before = [weight.requires_grad for weight in self.encoder.parameters()]
        for number, weights in enumerate(self.layers):
            for weight in weights:
                weight.requires_grad = number >= frozen
        return before != [weight.requires_grad for weight in self.encoder.parameters()]

    def set_modes(self) -> None:
        """Put the modules that are frozen now into evaluation mode; the others are in training mode already."""
        _evaluate_frozen(self.encoder)
        if self.phase.freeze_bn:
            for norm in batch_norms(self.encoder):
                norm.eval()


def frozen_layers(phase: config.Phase, epoch: int, layers: int) -> int:
    """How many of an encoder's layers are frozen in an epoch: those nearest to the image.

    In each of the `unfreeze_epochs`, about as many layers are unfrozen, the deepest first; in the epoch after them all
    layers train.

    Args:
        epoch: of the phase, from 0.
        layers: of the encoder.

    Source:
        Howard & Ruder, https://arxiv.org/abs/1801.06146, section 3.3: gradual unfreezing.

    >>> phase = config.Phase(loss={"bce": 1.0}, epochs=9, lr=1.0, freeze_encoder=2, unfreeze_epochs=3)
    >>> [frozen_layers(phase, epoch, 4) for epoch in range(7)]
    [4, 4, 3, 2, 1, 0, 0]
    """
    if phase.freeze_encoder is True:
        return layers
    return min(layers, layers * max(0, phase.freezing_epochs - epoch) // (phase.unfreeze_epochs + 1))


def check_freezing(model: config.Model, phase: config.Phase) -> None:
    """Check that an encoder can be frozen as a phase asks for.

    Raises:
        ValueError: as `encoder_layers`, for unfreeze_epochs; for freeze_bn, if the encoder has no batch norm.
    """
    if phase.unfreeze_epochs:
        encoder_layers(model.encoder)
    if phase.freeze_bn and not batch_norms(dry_run(model).encoder):
        raise ValueError(f"freeze_bn has no effect: '{model.encoder}' has no batch norm: take it out")


def _layers(encoder: nn.Module, name: str) -> list[list[nn.Parameter]]:
    """The weights of each layer, from the image on; weights that timm does not number belong to the deepest."""
    numbers = encoder_layers(name)
    last = max(numbers.values())
    layers = defaultdict(list)
    for key, weight in encoder.named_parameters():
        layers[numbers.get(canonical(key), last)].append(weight)
    return [layers[number] for number in sorted(layers)]


def _evaluate_frozen(module: nn.Module) -> None:
    """Put modules into evaluation mode whose weights are all frozen, with the modules without weights inside them."""
    weights = list(module.parameters())
    if weights and not any(weight.requires_grad for weight in weights):
        module.eval()
        return
    for child in module.children():
        _evaluate_frozen(child)
