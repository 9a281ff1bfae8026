"""Selection for instances: threshold, separation of touching objects and minimum area, by a metric of instances.

One pass over the images scores every candidate on each of them: the best candidate without a fold is then a mean.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product

import numpy as np

from pipeline.ensemble.candidate_rules import folds_of
from pipeline.ensemble.renderer import INSTANCES, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection, scores_of_folds
from pipeline.metrics import Matches, match_overlaps, overlaps
from pipeline.postprocess.instances import InstanceRules, label_instances
from pipeline.statistics.bootstrap import TIE
from pipeline.statistics.crossfit import CrossFitted, cross_fit

ImageScore = Callable[[Matches], float]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
BOUNDARIES = (0.2, 0.35, 0.5)  # boundary thresholds, see `split_by_boundary`
SADDLE_RATIOS = (0.8, 0.9)  # see `split_by_shape`
AREAS = (0, 4, 8, 16, 32, 64, 128)  # pixels


def select_instances(oof: Oof, score: ImageScore, *, boundaries: bool) -> Selection:
    """Choose the rules for instances; members have equal weights.

    Touching objects are separated only if that scores better on folds that the rules were not chosen on. The
    selection's `alternatives` hold the cross-fitted scores of each method of separation, and of none.

    Args:
        oof: of instances, see `Oof`.
        score: of one image, from its matches.
        boundaries: whether the second channel is the boundary between objects.

    Raises:
        ValueError: for fewer than two folds.
    """
    methods = _candidates(boundaries=boundaries)
    rules = list(chain.from_iterable(methods.values()))
    columns = {name: [rules.index(each) for each in some] for name, some in methods.items()}
    table, baselines = [], []
    for values, target, _ in oof.images("separate objects"):
        table.append(list(_score_rules(_renderer(oof.members, rules[0]).combine(values), target, rules, score)))
        baselines.append(score(match_overlaps(*overlaps(np.zeros_like(target), target))))
    scores = np.array(table)
    fitted = _cross_fit(oof, scores, columns)
    return Selection(
        renderer=_renderer(oof.members, rules[fitted.final]),
        by_fold={fold: _renderer(oof.members, rules[each]) for fold, each in fitted.by_fold.items()},
        scores=fitted.scores,
        fold_scores=scores_of_folds(oof, fitted.scores),
        in_sample=fitted.in_sample,
        at_half=float(scores[:, rules.index(InstanceRules(0.5))].mean()),
        baseline=float(np.mean(baselines)),
        log_loss_weights=np.full(oof.members, 1 / oof.members),
        alternatives={name: _cross_fit(oof, scores, {name: some}).score for name, some in columns.items()},
    )


def _candidates(*, boundaries: bool) -> dict[str, list[InstanceRules]]:
    """The rules to try, by method of separation."""
    methods: dict[str, list[dict[str, float]]] = {
        "touching objects as one": [{}],
        "separated by shape": [{"saddle_ratio": ratio} for ratio in SADDLE_RATIOS],
    }
    if boundaries:
        methods["separated by boundary"] = [{"boundary": boundary} for boundary in BOUNDARIES]
    return {
        name: [InstanceRules(t, **fields, min_area=area) for t, fields, area in product(THRESHOLDS, some, AREAS)]
        for name, some in methods.items()
    }


def _renderer(members: int, rules: InstanceRules) -> Renderer:
    return Renderer((Postprocess("mean", (1 / members,) * members, INSTANCES, rules),))


def _cross_fit(oof: Oof, scores: np.ndarray, columns: Mapping[str, list[int]]) -> CrossFitted[int]:
    """The cross-fitted choice of a method, and of its best rules; of equal scores the first.

    A method with more candidates has more luck in sample, so methods are compared by their scores on each fold with the
    rules chosen without it. On a single fold that is impossible, and the best rules of all methods are chosen.

    Args:
        columns: of each method, its columns of `scores`.

    Shapes:
        scores: (N, R), a column for each of the rules.
    """

    def best(rows: np.ndarray, among: list[int]) -> int:
        means = scores[np.ix_(rows, among)].mean(axis=0)
        return among[_first_best(means)]

    def validate(rows: np.ndarray, among: list[int]) -> float:
        folds = [rows & (oof.fold_of == fold) for fold in folds_of(oof.fold_of[rows])]
        return float(np.mean(np.concatenate([scores[each, best(rows & ~each, among)] for each in folds])))

    def choose(rows: np.ndarray) -> int:
        if len(folds_of(oof.fold_of[rows])) == 1:
            return best(rows, list(chain.from_iterable(columns.values())))
        methods = list(columns.values())
        return best(rows, methods[_first_best([validate(rows, each) for each in methods])])

    return cross_fit(oof.fold_of, choose, lambda column, rows: scores[rows, column], image_ids=oof.image_ids)


def _first_best(scores: Sequence[float] | np.ndarray) -> int:
    return int(np.argmax(np.asarray(scores) >= np.max(scores) - TIE))


def _score_rules(
    combined: np.ndarray, target: np.ndarray, rules: Sequence[InstanceRules], score: ImageScore
) -> Iterator[float]:
    """The score of an image by each of the rules. Rules that differ in min_area alone label the instances once."""
    found = {}
    for each in rules:
        key = each._replace(min_area=0)
        if key not in found:
            labels = label_instances(combined, key)
            found[key] = *overlaps(labels, target), np.bincount(labels.ravel())[1:]
        shared, counted, true, areas = found[key]
        kept = areas >= each.min_area
        yield score(match_overlaps(shared[kept], counted[kept], true))
