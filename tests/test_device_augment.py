"""Augmentation on the device: an image's changes depend on its seed alone, and are those that the strength asks for."""

import random

import albumentations as A
import numpy as np
import pytest
import torch

from pipeline.data.augment import ON_DEVICE, Augment, make_recipe
from pipeline.data.device_augment import RandomBrightness, RandomSymmetry, augment_batches
from pipeline.symmetries import SYMMETRIES
from tests.fitting import RUN, fit_tiny, history

STEPS = [
    RandomSymmetry(0.8, tuple(SYMMETRIES)),
    RandomBrightness(0.7, (-0.3, 0.3), (-0.2, 0.2)),
]
FLOATS = torch.float32


def batch(count, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 6, 6), generator=generator).to(dtype)
    return images.contiguous(memory_format=torch.channels_last), images[:, :1].round().to(torch.uint8) % 2


def augmented(images, target, seeds, steps=STEPS):
    ((images, target),) = augment_batches([(images.clone(), target.clone())], seeds, steps)
    return images, target


@pytest.mark.parametrize("dtype", [torch.uint8, FLOATS])
def test_an_image_is_changed_in_the_same_way_in_any_batch(dtype):
    images, target = batch(8, dtype)
    seeds = list(range(8))
    whole = augmented(images, target, seeds)
    halves = [
        torch.cat(each)
        for each in zip(
            *augment_batches(
                [(images[:3].clone(), target[:3].clone()), (images[3:].clone(), target[3:].clone())], seeds, STEPS
            ),
            strict=True,
        )
    ]
    reversed_ = [each.flip(0) for each in augmented(images.flip(0), target.flip(0), seeds[::-1])]
    for found in (halves, reversed_):
        assert all(torch.equal(one, other) for one, other in zip(whole, found, strict=True))
    assert not torch.equal(augmented(images, target, [seed + 100 for seed in seeds])[0], whole[0])
    assert whole[0].is_contiguous(memory_format=torch.channels_last)


def test_symmetries_move_images_and_masks_alike_and_are_equally_frequent():
    images, _ = batch(4000)
    target = images[:, :1].clone()
    (step,) = steps = [RandomSymmetry(1.0, tuple(SYMMETRIES))]
    found, moved = augmented(images, target, range(len(images)), steps)
    assert torch.equal(found[:, :1], moved)
    names = [step.draw(random.Random(f"device {seed}")) for seed in range(len(images))]
    for name, symmetry in SYMMETRIES.items():
        chosen = [number for number, each in enumerate(names) if each == name]
        assert torch.equal(found[chosen], symmetry(images[chosen]))
        assert 0.1 < len(chosen) / len(images) < 0.15


def test_brightness_by_hand():
    images, target = torch.tensor([0.0, 100.0, 200.0]).view(1, 1, 1, 3).repeat(2, 1, 1, 1), torch.zeros(2, 1, 1, 3)
    found, _ = RandomBrightness(1, (0, 0), (0, 0)).apply((images, target), [(1.5, -51.0), (1.0, 0.0)])
    assert found.flatten().tolist() == [0, 99, 249, 0, 100, 200]
    step = RandomBrightness(1.0, (0.5, 0.5), (-0.2, -0.2))
    assert step.draw(random.Random(0)) == (1.5, pytest.approx(-51))
    assert RandomBrightness(0.0, (0.5, 0.5), (0.2, 0.2)).draw(random.Random(0)) == (1, 0)


@pytest.mark.parametrize("contrast", [(-0.3, -0.3), (0.25, 0.25)])
def test_brightness_is_that_of_albumentations(contrast):
    image = np.random.default_rng(0).random((5, 7, 3), np.float32)
    transform = A.RandomBrightnessContrast(brightness_limit=(0.1, 0.1), contrast_limit=contrast, p=1)
    _, move = ON_DEVICE[type(transform).__name__]
    step = move(transform)
    images = torch.from_numpy(image * 255).permute(2, 0, 1)[None]
    found, _ = augmented(images, images, [0], [step])
    expected = transform(image=image)["image"] * 255
    assert np.allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(("strength", "steps"), [("none", 0), ("light", 2), ("medium", 2), ("strong", 2)])
def test_what_moves_to_the_device_is_left_out_on_the_cpu(strength, steps):
    here, moved = (Augment(make_recipe(strength, 32, 3), on_device=each) for each in (False, True))
    assert (len(here.device_steps), len(moved.device_steps)) == (0, steps)
    assert len(moved.transform.transforms) == len(here.transform.transforms) - steps


@pytest.mark.slow
def test_training_with_augmentation_on_the_device_resumes_and_repeats(tiny, monkeypatch):
    pairs = ("train.augment_on_device=true", "train.workers=2", "train.phases.0.swa=1.0")
    fit_tiny(*pairs, epochs=(2,))
    expected = history()
    for path in RUN.iterdir():
        if path.is_file():
            path.unlink()
    fit_tiny(*pairs, "train.workers=0", epochs=(2,))
    assert history() == expected
    for path in RUN.iterdir():
        if path.is_file():
            path.unlink()
    fit_tiny("train.phases.0.swa=1.0", epochs=(2,))
    assert history() != expected
