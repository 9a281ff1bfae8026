"""Losses of boundaries, gaps and centrelines: values by hand, slow references, border cases, and a training."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import grey_dilation, grey_erosion, label

from pipeline.losses import LOSSES, MULTICLASS_LOSSES, build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.boundary import BoundaryLoss
from pipeline.losses.boundary_softmax import BoundarySoftmaxLoss
from pipeline.losses.cldice import ClDiceLoss, soft_skeleton
from pipeline.losses.skeleton_recall import SkeletonRecallLoss
from pipeline.losses.weighted_bce import WeightedBCELoss
from pipeline.metrics import VOID
from pipeline.models.segmenter import Outputs
from pipeline.training.objective import MultiHeadLoss
from tests import fitting
from tests.pixels import SURE, WithClassMaps, WithMaps, gradient, maps_of, random_batch, random_classes, row

WITH_MAPS = [name for name, loss in LOSSES.items() if loss.target_maps]


def logit(p):
    return math.log(p / (1 - p))


# Boundary.


def test_boundary_by_hand():
    # Distances 2, 1, 0, -1, 0, 1 times probabilities.
    target = row(0, 0, 1, 1, 1, 0)
    logits = row(*map(logit, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)))
    loss = WithMaps(BoundaryLoss)(logits, target)
    assert loss.item() == pytest.approx((2 * 0.1 + 1 * 0.2 - 1 * 0.4 + 1 * 0.6) / 6)


def test_boundary_is_least_for_the_mask_itself():
    _, target = random_batch((2, 1, 12, 12))
    loss = WithMaps(BoundaryLoss)
    right = loss(SURE * (2 * target - 1), target)
    assert right < 0
    for seed in range(20):
        other, _ = random_batch((2, 1, 12, 12), seed=seed)
        assert loss(SURE * other.sign(), target) > right


@pytest.mark.parametrize(("name", "value"), [("boundary", 0.0), ("boundary", 1.0), ("skeleton_recall", 0.0)])
def test_loss_of_an_empty_or_full_target_without_a_map_is_0_without_gradient(name, value):
    target = torch.full((1, 1, 6, 6), value)
    logits, _ = random_batch((1, 1, 6, 6))
    loss = WithMaps(LOSSES[name])
    assert loss(logits, target) == 0
    assert not gradient(loss, logits, target).any()


def test_boundary_of_exclusive_classes_by_hand():
    # Class 0 is left of class 1: distances 1 - 2, 0, 1 and 2, 1, 0.
    probs = torch.tensor([[0.9, 0.6, 0.4], [0.1, 0.4, 0.6]])
    loss = WithClassMaps(BoundarySoftmaxLoss)(probs.log()[None, :, None], torch.tensor([[[0, 0, 1]]]))
    assert loss.item() == pytest.approx((-0.9 + 0.4 + 2 * 0.1 + 0.4) / 6)


def test_boundary_softmax_of_two_classes_is_boundary_of_both():
    logits, target = random_classes((2, 2, 8, 9))
    of_mask = [((target == number) if number else (target == 0))[:, None].double() for number in (0, 1)]
    difference = logits[:, 1:] - logits[:, :1]
    losses = [WithMaps(BoundaryLoss)(sign * difference, mask) for sign, mask in zip((-1, 1), of_mask, strict=True)]
    torch.testing.assert_close(WithClassMaps(BoundarySoftmaxLoss)(logits, target), sum(losses) / 2)


# U-Net's weights.


def test_weighted_bce_by_hand():
    # d1 + d2 is 3 everywhere between objects 3 pixels apart, and in them.
    target, logits = row(1, 0, 0, 1), row(0, 0, 0, 0)
    weight = 10 * math.exp(-9 / 50)
    assert WithMaps(WeightedBCELoss)(logits, target).item() == pytest.approx((1 + weight) * math.log(2))
    heavier = WithMaps(lambda: WeightedBCELoss(positive_weight=3.0))
    assert heavier(logits, target).item() == pytest.approx((2 + weight) * math.log(2))


@pytest.mark.parametrize("seed", range(3))
def test_weighted_bce_equals_loops_over_objects_and_pixels(seed):
    logits, target = random_batch((2, 2, 9, 11), seed=seed)
    target[0, 0, 3] = VOID
    values = []
    for image, mask in zip(logits.flatten(0, 1).numpy(), target.flatten(0, 1).numpy(), strict=True):
        objects, count = label(mask == 1, np.ones((3, 3)))
        places = [np.argwhere(objects == number) for number in range(1, count + 1)]
        for place in np.argwhere(mask != VOID):
            d1, d2, *_ = sorted(min(math.dist(place, other) for other in each) for each in places)
            p, t = 1 / (1 + math.exp(-image[*place])), mask[*place]
            weight = (4.0 if t else 1.0) + 6 * math.exp(-((d1 + d2) ** 2) / (2 * 3**2))
            values.append(-weight * (math.log(p) if t else math.log(1 - p)))
    loss = WithMaps(lambda: WeightedBCELoss(6.0, 3.0, 4.0))(logits, target)
    assert loss.item() == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_weighted_bce_of_an_empty_or_full_target_is_bce(value):
    logits, _ = random_batch()
    target = torch.full(logits.shape, value)
    torch.testing.assert_close(WithMaps(WeightedBCELoss)(logits, target), BCELoss()(logits, target))


# Centrelines.


def test_skeleton_recall_by_hand():
    # A line is its own skeleton; p is 3/4 on two of its pixels and 1/2 on the others, and 1 beside it, which is free.
    target = torch.zeros(1, 1, 3, 6)
    target[0, 0, 1] = 1
    logits = torch.full_like(target, SURE)
    logits[0, 0, 1] = torch.tensor([logit(0.75)] * 2 + [0.0] * 4)
    loss = WithMaps(SkeletonRecallLoss)(logits, target)
    assert loss.item() == pytest.approx(1 - (2 * 0.75 + 4 * 0.5 + 1) / (6 + 1))


@pytest.mark.parametrize("over", ["image", "batch"])
def test_skeleton_recall_equals_loops(over):
    logits, target = random_batch((3, 2, 9, 11))
    target[0, 1], target[1, 0, 2] = 0, VOID
    skeleton = maps_of(target, ["tubed_skeleton"]).double()
    probs = torch.sigmoid(logits)
    sets = [(image, channel) for image in range(3) for channel in range(2)]
    groups = [[each] for each in sets] if over == "image" else [[each for each in sets if each[1] == c] for c in (0, 1)]
    losses = []
    for group in groups:
        hit = sum((probs[each] * skeleton[each]).sum() for each in group)
        losses.append(1 - (hit + 2) / (sum(skeleton[each].sum() for each in group) + 2))
    loss = WithMaps(lambda: SkeletonRecallLoss(2.0, over))(logits, target)
    torch.testing.assert_close(loss, sum(losses) / len(losses))


def slow_soft_skeleton(mask, iterations):
    """Algorithm 1 of the paper, with scipy's morphology."""

    def erode(image):
        rows = grey_erosion(image, (3, 1), mode="constant", cval=np.inf)
        return np.minimum(rows, grey_erosion(image, (1, 3), mode="constant", cval=np.inf))

    def opened(image):
        return grey_dilation(erode(image), (3, 3), mode="constant", cval=-np.inf)

    skeleton = np.maximum(mask - opened(mask), 0)
    for _ in range(iterations):
        mask = erode(mask)
        rest = np.maximum(mask - opened(mask), 0)
        skeleton = skeleton + (1 - skeleton) * rest
    return skeleton


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_soft_skeleton_equals_a_slow_reference(iterations):
    logits, _ = random_batch((1, 1, 17, 19))
    mask = torch.sigmoid(logits)
    expected = slow_soft_skeleton(mask[0, 0].numpy(), iterations)
    assert soft_skeleton(mask, iterations)[0, 0].numpy() == pytest.approx(expected, abs=1e-12)


