"""Transforms that a config lists: the same images as the strength they stand for, and refusals before a training."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipeline import config, stages
from pipeline.cli import main
from pipeline.config import Transform
from pipeline.data.augment import MAX_CHANNELS, STRENGTHS, Augment, check_channels, make_recipe
from pipeline.data.labels import VOID
from pipeline.data.transform_list import build_transform, check_transforms, known_transforms, to_toml
from pipeline.data.transforms import STAINS, HEDJitter
from pipeline.stages import augmenting

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
MASK = (RNG.random((48, 64, 2)) > 0.5).astype(np.uint8)


def from_toml(text):
    return [Transform(**each) for each in tomllib.loads(text).get("augment", [])]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_printed_list_gives_the_images_of_the_strength(strength):
    recipe = make_recipe(strength, 32, 3)
    listed = from_toml(to_toml(recipe.transforms, "augment"))
    ours = Augment(make_recipe(listed, 32, 3, scale=recipe.scale, scale_p=recipe.scale_p))
    named = Augment(recipe)
    for seed in range(30):
        for one, other in zip(ours(IMAGE, MASK, seed), named(IMAGE, MASK, seed), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_strengths_pass_their_own_check(strength, channels):
    check_transforms(STRENGTHS[strength].transforms(channels), channels, crop=64)


def test_more_channels_than_opencv_supports_are_refused():
    image = np.zeros((48, 48, MAX_CHANNELS), np.uint8)
    Augment(make_recipe("strong", 32, MAX_CHANNELS))(image, image, 0)
    check_channels("strong", MAX_CHANNELS, MAX_CHANNELS)
    check_channels("none", 200, 200)
    with pytest.raises(ValueError, match='images of 129 channels: OpenCV augments at most 128: set augment = "none"'):
        check_channels("light", 129, 1)
    with pytest.raises(ValueError, match="masks of 130 channels"):
        check_channels([Transform(name="D4", p=1)], 3, 130)


@pytest.mark.parametrize("strength", [each for each in STRENGTHS if each != "none"])
def test_masks_of_every_strength_lie_on_their_images(strength):
    assert offset(make_recipe(strength, 64, 3)) < 0.1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomResizedCrop", {"size": (64, 64)}),
        ("RandomSizedCrop", {"min_max_height": (40, 60), "size": (64, 64)}),
        ("CropAndPad", {"percent": (-0.2, -0.1)}),
        ("Affine", {"rotate": (-20, 20), "scale": (0.8, 1.2)}),
        ("ElasticTransform", {"alpha": 20}),
        ("Perspective", {}),
    ],
)
def test_masks_of_a_listed_transform_lie_on_their_images(name, arguments):
    assert offset(make_recipe([Transform(name=name, p=1, **arguments)], 64, 3)) < 0.1


def offset(recipe):
    """The larger distance along an axis, in pixels, between the centroids of a mask and of its image, on average."""
    augment, found = Augment(recipe), []
    rows, columns = np.ogrid[:64, :64]
    for seed in range(100):
        centre = np.random.default_rng(seed).uniform(24, 40, 2)
        disc = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 64).astype(np.uint8)[..., None]
        image, mask = augment(np.repeat(disc * 200, 3, axis=2), disc, seed)
        bright = image.max(axis=2).astype(float)
        bright = bright > (bright.min() + bright.max()) / 2
        if bright.mean() < 0.5 and mask.any():  # else it is inverted
            found.append(np.subtract(*[_centroid(each) for each in (mask[..., 0], bright)]))
    assert len(found) > 60
    return np.abs(np.mean(found, axis=0)).max()


def _centroid(values):
    return np.array([np.average(places, weights=values) for places in np.indices(values.shape)])


def usable(name, **arguments):
    try:
        check_transforms([Transform(name=name, **arguments)], 3, crop=48)
    except ValueError:
        return False
    return True


def test_most_transforms_of_the_library_can_be_listed():
    # With their default arguments; with these, Affine, Lambda, Pad and XYMasking change nothing.
    assert sum(map(usable, known_transforms())) >= 72


@pytest.mark.parametrize("name", [name for name in known_transforms() if usable(name)])
def test_a_listed_transform_depends_on_the_seed_alone(name):
    augment, again = (Augment(make_recipe([Transform(name=name, p=0.7)], 48, 3)) for _ in range(2))
    mask = MASK.copy()
    mask[:8] = VOID
    expected = [augment(IMAGE, mask, seed) for seed in range(4)]
    for seed in (2, 0, 3, 1):  # in another order, of another instance
        for one, other in zip(again(IMAGE, mask, seed), expected[seed], strict=True):
            assert np.array_equal(one, other)
    assert {value for _, changed in expected for value in np.unique(changed)} <= {0, 1, VOID}


NO_LIMITS = {"brightness_limit": 0, "contrast_limit": 0}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"name": "ElasticTransfrom"}, "0: unknown transform 'ElasticTransfrom'. Did you mean 'ElasticTransform'"),
        ({"name": "ElasticTransform", "alfa": 3}, "0: ElasticTransform has no argument 'alfa'. Did you mean 'alpha'"),
        ({"name": "ElasticTransform", "alpha": "a lot"}, "0: ElasticTransform cannot be made: alpha: Input should be"),
        ({"name": "GaussNoise", "std_range": [0.2, 0.1]}, "std_range: First value should be less than the second"),
        ({"name": "RandomScale"}, "0: RandomScale changes the size of an image, which crop and scale of the phase"),
        ({"name": "Normalize"}, "0: Normalize cannot be in a list of transforms: the model does that: take it out"),
        ({"name": "ToFloat"}, "0: ToFloat changes an image of uint8 to .* float32: take it out"),
        ({"name": "FDA"}, "0: FDA cannot be in a list of transforms: set the phase's mix instead"),
        (
            {"name": "OverlayElements"},
            "OverlayElements needs overlay_metadata, which a list cannot give: take it out",
        ),
        (
            {"name": "BBoxSafeRandomCrop"},
            "cannot change an image of 64×64 with 3 channels and its mask: it needs 'bb",
        ),
        ({"name": "CoarseDropout", "fill_mask": 7}, "0: CoarseDropout changes a mask to one of other labels"),
        (
            {"name": "Affine", "rotate": [9, 9], "mask_interpolation": "INTER_LINEAR"},
            "0: Affine changes a mask to one of",
        ),
        ({"name": "HEDJitter", "sigma": 2.0}, "0: HEDJitter cannot be made: sigma = 2: expected more than 0"),
        ({"name": "OneOf", "transforms": [{"name": "Blurr"}]}, "0: unknown transform 'Blurr'. Did you mean 'Blur'"),
        ({"name": "ConstrainedCoarseDropout"}, "do not apply Constrained Coarse Dropout"),
        ({"name": "CubicSymmetry"}, "0: unknown transform 'CubicSymmetry'"),  # of volumes
        ({"name": "D4", "p": 0.0}, "0: D4 has p = 0, so it is never applied: take it out"),
        ({"name": "Affine"}, "0: Affine with these arguments does not change an image of 64×64 with 3 channels: take"),
        (
            {"name": "OneOf", "transforms": [{"name": "RandomBrightnessContrast"} | NO_LIMITS]},
            "RandomBrightnessContrast with these arguments does not change",
        ),
    ],
)
def test_a_list_that_would_fail_is_refused(listed, message):
    with pytest.raises(ValueError, match=message):
        check_transforms([Transform(**listed)], 3, crop=64)


def test_a_transform_may_fill_the_mask_with_ignored_pixels():
    turn = Transform(name="Affine", p=1.0, rotate=(30, 30), border_mode="BORDER_CONSTANT", fill_mask=VOID)
    check_transforms([turn], 3, crop=64)
    for soft, dtype in ((False, np.uint8), (True, np.float32)):
        _, mask = Augment(make_recipe([turn], 48, 3), soft=soft)(IMAGE, MASK.astype(dtype), 0)
        assert (mask[[0, -1], [0, -1]] == VOID).all()
        assert (mask[24, 24] != VOID).all()


def test_a_soft_mask_is_filled_like_a_mask_of_0_and_1():
    turn = Transform(name="Affine", p=1.0, rotate=(30, 30), border_mode="BORDER_CONSTANT", fill_mask=1)
    for soft, dtype in ((False, np.uint8), (True, np.float32)):
        _, mask = Augment(make_recipe([turn], 48, 3), soft=soft)(IMAGE, np.zeros_like(MASK, dtype), 0)
        assert (mask[[0, -1], [0, -1]] == 1).all()
        assert not mask[24, 24].any()


def test_a_transform_that_rarely_changes_an_image_may_be_listed():
    rare = {"name": "PixelDropout", "dropout_prob": 0.00005}  # 1 of 20,000 values, and an image has 12,288
    check_transforms([Transform(**rare), Transform(name="OneOf", transforms=[{"name": "NoOp"}, rare])], 3, crop=64)


def test_a_quarter_turn_needs_a_crop():
    check_transforms([Transform(name="D4")], 3, crop=32)
    with pytest.raises(ValueError, match="0: D4 turns an image by a quarter, so a batch needs a crop"):
        check_transforms([Transform(name="D4")], 3, crop=None)


def test_stains_of_an_image_without_colours_are_refused():
    with pytest.raises(ValueError, match=r"HEDJitter cannot change .* 1 channel .* expected 3 channels, got 1"):
        check_transforms([Transform(name="HEDJitter")], 1, crop=32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('augment = "storng"', r"train\.phases\.0\.augment: 'storng': expected"),
        ("augment = [{ p = 0.5 }]", r"train\.phases\.0\.augment.*name' is missing"),
        ('augment = [{ name = "Blur", p = 2.0 }]', r"p: '?2.0'?: expected 1 at most"),
        ('augment = [{ name = "OneOf" }]', "OneOf chooses among transforms: set transforms ="),
        ('augment = [{ name = "Blur", transforms = [{ name = "Blur" }] }]', "Blur has no argument 'transforms'"),
    ],
)
def test_a_list_of_another_form_is_refused(tiny, text, message):
    with pytest.raises(ValueError, match=message):
        config.load("configs/tiny.toml", [f"train.phases.0.{text}"])


def test_the_config_names_the_phase_of_a_wrong_transform(tiny):
    cfg = config.load("configs/tiny.toml", ['train.phases.1.augment=[{name="Blur"},{name="Blurr"}]'])
    with pytest.raises(ValueError, match=r"tiny\.toml: train\.phases\.1\.augment: 1: unknown transform 'Blurr'"):
        stages.check(cfg)


def test_constants_of_opencv_are_given_by_name():
    spec = Transform(name="ElasticTransform", border_mode="BORDER_REFLECT_101", interpolation="INTER_CUBIC")
    made = build_transform(spec)
    assert (made.border_mode, made.interpolation) == (cv2.BORDER_REFLECT_101, cv2.INTER_CUBIC)


def test_soft_masks_are_interpolated_inside_groups_too():
    turn = Transform(name="Affine", p=1.0, rotate=(30, 30))
    group = Transform(name="OneOf", p=1.0, transforms=(turn,))
    share = np.full((48, 64, 1), 0.0, np.float32)
    share[20:30, 20:40] = 1.0
    _, found = Augment(make_recipe([group], 48, 1), soft=True)(IMAGE[..., :1], share, 0)
    assert ((found > 0.01) & (found < 0.99)).any()


def test_stain_jitter_multiplies_the_density_of_a_stain():
    amount = 0.4
    image = (10 ** -(amount * STAINS[0]))[None, None].astype(np.float32).repeat(4, 0).repeat(4, 1)
    found = HEDJitter(0.1).apply(image, np.array([1.5, 1, 1]), np.zeros(3))
    assert np.allclose(found, 10 ** -(1.5 * amount * STAINS[0]), atol=1e-5)
    other = HEDJitter(0.1).apply(image, np.array([1, 1.5, 1]), np.zeros(3))  # no eosin, so nothing changes
    assert np.allclose(other, image, atol=1e-5)
    shifted = HEDJitter(0.1).apply(image, np.ones(3), np.array([0, 0.1, 0]))
    assert np.allclose(shifted, 10 ** -(amount * STAINS[0] + 0.1 * STAINS[1]), atol=1e-5)


def test_stain_jitter_of_nothing_is_the_image():
    assert np.abs(HEDJitter(0.1).apply(IMAGE, np.ones(3), np.zeros(3)).astype(int) - IMAGE).max() <= 1


@pytest.mark.parametrize("module", ["augment", "transform_list", "transforms"])
def test_albumentations_does_not_look_for_a_newer_version(module):
    env = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    code = (
        "import urllib.request\n"
        "urllib.request.OpenerDirector.open = lambda *_, **__: print('asks the network')\n"
        f"import pipeline.data.{module}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


LISTED = """
[[train.phases.augment]]
name = "ElasticTransform"
p = 0.5
alpha = 20

