import math

import pytest
import segmentation_models_pytorch.losses as smp_losses
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses import LOSSES, WeightedSum, build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.lovasz import LovaszHingeLoss, jaccard_steps
from pipeline.losses.precision import full_precision

SURE = 50.0  # a logit whose sigmoid is 0 or 1 in float32

every_loss = pytest.mark.parametrize("name", LOSSES)


def row(*values: float) -> torch.Tensor:
    """One image of one channel and one row of pixels."""
    return torch.tensor([[[values]]], dtype=torch.float32)


def random_batch(shape=(2, 3, 5, 7), *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    return logits, (torch.rand(shape, generator=generator) < 0.3).to(dtype)


def gradient(loss_fn, logits, target):
    logits = logits.clone().requires_grad_()
    loss_fn(logits, target).backward()
    return logits.grad


# Values by hand.


def test_bce_of_two_pixels_by_hand():
    # p = 3/4 where the target is 1, p = 1/2 where it is 0: the mean of log(4/3) and log(2).
    loss = BCELoss()(row(math.log(3), 0), row(1, 0))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_dice_of_a_half_right_prediction_by_hand():
    # One of two target pixels predicted, nothing else: dice = (2*1 + 1) / (1 + 2 + 1) = 0.75.
    loss = DiceLoss(smooth=1.0)(row(SURE, -SURE, -SURE), row(1, 1, 0))
    assert loss.item() == pytest.approx(0.25, abs=1e-6)


def test_focal_of_two_pixels_by_hand():
    # p_t = 3/4, damped by (1/4)^2, weight 1/4; p_t = 1/2, damped by (1/2)^2, weight 3/4.
    loss = FocalLoss(gamma=2.0, alpha=0.25)(row(math.log(3), 0), row(1, 0))
    assert loss.item() == pytest.approx((math.log(4 / 3) / 64 + 3 * math.log(2) / 16) / 2)


def test_lovasz_of_three_pixels_by_hand():
    # Errors 3, 1.5, 0.5 in the order background, target, target. Wrong in the first k of them,
    # the Jaccard loss is 1/3, 2/3, 1, so each step is 1/3: (3 + 1.5 + 0.5) / 3.
    logits, target = row(-0.5, 2, 0.5), row(1, 0, 1)
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(5 / 3)
    torch.testing.assert_close(gradient(LovaszHingeLoss(), logits, target), row(-1, 1, -1) / 3)


def test_jaccard_steps_of_a_background_pixel_after_a_target_pixel_by_hand():
    # Two target pixels. J goes 1/2 (target), 2/3 (background), 3/4 (background), 1 (target).
    steps = jaccard_steps(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(steps, torch.tensor([1 / 2, 1 / 6, 1 / 12, 1 / 4]))


# Lovász against its definition, in plain Python.


def jaccard_loss(wrong: set[int], target: set[int]) -> float:
    """One minus the Jaccard index of the target with the pixels in `wrong` flipped; 0 for two empty masks."""
    predicted = target ^ wrong
    union = predicted | target
    return 1 - len(predicted & target) / len(union) if union else 0.0


def lovasz_by_definition(logits: list[float], target: list[int]) -> float:
    errors = [max(0.0, 1 - x * (2 * t - 1)) for x, t in zip(logits, target, strict=True)]
    in_target = {i for i, t in enumerate(target) if t}
    loss, wrong = 0.0, set()
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        before = jaccard_loss(wrong, in_target)
        wrong = wrong | {i}
        loss += errors[i] * (jaccard_loss(wrong, in_target) - before)
    return loss


pixels = st.lists(
    st.tuples(st.floats(-8, 8) | st.integers(-2, 2).map(float), st.integers(0, 1)), min_size=1, max_size=12
)


@given(pixels)
@settings(max_examples=200, deadline=None)
def test_lovasz_is_the_sum_of_its_definition(pixels):
    logits, target = zip(*pixels, strict=True)
    loss = LovaszHingeLoss()(torch.tensor([[[logits]]], dtype=torch.float64), torch.tensor([[[target]]]))
    assert loss.item() == pytest.approx(lovasz_by_definition(logits, target), abs=1e-12)


def test_lovasz_averages_the_definition_over_images_and_channels():
    logits, target = random_batch()
    rows = zip(logits.reshape(6, 35).tolist(), target.reshape(6, 35).int().tolist(), strict=True)
    expected = [lovasz_by_definition(x, t) for x, t in rows]
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(sum(expected) / 6, abs=1e-12)


@given(pixels)
@settings(max_examples=100, deadline=None)
def test_lovasz_is_never_below_the_jaccard_loss_of_the_mask(pixels):
    in_target = {i for i, (_, t) in enumerate(pixels) if t}
    wrong = {i for i, (x, t) in enumerate(pixels) if (x > 0) != t}
    logits, target = zip(*pixels, strict=True)
    assert lovasz_by_definition(logits, target) >= jaccard_loss(wrong, in_target) - 1e-12
    assert LovaszHingeLoss()(row(*logits), row(*target)).item() >= jaccard_loss(wrong, in_target) - 1e-6


def test_lovasz_hinge_of_a_right_pixel_beyond_the_margin_contributes_nothing():
    logits, target = row(1.5, -1.5, 0.0), row(1, 0, 1)
    # The one error is 1, of two target pixels: J = 1/2.
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(0.5)
    assert gradient(LovaszHingeLoss(), logits, target).flatten().tolist() == pytest.approx([0, 0, -0.5])


def test_lovasz_gradient_in_float32_keeps_six_digits_in_a_large_image():
    # Errors are multiples of 2^-16 and all differ, so both precisions sort alike. As a difference
    # of two Jaccard losses in float32, the steps of about 1e-9 would be rounding.
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, 512, 512)
    errors = torch.randperm(512 * 512, generator=generator).reshape(shape) / 2**16
    target = (torch.rand(shape, generator=generator) < 0.002).float()
    logits = (1 - errors) * (2 * target - 1)
    single = gradient(LovaszHingeLoss(), logits, target)
    double = gradient(LovaszHingeLoss(), logits.double(), target)
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)


