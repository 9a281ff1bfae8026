"""Maps of targets: by hand, against slow references, and as the data set makes them."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, label
from skimage.morphology import dilation, skeletonize

from pipeline.data.augment import Augment, make_recipe
from pipeline.data.boundaries import touching_boundary
from pipeline.data.dataset import MaskedImages
from pipeline.data.device_augment import RandomSymmetry, augment_batches
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.loader import Loader
from pipeline.data.mixing import Mixing
from pipeline.data.reader import Reader
from pipeline.data.target_maps import (
    REACH,
    TARGET_MAPS,
    boundary_distance,
    make_maps,
    object_distance,
    signed_distance,
    tubed_skeleton,
)
from pipeline.metrics import VOID
from pipeline.symmetries import SYMMETRIES


def mask_of(*rows):
    """A mask from rows of "#" (masked), "." and "?" (void)."""
    values = {"#": 1, ".": 0, "?": VOID}
    return np.array([[values[each] for each in row] for row in rows], np.uint8)


def random_mask(seed, shape=(21, 26), share=0.3, void=0.1):
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < share).astype(np.uint8)
    mask[rng.random(shape) < void] = VOID
    return mask


def distances_by_loops(mask, where):
    """From each pixel to the nearest one of `where`."""
    places = np.argwhere(where)
    if not len(places):
        return np.full(mask.shape, np.inf)
    return np.array(
        [[np.hypot(*(places - place).T).min() for place in row] for row in np.moveaxis(np.indices(mask.shape), 0, 2)]
    )


def test_signed_distance_by_hand():
    assert signed_distance(mask_of("..####.")).tolist() == [[2, 1, 0, -1, -1, 0, 1]]


def test_no_distance_is_measured_to_void_pixels():
    assert boundary_distance(mask_of("#?..#")).tolist() == [[2, 1, 2, 1, 1]]
    assert signed_distance(mask_of("#?..#")).tolist() == [[-1, 1, 2, 1, 0]]


@pytest.mark.parametrize("mask", [mask_of("..", ".."), mask_of("##", "##"), mask_of("?#", "??"), mask_of("?.", ".?")])
def test_a_mask_without_a_boundary_has_no_distances(mask):
    assert not signed_distance(mask)[mask != VOID].any()
    assert np.isinf(boundary_distance(mask)[mask != VOID]).all()
    assert np.isinf(object_distance(mask)).all()


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_loops_over_all_pixels(seed):
    mask = random_mask(seed)
    inside, outside = distances_by_loops(mask, mask == 0), distances_by_loops(mask, mask == 1)
    assert boundary_distance(mask) == pytest.approx(np.where(mask == 1, inside, outside), abs=1e-5)
    assert signed_distance(mask) == pytest.approx(np.where(mask == 1, 1 - inside, outside), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_signed_distance_equals_the_formula_of_the_authors(seed):
    positive = random_mask(seed, void=0) == 1
    theirs = distance_transform_edt(~positive) * ~positive - (distance_transform_edt(positive) - 1) * positive
    assert signed_distance(positive.astype(np.uint8)) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("side", [512, 513])
def test_distances_are_the_same_in_every_call(side):
    # OpenCV's own are not, in the last digit.
    mask = random_mask(0, (side, side), share=0.01)
    first = signed_distance(mask)
    squares = np.where(mask == 1, 1 - first, first).astype(np.float64) ** 2
    assert np.allclose(squares, np.rint(squares), rtol=1e-6)
    assert all(np.array_equal(signed_distance(mask.copy()), first) for _ in range(5))


def test_object_distance_by_hand():
    # Objects at columns 0, 4 and 6.
    assert object_distance(mask_of("#...#.#")).tolist() == [[4, 4, 4, 4, 2, 2, 2]]
    assert np.isinf(object_distance(mask_of("##....."))).all()


@pytest.mark.parametrize("seed", range(5))
def test_object_distance_equals_the_two_smallest_of_all_objects(seed):
    mask = random_mask(seed, (15, 90), share=0.04)
    objects, count = label(mask == 1, np.ones((3, 3)))
    two = np.sort([distances_by_loops(mask, objects == number) for number in range(1, count + 1)], axis=0)[:2]
    expected = np.where(two[1] > REACH, np.inf, two.sum(axis=0))
    assert object_distance(mask) == pytest.approx(expected, abs=1e-4)


def test_object_distance_ends_at_the_reach():
    mask = np.zeros((1, 200), np.uint8)
    mask[0, [0, REACH + 1]] = 1
    found = object_distance(mask)[0]
    assert np.isinf(found[0])
    assert found[1] == REACH + 1
    assert np.isinf(found[REACH + 2 :]).all()


def test_a_boundary_channel_separates_touching_objects():
    numbers = np.zeros((12, 20), np.int32)
    numbers[2:10, 2:10], numbers[2:10, 10:18] = 1, 2
    boundary = touching_boundary(numbers, 2)
    assert object_distance((numbers > 0).astype(np.uint8), boundary)[5, 2:18].tolist() == [
        *range(8, 0, -1),
        *range(1, 9),
    ]
    assert np.isinf(object_distance((numbers > 0).astype(np.uint8))).all(), "without it they are one object"


def test_a_component_that_is_all_boundary_is_still_an_object():
    numbers = np.array([[1, 2, 0, 0, 0, 0, 3]], np.int32)
    boundary = touching_boundary(numbers, 2)
    assert boundary[0, :2].all()
    assert object_distance((numbers > 0).astype(np.uint8), boundary).tolist() == [[6, 5, 5, 5, 5, 5, 5]]


@pytest.mark.parametrize("seed", range(5))
def test_tubed_skeleton_equals_that_of_the_authors(seed):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((8, 8)) < 0.5, np.ones((7, 7))).astype(np.uint8)
    assert np.array_equal(tubed_skeleton(mask), dilation(dilation(skeletonize(mask == 1).astype(np.uint8))) * mask)


def test_the_skeleton_of_an_empty_mask_is_empty_and_void_is_not_in_it():
    assert not tubed_skeleton(mask_of("...", "?.?")).any()
    mask = random_mask(0, share=0.7)
    assert tubed_skeleton(mask).any()
    assert not tubed_skeleton(mask)[mask != 1].any()


@pytest.mark.parametrize("name", [name for name in TARGET_MAPS if name != "tubed_skeleton"])
@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_distances_of_a_turned_mask_are_turned(name, symmetry):
    # So the device may turn maps with masks.
    mask = random_mask(3, (24, 24))
    turned = SYMMETRIES[symmetry](torch.from_numpy(mask)[None])[0].contiguous().numpy()
    expected = SYMMETRIES[symmetry](torch.from_numpy(TARGET_MAPS[name](mask))[None])[0].numpy()
    assert TARGET_MAPS[name](turned) == pytest.approx(expected, abs=1e-4)


def test_maps_follow_one_another_with_a_channel_for_each_of_the_target():
    masks = np.stack([random_mask(0), random_mask(1)], axis=-1)
    maps = make_maps(masks, ["tubed_skeleton", "signed_distance"])
    expected = [f(masks[..., number]) for f in (tubed_skeleton, signed_distance) for number in (0, 1)]
    assert maps.dtype == np.float32
    assert np.array_equal(maps, np.stack(expected, axis=-1))


# The data set.

NAMES = ("signed_distance", "tubed_skeleton")


@pytest.fixture
def images(card, tiny):
    """A function that makes the tiny competition's data set, with options."""
    index = read_index(card, tiny / "tiny")
    return partial(MaskedImages, index, Labels.of(card), Reader(1), Augment(make_recipe("strong", 32, 1)))


