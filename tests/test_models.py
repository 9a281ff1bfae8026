"""Models: any image size, pretrained weights, and refused options."""

import os
import re

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from pipeline import config, models
from pipeline.models import ARCHITECTURES, build_model, check_model, encoder, encoder_table
from pipeline.models.segmenter import pad_to_stride

SMALL = {"decoder_channels": (16, 16, 8, 8, 8)}
ENCODERS = ["tu-test_resnet", "tu-test_efficientnet", "tu-test_convnext"]


def build(**choices):
    torch.manual_seed(0)
    return build_model(
        config.Model(**{"encoder": "tu-test_efficientnet", "weights": "none", **SMALL, **choices})
    ).eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(64, 64), (101, 101), (37, 130)])
@torch.inference_mode()
def test_logits_have_the_size_of_the_image(name, size):
    images = torch.randint(0, 255, (2, 3, *size), dtype=torch.uint8)
    assert build(encoder=name)(images).shape == (2, 1, *size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [1, 4])
@torch.inference_mode()
def test_models_accept_any_number_of_channels_and_classes(channels, classes):
    images = torch.zeros(1, channels, 64, 64, dtype=torch.uint8)
    assert build(in_channels=channels, classes=classes)(images).shape == (1, classes, 64, 64)


def test_scse_attention_adds_its_modules():
    gates = [
        name for name, _ in build(attention="scse", decoder_channels=(16,) * 5).named_modules() if name.endswith("cSE")
    ]
    assert len(gates) > 0
    assert not [name for name, _ in build().named_modules() if name.endswith("cSE")]


@torch.inference_mode()
def test_uint8_and_float_images_give_the_same_logits():
    model, images = build(), torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(model(images), model(images.float()))


def test_a_seed_gives_the_same_weights():
    for one, other in zip(build().state_dict().values(), build().state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_images_are_normalised_by_the_mean_and_std_of_the_encoder():
    mean, std = encoder.normalization("tu-resnet18", 3)
    assert mean.flatten() / 255 == pytest.approx([0.485, 0.456, 0.406])
    assert std.flatten() / 255 == pytest.approx([0.229, 0.224, 0.225])
    assert encoder.normalization("tu-resnet18", 1)[0].item() / 255 == pytest.approx(0.449)


@pytest.mark.parametrize("size", [(101, 101), (3, 200), (64, 64)])
def test_padding_gives_a_multiple_of_the_stride_with_the_image_inside(size):
    images = torch.rand(1, 1, *size)
    padded, (top, left) = pad_to_stride(images, 32)
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    assert torch.equal(padded[..., top : top + size[0], left : left + size[1]], images)


def test_tgs_images_are_padded_by_13_and_14():
    assert pad_to_stride(torch.rand(1, 1, 101, 101), 32)[1] == (13, 13)


def theirs(name="test_efficientnet", **options):
    """Weights in the format of timm, with another seed than `build`."""
    torch.manual_seed(7)
    return timm.create_model(name, pretrained=False, **options).state_dict()


def renamed(tensors, rename):
    return {rename(key): value.clone() for key, value in tensors.items()}


def of_smp():
    """The same weights in the format of smp's encoder: "model.blocks_0" for "blocks.0"."""
    keys, tensors = smp.encoders.get_encoder("tu-test_efficientnet", weights=None).state_dict(), theirs()
    return {key: tensors[key.removeprefix("model.").replace("blocks_", "blocks.")] for key in keys}


def of_checkpoint():
    keys = build().state_dict()
    ours = {f"net.encoder.{key}": value for key, value in of_smp().items()}
    return {key: ours.get(key, value) for key, value in keys.items()}


FILES = {
    "timm": theirs,
    "smp's encoder": of_smp,
    "smp's whole model": lambda: renamed(of_smp(), "encoder.{}".format) | {"decoder.blocks.0.weight": torch.ones(3)},
    "a checkpoint of this pipeline": of_checkpoint,
    "DistributedDataParallel": lambda: renamed(theirs(), "module.{}".format),
    "torch.compile": lambda: renamed(theirs(), "_orig_mod.{}".format),
    "both, and a model around it": lambda: renamed(theirs(), "_orig_mod.module.model.{}".format),
    "a backbone": lambda: renamed(theirs(), "backbone.{}".format) | {"neck.conv.weight": torch.ones(3)},
    "without a classifier": lambda: {key: value for key, value in theirs().items() if "classifier" not in key},
    "without counters": lambda: {key: value for key, value in theirs().items() if "num_batches" not in key},
}


@pytest.mark.parametrize("writer", FILES)
def test_local_weights_of_every_format_are_loaded_into_the_encoder(writer, tmp_path, caplog):
    save_file(FILES[writer](), tmp_path / "weights.safetensors")
    with caplog.at_level("INFO", logger="pipeline"):
        ours = build(weights=str(tmp_path / "weights.safetensors")).encoder.state_dict()
    expected = of_smp()
    assert expected.keys() == ours.keys()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    (said,) = caplog.messages
    count = len([key for key in expected if "num_batches" not in key])
    assert f"{count} of the {count} tensors of test_efficientnet fit" in said


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("wrap", [dict, lambda tensors: {"state_dict": tensors, "epoch": 3}, lambda t: {"model": t}])
def test_weights_saved_by_torch_are_read(suffix, wrap, tmp_path):
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(theirs()), path)
    assert torch.equal(build(weights=str(path)).encoder.state_dict()["model.conv_stem.weight"], STEM())


