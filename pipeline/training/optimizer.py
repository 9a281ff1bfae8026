"""The optimizer of a phase, its parameter groups, and its learning-rate schedule."""

import inspect
import math
from fnmatch import fnmatch
from typing import Any, get_type_hints

import pydantic
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from torch import nn

from pipeline import config
from pipeline.models.encoder_name import NATIVE, parse
from pipeline.models.weights import canonical
from pipeline.quoting import first_line, shortened
from pipeline.schema import Table, did_you_mean
from pipeline.schema import parse as parse_table

SET_ELSEWHERE = {"lr": "train.phases[].lr", "weight_decay": "train.weight_decay"}  # arguments that are other options
DEFAULTS: dict[str, dict[str, Any]] = {
    "adamw": {"fused": True},  # faster; of the same result
    # Else it draws from the process's generator, and the weights of the processes of torchrun would drift apart.
    "kron": {"deterministic": True},
    "kronw": {"deterministic": True},
}
NOT_FUSED = ("foreach", "differentiable")  # options that torch refuses beside `fused`
PROBED = 8  # rows and columns of the weight that `check_optimizer` changes: Muon treats fewer than 4 as AdamW does


def build_optimizer(model: nn.Module, phase: config.Phase, cfg: config.Train, encoder: str) -> torch.optim.Optimizer:
    """The optimizer of a phase.

    Args:
        model: a `Segmenter`.
        encoder: its name, as in `model.encoder`.

    Raises:
        ValueError: as `encoder_layers`; for an option that the optimizer does not take.
    """
    groups = parameter_groups(model, encoder, cfg.weight_decay, phase.encoder_lr, phase.layer_decay)
    return _create(groups, cfg, phase.lr)


def _create(groups: list[dict[str, Any]], cfg: config.Train, lr: float) -> torch.optim.Optimizer:
    options = cfg.optimizer_options
    defaults = DEFAULTS.get(cfg.optimizer, {})
    if any(options.get(name) for name in NOT_FUSED):
        defaults = {name: value for name, value in defaults.items() if name != "fused"}
    return create_optimizer_v2(groups, cfg.optimizer, lr=lr, weight_decay=cfg.weight_decay, **defaults | options)


def check_optimizer(cfg: config.Train) -> None:
    """Check the name of the optimizer and its options.

    Raises:
        ValueError: for an unknown one, with the nearest; for values that the optimizer refuses.
    """
    name, known = cfg.optimizer, list_optimizers()
    if name not in known:
        raise ValueError(f"train.optimizer: unknown optimizer '{shortened(name)}'. {did_you_mean(name, known)}")
    for option in sorted(cfg.optimizer_options.keys() & SET_ELSEWHERE):
        raise ValueError(f"train.optimizer_options: {option} is set by {SET_ELSEWHERE[option]}: take it out")
    try:
        table = _table_of_options(get_optimizer_class(name, bind_defaults=False))
    except Exception as error:  # a package is missing
        raise ValueError(f"train.optimizer: {name} cannot be used here ({first_line(error)})") from error
    parse_table(table, cfg.optimizer_options, f"train.optimizer_options: {name}")
    try:
        _make_step(cfg)
    except Exception as error:  # a value is refused, or more than the gradient is needed
        key = "train.optimizer_options" if cfg.optimizer_options else "train.optimizer"
        raise ValueError(f"{key}: {name} cannot be used here ({first_line(error)})") from error


class _Options(Table):
    """Arguments of an optimizer, of exactly the types that it declares."""

    model_config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True)


def _table_of_options(optimizer: type[torch.optim.Optimizer]) -> type[Table]:
    """The arguments of an optimizer by name: its types, or those of the defaults where it declares none."""
    types = get_type_hints(optimizer.__init__)
    fields: dict[str, Any] = {
        name: (types.get(name, _type_of(each.default)), each.default)
        for name, each in inspect.signature(optimizer).parameters.items()
        if name not in ("params", *SET_ELSEWHERE)
    }
    return pydantic.create_model("Options", __base__=_Options, **fields)


def _type_of(default: object) -> object:
    """The type of the values of an argument with this default; a whole number may be a default of any number."""
    if isinstance(default, tuple):
        return tuple[(float,) * len(default)]
    return type(default) if isinstance(default, bool | str) else float


