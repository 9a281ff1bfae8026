import math
from functools import partial

import pytest
import segmentation_models_pytorch.losses as smp_losses
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Phase
from pipeline.losses import LOSSES, MULTICLASS_LOSSES, WeightedLoss, build_loss
from pipeline.losses.bce import BCELoss
from pipeline.losses.cldice import ClDiceLoss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.inputs import NotFiniteError, prepare_inputs
from pipeline.losses.jaccard import JaccardLoss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.skeleton_recall import SkeletonRecallLoss
from pipeline.losses.tversky import FocalTverskyLoss, TverskyLoss
from pipeline.losses.unified_focal import UnifiedFocalLoss
from pipeline.losses.weighted_bce import WeightedBCELoss
from pipeline.metrics import VOID
from pipeline.training.distributed import processes
from pipeline.training.epoch import Arithmetic, train_one_epoch
from tests.pixels import SURE, PerClass, WithMaps, gradient, random_batch, row

# The defaults of every loss, and what its options change.
CASES = LOSSES | {
    "bce, weighted and smoothed": partial(BCELoss, positive_weight=3.0, smoothing=0.1),
    "bce, of the hardest pixels": partial(BCELoss, hardest=0.4),
    "bce, smoothed near boundaries": partial(BCELoss, positive_weight=2.0, boundary_smoothing=1.5),
    "bce, weighted by channel": partial(PerClass, BCELoss),
    "focal, steep": partial(FocalLoss, gamma=0.5, alpha=0.75),
    "focal_tversky, below 1": partial(FocalTverskyLoss, gamma=0.75),
    "lovasz, elu": partial(LovaszHingeLoss, variant="elu"),
    "dice, per batch": partial(DiceLoss, over="batch"),
    "focal_tversky, of what is present": partial(FocalTverskyLoss, empty="ignore"),
    "jaccard, per batch, of what is present": partial(JaccardLoss, over="batch", empty="ignore"),
    "lovasz, of what is present": partial(LovaszHingeLoss, empty="ignore"),
    "lovasz, per batch": partial(LovaszHingeLoss, over="batch"),
    "lovasz, symmetric": partial(LovaszHingeLoss, variant="symmetric"),
    "cldice, per batch": partial(ClDiceLoss, iterations=2, over="batch"),
    "skeleton_recall, per batch": partial(SkeletonRecallLoss, over="batch"),
    "unified_focal, symmetric": partial(UnifiedFocalLoss, weight=0.3, delta=0.7, gamma=0.25, asymmetric=False),
    "unified_focal, per batch": partial(UnifiedFocalLoss, over="batch", empty="ignore"),
    "weighted_bce, wide": partial(WeightedBCELoss, w0=3.0, sigma=16.0, positive_weight=2.0),
    "mix of all maps": partial(WeightedLoss, {"boundary": 0.1, "weighted_bce": 2.0, "skeleton_recall": 1.0}),
    "mix": partial(WeightedLoss, {"bce": 0.5, "lovasz": 2.0}),
}
CASES = {name: partial(WithMaps, make) for name, make in CASES.items()}
# Losses whose value depends on where pixels are.
SPATIAL = [
    name
    for name in CASES
    if name.startswith(("bce, smoothed near", "boundary", "cldice", "skeleton", "weighted_bce", "mix of"))
]
# Losses that are 0 for every constant prediction of an empty, or of a full, target.
RELATIVE = ("boundary", "cldice", "skeleton_recall")

every_loss = pytest.mark.parametrize("name", LOSSES)
every_case = pytest.mark.parametrize("name", CASES)
every_case_of_pixels = pytest.mark.parametrize("name", [name for name in CASES if name not in SPATIAL])


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


def test_bce_with_a_positive_weight_by_hand():
    # The same two pixels: the target's counts five times, in the sum and not in the number of pixels.
    loss = BCELoss(positive_weight=5.0)(row(math.log(3), 0), row(1, 0))
    assert loss.item() == pytest.approx((5 * math.log(4 / 3) + math.log(2)) / 2)


def test_smoothed_bce_is_least_at_the_logit_of_the_smoothed_target():
    # Smoothing 0.2 makes the targets 0.9 and 0.1.
    best = math.log(9)
    assert gradient(BCELoss(smoothing=0.2), row(best, -best), row(1, 0)).flatten().tolist() == pytest.approx(
        [0, 0], abs=1e-7
    )


