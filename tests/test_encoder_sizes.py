"""Encoders that take images of one size: training crops, tiles of prediction and weights follow that size."""

import random
import re
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline import config, stages
from pipeline.config import Tiles
from pipeline.models import build_model, encoder, encoder_table
from pipeline.models.encoder_name import PREFIX
from pipeline.models.image_size import with_image_size
from pipeline.serving.bundle import read_bundle
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members

ONE_SIZE = "tu-test_maxvit"  # 0.96 M parameters, made for 160×160
CROPS = ("train.phases.0.crop=32", "train.phases.1.crop=32")


def load(*pairs: str, name: str = ONE_SIZE) -> config.Config:
    return config.load("configs/tiny.toml", [f"model.encoder={name}", *pairs])


def sizes(cfg: config.Config) -> tuple[int | None, Tiles | None]:
    derived = with_image_size(cfg)
    return derived.model.img_size, derived.predict.tiles


def test_the_size_of_the_encoder_and_of_the_tiles_is_that_of_the_crop(tiny):
    assert sizes(load(*CROPS)) == (32, Tiles(size=32, stride=24))
    assert sizes(load(*CROPS, "predict.tiles={size=32,stride=16}")) == (32, Tiles(size=32, stride=16))


def test_images_that_all_have_the_size_of_the_encoder_are_predicted_whole(tiny):
    exact = "data.size={exact=[64,64]}"
    assert sizes(load(exact)) == (64, None)
    assert sizes(load(exact, "predict.scale=2")) == (64, Tiles(size=64, stride=48))


def test_a_derived_config_is_derived_only_once(tiny):
    derived = with_image_size(load(*CROPS))
    assert with_image_size(derived) == derived


def test_other_encoders_leave_the_config_as_it_is(tiny):
    cfg = load(*CROPS, name="tu-test_resnet")
    assert with_image_size(cfg) is cfg


ATROUS = ("deeplabv3_aspp", "deeplabv3plus")


@pytest.mark.parametrize(
    ("arch", "output_stride"), [("unet", 32), ("fpn", 32), *((arch, stride) for arch in ATROUS for stride in (8, 16))]
)
@pytest.mark.parametrize("name", ["tu-mobilevit_xxs", "tu-mobilevitv2_050", "tu-test_resnet"])
def test_each_feature_map_has_the_size_of_the_image_over_its_stride(name, arch, output_stride):
    """MobileViTv2 makes the sizes of its maps even: 7 columns, of 200 pixels filled up to 224, became 8."""
    options = {"output_stride": output_stride} if arch in ATROUS else {}
    model = build_model(config.Model(arch=arch, encoder=name, weights="none", **options)).eval()
    shapes = []
    model.encoder.register_forward_hook(lambda _encoder, images, maps: shapes.append((images[0], maps)))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 300, 200)).shape[-2:] == (300, 200)
    ((images, maps),) = shapes
    sizes = torch.tensor([each.shape[-2:] for each in maps])
    strides = torch.tensor(images.shape[-2:]) / sizes
    expected = [min(stride, output_stride) for stride in (1, 2, 4, 8, 16, 32)]
    assert strides.tolist() == [[stride, stride] for stride in expected]


@pytest.mark.parametrize("name", sorted(encoder.VALID_KERNELS))
def test_kernels_without_padding_are_padded(name):
    """timm's own inception_resnet_v2 has maps of 61, 28, 13, 6 and 2 pixels here."""
    with torch.device("meta"), torch.no_grad():
        model = build_model(config.Model(arch="unetplusplus", encoder=f"tu-{name}", weights="none")).eval()
        maps = model.encoder(torch.zeros(1, 3, 128, 128))
        assert model(torch.zeros(1, 3, 128, 128)).shape == (1, 1, 128, 128)
    assert [each.shape[-1] for each in maps] == [128, 64, 32, 16, 8, 4]


@pytest.mark.parametrize("name", ["vit_small_patch8_224", "vit_tiny_patch16_224", "vit_small_patch32_224"])
def test_dpt_predicts_images_of_any_size_with_patches_of_any_size(name):
    """With patches of 8, 200 pixels filled up to a multiple of 16 failed: smp's coarsest map is always at stride 32."""
    with torch.device("meta"), torch.no_grad():
        model = build_model(config.Model(arch="dpt", encoder=f"tu-{name}", weights="none")).eval()
        assert model(torch.zeros(1, 3, 300, 200)).shape == (1, 1, 300, 200)
    assert model.net.stride == 32


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), r"phases\.0\.crop: 'tu-test_maxvit' takes images of one size.*set crop = 160, or data\.size = { exact"),
        (CROPS[:1], r"phases\.1\.crop: .*set crop = 32"),
        ((CROPS[0], "train.phases.1.crop=64"), r"phases\.1: images of 64×64 pixels, expected 32×32"),
        (
            (*CROPS, "predict.tiles={size=64,stride=48}"),
            r"predict\.tiles\.size is 64, but .* for .*32×32.*set 32",
        ),
        ((*CROPS, "model.img_size=64"), r"phases\.0: images of 32×32 pixels, expected 64×64"),
        (
            (*CROPS, "data.percentiles=[1,99]"),
            r"data\.percentiles needs the whole image, but .* tiles of 32×32",
        ),
        ((*CROPS, "predict.views=['scale_1.25']"), r"predict\.views: 'scale_1\.25' enlarges images of 32×32 pixels"),
        (
            ("train.phases.0.crop=50", "train.phases.1.crop=50"),
            r"'tu-test_maxvit' cannot be built for training images of 50×50 pixels: set crop = 32 or 64",
        ),
    ],
)
def test_options_that_contradict_the_size_of_the_encoder_are_refused(tiny, pairs, message):
    with pytest.raises(ValueError, match=message):
        stages.check(load(*pairs))


