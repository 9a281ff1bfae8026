"""DeepLabV3: dilation keeps the features of the undilated encoder, and the rates are those of the paper."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from pipeline import config
from pipeline.models import build_model, encoder
from pipeline.models.deeplabv3 import ASPP, conv_bn_relu, multiply_dilation

# Squeeze-and-excitation takes the mean of a feature map, which changes by 1 to 3 % with its number of pixels.
DILATED_EXACTLY = ["tu-resnet18", "tu-regnetx_002", "tu-mobilenetv2_035", "tu-test_convnext", "tu-convnext_atto"]


def build(arch: str, name: str = "tu-test_convnext", **choices) -> nn.Module:
    torch.manual_seed(0)
    return stir(build_model(config.Model(arch=arch, encoder=name, weights="none", **choices))).eval()


@torch.no_grad()
def stir(model: nn.Module) -> nn.Module:
    """Set random batch norm statistics, so that no layer is an identity."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(1 + 0.1 * torch.rand(module.num_features, generator=generator))
            nn.init.normal_(module.weight, 1, 0.3, generator=generator)
        if hasattr(module, "gamma"):  # ConvNeXt's layer scale
            nn.init.constant_(module.gamma, 0.5)
    return model


def atrous(module: nn.Module) -> list[int]:
    """Rates of the convolutions wider than 1×1, in the order of the module."""
    return [conv.dilation[0] for conv in module.modules() if encoder.is_spatial(conv)]


def test_rates_of_the_cascade_equal_the_papers():
    # Stride 16: block4 has rate 2, block5 to block7 have 4, 8, 16, each times the grid 1, 2, 4. The first unit of
    # block4 keeps rate 1, because the removed stride is its own.
    with torch.device("meta"):
        model = build_model(config.Model(arch="deeplabv3_cascade", encoder="tu-resnet50", weights="none"))
    assert atrous(model.encoder.model.layer4) == [1, 4, 8]
    assert [atrous(block) for block in model.net.context] == [[4, 8, 16], [8, 16, 32], [16, 32, 64]]


def test_all_rates_double_at_stride_8():
    with torch.device("meta"):
        at = {
            stride: build_model(
                config.Model(
                    weights="none",
                    arch="deeplabv3_cascade",
                    encoder="tu-resnet50",
                    output_stride=stride,
                    multi_grid=(1, 2, 1),
                )
            )
            for stride in (16, 8)
        }
    assert atrous(at[8].encoder.model.layer4) == [2 * rate for rate in atrous(at[16].encoder.model.layer4)] == [2, 8, 4]
    assert atrous(at[8].net.context) == [2 * rate for rate in atrous(at[16].net.context)]


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_rates_of_the_pyramid_equal_the_papers(stride, rates):
    assert atrous(build("deeplabv3_aspp", output_stride=stride).net.context) == rates


def test_pyramid_dilates_block4_only_if_configured():
    plain = build("deeplabv3_aspp")
    dilated = encoder.build(config.Model(encoder="tu-test_convnext", weights="none"), 16)
    assert atrous(plain.encoder) == atrous(dilated)
    assert atrous(build("deeplabv3_aspp", multi_grid=(1, 3)).encoder)[-2:] == [2, 6]


def test_blocks_of_the_cascade_start_as_copies_of_the_last_block_of_block4():
    model = build_model(config.Model(arch="deeplabv3_cascade", encoder="tu-resnet18", weights="none"))
    last = model.encoder.model.layer4[-1].state_dict()
    units = [unit for block in model.net.context for unit in block]
    assert len(units) == 9
    for unit in units:
        assert all(torch.equal(weight, last[name]) for name, weight in unit.state_dict().items())


def test_cascade_projects_a_wider_last_block_to_its_input_channels():
    # EfficientNet-B0 ends with one block from 192 to 320 channels; the repeated blocks before it have 192.
    lead, *blocks = build("deeplabv3_cascade", "tu-efficientnet_b0").net.context
    assert lead[0].in_channels == 320
    assert lead[0].out_channels == 192
    assert len(blocks) == 3