def test_jaccard_of_a_half_right_prediction_by_hand():
    # One of two target pixels predicted, and one other: index = (1 + 1) / (3 + 1).
    loss = JaccardLoss(smooth=1.0)(row(SURE, -SURE, SURE), row(1, 1, 0))
    assert loss.item() == pytest.approx(0.5)


def test_tversky_weights_false_positives_by_alpha_and_false_negatives_by_beta():
    loss_fn = TverskyLoss(alpha=0.25, beta=2.0, smooth=1.0)
    hit, extra, missed = row(SURE, -SURE), row(SURE, SURE), row(-SURE, -SURE)
    target = row(1, 0)
    assert loss_fn(hit, target).item() == pytest.approx(0, abs=1e-6)
    assert loss_fn(extra, target).item() == pytest.approx(1 - 2 / 2.25)
    assert loss_fn(missed, target).item() == pytest.approx(1 - 1 / 3)


def test_focal_tversky_is_the_power_of_each_image_by_hand():
    # Tversky indices 2 / 2.3 (one false positive) and 1 / 1.7 (one false negative), each to the power 3/4.
    logits = torch.cat([row(SURE, SURE), row(-SURE, -SURE)])
    target = torch.cat([row(1, 0), row(1, 0)])
    expected = ((1 - 2 / 2.3) ** 0.75 + (1 - 1 / 1.7) ** 0.75) / 2
    assert FocalTverskyLoss()(logits, target).item() == pytest.approx(expected)


# Special cases.


def test_overlap_losses_are_tversky_losses():
    logits, target = random_batch()
    torch.testing.assert_close(DiceLoss(smooth=2.0)(logits, target), TverskyLoss(0.5, 0.5, 1.0)(logits, target))
    torch.testing.assert_close(JaccardLoss()(logits, target), TverskyLoss(1.0, 1.0)(logits, target))
    torch.testing.assert_close(FocalTverskyLoss(gamma=1.0)(logits, target), TverskyLoss()(logits, target))


def test_jaccard_loss_of_a_binary_mask_is_a_function_of_its_dice_loss():
    logits, target = random_batch((1, 1, 5, 7))
    mask = SURE * logits.sign()
    dice = DiceLoss(smooth=1e-9)(mask, target)
    torch.testing.assert_close(JaccardLoss(smooth=1e-9)(mask, target), 2 * dice / (1 + dice))


# Other implementations with the same definition.


def test_dice_agrees_with_smp_on_one_image():
    logits, target = random_batch((1, 3, 9, 8))
    theirs = smp_losses.DiceLoss(mode="multilabel", smooth=0.5)  # smp adds it to half of our fraction
    torch.testing.assert_close(DiceLoss(smooth=1.0)(logits, target), theirs(logits, target))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (JaccardLoss(smooth=0.5), smp_losses.JaccardLoss(mode="multilabel", smooth=0.5)),
        (TverskyLoss(0.2, 0.9, 0.5), smp_losses.TverskyLoss(mode="multilabel", alpha=0.2, beta=0.9, smooth=0.5)),
    ],
    ids=["jaccard", "tversky"],
)
def test_overlap_agrees_with_smp_on_one_image(ours, theirs):
    logits, target = random_batch((1, 3, 9, 8))
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    torch.testing.assert_close(gradient(ours, logits, target), gradient(theirs, logits, target))


def test_bce_agrees_with_torch():
    logits, target = random_batch()
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    torch.testing.assert_close(BCELoss(positive_weight=3.0)(logits, target), theirs(logits, target))


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.75), (0.0, 0.5)])
def test_focal_agrees_with_smp(gamma, alpha):
    logits, target = random_batch()
    theirs = smp_losses.FocalLoss(mode="binary", alpha=alpha, gamma=gamma)
    torch.testing.assert_close(FocalLoss(gamma=gamma, alpha=alpha)(logits, target), theirs(logits, target))


def test_focal_with_gamma_0_is_half_of_bce():
    logits, target = random_batch()
    torch.testing.assert_close(2 * FocalLoss(gamma=0.0, alpha=0.5)(logits, target), BCELoss()(logits, target))


# Border cases.


def test_dice_of_an_empty_target_and_prediction_is_0():
    assert DiceLoss()(row(-SURE, -SURE), row(0, 0)).item() == pytest.approx(0, abs=1e-6)


