"""Simulated shake-up: which two submissions to select, and how often the public leaderboard's best is not the best.

Kaggle scores a submission on the public part of the test set while the competition runs, and on the private part
afterwards. A team selects two submissions, and the better one counts. The simulation draws test sets from the images
with OOF scores, splits them into a public and a private part, and scores every candidate on both.

A test set is drawn with replacement. Its images are independent draws, so a random split gives two independent sets,
and the two parts can be drawn one after the other. With groups, whole groups are drawn and split, as many as have the
test set's number of images on average.

If only some images count for a metric, a test set whose public or private part has none of them is left out.

Ties: candidates within 1e-12 are equal. If several are first on the public leaderboard, each is followed with the same
probability; that is an error only if its private score is below the best.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pipeline.metrics import Scores
from pipeline.statistics.bootstrap import DRAWS, TIE, draw_scores


class Shakeup(NamedTuple):
    """The results of S candidates over all simulated test sets."""

    public: np.ndarray  # (S,) mean public score
    private: np.ndarray  # (S,) mean private score
    best: np.ndarray  # (S,) share of test sets on which it is best in private; ties are split, so that the sum is 1
    pair_private: np.ndarray  # (S, S) mean private score of the pair's better one; on the diagonal of the candidate
    wrong: float  # share of test sets whose public best is not the private best
    loss: float  # mean private score lost by selecting the public best instead of the private best

    @property
    def pair(self) -> tuple[int, int]:
        """The two to select: the highest expected private score of the better one; of equals, the first two."""
        pairs = list(combinations(range(len(self.private)), 2))
        expected = np.array([self.pair_private[pair] for pair in pairs])
        return pairs[int(np.argmax(expected >= expected.max() - TIE))]


class TooFewGroupsError(ValueError):
    """Too few groups count for the metric: no drawn test set has a public and a private score."""


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
        TooFewGroupsError: if so few groups count for the metric that no drawn test set has both scores.
    """
    if len(scores) < 2:
        raise ValueError(f"scores of {len(scores)} candidates: expected 2 or more")
    return _summarise(
        *simulate_scores(scores, groups, public_share=public_share, test_images=test_images, seed=seed, draws=draws)
    )


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
        ValueError, TooFewGroupsError: as `simulate`, except that one candidate is enough.
    """
    candidates = [Scores.from_values(each) for each in scores]
    _check(candidates, groups, public_share)
    sums = [each.per_group(groups) for each in candidates]
    units = max(2, round(test_images / (len(candidates[0]) / len(sums[0]))))
    if test_images < 2:
        raise ValueError(
            f"a test set of {test_images} images has no public and private part: set leaderboard.images on the card"
        )
    in_public = min(max(1, round(public_share * units)), units - 1)
    if min(each.count_defined() for each in sums) < 2:
        raise TooFewGroupsError(
            f"fewer than 2 of {len(sums[0])} groups count for the metric: a shake-up cannot be estimated"
        )
    rng = np.random.default_rng(seed)
    public, private = (draw_scores(sums, part, rng, draws) for part in (in_public, units - in_public))
    defined = np.isfinite(public).all(axis=1) & np.isfinite(private).all(axis=1)
    if not defined.any():
        raise TooFewGroupsError(
            f"none of {draws} drawn test sets of {units} groups has a public and a private score: too few of "
            f"{len(sums[0])} groups count for the metric"
        )
    return public[defined], private[defined]


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
