"""FCN: bilinear initialization, a sum of scores, and the receptive field of each score."""

import pytest
import torch

from pipeline import config
from pipeline.models import build_model
from pipeline.models.fcn import FCN, bilinear_upsampling

STRIDES = {"fcn32s": (32,), "fcn16s": (32, 16), "fcn8s": (32, 16, 8)}


def net(arch: str, **choices) -> FCN:
    torch.manual_seed(0)
    return build_model(config.Model(arch=arch, encoder="tu-test_efficientnet", weights="none", **choices)).eval().net


def features(fcn: FCN, side: int = 128) -> list[torch.Tensor]:
    """Random features of an image of `side` pixels."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, width, side >> level, side >> level) for level, width in enumerate(fcn.encoder.out_channels)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def randomize_scores(fcn: FCN, numbers: tuple[int, ...]) -> FCN:
    """Random weights for the scores with these numbers, 0 for the others."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for number, score in enumerate(fcn.scores):
            random = torch.randn(score.weight.shape, generator=generator)
            score.weight.copy_(random if number in numbers else torch.zeros_like(random))
    return fcn


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
@torch.no_grad()
def test_initial_upsampling_interpolates_a_ramp_exactly(factor):
    # Output pixel j lies at input coordinate (j + 1/2) / factor - 1/2; rows go up by 3, columns by 2.
    rows, columns = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    enlarged = bilinear_upsampling(1, factor)((3 * rows + 2 * columns)[None, None])[0, 0]
    assert enlarged.shape == (5 * factor, 6 * factor)
    down, across = ((torch.arange(size * factor) + 0.5) / factor - 0.5 for size in (5, 6))
    inside = slice(factor // 2, -(factor // 2))  # outside, a second neighbour is missing
    expected = 3 * down[inside, None] + 2 * across[inside]
    torch.testing.assert_close(enlarged[inside, inside], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_initial_upsampling_does_not_mix_channels():
    image = torch.zeros(1, 2, 4, 4)
    image[0, 0] = 1
    enlarged = bilinear_upsampling(2, 8)(image)
    assert enlarged[0, 0].max() == 1
    assert not enlarged[0, 1].any()


@pytest.mark.parametrize("arch", STRIDES)
def test_upsampling_weights_are_trainable(arch):
    assert all(weight.requires_grad for weight in net(arch).upsample.parameters())


@pytest.mark.parametrize("arch", STRIDES)
@torch.no_grad()
def test_initial_logits_are_0(arch):
    fcn = net(arch)
    assert not fcn.decode(features(fcn), (128, 128))[0].any()


@pytest.mark.parametrize(("arch", "strides"), STRIDES.items())
@torch.no_grad()
def test_logits_are_the_sum_of_the_scores_of_each_stride(arch, strides):
    # Upsampling is linear and skips are added, so the logits are the sum of the parts.
    numbers = tuple(range(len(strides)))
    fcn = net(arch)
    given = features(fcn)
    parts = [randomize_scores(fcn, (number,)).decode(given, (128, 128))[0].clone() for number in numbers]
    assert all(part.any() for part in parts)
    torch.testing.assert_close(randomize_scores(fcn, numbers).decode(given, (128, 128))[0], sum(parts))


@torch.no_grad()
def test_with_zero_skips_the_logits_are_the_bilinearly_upsampled_coarsest_score():
    fcn = randomize_scores(net("fcn8s"), (0,))
    given = features(fcn)
    score = fcn.scores[0](given[-1])
    once = bilinear_upsampling(1, 2)
    assert torch.equal(fcn.decode(given, (128, 128))[0], bilinear_upsampling(1, 8)(once(once(score))))


@pytest.mark.parametrize(("arch", "strides"), STRIDES.items())
def test_a_logit_depends_on_the_nearest_features_of_each_stride(arch, strides):
    # Upsampling by f reaches f pixels to each side, so a logit depends on 2×2 scores, and through the doublings of
    # coarser strides on at most 3×3.
    fcn = randomize_scores(net(arch), tuple(range(len(strides))))
    given = [feature.requires_grad_() for feature in features(fcn)]
    fcn.decode(given, (128, 128))[0][0, 0, 64, 64].backward()
    for stride, feature in zip(strides, reversed(given), strict=False):
        seen = feature.grad.abs().sum(dim=1)[0].nonzero()
        extent = seen.max(dim=0).values - seen.min(dim=0).values + 1
        assert (extent <= (2 if stride == strides[-1] else 3)).all()
        assert (((seen.float() + 0.5) * stride - 64).abs() <= 1.5 * stride).all()
    assert given[-len(strides) - 1].grad is None


def test_dropout_is_that_of_the_config():
    assert net("fcn8s", dropout=0.5).dropout.p == 0.5
