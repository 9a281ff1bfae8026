"""Simulated public and private boards: cases with known results, and a reference loop."""

import numpy as np
import pytest

from pipeline.metrics import Scores
from pipeline.statistics import bootstrap
from pipeline.statistics.shakeup import TooFewGroupsError, simulate, simulate_scores


def simulate_by_loop(scores, public_share, test_images, draws):
    """Rate of wrong choices and their loss by a loop: sample a test set, shuffle it, split it."""
    rng, wrong, loss = np.random.default_rng(1), [], []
    for _ in range(draws):
        test = rng.choice(scores.shape[1], test_images)
        split = round(public_share * test_images)
        test = rng.permutation(test)
        public, private = scores[:, test[:split]].mean(axis=1), scores[:, test[split:]].mean(axis=1)
        lost = private.max() - private[public.argmax()]
        wrong.append(lost > 1e-12)
        loss.append(lost)
    return np.mean(wrong), np.mean(loss)


def test_boards_of_one_image_each_by_hand():
    # a is right on one image, b on the other; each board has one of them. The better of the two is
    # always right, the public board's is right on every second private part.
    found = simulate(np.eye(2), public_share=0.5, test_images=2)
    assert found.public == pytest.approx([0.5, 0.5], abs=0.04)
    assert found.best == pytest.approx([0.5, 0.5], abs=0.04)
    assert found.wrong == pytest.approx(0.5, abs=0.04)
    assert found.loss == found.wrong
    assert found.pair == (0, 1)
    assert found.pair_private[0, 1] == 1


def test_simulation_equals_a_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 30)) + rng.normal(size=30) + np.array([[0], [0.1], [0.2]])
    found = simulate(scores, public_share=0.3, test_images=20, draws=6000)
    wrong, loss = simulate_by_loop(scores, 0.3, 20, 6000)
    assert found.wrong == pytest.approx(wrong, abs=0.03)
    assert found.loss == pytest.approx(loss, abs=0.02)


def test_identical_candidates_have_no_wrong_choice():
    scores = np.tile(np.random.default_rng(0).random(40), (4, 1))
    found = simulate(scores, public_share=0.3, test_images=30)
    assert (found.wrong, found.loss) == (0, 0)
    assert found.best.tolist() == [0.25] * 4
    assert found.pair == (0, 1)


def test_candidates_of_equal_mean_are_chosen_by_chance():
    # The same scores in four orders: the public score says nothing about the private one.
    rng = np.random.default_rng(0)
    scores = np.stack([rng.permutation(np.linspace(0, 1, 400)) for _ in range(4)])
    found = simulate(scores, public_share=0.4, test_images=100)
    assert found.wrong == pytest.approx(3 / 4, abs=0.04)
    assert found.best == pytest.approx(np.full(4, 1 / 4), abs=0.05)


def test_ties_on_the_public_board_are_broken_at_random():
    # On images 0 … 7 both are right; a alone is on image 8 and b on none more. A public part of one image shows both as
    # equal 8 times of 9, and then b, which is never better, is selected every second time.
    scores = np.array([[1.0] * 9, [1.0] * 8 + [0.0]])
    found = simulate(scores, public_share=0.5, test_images=2)
    assert found.wrong == pytest.approx(8 / 9 / 2 / 9, abs=0.015)


def test_a_candidate_that_is_better_on_every_image_is_always_selected():
    scores = np.random.default_rng(0).random(50) + np.array([[0], [0.1], [-0.1]])
    found = simulate(scores, public_share=0.2, test_images=40)
    assert (found.wrong, found.loss) == (0, 0)
    assert found.best.tolist() == [0, 1, 0]
    assert found.pair == (0, 1)  # 1 with any other has the same value: the first pair


def test_complementary_candidates_are_the_best_pair_though_each_alone_is_worse():
    halves = np.arange(100) % 2
    scores = np.stack([np.full(100, 0.51), halves, np.full(100, 0.511), 1 - halves])
    found = simulate(scores, public_share=0.5, test_images=40)
    assert found.private.argmax() == 2
    assert found.pair == (1, 3)


def test_images_of_one_group_are_on_one_board():
    # Right on one patient or on the other: a board of five images is one patient.
    scores = np.repeat(np.eye(2), 5, axis=1)
    whole = simulate(scores, np.repeat(["p", "q"], 5), public_share=0.5, test_images=10)
    assert whole.pair_private[0, 1] == 1
    assert simulate(scores, public_share=0.5, test_images=10).pair_private[0, 1] < 0.75


def test_mean_on_a_board_is_over_images_and_not_groups():
    # Patient p has one image with 0, q has three with 1. Of two drawn patients: 0, ¾, ¾ or 1.
    scores = np.tile([0.0, 1, 1, 1], (2, 1))
    found = simulate(scores, np.array(["p", "q", "q", "q"]), public_share=0.5, test_images=8)  # 4 patients: 2 and 2
    assert found.private == pytest.approx([0.625, 0.625], abs=0.03)


