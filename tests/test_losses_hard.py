"""The hardest pixels, smoothing near boundaries, and the unified focal loss: by hand and by loops."""

import math

import numpy as np
import pytest
import torch

from pipeline.losses import build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.inputs import hardest_pixels
from pipeline.losses.tversky import TverskyLoss
from pipeline.losses.unified_focal import UnifiedFocalLoss
from pipeline.metrics import VOID
from tests.pixels import SURE, WithMaps, gradient, maps_of, random_batch, random_classes, row

# The hardest pixels.


def test_hardest_pixels_by_hand():
    # Losses log(1 + e^x) of a target of 0: the largest two of four valid pixels.
    logits, target = row(1, 4, 3, 2, 9), torch.tensor([[[[0, 0, 0, 0, VOID]]]])
    loss = BCELoss(hardest=0.5)(logits, target)
    assert loss.item() == pytest.approx((math.log1p(math.exp(4)) + math.log1p(math.exp(3))) / 2)
    assert (gradient(BCELoss(hardest=0.5), logits, target) != 0).flatten().tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_hardest_pixels_equal_sorting_of_all_losses(share):
    logits, target = random_batch()
    target[0, 0, 1] = VOID
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, target.where(target != VOID, 0), reduction="none"
    )
    losses = sorted(each[target != VOID].tolist(), reverse=True)
    count = max(1, round(share * len(losses)))
    assert BCELoss(hardest=share)(logits, target).item() == pytest.approx(np.mean(losses[:count]))


def test_hardest_pixels_of_exclusive_classes_equal_sorting():
    logits, target = random_classes()
    each = torch.nn.functional.cross_entropy(logits, target, reduction="none").flatten().sort(descending=True).values
    assert CrossEntropyLoss(hardest=0.2)(logits, target).item() == pytest.approx(each[:14].mean().item())


def test_weighted_hardest_pixels_are_a_weighted_mean():
    # Losses log 4, log 2, log 4/3 with weights 1, 3, 3: the two largest products are those of the first two pixels.
    probs = torch.tensor([[0.25, 0.5, 0.25], [0.75, 0.5, 0.75]]).double()
    target = torch.tensor([[[0, 1, 1]]])
    loss = CrossEntropyLoss(class_weights=(1, 3), hardest=0.67)(probs.log()[None, :, None], target)
    assert loss.item() == pytest.approx((math.log(4) + 3 * math.log(2)) / 4)


def test_all_pixels_are_the_plain_loss_exactly():
    logits, target = random_batch(dtype=torch.float32)
    assert BCELoss(hardest=1.0)(logits, target) == BCELoss()(logits, target)
    assert hardest_pixels(logits, target == 0, 1.0).equal(target == 0)


# Smoothing near boundaries.


def test_labels_near_a_straight_edge_are_those_of_a_blurred_mask():
    # Where the gradient is 0, the prediction is the label: the normal distribution of the distance to the edge.
    target, sigma = row(*[0] * 6, *[1] * 6), 2.0
    labels = torch.tensor([0.5 * math.erfc(-(place + 0.5) / sigma / math.sqrt(2)) for place in range(-6, 6)])
    loss = WithMaps(lambda: BCELoss(boundary_smoothing=sigma))
    assert gradient(loss, torch.logit(labels).view(1, 1, 1, -1), target).abs().max() < 1e-7


def test_both_kinds_of_smoothing_by_hand():
    # d is 1 for both pixels: e = 0.2 + 0.8 · erfc(0.5 / √2).
    share = 0.2 + 0.8 * math.erfc(0.5 / math.sqrt(2))
    p, label = 0.75, 1 - share / 2
    expected = -label * math.log(p) - (1 - label) * math.log(1 - p)
    loss = WithMaps(lambda: BCELoss(smoothing=0.2, boundary_smoothing=1.0))
    assert loss(row(math.log(3), -math.log(3)), row(1, 0)).item() == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_without_a_boundary_is_not_smoothed(value):
    logits, _ = random_batch()
    target = torch.full(logits.shape, value)
    torch.testing.assert_close(
        WithMaps(lambda: BCELoss(boundary_smoothing=3.0))(logits, target), BCELoss()(logits, target)
    )


def test_smoothing_near_boundaries_needs_masks_of_0_and_1():
    options = {"bce": {"boundary_smoothing": 2.0}}
    assert build_loss({"bce": 1.0}, options).target_maps == ("boundary_distance",)
    with pytest.raises(ValueError, match=r"options of loss 'bce' need distances .* soft: leave out boundary_smoothing"):
        build_loss({"bce": 1.0}, options, soft=True)
    with pytest.raises(ValueError, match=r"target holds 0\.25: boundary_smoothing of bce is defined for 0 and 1"):
        BCELoss(boundary_smoothing=1.0)(row(1, 1), row(0.25, 1), torch.ones(1, 1, 1, 2))