# Others' implementations, where the definitions coincide.


@pytest.mark.parametrize("channels", [1, 3])
def test_lovasz_agrees_with_smp(channels):
    logits, target = random_batch((4, channels, 9, 8), dtype=torch.float32)
    flat = logits.reshape(-1, 1, 9, 8), target.reshape(-1, 1, 9, 8)  # smp takes an image's channels as one
    theirs = smp_losses.LovaszLoss(mode="binary", per_image=True)
    torch.testing.assert_close(LovaszHingeLoss()(logits, target), theirs(*flat))
    our_gradient = gradient(LovaszHingeLoss(), logits, target).reshape(-1, 1, 9, 8)
    torch.testing.assert_close(our_gradient, gradient(theirs, *flat), rtol=1e-4, atol=1e-7)


def test_dice_agrees_with_smp_on_one_image():
    logits, target = random_batch((1, 3, 9, 8))
    theirs = smp_losses.DiceLoss(mode="multilabel", smooth=0.5)  # they add it to half of our fraction
    torch.testing.assert_close(DiceLoss(smooth=1.0)(logits, target), theirs(logits, target))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.75), (0.0, 0.5)])
def test_focal_agrees_with_smp(gamma, alpha):
    logits, target = random_batch()
    theirs = smp_losses.FocalLoss(mode="binary", alpha=alpha, gamma=gamma)
    torch.testing.assert_close(FocalLoss(gamma=gamma, alpha=alpha)(logits, target), theirs(logits, target))


def test_focal_without_damping_is_half_the_log_loss():
    logits, target = random_batch()
    torch.testing.assert_close(2 * FocalLoss(gamma=0.0, alpha=0.5)(logits, target), BCELoss()(logits, target))


# Border cases.


def test_dice_of_an_empty_target_costs_nothing_if_nothing_is_predicted():
    assert DiceLoss()(row(-SURE, -SURE), row(0, 0)).item() == pytest.approx(0, abs=1e-6)


def test_dice_of_an_empty_target_costs_by_predicted_pixels_and_smooth():
    # Three pixels predicted: dice = 1 / (3 + 1).
    assert DiceLoss(smooth=1.0)(row(SURE, SURE, SURE), row(0, 0, 0)).item() == pytest.approx(0.75)


def test_dice_of_an_empty_target_teaches_to_predict_less():
    assert (gradient(DiceLoss(), row(0, 0.5), row(0, 0)) > 0).all()


def test_dice_of_a_full_target_runs_from_nothing_to_its_missed_pixels():
    assert DiceLoss()(row(SURE, SURE, SURE), row(1, 1, 1)).item() == pytest.approx(0, abs=1e-6)
    assert DiceLoss()(row(-SURE, -SURE, -SURE), row(1, 1, 1)).item() == pytest.approx(0.75)


