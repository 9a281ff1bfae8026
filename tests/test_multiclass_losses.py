"""Losses of one class per pixel: laws, and mistakes answered."""

import math
from functools import partial

import pytest
import torch

from pipeline.losses import MULTICLASS_LOSSES
from pipeline.losses.cross_entropy import CrossEntropyLoss
from pipeline.losses.lovasz_softmax import LovaszSoftmaxLoss
from pipeline.losses.precision import IGNORE, NotFiniteError
from tests.pixels import gradient, random_classes

CASES = MULTICLASS_LOSSES | {
    "cross_entropy, smoothed": partial(CrossEntropyLoss, smoothing=0.1),
    "lovasz_softmax, all": partial(LovaszSoftmaxLoss, classes="all"),
    "lovasz_softmax, per image": partial(LovaszSoftmaxLoss, per_image=True),
}
every_case = pytest.mark.parametrize("name", CASES)


def test_cross_entropy_of_two_pixels_by_hand():
    # Probabilities 3/4 and 1/2 of the right class.
    logits = torch.tensor([[[[math.log(3), 0.0]], [[0.0, 0.0]]]])
    loss = CrossEntropyLoss()(logits, torch.tensor([[[0, 1]]]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_cross_entropy_agrees_with_torch():
    logits, target = random_classes()
    target[0, 0] = IGNORE
    theirs = torch.nn.CrossEntropyLoss(ignore_index=IGNORE, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropyLoss(smoothing=0.1)(logits, target), theirs(logits, target))


@every_case
def test_gradient_is_that_of_finite_differences(name):
    logits, target = random_classes((2, 3, 3, 4))
    target[0, 0, :2] = IGNORE
    assert torch.autograd.gradcheck(lambda x: CASES[name]()(x, target), logits.requires_grad_())


@every_case
@pytest.mark.parametrize("seed", range(5))
def test_void_pixels_count_as_if_cut_out(name, seed):
    logits, target = random_classes((1, 3, 4, 5), seed=seed)
    target[torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) < 0.4] = IGNORE
    valid = target[0] != IGNORE
    cut = logits[:, :, valid][:, :, None], target[:, valid][:, None]
    torch.testing.assert_close(CASES[name]()(logits, target), CASES[name]()(*cut))
    assert not gradient(CASES[name](), logits, target)[:, :, ~valid].any()


@every_case
def test_a_batch_of_void_pixels_costs_and_teaches_nothing(name):
    logits, target = random_classes()
    void = torch.full_like(target, IGNORE)
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
    target[0, 0] = IGNORE
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
def test_a_target_that_does_not_fit_is_refused(name, target, answer):
    with pytest.raises(ValueError, match=answer):
        CASES[name]()(torch.zeros(1, 3, 2, 2), target)


@every_case
def test_nan_logits_are_refused_with_their_number(name):
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="logits hold 2 NaN of 8"):
        CASES[name]()(logits, torch.zeros(1, 2, 2))


def test_unknown_classes_are_refused():
    with pytest.raises(ValueError, match=r"unknown classes 'presents'\. Did you mean 'present'\?"):
        LovaszSoftmaxLoss(classes="presents")
