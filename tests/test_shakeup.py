"""Simulated public and private boards: cases with known results, and a reference loop."""

import numpy as np
import pytest

from pipeline.metrics import Scores
from pipeline.statistics import bootstrap
from pipeline.statistics.shakeup import TooFewGroupsError, _shrink, simulate, simulate_scores


def simulate_by_loop(scores, public_share, test_images, draws):
    """Rate of wrong choices and their loss by a loop: draw the OOF images anew, sample a test set, shuffle, split."""
    rng, wrong, loss = np.random.default_rng(1), [], []
    for _ in range(draws):
        oof = rng.choice(scores.shape[1], scores.shape[1])
        test = oof[rng.choice(len(oof), test_images)]
        split = round(public_share * test_images)
        test = rng.permutation(test)
        public, private = scores[:, test[:split]].mean(axis=1), scores[:, test[split:]].mean(axis=1)
        lost = private.max() - private[public.argmax()]
        wrong.append(lost > 1e-12)
        loss.append(lost)
    return np.mean(wrong), np.mean(loss)


def test_boards_equal_a_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3, 30)) + rng.normal(size=30) + np.array([[0], [0.1], [0.2]])
    public, private = simulate_scores(scores, public_share=0.3, test_images=20, draws=6000)
    lost = private.max(axis=1) - private[np.arange(6000), public.argmax(axis=1)]
    wrong, loss = simulate_by_loop(scores, 0.3, 20, 6000)
    assert np.mean(lost > 1e-12) == pytest.approx(wrong, abs=0.03)
    assert lost.mean() == pytest.approx(loss, abs=0.02)


def test_oof_images_are_drawn_anew_before_each_test_set():
    # 20 scores with variance 1; a private part of 10,000 images has the variance of the OOF sample, 1 / 20, and its
    # own, (1 - 1 / 20) / 10,000. Test sets from the sample as it is would have the second alone.
    scores = np.random.default_rng(0).normal(size=20)
    scores = (scores - scores.mean()) / scores.std()
    _, private = simulate_scores([scores], public_share=0.5, test_images=20_000)
    assert private.var() == pytest.approx(1 / 20 + 0.95 / 10_000, rel=0.1)


def test_leads_are_moved_towards_0_by_hand():
    # Leads of -.1, 0 and .1 have the variance .01. Two draws deviate by ±.06 of candidates 0 and 2 in opposite
    # directions: noise .0036. Factor 1 - (2 / 4) · .0036 / .01 = .82; deviations shrink by its root.
    means = np.array([0.4, 0.5, 0.6])
    own = np.array([[0.06, 0.0, -0.06], [-0.06, 0.0, 0.06]])
    found = _shrink(means, own + 0.01)
    assert found == pytest.approx(0.51 + 0.82 * (means - 0.5) + 0.82**0.5 * own)
    assert _shrink(means, np.full((2, 3), 0.01)) == pytest.approx(np.tile(means + 0.01, (2, 1))), "no noise"
    noisy = _shrink(means, 9 * own)
    assert noisy == pytest.approx(0.5 + 0.1 * (means - 0.5) + 0.1**0.5 * 9 * own), "never below a tenth"


@pytest.mark.slow
def test_claimed_share_of_the_favourite_is_what_happens_on_fresh_images():
    # Three candidates whose true scores differ by .02, on 60 images that differ by .1, and a private part of 1,900.
    # Test sets drawn from the OOF images as they are would claim .95; about .74 happens.
    rng = np.random.default_rng(0)
    claimed, happened = [], []
    for seed in range(500):
        truth = 0.02 * rng.normal(size=3)
        oof = truth[:, None] + 0.1 * rng.normal(size=(3, 60))
        best = oof.mean(axis=1).argmax()
        found = simulate(list(oof), public_share=0.3, test_images=2714, seed=seed, draws=100)
        claimed.append(found.best[best])
        happened.append((truth + 0.1 / 1900**0.5 * rng.normal(size=3)).argmax() == best)
    assert np.mean(claimed) == pytest.approx(np.mean(happened), abs=0.05)


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
    # Two candidates are equal, and a third is worse on each image.
    scores = np.tile(np.random.default_rng(0).random(40), (3, 1))
    scores[2] -= 1
    found = simulate(scores, public_share=0.5, test_images=20)
    assert found.best.tolist() == [0.5, 0.5, 0]
    assert (found.wrong, found.loss) == (0, 0)


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
    assert found.pair == (1, 3)


