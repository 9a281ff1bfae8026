"""Adversarial validation: whether test images differ from training images, in what, and what that does to the score.

A classifier tells training from test images by their statistics; each image is classified without its group. If that
is right more often than chance explains, the two sets differ, and the score of the training images is not that of the
test images. The classifier's odds are an estimate of how much more frequent images like a given one are in the test set
than in the training set. The score of the training images, weighted by these odds, estimates that of the test images,
as far as the statistics show what makes an image difficult.

The odds are calibrated on the held-out predictions: where the classifier has found nothing, all of them are 1, and the
weighted score is the plain one.

Source:
    Importance weighting by a classifier's odds: Bickel, Brückner and Scheffer, Discriminative learning under covariate
    shift, 2009, https://jmlr.org/papers/v10/bickel09a.html. A classifier as a test of two samples: Lopez-Paz and Oquab,
    https://arxiv.org/abs/1610.06545. Effective number: Kish, Survey Sampling, 1965.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from pipeline.metrics import Scores
from pipeline.statistics.bootstrap import LEVEL, Interval

FOLDS, REPEATS = 5, 3  # of the cross-validation; an image's log-odds are the mean over the repeats
MIN_GROUPS = 30  # of training images, and of test images
# From this AUC on, with an interval above one half, images are said to differ. Without a shift that happens to at most
# 5 % of the sets of 30 images or more: benchmarks/adversarial_validation.py.
MIN_AUC = 0.55
# The bootstrap draws images, but does not train again: its intervals of the AUC are 1.2 to 1.9 times too narrow.
WIDENING = 1.5
MAX_WEIGHT = 10.0  # of an image, and its inverse the smallest one, before the weights are scaled to a mean of 1
MIN_EFFECTIVE = 20  # images; with fewer, the weighted score rests on too few
DRAWS = 1000  # of the bootstrap of the AUC
MAX_CORRELATION = 0.8  # of ranks, between two statistics that are both named


class StatisticDifference(NamedTuple):
    """How one statistic differs between training and test images."""

    statistic: str
    train: float  # median of the training images
    test: float  # median of the test images
    distance: float  # of the distributions, Kolmogorov and Smirnov's: 0 if they are equal, 1 if they do not overlap

    def __str__(self) -> str:
        return f"{self.statistic} {self.test:.4g} (train {self.train:.4g})"


@dataclass(frozen=True, eq=False)
class AdversarialValidation:
    """What a classifier found that tells training from test images.

    Args:
        auc: area under its ROC curve, on held-out images, with an interval over groups; one half by chance.
        differences: of the statistics, the largest first; of correlated ones, only the first.
        train: calibrated probability that an image is from the test set if both sets were of one size, held out.
        test: the same of the test images.

    Shapes:
        train: (N,) in (0, 1).
        test: (M,) in (0, 1).
    """

    auc: Interval
    differences: Sequence[StatisticDifference]
    train: np.ndarray
    test: np.ndarray

    @property
    def differ(self) -> bool:
        """Whether the test images differ from the training images by more than chance explains."""
        return self.auc.mean >= MIN_AUC and self.auc.low > 0.5

    @property
    def weights(self) -> np.ndarray:
        """How much more frequent images like each training image are in the test set, (N,): mean 1."""
        odds = (self.train / (1 - self.train)).clip(1 / MAX_WEIGHT, MAX_WEIGHT)
        return odds / odds.mean()

    @property
    def effective(self) -> float:
        """The number of equally weighted images whose mean varies as much as the weighted one: 0 to N.

        Images at the lower limit of the weights are like no test image, and do not count.
        """
        counted = np.where(self.train / (1 - self.train) > 1 / MAX_WEIGHT, self.weights, 0)
        return float(counted.sum() ** 2 / (counted**2).sum()) if counted.any() else 0.0


def too_few(what: str, images: int, groups: int) -> str | None:
    """Why images cannot be compared; None if they can.

    Args:
        what: "training" or "test".
    """
    if groups >= MIN_GROUPS:
        return None
    of, needed = ("", "") if groups == images else (f" in {groups} groups", " groups")
    return (
        f"{images} {what} images{of} are too few to tell whether they differ, at least {MIN_GROUPS}{needed} are needed"
    )


def compare_images(
    train: pd.DataFrame,
    test: pd.DataFrame,
    train_groups: Sequence[object],
    test_groups: Sequence[object],
    *,
    seed: int = 0,
) -> AdversarialValidation:
    """Train classifiers that tell training from test images, each without a fifth of the groups.

    Args:
        train, test: a row per image and a column per statistic, NaN where an image has none.
        train_groups, test_groups: images of one group are held out together, also a training and a test image.
        seed: of the folds and the classifiers; with it, the result is the same for any number of threads.

    Raises:
        ValueError: for fewer than MIN_GROUPS groups of either.
    """
    for what, given in (("training", train_groups), ("test", test_groups)):
        if reason := too_few(what, len(given), len(set(given))):
            raise ValueError(reason)
    label = np.repeat([0, 1], [len(train), len(test)])
    values = pd.concat([train, test], ignore_index=True).to_numpy(dtype=float)
    groups = pd.factorize(pd.Series([*train_groups, *test_groups]))[0]
    log_odds = np.mean([_held_out_log_odds(values, label, groups, seed + repeat) for repeat in range(REPEATS)], axis=0)
    probability = _calibrate(log_odds, label)
    return AdversarialValidation(
        _auc_interval(log_odds, label, groups, seed),
        _differences(train, test),
        probability[label == 0],
        probability[label == 1],
    )


def _held_out_log_odds(values: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The log-odds of being a test image, (N + M,), each by a classifier that was trained on other groups."""
    log_odds = np.empty(len(label))
    # No class weights: scikit-learn 1.9 would compute weighted bins, 20 times slower, and the calibration corrects for
    # the sizes of the two sets. One thread: sums of several are rounded differently.
    with threadpool_limits(1):
        splits = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(values, label, groups)
        for inside, held_out in splits:
            classifier = HistGradientBoostingClassifier(
                max_iter=60,
                learning_rate=0.1,
                max_leaf_nodes=8,
                min_samples_leaf=10,
                l2_regularization=1.0,
                max_features=0.5,
                early_stopping=False,
                random_state=seed,
            )
            classifier.fit(values[inside], label[inside])
            log_odds[held_out] = classifier.decision_function(values[held_out])
    return log_odds