def test_dice_weighs_a_small_object_as_much_as_a_large_one():
    # Predict nothing, 1 pixel and 99 pixels missed: 1 - 1/2 and 1 - 1/100, and the mean of the two.
    target = torch.zeros(2, 1, 10, 10)
    target[0, 0, 0, 0] = 1
    target[1].fill_(1)[0, 0, 0] = 0
    loss = DiceLoss()(torch.full_like(target, -SURE), target)
    assert loss.item() == pytest.approx((0.5 + 0.99) / 2)


def test_lovasz_of_an_empty_target_is_its_largest_error_and_only_that_pixel_learns():
    logits, target = row(-3, 0.5, -0.5), row(0, 0, 0)
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(1.5)
    assert gradient(LovaszHingeLoss(), logits, target).flatten().tolist() == [0, 1, 0]


def test_lovasz_of_an_empty_target_is_nothing_beyond_the_margin():
    assert LovaszHingeLoss()(row(-3, -1), row(0, 0)).item() == 0


def test_lovasz_of_a_full_target_is_the_mean_hinge_error():
    # Errors 0, 0.5, 4.
    assert LovaszHingeLoss()(row(2, 0.5, -3), row(1, 1, 1)).item() == pytest.approx(1.5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_jaccard_step_of_a_single_pixel_is_one(value):
    assert jaccard_steps(torch.tensor([value])).tolist() == [1]


@every_loss
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_target_cost_nothing_when_right_and_more_when_wrong(name, value):
    target = torch.full((2, 1, 4, 4), value)
    right = SURE * (2 * target - 1)
    assert build_loss({name: 1.0})(right, target).item() == pytest.approx(0, abs=1e-6)
    assert build_loss({name: 1.0})(-right, target).item() > 0.5


# Laws of every loss.


@every_loss
def test_gradient_is_that_of_finite_differences(name):
    logits, target = random_batch((2, 2, 3, 4))
    target[0, 0], target[0, 1] = 0, 1
    assert torch.autograd.gradcheck(lambda x: LOSSES[name]()(x, target), logits.requires_grad_())


@every_loss
def test_value_does_not_depend_on_the_order_of_pixels(name):
    logits, target = random_batch()
    logits = logits.round()  # equal errors in plenty
    order = torch.randperm(35, generator=torch.Generator().manual_seed(1))
    shuffled = [x.flatten(2)[..., order].reshape(x.shape) for x in (logits, target)]
    torch.testing.assert_close(LOSSES[name]()(*shuffled), LOSSES[name]()(logits, target))


@every_loss
def test_value_is_the_mean_over_images_and_channels(name):
    logits, target = random_batch()
    loss_fn = LOSSES[name]()
    one_by_one = zip(logits.reshape(6, 1, 1, 5, 7), target.reshape(6, 1, 1, 5, 7), strict=True)
    each = [loss_fn(x, t) for x, t in one_by_one]
    torch.testing.assert_close(loss_fn(logits, target), torch.stack(each).mean())


@every_loss
def test_a_step_down_the_gradient_lowers_the_loss(name):
    logits, target = random_batch()
    loss_fn = LOSSES[name]()
    down = logits - 1e-3 * gradient(loss_fn, logits, target)
    assert loss_fn(down, target) < loss_fn(logits, target)


@every_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_target_of_any_dtype_gives_the_same_loss(name, dtype):
    logits, target = random_batch(dtype=torch.float32)
    loss = LOSSES[name]()(logits, target.to(dtype))
    assert loss.dtype == torch.float32
    assert loss == LOSSES[name]()(logits, target)


@every_loss
def test_loss_changes_neither_logits_nor_target(name):
    logits, target = random_batch()
    before = logits.clone(), target.clone()
    LOSSES[name]()(logits, target)
    assert torch.equal(logits, before[0])
    assert torch.equal(target, before[1])


# Precision.


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_extreme_logits_give_finite_loss_and_gradients(name, dtype, wrong):
    target = torch.zeros(2, 1, 256, 300)  # 76800 pixels, beyond the largest float16
    target[0] = 1
    target[1, :, :20, :20] = 1
    logits = (1e4 * (2 * target - 1) * (-1 if wrong else 1)).to(dtype).requires_grad_()
    loss = LOSSES[name]()(logits, target)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert (loss > 0.1) == wrong


@every_loss
def test_half_precision_logits_give_the_loss_of_the_same_numbers_in_float32(name):
    logits, target = random_batch((2, 1, 300, 300), dtype=torch.float32)
    logits = logits.half()
    assert LOSSES[name]()(logits, target) == LOSSES[name]()(logits.float(), target)


@every_loss
def test_float64_stays_float64(name):
    assert LOSSES[name]()(*random_batch()).dtype == torch.float64


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_change_the_loss(name, dtype):
    logits, target = random_batch(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        loss = LOSSES[name]()(logits, target)
    assert loss.dtype == torch.float32
    assert loss == LOSSES[name]()(logits, target)


def test_full_precision_turns_autocast_off_and_on_again():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(*random_batch()):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


# The weighted sum.


def test_weighted_sum_is_the_sum_of_its_weighted_losses():
    logits, target = random_batch()
    weights = {"bce": 0.5, "dice": 2.0, "focal": 10.0, "lovasz": 0.25}
    expected = sum(weight * LOSSES[name]()(logits, target) for name, weight in weights.items())
    torch.testing.assert_close(build_loss(weights)(logits, target), expected)


def test_weighted_sum_scales_its_gradient_with_its_weights():
    logits, target = random_batch()
    once, thrice = build_loss({"bce": 1.0, "lovasz": 0.5}), build_loss({"bce": 3.0, "lovasz": 1.5})
    torch.testing.assert_close(gradient(thrice, logits, target), 3 * gradient(once, logits, target))


def test_a_loss_of_weight_zero_is_not_computed():
    assert list(build_loss({"bce": 1, "lovasz": 0}).losses) == ["bce"]


def test_the_mix_is_copied():
    mix = {"bce": 1.0}
    loss_fn = build_loss(mix)
    mix["bce"] = 5.0
    assert loss_fn(row(0), row(1)).item() == pytest.approx(math.log(2))


def test_build_loss_gives_a_module_without_parameters():
    loss_fn = build_loss({"bce": 1.0, "dice": 1.0})
    assert isinstance(loss_fn, WeightedSum)
    assert not list(loss_fn.parameters())
    assert not loss_fn.state_dict()


# Mistakes are answered.


def test_an_unknown_loss_is_answered_with_the_known_ones():
    answer = r"^unknown loss 'jacard'\. Known losses: bce, dice, focal, lovasz\.$"
    with pytest.raises(ValueError, match=answer):
        build_loss({"bce": 1.0, "jacard": 1.0})


@pytest.mark.parametrize(("typo", "meant"), [("lovaz", "lovasz"), ("Dice", "dice"), ("BCE", "bce")])
def test_a_misspelt_loss_is_answered_with_the_nearest(typo, meant):
    with pytest.raises(ValueError, match=rf"unknown loss '{typo}'.*Did you mean '{meant}'\?$"):
        build_loss({typo: 1.0})


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_below_zero_or_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match="weight of loss 'dice' must be >= 0 and finite, got"):
        build_loss({"bce": 1.0, "dice": weight})


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match=r"all weights are 0 \(bce, dice\)"):
        build_loss({"bce": 0.0, "dice": 0})