def test_images_of_one_group_are_on_one_board():
    # Right on one half of the patients or on the other: the mean over 5 images of a patient is 0 or 1.
    scores = np.repeat(np.tile(np.eye(2), 10), 5, axis=1)
    groups = np.repeat(np.arange(20), 5)
    _, private = simulate_scores(scores, groups, public_share=0.5, test_images=10)
    assert set(np.unique(np.round(private, 9))) == {0, 1}
    assert len(np.unique(simulate_scores(scores, public_share=0.5, test_images=10)[1])) == 6


def test_mean_on_a_board_is_over_images_and_not_groups():
    # Patient p has one image with 0, q has three with 1. Two patients of the private part, drawn from two drawn ones:
    # pp, pq, qq have 0, .75, 1. Both drawn are p (1/4), q (1/4) or one each (1/2): the mean is 1/4 + .625 / 2.
    _, private = simulate_scores(
        [np.array([0.0, 1, 1, 1])], np.array(["p", "q", "q", "q"]), public_share=0.5, test_images=8
    )
    assert private.mean() == pytest.approx(0.25 + 0.625 / 2, abs=0.03)


def test_a_larger_test_set_lowers_the_risk_of_a_wrong_choice():
    scores = np.random.default_rng(0).normal(size=(3, 300)) + np.array([[0], [0.1], [0.2]])
    small, large = [simulate(scores, public_share=0.3, test_images=size) for size in (50, 5000)]
    assert large.wrong < small.wrong - 0.2
    assert large.loss < small.loss


def test_public_share_determines_the_size_of_both_boards():
    # A mean of n draws from 100 fair coins drawn anew has the variance (1/100 + .99/n) / 4, and the better of a coin
    # and its inverse exceeds ½ by sqrt(2/π) standard deviations: .544 for 500, .556 for 100.
    scores = np.stack([np.arange(100) % 2, 1 - np.arange(100) % 2])
    for share, size in ((1 / 6, 500), (5 / 6, 100)):
        _, private = simulate_scores(scores, public_share=share, test_images=600)
        expected = 0.5 + (2 / np.pi) ** 0.5 * ((0.01 + 0.99 / size) / 4) ** 0.5
        assert private.max(axis=1).mean() == pytest.approx(expected, abs=0.003)


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
    possible[:12] = 1
    scores = [Scores(possible * value, possible) for value in (np.linspace(0.1, 0.9, 20)[:, None], 0.5)]
    public, private = simulate_scores(scores, public_share=0.3, test_images=4)
    assert 100 < len(public) == len(private) < 2000
    assert np.isfinite([public, private]).all()
    boards = simulate(scores, public_share=0.3, test_images=4)
    assert np.isfinite(boards.best).all()
    assert boards.left_out == 2000 - len(public)


@pytest.mark.parametrize(("counting", "advised"), [(9, False), (10, True)])
def test_no_advice_below_ten_groups_that_count(counting, advised):
    possible = np.zeros((30, 1))
    possible[:counting] = 1
    scores = [Scores(possible * value, possible) for value in (0.7, 0.6)]
    if advised:
        assert simulate(scores, public_share=0.3, test_images=30).best.tolist() == [1, 0]
    else:
        with pytest.raises(TooFewGroupsError, match=r"counts 9\.0 effective groups, a simulated shake-up needs 10"):
            simulate(scores, public_share=0.3, test_images=30)


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