[[train.phases.augment]]
name = "OneOf"
p = 0.5
transforms = [{ name = "CoarseDropout", p = 0.5 }, { name = "ImageCompression", p = 0.5, quality_range = [40, 90] }]
"""


@pytest.mark.slow
def test_a_training_with_a_list_repeats(tiny):
    text = Path("configs/tiny.toml").read_text() + LISTED  # of the last phase
    weights = []
    for name in ("listed", "again"):
        Path(f"configs/{name}.toml").write_text(text)
        weights.append(load_file(stages.train(config.load(f"configs/{name}.toml"), 0).weights))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    stages.train(config.load("configs/tiny.toml"), 0)
    assert any(
        not torch.equal(value, weights[0][key])
        for key, value in load_file("runs/tiny/fold0/phase2.safetensors").items()
    )


@pytest.mark.slow
def test_augment_prints_lists_that_a_config_takes(tiny, edit, capsys):
    edit("configs/tiny.toml", "lr = 3e-3", 'lr = 3e-3\naugment = "strong"\ncrop = 32')
    assert main(["augment", "configs/tiny.toml"]) == 0
    first, second = capsys.readouterr().out.split("# phase 2\n")
    pasted = first.replace("# phase 1\n", "")
    edit("configs/tiny.toml", 'augment = "strong"\ncrop = 32', pasted)
    named, listed = (STRENGTHS["strong"].transforms(1), config.load("configs/tiny.toml").train.phases[0])
    assert list(listed.augment) == named
    assert (listed.crop, listed.scale, listed.scale_p) == (32, (0.6, 1.8), 0.6)
    assert "pictures    reports/tiny-augment.png" in second
    with Image.open("reports/tiny-augment.png") as sheet:
        assert sheet.size[0] > 1500


def test_the_sheet_shows_what_each_phase_gets(tiny, monkeypatch):
    drawn = {}
    monkeypatch.setattr(augmenting, "write_sheet", lambda path, rows, columns: drawn.update(rows))
    stages.augment(config.load("configs/tiny.toml", ['train.phases.0.augment="none"', "train.phases.0.crop=24"]))
    assert len(drawn) == 2 * 8
    name = next(iter(drawn)).partition(",")[0]
    file, plain, *draws = drawn[f"{name}, phase 1"]
    assert file.image.shape == (36, 44, 3)
    assert plain.image.shape == draws[0].image.shape == (24, 24, 3)
    assert np.array_equal(plain.image, draws[0].image)  # no transform beside the crop, and the same seed
    assert drawn[f"{name}, phase 2"][2].image.shape == (36, 44, 3)
    equal = stages.augment(config.load("configs/tiny.toml"))
    assert list(equal.recipes) == ["phases 1, 2"]


def test_an_image_that_is_not_augmented_is_not_mixed_either(tiny, monkeypatch):
    sheets = []
    monkeypatch.setattr(augmenting, "write_sheet", lambda path, rows, columns: sheets.append(rows))
    for mix in ("{}", "{ mosaic = 1.0 }"):
        stages.augment(config.load("configs/tiny.toml", [f"train.phases.0.mix={mix}", "train.phases.1.augment=none"]))
    without, mixed = ({name: row for name, row in each.items() if "phase 1" in name} for each in sheets)
    for name in without:
        assert np.array_equal(without[name][1].image, mixed[name][1].image)
        assert np.array_equal(without[name][1].target, mixed[name][1].target)
        assert not np.array_equal(without[name][2].image, mixed[name][2].image)