def test_an_empty_mix_is_refused():
    with pytest.raises(ValueError, match=r"no loss given: name at least one\. Known losses: bce"):
        build_loss({})


@every_loss
def test_shapes_that_differ_are_refused_even_where_they_would_broadcast(name):
    with pytest.raises(ValueError, match=r"logits \(2, 1, 4, 4\) and target \(2, 3, 4, 4\) differ in shape"):
        LOSSES[name]()(torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4))


@every_loss
def test_a_missing_channel_axis_is_refused(name):
    with pytest.raises(ValueError, match=r"takes \(N, C, H, W\), got \(2, 4, 4\)"):
        LOSSES[name]()(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4))


@every_loss
def test_a_batch_without_pixels_is_refused(name):
    with pytest.raises(ValueError, match=r"no pixels is not defined, got \(0, 1, 4, 4\)"):
        LOSSES[name]()(torch.zeros(0, 1, 4, 4), torch.zeros(0, 1, 4, 4))


@pytest.mark.parametrize("smooth", [0.0, -1.0, math.nan])
def test_dice_refuses_a_smooth_that_is_not_positive(smooth):
    with pytest.raises(ValueError, match="smooth must be > 0"):
        DiceLoss(smooth=smooth)


def test_focal_refuses_parameters_out_of_range():
    with pytest.raises(ValueError, match="gamma must be >= 0, got -1"):
        FocalLoss(gamma=-1)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 1.5"):
        FocalLoss(alpha=1.5)
