"""Selection on OOF predictions: what is chosen on K − 1 folds is scored on the fold left out, then chosen on all folds.

Each class of a multilabel competition has weights and rules of its own: what suits a frequent class of large objects
rarely suits a rare class of small ones. Exclusive classes are in `multiclass`, instances in `instances`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from pipeline.ensemble.candidate_rules import (
    CandidateRules,
    Folds,
    folds_of,
    large_groups,
    search_candidates,
    without_each,
)
from pipeline.ensemble.candidate_weights import make_chooser
from pipeline.ensemble.combine import Weighting, blend_by
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.weights import Subsample, subsample
from pipeline.metrics import Counts, Metric, Scores, count, nan_to_zero, ratio, stack
from pipeline.postprocess.rules import Rules
from pipeline.postprocess.search import RULE_SETS, ScoreGrid
from pipeline.postprocess.shares import Heads, Histograms, Place
from pipeline.statistics.crossfit import CrossFitted, cross_fit, refuse_one_fold


def no_volume(_image_id: str) -> None:
    """The volume of an image that is no slice."""


def no_group(_image_id: str) -> None:
    """The group of an image where no column has groups."""


def no_heads(_image_id: str) -> Heads:
    """The image heads of members that have none."""
    return ()


@dataclass(frozen=True)
class Oof:
    """The out-of-fold predictions and targets of the training images.

    Args:
        image_ids: of the N images.
        fold_of: (N,) int.
        read: from an image id to its members' values (M, C, H, W) uint8 and its target (C, H, W), 255 where void; of
            instances the target is (H, W), numbered from 1, -1 where void.
        members: M.
        track: shows progress over N items.
        volume_of: from an image's id to its volume; None where it is no slice of one.
        heads_of: from an image's id to what its members' image heads say.
        group_of: from an image's id to its group, which may have a threshold of its own; None where it is missing.
        groups: (N,), images of one group, such as slices of a patient, are one observation; None: each image is.
    """

    image_ids: Sequence[str]
    fold_of: np.ndarray
    read: Callable[[str], tuple[np.ndarray, np.ndarray]]
    members: int
    track: Callable[[Iterable[str], str], Iterable[str]]
    volume_of: Callable[[str], str | None] = no_volume
    heads_of: Callable[[str], Heads] = no_heads
    group_of: Callable[[str], str | None] = no_group
    groups: np.ndarray | None = None

    def images(self, task: str) -> Iterator[tuple[np.ndarray, np.ndarray, Place]]:
        """Values, target and place of each image, one after the other; the progress is named `task`."""
        for image_id in self.track(self.image_ids, task):
            yield *self.read(image_id), self.places[image_id]

    @cached_property
    def places(self) -> dict[str, Place]:
        """Fold, volume, image heads and group of each image."""
        folds = zip(self.image_ids, self.fold_of.tolist(), strict=True)
        of = self.volume_of, self.heads_of, self.group_of
        return {image_id: Place(fold, *(each(image_id) for each in of)) for image_id, fold in folds}

    def only(self, member: int) -> "Oof":
        """The same images with one member alone."""

        def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
            values, target = self.read(image_id)
            return values[member : member + 1], target

        def heads_of(image_id: str) -> Heads:
            return self.heads_of(image_id)[member : member + 1]

        return replace(self, read=read, members=1, heads_of=heads_of)


@dataclass(frozen=True)
class Selection:
    """A renderer chosen on all folds, and the scores of those chosen without each fold on the fold left out."""

    renderer: Renderer  # chosen on all folds: renders the test images
    by_fold: dict[int, Renderer]  # chosen without the fold
    scores: Scores  # cross-fitted, of the N images
    fold_scores: dict[int, float]  # cross-fitted, of the images of each fold
    in_sample: float  # score of `renderer` on the images that it was chosen on
    at_half: float  # score at threshold .5 without further rules, each image with the weights of its `by_fold`
    baseline: float  # score of empty masks; of exclusive classes, of the most frequent class everywhere
    log_loss_weights: np.ndarray  # (M,) of the least log loss of pixels, to compare with weights chosen by the metric
    grids: tuple[ScoreGrid, ...] = ()  # of each class: the rule set of `renderer`, or whose variants it has
    alternatives: dict[str, float] = field(default_factory=dict)  # cross-fitted score of each other method
    counts: Counts | None = None  # (N, C) of the masks that `scores` scores; None where they were not kept
    by_place: dict[Place, Renderer] = field(default_factory=dict)  # by_fold with the thresholds of each place's pools
    group_gains: tuple[float, ...] = ()  # see `CandidateRules.gain_of_groups`; of each class. (): none were tried

    @property
    def score(self) -> float:
        """The cross-fitted score."""
        return self.scores.mean()

    @property
    def optimism(self) -> float:
        """By how much the in-sample score exceeds the cross-fitted one."""
        return self.in_sample - self.score

    def held_out(self, place: Place) -> Renderer:
        """Renders the image of a place: chosen without its fold, with fixed thresholds and without gates or groups."""
        return self.by_place.get(place) or self.by_fold[place.fold].at_place(place)


def select_multilabel(
    oof: Oof, metric: Metric, classes: int, rule_sets: Collection[str] = tuple(RULE_SETS)
) -> Selection:
    """Choose combination, weights, rule set and rules of each class; classes may overlap.

    Each image is read four times, whatever the number of classes, members and folds: for the weights, for the rule
    sets, for their variants and for the scores.

    Args:
        rule_sets: that are tried, names of `search.RULE_SETS`.

    Raises:
        ValueError: for fewer than two folds, or one without a score; as `cross_fit`, `blend` and `RuleSearch`.
    """
    refuse_one_fold(oof.fold_of)
    everything = folds_of(oof.fold_of)
    fits = [*without_each(everything), everything]
    samples, areas = _read_samples(oof, classes)
    choosers = [make_chooser(each, oof.fold_of, metric, oof.members, oof.groups) for each in samples]
    weighted = [{folds: chooser.choose(folds) for folds in fits} for chooser in choosers]
    candidates = _search(oof, metric, weighted, rule_sets)
    chosen = [
        {folds: Postprocess.of(each, *candidates[number, each].best(folds)) for folds, each in of_class.items()}
        for number, of_class in enumerate(weighted)
    ]
    histograms = {key: each.histograms for key, each in candidates.items()}
    fitted, counts = _cross_fit(oof, metric, chosen, histograms)
    final = [candidates[number, of_class[everything]] for number, of_class in enumerate(weighted)]
    scores = Scores.concat_classes([each.scores for each in fitted])
    by_fold = {fold: Renderer(tuple(each.by_fold[fold] for each in fitted)) for fold in everything}
    return Selection(
        renderer=Renderer(tuple(each.final for each in fitted)),
        by_fold=by_fold,
        scores=scores,
        fold_scores=scores_of_folds(oof, scores),
        in_sample=float(np.mean([each.in_sample for each in fitted])),
        at_half=float(np.mean([_score_at_half(candidates, number, each) for number, each in enumerate(weighted)])),
        baseline=metric.baseline(areas, exclusive=False),
        log_loss_weights=np.mean([chooser.by_log_loss(everything) for chooser in choosers], axis=0),
        grids=tuple(each.base(everything) for each in final),
        counts=counts,
        by_place=_at_places(oof, by_fold, histograms),
        group_gains=tuple(gain for each in final if (gain := each.gain_of_groups(everything)) is not None),
    )


def _at_places(
    oof: Oof, by_fold: Mapping[int, Renderer], histograms: Mapping[tuple[int, Weighting], Histograms]
) -> dict[Place, Renderer]:
    """The renderers whose thresholds are shares of several images, with the thresholds of each place."""
    found = {place: by_fold[place.fold] for place in oof.places.values() if by_fold[place.fold].pooled}
    return {
        place: each.at_place(place, [histograms[number, part.weighting] for number, part in enumerate(each.parts)])
        for place, each in found.items()
    }


def _read_samples(oof: Oof, classes: int) -> tuple[list[list[Subsample]], np.ndarray]:
    """The images of each class on a grid, none for a single member, and the true pixels of each class, (N, C)."""
    samples: list[list[Subsample]] = [[] for _ in range(classes)]
    areas = []
    for values, target, _ in oof.images("read predictions"):
        areas.append(np.count_nonzero(target == 1, axis=(1, 2)))
        if oof.members > 1:
            for number, images in enumerate(samples):
                images.append(subsample(values[:, number], target[number]))
    return samples, np.array(areas)


def _search(
    oof: Oof, metric: Metric, weighted: Sequence[Mapping[Folds, Weighting]], rule_sets: Collection[str]
) -> dict[tuple[int, Weighting], CandidateRules]:
    """The candidate rules of each class and each of its weightings, which `weighted` has for each set of folds."""

    def images_of(
        keys: Collection[tuple[int, Weighting]],
    ) -> Iterator[tuple[tuple[int, Weighting], np.ndarray, np.ndarray, Place, int | None]]:
        for values, target, place in oof.images("search rules"):
            for number, each in keys:
                image_value = place.image_value(each.weights, number)
                yield (number, each), blend_by(each, values[:, number]), target[number], place, image_value

    fits: dict[tuple[int, Weighting], list[Folds]] = {}
    for number, of_class in enumerate(weighted):
        for folds, each in of_class.items():
            fits.setdefault((number, each), []).append(folds)
    return search_candidates(images_of, metric, fits, rule_sets, large_groups(oof.places.values()))


def _score_at_half(
    candidates: Mapping[tuple[int, Weighting], CandidateRules], number: int, weighting_of: Mapping[Folds, Weighting]
) -> float:
    """The score of a class at threshold .5, the images of each fold with the weighting chosen without it."""
    everything = max(weighting_of, key=len)
    terms = [
        candidates[number, weighting_of[rest]].grids["total"].terms(Rules(0.5, 0), [fold])
        for fold, rest in zip(everything, without_each(everything), strict=True)
    ]
    return float(nan_to_zero(ratio(*np.sum(terms, axis=0)[:, None])))


def _cross_fit(
    oof: Oof,
    metric: Metric,
    chosen: Sequence[Mapping[Folds, Postprocess]],
    histograms: Mapping[tuple[int, Weighting], Histograms],
) -> tuple[list[CrossFitted[Postprocess]], Counts]:
    """The cross-fitted choice of each class, from `chosen` by sets of folds, and the counts of its masks, (N, C)."""
    everything = folds_of(oof.fold_of)
    rest_of = dict(zip(everything, without_each(everything), strict=True))
    counts: dict[str, list[Counts]] = {"held out": [], "in sample": []}
    for values, target, place in oof.images("score rules"):
        found: dict[tuple[int, Postprocess], Counts] = {}  # often the choice is the same for both
        for part, folds in (("held out", rest_of[place.fold]), ("in sample", everything)):
            rules = (each[folds] for each in chosen)
            here = [
                (number, each.at_place(place, number, histograms[number, each.weighting]))
                for number, each in enumerate(rules)
            ]
            for number, each in here:
                if (number, each) not in found:
                    found[number, each] = count(each.mask(values[:, number]), target[number])
            counts[part].append(stack(found[key] for key in here))
    held_out, in_sample = map(stack, counts.values())

    def fit_class(number: int) -> CrossFitted[Postprocess]:
        held_out_scores, in_sample_scores = (
            metric.scores(Counts(*(term[:, number] for term in each))) for each in (held_out, in_sample)
        )
        return cross_fit(
            oof.fold_of,
            lambda rows: chosen[number][folds_of(oof.fold_of[rows])],
            lambda _, rows: (in_sample_scores if rows.all() else held_out_scores).take(rows),
            image_ids=oof.image_ids,
        )

    return [fit_class(number) for number in range(len(chosen))], held_out


def scores_of_folds(oof: Oof, scores: Scores) -> dict[int, float]:
    """The score of the images of each fold.

    Raises:
        ValueError: for a fold of which no image counts, with its first ids.
    """
    means = {int(fold): scores.take(oof.fold_of == fold).mean() for fold in np.unique(oof.fold_of)}
    for fold in (fold for fold, mean in means.items() if np.isnan(mean)):
        ids = [image_id for image_id, of in zip(oof.image_ids, oof.fold_of, strict=True) if of == fold]
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        raise ValueError(
            f"fold {fold} has no score: the metric counts none of its {len(ids)} images ({some}): they have no mask "
            f"and no prediction, or all is void. Make folds that spread the images with a mask, or fewer of them"
        )
    return means