def test_dice_of_an_empty_target_depends_on_predicted_pixels_and_smooth():
    # Three pixels predicted: dice = 1 / (3 + 1).
    assert DiceLoss(smooth=1.0)(row(SURE, SURE, SURE), row(0, 0, 0)).item() == pytest.approx(0.75)


def test_dice_of_an_empty_target_has_a_positive_gradient():
    assert (gradient(DiceLoss(), row(0, 0.5), row(0, 0)) > 0).all()


def test_dice_of_a_full_target_by_hand():
    assert DiceLoss()(row(SURE, SURE, SURE), row(1, 1, 1)).item() == pytest.approx(0, abs=1e-6)
    assert DiceLoss()(row(-SURE, -SURE, -SURE), row(1, 1, 1)).item() == pytest.approx(0.75)


def test_dice_weights_small_and_large_objects_equally():
    # Predict nothing, 1 pixel and 99 pixels missed: 1 - 1/2 and 1 - 1/100, and the mean of the two.
    target = torch.zeros(2, 1, 10, 10)
    target[0, 0, 0, 0] = 1
    target[1].fill_(1)[0, 0, 0] = 0
    loss = DiceLoss()(torch.full_like(target, -SURE), target)
    assert loss.item() == pytest.approx((0.5 + 0.99) / 2)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in RELATIVE])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_loss_of_a_constant_target_is_0_if_right_and_large_if_wrong(name, value):
    target = torch.full((2, 1, 4, 4), value)
    right = SURE * (2 * target - 1)
    loss = WithMaps(partial(build_loss, {name: 1.0}))
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-right, target).item() > 0.5


@every_case
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_batch_of_one_pixel_has_a_finite_loss_and_gradient(name, value):
    target = torch.full((1, 1, 1, 1), value)
    assert torch.isfinite(CASES[name]()(torch.zeros(1, 1, 1, 1), target))
    assert torch.isfinite(gradient(CASES[name](), torch.zeros(1, 1, 1, 1), target)).all()