def _make_step(cfg: config.Train) -> None:
    weight = nn.Parameter(torch.ones(PROBED, PROBED))
    optimizer = _create([{"params": [weight]}], cfg, lr=1e-3)
    weight.grad = torch.ones(PROBED, PROBED)
    optimizer.step()


def parameter_groups(
    model: nn.Module, encoder: str, weight_decay: float, encoder_lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """The trainable weights in groups of one decay and one rate.

    Norms, biases and what timm lists in `no_weight_decay`, such as position embeddings, do not decay. Weights of the
    encoder's layer number i have encoder_lr · layer_decay^(last - i) of the learning rate, so that the layers nearest
    to the image learn slowest; all others have the rate itself.

    Args:
        model: a `Segmenter`.
        encoder: its name.
        encoder_lr, layer_decay: factors.

    Returns:
        groups with the keys params, weight_decay and lr_scale.

    Raises:
        ValueError: as `encoder_layers`, for a layer_decay.

    Source:
        layer_decay: BEiT, https://arxiv.org/abs/2106.08254, as timm's param_groups_layer_decay. No decay of norms and
        biases: He et al., Bag of Tricks, https://arxiv.org/abs/1812.01187, section 3.1; as timm's
        param_groups_weight_decay.
    """
    layers = encoder_layers(encoder) if layer_decay != 1 else {}
    without_decay = _without_decay(encoder)
    of_encoder = {weight: canonical(name) for name, weight in model.encoder.named_parameters()}
    last = max((layers[name] for name in of_encoder.values() if name in layers), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            layer = layers.get(of_encoder.get(weight), last)
            scale = encoder_lr * layer_decay ** (last - layer) if weight in of_encoder else 1.0
            decays = weight.ndim > 1 and not name.endswith(".bias") and of_encoder.get(weight) not in without_decay
            groups.setdefault((weight_decay if decays else 0.0, scale), []).append(weight)
    return [{"params": weights, "weight_decay": decay, "lr_scale": scale} for (decay, scale), weights in groups.items()]


def encoder_layers(encoder: str) -> dict[str, int]:
    """The number of the layer of each of an encoder's weights, from 0 at the image, by `weights.canonical` name.

    Args:
        encoder: as in `model.encoder`.

    Raises:
        ValueError: if timm does not know its layers.
    """
    model = _timm_model(encoder)
    if not hasattr(model, "group_matcher"):
        raise ValueError(f"timm does not know the layers of '{encoder}': leave layer_decay and unfreeze_epochs out")
    numbers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return {canonical(name): number for name, number in numbers.items()}


def _without_decay(encoder: str) -> set[str]:
    """The encoder's weights that timm leaves out of weight decay, by `weights.canonical` name."""
    model = _timm_model(encoder)
    patterns = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    return {
        canonical(name)
        for name, _ in (model.named_parameters() if model else ())
        if any(fnmatch(name, pattern) for pattern in patterns)
    }


def _timm_model(encoder: str) -> nn.Module | None:
    """timm's whole model of an encoder, without values; None for smp's own encoders."""
    if parse(encoder).model in NATIVE:
        return None
    with torch.device("meta"):
        return timm.create_model(parse(encoder).model, pretrained=False)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, scaled by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, final: float, cycles: int = 1) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `final · peak` at the last step; repeated in every cycle.

    The rate depends on the step only, so a resumed run needs no scheduler state.

    Args:
        step: 0 … steps-1.
        warmup: share of the steps.
        final: share of the peak.
        cycles: number of equal parts of the steps, which must be divisible by it; each starts with a warm-up.

    Source:
        Loshchilov & Hutter, SGDR, https://arxiv.org/abs/1608.03983: restarts.

    >>> [round(learning_rate(step, 5, peak=1.0, warmup=0.2, final=0.0), 3) for step in range(5)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """
    steps //= cycles
    step %= steps
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising - 1)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))


def learning_rates(phase: config.Phase, epoch: int, updates: int) -> list[float]:
    """The learning rate of each update of one epoch.

    Args:
        epoch: of the phase, from 0.
        updates: in one epoch.
    """
    return [
        learning_rate(
            step,
            updates * phase.epochs,
            peak=phase.lr,
            warmup=phase.warmup,
            final=phase.final_lr,
            cycles=phase.cycles,
        )
        for step in range(epoch * updates, (epoch + 1) * updates)
    ]
