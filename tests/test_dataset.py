"""Samples of an epoch are a function of its seed, in any worker or process."""

import random
from itertools import chain

import albumentations
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.data.augment import STRENGTHS, Augment, make_recipe
from pipeline.data.dataset import AddedImages, Images, MaskedImages, equal_size_batches
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.loader import collate, on_device
from pipeline.data.mixing import Mixing
from pipeline.data.reader import Reader
from pipeline.data.resize import UNCHANGED
from pipeline.data.sample import samples_of
from pipeline.data.sampler import EpochSampler
from pipeline.data.transforms import RandomScaledCrop

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (40, 56, 3)).astype(np.uint8)
MASK = np.zeros((40, 56, 1), dtype=np.uint8)
MASK[8:30, 20:44] = 1


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_keeps_dtypes_and_returns_the_crop_size(strength, channels):
    augment = Augment(make_recipe(strength, 32, channels))
    for seed in range(20):
        image, mask = augment(IMAGE[..., :channels], MASK, seed)
        assert image.shape == (32, 32, channels)
        assert mask.shape == (32, 32, 1)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_augment_is_a_function_of_its_seed(strength):
    augment, again = Augment(make_recipe(strength, 32, 3)), Augment(make_recipe(strength, 32, 3))
    augment(IMAGE, MASK, 1)  # earlier calls must not matter
    for one, other in zip(augment(IMAGE, MASK, 5), again(IMAGE, MASK, 5), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_augment_moves_mask_and_image_together(strength):
    # An image equal to its mask stays equal under geometric transforms, up to blurred edges and inverted intensities.
    augment = Augment(make_recipe(strength, 32, 1))
    agreement = []
    for seed in range(40):
        image, mask = augment(MASK * 150 + 50, MASK, seed)
        levels = image.astype(int)
        bright = levels > (levels.min() + levels.max()) / 2
        same = np.mean(bright == (mask > 0))
        agreement.append(max(same, 1 - same))
    assert np.mean(agreement) > 0.97


def test_horizontal_flip_is_independent_of_brightness():
    # A shared random stream correlates transforms: with set_random_seed, flips always occur together.
    augment = Augment(make_recipe("light", None, 3))
    ramp = np.broadcast_to(np.linspace(60, 120, 56).astype(np.uint8)[None, :, None], (40, 56, 3)).copy()
    flipped, brighter = np.array(
        [
            (image[:, :10].mean() > image[:, -10:].mean(), image.mean() > ramp.mean())
            for image, _ in (augment(ramp, MASK, seed) for seed in range(300))
        ]
    ).T
    assert 0.4 < flipped.mean() < 0.6
    assert abs(np.corrcoef(flipped, brighter)[0, 1]) < 0.2


@pytest.mark.parametrize("strength", STRENGTHS)
def test_void_pixels_survive_augmentation_at_any_scale(strength):
    void = MASK * 255
    augment = Augment(make_recipe(strength, 32, 3, scale=(0.6, 1.7)))
    kept = [augment(IMAGE, void, seed)[1] for seed in range(30)]
    assert {value for mask in kept for value in np.unique(mask)} == {0, 255}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_scale_option_replaces_the_scale_of_the_strength(strength):
    # A disc of 81 pixels in the middle: scaled by 2 it covers 4 times as much, with any other transform.
    rows, columns = np.ogrid[:80, :80]
    disc = ((rows - 40) ** 2 + (columns - 40) ** 2 < 26).astype(np.uint8)[..., None]
    image = np.repeat(disc * 200, 3, axis=-1)

    def areas(scale):
        # So large that the disc is whole, up to its mirrored copies.
        augment = Augment(make_recipe(strength, 160, 3, scale=scale))
        masks = [augment(image, disc, seed)[1] for seed in range(25)]
        return [mask[60:100, 60:100].sum() for mask in masks]

    doubled = np.array(areas((2.0, 2.0)))
    assert np.median(doubled) == pytest.approx(4 * disc.sum(), rel=0.1)
    assert np.std(areas((1.5, 2.5))) > 1.5 * np.std(doubled)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_scale_of_a_strength_is_that_of_the_option(strength):
    named = STRENGTHS[strength]
    assert make_recipe(strength, 32, 3) == make_recipe(strength, 32, 3, scale=named.scale, scale_p=named.scale_p)
    assert make_recipe(strength, 32, 3, scale=(0.5, 2.0)).scale_p == 1


def draws(sampler, epoch):
    sampler.epoch = epoch
    return list(sampler)


def test_sampler_draws_each_image_once_per_repeat():
    positions = [position for position, _ in draws(EpochSampler(7, 1, labels=None, repeats=3), 0)]
    assert sorted(positions) == sorted([*range(7)] * 3)


def test_epochs_of_a_share_draw_every_image_once_before_any_twice():
    sampler = EpochSampler(10, 1, labels=None, repeats=0.3)
    positions = [position for epoch in range(10) for position, _ in draws(sampler, epoch)]
    assert len(positions) == 30
    rounds = [positions[start : start + 10] for start in (0, 10, 20)]
    assert [sorted(each) for each in rounds] == [[*range(10)]] * 3
    assert rounds[0] != rounds[1]


def test_an_epoch_of_one_and_a_half_passes_draws_each_image_once_or_twice():
    positions = [position for position, _ in draws(EpochSampler(10, 1, labels=None, repeats=1.5), 0)]
    assert sorted(np.bincount(positions, minlength=10)) == [1] * 5 + [2] * 5


def test_a_whole_number_of_repeats_draws_the_same_as_an_integer():
    first, second = (draws(EpochSampler(7, 3, labels=None, repeats=repeats), 2) for repeats in (2, 2.0))
    assert first == second


def test_a_balanced_epoch_of_a_share_draws_that_many_images():
    labels = np.array([0] * 9 + [1])
    assert len(draws(EpochSampler(10, 1, labels=labels, repeats=0.5), 0)) == 5


def test_sampler_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(20, 1, labels=None, repeats=1)
    assert draws(sampler, 4) == draws(EpochSampler(20, 1, labels=None, repeats=1), 4)
    assert draws(sampler, 4) != draws(sampler, 5)
    assert draws(sampler, 4) != draws(EpochSampler(20, 2, labels=None, repeats=1), 4)


def test_sampler_uses_one_stream_for_permutations_and_then_seeds():
    # An option must not change the samples of runs that do not use it.
    rng = np.random.default_rng((1, 4))
    positions = [*rng.permutation(6), *rng.permutation(6)]
    expected = list(zip(positions, rng.integers(2**31, size=12), strict=True))
    assert draws(EpochSampler(6, 1, labels=None, repeats=2), 4) == expected
    assert draws(EpochSampler(6, 1, labels=None, repeats=2, added=[(5, 0.0)]), 4) == expected
    assert draws(EpochSampler(6, 1, labels=None, repeats=2, added=[(0, 0.5)]), 4) == expected


@pytest.mark.parametrize("labels", [None, np.array(list("aabbbbbbcc"))])
def test_pseudo_labelled_images_are_added_without_changing_the_other_draws(labels):
    alone = draws(EpochSampler(10, 1, labels=labels, repeats=2), 3)
    mixed = draws(EpochSampler(10, 1, labels=labels, repeats=2, added=[(30, 0.5)]), 3)
    assert [draw for draw in mixed if draw[0] < 10] == alone
    pseudo = [position for position, _ in mixed if position >= 10]
    assert len(pseudo) == len(set(pseudo)) == 10  # half of 20, without repetition
    assert max(pseudo) < 40


def test_several_added_sets_are_drawn_from_different_streams():
    drawn = [position for position, _ in draws(EpochSampler(10, 1, labels=None, repeats=2, added=[(30, 0.5)] * 2), 3)]
    one, other = ([each - start for each in drawn if start <= each < start + 30] for start in (10, 40))
    assert len(one) == len(other) == 10
    assert one != other


def test_pseudo_labelled_images_repeat_only_after_all_were_drawn():
    drawn = [position - 4 for position, _ in draws(EpochSampler(4, 1, labels=None, repeats=5, added=[(3, 0.4)]), 0)]
    pseudo = [position for position in drawn if position >= 0]
    assert sorted(np.bincount(pseudo)) == [2, 3, 3]


def test_pseudo_labelled_images_are_spread_over_the_epoch_and_change_with_it():
    sampler = EpochSampler(50, 1, labels=None, repeats=1, added=[(200, 1.0)])
    epochs = [draws(sampler, epoch) for epoch in range(40)]
    places = np.array([[position >= 50 for position, _ in epoch] for epoch in epochs])
    assert (places.sum(axis=1) == 50).all()
    assert 0.3 < places[:, :10].mean() < 0.7
    assert 0.3 < places[:, -10:].mean() < 0.7
    assert len({frozenset(position for position, _ in epoch if position >= 50) for epoch in epochs}) == 40
    assert draws(sampler, 7) == epochs[7]


def test_processes_split_pseudo_labelled_images():
    options = {"labels": None, "repeats": 1, "added": [(9, 0.5)]}
    whole = draws(EpochSampler(20, 1, **options), 2)
    parts = [draws(EpochSampler(20, 1, **options, rank=rank, world=2), 2) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    assert len(whole) == 30


def test_processes_split_an_epoch_into_equal_parts():
    whole = draws(EpochSampler(21, 1, labels=None, repeats=1), 2)
    parts = [draws(EpochSampler(21, 1, labels=None, repeats=1, rank=rank, world=2), 2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [10, 10]
    assert sorted(parts[0] + parts[1]) == sorted(whole[:20])


def test_balanced_sampler_draws_rare_and_common_labels_equally_often():
    labels = np.array(["empty"] * 90 + ["salt"] * 10)
    positions = [position for position, _ in draws(EpochSampler(100, 0, labels=labels, repeats=20), 0)]
    assert 0.45 < np.mean(np.array(positions) >= 90) < 0.55


def test_workers_give_the_same_batches_in_every_epoch(tiny, card):
    index = read_index(card, tiny / "tiny")

    def epochs(workers):
        data = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("strong", 32, 1)))
        sampler = EpochSampler(len(data), 5, labels=None, repeats=1)
        loader = DataLoader(data, 6, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
        batches = []
        for epoch in range(2):
            sampler.epoch = epoch
            batches.append(torch.cat([images for images, _ in loader]))
        return batches

    alone, helped = epochs(0), epochs(2)
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))
    assert not torch.equal(*alone)


def test_workers_do_not_repeat_each_others_augmentations(tiny, card):
    # One image 12 times, 6 by each worker, over two epochs: by default albumentations gives only 6 different ones.
    index = read_index(card, tiny / "tiny").iloc[[3] * 12]
    sampler = EpochSampler(12, 5, labels=None, repeats=1)
    data = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("strong", 32, 1)))
    loader = DataLoader(data, 6, sampler=sampler, num_workers=2, persistent_workers=True)
    seen = set()
    for epoch in range(2):
        sampler.epoch = epoch
        seen |= {image.numpy().tobytes() for images, _ in loader for image in images}
    assert len(seen) == 24