def test_the_soft_skeleton_of_a_bar_is_its_centreline():
    mask = torch.zeros(1, 1, 9, 21)
    mask[0, 0, 2:7, 3:18] = 1
    skeleton = soft_skeleton(mask, 5)[0, 0]
    assert skeleton[4, 6:15].all()
    assert not skeleton[[2, 3, 5, 6], 6:15].any()


@pytest.mark.parametrize("over", ["image", "batch"])
def test_cldice_equals_a_slow_reference(over):
    logits, target = random_batch((2, 1, 15, 17))
    target[0] = 0
    probs = torch.sigmoid(logits)
    pairs = [(probs[number, 0].numpy(), target[number, 0].numpy()) for number in range(2)]
    groups = [[pair] for pair in pairs] if over == "image" else [pairs]
    losses = []
    for group in groups:
        of_probs = [(slow_soft_skeleton(p, 4), t) for p, t in group]
        of_target = [(slow_soft_skeleton(t, 4), p) for p, t in group]
        precision, sensitivity = (
            (sum((s * m).sum() for s, m in each) + 0.5) / (sum(s.sum() for s, _ in each) + 0.5)
            for each in (of_probs, of_target)
        )
        losses.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    assert ClDiceLoss(4, 0.5, over)(logits, target).item() == pytest.approx(np.mean(losses))


def line_and_gap():
    """A line of 3 × 30 pixels, and the same with a gap of 4 pixels."""
    target = torch.zeros(1, 1, 11, 30)
    target[0, 0, 4:7] = 1
    gap = target.clone()
    gap[..., 13:17] = 0
    return target, gap


@pytest.mark.parametrize("name", ["cldice", "skeleton_recall"])
def test_a_gap_costs_as_much_in_a_thick_line_as_in_a_thin_one(name):
    costs = []
    for width in (1, 4):
        target = torch.zeros(1, 1, 21, 40)
        target[0, 0, 10 - width : 11 + width] = 1
        gap = target.clone()
        gap[..., 15:25] = 0
        costs.append(WithMaps(LOSSES[name])(SURE * (2 * gap - 1), target).item())
    assert min(costs) > 0.05
    assert costs[1] == pytest.approx(costs[0], rel=0.35)