@pytest.mark.parametrize("name", DILATED_EXACTLY)
@pytest.mark.parametrize("stride", [8, 16])
@torch.no_grad()
def test_a_dilated_encoder_contains_the_features_of_the_undilated_one(name, stride):
    # Strides replaced by dilation: with the same weights, every (32 / stride)th feature is the same.
    cfg = config.Model(encoder=name, weights="none")
    plain, dilated = stir(encoder.build(cfg)).eval().double(), encoder.build(cfg, stride).eval().double()
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 128, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, fine = plain(images)[-1], dilated(images)[-1]
    assert fine.shape[-1] == 96 // stride
    torch.testing.assert_close(fine[..., :: 32 // stride, :: 32 // stride], coarse, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["tu-test_convnext", "tu-resnet18"])
@torch.no_grad()
def test_a_cascade_trained_at_stride_16_gives_the_same_scores_at_stride_8(name):
    trained, finer = (build("deeplabv3_cascade", name, output_stride=stride) for stride in (16, 8))
    finer.load_state_dict(trained.state_dict())
    trained, finer = trained.double(), finer.double()
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, fine = (model.net.context(model.encoder(images)[-1]) for model in (trained, finer))
    torch.testing.assert_close(fine[..., ::2, ::2], coarse, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_a_pyramid_trained_at_stride_16_uses_the_same_pixels_at_stride_8():
    trained, finer = (build("deeplabv3_aspp", output_stride=stride) for stride in (16, 8))
    finer.load_state_dict(trained.state_dict())
    trained, finer = trained.double(), finer.double()
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, fine = (model.encoder(images)[-1] for model in (trained, finer))
    for branch, wider in zip(trained.net.context.atrous, finer.net.context.atrous, strict=True):
        torch.testing.assert_close(wider(fine)[..., ::2, ::2], branch(coarse), rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_pyramid_equals_that_of_smp_with_the_same_weights_and_rates():
    rates = (12, 24, 36)
    theirs = stir(smp.DeepLabV3("tu-test_resnet", encoder_weights=None, decoder_atrous_rates=rates)).eval().decoder.aspp
    ours = ASPP(96, 256, rates).eval()
    names = {
        "convs.0": "pixel",
        "convs.1": "atrous.0",
        "convs.2": "atrous.1",
        "convs.3": "atrous.2",
        "project": "project",
    }
    renamed = {}
    for key, weight in theirs.state_dict().items():
        if key.startswith("convs.4."):  # in smp the pooling has index 0 in the branch
            layer, _, rest = key.removeprefix("convs.4.").partition(".")
            renamed[f"image.1.{int(layer) - 1}.{rest}"] = weight
        else:
            branch = next(name for name in names if key.startswith(name + "."))
            renamed[key.replace(branch, names[branch], 1)] = weight
    ours.load_state_dict(renamed)
    features = torch.randn(2, 96, 14, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [1, 6, 18])
def test_an_atrous_branch_uses_nine_pixels_one_rate_apart(rate):
    features = torch.zeros(1, 1, 45, 45, requires_grad=True)
    branch = conv_bn_relu(1, 1, 3, rate).eval()[0]
    nn.init.ones_(branch.weight)
    branch(features)[0, 0, 22, 22].backward()
    places = {(22 + down * rate, 22 + across * rate) for down in (-1, 0, 1) for across in (-1, 0, 1)}
    assert set(map(tuple, features.grad[0, 0].nonzero().tolist())) == places


def test_the_image_level_branch_uses_all_pixels():
    features = torch.rand(1, 4, 9, 9, requires_grad=True)
    pyramid = ASPP(4, 8, (2, 3, 4)).eval()
    pyramid.image(features).sum().backward()
    assert features.grad.abs().sum(dim=1).all()


def test_all_branches_have_batch_norm():
    pyramid = ASPP(4, 8, (2, 3, 4))
    convolutions = [module for module in pyramid.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in pyramid.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 6
    assert all(conv.bias is None for conv in convolutions)


def test_multiplying_rates_keeps_the_size_and_does_not_change_1x1_convolutions():
    block = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 5, padding=4, dilation=2))
    multiply_dilation(block, 3)
    assert [layer.dilation[0] for layer in block] == [3, 1, 6]
    assert block(torch.zeros(1, 1, 20, 20)).shape == (1, 1, 20, 20)


@pytest.mark.slow
def test_blocks_of_the_last_stage_are_found_in_every_encoder_family():
    found = {
        name: encoder.last_stage_blocks(encoder.build(config.Model(encoder=name, weights="none"), 16))
        for name in ("tu-resnet50", "tu-seresnext26d_32x4d", "tu-convnext_atto", "tu-regnety_004", "tu-efficientnet_b1")
    }
    assert {name: (len(units), units[-1].channels) for name, units in found.items()} == {
        "tu-resnet50": (3, 2048),
        "tu-seresnext26d_32x4d": (2, 2048),
        "tu-convnext_atto": (2, 320),
        "tu-regnety_004": (6, 440),
        "tu-efficientnet_b1": (2, 320),
    }
