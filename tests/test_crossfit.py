"""Cross-fitting: the rows of each fit and score, and scores by hand."""

import numpy as np
import pytest

from pipeline.statistics.crossfit import cross_fit

FOLD_OF = np.array([2, 0, 2, 5, 0, 2])


def record(calls):
    """A fit and a score function that record their rows."""

    def fit(rows):
        calls.append(("fit", np.flatnonzero(rows).tolist()))
        return len(calls)

    def score(_choice, rows):
        calls.append(("score", np.flatnonzero(rows).tolist()))
        return np.zeros(rows.sum())

    return fit, score


def test_only_the_final_fit_is_scored_on_rows_that_it_was_fitted_on():
    calls = []
    cross_fit(FOLD_OF, *record(calls))
    assert calls == [
        ("fit", [0, 2, 3, 5]),
        ("score", [1, 4]),
        ("fit", [1, 3, 4]),
        ("score", [0, 2, 5]),
        ("fit", [0, 1, 2, 4, 5]),
        ("score", [3]),
        ("fit", [0, 1, 2, 3, 4, 5]),
        ("score", [0, 1, 2, 3, 4, 5]),
    ]


def test_cross_fitted_mean_by_hand():
    # The fit is a mean, the score minus the squared error. Without fold 0 the mean is 3, without fold 1 it is 0; on all
    # rows it is 1, with squared errors 1, 1 and 4 in sample.
    truth = np.array([0.0, 0.0, 3.0])
    found = cross_fit(
        np.array([0, 0, 1]), lambda rows: truth[rows].mean(), lambda mean, rows: -((truth[rows] - mean) ** 2)
    )
    assert found.by_fold == {0: 3, 1: 0}
    assert found.final == 1
    assert found.scores.per_image().tolist() == [-9, -9, -9]
    assert (found.score, found.in_sample) == (-9, -2)


def test_scores_are_in_the_order_of_the_images():
    found = cross_fit(FOLD_OF, lambda rows: None, lambda _, rows: np.flatnonzero(rows))
    assert found.scores.per_image().tolist() == [0, 1, 2, 3, 4, 5]


def test_cross_fitted_score_is_the_mean_over_images():
    found = cross_fit(FOLD_OF, lambda rows: None, lambda _, rows: np.flatnonzero(rows))
    assert list(found.by_fold) == [0, 2, 5]
    assert found.score == 2.5  # and not 2.61, the mean over folds


def test_best_of_300_coins_is_better_than_a_coin_in_sample_only():
    flips = np.random.default_rng(0).integers(2, size=(300, 100)).astype(float)
    found = cross_fit(
        np.arange(100) % 5,
        lambda rows: int(flips[:, rows].mean(axis=1).argmax()),
        lambda coin, rows: flips[coin, rows],
    )
    assert found.in_sample > 0.6
    assert found.score == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("fold_of", [[3, 3, 3], []])
def test_one_fold_is_refused_with_its_number(fold_of):
    expected = rf"{len(fold_of)} images in {len(set(fold_of))} folds \({', '.join(map(str, set(fold_of)))}\)"
    with pytest.raises(ValueError, match=f"{expected}.*at least 2"):
        cross_fit(np.array(fold_of), *record([]))


def test_score_that_is_not_finite_is_refused_with_fold_and_image():
    def score(_, rows):
        return np.where(np.flatnonzero(rows) == 5, np.nan, 1.0)

    with pytest.raises(ValueError, match=r"fold 2: the score of 1 of 3 images is not finite, the first is image 'f'"):
        cross_fit(FOLD_OF, lambda rows: None, score, image_ids=list("abcdef"))
    with pytest.raises(ValueError, match="the first is image number 5"):
        cross_fit(FOLD_OF, lambda rows: None, score)


def test_score_that_is_finite_on_each_fold_but_not_in_sample_is_refused():
    def score(chosen_on_all, rows):
        return np.full(rows.sum(), np.inf if chosen_on_all else 0)

    with pytest.raises(ValueError, match="all folds: the score of 6 of 6"):
        cross_fit(FOLD_OF, lambda rows: rows.all(), score)


def test_a_wrong_number_of_scores_is_refused():
    with pytest.raises(ValueError, match=r"fold 0: 6 scores for 2 images"):
        cross_fit(FOLD_OF, lambda rows: None, lambda _, rows: np.zeros(6))