def STEM():  # noqa: N802 - reads as the value it is
    return theirs()["conv_stem.weight"]


class Code:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def test_a_weights_file_with_code_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv_stem.weight": Code()}, "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt has Python objects beside tensors.*execute code: save the"):
        build(weights="weights.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "w.pth is empty: get the file again"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", r"is a pointer of Git LFS: .*git lfs pull"),
        ("w.pt", b"\n<!DOCTYPE html><html>", "is a web page or XML: get the file again"),
        ("w.onnx", b"\x08\x07onnx", r"cannot be read \(it begins with b'\\x08\\x07onnx'\): expected a \.safetensors"),
        ("w.pt", b"PK\x03\x04" + bytes(99), r"cannot be read \(.*\): expected a \.safetensors file, or a state dict"),
    ],
)
def test_a_file_that_is_no_weights_says_what_it_is(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"model\.weights: .*{message}") as error:
        build(weights=str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_safetensors_file_is_read_under_any_name(tmp_path):
    save_file(theirs(), tmp_path / "weights.pth")
    ours = build(weights=str(tmp_path / "weights.pth")).encoder.state_dict()
    assert torch.equal(ours["model.conv_stem.weight"], STEM())


@pytest.mark.parametrize(
    ("channels", "by_hand"), [(1, lambda w: w.sum(1, keepdim=True)), (4, lambda w: w[:, [0, 1, 2, 0]] * 0.75)]
)
def test_weights_for_three_channels_are_adapted_to_other_numbers(channels, by_hand, tmp_path):
    save_file(theirs(), tmp_path / "weights.safetensors")
    ours = build(weights=str(tmp_path / "weights.safetensors"), in_channels=channels).encoder.state_dict()
    torch.testing.assert_close(ours["model.conv_stem.weight"], by_hand(STEM()))


@pytest.mark.parametrize("arch", ["fpn", "unetplusplus", "deeplabv3plus", "fcn8s"])
def test_local_weights_are_loaded_into_the_encoder_of_every_architecture(arch, tmp_path):
    tensors = theirs("test_resnet")
    save_file(tensors, tmp_path / "weights.safetensors")
    cfg = config.Model(arch=arch, encoder="tu-test_resnet", weights=str(tmp_path / "weights.safetensors"))
    model = build_model(cfg)
    assert torch.equal(model.encoder.state_dict()["model.conv1.0.weight"], tensors["conv1.0.weight"])


def test_repeated_blocks_of_a_cascade_start_with_the_weights_of_the_file(tmp_path):
    tensors = theirs("resnet18")
    save_file(tensors, tmp_path / "weights.safetensors")
    cfg = config.Model(arch="deeplabv3_cascade", encoder="tu-resnet18", weights=str(tmp_path / "weights.safetensors"))
    copied = [value for key, value in build_model(cfg).net.context.state_dict().items() if key.endswith("conv2.weight")]
    assert copied
    assert all(torch.equal(value, tensors["layer4.1.conv2.weight"]) for value in copied)


def test_local_weights_are_loaded_into_a_vision_transformer(tmp_path):
    tensors = theirs("test_vit")
    save_file(tensors, tmp_path / "weights.safetensors")
    model = build(
        arch="dpt",
        encoder="tu-test_vit",
        weights=str(tmp_path / "weights.safetensors"),
        decoder_channels=config.Model().decoder_channels,
    )
    ours = model.encoder.state_dict()
    found = next(value for key, value in ours.items() if key.endswith("blocks.0.attn.qkv.weight"))
    assert torch.equal(found, tensors["blocks.0.attn.qkv.weight"])


def test_an_official_checkpoint_is_converted_like_in_timm(tmp_path):
    """ConvNeXt's authors use other names: downsample_layers, dwconv, pwconv1."""
    tensors = theirs("test_convnext")
    words = {
        "stem.": "downsample_layers.0.",
        "conv_dw": "dwconv",
        "mlp.fc": "pwconv",
        ".blocks.": ".",
        "head.fc.": "head.",
    }

    def official(key):
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key).replace("head.norm.", "norm.")
        for ours, theirs_ in words.items():
            key = key.replace(ours, theirs_)
        return key

    save_file(renamed(tensors, official), tmp_path / "weights.safetensors")
    ours = build(encoder="tu-test_convnext", weights=str(tmp_path / "weights.safetensors")).encoder.state_dict()
    assert torch.equal(ours["model.stages_0.blocks.0.conv_dw.weight"], tensors["stages.0.blocks.0.conv_dw.weight"])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            lambda: renamed(theirs(), "tower.{}".format),
            r"0 of the \d+ tensors of test_efficientnet fit, .* expected: 'model\.conv_stem\.weight' .*'tower\.\w",
        ),
        (
            lambda: theirs("test_resnet"),
            r"First expected: 'model\.conv_stem\.weight' .*first found: 'bn1\.\w+' .*another model",
        ),
        (lambda: dict(list(of_smp().items())[:60]), r"of the \d+ tensors .* fit, expected 90 %"),
    ],
)
def test_a_weights_file_with_other_or_missing_tensors_is_refused(tensors, message, tmp_path):
    save_file(tensors(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        build(weights=str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("larger", "own"),
    [
        ("resnet34", "resnet18"),
        ("seresnet18", "resnet18"),
        ("resnet50", "resnet50_gn"),
        ("regnety_120", "regnetx_120"),  # squeeze-and-excitation, in blocks without a number of their own
        ("convnext_small", "convnext_tiny"),
        ("deit3_small_patch16_224", "deit_small_patch16_224"),  # with layer scale
    ],
)
def test_weights_of_a_model_with_more_layers_are_refused_though_all_tensors_fit(larger, own, tmp_path):
    save_file(timm.create_model(larger).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=rf"weights in stages of {own} that {own} does not have, first '.*another mod"):
        build(encoder=f"tu-{own}", weights=str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("name", ["ghostnet_050", "mobilenetv3_small_050", "mobilenetv1_100h"])
def test_layers_after_the_last_map_are_no_reason_to_refuse_a_file(name, tmp_path):
    save_file(timm.create_model(name).state_dict(), tmp_path / "weights.safetensors")
    build(encoder=f"tu-{name}", weights=str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("dla34", ["level3.project.0.weight", "level3.project.1.bias"]),  # of the official files, which never used them
        ("resnet18", ["layer0.0.weight", "layer1_up.0.weight", "decoder.layer1.0.conv3.weight", "0.weight"]),
    ],
)
def test_tensors_outside_the_stages_of_an_encoder_are_ignored(name, others, tmp_path):
    tensors = timm.create_model(name).state_dict() | dict.fromkeys(others, torch.zeros(3))
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "weights.safetensors")
    build(encoder=f"tu-{name}", weights=str(tmp_path / "weights.safetensors"))


def test_a_tensor_missing_from_a_weights_file_is_named(tmp_path, caplog):
    tensors = theirs()
    del tensors["conv_stem.weight"]
    save_file(tensors, tmp_path / "weights.safetensors")
    build(weights=str(tmp_path / "weights.safetensors"))
    assert "has no 'model.conv_stem.weight' (24, 3, 3, 3): it starts at random" in caplog.text


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_initial_weights_are_refused_with_the_file(number, tmp_path):
    tensors = theirs()
    tensors["conv_stem.weight"][0, 0, 0, 0] = number
    save_file(tensors, tmp_path / "weights.safetensors")
    message = (
        r"^model\.weights: .*weights\.safetensors: 1 of the \d+ numbers of 'model\.conv_stem\.weight' are not finite"
    )
    with pytest.raises(ValueError, match=message):
        build(weights=str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"arch": "unett"}, r"unknown arch 'unett'. Did you mean 'unet'\?"),
        ({"encoder": "resnet34"}, r"unknown encoder 'resnet34'. Did you mean 'tu-resnet34'\?"),
        ({"encoder": "tu-resnet43"}, r"unknown encoder 'tu-resnet43'. Did you mean 'tu-resnet\d+'\?"),
        ({"encoder": "zzzzzz"}, r"List them with `python -m pipeline encoders"),
        ({"encoder": "tu-beit_base_patch16_224"}, r"gives no pyramid of features at strides 2 to 32.*resnet"),
        ({"arch": "fcn8s", "encoder": "tu-test_vit"}, r"'tu-test_vit' gives no features at strides 8, 16 and 32"),
        ({"arch": "unetplusplus", "encoder": "mit_b0"}, r"'mit_b0' cannot feed unetplusplus"),
        ({"attention": "scse", "decoder_channels": (32, 16, 8)}, "scse reduces channels 16 to 1"),
    ],
)
def test_invalid_model_options_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        check_model(config.Model(**{"encoder": "tu-resnet34", "weights": "none", **choices}))


