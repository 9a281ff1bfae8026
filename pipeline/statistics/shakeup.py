"""Which two submissions to choose, and how often the public leaderboard would choose the wrong one.

Kaggle scores a submission on a public part of the test set while the competition runs, and on the private rest when it
is over; of two submissions that a team names before, the better one counts. OOF scores say what to expect: test sets
are drawn from the scored images, split into public and private part, and every candidate is scored on both, on the same
images.

A test set is drawn with replacement: its images are independent draws, and split at random they make two sets of
independent draws, so the two parts are simply drawn one after the other. With groups, what is drawn and split are whole
groups, as many as hold the test set's images on average.

Of a metric for which only some images count, a test set whose public or private part has none of them has no board,
and is left out.

Ties: candidates within 1e-12 are equal. The public board's first among equals is any of them, each as likely; it is
wrong only if its private score is below the best.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pipeline.metrics import Scores, ratio

DRAWS = 2000
BLOCK = 1 << 20  # weights held at once, 8 MiB
TIE = 1e-12


class Shakeup(NamedTuple):
    """What S candidates did over all simulated boards."""

    public: np.ndarray  # (S,) mean public score
    private: np.ndarray  # (S,) mean private score
    best: np.ndarray  # (S,) share of boards on which it is best in private; equals share a board, so the sum is 1
    agreement: np.ndarray  # (S,) −1 to 1: how its comparisons with the others agree between the two boards
    pair_best: np.ndarray  # (S, S) share of boards on which the pair's better one is the best in private
    pair_private: np.ndarray  # (S, S) mean private score of the pair's better one; one's own on the diagonal
    wrong: float  # share of boards whose public first is not the best in private
    loss: float  # mean private score that following the public board costs against the best

    @property
    def pair(self) -> tuple[int, int]:
        """The two to choose: the highest expected private score of the better one; of equals, the first two."""
        pairs = list(combinations(range(len(self.private)), 2))
        worth = np.array([self.pair_private[pair] for pair in pairs])
        return pairs[int(np.argmax(worth >= worth.max() - TIE))]

    @property
    def rank_correlation(self) -> float:
        """Kendall's τ of the public and the private ranking, a pair that is equal on one of them counting 0."""
        return float(self.agreement.mean())


class TooFewError(ValueError):
    """Too few groups count for the metric: no test set that is drawn has a public and a private score."""


def simulate(
    scores: Sequence[Scores | np.ndarray],
    groups: np.ndarray | None = None,
    *,
    public_share: float,
    test_images: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> Shakeup:
    """Play a competition's end many times.

    Args:
        scores: of each candidate on the N OOF images; an array (N,) where each image counts alike.
        groups: (N,); images of one value are drawn together.
        public_share: 0 to 1, of the test images.
        test_images: public and private together.

    Raises:
        ValueError: for fewer than two candidates, scores that are not finite, groups of another length, a share that
            is not between 0 and 1, or a test set too small to be split.
        TooFewError: if so few groups count for the metric that no drawn test set has both scores.
    """
    if len(scores) < 2:
        raise ValueError(f"scores of {len(scores)} candidates: expected 2 or more")
    return _summarise(
        *boards(scores, groups, public_share=public_share, test_images=test_images, seed=seed, draws=draws)
    )


def boards(
    scores: Sequence[Scores | np.ndarray],
    groups: np.ndarray | None = None,
    *,
    public_share: float,
    test_images: int,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[np.ndarray, np.ndarray]:
    """Public and private mean scores of S candidates on each drawn test set, (draws, S) each; arguments of `simulate`.

    Raises:
        ValueError: as `simulate`, but one candidate will do.
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
        raise TooFewError(f"fewer than 2 of {len(sums[0])} groups count for the metric: they say nothing of a shake-up")
    rng = np.random.default_rng(seed)
    public, private = _board(sums, in_public, rng, draws), _board(sums, units - in_public, rng, draws)
    defined = np.isfinite(public).all(axis=1) & np.isfinite(private).all(axis=1)
    if not defined.any():
        raise TooFewError(
            f"none of {draws} drawn test sets of {units} groups has a public and a private score: too few of "
            f"{len(sums[0])} groups count for the metric"
        )
    return public[defined], private[defined]


def _check(candidates: Sequence[Scores], groups: np.ndarray | None, public_share: float) -> None:
    if len({len(each) for each in candidates}) != 1:
        raise ValueError(f"candidates with {', '.join(str(len(each)) for each in candidates)} scores: not of one set")
    for number, each in enumerate(candidates):
        bad = np.flatnonzero(~np.isfinite(each.numerator).all(axis=1))
        if len(bad):
            raise ValueError(f"candidate {number} has no finite score of image {bad[0]}: leave the image out for all")
    if groups is not None and len(groups) != len(candidates[0]):
        raise ValueError(f"{len(groups)} groups for {len(candidates[0])} images: give one per image, in the same order")
    if not 0 < public_share < 1:
        raise ValueError(f"public share {public_share} is not between 0 and 1: it is the share of the test images")


def _board(sums: Sequence[Scores], units: int, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Scores over `units` drawn groups, (draws, S)."""
    size = len(sums[0])
    board, rows = np.empty((draws, len(sums))), max(1, BLOCK // size)
    for start in range(0, draws, rows):
        drawn = rng.multinomial(units, np.full(size, 1 / size), size=min(rows, draws - start))
        scored = [ratio(drawn @ each.numerator, drawn @ each.denominator) for each in sums]
        board[start : start + rows] = np.stack(scored, axis=1)
    return board


def _summarise(public: np.ndarray, private: np.ndarray) -> Shakeup:
    """Shakeup of boards, (draws, S) each."""
    top = private.max(axis=1, keepdims=True)
    is_best = private >= top - TIE
    is_first = public >= public.max(axis=1, keepdims=True) - TIE
    chance = is_first / is_first.sum(axis=1, keepdims=True)  # to be the one that the public board names
    size = private.shape[1]
    better = [[np.maximum(private[:, i], private[:, j]) for j in range(size)] for i in range(size)]
    return Shakeup(
        public=public.mean(axis=0),
        private=private.mean(axis=0),
        best=(is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0),
        agreement=_agreement(public, private),
        pair_best=np.array([[(each >= top[:, 0] - TIE).mean() for each in row] for row in better]),
        pair_private=np.array([[each.mean() for each in row] for row in better]),
        wrong=float((chance * ~is_best).sum(axis=1).mean()),
        loss=float((chance * (top - private)).sum(axis=1).mean()),
    )


def _agreement(public: np.ndarray, private: np.ndarray) -> np.ndarray:
    """Of each candidate, the mean over the others and over boards of sign(public) · sign(private), (S,)."""
    candidates = range(public.shape[1])
    agreed = [(_signs(public, each) * _signs(private, each)).sum(axis=1).mean() for each in candidates]
    return np.array(agreed) / (len(candidates) - 1)  # a comparison with itself added nothing


def _signs(board: np.ndarray, each: int) -> np.ndarray:
    """Whether a candidate is above (1), level with (0) or below (−1) each of the candidates."""
    ahead = board[:, [each]] - board
    return np.sign(ahead) * (np.abs(ahead) > TIE)
