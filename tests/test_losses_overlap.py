"""The pixels over which Dice, Jaccard, Tversky and Lovász sum, and their treatment of empty targets."""

import pytest
import segmentation_models_pytorch.losses as smp_losses
import torch

from pipeline.losses import LOSSES, build_loss
from pipeline.losses.dice import DiceLoss
from pipeline.losses.focal import FocalLoss
from pipeline.losses.jaccard import JaccardLoss
from pipeline.losses.lovasz import LovaszHingeLoss
from pipeline.losses.overlap import EMPTY, OVER
from pipeline.losses.tversky import TverskyLoss
from pipeline.metrics import VOID
from tests.pixels import SURE, gradient, random_batch, row

OVERLAPS = ("dice", "jaccard", "tversky", "focal_tversky", "lovasz")
every_overlap = pytest.mark.parametrize("name", OVERLAPS)


def two_images():
    """One image of which 1 of 2 object pixels is predicted; an empty one of which 1 pixel is."""
    logits = torch.cat([row(SURE, -SURE, -SURE), row(SURE, -SURE, -SURE)])
    return logits, torch.cat([row(1, 1, 0), row(0, 0, 0)])


@pytest.mark.parametrize(
    ("over", "empty", "expected"),
    [
        # (2·1 + 1) / (1 + 2 + 1) = 3/4 of the first image, 1 / (1 + 1) = 1/2 of the empty one.
        ("image", "count", 1 - (3 / 4 + 1 / 2) / 2),
        ("image", "ignore", 1 - 3 / 4),
        # Both in one: (2·1 + 1) / (2 + 2 + 1) = 3/5; the channel is not empty.
        ("batch", "count", 1 - 3 / 5),
        ("batch", "ignore", 1 - 3 / 5),
    ],
)
def test_dice_of_an_image_and_an_empty_one_by_hand(over, empty, expected):
    assert DiceLoss(1.0, over, empty)(*two_images()).item() == pytest.approx(expected, abs=1e-6)


def test_tversky_over_the_batch_by_hand():
    # One true positive, false positive and false negative: (1 + 1) / (1 + 0.25 + 2 + 1).
    loss = TverskyLoss(0.25, 2.0, 1.0, over="batch")(*two_images())
    assert loss.item() == pytest.approx(1 - 2 / 4.25, abs=1e-6)


@pytest.mark.parametrize(
    ("over", "empty", "expected"),
    [
        # Hinge errors of confident logits: 1 + SURE for the false negative and the false positive. In its image, the
        # false negative lowers the Jaccard index from 1 to 1/2; the false positive of an empty target from 1 to 0.
        ("image", "count", (1 + SURE) * (1 / 2 + 1) / 2),
        ("image", "ignore", (1 + SURE) / 2),
        # Both in one set of 2 object pixels: intersection 1, union 3.
        ("batch", "count", (1 + SURE) * 2 / 3),
    ],
)
def test_lovasz_of_an_image_and_an_empty_one_by_hand(over, empty, expected):
    assert LovaszHingeLoss(over, empty=empty)(*two_images()).item() == pytest.approx(expected)


@every_overlap
def test_for_a_batch_of_one_image_over_image_and_over_batch_are_equal(name):
    logits, target = random_batch((1, 3, 5, 7))
    image, batch = (LOSSES[name](over=over)(logits, target) for over in OVER)
    torch.testing.assert_close(batch, image)


@every_overlap
@pytest.mark.parametrize("empty", EMPTY)
def test_loss_over_the_batch_is_that_of_all_pixels_in_one_image(name, empty):
    logits, target = random_batch((3, 2, 5, 7))
    target[0] = 0
    target[1, 0, 2] = VOID
    wide = [torch.cat(list(each), dim=2)[None] for each in (logits, target)]
    batch, image = LOSSES[name](over="batch", empty=empty), LOSSES[name](empty=empty)
    torch.testing.assert_close(batch(logits, target), image(*wide))


@every_overlap
@pytest.mark.parametrize("over", OVER)
def test_without_empty_targets_ignore_equals_count(name, over):
    logits, target = random_batch()
    assert target.flatten(2).any(dim=2).all()
    ignore, count = (LOSSES[name](over=over, empty=empty) for empty in ("ignore", "count"))
    torch.testing.assert_close(ignore(logits, target), count(logits, target))
    torch.testing.assert_close(gradient(ignore, logits, target), gradient(count, logits, target))


@every_overlap
def test_loss_with_an_ignored_empty_image_equals_loss_without_it(name):
    logits, target = random_batch((3, 1, 5, 7))
    target[1] = 0
    loss = LOSSES[name](empty="ignore")
    torch.testing.assert_close(loss(logits, target), loss(logits[[0, 2]], target[[0, 2]]))
    assert not gradient(loss, logits, target)[1].any()


@every_overlap
def test_an_image_of_background_and_void_pixels_is_empty(name):
    logits, target = random_batch((2, 1, 5, 7))
    target[1] = 0
    target[1, 0, 0] = VOID
    loss = LOSSES[name](empty="ignore")
    torch.testing.assert_close(loss(logits, target), loss(logits[:1], target[:1]))


@every_overlap
@pytest.mark.parametrize("over", OVER)
def test_a_batch_of_ignored_images_has_zero_loss_and_gradient(name, over):
    logits, _ = random_batch()
    loss, target = LOSSES[name](over=over, empty="ignore"), torch.zeros(logits.shape)
    assert loss(logits, target) == 0
    assert not gradient(loss, logits, target).any()


@every_overlap
def test_over_the_batch_an_empty_image_has_a_non_negative_gradient(name):
    logits, target = random_batch((2, 1, 5, 7))
    target[1] = 0
    down = gradient(LOSSES[name](over="batch"), logits, target)[1]
    assert (down >= 0).all()
    assert down.any()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DiceLoss(1.0, "batch"), smp_losses.DiceLoss(mode="multilabel", smooth=0.5)),
        (JaccardLoss(0.5, "batch"), smp_losses.JaccardLoss(mode="multilabel", smooth=0.5)),
        (TverskyLoss(0.2, 0.9, 0.5, "batch"), smp_losses.TverskyLoss("multilabel", alpha=0.2, beta=0.9, smooth=0.5)),
    ],
    ids=["dice", "jaccard", "tversky"],
)
def test_over_the_batch_agrees_with_smp(ours, theirs):
    logits, target = random_batch((4, 3, 9, 8))  # every class has a pixel: smp counts a class without one as 0
    target[0] = 0
    torch.testing.assert_close(ours(logits, target), theirs(logits, target))
    torch.testing.assert_close(gradient(ours, logits, target), gradient(theirs, logits, target))


def test_lovasz_over_the_batch_agrees_with_smp():
    logits, target = random_batch((4, 1, 9, 8), dtype=torch.float32)
    target[0] = 0
    theirs = smp_losses.LovaszLoss(mode="binary", per_image=False)
    torch.testing.assert_close(LovaszHingeLoss("batch")(logits, target), theirs(logits, target))


@every_overlap
@pytest.mark.parametrize(("option", "value"), [("over", "images"), ("empty", "skip")])
def test_an_unknown_value_of_an_option_is_refused(name, option, value):
    with pytest.raises(ValueError, match=rf"loss '{name}': unknown {option} '{value}'\."):
        build_loss({name: 1.0}, {name: {option: value}})


def test_pixel_losses_refuse_these_options():
    with pytest.raises(TypeError, match="over"):
        FocalLoss(over="batch")
