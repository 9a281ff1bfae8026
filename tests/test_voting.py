"""Votes of masks, classes and objects, on cases that are small enough to be counted by hand."""

import itertools

import numpy as np
import pytest

from pipeline.ensemble.voting import vote, vote_classes, vote_objects


def test_every_vote_of_three_submissions_by_hand():
    cases = np.array(list(itertools.product([0, 1], repeat=3)), np.uint8).T  # (3, 8)
    majority, ties = vote(cases, np.array([1.0, 1.0, 1.0]))
    assert majority.tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert ties == 0
    heavy, ties = vote(cases, np.array([2.0, 1.0, 1.0]))  # 2 against 1 + 1 is a tie, which is not masked
    assert heavy.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert ties == 2


def test_sums_of_weights_that_only_rounding_makes_unequal_are_ties():
    masks = np.array([[1], [1], [0]], np.uint8)
    assert vote(masks, np.array([0.1, 0.7, 0.8])) == (0, 1)


def test_a_pixel_gets_the_class_of_most_weight_and_of_equals_the_first():
    first, second = np.eye(3, dtype=np.uint8), np.eye(3, dtype=np.uint8)[[1, 2, 2]]
    masks = np.stack([first.T, second.T])[:, :, None]  # submissions, classes, rows, columns
    voted, ties = vote_classes(masks, np.array([1.0, 1.0]))
    assert voted[:, 0].argmax(axis=0).tolist() == [0, 1, 2]
    assert (voted.sum(axis=0) == 1).all()
    assert ties == 2
    voted, ties = vote_classes(masks, np.array([1.0, 2.0]))
    assert voted[:, 0].argmax(axis=0).tolist() == [1, 2, 2]
    assert ties == 0
    assert not vote_classes(0 * masks, np.array([1.0, 2.0]))[0].any()


def row(*labels: int) -> np.ndarray:
    return np.array([labels])


A = row(1, 1, 1, 1, 0, 0, 2, 2, 0)
B = row(0, 5, 5, 5, 0, 0, 0, 0, 7)  # its 5 is A's 1 by an IoU of 3/4; its 7 is alone
C = row(0, 0, 3, 3, 4, 0, 8, 8, 0)  # its 3 has an IoU of 1/2 with A's 1, which is not above one half; its 8 is A's 2


def test_objects_of_three_submissions_are_matched_by_iou_and_voted_by_hand():
    # A's 1 and B's 5 have 2 of 3; A's 2 and C's 8 too. C's 3 and 4 and B's 7 have 1 of 3. Pixel 0 has 1 of 2: a tie.
    voted = vote_objects([A, B, C], np.ones(3))
    assert voted.labels.tolist() == [[0, 1, 1, 1, 0, 0, 2, 2, 0]]
    assert voted.ties == 0


def test_objects_with_half_of_the_weight_are_left_out_and_counted():
    voted = vote_objects([A, B], np.ones(2))
    assert voted.labels.tolist() == [[0, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert voted.ties == 2


def test_an_iou_of_one_half_is_not_the_same_object():
    voted = vote_objects([row(1, 1, 1, 1), row(0, 0, 3, 3)], np.ones(2))
    assert not voted.labels.any()
    assert voted.ties == 2


def test_a_submission_of_more_than_half_of_the_weight_decides():
    assert vote_objects([A, B, C], np.array([3.0, 1.0, 1.0])).labels.tolist() == A.tolist()


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (0.1, 0.7, 0.2)])
def test_copies_of_a_submission_give_its_objects(weights):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7))
    voted = vote_objects([labels] * len(weights), np.array(weights))
    numbers = np.unique(labels)
    assert np.array_equal(numbers[voted.labels], labels)


def test_confidences_are_the_mean_over_all_submissions_and_no_object_is_left_out():
    voted = vote_objects([A, B], np.array([3.0, 1.0]), [np.array([0.8, 0.4]), np.array([0.6, 1.0])])
    by_pixel = dict(zip(voted.labels[0].tolist(), range(9), strict=True))
    found = {by_pixel[number]: confidence for number, confidence in enumerate(voted.confidences.tolist(), start=1)}
    assert found == pytest.approx({3: (3 * 0.8 + 0.6) / 4, 7: 3 * 0.4 / 4, 8: 1.0 / 4})