def test_maps_are_those_of_the_augmented_and_mixed_mask(images):
    mixing = Mixing({"cutmix": 0.5, "mosaic": 0.5}, np.arange(18), np.arange(18))
    data, plain = images(maps=NAMES, mixing=mixing), images(mixing=mixing)
    for key in [(1, 5), (4, 6), (7, 7)]:
        image, mask, maps = data[key]
        assert all(torch.equal(*each) for each in zip((image, mask), plain[key], strict=True))
        assert np.array_equal(maps.permute(1, 2, 0).numpy(), make_maps(mask.permute(1, 2, 0).numpy(), NAMES))


def test_a_data_set_without_maps_has_pairs(images):
    assert len(images()[0, 0]) == 2


def test_maps_of_exclusive_classes_are_those_of_each_class(images, card):
    labels = Labels.of(card.model_copy(update={"classes": ("background", "disc"), "exclusive": True}))
    data = images(maps=("signed_distance",))
    items = (data[position, 6] for position in range(18))
    _, mask, maps = next(item for item in items if 0 < item[1].sum() < item[1].numel())
    data.labels = labels
    of_classes = data._maps(mask.permute(1, 2, 0).numpy())[0]
    assert torch.equal(of_classes[1:], maps)
    assert torch.equal(of_classes[0], 1 - maps[0])


def test_batches_with_maps_are_the_same_in_any_number_of_workers(images):
    keys = [(position, 10 + position) for position in range(8)]
    options = {"batch_size": 4, "sampler": keys}
    batches = [list(Loader(images(maps=NAMES), num_workers=workers, **options)) for workers in (0, 2)]
    for one, two in zip(*batches, strict=True):
        assert len(one) == 3
        assert all(torch.equal(*each) for each in zip(one, two, strict=True))


def test_the_device_turns_maps_with_masks():
    masks = [random_mask(seed, (16, 16), void=0) for seed in range(6)]
    target = torch.from_numpy(np.stack(masks))[:, None]
    maps = torch.from_numpy(np.stack([signed_distance(mask) for mask in masks]))[:, None]
    step = RandomSymmetry(1.0, tuple(SYMMETRIES))
    ((_, turned, turned_maps),) = augment_batches([(target.clone(), target.clone(), maps)], range(6), [step])
    assert not torch.equal(turned, target)
    for mask, found in zip(turned, turned_maps, strict=True):
        assert found[0].numpy() == pytest.approx(signed_distance(mask[0].numpy()), abs=1e-4)