def test_a_missing_weights_file_is_refused_with_the_valid_values():
    with pytest.raises(
        FileNotFoundError, match=r"no file 'gone\.safetensors': expected .imagenet., .none., .run:<config>., or a file"
    ):
        build(weights="gone.safetensors")


def test_imagenet_weights_without_network_are_refused_with_an_alternative():
    with pytest.raises(
        ConnectionError,
        match=r"model\.weights: resnet18\.a1_in1k could not be downloaded \(OfflineModeIsEnabled.*set a file, or",
    ):
        build(encoder="tu-resnet18", weights="imagenet", decoder_channels=(256, 128, 64, 32, 16))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*ENCODERS, "tu-resnet34", "tu-seresnext50_32x4d", "tu-efficientnet_b0", "tu-hrnet_w18", "tu-test_vit"]
)
def test_table_of_encoders_equals_a_probe(name):
    assert encoder.known()[name] == encoder_table.probe(name)


def test_table_of_encoders_contains_the_known_families():
    names = encoder.known()
    assert len(names) > 900
    for family in ("tu-resnet50", "tu-seresnext101_32x4d", "tu-efficientnet_b5", "tu-convnext_small"):
        assert names[family].supports == "unet fcn deeplabv3 cascade"
        assert names[family].strides == "8 16 32"
    assert names["tu-test_vit"].supports == "unet dpt"
    assert names["tu-densenet121"].supports == "unet fcn"


def test_every_requirement_is_supported_by_an_encoder_and_used_by_an_architecture():
    assert {word for row in encoder.known().values() for word in row.supports.split()} == set(encoder.REQUIREMENTS)
    assert {architecture.requires for architecture in ARCHITECTURES.values()} == set(encoder.REQUIREMENTS)


@pytest.mark.parametrize("requires", encoder.REQUIREMENTS)
def test_families_suggested_in_an_error_support_the_requirement(requires):
    _, families = encoder.REQUIREMENTS[requires]
    for family in families.split(", "):
        serving = [row for row in encoder.known().values() if row.name.startswith(f"tu-{family}")]
        assert any(requires in row.supports.split() for row in serving), family


def test_a_model_that_cannot_be_built_on_the_meta_device_is_built_on_the_cpu(monkeypatch):
    build, places = models._build, []

    def built(cfg):
        places.append(torch.get_default_device().type)
        if places[-1] == "meta":
            raise NotImplementedError("no meta kernel")
        return build(cfg)

    monkeypatch.setattr(models, "_build", built)
    models.check_model(config.Model(encoder="tu-test_resnet", weights="none"))
    assert places == ["meta", "cpu"]