def pseudo_labels(card, tiny):
    """The test images with labels that identify them: void, with a box of 1."""

    def label(sample, resize=UNCHANGED):
        mask = np.full((36, 44, 1), 255, np.uint8)
        mask[4 : 8 + int(sample.image_id) % 20, 10:20] = 1
        return mask

    return AddedImages(read_test_index(card, tiny / "tiny"), label)


def test_pseudo_labelled_images_follow_the_training_images(tiny, card):
    index, pseudo = read_index(card, tiny / "tiny"), pseudo_labels(card, tiny)
    data = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("none", None, 1)), added=[pseudo])
    assert (len(data), data.num_labelled) == (23, 18)
    alone = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("none", None, 1)))
    for one, other in zip(data[17, 3], alone[17, 3], strict=True):
        assert torch.equal(one, other)
    for place, sample in enumerate(samples_of(pseudo.index)):
        image, mask = data[18 + place, 3]
        assert np.array_equal(image.numpy(), Reader(1).read(sample).transpose(2, 0, 1))
        assert np.array_equal(mask.numpy(), pseudo.read(sample).transpose(2, 0, 1))


def test_an_item_without_options_uses_its_seed_for_augmentation_only(tiny, card, monkeypatch):
    index, augment = read_index(card, tiny / "tiny"), Augment(make_recipe("strong", 32, 1))
    data = MaskedImages(index, Labels.of(card), Reader(1), augment)
    made, original = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed=None: (made.append(seed), original(seed))[1])
    image, mask = data[3, 99]
    assert made == [99]
    (sample,) = samples_of(index.iloc[[3]])
    pair = Reader(1).read(sample), card.dialect.decode(*sample.rle, (36, 44))[..., None]
    for one, other in zip((image, mask), augment(*pair, 99), strict=True):
        assert np.array_equal(one.numpy(), other.transpose(2, 0, 1))


