"""Soft masks: shares from files and from annotators, their void pixels, and the masks that they stand for."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import competition, config, rle, stages
from pipeline.data.augment import STRENGTHS, Augment, make_recipe
from pipeline.data.crops import crop_index
from pipeline.data.dataset import AddedImages, MaskedImages
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.mixing import copy_paste
from pipeline.data.rasters import ImageError
from pipeline.data.reader import Reader
from pipeline.data.resize import Resize
from pipeline.data.sample import Sample, samples_of
from pipeline.data.soft_masks import combine, harden, read_annotators, read_shares
from pipeline.data.targets import read_target, resize_mask
from pipeline.data.windows import Box
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.preparing import check, make_context
from pipeline.stages.training import settings
from pipeline.training.fold_data import phase_images
from pipeline.training.phase_loss import build_phase_loss
from tests.fitting import fold_data

SHARE = np.float32  # the dtype of soft targets
VOID = 255


def grid(*rows, dtype=np.uint8):
    return np.array(rows, dtype=dtype)


def load(edit, *changes):
    """The tiny card after some replacements."""
    for old, new in changes:
        edit("tiny.toml", old, new)
    return competition.load("tiny.toml")


# Annotators, by hand.

THREE = [grid([1, 1, 1, 0, VOID, VOID]), grid([1, 1, 0, 0, 1, VOID]), grid([1, 0, 0, 0, 0, VOID])]


def test_the_mean_of_annotators_is_the_share_of_those_who_vote():
    mean = combine(THREE, "mean")
    assert mean.dtype == np.float32
    assert mean.tolist() == [[1, SHARE(2 / 3), SHARE(1 / 3), 0, 0.5, VOID]]


def test_the_majority_of_annotators_is_more_than_half_of_those_who_vote():
    assert combine(THREE, "majority").tolist() == [[1, 1, 0, 0, 0, VOID]]
    assert combine(THREE[:2], "majority").tolist() == [[1, 1, 0, 0, 1, VOID]]  # 1 of 2 is no majority


def test_the_union_of_annotators_is_masked_by_any():
    assert combine(THREE, "union").tolist() == [[1, 1, 1, 0, 1, VOID]]


def test_annotators_without_a_mask_vote_against():
    assert combine(THREE[:1], "mean", 4).tolist() == [[0.25, 0.25, 0.25, 0, 0, 0]]
    assert combine(THREE[:1], "majority", 2).tolist() == [[0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("how", ["majority", "union"])
def test_combined_masks_are_those_that_the_mean_stands_for(how):
    masks = np.random.default_rng(0).integers(0, 2, (5, 8, 9)).astype(np.uint8)
    mean = combine(list(masks), "mean")
    assert np.array_equal(combine(list(masks), how), harden(mean) if how == "majority" else (mean > 0))


def write_rows(tiny, rows):
    lines = [f"{image_id},{rle.encode(mask)}" for image_id, masks in rows.items() for mask in masks]
    (tiny / "tiny/train.csv").write_text("\n".join(["id,rle_mask", *lines]) + "\n")


def annotators_of(tiny, count=3, seed=0):
    """Masks of some annotators for each training image: the disc, shifted by each of them."""
    card = competition.load("tiny.toml")
    rng = np.random.default_rng(seed)
    return {
        sample.image_id: [
            np.roll(Labels.of(card).read(sample)[..., 0], rng.integers(-3, 4, 2), (0, 1)) for _ in range(count)
        ]
        for sample in samples_of(read_index(card, tiny / "tiny"))
    }


@pytest.mark.parametrize("how", ["mean", "majority", "union"])
def test_rows_of_annotators_become_one_target(tiny, edit, how):
    masks = annotators_of(tiny, count=4)
    write_rows(tiny, masks)
    card = load(edit, ("[files]", f'annotators = "{how}"\n[files]'))
    index, labels = read_index(card, tiny / "tiny"), Labels.of(card)
    for sample in samples_of(index):
        stack = np.stack(masks[sample.image_id])
        share = stack.sum(axis=0, dtype=np.float32) / SHARE(4)
        expected = {"mean": share, "majority": share > 0.5, "union": share > 0}[how]
        assert labels.read(sample)[..., 0].tolist() == expected.tolist()
        assert labels.read(sample).dtype == (np.float32 if how == "mean" else np.uint8)
        box = Box(3, 5, 20, 30)
        assert np.array_equal(labels.window(sample, box), labels.read(sample)[box.slices])
        truth = share > 0 if how == "union" else share > 0.5
        assert np.array_equal(labels.read_scored(sample)[0], truth)
    scored = [labels.read_scored(sample).mean() for sample in samples_of(index)]
    assert index["coverage"].tolist() == pytest.approx(scored)
    assert (index["empty"] == "yes").tolist() == [share == 0 for share in scored]


def test_rows_of_annotators_need_the_cards_word(tiny):
    write_rows(tiny, annotators_of(tiny, count=2))
    with pytest.raises(ValueError, match=r"repeat an id.*several_rows = true on the card; if each annotator has one"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")


def test_an_annotator_without_a_row_of_a_class_masks_nothing_of_it():
    # Three annotators have a row of the first class, one of the second.
    card = competition.load("severstal-steel-defect-detection").model_copy(update={"annotators": "mean"})
    sample = Sample("x", (Path("x"),), (2, 2), rle=("1 1\n1 2\n", "3 1", "", ""))
    read = Labels.of(card).read(sample)
    third = SHARE(1 / 3)
    assert read[..., 0].tolist() == [[SHARE(2 / 3), 0], [third, 0]]
    assert read[..., 1].tolist() == [[0, third], [0, 0]]
    assert not read[..., 2:].any()


def test_ignored_pixels_stay_void_unless_an_annotator_masks_them():
    card = competition.load("demo").model_copy(update={"annotators": "mean"})
    sample = Sample("x", (Path("x"),), (1, 3), rle=("1 1\n1 2",), rle_void="2 2")
    assert Labels.of(card).read(sample)[..., 0].tolist() == [[1, 0.5, VOID]]


# Files.


def save(path, pixels):
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)
    return path


FILES = {
    "8 bits": (".png", grid([0, 51, 127], [128, 204, 255]), [[0, 51 / 255, 127 / 255], [128 / 255, 204 / 255, 1]]),
    "16 bits": (".png", grid([0, 13107], [32768, 65535], dtype=np.uint16), [[0, 0.2], [32768 / 65535, 1]]),
    "16 bits, TIFF": (".tif", grid([0, 1], [256, 65535], dtype=np.uint16), [[0, 1 / 65535], [256 / 65535, 1]]),
    "1 bit": (".png", grid([0, 1], [1, 0], dtype=bool), [[0, 1], [1, 0]]),
    "floats": (".npy", grid([0, 0.3], [0.5, 1], dtype=np.float64), [[0, 0.3], [0.5, 1]]),
    "grey as colours": (".png", np.repeat(grid([0, 51], [102, 255])[..., None], 3, 2), [[0, 0.2], [0.4, 1]]),
}


@pytest.mark.parametrize("name", FILES)
def test_shares_are_the_values_over_the_white_of_the_file(tmp_path, name):
    suffix, pixels, expected = FILES[name]
    path = save(tmp_path / f"mask{suffix}", pixels)
    read = read_shares(path)
    assert read.dtype == np.float32
    assert read.tolist() == pytest.approx(np.array(expected, SHARE), rel=1e-7)
    assert np.array_equal(read_shares(path, box=Box(1, 0, 1, 2)), read[1:, :2])


def test_a_declared_value_of_a_soft_file_is_void(tmp_path):
    path = save(tmp_path / "mask.png", grid([0, 85, 255, 254]))
    assert read_shares(path, void=255).tolist() == [[0, SHARE(1 / 3), VOID, SHARE(254 / 255)]]
    path = save(tmp_path / "mask.npy", grid([0, -1, 1], dtype=np.float32))
    assert read_shares(path, void=-1).tolist() == [[0, VOID, 1]]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (grid([0, 1], dtype=np.int32), r"mask\.npy: a soft mask of int32, which has no range: expected 8 or 16 bits"),
        (grid([0, 7], dtype=np.uint32), r"mask\.npy: a soft mask of uint32, which has no range"),
        (
            grid([0, 1.5], dtype=np.float32),
            r"with 1\.5 at row 0, column 1 \(1 such pixels\): expected floats from 0 to 1",
        ),
        (grid([-0.1, 1], dtype=np.float32), r"with -0\.1 at row 0, column 0"),
        (grid([0.5, np.nan], dtype=np.float64), r"with nan at row 0, column 1"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), r"a soft mask of 3 channels that differ: expected grey"),
    ],
)
def test_a_soft_file_without_shares_is_refused_in_one_line(tmp_path, pixels, message):
    with pytest.raises(ImageError, match=message) as error:
        read_shares(save(tmp_path / "mask.npy", pixels))
    assert "\n" not in str(error.value)


def soft_files(tiny, edit, dtype=np.uint8, suffix=".png"):
    """The tiny competition with soft mask images: the disc with a blurred outline; returns the shares by id."""
    (tiny / "tiny/train/masks").mkdir()
    card, white = competition.load("tiny.toml"), np.iinfo(dtype).max
    shares = {}
    for sample in samples_of(read_index(card, tiny / "tiny")):
        blurred = cv2.GaussianBlur(Labels.of(card).read(sample)[..., 0].astype(np.float32), (5, 5), 0)
        values = np.rint(blurred * white).astype(dtype)
        save(tiny / f"tiny/train/masks/{sample.image_id}{suffix}", values)
        shares[sample.image_id] = values / SHARE(white)
    edit("tiny.toml", 'train_csv = "train.csv"', f'train_masks = "train/masks"\nmask_suffix = "{suffix}"')
    return load(edit, ("[columns]", "[masks]\nsoft = true\n[columns]")), shares


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_soft_mask_images_are_targets_and_their_half_is_scored(tiny, edit, dtype):
    card, shares = soft_files(tiny, edit, dtype)
    index, labels = read_index(card, tiny / "tiny"), Labels.of(card)
    for sample, coverage in zip(samples_of(index), index["coverage"], strict=True):
        share = shares[sample.image_id]
        assert np.array_equal(labels.read(sample)[..., 0], share)
        assert np.array_equal(labels.read_scored(sample)[0], share > 0.5)
        assert coverage == pytest.approx((share > 0.5).mean())
    assert 0 < (index["empty"] == "yes").sum() < len(index)


def test_files_of_annotators_are_averaged(tiny, edit):
    masks = annotators_of(tiny)
    (tiny / "tiny/train/masks").mkdir()
    for image_id, each in masks.items():
        for number, mask in enumerate(each):
            save(tiny / f"tiny/train/masks/{image_id}_by{number}.png", mask * np.uint8(255))
    edit("tiny.toml", 'train_csv = "train.csv"', "train_masks = \"train/masks\"\npattern = '([^/]+)\\.png'")
    edit("tiny.toml", "[columns]", "mask_pattern = '([^/]+)_by\\d\\.png'\n[columns]")
    with pytest.raises(ValueError, match=r"are both the mask of .*if each annotator has one, annotators"):
        read_index(competition.load("tiny.toml"), tiny / "tiny")
    card = load(edit, ("[files]", 'annotators = "mean"\n[files]'))
    for sample in samples_of(read_index(card, tiny / "tiny")):
        expected = np.stack(masks[sample.image_id]).sum(axis=0, dtype=np.float32) / SHARE(3)
        assert np.array_equal(Labels.of(card).read(sample)[..., 0], expected)


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_planes_of_an_array_are_annotators(tmp_path, count):
    # The layout of human_individual_masks.npy of Contrails: (height, width, 1, annotators).
    masks = np.random.default_rng(count).integers(0, 2, (32, 40, 1, count)).astype(np.int32)
    path = save(tmp_path / "masks.npy", masks)
    card = competition.load("google-research-identify-contrails-reduce-global-warming")
    labels = replace(Labels.of(card), annotators="mean")
    sample = Sample("x", (path,), (32, 40), mask_paths=(path,))
    expected = masks[:, :, 0].sum(axis=2, keepdims=True, dtype=np.float32) / SHARE(count)
    assert np.array_equal(labels.read(sample), expected)
    box = Box(2, 3, 9, 8)
    assert np.array_equal(labels.window(sample, box), expected[box.slices])
    majority = replace(labels, annotators="majority").read(sample)
    assert np.array_equal(majority, expected > 0.5)


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_annotators_who_agree_are_annotators_too(tmp_path, count, value):
    path = save(tmp_path / "masks.npy", np.full((32, 40, 1, count), value, np.int32))
    labels = Labels.of(competition.load("google-research-identify-contrails-reduce-global-warming"))
    sample, box = Sample("x", (path,), (32, 40), mask_paths=(path,)), Box(2, 3, 9, 8)
    for how in ("mean", "majority", "union"):
        of = replace(labels, annotators=how)
        assert np.array_equal(of.read(sample), np.full((32, 40, 1), value))
        assert np.array_equal(of.window(sample, box), np.full((9, 8, 1), value))


@pytest.mark.parametrize("count", [2, 4])
def test_equal_planes_that_are_no_masks_are_refused(tmp_path, count):
    path = save(tmp_path / "masks.npy", np.full((3, 4, count), 7, np.uint8))
    with pytest.raises(ImageError, match=rf"masks\.npy: {count} planes of values 7 to 7: expected 0 and 1"):
        read_annotators(path)


def test_planes_that_are_no_masks_are_refused(tmp_path):
    path = save(tmp_path / "masks.npy", np.arange(24, dtype=np.uint8).reshape(3, 4, 2))
    with pytest.raises(
        ImageError, match=r"masks\.npy: 2 planes of values 0 to 23: expected 0 and 1 in the plane of each"
    ):
        read_annotators(path)


# Cards.

SOFT_FILES = ('train_csv = "train.csv"', 'train_masks = "masks"')


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("[columns]", "[masks]\nsoft = true\n[columns]")], "masks.soft needs mask images"),
        (
            [SOFT_FILES, ("[columns]", "[masks]\nsoft = true\nvalues = { disc = 3 }\n[columns]")],
            "masks.soft and masks.values contradict each other: leave out one of them",
        ),
        (
            [SOFT_FILES, ("[columns]", "[masks]\nsoft = true\nabove = 3\n[columns]")],
            "masks.soft and masks.above contradict each other",
        ),
        (
            [
                SOFT_FILES,
                ('metric = "mean_dice"', 'metric = "dsb_precision"\ninstances = true'),
                ("[columns]", "mask_pattern = '(.)_.'\n[masks]\nsoft = true\n[columns]"),
            ],
            "masks.soft and instances contradict each other",
        ),
        (
            [
                SOFT_FILES,
                ("[files]", 'annotators = "majority"\n[files]'),
                ("[columns]", "[masks]\nsoft = true\n[columns]"),
            ],
            'masks.soft and annotators = "majority" contradict each other',
        ),
        (
            [("[files]", 'annotators = "mean"\nseveral_rows = true\n[files]')],
            "annotators and several_rows contradict each other",
        ),
        (
            [
                ("[files]", 'annotators = "mean"\n[files]'),
                ('metric = "mean_dice"', 'metric = "dsb_precision"\ninstances = true'),
            ],
            "annotators and instances contradict each other",
        ),
        (
            [('train_csv = "train.csv"', 'train_coco = "x.json"'), ("[files]", 'annotators = "mean"\n[files]')],
            "annotators needs files.train_csv or files.train_masks",
        ),
        (
            [("[files]", 'annotators = "median"\n[files]')],
            "annotators: 'median': expected 'mean', 'majority' or 'union'",
        ),
    ],
)
def test_a_card_with_contradictions_is_refused_in_one_line(tiny, edit, changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as error:
        load(edit, *changes)
    assert "\n" not in str(error.value)


def test_soft_and_exclusive_classes_contradict_each_other():
    tables = competition.load("camvid_demo").model_dump(by_alias=True)
    with pytest.raises(ValueError, match=r"masks\.soft and exclusive contradict"):
        competition.Competition.model_validate({**tables, "masks": {**tables["masks"], "soft": True}})


def test_a_loss_that_soft_masks_do_not_have_is_refused_before_training(tiny, edit):
    load(edit, ("[files]", 'annotators = "mean"\n[files]'))
    with pytest.raises(
        ValueError, match=r"configs/tiny\.toml: train\.phases\.1\.loss: loss 'lovasz' is defined for masks"
    ):
        check(config.load("configs/tiny.toml"))


def test_mixup_makes_soft_masks_and_refuses_the_same_losses(tiny):
    mixup = "train.phases.1.mix={mixup=0.2}"
    with pytest.raises(ValueError, match=r"train\.phases\.1\.loss: loss 'lovasz' is defined .* \(.*mix\.mixup"):
        check(config.load("configs/tiny.toml", [mixup]))
    check(config.load("configs/tiny.toml", [mixup, "train.phases.1.loss={dice=1}"]))


def test_all_masks_of_a_phase_with_mixup_are_soft_and_those_of_the_other_phase_are_not(tiny):
    cfg = config.load("configs/tiny.toml", ["train.phases.1.mix={mixup=0.5}", "train.phases.1.loss={dice=1}"]).train
    data = fold_data()
    dtypes = [{phase_images(data, cfg, number)[position, 0][1].dtype for position in range(12)} for number in (1, 2)]
    assert dtypes == [{torch.uint8}, {torch.float32}]
    with pytest.raises(ValueError, match="loss 'lovasz' is defined for masks of 0 and 1"):
        build_phase_loss(cfg.phases[1].model_copy(update={"loss": {"lovasz": 1.0}}), 2, data)


def test_mixup_of_exclusive_classes_is_refused():
    path = Path(config.__file__).parent.parent / "configs" / "camvid_demo.toml"
    with pytest.raises(ValueError, match=r"train\.phases\.0\.mix\.mixup needs one mask per class"):
        check(config.load(path, ["train.phases.0.mix={mixup=0.2}"]))


def test_settings_of_a_run_change_with_the_annotators_and_not_by_the_new_key(tiny, edit):
    write_rows(tiny, annotators_of(tiny, count=2))
    found = []
    for how in ("union", "majority"):
        edit("tiny.toml", "[files]" if not found else 'annotators = "union"\n[files]', f'annotators = "{how}"\n[files]')
        found.append(settings(make_context(config.load("configs/tiny.toml", [f"folds.name={how}"]))))
    assert [each["annotators"] for each in found] == ["union", "majority"]
    assert "masks" not in found[0]


# Data sets, augmentation, mixing, resizing.


def soft_data(tiny, edit, augment, **options):
    card, shares = soft_files(tiny, edit)
    index = read_index(card, tiny / "tiny")
    return MaskedImages(index, Labels.of(card), Reader(1), augment, **options), shares


def test_items_hold_shares_from_the_file_and_from_the_cache(tiny, edit):
    data, shares = soft_data(tiny, edit, Augment(make_recipe("none", None, 1), soft=True))
    for _ in ("file", "cache"):
        for position, sample in enumerate(data.samples):
            mask = data[position, 0][1]
            assert mask.dtype == torch.float32
            assert np.array_equal(mask.numpy()[0], shares[sample.image_id])


def test_hard_masks_beside_soft_ones_are_floats_too(tiny, edit):
    card, _ = soft_files(tiny, edit)
    index = read_index(card, tiny / "tiny")
    added = AddedImages(index.iloc[:2], lambda sample, resize: np.full((36, 44, 1), VOID, np.uint8))
    data = MaskedImages(
        index, Labels.of(card), Reader(1), Augment(make_recipe("none", None, 1), soft=True), added=[added]
    )
    mask = data[len(index), 0][1]
    assert mask.dtype == torch.float32
    assert mask.unique().tolist() == [VOID]


@pytest.mark.parametrize("value", [1.25, -0.5, np.nan, 254.0])
def test_a_share_beyond_0_and_1_is_refused(tiny, edit, monkeypatch, value):
    data, _ = soft_data(tiny, edit, Augment(make_recipe("none", None, 1), soft=True))
    monkeypatch.setattr(Labels, "read", lambda self, sample: np.full((36, 44, 1), value, np.float32))
    with pytest.raises(ValueError, match=rf"mask of '\d+' holds {value}: expected 0 to 1, or 255 for void"):
        data[0, 0]


def ramp(side=64):
    """An image whose grey value is 255 times the share of its soft mask, smooth along both axes."""
    rows, columns = np.mgrid[:side, :side] / (side - 1)
    share = ((1 - np.cos(2 * np.pi * rows)) * (1 - np.cos(2 * np.pi * columns)) / 4).astype(np.float32)[..., None]
    return share * 255, share


@pytest.mark.parametrize("strength", ["light", "medium"])
def test_a_soft_mask_moves_with_its_image_to_a_fraction_of_a_pixel(strength):
    # Of the transforms only those of places are kept, so image / 255 and mask stay equal.
    recipe = make_recipe(strength, 48, 1)
    kept = tuple(each for each in recipe.transforms if each.name in {"HorizontalFlip", "Affine", "D4"})
    assert len(kept) == 2
    recipe = recipe._replace(transforms=kept)
    image, share = ramp()
    differences = {}
    for soft in (True, False):
        augment = Augment(recipe, soft=soft)
        pairs = [augment(image, share, seed) for seed in range(30)]
        differences[soft] = max(np.abs(one / 255 - other).max() for one, other in pairs)
    assert differences[True] < 2e-3
    assert differences[False] > 0.01, "the nearest pixel is as good: the test shows nothing"


@pytest.mark.parametrize("strength", STRENGTHS)
def test_void_pixels_of_a_soft_mask_stay_void_and_shares_stay_shares(strength):
    image, share = ramp()
    share[20:44, 10:30] = VOID
    for seed in range(20):
        _, mask = Augment(make_recipe(strength, 48, 1), soft=True)(image, share, seed)
        void = mask == VOID
        assert mask.dtype == np.float32
        assert ((mask[~void] >= 0) & (mask[~void] <= 1)).all()
        _, hard = Augment(make_recipe(strength, 48, 1))(image, (share == VOID).astype(np.uint8), seed)
        assert (void != hard.astype(bool)).mean() < 0.03  # at edges the nearest pixel differs from the mean


def test_flips_of_a_soft_mask_of_0_and_1_are_those_of_a_hard_one():
    rng = np.random.default_rng(0)
    mask = np.where(rng.random((40, 40, 2)) < 0.1, VOID, rng.integers(0, 2, (40, 40, 2))).astype(np.uint8)
    image = rng.integers(0, 256, (40, 40, 1)).astype(np.uint8)
    for seed in range(10):
        soft = Augment(make_recipe("none", 32, 1), soft=True)(image, mask.astype(np.float32), seed)
        hard = Augment(make_recipe("none", 32, 1))(image, mask, seed)
        assert all(map(np.array_equal, soft, hard))


def test_copy_paste_pastes_an_object_with_its_shares():
    image, share = np.zeros((6, 6, 1), np.uint8), np.zeros((6, 6, 1), np.float32)
    donor = share.copy()
    donor[1:3, 1:3], donor[1, 3], donor[4, 4], donor[0, 5] = 0.75, 0.25, 0.5, VOID
    rng = np.random.default_rng(0)
    _, mixed = copy_paste((image, share), lambda: (image + 9, donor), rng)
    assert mixed[1:3, 1:3].tolist() == donor[1:3, 1:3].tolist()
    assert np.count_nonzero(mixed) == 4, "half and less are no object"


def test_a_resized_soft_mask_is_the_mean_of_areas_without_their_void_part():
    mask = grid([0.5, 1, 0, 0], [0, 0.5, 0, 1], [VOID, 1, VOID, VOID], [VOID, 0.5, VOID, 0.25], dtype=np.float32)
    resized = resize_mask(mask[..., None], (2, 2), exclusive=False)[..., 0]
    assert resized.tolist() == [[0.5, 0.25], [0.75, VOID]]


def test_a_window_of_a_resized_soft_mask_equals_the_whole(tiny, edit):
    card, _ = soft_files(tiny, edit)
    (sample,), labels = samples_of(read_index(card, tiny / "tiny").iloc[[1]]), Labels.of(card)
    resize = Resize(config.Size(factor=0.7))
    whole = read_target(labels, sample, resize)
    assert whole.dtype == np.float32
    box = Box(4, 6, 15, 20)
    assert np.array_equal(read_target(labels, replace(sample, box=box), resize), whole[box.slices])


def test_crops_count_the_masks_that_soft_ones_stand_for(tiny, edit):
    card, shares = soft_files(tiny, edit)
    index = read_index(card, tiny / "tiny")
    windows = crop_index(index, Labels.of(card), config.Crops(size=16, stride=16))
    for row in windows.itertuples():
        assert row.coverage == pytest.approx((shares[row.image_id] > 0.5)[row.box.slices].mean())


# The whole way.


def ensemble_and_bundle(*pairs):
    """The rows of `make ensemble` and of its bundle."""
    cfgs = [config.load("configs/tiny.toml", pairs)]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    return [pd.read_csv(path, dtype=str, keep_default_na=False) for path in (done.csv, predicted.csv)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["soft files", "annotators"])
def test_soft_masks_reach_a_submission_that_the_bundle_repeats(tiny, edit, kind):
    if kind == "soft files":
        soft_files(tiny, edit, np.uint16)
    else:
        write_rows(tiny, annotators_of(tiny))
        load(edit, ("[files]", 'annotators = "mean"\n[files]'))
    edit("configs/tiny.toml", "{ lovasz = 1.0, dice = 0.5 }", "{ jaccard = 1.0 }")
    by_ensemble, by_bundle = ensemble_and_bundle("train.phases.0.repeats=6", "train.phases.0.mix={ copy_paste = 0.5 }")
    assert by_ensemble.equals(by_bundle)
    assert by_ensemble["rle_mask"].nunique() > 2, "masks differ, or equality says nothing"
    assert not stages.doctor(config.load("configs/tiny.toml")).bad
