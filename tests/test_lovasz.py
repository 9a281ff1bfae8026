"""Lovász hinge and Lovász-Softmax, against their definition, other implementations and values by hand."""

from itertools import pairwise, permutations

import pytest
import segmentation_models_pytorch.losses as smp_losses
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.losses.lovasz import VARIANTS, LovaszHingeLoss
from pipeline.losses.lovasz_extension import MAX_GATHERED_SHARE, lovasz_extension, lovasz_grad, lovasz_grad_unsorted
from pipeline.losses.lovasz_softmax import COUNTED, LovaszSoftmaxLoss
from pipeline.losses.overlap import OVER
from pipeline.metrics import VOID
from tests.pixels import gradient, random_batch, random_classes, row


def test_lovasz_of_three_pixels_by_hand():
    # Errors 3, 1.5, 0.5 in the order background, target, target. Wrong in the first k of them,
    # the Jaccard loss is 1/3, 2/3, 1, so each step is 1/3: (3 + 1.5 + 0.5) / 3.
    logits, target = row(-0.5, 2, 0.5), row(1, 0, 1)
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(5 / 3)
    torch.testing.assert_close(gradient(LovaszHingeLoss(), logits, target), row(-1, 1, -1) / 3)


def test_lovasz_grad_of_a_background_pixel_after_a_target_pixel_by_hand():
    # Two target pixels. J goes 1/2 (target), 2/3 (background), 3/4 (background), 1 (target).
    target, kept = torch.tensor([True, False, False, True]), torch.tensor([1, 1, 1, 0])
    steps = lovasz_grad(target, kept, rank=torch.tensor([1, 2, 3, 4]))
    torch.testing.assert_close(steps, torch.tensor([1 / 2, 1 / 6, 1 / 12, 1 / 4]))


# Against the definition, in plain Python.


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
def test_lovasz_equals_its_definition(pixels):
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


def test_a_correct_pixel_beyond_the_margin_has_no_hinge_error():
    logits, target = row(1.5, -1.5, 0.0), row(1, 0, 1)
    # The one error is 1, of two target pixels: J = 1/2.
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(0.5)
    assert gradient(LovaszHingeLoss(), logits, target).flatten().tolist() == pytest.approx([0, 0, -0.5])


def test_lovasz_grad_in_float32_keeps_six_digits_in_a_large_image():
    # Errors are different multiples of 2^-16, so both precisions sort equally. As differences of two
    # Jaccard losses in float32, steps of about 1e-9 would be lost in rounding.
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, 512, 512)
    errors = torch.randperm(512 * 512, generator=generator).reshape(shape) / 2**16
    target = (torch.rand(shape, generator=generator) < 0.002).float()
    logits = (1 - errors) * (2 * target - 1)
    single = gradient(LovaszHingeLoss(), logits, target)
    double = gradient(LovaszHingeLoss(), logits.double(), target)
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_lovasz_agrees_with_smp(channels):
    logits, target = random_batch((4, channels, 9, 8), dtype=torch.float32)
    flat = logits.reshape(-1, 1, 9, 8), target.reshape(-1, 1, 9, 8)  # smp takes an image's channels as one
    theirs = smp_losses.LovaszLoss(mode="binary", per_image=True)
    torch.testing.assert_close(LovaszHingeLoss()(logits, target), theirs(*flat))
    our_gradient = gradient(LovaszHingeLoss(), logits, target).reshape(-1, 1, 9, 8)
    torch.testing.assert_close(our_gradient, gradient(theirs, *flat), rtol=1e-4, atol=1e-7)


def test_lovasz_of_an_empty_target_is_its_largest_error_with_the_gradient_of_that_pixel():
    logits, target = row(-3, 0.5, -0.5), row(0, 0, 0)
    assert LovaszHingeLoss()(logits, target).item() == pytest.approx(1.5)
    assert gradient(LovaszHingeLoss(), logits, target).flatten().tolist() == [0, 1, 0]


def test_lovasz_of_an_empty_target_is_0_beyond_the_margin():
    assert LovaszHingeLoss()(row(-3, -1), row(0, 0)).item() == 0


def test_lovasz_of_a_full_target_is_the_mean_hinge_error():
    # Errors 0, 0.5, 4.
    assert LovaszHingeLoss()(row(2, 0.5, -3), row(1, 1, 1)).item() == pytest.approx(1.5)


@pytest.mark.parametrize("value", [False, True])
def test_the_jaccard_step_of_a_single_pixel_is_one(value):
    assert lovasz_grad(torch.tensor([value]), torch.tensor([0]), torch.tensor([1])).tolist() == [1]


