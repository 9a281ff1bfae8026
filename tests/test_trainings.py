"""The difference of two trainings of one config."""

import numpy as np
import pytest

from pipeline.statistics.trainings import PRIOR, training_spread


def test_spread_of_two_configs_by_hand():
    # .80 and .82: variance .0002 with 1 degree of freedom; .90, .90 and .93: .0003 with 2. Pooled: (.0002 + .0006) / 3.
    found = training_spread([[0.80, 0.82], [0.90, 0.90, 0.93], [0.5]])
    assert found.deviation == pytest.approx((2 * 0.0008 / 3) ** 0.5)
    assert found.seeds == 5
    assert str(found) == "two trainings of one config differ by 0.0231 (standard deviation; from 5 seeds)"


def test_spread_is_the_standard_deviation_of_a_difference():
    scores = np.random.default_rng(0).normal(0.9, 0.01, (200, 3))
    assert training_spread(scores.tolist()).deviation == pytest.approx((scores[:, 0] - scores[:, 1]).std(), rel=0.1)


@pytest.mark.parametrize("scores", [[], [[0.9]], [[0.9], [0.8]]])
def test_without_two_seeds_of_a_config_the_spread_is_the_stated_prior(scores):
    found = training_spread(scores)
    assert found == (PRIOR, 0)
    assert "0.0060 (standard deviation; assumed: no other seeds" in str(found)