# Unified focal.


@pytest.mark.parametrize("asymmetric", [True, False])
def test_unified_focal_equals_loops_over_images_and_pixels(asymmetric):
    logits, target = random_batch((2, 2, 4, 5))
    target[0, 1], target[1, 0, 1] = 0, VOID
    weight, delta, gamma, smooth = 0.3, 0.7, 0.4, 0.5
    focal, tversky = [], []
    for image, mask in zip(logits.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True):
        pixels = [
            (1 / (1 + math.exp(-x)), t) for xs, ts in zip(image, mask, strict=True) for x, t in zip(xs, ts, strict=True)
        ]
        pixels = [(p, t) for p, t in pixels if t != VOID]
        for p, t in pixels:
            of_mask = -delta * math.log(p) * (1 if asymmetric else (1 - p) ** gamma)
            focal.append(of_mask if t else -(1 - delta) * math.log(1 - p) * p**gamma)
        losses = []
        for pairs in (pixels, [(1 - p, 1 - t) for p, t in pixels]):
            tp, fn, fp = (
                sum(f(p, t) for p, t in pairs)
                for f in (lambda p, t: p * t, lambda p, t: (1 - p) * t, lambda p, t: p * (1 - t))
            )
            losses.append(1 - (tp + smooth) / (tp + delta * fn + (1 - delta) * fp + smooth))
        power = 1 - gamma
        tversky.append((losses[0] ** power + losses[1] ** (1 if asymmetric else power)) / 2)
    expected = weight * np.mean(tversky) + (1 - weight) * np.mean(focal)
    assert UnifiedFocalLoss(weight, delta, gamma, asymmetric, smooth)(logits, target).item() == pytest.approx(expected)


def test_unified_focal_without_focus_is_bce_and_tversky_of_both_classes():
    logits, target = random_batch()
    half = (TverskyLoss(0.5, 0.5)(logits, target) + TverskyLoss(0.5, 0.5)(-logits, 1 - target)) / 2
    loss = UnifiedFocalLoss(delta=0.5, gamma=0.0)
    torch.testing.assert_close(loss(logits, target), 0.5 * 0.5 * BCELoss()(logits, target) + 0.5 * half)


def test_unified_focal_of_an_empty_target_by_hand():
    # Two pixels, p = 1/2 and 0: the cross entropy 0.4 · log 2 · √½ of two, 1 - 1 / (0.4 / 2 + 1) to the power 1/2,
    # and of the rest 1.5 of 2 pixels, 0.6 of half a pixel missed.
    loss = UnifiedFocalLoss()(row(0, -SURE), row(0, 0))
    focal = 0.4 * math.log(2) * math.sqrt(0.5) / 2
    tversky = (math.sqrt(1 - 1 / 1.2) + 1 - 2.5 / (2.5 + 0.6 * 0.5)) / 2
    assert loss.item() == pytest.approx((focal + tversky) / 2, rel=1e-6)


# Errors.


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("bce", {"hardest": 0.0}, r"hardest must be in \(0, 1\], got 0"),
        ("bce", {"hardest": 1.5}, r"hardest must be in \(0, 1\], got 1\.5"),
        ("bce", {"boundary_smoothing": -1.0}, r"boundary_smoothing must be >= 0 pixels and finite, got -1"),
        ("unified_focal", {"weight": 1.1}, r"weight must be in \[0, 1\], got 1\.1"),
        ("unified_focal", {"delta": 1.0}, r"delta must be in \(0, 1\), got 1"),
        ("unified_focal", {"gamma": 1.0}, r"gamma must be in \[0, 1\), got 1"),
        ("unified_focal", {"asymmetric": 1.0}, r"asymmetric = 1\.0: expected true or false"),
        ("unified_focal", {"smooth": 0.0}, r"smooth must be > 0"),
    ],
)
def test_wrong_options_are_refused(name, options, answer):
    with pytest.raises(ValueError, match=rf"^loss '{name}': {answer}"):
        build_loss({name: 1.0}, {name: options})


def test_wrong_hardest_of_cross_entropy_is_refused():
    with pytest.raises(ValueError, match=r"loss 'cross_entropy': hardest must be in \(0, 1\], got 2"):
        build_loss({"cross_entropy": 1.0}, {"cross_entropy": {"hardest": 2.0}}, exclusive=True)


def test_maps_for_smoothing_are_shared_in_a_sum():
    logits, target = random_batch()
    mix = build_loss({"bce": 1.0, "dice": 1.0}, {"bce": {"boundary_smoothing": 2.0}})
    plain = build_loss({"bce": 1.0, "dice": 1.0})
    assert mix(logits, target, maps_of(target, mix.target_maps)) != plain(logits, target)