@pytest.mark.parametrize("name", ["cldice", "skeleton_recall"])
def test_a_line_costs_nothing_if_it_is_right(name):
    target, _ = line_and_gap()
    assert WithMaps(LOSSES[name])(SURE * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-6)


def test_cldice_of_an_empty_target_is_0_for_nothing_and_grows_with_predicted_lines():
    target, _ = line_and_gap()
    empty = torch.zeros_like(target)
    assert ClDiceLoss()(torch.full_like(target, -SURE), empty).item() == pytest.approx(0, abs=1e-6)
    assert ClDiceLoss()(SURE * (2 * target - 1), empty).item() > 0.9


# Splitting a batch.


@pytest.mark.parametrize("name", [*WITH_MAPS, "cldice"])
def test_loss_of_a_batch_is_the_mean_over_its_parts_of_equal_size(name):
    logits, target = random_batch((4, 2, 9, 9))
    loss = WithMaps(LOSSES[name])
    parts = [loss(logits[part], target[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(loss(logits, target), sum(parts) / 2)


# Errors.


@pytest.mark.parametrize("name", WITH_MAPS)
def test_missing_maps_are_refused_with_their_name(name):
    with pytest.raises(
        ValueError, match=rf"maps of the target are none: .*\(1, 1, 1, 2\), with {LOSSES[name].target_maps[0]}"
    ):
        LOSSES[name]()(row(1, 2), row(1, 0))
    with pytest.raises(ValueError, match=r"maps of the target are \(1, 2, 1, 2\)"):
        LOSSES[name]()(row(1, 2), row(1, 0), torch.zeros(1, 2, 1, 2))


@pytest.mark.parametrize(
    ("name", "options", "answer"),
    [
        ("weighted_bce", {"w0": -1.0}, r"w0 must be >= 0 and finite, got -1"),
        ("weighted_bce", {"sigma": 0.0}, r"sigma must be > 0 and at most 16 pixels, got 0"),
        ("weighted_bce", {"sigma": 17.0}, r"sigma must be > 0 and at most 16 pixels, got 17"),
        ("weighted_bce", {"positive_weight": (1.0, 0.0)}, r"positive_weight must be > 0"),
        ("cldice", {"iterations": 0.0}, r"iterations must be from 1 to 1000, got 0"),
        ("cldice", {"iterations": 2.5}, r"iterations = 2\.5: expected a whole number"),
        ("cldice", {"smooth": 0.0}, r"smooth must be > 0"),
        ("skeleton_recall", {"over": "images"}, r"unknown over 'images'"),
        ("skeleton_recall", {"smooth": -1.0}, r"smooth must be > 0"),
    ],
)
def test_wrong_options_are_refused(name, options, answer):
    with pytest.raises(ValueError, match=rf"^loss '{name}': {answer}"):
        build_loss({name: 1.0}, {name: options})


def test_a_whole_number_of_a_config_is_accepted_as_float():
    assert build_loss({"cldice": 1.0}, {"cldice": {"iterations": 3.0}}).losses["cldice"].iterations == 3


def test_boundary_of_exclusive_classes_is_refused_with_its_counterpart():
    with pytest.raises(ValueError, match=r"loss 'boundary' needs a mask per class, .*: boundary_softmax, "):
        build_loss({"boundary": 1.0}, exclusive=True)
    assert set(MULTICLASS_LOSSES) & set(LOSSES) == set()


# Sums, heads and a training.


def test_a_sum_gives_each_loss_its_own_map_and_shares_them():
    logits, target = random_batch()
    mix = build_loss({"weighted_bce": 2.0, "skeleton_recall": 0.5, "boundary": 0.1, "dice": 1.0})
    assert mix.target_maps == ("object_distance", "tubed_skeleton", "signed_distance")
    expected = sum(weight * WithMaps(LOSSES[name])(logits, target) for name, weight in mix.weights.now.items())
    torch.testing.assert_close(mix(logits, target, maps_of(target, mix.target_maps)), expected)
    assert build_loss({"bce": 1.0, "boundary": 0.0}).target_maps == ()


def test_further_heads_get_the_maps_too():
    logits, target = random_batch()
    maps, loss = maps_of(target, BoundaryLoss.target_maps), BoundaryLoss()
    outputs = Outputs(logits, (2 * logits,), None)
    expected = loss(logits, target, maps) + 0.5 * loss(2 * logits, target, maps)
    torch.testing.assert_close(MultiHeadLoss(loss, aux_weight=0.5)(outputs, target, maps), expected)


@pytest.mark.parametrize("on_device", ["true", "false"])
def test_a_phase_trains_on_a_loss_with_maps(tiny, on_device):
    losses = "{bce=1, boundary=[0.0, 0.1], weighted_bce=0.1, skeleton_recall=0.5, cldice=0.1}"
    pairs = [f"train.phases.0.loss={losses}", f"train.augment_on_device={on_device}", "train.phases.0.swa=0.5"]
    fitting.fit_tiny(*pairs, epochs=(2,))
    assert all(np.isfinite(line["loss"]) for line in fitting.history() if "candidate" not in line)
