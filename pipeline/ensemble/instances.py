"""Selection for instances: threshold, separation of touching objects and minimum area, by a metric of instances.

One pass over the images scores every candidate on each of them: the best candidate without a fold is then a mean.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, product

import numpy as np

from pipeline.ensemble.renderer import INSTANCES, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection, scores_of_folds
from pipeline.metrics import Matches, match_overlaps, overlaps
from pipeline.postprocess.instances import InstanceRules, label_instances
from pipeline.statistics.crossfit import CrossFitted, cross_fit

ImageScore = Callable[[Matches], float]

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
BOUNDARIES = (0.2, 0.35, 0.5)  # boundary thresholds, see `split_by_boundary`
SADDLE_RATIOS = (0.8, 0.9)  # see `split_by_shape`
AREAS = (0, 4, 8, 16, 32, 64, 128)  # pixels


def select_instances(oof: Oof, score: ImageScore, *, boundaries: bool) -> Selection:
    """Choose the rules for instances; members have equal weights.

    Touching objects are separated only if that scores better. The selection's `alternatives` hold the cross-fitted
    scores of each method of separation, and of none.

    Args:
        oof: of instances, see `Oof`.
        score: of one image, from its matches.
        boundaries: whether the second channel is the boundary between objects.

    Raises:
        ValueError: for fewer than two folds.
    """
    methods = _candidates(boundaries=boundaries)
    rules = list(chain.from_iterable(methods.values()))
    table, baselines = [], []
    for values, target, _ in oof.images("separate objects"):
        table.append(list(_score_rules(_renderer(oof.members, rules[0]).combine(values), target, rules, score)))
        baselines.append(score(match_overlaps(*overlaps(np.zeros_like(target), target))))
    scores = np.array(table)
    fitted = _cross_fit(oof, scores, rules, rules)
    return Selection(
        renderer=_renderer(oof.members, fitted.final),
        by_fold={fold: _renderer(oof.members, each) for fold, each in fitted.by_fold.items()},
        scores=fitted.scores,
        fold_scores=scores_of_folds(oof, fitted.scores),
        in_sample=fitted.in_sample,
        at_half=float(scores[:, rules.index(InstanceRules(0.5))].mean()),
        baseline=float(np.mean(baselines)),
        log_loss_weights=np.full(oof.members, 1 / oof.members),
        alternatives={name: _cross_fit(oof, scores, rules, some).score for name, some in methods.items()},
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


def _cross_fit(
    oof: Oof, scores: np.ndarray, rules: Sequence[InstanceRules], among: Sequence[InstanceRules]
) -> CrossFitted[InstanceRules]:
    """The cross-fitted choice among some of the rules, of equal scores the first.

    Shapes:
        scores: (N, R), a column for each of the rules.
    """
    column = {each: number for number, each in enumerate(rules)}
    columns = [column[each] for each in among]

    def best(rows: np.ndarray) -> InstanceRules:
        means = scores[np.ix_(rows, columns)].mean(axis=0)
        return among[int(np.argmax(means >= means.max() - 1e-12))]

    return cross_fit(oof.fold_of, best, lambda each, rows: scores[rows, column[each]], image_ids=oof.image_ids)


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