@pytest.mark.parametrize("name", ["focal", "focal, steep", "focal_tversky", "focal_tversky, below 1"])
@pytest.mark.parametrize("size", [10.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_gradient_of_a_perfect_prediction_is_small_and_finite(name, size, dtype):
    _, target = random_batch((2, 1, 6, 6))
    logits = (size * (2 * target - 1)).to(dtype)
    assert gradient(CASES[name](), logits, target).abs().max() < 2e-3


# Void pixels.


@every_case_of_pixels
@given(st.lists(st.sampled_from([0, 1, VOID]), min_size=1, max_size=16), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_loss_with_void_pixels_equals_loss_without_these_pixels(name, target, seed):
    target = torch.tensor([[[target]]])
    logits, _ = random_batch(target.shape, seed=seed)
    valid = target != VOID
    if not valid.any():
        return
    valid_only = logits[valid].reshape(1, 1, 1, -1), target[valid].reshape(1, 1, 1, -1)
    torch.testing.assert_close(CASES[name]()(logits, target), CASES[name]()(*valid_only))
    torch.testing.assert_close(
        gradient(CASES[name](), logits, target)[valid], gradient(CASES[name](), *valid_only).flatten()
    )
    assert not gradient(CASES[name](), logits, target)[~valid].any()


@every_case
def test_logits_of_void_pixels_change_nothing(name):
    logits, target = random_batch((2, 2, 9, 8))
    target[:, :, 2:5] = VOID
    other = logits.clone()
    other[:, :, 2:5] = 9
    assert torch.equal(CASES[name]()(logits, target), CASES[name]()(other, target))
    assert not gradient(CASES[name](), logits, target)[:, :, 2:5].any()


@every_case
def test_a_void_image_is_excluded_from_the_mean(name):
    logits, target = random_batch()
    more = torch.cat([logits, logits[:1]]), torch.cat([target, torch.full_like(target[:1], VOID)])
    torch.testing.assert_close(CASES[name]()(*more), CASES[name]()(logits, target))
    assert not gradient(CASES[name](), *more)[-1].any()


@every_case
def test_a_batch_of_void_pixels_has_zero_loss_and_gradient(name):
    logits, target = random_batch()
    void = torch.full_like(target, VOID)
    assert CASES[name]()(logits, void) == 0
    assert not gradient(CASES[name](), logits, void).any()


@pytest.mark.parametrize("name", ["bce", "focal"])
def test_pixel_losses_weight_an_image_by_its_valid_pixels(name):
    logits, target = random_batch((2, 1, 2, 4))
    target[0, 0, 0] = VOID
    loss_fn = LOSSES[name]()
    first, second = loss_fn(logits[:1], target[:1]), loss_fn(logits[1:], target[1:])
    torch.testing.assert_close(loss_fn(logits, target), (4 * first + 8 * second) / 12)


@every_case
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32])
def test_void_is_255_in_any_dtype(name, dtype):
    logits, target = random_batch()
    target[0, :, 2] = VOID
    torch.testing.assert_close(CASES[name]()(logits, target.to(dtype)), CASES[name]()(logits, target))


# Properties of every loss.


@every_case
def test_gradient_equals_finite_differences(name):
    logits, target = random_batch((2, 2, 3, 4))
    target[0, 0], target[0, 1] = 0, 1
    assert torch.autograd.gradcheck(lambda x: CASES[name]()(x, target), logits.requires_grad_())


@every_case_of_pixels
def test_value_does_not_depend_on_the_order_of_pixels(name):
    logits, target = random_batch()
    logits = logits.round()  # many equal errors
    order = torch.randperm(35, generator=torch.Generator().manual_seed(1))
    shuffled = [x.flatten(2)[..., order].reshape(x.shape) for x in (logits, target)]
    torch.testing.assert_close(CASES[name]()(*shuffled), CASES[name]()(logits, target))


@every_loss
def test_value_is_the_mean_over_images_and_channels(name):
    logits, target = random_batch()
    loss_fn = CASES[name]()
    one_by_one = zip(logits.reshape(6, 1, 1, 5, 7), target.reshape(6, 1, 1, 5, 7), strict=True)
    each = [loss_fn(x, t) for x, t in one_by_one]
    torch.testing.assert_close(loss_fn(logits, target), torch.stack(each).mean())


@every_case
def test_a_gradient_step_lowers_the_loss(name):
    logits, target = random_batch()
    loss_fn = CASES[name]()
    down = logits - 1e-3 * gradient(loss_fn, logits, target)
    assert loss_fn(down, target) < loss_fn(logits, target)


@every_case
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_target_of_any_dtype_gives_the_same_loss(name, dtype):
    logits, target = random_batch(dtype=torch.float32)
    loss = CASES[name]()(logits, target.to(dtype))
    assert loss.dtype == torch.float32
    assert loss == CASES[name]()(logits, target)


@every_case
def test_loss_changes_neither_logits_nor_target(name):
    logits, target = random_batch()
    before = logits.clone(), target.clone()
    CASES[name]()(logits, target)
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
    loss = CASES[name]()(logits, target)
    loss.backward()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    if name != "cldice":  # the square's background is so wide that it has no skeleton
        assert (loss > 0.1) == wrong


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [-1e4, -65e3, 1e4, 65e3])
def test_gradients_of_huge_logits_are_finite(name, dtype, size):
    _, target = random_batch((2, 1, 40, 40))
    logits = (size * (2 * target - 1)).to(dtype)
    assert torch.isfinite(gradient(CASES[name](), logits, target)).all()


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [False, True], ids=["right", "wrong"])
def test_infinite_logits_give_a_finite_loss(name, dtype, wrong):
    logits, target = random_batch()
    logits[0, 0, 0] = math.inf * (2 * target[0, 0, 0] - 1) * (-1 if wrong else 1)
    logits = logits.to(dtype)
    logits[0, 0, 1, :2] = logits[0, 0, 0, 0]  # the sum of several must be finite too
    assert torch.isfinite(CASES[name]()(logits, target))
    assert torch.isfinite(gradient(CASES[name](), logits, target)).all()


def test_a_correct_infinite_logit_has_the_loss_of_a_large_one():
    logits, target = row(math.inf, -math.inf, 0.5), row(1, 0, 1)
    for name in LOSSES:
        loss = CASES[name]()(logits, target)
        torch.testing.assert_close(loss, CASES[name]()(logits.clamp(-SURE, SURE), target))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lovasz", "dice"])
def test_loss_of_an_image_of_4096_by_4096_pixels_is_accurate(name):
    target = torch.zeros(1, 1, 4096, 4096, dtype=torch.uint8)
    target[..., :1024] = 1  # a quarter, and every logit is 0: errors of 1, or probabilities of 1/2
    logits = torch.zeros(target.shape, requires_grad=True)
    loss = LOSSES[name]()(logits, target)
    loss.backward()
    assert loss.item() == pytest.approx({"lovasz": 1, "dice": 1 - 2 * 0.125 / 0.75}[name], rel=1e-5)
    assert torch.isfinite(logits.grad).all()