def test_a_size_for_an_encoder_that_takes_any_is_refused(tiny):
    with pytest.raises(ValueError, match=r"model\.img_size has no effect: 'tu-test_resnet' takes images of any size"):
        stages.check(load("model.img_size=64", name="tu-test_resnet"))


def test_an_encoder_whose_size_cannot_be_changed_takes_its_native_crop_only(tiny):
    crops = ("train.phases.0.crop=224", "train.phases.1.crop=224")
    assert sizes(load(*crops, name="tu-hiera_tiny_224")) == (None, Tiles(size=224, stride=168))
    with pytest.raises(ValueError, match=r"images of 32×32 pixels, expected 224×224: .*only images of its native size"):
        with_image_size(load(*CROPS, name="tu-hiera_tiny_224"))


@torch.inference_mode()
def test_smaller_images_are_filled_up_to_the_size_of_the_encoder():
    model = build_model(config.Model(encoder=ONE_SIZE, weights="none", img_size=64)).eval()
    images = torch.randint(0, 255, (1, 3, 40, 64), dtype=torch.uint8)
    logits = model(images)
    assert logits.shape == (1, 1, 40, 64)
    filled = torch.nn.functional.pad(images.float(), (0, 0, 12, 12), mode="reflect")
    torch.testing.assert_close(model(filled)[..., 12:52, :], logits)


@torch.inference_mode()
def test_swin_gives_the_same_features_with_and_without_the_option_for_any_size():
    name = "swin_tiny_patch4_window7_224"
    torch.manual_seed(0)
    fixed = timm.create_model(name, features_only=True).eval()
    flexible = timm.create_model(name, features_only=True, **encoder.ANY_SIZE).eval()
    flexible.load_state_dict(fixed.state_dict())
    images = torch.rand(1, 3, 224, 224)
    for one, other in zip(fixed(images), flexible(images), strict=True):
        torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_images_of_any_size_are_predicted_by_swin():
    model = build_model(config.Model(encoder="tu-swin_tiny_patch4_window7_224", weights="none")).eval()
    assert model(torch.zeros(1, 3, 70, 100, dtype=torch.uint8)).shape == (1, 1, 70, 100)


def saved(name: str, path: Path, **options: object) -> dict[str, torch.Tensor]:
    """Weights of timm's model at its native size, in a file."""
    torch.manual_seed(7)
    tensors = timm.create_model(name, pretrained=False, **options).state_dict()
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    return tensors


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about how timm interpolates
@pytest.mark.parametrize("name", ["test_maxvit", "test_coatnet"])
def test_weights_of_the_native_size_are_resampled_as_by_timm(name, tmp_path, caplog):
    path = tmp_path / "weights.safetensors"
    saved(name, path)
    cfg = config.Model(encoder=f"tu-{name}", weights=str(path), img_size=224)
    with caplog.at_level("INFO", logger="pipeline"):
        ours = build_model(cfg).encoder.model.state_dict()
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, features_only=True, img_size=224
    ).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not [line for line in caplog.messages if "starts at random" in line]


def test_weights_of_a_checkpoint_of_another_size_are_resampled_too(tmp_path, caplog):
    path = tmp_path / "weights.safetensors"
    save_file(build_model(config.Model(encoder=ONE_SIZE, weights="none")).state_dict(), path)
    with caplog.at_level("INFO", logger="pipeline"):
        build_model(config.Model(encoder=ONE_SIZE, weights=str(path), img_size=224))
    (said,) = caplog.messages
    found, expected = re.search(r"(\d+) of the (\d+) tensors of test_maxvit fit", said).groups()
    assert found == expected


def rows(path: Path) -> dict[str, str]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        (ONE_SIZE, CROPS),
        (ONE_SIZE, ("data.size={exact=[32,32]}",)),
        ("tu-test_vit", ()),
        ("mit_b0", ()),
    ],
    ids=["one size, tiles", "one size, whole images", "pyramid of a plain ViT", "SegFormer's encoder"],
)
def test_bundle_and_ensemble_write_the_same_csv(tiny, name, pairs):
    cfg = load(*pairs, name=name)
    done = stages.ensemble([cfg])
    write_weights(Path("bundle"), load_members([cfg]), done)
    predicted = predict_test(read_bundle(Path("bundle")), Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert predicted.problems == {}
    assert len(rows(done.csv)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [ONE_SIZE, "tu-test_vit", "mit_b0", "tu-swin_tiny_patch4_window7_224"])
def test_table_of_encoders_equals_a_probe(name):
    assert encoder.row(name) == encoder_table.probe(name)


@pytest.mark.slow
def test_table_of_encoders_equals_a_probe_of_random_models_of_timm():
    """Also of those that are not in the table."""
    names = [PREFIX + name for name in random.Random(0).sample(timm.list_models(), 40)]
    found = {name: encoder_table.probe(name) for name in names}
    assert {name: encoder.known().get(name) for name in names} == found
    assert None in found.values()


@pytest.mark.parametrize(
    "name", ["tu-vit_base_patch16_siglip_224", "tu-vit_large_patch14_clip_224", "tu-vit_base_r50_s16_224"]
)
def test_plain_vits_of_every_kind_have_a_pyramid(name):
    assert encoder.known()[name].supports == "unet dpt"


def test_tables_of_positions_that_an_image_leaves_are_found():
    """On the meta device every index is in range: MViTv2 seems to take images larger than its native size."""
    assert encoder_table.runs("mvitv2_tiny", [(288, 256)], "meta")
    assert not encoder_table.takes_any("mvitv2_tiny", [(288, 256)])
