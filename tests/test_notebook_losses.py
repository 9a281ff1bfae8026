"""Functions of the notebook on losses: they show what the losses compute."""

import numpy as np
import pytest
import torch

from pipeline.losses import LOSSES, build_loss
from pipeline.notebook_support import losses as show


def test_one_pixel_in_a_hundred_is_masked():
    assert show.draw_scenes(100, seed=3).target.float().mean() == pytest.approx(0.01, abs=0.002)


def test_a_scene_does_not_depend_on_the_number_of_scenes():
    few, many = show.draw_scenes(2, seed=5), show.draw_scenes(4, seed=5)
    assert torch.equal(few.images, many.images[:2])
    assert not torch.equal(few.images, show.draw_scenes(2, seed=6).images)


def test_gradient_of_bce_is_the_error_over_the_number_of_pixels():
    # d BCE / d logit = (p - t) / pixels, whatever the other pixels are.
    gradients = show.pixel_gradients({"bce": LOSSES["bce"]()})
    pixels = show.SIDE**2
    np.testing.assert_allclose(gradients.inside["bce"], (1 - gradients.probs) / pixels, rtol=1e-4)
    np.testing.assert_allclose(gradients.outside["bce"], gradients.probs / pixels, rtol=1e-4)


def test_gradient_of_lovasz_is_0_beyond_its_margin():
    gradients = show.pixel_gradients({"lovasz": LOSSES["lovasz"]()})
    beyond = gradients.probs > 1 / (1 + np.exp(-1)) + 0.005
    assert not gradients.inside["lovasz"][beyond].any()
    assert gradients.inside["lovasz"][~beyond].all()


def test_the_same_seed_trains_the_same_model():
    scenes = show.draw_scenes(16, seed=0)
    phases = [show.Phase({"bce": 1}, 2), show.Phase({"lovasz": 1}, 2)]
    one, other = (show.predict(show.train(phases, scenes), scenes.images) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == scenes.target.shape


def test_table_of_a_perfect_and_an_empty_prediction():
    target = show.draw_scenes(6, seed=1).target
    table = show.score_table({"perfect": target.float(), "empty": torch.zeros(target.shape)}, target)
    assert table.loc["perfect", "Dice at .5"] == table.loc["perfect", "predicted at .5 / true"] == 1
    assert table.loc["empty", "predicted at .5 / true"] == 0


def test_figures_have_the_expected_panels():
    scenes = show.draw_scenes(2, seed=0)
    probs = {"all": torch.ones(scenes.target.shape)}
    assert len(show.draw_masks(scenes, probs, rows=2).axes) == 4
    assert len(show.plot_gradients(show.pixel_gradients({"dice": LOSSES["dice"]()})).axes) == 2
    assert len(show.plot_surrogates({"hinge": build_loss({"lovasz": 1})}).axes) == 3
