"""Models: any size in, the same size out; what cannot be built is refused in words."""

import pytest
import torch
from safetensors.torch import save_file

from pipeline import config, models
from pipeline.models import ARCHITECTURES, build_model, check_model, encoder, survey
from pipeline.models.segmenter import pad_to_stride

SMALL = {"decoder_channels": (16, 16, 8, 8, 8)}
ENCODERS = ["tu-test_resnet", "tu-test_efficientnet", "tu-test_convnext"]


def build(**choices):
    torch.manual_seed(0)
    return build_model(config.Model(**{"encoder": "tu-test_efficientnet", **SMALL, **choices})).eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(64, 64), (101, 101), (37, 130)])
@torch.inference_mode()
def test_logits_have_the_size_of_the_image(name, size):
    images = torch.randint(0, 255, (2, 3, *size), dtype=torch.uint8)
    assert build(encoder=name)(images).shape == (2, 1, *size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [1, 4])
@torch.inference_mode()
def test_channels_and_classes(channels, classes):
    images = torch.zeros(1, channels, 64, 64, dtype=torch.uint8)
    assert build(in_channels=channels, classes=classes)(images).shape == (1, classes, 64, 64)


def test_scse_attention_adds_its_gates():
    gates = [
        name for name, _ in build(attention="scse", decoder_channels=(16,) * 5).named_modules() if name.endswith("cSE")
    ]
    assert len(gates) > 0
    assert not [name for name, _ in build().named_modules() if name.endswith("cSE")]


@torch.inference_mode()
def test_bytes_and_floats_mean_the_same():
    model, images = build(), torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float()))


def test_a_seed_gives_the_same_weights():
    for one, other in zip(build().state_dict().values(), build().state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_image_is_normalised_by_the_encoders_own_numbers():
    mean, std = encoder.normalisation("tu-resnet18", 3)
    assert mean.flatten() / 255 == pytest.approx([0.485, 0.456, 0.406])
    assert std.flatten() / 255 == pytest.approx([0.229, 0.224, 0.225])
    assert encoder.normalisation("tu-resnet18", 1)[0].item() / 255 == pytest.approx(0.449)


@pytest.mark.parametrize("size", [(101, 101), (3, 200), (64, 64)])
def test_padding_reaches_the_stride_and_keeps_the_middle(size):
    images = torch.rand(1, 1, *size)
    padded, (top, left) = pad_to_stride(images, 32)
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    assert torch.equal(padded[..., top : top + size[0], left : left + size[1]], images)


def test_tgs_images_are_padded_by_13_and_14():
    assert pad_to_stride(torch.rand(1, 1, 101, 101), 32)[1] == (13, 13)


def test_local_weights_reach_the_encoder(tmp_path):
    import timm

    torch.manual_seed(7)
    theirs = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    save_file(theirs, tmp_path / "weights.safetensors")
    model = build(weights=str(tmp_path / "weights.safetensors"))
    ours = model.encoder.state_dict()
    stem = next(name for name in ours if name.endswith("conv_stem.weight"))
    assert torch.equal(ours[stem], theirs["conv_stem.weight"])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"arch": "unett"}, r"unknown arch 'unett'. Did you mean 'unet'\?"),
        ({"encoder": "resnet34"}, r"unknown encoder 'resnet34'. Did you mean 'tu-resnet34'\?"),
        ({"encoder": "tu-resnet43"}, r"unknown encoder 'tu-resnet43'. Did you mean 'tu-resnet\d+'\?"),
        ({"encoder": "zzzzzz"}, r"List them with `python -m pipeline encoders"),
        ({"encoder": "tu-vit_base_patch16_224"}, r"gives no pyramid of features at strides 2 to 32.*resnet"),
        ({"encoder": "tu-vit_base_patch14_dinov2"}, r"gives no pyramid of features at strides 2 to 32.*resnet"),
        ({"attention": "scse", "decoder_channels": (32, 16, 8)}, "scse squeezes channels 16 to 1"),
        ({"encoder": "tu-botnet26t_256"}, r"takes images of 256×256 pixels only"),
    ],
)
def test_what_cannot_be_built_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        check_model(config.Model(**choices))


def test_missing_weights_say_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"no file 'gone\.safetensors'.*'none', 'imagenet' or the path"):
        build(weights="gone.safetensors")


def test_imagenet_weights_without_network_say_what_to_do():
    with pytest.raises(ConnectionError, match=r"could not be fetched.*model\.weights"):
        build(encoder="tu-resnet18", weights="imagenet", decoder_channels=(256, 128, 64, 32, 16))


@pytest.mark.parametrize(
    "name", [*ENCODERS, "tu-resnet34", "tu-seresnext50_32x4d", "tu-efficientnet_b0", "tu-hrnet_w18", "tu-test_vit"]
)
def test_table_of_encoders_says_what_a_probe_finds(name):
    assert encoder.known()[name] == survey.probe(name)


def test_table_lists_the_families_by_name():
    names = encoder.known()
    assert len(names) > 900
    for family in ("tu-resnet50", "tu-seresnext101_32x4d", "tu-efficientnet_b5", "tu-convnext_small"):
        assert names[family].serves == "unet fcn deeplabv3 cascade"
        assert names[family].strides == "8 16 32"
    assert names["tu-vit_base_patch16_224"].serves == "dpt"
    assert names["tu-densenet121"].serves == "unet fcn"


def test_every_demand_is_served_and_every_service_demanded():
    assert {word for row in encoder.known().values() for word in row.serves.split()} == set(encoder.DEMANDS)
    assert {architecture.demand for architecture in ARCHITECTURES.values()} == set(encoder.DEMANDS)


@pytest.mark.parametrize("demand", encoder.DEMANDS)
def test_families_named_in_a_refusal_work(demand):
    _, families = encoder.DEMANDS[demand]
    for family in families.split(", "):
        serving = [row for row in encoder.known().values() if row.name.startswith(f"tu-{family}")]
        assert any(demand in row.serves.split() for row in serving), family


def test_a_model_that_cannot_be_built_without_memory_is_built_with_it(monkeypatch):
    build, places = models._build, []

    def built(cfg):
        places.append(torch.get_default_device().type)
        if places[-1] == "meta":
            raise NotImplementedError("no meta kernel")
        return build(cfg)

    monkeypatch.setattr(models, "_build", built)
    models.check_model(config.Model(encoder="tu-test_resnet"))
    assert places == ["meta", "cpu"]
