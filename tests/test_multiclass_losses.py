"""Losses of exclusive classes: properties and errors."""

import math
from functools import partial

import pytest
import torch

from pipeline.losses import LOSSES, MULTICLASS_LOSSES, build_loss
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.dice_softmax import DiceSoftmaxLoss
from pipeline.losses.inputs import NotFiniteError
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.metrics import VOID
from tests.pixels import SURE, PerClass, WithClassMaps, gradient, random_classes

CASES = MULTICLASS_LOSSES | {
    "cross_entropy, smoothed": partial(CrossEntropyLoss, smoothing=0.1),
    "dice_softmax, by shape": partial(DiceSoftmaxLoss, smooth=1e-3),
    "lovasz_softmax, all": partial(LovaszSoftmaxLoss, classes="all"),
    "lovasz_softmax, per image": partial(LovaszSoftmaxLoss, over="image"),
}
CASES["cross_entropy, of the hardest pixels"] = partial(CrossEntropyLoss, hardest=0.3)
ALIKE = list(CASES)  # losses that treat all classes alike
CASES |= {
    "cross_entropy, smoothed and weighted": partial(PerClass, lambda weights: CrossEntropyLoss(0.1, weights)),
    "cross_entropy, weighted, of the hardest pixels": partial(
        PerClass, lambda weights: CrossEntropyLoss(class_weights=weights, hardest=0.3)
    ),
    "dice_softmax, weighted": partial(PerClass, lambda weights: DiceSoftmaxLoss(class_weights=weights)),
    "lovasz_softmax, weighted": partial(PerClass, lambda weights: LovaszSoftmaxLoss(class_weights=weights)),
    "lovasz_softmax, all, per image, weighted": partial(
        PerClass, lambda weights: LovaszSoftmaxLoss("all", "image", weights)
    ),
}
CASES = {name: partial(WithClassMaps, make) for name, make in CASES.items()}
every_case = pytest.mark.parametrize("name", CASES)
every_case_of_pixels = pytest.mark.parametrize("name", [name for name in CASES if name != "boundary_softmax"])


