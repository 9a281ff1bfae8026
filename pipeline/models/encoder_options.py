"""Options of an encoder that act in training only: drop path and dropout of timm."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import config
from pipeline.models.segmenter import PROBE_SIZE

DROP_RATES = {"drop_path": "drop_path_rate", "drop_rate": "drop_rate"}  # option of a config: argument of timm
PROBE_RATE = 0.5  # which a rate of 0 is compared with


def timm_arguments(cfg: config.Model) -> dict[str, float]:
    """The arguments of timm that a config sets."""
    rates = {argument: getattr(cfg, option) for option, argument in DROP_RATES.items()}
    return {argument: rate for argument, rate in rates.items() if rate is not None}


def without_drop_rates(cfg: config.Model) -> config.Model:
    """The config with timm's default rates."""
    return cfg.model_copy(update=dict.fromkeys(DROP_RATES))


def check_drop_rates(cfg: config.Model, build: Callable[[config.Model], nn.Module]) -> None:
    """Check that the encoder takes the rates that a config sets, and that they have an effect on its features.

    Args:
        build: of a `Segmenter`, such as one on the meta device.

    Raises:
        ValueError: naming the option.
    """
    for option, argument in DROP_RATES.items():
        rate = getattr(cfg, option)
        if rate is None:
            continue
        others = without_drop_rates(cfg)
        try:
            builds = (build(others.model_copy(update={option: each})) for each in (0.0, rate or PROBE_RATE))
            without, with_it = map(count_random_operations, builds)
        except TypeError as error:
            if argument not in str(error):
                raise
            raise ValueError(f"model.{option}: timm's '{cfg.encoder}' takes no {argument}: take it out") from None
        if with_it <= without:
            raise ValueError(
                f"model.{option} has no effect on the features of '{cfg.encoder}' (its {argument} is of other layers, "
                f"or cannot be set): take it out"
            )


def count_random_operations(model: nn.Module) -> int:
    """The number of operations that draw random numbers in one forward pass in training, such as dropout.

    Args:
        model: a `Segmenter`.
    """
    images = torch.zeros(2, model.mean.shape[1], PROBE_SIZE, PROBE_SIZE, device=model.mean.device)
    with torch.no_grad(), _RandomOperations() as mode:
        model.train()(images)
    return mode.count


class _RandomOperations(TorchDispatchMode):
    """Counts the operations inside the block that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))