@pytest.mark.parametrize("soft", [False, True], ids=["masks of 0 and 1", "mixup"])
def test_mixing_is_the_same_in_workers_and_uses_training_images_only(tiny, card, monkeypatch, soft):
    index, pseudo = read_index(card, tiny / "tiny"), pseudo_labels(card, tiny)
    mixing = Mixing(
        {"cutmix": 0.3, "mosaic": 0.3, "mixup" if soft else "copy_paste": 0.3},
        np.arange(18),
        np.flatnonzero(index["empty"] == "no"),
    )
    augment = Augment(make_recipe("strong", 32, 1), soft=soft)

    def batches(workers):
        data = MaskedImages(index, Labels.of(card), Reader(1), augment, added=[pseudo], mixing=mixing)
        sampler = EpochSampler(18, 5, labels=None, repeats=2, added=[(5, 0.5)])
        return list(DataLoader(data, 6, sampler=sampler, num_workers=workers))

    read, original = [], MaskedImages._augmented

    def spy(self, position, seed):
        read.append(position)
        return original(self, position, seed)

    monkeypatch.setattr(MaskedImages, "_augmented", spy)
    alone = batches(0)
    assert len(read) > 54 + 20  # 54 items, and partners
    assert sum(position >= 18 for position in read) == 18  # as items alone
    for (images, masks), (others, targets) in zip(alone, batches(2), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(masks, targets)
    values = torch.cat([masks for _, masks in alone]).unique()
    assert values.dtype == (torch.float32 if soft else torch.uint8)
    assert {0, 1, 255} <= set(values.tolist())
    between = values[(values > 0) & (values < 1)]
    assert len(between) > 20 if soft else set(values.tolist()) == {0, 1, 255}
    assert not ((values > 1) & (values < 255)).any()


def test_equal_size_batches_hold_each_image_once(tiny, card):
    index = read_index(card, tiny / "tiny")
    index.loc[:4, "height"] = 99
    batches = equal_size_batches(list(zip(index["height"], index["width"], strict=True)), 4)
    assert sorted(chain(*batches)) == list(range(18))
    assert all(index.iloc[batch][["height", "width"]].drop_duplicates().shape[0] == 1 for batch in batches)
    assert set(batches[0]) <= set(range(5))  # the largest first
    assert max(map(len, batches)) == 4


def test_images_for_prediction_are_not_cropped(tiny, card):
    assert Images(read_index(card, tiny / "tiny"), Reader(3))[0].shape == (3, 36, 44)


def test_a_batch_is_stacked_in_channels_last_format(tiny, card):
    index = read_index(card, tiny / "tiny")
    data = MaskedImages(index, Labels.of(card), Reader(3), Augment(make_recipe("none", 32, 3)))
    items = [data[position, 0] for position in range(4)]
    images, masks = collate(items)
    assert torch.equal(images, torch.stack([image for image, _ in items]))
    assert torch.equal(masks, torch.stack([mask for _, mask in items]))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert masks.is_contiguous()
    copies, _ = next(iter(on_device([(images, masks)], torch.device("cpu"))))
    assert copies.data_ptr() == images.data_ptr(), "no further copy"


@pytest.mark.parametrize(("value", "refused"), [(1, False), (255, False), (2, True), (254, True)])
def test_a_mask_with_a_value_that_is_no_label_is_refused(tiny, card, monkeypatch, value, refused):
    index = read_index(card, tiny / "tiny")
    data = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("none", None, 1)))
    monkeypatch.setattr(Labels, "read", lambda self, sample: np.full((36, 44, 1), value, np.uint8))
    if not refused:
        assert data[0, 0][1].unique().tolist() == [value]
        return
    first = index["image_id"].iloc[0]
    with pytest.raises(ValueError, match=f"mask of '{first}' holds {value}: expected 0 to 1, or 255 for void"):
        data[0, 0]


