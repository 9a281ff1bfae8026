"""Losses of soft targets: values by hand and by loops, their minimum at p = t, and equality with hard targets."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.losses import LOSSES, WeightedLoss, build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.jaccard import JaccardLoss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.tversky import FocalTverskyLoss, TverskyLoss
from pipeline.metrics import VOID
from pipeline.models.segmenter import Outputs
from pipeline.training.objective import MultiHeadLoss
from tests.pixels import PerClass, gradient, random_batch, row

# The defaults of every loss that supports soft targets, and what its options change.
CASES = {name: loss for name, loss in LOSSES.items() if loss.supports_soft} | {
    "bce, weighted and smoothed": partial(BCELoss, positive_weight=3.0, smoothing=0.1),
    "bce, of the hardest pixels": partial(BCELoss, hardest=0.4),
    "bce, weighted by channel": partial(PerClass, BCELoss),
    "focal, steep": partial(FocalLoss, gamma=0.5, alpha=0.75),
    "focal, without damping": partial(FocalLoss, gamma=0.0),
    "dice, per batch": partial(DiceLoss, over="batch"),
    "focal_tversky, of what is present": partial(FocalTverskyLoss, empty="ignore"),
    "jaccard, per batch, of what is present": partial(JaccardLoss, over="batch", empty="ignore"),
    "mix": partial(WeightedLoss, {"bce": 0.5, "jaccard": 2.0}),
}
every_case = pytest.mark.parametrize("name", CASES)


def logit(p):
    return math.log(p / (1 - p))


def soft_batch(shape=(2, 3, 5, 7), *, dtype=torch.float64, seed=0):
    """Logits, and targets of which a third is 0, a third 1, and a third in between."""
    logits, _ = random_batch(shape, dtype=dtype, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    return logits, (3 * torch.rand(shape, generator=generator, dtype=dtype) - 1).clamp(0, 1)


# Values by hand.


def test_dice_and_jaccard_of_a_soft_pixel_by_hand():
    # p = 1/2, t = 1/4: the smaller of both is 1/4, their sum 3/4, the larger 1/2.
    logits, target = row(logit(0.5)), row(0.25)
    assert DiceLoss(smooth=1.0)(logits, target).item() == pytest.approx(1 - (2 * 0.25 + 1) / (0.75 + 1))
    assert JaccardLoss(smooth=1.0)(logits, target).item() == pytest.approx(1 - (0.25 + 1) / (0.5 + 1))


def test_tversky_of_soft_pixels_by_hand():
    # p = 1/2 above t = 1/4 by 1/4, p = 1/4 below t = 3/4 by 1/2; the smaller of both is 1/4 twice.
    logits, target = row(logit(0.5), logit(0.25)), row(0.25, 0.75)
    index = (0.5 + 1) / (0.5 + 0.3 * 0.25 + 0.7 * 0.5 + 1)
    assert TverskyLoss()(logits, target).item() == pytest.approx(1 - index)
    assert FocalTverskyLoss(gamma=2.0)(logits, target).item() == pytest.approx(math.sqrt(1 - index))


def test_bce_and_focal_of_a_soft_pixel_by_hand():
    # p = 3/4, t = 1/4: cross entropy, damped by (1/2)^2, weight 1/4 · 1/4 + 3/4 · 3/4.
    logits, target = row(logit(0.75)), row(0.25)
    cross_entropy = -0.25 * math.log(0.75) - 0.75 * math.log(0.25)
    assert BCELoss()(logits, target).item() == pytest.approx(cross_entropy)
    assert FocalLoss()(logits, target).item() == pytest.approx((1 / 16 + 9 / 16) * 0.25 * cross_entropy)


# Against the formulas, by loops.


def pixels_of(logits, target, over):
    """The (p, t) of the valid pixels of each set."""
    sets = {}
    for (image, channel, *_), value in zip(torch.ones_like(target).nonzero().tolist(), target.flatten(), strict=True):
        sets.setdefault(channel if over == "batch" else (image, channel), []).append(value.item())
    probs = {}
    for (image, channel, *_), value in zip(torch.ones_like(target).nonzero().tolist(), logits.flatten(), strict=True):
        probs.setdefault(channel if over == "batch" else (image, channel), []).append(1 / (1 + math.exp(-value.item())))
    return [[(p, t) for p, t in zip(probs[key], sets[key], strict=True) if t != VOID] for key in sets]


def tversky_by_loops(logits, target, alpha, beta, smooth, gamma=1.0, over="image"):
    losses = []
    for pairs in pixels_of(logits, target, over):
        both = sum(min(p, t) for p, t in pairs)
        false_positive, false_negative = (sum(max(sign * (p - t), 0) for p, t in pairs) for sign in (1, -1))
        index = (both + smooth) / (both + alpha * false_positive + beta * false_negative + smooth)
        losses.append((1 - index) ** (1 / gamma))
    return sum(losses) / len(losses)


def mean_by_loops(logits, target, each):
    values = [each(p, t) for pairs in pixels_of(logits, target, "image") for p, t in pairs]
    return sum(values) / len(values)


def bce_by_loops(p, t, weight=1.0, smoothing=0.0):
    s = t * (1 - smoothing) + smoothing / 2
    return -weight * s * math.log(p) - (1 - s) * math.log(1 - p)


def focal_by_loops(p, t, gamma=2.0, alpha=0.25):
    return (alpha * t + (1 - alpha) * (1 - t)) * abs(p - t) ** gamma * bce_by_loops(p, t)


REFERENCES = {
    BCELoss(): lambda *batch: mean_by_loops(*batch, bce_by_loops),
    BCELoss(3.0, 0.1): lambda *batch: mean_by_loops(*batch, lambda p, t: bce_by_loops(p, t, 3.0, 0.1)),
    FocalLoss(): lambda *batch: mean_by_loops(*batch, focal_by_loops),
    FocalLoss(0.5, 0.75): lambda *batch: mean_by_loops(*batch, lambda p, t: focal_by_loops(p, t, 0.5, 0.75)),
    DiceLoss(2.0): lambda *batch: tversky_by_loops(*batch, 0.5, 0.5, 1.0),
    DiceLoss(2.0, over="batch"): lambda *batch: tversky_by_loops(*batch, 0.5, 0.5, 1.0, over="batch"),
    JaccardLoss(): lambda *batch: tversky_by_loops(*batch, 1, 1, 1.0),
    TverskyLoss(0.2, 0.9): lambda *batch: tversky_by_loops(*batch, 0.2, 0.9, 1.0),
    FocalTverskyLoss(): lambda *batch: tversky_by_loops(*batch, 0.3, 0.7, 1.0, 4 / 3),
}


@pytest.mark.parametrize(("loss", "by_loops"), REFERENCES.items())
def test_soft_losses_equal_their_formulas_by_loops(loss, by_loops):
    logits, target = soft_batch()
    target[0, :, 2:4, 1:5] = VOID
    assert loss(logits, target).item() == pytest.approx(by_loops(logits, target), rel=1e-12)


# Gradients.


@every_case
def test_gradient_of_soft_targets_equals_finite_differences(name):
    logits, target = soft_batch((2, 2, 3, 4))
    target[0, 0], target[0, 1], target[1, 0, 0, 0] = 0, 1, VOID
    assert torch.autograd.gradcheck(lambda x: CASES[name]()(x, target), logits.requires_grad_())


# Hard targets.


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_target_of_floats_0_and_1_gives_exactly_the_loss_and_gradient_of_a_hard_one(name, dtype):
    logits, target = random_batch((3, 2, 17, 19), dtype=dtype)
    logits[0] *= 40  # confident, right and wrong
    target[1, 0], target[2, :, 3:6] = 0, VOID
    hard = target.to(torch.uint8)
    assert torch.equal(CASES[name]()(logits, target), CASES[name]()(logits, hard))
    assert torch.equal(gradient(CASES[name](), logits, target), gradient(CASES[name](), logits, hard))


@every_case
def test_void_pixels_of_a_soft_target_change_nothing(name):
    logits, target = soft_batch()
    target[:, :, 2] = VOID
    other = logits.clone()
    other[:, :, 2] = 9
    assert torch.equal(CASES[name]()(logits, target), CASES[name]()(other, target))
    assert not gradient(CASES[name](), logits, target)[:, :, 2].any()


# The minimum.

SHARES = torch.linspace(0.05, 0.95, 35, dtype=torch.float64).reshape(1, 1, 5, 7)
LEAST_AT_TARGET = sorted(name for name in CASES if "weighted" not in name and "hardest" not in name)


@pytest.mark.parametrize("name", LEAST_AT_TARGET)
def test_a_soft_loss_is_lowest_where_the_prediction_is_the_target(name):
    loss, best = CASES[name](), torch.logit(SHARES)
    lowest = loss(best, SHARES).item()
    generator = torch.Generator().manual_seed(0)
    for size in (0.01, 0.1, 1.0, 10.0):
        for _ in range(20):
            step = size * torch.randn(SHARES.shape, generator=generator, dtype=torch.float64)
            assert loss(best + step, SHARES).item() > lowest
    for hard in (SHARES > 0.5, SHARES > 0.2, SHARES > 0.9):  # what sums of p · t would reward
        assert loss(100 * (2.0 * hard - 1).double(), SHARES).item() > lowest


@pytest.mark.parametrize("name", sorted(set(LEAST_AT_TARGET) - {"bce", "mix", "focal, without damping"}))
def test_the_lowest_overlap_or_focal_loss_of_a_soft_target_is_0(name):
    assert CASES[name]()(torch.logit(SHARES), SHARES).item() == pytest.approx(0, abs=1e-8)


def test_the_lowest_bce_of_a_soft_target_is_its_entropy():
    entropy = -(SHARES * SHARES.log() + (1 - SHARES) * (1 - SHARES).log()).mean()
    assert BCELoss()(torch.logit(SHARES), SHARES).item() == pytest.approx(entropy.item())
    assert gradient(BCELoss(), torch.logit(SHARES), SHARES).abs().max() < 1e-12


shares = st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3)


@given(shares, shares, shares)
def test_jaccard_of_soft_masks_is_symmetric_and_satisfies_the_triangle_inequality(a, b, c):
    def distance(one, other):
        p, t = (torch.tensor([[[each]]], dtype=torch.float64) for each in (one, other))
        return JaccardLoss(smooth=1e-9)(torch.logit(p), t).item()

    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-6)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-6


# Refused, and the image head.


@pytest.mark.parametrize("options", [{}, {"variant": "elu"}, {"variant": "symmetric"}, {"over": "batch"}])
def test_lovasz_refuses_a_share(options):
    with pytest.raises(ValueError, match=r"target holds 0\.25: lovasz is defined for 0 and 1; use jaccard"):
        LovaszHingeLoss(**options)(row(1, -1), row(1, 0.25))


def test_a_mix_with_lovasz_is_refused_for_soft_masks_before_training():
    message = r"loss 'lovasz' is defined for masks of 0 and 1.*: bce, dice, focal, focal_tversky, jaccard, tversky\.$"
    with pytest.raises(ValueError, match=message):
        build_loss({"bce": 1.0, "lovasz": 1.0}, soft=True)
    build_loss({"bce": 1.0, "jaccard": 1.0}, soft=True)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if not loss.supports_soft])
def test_the_others_refuse_a_share_and_a_config_of_soft_masks(name):
    loss, target = LOSSES[name](), row(1, 0.25)
    with pytest.raises(ValueError, match=rf"target holds 0\.25: {name} is defined for 0 and 1"):
        loss(row(1, -1), target, *[torch.zeros(1, len(loss.target_maps), 1, 2)] * bool(loss.target_maps))
    with pytest.raises(ValueError, match=rf"^loss '{name}' is defined for masks of 0 and 1, and these are soft"):
        build_loss({"bce": 1.0, name: 1.0}, soft=True)


def test_a_class_is_in_the_image_if_a_pixel_is_above_one_half():
    # Channels: half at most; above one half; void only, which is unknown and left out; 1.
    target = torch.tensor([0.5, 0.75, VOID, 1.0]).reshape(1, 4, 1, 1)
    outputs = Outputs(torch.zeros(1, 4, 1, 1), (), torch.tensor([[-50.0, 50, 50, 50]]))
    assert MultiHeadLoss(lambda *_: torch.zeros(()), image_weight=1.0)(outputs, target).item() == pytest.approx(0)
