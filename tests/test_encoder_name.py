"""Encoders with the tag of their weights: the same architecture, and the normalization of that tag."""

import pytest
import timm
import torch

from pipeline import config
from pipeline.models import build_model, check_model, encoder, encoder_name, for_prediction
from pipeline.models.encoder_name import parse
from pipeline.training.optimizer import encoder_layers

MODEL, TAGGED = "tu-resnet18d", "tu-resnet18d.ra4_e3600_r224_in1k"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("tu-resnet18", ("tu-", "resnet18", "")),
        ("tu-convnext_nano.in12k_ft_in1k", ("tu-", "convnext_nano", "in12k_ft_in1k")),
        ("mit_b0", ("", "mit_b0", "")),
    ],
)
def test_a_name_has_prefix_model_and_tag(name, parts):
    assert parse(name) == parts


def test_every_name_with_weights_in_timm_is_read_as_timm_reads_it():
    for name in timm.list_pretrained():
        found = parse(f"tu-{name}")
        assert (found.model, found.tag) == timm.models.split_model_name_tag(name)
        assert found.timm == name
        assert found.tag in encoder_name.tags(found.model)


def test_the_default_is_the_first_tag():
    for model in ("resnet18", "convnext_nano", "tf_efficientnet_lite0"):
        tag = next(iter(encoder_name.tags(model)))
        assert encoder_name.pretrained_cfg(parse(model)) == encoder_name.pretrained_cfg(parse(f"{model}.{tag}"))


def test_encoders_of_one_size_have_weights_of_one_size():
    # The table has the native size of the default weights alone, and a plain vision transformer's positions are of it.
    for name, row in encoder.known().items():
        if row.image_size != "any" or encoder.is_plain_vit(name):
            sizes = {tag: weights.input_size for tag, weights in encoder_name.tags(parse(name).model).items()}
            assert len(set(sizes.values())) <= 1, (name, sizes)


def test_the_images_are_normalized_as_for_the_weights_of_the_tag():
    by_hand = {
        MODEL: (0.485, 0.229),
        "tu-resnet18d.ra2_in1k": (0.485, 0.229),
        TAGGED: (0.5, 0.5),
        "tu-vit_base_patch16_224": (0.5, 0.5),
        "tu-vit_base_patch16_224.dino": (0.485, 0.229),
        "tu-mobilenetv3_large_100.miil_in21k": (0.0, 1.0),
    }
    for name, red in by_hand.items():
        found = [each[0, 0, 0, 0].item() / 255 for each in encoder.normalization(name, 3)]
        assert found == pytest.approx(red), name


@pytest.mark.parametrize(
    "name", ["tu-resnet18.a1_in1k", "tu-convnext_nano.in12k_ft_in1k", "tu-vit_small_patch16_dinov3.lvd1689m"]
)
def test_encoders_with_a_tag_are_accepted(name):
    check_model(config.Model(encoder=name, weights="none", arch="fpn"))


def test_a_tag_changes_the_normalization_and_nothing_else():
    weights = []
    for name in (TAGGED, MODEL):
        torch.manual_seed(0)
        cfg = config.Model(encoder=name, weights="none")
        check_model(cfg)
        weights.append(build_model(cfg).state_dict())
    tagged, plain = weights
    assert {key for key in plain if not torch.equal(plain[key], tagged[key])} == {"mean", "std"}
    assert encoder_layers(TAGGED) == encoder_layers(MODEL)


def test_dilation_is_checked_by_the_architecture():
    check_model(config.Model(arch="deeplabv3_aspp", encoder="tu-resnet18.a1_in1k", output_stride=8, weights="none"))
    with pytest.raises(ValueError, match=r"'tu-densenet121\.ra_in1k' cannot keep an output stride of 8 or 16"):
        check_model(config.Model(arch="deeplabv3_aspp", encoder="tu-densenet121.ra_in1k", weights="none"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tu-resnet18.a2_in1", r"timm has no weights 'a2_in1' of resnet18\. Nearest first: a2_in1k, .*gluon_in1k"),
        ("tu-botnet50ts_256.in1k", r"timm has no weights 'in1k' of botnet50ts_256\. It has none .*'tu-botnet50ts_256'"),
        ("tu-resnt18.a1_in1k", r"unknown encoder 'tu-resnt18\.a1_in1k'\. Did you mean 'tu-resnet18'\?"),
        ("timm/resnet18.a1_in1k", r"unknown encoder 'timm/resnet18\.a1_in1k'\. Did you mean 'tu-resnet18\.a1_in1k'\?"),
        ("tu-resnet18.a1_in1k.", r"unknown encoder .*\. Did you mean 'tu-resnet18\.a1_in1k'\?"),
        ("resnet18.nosuch", r"unknown encoder .*\. Did you mean 'tu-resnet18'\?"),
        ("tu-resnet18.", r"unknown encoder 'tu-resnet18\.'\. Did you mean 'tu-resnet18'\?"),
        ("beit_base_patch16_224", "'beit_base_patch16_224' gives no pyramid of features"),
        ("resnet18.a1_in1k", r"Did you mean 'tu-resnet18\.a1_in1k'\?"),
    ],
)
def test_an_unknown_name_or_tag_is_refused_with_those_that_exist(name, message):
    with pytest.raises(ValueError, match=rf"^model\.encoder: .*{message}"):
        check_model(config.Model(encoder=name, weights="none"))


def test_prediction_does_not_need_the_tag():
    # The checkpoint has mean and standard deviation, and another version of timm may not know the tag.
    cfg = config.load("configs/demo.toml", ["model.encoder=tu-resnet18.a1_in1k", "model.weights=imagenet"])
    assert for_prediction(cfg).encoder == "tu-resnet18"
    assert {"mean", "std"} <= build_model(for_prediction(cfg)).state_dict().keys()