def draw_window(pixels, side, factor, seed=0):
    """A crop of side `side` at one fixed scale, and the image's coordinates in it."""
    rows, columns = np.indices(pixels.shape[:2], dtype=np.float32)
    image = np.dstack([rows, columns, np.zeros_like(rows)])
    transform = albumentations.Compose([RandomScaledCrop(side, (factor, factor))])
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    result = transform(image=image, mask=pixels)
    return result["image"], result["mask"]


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_scaled_crop_is_a_resized_window_with_its_mask(factor):
    mask = np.random.default_rng(0).integers(0, 2, (90, 110, 2), dtype=np.uint8)
    corners = set()
    for seed in range(20):
        image, found = draw_window(mask, 32, factor, seed)
        window = round(32 / factor)
        top, left = (round(float(value)) for value in image[0, 0, :2] + 0.5 - 0.5 / factor)
        corners.add((top, left))
        inside = mask[top : top + window, left : left + window]
        assert inside.shape == (window, window, 2)
        assert np.array_equal(found, cv2.resize(inside, (32, 32), interpolation=cv2.INTER_NEAREST_EXACT))
        np.testing.assert_allclose(np.diff(image[1:-1, 5, 0]), 1 / factor, atol=1e-4)
    assert len(corners) > 10


@pytest.mark.parametrize("factor", [0.7, 1.3, 2.0])
def test_a_mask_of_a_scaled_crop_lies_where_its_image_shows_the_object(factor):
    rows, columns = np.mgrid[:120, :140]
    disc = ((rows - 60) ** 2 + (columns - 70) ** 2 <= 8**2).astype(np.uint8)
    places = []
    for seed in range(100):
        image, found = draw_window(disc[..., None], 96, factor, seed)  # the image holds its rows and columns
        inside = found[..., 0] == 1
        if inside.any() and not (inside[[0, -1]].any() or inside[:, [0, -1]].any()):
            places.append(image[inside, :2].mean(axis=0))
    assert len(places) > 5
    np.testing.assert_allclose(np.mean(places, axis=0), (60, 70), atol=0.1)


def test_a_window_beyond_the_image_is_filled_by_reflection():
    mask = np.random.default_rng(0).integers(0, 2, (10, 40, 1), dtype=np.uint8)
    image, found = draw_window(mask, 16, 1.0)
    rows = [3, 2, 1, *range(10), 8, 7, 6]  # 3 rows above and 3 below
    assert image[:, 0, 0].tolist() == rows
    left = int(image[0, 0, 1])
    assert np.array_equal(found, mask[rows, left : left + 16])
