"""Simulated shake-up: which two submissions to select, and how often the public leaderboard's best is not the best.

Kaggle scores a submission on the public part of the test set while the competition runs, and on the private part
afterwards. A team selects two submissions, and the better one counts. The simulation draws test sets from the images
with OOF scores, splits them into a public and a private part, and scores every candidate on both.

The OOF images are a sample too. For each test set, they are drawn anew with replacement; otherwise a large simulated
test set would always show the candidate that is best on them. The test set is drawn, with replacement, from this draw.
Its images are independent, so the public and the private part can be drawn one after the other. With groups, whole
groups are drawn and split, as many as have the test set's number of images on average.

The best of several candidates owes a part of its lead to luck. `simulate` therefore moves the candidates' scores
towards their mean, as James and Stein. The factor is 1 − c · noise / variance of the scores, where noise is the
variance that the draws show, and c = (S − 1) / (S + 1) for S candidates. Stein's (S − 3) / (S − 1) is not defined for
two; this c was chosen so that the share of test sets on which a candidate is best agrees with what happens on fresh
images (`benchmarks/calibration.py`).

If only some images count for a metric, a test set whose public or private part has none of them is left out.

Ties: candidates within 1e-12 are equal. If several are first on the public leaderboard, each is followed with the same
probability; that is an error only if its private score is below the best.

Source:
    Efron and Morris, Data analysis using Stein's estimator and its generalizations, 1975,
    https://doi.org/10.1080/01621459.1975.10479864.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pipeline.metrics import Scores
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import DRAWS, TIE, effective_groups, score_draws, student_factor

MIN_GROUPS = 10  # effective, for advice
MIN_WEIGHT = 0.1  # of a lead, however noisy: the order of the candidates is kept


class Shakeup(NamedTuple):
    """The results of S candidates over all simulated test sets."""

    public: np.ndarray  # (S,) mean public score
    private: np.ndarray  # (S,) mean private score
    best: np.ndarray  # (S,) share of test sets on which it is best in private; ties are split, so that the sum is 1
    pair_private: np.ndarray  # (S, S) mean private score of the pair's better one; on the diagonal of the candidate
    wrong: float  # share of test sets whose public best is not the private best
    loss: float  # mean private score lost by selecting the public best instead of the private best
    left_out: int = 0  # drawn test sets without a public or a private score: no image there counts for the metric

    @property
    def pair(self) -> tuple[int, int]:
        """The two to select: the highest expected private score of the better one; of equals, the first two."""
        pairs = list(combinations(range(len(self.private)), 2))
        expected = np.array([self.pair_private[pair] for pair in pairs])
        return pairs[int(np.argmax(expected >= expected.max() - TIE))]


class TooFewGroupsError(ValueError):
    """Too few groups count for the metric."""


def simulate(
    scores: Sequence[Scores | np.ndarray],
    groups: np.ndarray | None = None,
    *,
    public_share: float,
    test_images: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> Shakeup:
    """Simulate the public and private scores of several candidates on many test sets.

    Args:
        scores: of each candidate on the N OOF images; an array (N,) if each image counts the same.
        groups: (N,); images with the same value are drawn together; None draws images.
        public_share: share of the test images that are public, 0 to 1.
        test_images: public and private together.
        draws: number of test sets.

    Raises:
        ValueError: for fewer than two candidates, scores that are not finite, groups of another length, a share that
            is not between 0 and 1, or a test set too small to be split.
        TooFewGroupsError: for fewer than MIN_GROUPS effective groups, or if no drawn test set has both scores.
    """
    if len(scores) < 2:
        raise ValueError(f"scores of {len(scores)} candidates: expected 2 or more")
    candidates = [Scores.from_values(each) for each in scores]
    boards = _draw_boards(candidates, groups, public_share, test_images, seed, draws)
    effective = count_groups(candidates, groups)
    means = np.array([each.mean() for each in candidates])
    moved = _shrink(means, student_factor(effective) * (boards.oof - means)) - boards.oof
    found = _summarise(boards.public + moved, boards.private + moved)
    return found._replace(left_out=draws - len(boards.oof))


def count_groups(scores: Sequence[Scores], groups: np.ndarray | None = None) -> float:
    """The number of effective groups that count for the metric, of the candidate with the fewest.

    Raises:
        TooFewGroupsError: for fewer than MIN_GROUPS.
    """
    effective = min(effective_groups(each.per_group(groups)) for each in scores)
    if effective < MIN_GROUPS - TIE:
        raise TooFewGroupsError(
            f"the metric counts {effective:.1f} effective groups, a simulated shake-up needs {MIN_GROUPS}: it was not "
            f"checked with fewer. Select submissions by other evidence"
        )
    return effective


def simulate_scores(
    scores: Sequence[Scores | np.ndarray],
    groups: np.ndarray | None = None,
    *,
    public_share: float,
    test_images: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[np.ndarray, np.ndarray]:
    """Public and private mean scores of S candidates on each drawn test set, (draws, S) each.

    Args:
        As `simulate`.

    Raises:
        ValueError, TooFewGroupsError: as `simulate`, except that one candidate and 2 groups that count are enough.
    """
    candidates = [Scores.from_values(each) for each in scores]
    boards = _draw_boards(candidates, groups, public_share, test_images, seed, draws)
    return boards.public, boards.private


class _Boards(NamedTuple):
    """The scores of S candidates, (draws or fewer, S) each."""

    oof: np.ndarray  # on the OOF images, drawn anew
    public: np.ndarray
    private: np.ndarray


def _draw_boards(
    candidates: Sequence[Scores],
    groups: np.ndarray | None,
    public_share: float,
    test_images: int,
    seed: int,
    draws: int,
) -> _Boards:
    _check(candidates, groups, public_share)
    sums = [each.per_group(groups) for each in candidates]
    size = len(sums[0])
    units = max(2, round(test_images / (len(candidates[0]) / size)))
    if test_images < 2:
        raise ValueError(
            f"a test set of {test_images} images has no public and private part: set leaderboard.images on the card"
        )
    in_public = min(max(1, round(public_share * units)), units - 1)
    if min(each.count_defined() for each in sums) < 2:
        raise TooFewGroupsError(f"fewer than 2 of {size} groups count for the metric: a shake-up cannot be estimated")
    rngs = [np.random.default_rng([seed, part]) for part in range(3)]  # one each: blocks of any size draw the same
    scores, rows = np.empty((3, draws, len(sums))), max(1, bootstrap.BLOCK // size)
    for start in range(0, draws, rows):
        oof = rngs[0].multinomial(size, np.full(size, 1 / size), size=min(rows, draws - start))
        public = rngs[1].multinomial(in_public, oof / size)
        private = rngs[2].multinomial(units - in_public, oof / size)
        scores[:, start : start + rows] = [score_draws(sums, drawn) for drawn in (oof, public, private)]
    defined = np.isfinite(scores).all(axis=(0, 2))
    if not defined.any():
        raise TooFewGroupsError(
            f"none of {draws} drawn test sets of {units} groups has a public and a private score: too few of "
            f"{size} groups count for the metric"
        )
    return _Boards(*scores[:, defined])


def _shrink(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Draws of the candidates' true scores, (draws, S): means and deviations, with differences nearer to 0.

    Deviations that all candidates share are kept: they do not change which is best.

    Shapes:
        means: (S,); deviations: (draws, S), of the draws from the means.
    """
    shared = deviations.mean(axis=1, keepdims=True)
    own, lead, size = deviations - shared, means - means.mean(), len(means)
    noise, variance = (own**2).mean(axis=0).sum() / (size - 1), (lead**2).sum() / (size - 1)
    weight = 1 - (size - 1) / (size + 1) * noise / max(variance, TIE**2)
    weight = max(weight, MIN_WEIGHT)
    return means.mean() + shared + weight * lead + np.sqrt(weight) * own