def test_cross_entropy_of_two_pixels_by_hand():
    # Probabilities 3/4 and 1/2 of the right class.
    logits = torch.tensor([[[[math.log(3), 0.0]], [[0.0, 0.0]]]])
    loss = CrossEntropyLoss()(logits, torch.tensor([[[0, 1]]]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_cross_entropy_agrees_with_torch():
    logits, target = random_classes()
    target[0, 0] = VOID
    theirs = torch.nn.CrossEntropyLoss(ignore_index=VOID, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropyLoss(smoothing=0.1)(logits, target), theirs(logits, target))


def test_dice_softmax_of_two_pixels_and_three_classes_by_hand():
    # Probabilities 1/2, 1/4, 1/4 where class 0 is true, and 1/8, 1/8, 3/4 where class 2 is. No pixel has class 1.
    #   class 0: 1 - (2 · 1/2 + 1) / (5/8 + 1 + 1) = 5/21;  class 2: 1 - (2 · 3/4 + 1) / (1 + 1 + 1) = 1/6
    probs = torch.tensor([[1 / 2, 1 / 8], [1 / 4, 1 / 8], [1 / 4, 3 / 4]])
    loss = DiceSoftmaxLoss(smooth=1.0)(probs.log()[None, :, None], torch.tensor([[[0, 2]]]))
    assert loss.item() == pytest.approx((5 / 21 + 1 / 6) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_dice_softmax_equals_loops_over_classes_images_and_pixels(seed):
    logits, target = random_classes((2, 4, 3, 3), seed=seed)
    target[0, 0] = VOID
    target[target == 3] = 1  # a class that the batch does not hold
    probs, losses = logits.softmax(dim=1), []
    for number in target[target != VOID].unique().tolist():
        shared = total = 0.0
        for image, row, column in (target != VOID).nonzero().tolist():
            prob, true = probs[image, number, row, column].item(), target[image, row, column].item() == number
            shared, total = shared + prob * true, total + prob + true
        losses.append(1 - (2 * shared + 0.5) / (total + 0.5))
    loss = DiceSoftmaxLoss(smooth=0.5)(logits, target)
    assert loss.item() == pytest.approx(sum(losses) / len(losses))


def test_dice_softmax_weights_rare_and_frequent_classes_equally():
    # 99 pixels of class 0 and one of class 1: a constant prediction of 0 is wrong for one of two classes.
    target = torch.zeros(1, 10, 10)
    target[0, 0, 0] = 1
    always = torch.tensor([SURE, -SURE]).view(1, 2, 1, 1).expand(1, 2, 10, 10)
    assert DiceSoftmaxLoss(smooth=1e-6)(always, target).item() == pytest.approx(0.5, abs=0.01)
    assert CrossEntropyLoss()(always, target).item() == pytest.approx(2 * SURE / 100)


@pytest.mark.parametrize("smooth", [0, -1.0])
def test_dice_softmax_without_smoothing_is_refused(smooth):
    with pytest.raises(ValueError, match="smooth must be > 0"):
        DiceSoftmaxLoss(smooth)


@every_case
def test_a_confident_correct_prediction_has_less_loss_than_a_wrong_one(name):
    _, target = random_classes((2, 3, 4, 5))
    right = SURE * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    losses = [CASES[name]()(logits, target).item() for logits in (right, right.roll(1, dims=1))]
    assert losses[0] < 10
    assert losses[1] > losses[0] + 0.3
    if "smoothed" not in name and name != "boundary_softmax":
        assert losses[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ALIKE)
def test_loss_does_not_depend_on_the_order_of_the_classes(name):
    logits, target = random_classes()
    order = torch.tensor([2, 0, 3, 1])
    renamed = torch.empty_like(logits)
    renamed[:, order] = logits
    torch.testing.assert_close(CASES[name]()(renamed, order[target]), CASES[name]()(logits, target))


@every_case
def test_gradient_equals_finite_differences(name):
    logits, target = random_classes((2, 3, 3, 4))
    target[0, 0, :2] = VOID
    assert torch.autograd.gradcheck(lambda x: CASES[name]()(x, target), logits.requires_grad_())


@every_case
def test_logits_of_void_pixels_change_nothing(name):
    logits, target = random_classes()
    target[:, 2:4] = VOID
    other = logits.clone()
    other[:, :, 2:4] = 9
    assert torch.equal(CASES[name]()(logits, target), CASES[name]()(other, target))
    assert not gradient(CASES[name](), logits, target)[:, :, 2:4].any()


@every_case_of_pixels
@pytest.mark.parametrize("seed", range(5))
def test_loss_with_void_pixels_equals_loss_without_these_pixels(name, seed):
    logits, target = random_classes((1, 3, 4, 5), seed=seed)
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.4] = VOID
    valid = target[0] != VOID
    valid_only = logits[:, :, valid][:, :, None], target[:, valid][:, None]
    torch.testing.assert_close(CASES[name]()(logits, target), CASES[name]()(*valid_only))
    assert not gradient(CASES[name](), logits, target)[:, :, ~valid].any()


@every_case
def test_a_batch_of_void_pixels_has_zero_loss_and_gradient(name):
    logits, target = random_classes()
    void = torch.full_like(target, VOID)
    assert CASES[name]()(logits, void) == 0
    assert not gradient(CASES[name](), logits, void).any()


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-1e4, 1e4, math.inf, -math.inf])
def test_huge_and_infinite_logits_give_no_nan(name, dtype, size):
    logits, target = random_classes()
    logits[0, 0, 0] = size
    logits = logits.to(dtype)
    loss = CASES[name]()(logits, target)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert not loss.isnan()
    assert not gradient(CASES[name](), logits, target).isnan().any()


