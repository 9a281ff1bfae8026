"""Plain vision transformers in U-Net and FPN: the levels of the pyramid lie where the image's pixels are."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.patch_embed import resample_patch_embed
from torch.nn.functional import interpolate

from pipeline import config
from pipeline.models import build_model
from pipeline.models.vit_pyramid import WIDTHS, PlainViT, Pyramid, patch_size, size_options


def pyramid(stride: int = 16, channels: int = 32) -> Pyramid:
    torch.manual_seed(0)
    return Pyramid(channels, stride).eval()


def levels(model: Pyramid, features: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return model([torch.zeros(1, 3, 0, 0), features])[1:]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_levels_have_strides_2_to_32_for_patches_of_every_size(stride):
    found = levels(pyramid(stride), torch.rand(1, 32, 128 // stride, 64 // stride))
    assert [tuple(each.shape) for each in found] == [
        (1, width, 128 // s, 64 // s) for width, s in zip(WIDTHS, (2, 4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("level", range(5))
def test_a_patch_reaches_only_the_positions_that_it_covers(level):
    """One changed patch of 16 pixels at rows 32 … 47 and columns 64 … 79 changes exactly these pixels of each level."""
    one = torch.rand(1, 32, 6, 8)
    other = one.clone()
    other[..., 2, 4] += 10
    before, after = (levels(pyramid(), each)[level] for each in (one, other))
    changed = (before != after).any(dim=1)[0].nonzero()
    stride = 2 ** (level + 1)
    rows, columns = range(32 // stride, max(48 // stride, 32 // stride + 1)), range(64 // stride, -(-80 // stride))
    assert changed.tolist() == [[row, column] for row in rows for column in columns]


def test_features_move_with_the_image():
    """An image moved by 32 pixels has features that are moved by 16, 8, 4, 2 and 1 positions."""
    features, model = torch.rand(1, 32, 8, 8), pyramid()
    pairs = zip(levels(model, features), levels(model, features.roll(2, dims=-1)), (16, 8, 4, 2, 1), strict=True)
    for level, moved, shift in pairs:
        torch.testing.assert_close(moved, level.roll(shift, dims=-1))


def test_patches_of_14_pixels_become_16():
    assert patch_size("vit_small_patch14_dinov2") == 14
    assert size_options("vit_small_patch14_dinov2") == {"dynamic_img_size": True, "patch_size": 16, "img_size": 592}
    assert size_options("test_vit") == {"dynamic_img_size": True}


@torch.inference_mode()
def test_tokens_of_resampled_patches_are_those_of_the_smaller_image():
    """An image enlarged from patches of 14 to patches of 16 pixels has the same tokens."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(5, 3, 14, 14, generator=generator)
    small = torch.randn(1, 3, 14, 14, generator=generator)
    large = interpolate(small, (16, 16), mode="bicubic", antialias=True)
    resampled = resample_patch_embed(kernels, [16, 16])
    torch.testing.assert_close(
        torch.nn.functional.conv2d(large, resampled), torch.nn.functional.conv2d(small, kernels), rtol=1e-3, atol=1e-3
    )


@torch.inference_mode()
def test_a_file_of_weights_gives_the_features_of_timm(tmp_path):
    torch.manual_seed(7)
    theirs = timm.create_model("test_vit", dynamic_img_size=True).eval()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    cfg = config.Model(encoder="tu-test_vit", weights=str(tmp_path / "weights.safetensors"))
    images = torch.rand(2, 3, 96, 64)
    expected = theirs.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[-1]
    assert torch.equal(build_model(cfg).eval().encoder(images)[-1], expected)


@pytest.mark.parametrize("arch", ["unet", "fpn"])
def test_only_the_transformer_is_the_encoder(arch):
    """A frozen encoder or a lower learning rate of it leaves the pyramid as it is: its weights are random."""
    model = build_model(config.Model(arch=arch, encoder="tu-test_vit", weights="none"))
    assert isinstance(model.encoder, PlainViT)
    inside = set(map(id, model.encoder.parameters()))
    assert not inside & set(map(id, model.net.pyramid.parameters()))
    assert len(list(model.net.pyramid.parameters())) > 0


@torch.inference_mode()
def test_logits_lie_where_the_image_is():
    """A change of one patch changes the logits most there."""
    torch.manual_seed(0)
    model = build_model(config.Model(arch="fpn", encoder="tu-test_vit", weights="none")).eval()
    images = torch.full((1, 3, 160, 224), 120.0)
    other = images.clone()
    other[..., 96:112, 160:176] = 255
    change = (model(images) - model(other)).abs()[0, 0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert 80 <= row < 128
    assert 144 <= column < 192