def _check(candidates: Sequence[Scores], groups: np.ndarray | None, public_share: float) -> None:
    if len({len(each) for each in candidates}) != 1:
        raise ValueError(
            f"candidates with {', '.join(str(len(each)) for each in candidates)} scores: expected the same images"
        )
    for number, each in enumerate(candidates):
        bad = np.flatnonzero(~np.isfinite(each.numerator).all(axis=1))
        if len(bad):
            raise ValueError(f"candidate {number} has no finite score of image {bad[0]}: leave the image out for all")
    if groups is not None and len(groups) != len(candidates[0]):
        raise ValueError(f"{len(groups)} groups for {len(candidates[0])} images: give one per image, in the same order")
    if not 0 < public_share < 1:
        raise ValueError(f"public share {public_share} is not between 0 and 1: it is the share of the test images")


def _summarise(public: np.ndarray, private: np.ndarray) -> Shakeup:
    """Shakeup of public and private scores, (draws, S) each."""
    top = private.max(axis=1, keepdims=True)
    is_best = private >= top - TIE
    is_first = public >= public.max(axis=1, keepdims=True) - TIE
    chance = is_first / is_first.sum(axis=1, keepdims=True)  # of being selected by the public score
    size = private.shape[1]
    better = [[np.maximum(private[:, i], private[:, j]) for j in range(size)] for i in range(size)]
    return Shakeup(
        public=public.mean(axis=0),
        private=private.mean(axis=0),
        best=(is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0),
        pair_private=np.array([[each.mean() for each in row] for row in better]),
        wrong=float((chance * ~is_best).sum(axis=1).mean()),
        loss=float((chance * (top - private)).sum(axis=1).mean()),
    )
