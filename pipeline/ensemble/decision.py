"""What turns the members' predictions of an image into its masks, of every class, and what that is worth.

Three kinds. Classes that may overlap have a choice each (`PerClass`). Exclusive classes share one, and a pixel belongs
to the most probable (`Exclusive`). Objects are drawn, and parted where they touch (`objects.Objects`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.ensemble.choice import Choice, Chosen, Oof, choose
from pipeline.ensemble.combine import blend
from pipeline.metrics import Metric, Scores
from pipeline.postprocess import apply

# From a combination and the members' weights to the image's combined values, (C, H, W) uint8.
Blender = Callable[[str, tuple[float, ...]], np.ndarray]


def blender(values: np.ndarray) -> Blender:
    """Of the members' values of one image, (M, C, H, W) uint8."""
    return lambda how, weights: blend(values, np.array(weights), how)


class PerClass(NamedTuple):
    """A choice for each class."""

    choices: tuple[Choice, ...]

    def blended(self, blend_by: Blender) -> np.ndarray:
        """The combined values of one image, (C, H, W) uint8."""
        ways = {(choice.how, choice.weights) for choice in self.choices}
        found = {way: blend_by(*way) for way in ways}
        return np.stack([found[choice.how, choice.weights][number] for number, choice in enumerate(self.choices)])

    def masks(self, blend_by: Blender) -> np.ndarray:
        """The masks of one image, (C, H, W) uint8."""
        return np.stack(
            [apply(values, choice.cut) for values, choice in zip(self.blended(blend_by), self.choices, strict=True)]
        )

    @property
    def weights(self) -> np.ndarray:
        """The members' weights, (M,), in the mean over classes."""
        return np.mean([choice.weights for choice in self.choices], axis=0)

    def record(self, members: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """As plain values, for people and other programs."""
        records = [
            {
                "combination": choice.how,
                "weights": dict(zip(members, choice.weights, strict=True)),
                "rules": choice.rules,
                **choice.cut._asdict(),
            }
            for choice in self.choices
        ]
        return records[0] if len(records) == 1 else {"classes": dict(zip(classes, records, strict=True))}


class Exclusive(NamedTuple):
    """One combination; a pixel belongs to its most probable class, of equals to the first."""

    how: str
    shares: tuple[float, ...]  # the members' weights

    def blended(self, blend_by: Blender) -> np.ndarray:
        """The combined values of one image, (C, H, W) uint8."""
        return blend_by(self.how, self.shares)

    def masks(self, blend_by: Blender) -> np.ndarray:
        """The masks of one image, (C, H, W) uint8; each pixel is in one of them."""
        values = self.blended(blend_by)
        return (values.argmax(axis=0) == np.arange(len(values))[:, None, None]).astype(np.uint8)

    @property
    def weights(self) -> np.ndarray:
        """The members' weights, (M,)."""
        return np.array(self.shares)

    def record(self, members: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """As plain values, for people and other programs."""
        return {
            "combination": self.how,
            "weights": dict(zip(members, self.shares, strict=True)),
            "rules": f"the most probable of {len(classes)} classes",
        }


class Drawer(Protocol):
    """Any of these."""

    def blended(self, blend_by: Blender) -> np.ndarray:
        """The combined values of one image, (C, H, W) uint8."""

    def masks(self, blend_by: Blender) -> np.ndarray:
        """The masks of one image, (C, H, W) uint8."""

    @property
    def weights(self) -> np.ndarray:
        """The members' weights, (M,)."""

    def record(self, members: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
        """As plain values."""


@dataclass(frozen=True)
class Decision:
    """What ships, what was chosen without each fold, and what it scores where it was not chosen."""

    scores: Scores  # cross-fitted, of the N images
    in_sample: float  # score of what ships on the images that it was chosen on
    at_half: float  # at threshold .5, with the weights that ship and no further rules
    fold_scores: dict[int, float]  # of each fold's images by the choice made without them
    shipped: Drawer
    by_fold: dict[int, Drawer]  # chosen without the fold
    log_loss_weights: np.ndarray  # (M,) that fit the pixels' log loss best: a check
    parts: tuple[Chosen, ...] = ()  # of each class, where classes have choices of their own
    trivial: float = float(
        "nan"
    )  # score of predicting nothing at all; of exclusive classes, the most frequent everywhere
    others: dict[str, float] = field(default_factory=dict)  # cross-fitted scores of other ways, to compare with

    @property
    def honest(self) -> float:
        """The number to report."""
        return self.scores.mean()


def decide(oof: Oof, metric: Metric, classes: int) -> Decision:
    """Choose for each class on K − 1 folds, score on the fold left out; and choose on all folds what ships.

    Raises:
        ValueError: as `choose`.
    """
    parts = tuple(choose(oof.of_class(number), metric) for number in range(classes))
    fitted = [part.fitted for part in parts]
    scores, folds = Scores.concat_classes([each.scores for each in fitted]), fitted[0].folds.tolist()
    return Decision(
        scores,
        float(np.mean([each.in_sample for each in fitted])),
        float(np.mean([part.at_half() for part in parts])),
        scores_of_folds(oof, scores),
        PerClass(tuple(each.shipped for each in fitted)),
        {fold: PerClass(tuple(each.chosen[at] for each in fitted)) for at, fold in enumerate(folds)},
        np.mean([part.log_loss_weights for part in parts], axis=0),
        parts,
        _nothing(oof, metric),
    )


def scores_of_folds(oof: Oof, scores: Scores) -> dict[int, float]:
    """The score of each fold's images.

    Raises:
        ValueError: for a fold of which no image counts, with its first ids.
    """
    means = {int(fold): scores.take(oof.fold_of == fold).mean() for fold in np.unique(oof.fold_of)}
    for fold in (fold for fold, mean in means.items() if np.isnan(mean)):
        ids = [image_id for image_id, of in zip(oof.image_ids, oof.fold_of, strict=True) if of == fold]
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        raise ValueError(
            f"fold {fold} has no score: the metric counts none of its {len(ids)} images ({some}): nothing is there "
            f"or predicted, or all is void. Make folds that spread the images with a mask, or fewer of them"
        )
    return means


def _nothing(oof: Oof, metric: Metric) -> float:
    """The score of empty masks."""
    areas = np.array([np.count_nonzero(oof.read(image_id)[1] == 1, axis=(1, 2)) for image_id in oof.image_ids])
    return metric.baseline(areas, exclusive=False)
