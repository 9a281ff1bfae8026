"""Statistics of images, on images whose statistics are known."""

import numpy as np
import pytest

from pipeline.data.image_statistics import NAMES, compute_statistics


def grey(values):
    return np.asarray(values).clip(0, 255).round().astype(np.uint8)[..., None]


@pytest.mark.parametrize("sigma", [3, 10, 25])
def test_noise_is_the_standard_deviation_of_white_noise_on_any_slope(sigma):
    rng = np.random.default_rng(0)
    slope = np.linspace(80, 170, 200)[:, None] + np.zeros(200)
    assert compute_statistics(grey(slope + rng.normal(0, sigma, slope.shape)))["noise"] == pytest.approx(
        sigma, rel=0.04
    )


def test_an_image_of_two_levels_by_hand():
    # A quarter is 200 and the rest 100: mean 125, variance .75 · 25² + .25 · 75² = 1875; all of it between both parts.
    image = np.full((40, 40), 100)
    image[:20, :20] = 200
    found = compute_statistics(grey(image))
    expected = {
        "brightness": 125,
        "contrast": np.sqrt(1875),
        "median": 100,
        "99th percentile": 200,
        "foreground share": 0.25,
        "bimodality": 1,
        "entropy": 0.25 * 2 + 0.75 * np.log2(4 / 3),
        "dark share": 0,
        "bright share": 0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_constant_image_has_no_contrast_texture_or_colour():
    found = compute_statistics(grey(np.full((30, 50), 77)))
    assert (found["height"], found["width"], found["brightness"]) == (30, 50, 77)
    zero = ("contrast", "noise", "details of 1 px", "details of 16 px", "bimodality", "entropy", "colourfulness")
    assert [found[name] for name in zero] == pytest.approx([0] * len(zero))


def test_a_grey_image_has_the_statistics_of_its_rgb_copy():
    image = grey(np.random.default_rng(0).normal(120, 30, (60, 300)))
    found = compute_statistics(image)
    assert found == pytest.approx(compute_statistics(np.repeat(image, 3, axis=2)))
    assert found["colourfulness"] == 0


@pytest.mark.parametrize(("period", "level"), [(2, 1), (8, 2), (32, 8)])
def test_details_are_found_at_their_size(period, level):
    rows, columns = np.mgrid[:256, :256]
    found = compute_statistics(grey(128 + 60 * np.sin(2 * np.pi * (rows + 0.3 * columns) / period)))
    details = {name: value for name, value in found.items() if name.startswith("details of ")}
    assert max(details, key=details.get) == f"details of {level} px"


def test_colours_have_the_signs_of_their_axes():
    red, blue = np.zeros((2, 20, 20, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    assert compute_statistics(red)["green to red"] > 50
    assert compute_statistics(blue)["blue to yellow"] < -50


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (5, 2, 1)])
def test_the_smallest_images_have_finite_statistics(shape):
    found = compute_statistics(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
    assert tuple(found) == NAMES
    assert np.isfinite(list(found.values())).all()