@every_case
def test_half_precision_logits_give_the_float32_loss(name):
    logits, target = random_batch((2, 1, 300, 300), dtype=torch.float32)
    logits = logits.half()
    assert CASES[name]()(logits, target) == CASES[name]()(logits.float(), target)


@every_case
def test_loss_of_float64_logits_is_float64(name):
    assert CASES[name]()(*random_batch()).dtype == torch.float64


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_change_the_loss(name, dtype):
    logits, target = random_batch(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        loss = CASES[name]()(logits, target)
    assert loss.dtype == torch.float32
    assert loss == CASES[name]()(logits, target)


def test_prepare_inputs_disables_autocast_and_restores_it():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with prepare_inputs(*random_batch()):
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


def test_weighted_sum_copies_its_weights():
    mix = {"bce": 1.0}
    loss_fn = build_loss(mix)
    mix["bce"] = 5.0
    assert loss_fn(row(0), row(1)).item() == pytest.approx(math.log(2))


def test_build_loss_returns_a_module_without_parameters():
    loss_fn = build_loss({"bce": 1.0, "dice": 1.0})
    assert isinstance(loss_fn, WeightedLoss)
    assert not list(loss_fn.parameters())
    assert not loss_fn.state_dict()


# Errors.


def test_an_unknown_loss_is_refused_with_the_known_ones():
    answer = r"^unknown loss 'hausdorff'\. Known: bce, boundary, cldice, .*, unified_focal, weighted_bce\.$"
    with pytest.raises(ValueError, match=answer):
        build_loss({"bce": 1.0, "hausdorff": 1.0})


@pytest.mark.parametrize(
    ("typo", "meant"), [("lovaz", "lovasz"), ("Dice", "dice"), ("BCE", "bce"), ("jacard", "jaccard")]
)
def test_a_misspelt_loss_is_refused_with_the_nearest_name(typo, meant):
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


@pytest.mark.parametrize("name", MULTICLASS_LOSSES)
def test_a_multiclass_loss_is_refused_for_overlapping_classes(name):
    with pytest.raises(ValueError, match=rf"loss '{name}' needs a multi-class target.*: bce, boundary, cldice"):
        build_loss({name: 1.0})


def test_options_are_passed_to_the_loss():
    logits, target = random_batch()
    options = {"bce": {"positive_weight": 5, "smoothing": 0.1}, "lovasz": {"variant": "elu", "over": "batch"}}
    built = build_loss({"bce": 1.0, "lovasz": 0.5}, options)
    expected = BCELoss(5.0, 0.1)(logits, target) + 0.5 * LovaszHingeLoss("batch", "elu")(logits, target)
    torch.testing.assert_close(built(logits, target), expected)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"lovaz": {}}, r"options of loss 'lovaz', which has no weight\. Did you mean 'lovasz'\?"),
        ({"dice": {"smooth": 2.0}}, r"options of loss 'dice', which has no weight\. Known: bce, lovasz\."),
        ({"bce": {"smothing": 0.1}}, r"^loss 'bce': unknown option 'smothing'\. Did you mean 'smoothing'\?$"),
        ({"lovasz": {"gamma": 2.0}}, r"^loss 'lovasz': unknown option 'gamma'\. Known: empty, over, variant\.$"),
        ({"bce": {"positive_weight": "high"}}, r"^loss 'bce': positive_weight = 'high': expected numbers, or a method"),
        ({"bce": {"positive_weight": True}}, r"^loss 'bce': positive_weight = True: expected a number$"),
        ({"lovasz": {"over": 1}}, r"^loss 'lovasz': over = 1: expected a text$"),
        ({"lovasz": {"over": "batches"}}, r"^loss 'lovasz': unknown over 'batches'\. Did you mean 'batch'\?$"),
        ({"lovasz": {"variant": "relus"}}, r"^loss 'lovasz': unknown variant 'relus'\. Did you mean 'relu'\?$"),
        ({"bce": {"smoothing": 1.0}}, r"^loss 'bce': smoothing must be in \[0, 1\), got 1\.0"),
    ],
)
def test_an_error_in_the_options_names_loss_and_option(options, answer):
    with pytest.raises(ValueError, match=answer):
        build_loss({"bce": 1.0, "lovasz": 1.0}, options)