@every_case
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_target_of_any_dtype_gives_the_same_loss(name, dtype):
    logits, target = random_classes()
    target[0, 0] = VOID
    assert CASES[name]()(logits, target.to(dtype)) == CASES[name]()(logits, target)


@every_case
@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (torch.full((1, 2, 2), 3), r"target holds 3: expected a class from 0 to 2, or 255 for void"),
        (torch.full((1, 2, 2), -1), r"target holds -1: expected a class"),
        (torch.full((1, 2, 2), 0.5), r"target holds 0\.5: expected a class"),
        (torch.zeros(1, 3, 2, 2), r"logits \(1, 3, 2, 2\) and target \(1, 3, 2, 2\) do not fit"),
    ],
)
def test_an_invalid_target_is_refused(name, target, answer):
    with pytest.raises(ValueError, match=answer):
        CASES[name]()(torch.zeros(1, 3, 2, 2), target)


@every_case
def test_nan_logits_are_refused_with_their_number(name):
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="logits hold 2 NaN of 8"):
        CASES[name]()(logits, torch.zeros(1, 2, 2))


def test_an_unknown_value_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"unknown classes 'presents'\. Did you mean 'present'\?"):
        LovaszSoftmaxLoss(classes="presents")


# ---------------------------------------------------------------------------------------------- weighted sums


def test_weighted_sum_is_the_sum_of_its_weighted_losses():
    logits, target = random_classes()
    target[0, 0] = VOID
    mix = build_loss({"cross_entropy": 2.0, "dice_softmax": 0.5, "lovasz_softmax": 0.0}, exclusive=True)
    expected = 2 * CrossEntropyLoss()(logits, target) + 0.5 * DiceSoftmaxLoss()(logits, target)
    torch.testing.assert_close(mix(logits, target[:, None]), expected)  # batches have a channel
    assert list(mix.losses) == ["cross_entropy", "dice_softmax"]


def test_options_are_passed_to_a_multiclass_loss():
    logits, target = random_classes()
    mix = build_loss({"dice_softmax": 1.0}, {"dice_softmax": {"smooth": 9.0}}, exclusive=True)
    torch.testing.assert_close(mix(logits, target[:, None]), DiceSoftmaxLoss(smooth=9.0)(logits, target))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_for_overlapping_classes_is_refused_for_exclusive_classes(name):
    answer = rf"^loss '{name}' needs a mask per class, .* exclusive, .*: boundary_softmax, .*, lovasz_softmax\.$"
    with pytest.raises(ValueError, match=answer):
        build_loss({"cross_entropy": 1.0, name: 1.0}, exclusive=True)


@pytest.mark.parametrize(
    ("mix", "options", "answer"),
    [
        ({"dice_softmx": 1.0}, {}, r"^unknown loss 'dice_softmx'\. Did you mean 'dice_softmax'\?$"),
        (
            {"hausdorff": 1.0},
            {},
            r"^unknown loss 'hausdorff'\. Known: boundary_softmax, cross_entropy, dice_softmax, lovasz_softmax\.$",
        ),
        ({}, {}, r"^no loss given: name at least one\. Known losses: boundary_softmax, cross"),
        ({"dice_softmax": -1.0}, {}, r"^weight of loss 'dice_softmax' must be >= 0"),
        ({"dice_softmax": 0.0}, {}, r"^all weights are 0 \(dice_softmax\)"),
        ({"dice_softmax": 1.0}, {"dice_softmax": {"smoth": 1.0}}, r"^loss 'dice_softmax': unknown option 'smoth'"),
        ({"dice_softmax": 1.0}, {"dice_softmax": {"smooth": 0.0}}, r"^loss 'dice_softmax': smooth must be > 0"),
    ],
)
def test_an_error_in_a_sum_of_multiclass_losses_is_named(mix, options, answer):
    with pytest.raises(ValueError, match=answer):
        build_loss(mix, options, exclusive=True)