# The extension of a set function to pixels that are wrong by degrees.

few_pixels = st.lists(
    st.tuples(st.floats(0, 4) | st.integers(0, 2).map(float), st.integers(0, 1)), min_size=1, max_size=6
)


def extension(errors, target) -> float:
    """lovasz_extension of one row, in float64."""
    errors = torch.tensor([errors], dtype=torch.float64)
    return lovasz_extension(errors, torch.tensor([target]) > 0, torch.ones_like(errors, dtype=bool)).item()


@given(few_pixels)
@settings(max_examples=100, deadline=None)
def test_extension_is_the_integral_of_the_jaccard_loss_over_thresholds(pixels):
    # Between two neighbouring errors, the pixels above the threshold are the same.
    errors, target = zip(*pixels, strict=True)
    in_target = {i for i, t in enumerate(target) if t}
    ends = sorted({0.0, *errors})
    integral = 0.0
    for low, high in pairwise(ends):
        integral += (high - low) * jaccard_loss({i for i, m in enumerate(errors) if m > low}, in_target)
    assert extension(errors, target) == pytest.approx(integral, abs=1e-12)


@given(few_pixels.filter(lambda pixels: len(pixels) <= 5))
@settings(max_examples=30, deadline=None)
def test_extension_is_the_largest_sum_over_all_orders(pixels):
    # True of submodular set functions only: each order gives a plane, and the largest of planes is convex.
    errors, target = zip(*pixels, strict=True)
    in_target = {i for i, t in enumerate(target) if t}
    planes = []
    for order in permutations(range(len(pixels))):
        losses = [jaccard_loss(set(order[:k]), in_target) for k in range(len(order) + 1)]
        planes.append(sum(errors[i] * (losses[k + 1] - losses[k]) for k, i in enumerate(order)))
    assert extension(errors, target) == pytest.approx(max(planes), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("size", range(1, 7))
def test_extension_of_every_set_of_wrong_pixels_is_its_jaccard_loss(size):
    for coded in range(4**size):
        wrong = {i for i in range(size) if coded >> i & 1}
        target = {i for i in range(size) if coded >> (size + i) & 1}
        errors, in_target = ([float(i in each) for i in range(size)] for each in (wrong, target))
        assert extension(errors, in_target) == pytest.approx(jaccard_loss(wrong, target), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [MAX_GATHERED_SHARE / 4, 1.0], ids=["few", "all"])
def test_rows_are_independent(dtype, share):
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand((5, 40), generator=generator, dtype=dtype)
    errors = torch.where(torch.rand(errors.shape, generator=generator) < share, errors, 0)
    errors[3] = 0
    target = torch.rand(errors.shape, generator=generator) < 0.3
    target[2] = False
    valid = torch.rand(errors.shape, generator=generator) < 0.9
    together = lovasz_grad_unsorted(errors, target & valid, valid)
    for i in range(5):
        keep = valid[i]
        alone = lovasz_grad_unsorted(
            errors[i : i + 1, keep], target[i : i + 1, keep], torch.ones(1, int(keep.sum())) > 0
        )
        torch.testing.assert_close(together[i, keep], alone[0], rtol=1e-6, atol=0)
        assert not together[i, ~keep].any()


# Variants.


def test_variants_of_one_wrong_pixel_by_hand():
    # Margins 3 (background) and -1 (target). relu: 3 * 1/2. elu: 4 * 1/2 + exp(-1) * 1/2.
    # symmetric: with the background as the target, the first step is 1 and no target is missed after it: (1.5 + 3) / 2.
    logits, target = row(2, 2), row(0, 1)
    found = {name: LovaszHingeLoss(variant=name)(logits, target).item() for name in VARIANTS}
    expected = {"relu": 1.5, "elu": 2 + 0.5 * torch.tensor(-1.0).exp().item(), "symmetric": (1.5 + 3) / 2}
    assert found == pytest.approx(expected)


def test_symmetric_is_the_mean_of_object_and_background():
    logits, target = random_batch()
    hinge, symmetric = LovaszHingeLoss(), LovaszHingeLoss(variant="symmetric")
    expected = (hinge(logits, target) + hinge(-logits, 1 - target)) / 2
    torch.testing.assert_close(symmetric(logits, target), expected)
    torch.testing.assert_close(symmetric(-logits, 1 - target), symmetric(logits, target))


@given(pixels)
@settings(max_examples=50, deadline=None)
def test_elu_is_never_below_the_hinge(pixels):
    logits, target = (row(*each) for each in zip(*pixels, strict=True))
    assert LovaszHingeLoss(variant="elu")(logits, target) >= LovaszHingeLoss()(logits, target) - 1e-5


def test_elu_has_a_gradient_at_correct_pixels():
    assert (gradient(LovaszHingeLoss(variant="elu"), row(3, 4), row(1, 1)) < 0).all()


# Per image or per batch.


@pytest.mark.parametrize("variant", VARIANTS)
def test_for_a_batch_of_one_image_per_image_and_per_batch_are_equal(variant):
    logits, target = random_batch((1, 3, 5, 7))
    per_image, per_batch = (LovaszHingeLoss(each, variant)(logits, target) for each in OVER)
    torch.testing.assert_close(per_batch, per_image)


def test_loss_per_batch_is_that_of_all_pixels_in_one_image():
    logits, target = random_batch((3, 2, 5, 7))
    wide = [torch.cat(list(each), dim=2)[None] for each in (logits, target)]
    torch.testing.assert_close(LovaszHingeLoss("batch")(logits, target), LovaszHingeLoss()(*wide))


# The published algorithm: differences of Jaccard losses of sorted errors, row by row.


def berman(errors: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of https://arxiv.org/abs/1705.08790 for one row, with autograd through the sort."""
    errors, order = errors.sort(descending=True)
    target = target[order]
    jaccard = 1 - (target.sum() - target.cumsum(0)) / (target.sum() + (1 - target).cumsum(0))
    return errors @ torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def test_hinge_agrees_with_algorithm_1():
    logits, target = random_batch((3, 1, 9, 8))

    def theirs(logits, target):
        errors = torch.relu(1 - logits * (2 * target - 1)).flatten(1)
        return torch.stack([berman(m, t) for m, t in zip(errors, target.flatten(1), strict=True)]).mean()

    torch.testing.assert_close(LovaszHingeLoss()(logits, target), theirs(logits, target))
    ours = gradient(LovaszHingeLoss(), logits, target)
    torch.testing.assert_close(ours, gradient(theirs, logits, target))


# Softmax.


def test_softmax_of_two_pixels_by_hand():
    # Probabilities 3/4 and 1/4 of class 0 against classes 0 and 1: both classes have errors 1/4, 1/4. Of equal
    # errors the sum is the error times the whole Jaccard loss, 1.
    logits = torch.tensor([3.0, 1.0]).log().reshape(1, 1, 1, 2)
    logits = torch.cat([logits, torch.tensor([1.0, 3.0]).log().reshape(1, 1, 1, 2)], dim=1)
    assert LovaszSoftmaxLoss()(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(0.25)


def test_softmax_of_two_classes_is_the_mean_of_object_and_background():
    logits, target = random_classes((1, 2, 5, 7))
    probs = logits.softmax(dim=1)[0].flatten(1)
    errors = torch.where(target.flatten() == 1, probs[0], probs[1])  # the same for both classes
    sides = [berman(errors, (target.flatten() == c).double()) for c in range(2)]
    torch.testing.assert_close(LovaszSoftmaxLoss()(logits, target), sum(sides) / 2)


def test_loss_of_an_absent_class_is_its_largest_probability_if_all_classes_count():
    logits, target = random_classes((1, 3, 5, 7))
    target = target.clamp_max(1)
    present, everything = (LovaszSoftmaxLoss(classes=each)(logits, target) for each in ("present", "all"))
    absent = logits.softmax(dim=1)[0, 2].max()
    torch.testing.assert_close(everything, (2 * present + absent) / 3)


@pytest.mark.parametrize("over", OVER)
def test_softmax_agrees_with_smp(over):
    logits, target = random_classes((3, 4, 9, 8), dtype=torch.float32)  # all that smp takes
    target[0] = target[0].clamp_max(2)  # a class that one image lacks
    theirs = smp_losses.LovaszLoss(mode="multiclass", per_image=over == "image")
    ours = LovaszSoftmaxLoss(over=over)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    torch.testing.assert_close(gradient(ours, logits, target), gradient(theirs, logits, target))


@pytest.mark.parametrize("classes", COUNTED)
def test_softmax_per_image_is_the_mean_over_images_with_a_valid_pixel(classes):
    logits, target = random_classes((3, 4, 5, 7))
    target[1] = VOID
    each = [LovaszSoftmaxLoss(classes)(logits[i : i + 1], target[i : i + 1]) for i in (0, 2)]
    torch.testing.assert_close(LovaszSoftmaxLoss(classes, over="image")(logits, target), sum(each) / 2)
