"""Mixed samples: pixels and masks are mixed equally, and the seed of the item determines the mix."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.data.boundaries import touching_boundary
from pipeline.data.mixing import (
    MIXES,
    Mixing,
    copy_paste,
    cutmix,
    fourier,
    histogram,
    match_histogram,
    mixup,
    mosaic,
    swap_low_frequencies,
)

SIZE = 24
VOID = 255


def plain(value, mask=0):
    """An image of one value, and a mask of one value."""
    return np.full((SIZE, SIZE, 3), value, np.uint8), np.full((SIZE, SIZE, 1), mask, np.uint8)


def with_mask(value, mask):
    return plain(value)[0], mask[..., None].astype(np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def is_box(where):
    return np.array_equal(where, where.any(axis=1)[:, None] & where.any(axis=0))


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_one_box_of_image_and_mask(seed):
    image, mask = cutmix(plain(10, 0), lambda: plain(200, 1), rng(seed))
    assert is_box(image[..., 0] == 200)
    assert np.array_equal(mask[..., 0] == 1, image[..., 0] == 200)


def test_cutmix_boxes_have_all_sizes_and_positions():
    pasted = np.stack([cutmix(plain(0), lambda: plain(200), rng(seed))[0][..., 0] == 200 for seed in range(400)])
    shares = pasted.mean(axis=(1, 2))
    assert shares.min() < 0.02
    assert shares.max() > 0.7
    # Sizes are uniform, but boxes are clipped at the border: the mean share is below one half.
    assert 0.25 < shares.mean() < 0.45
    assert pasted.any(axis=0).all()


@pytest.mark.parametrize("seed", range(10))
def test_mosaic_shows_four_images_as_quadrants(seed):
    values = iter((1, 2, 3))
    image, mask = mosaic(plain(0, 0), lambda: (lambda value: plain(value, value))(next(values)), rng(seed))
    assert np.array_equal(image[..., 0], mask[..., 0])
    corners = [image[row, column, 0] for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1))]
    assert corners == [0, 1, 2, 3]
    shares = [(image[..., 0] == value).mean() for value in range(4)]
    assert min(shares) >= 0.25**2 - 0.02
    assert all(is_box(image[..., 0] == value) for value in range(4))


def two_objects():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[2:5, 2:5] = True
    mask[5:7, 5:7] = True  # touches by a corner: the same object
    mask[12:20, 12:20] = True
    return mask


def test_copy_paste_adds_at_least_one_whole_object():
    donor, small, large = with_mask(200, two_objects()), 13, 64
    areas = []
    for seed in range(60):
        image, mask = copy_paste(plain(10), lambda: donor, rng(seed))
        assert np.array_equal(image[..., 0] == 200, mask[..., 0] == 1)
        areas.append(int(mask.sum()))
    assert set(areas) == {small, large, small + large}


def bars(value, *columns):
    """Objects as full-height bars (first and last column of each), with the boundaries between them."""
    labels = np.zeros((SIZE, SIZE), np.int32)
    for number, (start, end) in enumerate(columns, start=1):
        labels[:, start:end] = number
    return plain(value)[0], np.stack([labels > 0, touching_boundary(labels, 2)], axis=-1).astype(np.uint8)


def test_a_boundary_is_added_between_a_pasted_and_an_existing_object():
    old, donor = bars(10, (0, 8)), bars(200, (8, 14))
    assert not old[1][..., 1].any()  # single objects have no boundary
    assert not donor[1][..., 1].any()
    mixed = copy_paste(old, lambda: donor, rng(), boundary=2)
    assert np.array_equal(mixed[1], bars(0, (0, 8), (8, 14))[1])
    assert not old[1][..., 1].any()  # the input is not changed
    alone = copy_paste(old, lambda: bars(200, (14, 20)), rng(), boundary=2)
    assert not alone[1][..., 1].any()  # too far apart


def test_boundaries_within_pasted_and_within_existing_objects_are_kept():
    old, donor = bars(10, (0, 3), (3, 6)), bars(200, (12, 15), (15, 18))
    mixed = copy_paste(old, lambda: donor, rng(), boundary=2)
    assert np.array_equal(mixed[1], bars(0, (0, 3), (3, 6), (12, 15), (15, 18))[1])


def test_a_void_pixel_on_a_new_boundary_stays_void():
    old, donor = bars(10, (0, 8)), bars(200, (8, 14))
    old[1][:, 7] = VOID
    mask = copy_paste(old, lambda: donor, rng(), boundary=2)[1]
    assert (mask[:, 7] == VOID).all()
    assert (mask[:, [6, 8], 1] == 1).all()


@pytest.mark.parametrize("name", MIXES)
def test_every_mix_adds_boundaries_where_objects_of_two_images_touch(name):
    for seed in range(10):
        partner = partial(next, iter([bars(value, (0, SIZE)) for value in (11, 12, 13)]))
        image, mask = MIXES[name](bars(10, (0, SIZE)), partner, rng(seed), 2)
        # Each image is one object: objects touch at every seam.
        assert np.array_equal(mask[..., 1], touching_boundary(image[..., 0], 2))


def test_mixing_passes_the_boundary_width_to_the_mixes():
    old, donor = bars(10, (0, 8)), bars(200, (8, 14))
    mixing = Mixing({"copy_paste": 1.0}, np.arange(1), np.arange(1), boundary=2)
    assert np.array_equal(mixing(old, 3, lambda position, seed: donor)[1], bars(0, (0, 8), (8, 14))[1])


def test_copy_paste_changes_only_pixels_under_pasted_objects():
    image, mask = copy_paste(plain(10, 1), lambda: with_mask(200, two_objects()), rng())
    assert mask.all()
    assert set(np.unique(image)) == {10, 200}


def test_copy_paste_of_a_partner_without_objects_changes_nothing():
    void_alone = with_mask(200, np.full((SIZE, SIZE), VOID))
    for donor in (plain(200), void_alone):
        image, mask = copy_paste(plain(10), lambda donor=donor: donor, rng())
        assert (image == 10).all()
        assert not mask.any()


def test_an_object_of_several_classes_keeps_the_labels_of_all():
    labels = np.zeros((SIZE, SIZE, 2), np.uint8)
    labels[3:9, 3:9, 0] = 1
    labels[6:9, 6:12, 1] = 1  # overlaps: one object
    image, mask = copy_paste((plain(10)[0], np.ones((SIZE, SIZE, 2), np.uint8)), lambda: (plain(200)[0], labels), rng())
    inside = labels.any(axis=-1)
    assert np.array_equal(image[..., 0] == 200, inside)
    assert np.array_equal(mask[inside], labels[inside])
    assert mask[~inside].all()


@pytest.mark.parametrize("name", ["cutmix", "mosaic", "copy_paste"])
def test_void_pixels_are_kept_where_nothing_is_pasted(name):
    void = with_mask(10, np.full((SIZE, SIZE), VOID))
    image, mask = MIXES[name](void, lambda: with_mask(200, two_objects()), rng())
    assert np.array_equal(mask[..., 0] == VOID, image[..., 0] == 10)
    assert 0 < (mask == VOID).mean() < 1


@pytest.mark.parametrize("name", ["cutmix", "mosaic"])
def test_void_pixels_of_a_partner_are_pasted(name):
    image, mask = MIXES[name](plain(10), lambda: with_mask(200, np.full((SIZE, SIZE), VOID)), rng())
    assert np.array_equal(mask[..., 0] == VOID, image[..., 0] == 200)


@pytest.mark.parametrize("name", MIXES)
def test_mixing_does_not_change_its_inputs(name):
    pair, partner = plain(10), with_mask(200, two_objects())
    before = [array.copy() for array in (*pair, *partner)]
    mixed = MIXES[name](pair, lambda: partner, rng())
    assert mixed[0].dtype == np.uint8
    assert mixed[1].dtype == (np.float32 if name == "mixup" else np.uint8)  # soft
    for array, copy in zip((*pair, *partner), before, strict=True):
        assert np.array_equal(array, copy)


def mix_with(chances, seed, donors=(3, 4)):
    """Mix an item; returns the requested partners and the result."""
    calls = []

    def augmented(position, seed):
        calls.append((position, seed))
        return with_mask(200, two_objects())

    mixed = Mixing(chances, np.arange(10), np.array(donors, dtype=int))(plain(10), seed, augmented)
    return calls, mixed


def test_mixes_occur_with_their_probabilities():
    chances = {"mosaic": 0.5, "copy_paste": 0.2, "cutmix": 0.1}
    partners = [mix_with(chances, seed)[0] for seed in range(1500)]
    kinds = ["none" if not calls else "mosaic" if len(calls) == 3 else "one" for calls in partners]
    assert kinds.count("mosaic") / 1500 == pytest.approx(0.5, abs=0.04)
    assert kinds.count("none") / 1500 == pytest.approx(0.2, abs=0.04)
    donors = [calls[0][0] in (3, 4) for calls in partners if len(calls) == 1]
    assert sum(donors) / 1500 == pytest.approx(0.2 + 0.1 * 0.2, abs=0.04)


def test_partners_are_sampled_from_all_images_and_donors_from_images_with_objects():
    used = {position for seed in range(100) for position, _ in mix_with({"mosaic": 1.0}, seed)[0]}
    assert used == set(range(10))
    used = {position for seed in range(100) for position, _ in mix_with({"copy_paste": 1.0}, seed)[0]}
    assert used == {3, 4}
    calls, (image, _) = mix_with({"copy_paste": 1.0}, 0, donors=())
    assert calls == []
    assert (image == 10).all()


def test_a_mix_is_a_function_of_the_seed():
    for one, other in zip(mix_with({"cutmix": 1.0}, 7)[1], mix_with({"cutmix": 1.0}, 7)[1], strict=True):
        assert np.array_equal(one, other)
    assert mix_with({"mosaic": 1.0}, 7)[0] == mix_with({"mosaic": 1.0}, 7)[0]
    assert len({tuple(mix_with({"mosaic": 1.0}, seed)[0]) for seed in range(20)}) == 20


def test_partners_of_a_mosaic_have_different_seeds():
    for seed in range(20):
        assert len({partner_seed for _, partner_seed in mix_with({"mosaic": 1.0}, seed)[0]}) == 3


def textured(seed, low=0, high=256, dtype=np.uint8):
    return np.random.default_rng(seed).integers(low, high, (SIZE, SIZE, 3)).astype(dtype)


def test_a_matched_histogram_has_the_values_of_the_partner_in_the_order_of_the_image():
    image = np.random.default_rng(0).permuted(np.arange(SIZE * SIZE * 3, dtype=np.float32)).reshape(SIZE, SIZE, 3) / 7
    reference = image[::-1].copy() / 2 + 20
    for channel in range(3):
        found = match_histogram(image, reference, 1.0)[..., channel].ravel()
        assert np.allclose(np.sort(found), np.sort(reference[..., channel].ravel()), atol=1e-3)
        assert np.array_equal(np.argsort(found), np.argsort(image[..., channel].ravel()))


def test_the_share_weighs_the_matched_image():
    image, reference = textured(0, 0, 100), textured(1, 150, 250)
    whole = match_histogram(image.astype(np.float32), reference.astype(np.float32), 1.0)
    half = match_histogram(image, reference, 0.5)
    assert np.abs(half - (whole + image) / 2).max() <= 1  # values of 8 bits are cut


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("change", [match_histogram, swap_low_frequencies])
def test_the_look_of_the_image_itself_changes_nothing(change, dtype):
    image = textured(0, dtype=dtype)
    found = change(image, image.copy(), 0.1)
    assert found.dtype == dtype
    assert np.allclose(found, image, atol=1e-3)


def test_frequency_zero_alone_is_the_mean():
    image, reference = textured(0, 90, 110, np.float32), textured(1, 150, 170, np.float32)
    found = swap_low_frequencies(image, reference, 0.0)
    assert np.allclose(found, image - image.mean(axis=(0, 1)) + reference.mean(axis=(0, 1)), atol=1e-3)


def test_all_amplitudes_of_the_partner_with_the_phases_of_the_image():
    image, reference = textured(0, 90, 110, np.float32), textured(1, 90, 110, np.float32)
    found = swap_low_frequencies(image, reference, 1.0)
    spectra = [np.fft.fft2(each, axes=(0, 1)) for each in (found, image, reference)]
    assert np.allclose(np.abs(spectra[0]), np.abs(spectra[2]), rtol=1e-3, atol=1e-2)
    assert np.allclose(np.angle(spectra[0][1:6, 1:6]), np.angle(spectra[1][1:6, 1:6]), atol=1e-3)


@pytest.mark.parametrize("mix", [histogram, fourier])
def test_the_look_of_another_image_leaves_the_mask(mix):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[3:9] = 1
    mask[0] = VOID
    pair = with_mask(10, mask)
    image, found = mix((textured(0), pair[1]), lambda: (textured(1), pair[1] * 0), rng(3))
    assert np.array_equal(found, pair[1])
    assert image.dtype == np.uint8


class GivenShare:
    """Stands for a random generator whose beta variate is known."""

    def __init__(self, share):
        self.share = share

    def beta(self, first, second):
        assert first == second == 0.4
        return self.share


def test_mixup_is_the_mean_of_images_and_of_masks_by_hand():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:2] = 1
    image, found = mixup(with_mask(10, mask), lambda: with_mask(200, mask[::-1]), GivenShare(0.25))
    assert (image == 152).all()  # .25 · 10 + .75 · 200 = 152.5, to the even number
    assert image.dtype == np.uint8
    assert found.dtype == np.float32
    assert [found[row, 0, 0] for row in (0, 1, 2, -3, -2, -1)] == [0.25, 0.25, 0, 0, 0.75, 0.75]
    floats = mixup((image / np.float32(3), found), lambda: plain(0), GivenShare(0.25))
    assert floats[0].dtype == np.float32
    assert floats[0] == pytest.approx(152 / 3 / 4)


def test_the_log_loss_of_a_mixed_mask_is_the_mean_of_the_losses_of_both():
    """The loss that mixup is defined by: each label's loss, weighed by its share."""
    masks = [(np.random.default_rng(seed).random((SIZE, SIZE)) < 0.4) for seed in (0, 1)]
    _, mixed = mixup(with_mask(10, masks[0]), lambda: with_mask(20, masks[1]), GivenShare(0.3))
    logits = torch.linspace(-4, 4, SIZE * SIZE).reshape(SIZE, SIZE)
    losses = [F.binary_cross_entropy_with_logits(logits, torch.tensor(mask).float()) for mask in masks]
    of_mixed = F.binary_cross_entropy_with_logits(logits, torch.tensor(mixed[..., 0]))
    assert of_mixed.item() == pytest.approx(0.3 * losses[0].item() + 0.7 * losses[1].item(), abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_mixup_ignores_what_either_image_ignores_and_gives_shares_elsewhere(seed):
    one, other = (np.random.default_rng((seed, number)).choice([0, 1, VOID], (SIZE, SIZE)) for number in (0, 1))
    soft = with_mask(10, one)[0], np.where(one == VOID, VOID, one * 0.7).astype(np.float32)[..., None]
    for pair in (with_mask(10, one), soft):
        _, mask = mixup(pair, lambda: with_mask(20, other), rng(seed))
        void = (one == VOID) | (other == VOID)
        assert np.array_equal(mask[..., 0] == VOID, void)
        assert ((mask[~void] >= 0) & (mask[~void] <= 1)).all()


def test_shares_of_mixup_are_those_of_its_beta_distribution():
    shares = np.array([mixup(plain(0, 1), lambda: plain(0, 0), rng(seed))[1][0, 0, 0] for seed in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of beta(a, a)
