"""Names of encoders: `tu-<model>` or `tu-<model>.<tag>` for timm's, the plain name for smp's own.

timm has several sets of weights for many models, each with a tag, such as `a1_in1k` of `resnet18.a1_in1k`. A name
without a tag has the model's default weights.
"""

from difflib import SequenceMatcher
from typing import NamedTuple

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from pipeline.quoting import listed, quoted

PREFIX = "tu-"  # smp's prefix of timm models; smp's native encoders silently ignore misspelt arguments

NATIVE = tuple(f"mit_b{number}" for number in range(6))  # smp's own encoders, which timm does not have: SegFormer's
NATIVE_TAG = "imagenet"  # of their weights


class EncoderName(NamedTuple):
    """The parts of an encoder's name.

    >>> parse("tu-resnet18.a1_in1k")
    EncoderName(prefix='tu-', model='resnet18', tag='a1_in1k')
    >>> parse("tu-resnet18.a1_in1k").untagged, parse("tu-resnet18.a1_in1k").timm
    ('tu-resnet18', 'resnet18.a1_in1k')
    """

    prefix: str  # PREFIX, or empty for smp's own encoders
    model: str
    tag: str  # empty: the model's default

    @property
    def untagged(self) -> str:
        """The name without the tag, as in `encoders.csv`."""
        return self.prefix + self.model

    @property
    def timm(self) -> str:
        """The name in timm: with the tag, if there is one."""
        return f"{self.model}.{self.tag}" if self.tag else self.model


def parse(name: str) -> EncoderName:
    """The parts of an encoder's name, as in `model.encoder`."""
    plain = name.removeprefix(PREFIX)
    model, _, tag = plain.partition(".")
    return EncoderName(name[: len(name) - len(plain)], model, tag)


def tags(model: str) -> dict[str, PretrainedCfg]:
    """The weights that timm has for one of its models, by tag, the default first; empty if it has none."""
    if model in NATIVE:
        return {NATIVE_TAG: pretrained_cfg(EncoderName("", model, NATIVE_TAG))}
    found = get_arch_pretrained_cfgs(model)
    return {cfg.tag or "": cfg for cfg in found.values() if cfg.has_weights}


def pretrained_cfg(name: EncoderName) -> PretrainedCfg:
    """What timm knows of a set of weights: where it is, and mean, standard deviation and size of its images.

    For a model that has none, the images that the model is made for.
    """
    if name.model in NATIVE:
        return PretrainedCfg(
            hf_hub_id=f"smp-hub/{name.model}.{NATIVE_TAG}",
            tag=NATIVE_TAG,
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            license="NVIDIA Source Code License (SegFormer): not for commercial use",
        )
    return timm.get_pretrained_cfg(name.timm, allow_unregistered=True)


def check_tag(name: EncoderName) -> None:
    """Check that timm has weights of this tag.

    Raises:
        ValueError: with the tags that exist, the nearest first.
    """
    known = list(tags(name.model))
    if not name.tag or name.tag in known:
        return
    near = sorted(known, key=lambda tag: -SequenceMatcher(None, name.tag, tag).ratio())
    raise ValueError(
        f"model.encoder: timm has no weights {quoted(name.tag)} of {name.model}. "
        + (f"Nearest first: {listed(near, 200)}" if known else f"It has none of this model: write '{name.untagged}'")
    )
