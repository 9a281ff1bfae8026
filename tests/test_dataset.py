"""What an epoch draws, and that nothing random hides in workers, processes or library streams."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline.data.augment import STRENGTHS, Augment
from pipeline.data.dataset import EpochSampler, Images, MaskedImages, equal_size_batches
from pipeline.data.images import Reader
from pipeline.data.index import read_index

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (40, 56, 3)).astype(np.uint8)
MASK = np.zeros((40, 56, 1), dtype=np.uint8)
MASK[8:30, 20:44] = 1


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_augment_keeps_types_and_makes_the_crop(strength, channels):
    augment = Augment(strength, 32, channels)
    for seed in range(20):
        image, mask = augment(IMAGE[..., :channels], MASK, seed)
        assert image.shape == (32, 32, channels)
        assert mask.shape == (32, 32, 1)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_augment_is_a_function_of_its_seed(strength):
    augment, again = Augment(strength, 32, 3), Augment(strength, 32, 3)
    augment(IMAGE, MASK, 1)  # what was drawn before must not matter
    for one, other in zip(augment(IMAGE, MASK, 5), again(IMAGE, MASK, 5), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_augment_moves_mask_and_image_together(strength):
    # An image that is its own mask stays so under every move of pixels, up to blur at edges and to negatives.
    augment = Augment(strength, 32, 1)
    agreement = []
    for seed in range(40):
        image, mask = augment(MASK * 150 + 50, MASK, seed)
        levels = image.astype(int)
        bright = levels > (levels.min() + levels.max()) / 2
        same = np.mean(bright == (mask > 0))
        agreement.append(max(same, 1 - same))
    assert np.mean(agreement) > 0.97


def test_horizontal_flip_is_not_tied_to_brightness():
    # One shared stream correlates transforms: with set_random_seed, flips always come together.
    augment = Augment("light", None, 3)
    ramp = np.broadcast_to(np.linspace(60, 120, 56).astype(np.uint8)[None, :, None], (40, 56, 3)).copy()
    flipped, brighter = np.array(
        [
            (image[:, :10].mean() > image[:, -10:].mean(), image.mean() > ramp.mean())
            for image, _ in (augment(ramp, MASK, seed) for seed in range(300))
        ]
    ).T
    assert 0.4 < flipped.mean() < 0.6
    assert abs(np.corrcoef(flipped, brighter)[0, 1]) < 0.2


def draws(sampler, epoch):
    sampler.epoch = epoch
    return list(sampler)


def test_sampler_draws_each_image_once_per_repeat():
    positions = [position for position, _ in draws(EpochSampler(7, 1, labels=None, repeats=3), 0)]
    assert sorted(positions) == sorted([*range(7)] * 3)


def test_sampler_is_a_function_of_seed_and_epoch():
    sampler = EpochSampler(20, 1, labels=None, repeats=1)
    assert draws(sampler, 4) == draws(EpochSampler(20, 1, labels=None, repeats=1), 4)
    assert draws(sampler, 4) != draws(sampler, 5)
    assert draws(sampler, 4) != draws(EpochSampler(20, 2, labels=None, repeats=1), 4)


def test_processes_share_an_epoch_in_equal_parts():
    whole = draws(EpochSampler(21, 1, labels=None, repeats=1), 2)
    parts = [draws(EpochSampler(21, 1, labels=None, repeats=1, rank=rank, world=2), 2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [10, 10]
    assert sorted(parts[0] + parts[1]) == sorted(whole[:20])


def test_balanced_sampler_draws_rare_labels_as_often():
    labels = np.array(["empty"] * 90 + ["salt"] * 10)
    positions = [position for position, _ in draws(EpochSampler(100, 0, labels=labels, repeats=20), 0)]
    assert 0.45 < np.mean(np.array(positions) >= 90) < 0.55


def test_workers_give_the_same_batches_in_every_epoch(tiny, card):
    index = read_index(card, tiny / "tiny")

    def epochs(workers):
        data = MaskedImages(index, card.dialect, Reader(1), Augment("strong", 32, 1))
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


def test_workers_do_not_replay_each_others_stream(tiny, card):
    # One image 12 times, 6 by each worker, over two epochs: left alone, albumentations gives 6 different ones.
    index = read_index(card, tiny / "tiny").iloc[[3] * 12]
    sampler = EpochSampler(12, 5, labels=None, repeats=1)
    data = MaskedImages(index, card.dialect, Reader(1), Augment("strong", 32, 1))
    loader = DataLoader(data, 6, sampler=sampler, num_workers=2, persistent_workers=True)
    seen = set()
    for epoch in range(2):
        sampler.epoch = epoch
        seen |= {image.numpy().tobytes() for images, _ in loader for image in images}
    assert len(seen) == 24


def test_equal_size_batches_hold_each_image_once(tiny, card):
    index = read_index(card, tiny / "tiny")
    index.loc[:4, "height"] = 99
    batches = equal_size_batches(index, 4)
    assert sorted(chain(*batches)) == list(range(18))
    assert all(index.iloc[batch][["height", "width"]].drop_duplicates().shape[0] == 1 for batch in batches)
    assert set(batches[0]) <= set(range(5))  # the largest first
    assert max(map(len, batches)) == 4


def test_images_for_prediction_are_whole(tiny, card):
    assert Images(read_index(card, tiny / "tiny"), Reader(3))[0].shape == (3, 36, 44)
