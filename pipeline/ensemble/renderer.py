"""From the members' predictions of an image to its masks, or its instances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipeline.ensemble.calibration import Table
from pipeline.ensemble.combine import Weighting, blend_by
from pipeline.ensemble.stacking import Stack
from pipeline.postprocess.instances import InstanceRules, confidences, label_instances
from pipeline.postprocess.rules import Rules, apply, at_place, with_gate
from pipeline.postprocess.shares import Histograms, Place

ARGMAX, INSTANCES = "argmax", "instances"  # the rule sets of multiclass and of instance segmentation
KIND_OF_RULE_SET = {ARGMAX: "multiclass", INSTANCES: "instances"}

Combiner = Callable[[Weighting], np.ndarray]  # from a weighting to an image's combined values, (C, H, W) uint8


class Postprocess(NamedTuple):
    """How members are combined, and the rules that are applied to the combined values."""

    combination: str  # in COMBINATIONS
    weights: tuple[float, ...]  # of the members, of sum 1
    rule_set: str  # in `candidate_rules.RULE_SETS`, or ARGMAX, or INSTANCES
    rules: Rules | InstanceRules | None = None  # None for ARGMAX: a pixel gets its most probable class
    calibration: tuple[Table, ...] = ()  # this and the next two: see `Weighting`
    stack: Stack | None = None
    calibrated_by: str = ""

    @classmethod
    def of(cls, weighting: Weighting, rule_set: str, rules: Rules) -> "Postprocess":
        """The post-processing of a weighting's combined values."""
        combination, weights, *further = weighting
        return cls(combination, weights, rule_set, rules, *further)

    @property
    def weighting(self) -> Weighting:
        """How the members are combined."""
        return Weighting(self.combination, self.weights, self.calibration, self.stack, self.calibrated_by)

    def mask(self, values: np.ndarray) -> np.ndarray:
        """The mask of one image and class.

        Shapes:
            values: (M, H, W) uint8, of the members.
            returns: (H, W) uint8, 0 or 1.
        """
        return apply(blend_by(self.weighting, values), self.rules)

    @property
    def pooled(self) -> bool:
        """Whether the mask of an image depends on further images."""
        return isinstance(self.rules, Rules) and self.rules.pooled

    @property
    def has_gate(self) -> bool:
        """Whether the mask of an image depends on the image heads."""
        return isinstance(self.rules, Rules) and self.rules.gate is not None

    @property
    def grouped(self) -> bool:
        """Whether the mask of an image depends on its group."""
        return isinstance(self.rules, Rules) and bool(self.rules.by_group)

    def at_place(self, place: Place, number: int, histograms: Histograms | None = None) -> "Postprocess":
        """With the threshold of an image's group and pool, and without a gate; unchanged if it has none of them.

        Args:
            number: of the class.
            histograms: of the combined values of all images; only if `pooled`.
        """
        rules = self.rules
        if self.pooled or self.grouped:
            rules = at_place(rules, place, histograms)
        if self.has_gate:
            rules = with_gate(rules, place.image_value(self.weights, number))
        return self if rules is self.rules else self._replace(rules=rules)


@dataclass(frozen=True)
class Renderer:
    """Turns the members' values of an image into masks: combine them first, then render the combined values.

        multilabel   classes may overlap, each has its own post-processing
        multiclass   a pixel gets its most probable class, of equals the first
        instances    one class, whose objects are numbered

    Args:
        parts: one for each class of a multilabel competition; else one in all.
    """

    parts: tuple[Postprocess, ...]

    @property
    def kind(self) -> str:
        """One of "multilabel", "multiclass" and "instances"."""
        return KIND_OF_RULE_SET.get(self.parts[0].rule_set, "multilabel")

    @property
    def weights(self) -> np.ndarray:
        """The members' weights, (M,), in the mean over parts."""
        return np.mean([part.weights for part in self.parts], axis=0)

    @property
    def pooled(self) -> bool:
        """Whether the masks of an image depend on further images, by a threshold that is a share of all of them."""
        return any(part.pooled for part in self.parts)

    @property
    def has_gate(self) -> bool:
        """Whether the masks of an image depend on the image heads."""
        return any(part.has_gate for part in self.parts)

    @property
    def grouped(self) -> bool:
        """Whether the masks of an image depend on its group, by thresholds of groups."""
        return any(part.grouped for part in self.parts)

    def at_place(self, place: Place, histograms: Sequence[Histograms] | None = None) -> "Renderer":
        """The renderer of the image of a place, whose thresholds are fixed, and whose gates are open or closed.

        Args:
            histograms: for each part, of the combined values of all images; only if `pooled`.
        """
        if not (self.pooled or self.has_gate or self.grouped):
            return self
        parts = zip(self.parts, histograms or [None] * len(self.parts), strict=True)
        return replace(
            self, parts=tuple(part.at_place(place, number, each) for number, (part, each) in enumerate(parts))
        )

    @property
    def used(self) -> np.ndarray:
        """Which members any part needs, (M,) bool: those of weight 0 are not read, but for a stack's coefficients."""
        return np.any([part.stack.used if part.stack else np.array(part.weights) > 0 for part in self.parts], axis=0)

    def combine(self, values: np.ndarray) -> np.ndarray:
        """Combine the members' values of one image, (M, C, H, W) uint8, into (C, H, W) uint8."""
        return self.combine_with(lambda weighting: blend_by(weighting, values))

    def combine_with(self, combiner: Combiner) -> np.ndarray:
        """The combined values of one image, (C, H, W) uint8; the combiner is called once per weighting."""
        if self.kind != "multilabel":
            return combiner(self.parts[0].weighting)
        combined = {key: combiner(key) for key in {part.weighting for part in self.parts}}
        return np.stack([combined[part.weighting][number] for number, part in enumerate(self.parts)])

    def render(self, combined: np.ndarray) -> np.ndarray:
        """The instances, (H, W) int32, of instance segmentation; else the masks, (C, H, W) uint8."""
        return self.labels(combined) if self.kind == "instances" else self.masks(combined)

    def masks(self, combined: np.ndarray) -> np.ndarray:
        """The masks of one image, of its combined values (C, H, W) uint8; of instances their union, (1, H, W).

        Shapes:
            returns: (C, H, W) uint8, 0 or 1.
        """
        if self.kind == "instances":
            return (self.labels(combined) > 0).astype(np.uint8)[None]
        if self.kind == "multiclass":
            return (combined.argmax(axis=0) == np.arange(len(combined))[:, None, None]).astype(np.uint8)
        return np.stack([apply(values, part.rules) for values, part in zip(combined, self.parts, strict=True)])

    def labels(self, combined: np.ndarray) -> np.ndarray:
        """The instances of one image, (H, W) int32, numbered from 1; 0 is background."""
        return label_instances(combined, self.parts[0].rules)

    def confidences(self, combined: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The confidence of each instance of `labels`, (N,), 0 to 1."""
        return confidences(combined[0], labels)