def test_options_keep_their_types_in_a_config():
    phase = Phase(loss={"lovasz": 1}, epochs=1, lr=1, loss_options={"lovasz": {"over": "batch", "variant": "elu"}})
    assert phase.loss_options == {"lovasz": {"over": "batch", "variant": "elu"}}
    assert build_loss(phase.loss, phase.loss_options).losses["lovasz"].over == "batch"
    phase = Phase(loss={"bce": 1}, epochs=1, lr=1, loss_options={"bce": {"positive_weight": 1}})
    assert build_loss(phase.loss, phase.loss_options).losses["bce"].positive_weight == 1


def test_options_of_a_loss_of_weight_zero_are_checked():
    with pytest.raises(ValueError, match="unknown variant"):
        build_loss({"bce": 1.0, "lovasz": 0.0}, {"lovasz": {"variant": "gelu"}})


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


@every_case
@pytest.mark.parametrize(
    ("value", "dtype"), [(2, torch.uint8), (-1, torch.int64), (1.5, torch.float32), (math.nan, torch.float32)]
)
def test_a_target_that_is_neither_0_nor_1_nor_void_is_refused(name, value, dtype):
    target = torch.zeros(1, 1, 2, 2, dtype=dtype)
    target[0, 0, 0, 1] = value
    with pytest.raises(ValueError, match=rf"target holds {value}: expected 0, 1, or 255 for void; .*divided by 255"):
        CASES[name]()(torch.zeros(1, 1, 2, 2), target)


@every_case
def test_nan_logits_are_refused_with_their_number(name):
    logits = torch.zeros(1, 1, 4, 4)
    logits[0, 0, 0, :3] = math.nan
    logits[0, 0, 1] = math.inf
    with pytest.raises(NotFiniteError, match="logits hold 3 NaN of 16"):
        CASES[name]()(logits, torch.zeros(1, 1, 4, 4))


def test_nan_logits_stop_training_with_batch_learning_rate_and_remedy():
    model = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.constant_(model.weight, math.nan)
    batches = [(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 4, 4))]
    with pytest.raises(FloatingPointError, match=r"logits hold 32 NaN of 32.* at batch 1, .*rate 0\.1: .*lower the"):
        train_one_epoch(
            model,
            batches,
            build_loss({"bce": 1.0}),
            torch.optim.SGD(model.parameters()),
            Arithmetic.of(processes(), "float32"),
            learning_rates=[0.1],
            accumulate=1,
            clip=1.0,
            after_update=lambda update: None,
        )


def test_the_weighted_sum_checks_its_inputs_once(monkeypatch):
    calls = []
    monkeypatch.setattr("pipeline.losses.inputs.clamp_infinite", lambda logits: calls.append(1) or logits)
    build_loss({"bce": 1.0, "dice": 1.0, "lovasz": 1.0})(*random_batch())
    assert len(calls) == 1


@pytest.mark.parametrize("smooth", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky", "focal_tversky"])
def test_overlap_refuses_a_smooth_that_is_not_positive(name, smooth):
    with pytest.raises(ValueError, match="smooth must be > 0"):
        LOSSES[name](smooth=smooth)


def test_focal_refuses_parameters_out_of_range():
    with pytest.raises(ValueError, match="gamma must be >= 0, got -1"):
        FocalLoss(gamma=-1)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 1.5"):
        FocalLoss(alpha=1.5)


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda: BCELoss(positive_weight=0), "positive_weight must be > 0 and finite, got 0"),
        (lambda: BCELoss(smoothing=-0.1), r"smoothing must be in \[0, 1\), got -0.1"),
        (lambda: TverskyLoss(alpha=-1), "alpha and beta must be >= 0 and finite, got -1 and 0.7"),
        (lambda: TverskyLoss(alpha=0, beta=0), "alpha and beta are both 0"),
        (lambda: FocalTverskyLoss(gamma=0), "gamma must be > 0 and finite, got 0"),
        (lambda: LovaszHingeLoss(variant="softplus"), r"unknown variant 'softplus'\. Known: elu, relu, symmetric\."),
    ],
)
def test_arguments_out_of_range_are_refused(make, answer):
    with pytest.raises(ValueError, match=answer):
        make()