def test_a_larger_test_set_lowers_the_risk_of_a_wrong_choice():
    scores = np.random.default_rng(0).normal(size=(3, 300)) + np.array([[0], [0.1], [0.2]])
    small, large = [simulate(scores, public_share=0.3, test_images=size) for size in (50, 5000)]
    assert large.wrong < small.wrong - 0.2
    assert large.loss < small.loss


def test_public_share_determines_the_size_of_both_boards():
    # The mean of n fair coins is ½ off by 1/(2·sqrt(n)), and so the better of a coin and its inverse exceeds ½ by
    # sqrt(2/π) of that: .518 for 500, .540 for 100.
    scores = np.stack([np.arange(100) % 2, 1 - np.arange(100) % 2])
    for share, private in ((1 / 6, 500), (5 / 6, 100)):
        found = simulate(scores, public_share=share, test_images=600)
        assert found.pair_private[0, 1] == pytest.approx(0.5 + (2 / np.pi) ** 0.5 / 2 / private**0.5, abs=0.002)


def test_order_of_the_candidates_changes_only_the_order_of_the_results():
    scores = np.random.default_rng(0).normal(size=(4, 60))
    order = np.array([2, 0, 3, 1])
    there = simulate(scores, public_share=0.3, test_images=50)
    back = simulate(scores[order], public_share=0.3, test_images=50)
    for name in ("public", "private", "best"):
        assert getattr(back, name) == pytest.approx(getattr(there, name)[order])
    assert back.pair_private == pytest.approx(there.pair_private[np.ix_(order, order)])
    assert (back.wrong, back.loss) == pytest.approx((there.wrong, there.loss))


def test_a_pair_never_scores_less_than_one_of_its_candidates():
    found = simulate(np.random.default_rng(0).normal(size=(4, 60)), public_share=0.3, test_images=50)
    assert found.best.sum() == pytest.approx(1)
    assert (found.pair_private >= found.private[:, None] - 1e-12).all()
    assert np.diag(found.pair_private) == pytest.approx(found.private)
    assert found.loss > 0


def test_simulation_depends_on_the_seed_and_not_on_the_block_size(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(3, 50))
    expected = simulate(scores, public_share=0.3, test_images=40, seed=3)
    assert simulate(scores, public_share=0.3, test_images=40, seed=4).loss != expected.loss
    monkeypatch.setattr(bootstrap, "BLOCK", 350)
    assert simulate(scores, public_share=0.3, test_images=40, seed=3).loss == pytest.approx(expected.loss)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": np.ones((1, 5))}, "1 candidates: expected 2 or more"),
        ({"scores": np.ones(5)}, r"scores of shape \(\)"),
        ({"scores": np.array([[1.0, 1.0], [1.0, np.nan]])}, "candidate 1 has no finite score of image 1"),
        ({"groups": np.arange(3)}, "3 groups for 5 images"),
        ({"public_share": 1.0}, "public share 1.0 is not between"),
        ({"public_share": 30}, "public share 30 is not between"),
        ({"test_images": 1}, "test set of 1 images"),
    ],
)
def test_invalid_arguments_of_the_simulation_are_refused(changed, message):
    given = {"scores": np.ones((2, 5)), "groups": None, "public_share": 0.3, "test_images": 10} | changed
    with pytest.raises(ValueError, match=message):
        simulate(**given)


def test_test_sets_without_a_score_on_both_boards_are_left_out():
    possible = np.zeros((20, 1))
    possible[:4] = 1
    scores = [Scores(possible * value, possible) for value in (np.linspace(0.1, 0.9, 20)[:, None], 0.5)]
    public, private = simulate_scores(scores, public_share=0.3, test_images=10)
    assert 100 < len(public) == len(private) < 2000
    assert np.isfinite([public, private]).all()
    assert np.isfinite(simulate(scores, public_share=0.3, test_images=10).best).all()


def test_a_shake_up_is_refused_if_no_drawn_test_set_has_both_scores():
    possible = np.zeros((1000, 1))
    possible[:2] = 1
    with pytest.raises(
        TooFewGroupsError, match="none of 2000 drawn test sets of 3 groups has a public and a private score"
    ):
        simulate_scores([Scores(possible, possible)], public_share=0.3, test_images=3)


def test_a_shake_up_of_one_scored_image_is_refused():
    possible = np.zeros((20, 1))
    possible[0] = 1
    with pytest.raises(ValueError, match="fewer than 2 of 20 groups count"):
        simulate_scores([Scores(possible, possible)], public_share=0.3, test_images=10)