def _calibrate(log_odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Probabilities (N + M,) with calibrated odds: logistic regression of the label on held-out log-odds.

    A classifier that is wrong more often than right has found nothing: all probabilities are one half.
    """
    with threadpool_limits(1):
        fitted = LogisticRegression(class_weight="balanced").fit(log_odds[:, None], label)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return expit(slope * log_odds + intercept) if slope > 0 else np.full(len(label), 0.5)


def _auc_interval(log_odds: np.ndarray, label: np.ndarray, groups: np.ndarray, seed: int) -> Interval:
    """The AUC and its interval: groups of both sets are drawn with replacement, each set by itself."""
    _, rank = np.unique(log_odds, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = [_auc(rank, label, _draw_counts(label, groups, rng)) for _ in range(DRAWS)]
    mean = _auc(rank, label, np.ones(len(label)))
    ends = mean + WIDENING * (np.percentile(drawn, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]) - mean)
    low, high = ends.clip(0, 1).tolist()
    return Interval(mean, low, high)


def _draw_counts(label: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn, (N + M,)."""
    counts = np.empty(len(label))
    for part in (0, 1):
        names, of_image = np.unique(groups[label == part], return_inverse=True)
        counts[label == part] = np.bincount(rng.choice(len(names), len(names)), minlength=len(names))[of_image]
    return counts


def _auc(rank: np.ndarray, label: np.ndarray, counts: np.ndarray) -> float:
    """The share of pairs of a training and a test image in which the test image's rank is higher; ties count half.

    Args:
        rank: (N,) int, from 0.
        counts: (N,) how often each image counts.
    """
    train, test = (np.bincount(rank, counts * (label == part), minlength=rank.max() + 1) for part in (0, 1))
    below = np.cumsum(train) - train / 2
    return float((test * below).sum() / (train.sum() * test.sum()))


def _differences(train: pd.DataFrame, test: pd.DataFrame) -> list[StatisticDifference]:
    """The statistics by the distance of their distributions, without those that are correlated with an earlier one."""
    found = [
        StatisticDifference(
            str(name), float(train[name].median()), float(test[name].median()), _distance(train[name], test[name])
        )
        for name in train
        if train[name].notna().any() and test[name].notna().any()
    ]
    ranks = pd.concat([train, test]).rank().corr().abs().to_numpy()
    position = {str(name): number for number, name in enumerate(train)}
    kept: list[StatisticDifference] = []
    for each in sorted(found, key=lambda each: -each.distance):
        same = [ranks[position[each.statistic], position[other.statistic]] for other in kept]
        if not any(correlation > MAX_CORRELATION for correlation in same):
            kept.append(each)
    return kept


def _distance(train: pd.Series, test: pd.Series) -> float:
    return float(ks_2samp(train.dropna(), test.dropna(), method="asymp").statistic)


def weight_scores(scores: Scores, weights: np.ndarray) -> Scores:
    """Scores in which each image counts by its weight.

    Shapes:
        weights: (N,).
    """
    return Scores(scores.numerator * weights[:, None], scores.denominator * weights[:, None])
