"""Every architecture: image sizes, checkpoints, export, overfitting, training, and refused options."""

import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from pipeline import config, stages
from pipeline.cli import main
from pipeline.inference.prediction_store import PredictionStore
from pipeline.inference.predictor import Predictor
from pipeline.losses import build_loss
from pipeline.metrics import count, pixel_metric, stack
from pipeline.models import ARCHITECTURES, OPTIONS, build_model, check_model, encoder
from pipeline.models.segmenter import Outputs, gated, pad_to_stride
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.objective import MultiHeadLoss, build_objective
from tests.conftest import write_tiny

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent / "data"
WIDTHS = (16, 16, 8, 8, 8)

# The smallest encoder that meets each requirement; OTHERWISE meets the others.
SMALLEST = {"cascade": "tu-test_byobnet", "dpt": "tu-test_vit"}
OTHERWISE = "tu-test_efficientnet"

IMAGE_HEADS = [name for name, architecture in ARCHITECTURES.items() if "image_head" in architecture.options]


def choices_for(arch: str, **choices):
    """A small model of the architecture."""
    small = {"arch": arch, "encoder": SMALLEST.get(ARCHITECTURES[arch].requires, OTHERWISE), "weights": "none"}
    if "decoder_channels" in ARCHITECTURES[arch].options:
        small["decoder_channels"] = WIDTHS
    return config.Model(**{**small, **choices})


def build(arch: str, *, seed: int = 0, **choices) -> nn.Module:
    torch.manual_seed(seed)
    return stir(build_model(choices_for(arch, **choices)), seed).eval()


def stir(model: nn.Module, seed: int) -> nn.Module:
    """Set random batch statistics and random values for weights that start at 0, so that every layer has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(1 + 0.1 * torch.rand(module.num_features, generator=generator))
    return model


def random_images(number: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, channels, height, width), dtype=torch.uint8, generator=generator)


# ---------------------------------------------------------------------------------------------- shapes, files, exports


@pytest.mark.parametrize(("channels", "classes"), [(1, 4), (3, 1)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.inference_mode()
def test_logits_have_the_size_of_the_image(arch, channels, classes):
    model = build(arch, in_channels=channels, classes=classes)
    for height, width in [(37, 70), (65, 33), (64, 64)]:
        logits = model(random_images(2, channels, height, width))
        assert logits.shape == (2, classes, height, width)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        assert logits.std() > 0


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.inference_mode()
def test_logits_are_cropped_to_the_unpadded_image(arch):
    model, images = build(arch), random_images(1, 3, 37, 70)
    padded, (top, left) = pad_to_stride(images.float(), model.net.stride)
    assert padded.shape[-2:] != images.shape[-2:]
    assert torch.equal(model(images), model(padded)[..., top : top + 37, left : left + 70])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_saved_and_loaded_model_predicts_identical_probabilities(arch, tmp_path):
    images = random_images(2, 3, 50, 70)

    def predict(model):
        return Predictor(model, ("identity", "flip_horizontal"), "float32")(images)

    model, other = build(arch, seed=1), build(arch, seed=2)
    expected = predict(model)
    assert not torch.equal(predict(other), expected)
    save_checkpoint(tmp_path / "w.safetensors", model.state_dict(), {"fold": 0})
    load_checkpoint(tmp_path / "w.safetensors", other, 0)
    assert torch.equal(predict(other), expected)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_torch_export_gives_identical_logits(arch):
    model, images = build(arch), random_images(2, 3, 50, 70)
    assert torch.equal(torch.export.export(model, (images,)).module()(images), model(images))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")  # torch 2.10 of its own copy
@pytest.mark.parametrize(
    ("arch", "choices"),
    [*((arch, {}) for arch in ARCHITECTURES), ("unet", {"image_head": 0.2, "image_gate": True})],
)
@torch.no_grad()
def test_onnx_gives_the_same_logits_up_to_rounding(arch, choices):
    model, images = build(arch, **choices), random_images(2, 3, 50, 70)
    exported = torch.onnx.export(model, (images,), dynamo=True, verbose=False).model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    [logits] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = model(images)
    # Sums in another order: about 2e-6 of the largest logit was measured.
    assert np.abs(logits - expected.numpy()).max() <= 1e-5 * expected.abs().max().item()


# ---------------------------------------------------------------------------------------------- overfitting


class Fit(NamedTuple):
    """Settings with which an architecture overfits four images in a few seconds."""

    lr: float = 1e-2
    side: int = 64  # pixels to which the images are scaled
    choices: dict = {}  # noqa: RUF012 - never changed
    steps: int = 200  # at most


FITS = {
    # One score per 32×32 pixels, upsampled: in an image of this size a nucleus is four scores wide.
    "fcn32s": Fit(side=160),
    "fcn16s": Fit(side=96),
    "deeplabv3_aspp": Fit(side=96, choices={"output_stride": 8}),
    "deeplabv3_cascade": Fit(lr=5e-3, side=96, choices={"output_stride": 8}),
    "upernet": Fit(lr=3e-3),
    "dpt": Fit(lr=1e-4, choices={"encoder": "tu-test_vit2"}),  # a transformer diverges at larger rates
}


def nuclei(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The four real images (4, 3, side, side) of bytes and their masks (4, 1, side, side)."""
    images, masks = [], []
    for path in sorted(DATA.glob("nucleus_*_mask.png")):
        with Image.open(path) as mask, Image.open(path.with_name(path.name.replace("_mask", ""))) as image:
            images.append(np.array(image.resize((side, side), Image.Resampling.BILINEAR)))
            masks.append(np.array(mask.resize((side, side), Image.Resampling.NEAREST)) // 255)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(masks))[
        :, None
    ]


@torch.no_grad()
def dice_in_use(model: nn.Module, images: torch.Tensor, masks: torch.Tensor) -> float:
    """Mean Dice at threshold .5 in evaluation mode, with the running statistics of batch norm."""
    predicted = (model.eval()(images) >= 0).to(torch.uint8).numpy()
    model.train()
    return pixel_metric("mean_dice").scores(stack(map(count, predicted, masks.numpy()))).mean()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture_overfits_four_real_images(arch):
    fit = FITS.get(arch, Fit())
    images, masks = nuclei(fit.side)
    assert len(images) == 4
    torch.manual_seed(0)
    model = build_model(choices_for(arch, **fit.choices)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3  # running statistics over a few steps instead of tens
    optimizer = torch.optim.Adam(model.parameters(), fit.lr)
    loss_fn = build_loss({"bce": 1.0, "dice": 1.0})
    reached = 0.0
    for step in range(1, fit.steps + 1):
        optimizer.zero_grad()
        loss_fn(model(images), masks).backward()
        optimizer.step()
        if step % 5 == 0 and (reached := dice_in_use(model, images, masks)) > 0.98:
            return
    pytest.fail(f"Dice {reached:.4f} after {fit.steps} steps")


# ---------------------------------------------------------------------------------------------- the real training path


TRAINED = """
competition = "tiny.toml"

[data]
root = "few"

[folds]
count = 3
name = "few"

[model]
{model}

[train]
batch_size = 2
precision = "float32"
weight_decay = 0

[[train.phases]]
loss = {{ bce = 1.0, dice = 1.0 }}
epochs = 1
lr = 3e-3
warmup = 0
"""

# Other families than ResNet: squeeze-and-excitation, inverted residuals, layer norm.
FAMILIES = ["tu-seresnext26d_32x4d", "tu-efficientnet_b0", "tu-convnext_atto"]
TOO_LARGE = {("manet", "tu-seresnext26d_32x4d")}  # its decoder squares the encoder's 2048 channels: half a minute
OF_A_VIT = [arch for arch, architecture in ARCHITECTURES.items() if architecture.requires == "dpt"]


@pytest.fixture
def few(tiny) -> None:
    """Six small images, so that a fold trains on four in two steps."""
    write_tiny(tiny / "few", train=6, test=1, size=(30, 28))


def part(name: str) -> str:
    """The part of the model that a weight belongs to: encoder, decoder or a head."""
    return ".".join(name.split(".")[:2])


def check_training(model: config.Model) -> None:
    """Train fold 0 by the stage `train`: the loss is finite, every part has changed, the fold is predicted."""
    chosen = model.model_dump(exclude_defaults=True)
    Path("configs/few.toml").write_text(TRAINED.format(model="\n".join(f"{k} = {_toml(v)}" for k, v in chosen.items())))
    cfg = config.load("configs/few.toml")
    assert cfg.model == model
    weights = load_file(stages.train(cfg, 0).weights)
    torch.manual_seed(0)
    fresh = dict(build_model(model).named_parameters())
    learned = {part(name) for name in fresh if not torch.equal(fresh[name], weights[name])}
    assert learned == set(map(part, fresh))
    context = stages.make_context(cfg)
    held_out = context.folds["image_id"][context.folds["fold"] == 0]
    assert PredictionStore(context.paths.oof(0)).ids() == set(held_out)
    [line] = (context.paths.fold(0) / "metrics.jsonl").read_text().splitlines()
    assert math.isfinite(json.loads(line)["loss"])


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (arch, name)
        for arch in ARCHITECTURES
        for name in FAMILIES
        if arch not in OF_A_VIT and (arch, name) not in TOO_LARGE
    ],
)
def test_each_architecture_trains_with_encoders_of_other_families(few, arch, name):
    fewer = (
        {"multi_grid": (1,)} if arch == "deeplabv3_cascade" else {}
    )  # three copies of the last block instead of nine
    check_training(choices_for(arch, encoder=name, in_channels=1, **fewer))


@pytest.mark.parametrize("arch", OF_A_VIT)
def test_each_architecture_for_vision_transformers_trains_with_one(few, arch):
    check_training(choices_for(arch, in_channels=1))


EXTRAS = {
    "scse": {"attention": "scse", "decoder_channels": (16,) * 5},
    "hypercolumns": {"hypercolumns": True},
    "deep supervision": {"deep_supervision": 0.4},
    "image head": {"image_head": 0.2},
    "image gate": {"image_head": 0.2, "image_gate": True},
    "all": {
        "attention": "scse",
        "decoder_channels": (16,) * 5,
        "hypercolumns": True,
        "deep_supervision": 0.4,
        "image_head": 0.2,
        "image_gate": True,
    },
}


@pytest.mark.parametrize("choices", EXTRAS.values(), ids=EXTRAS)
def test_unet_trains_with_each_option(few, choices):
    check_training(choices_for("unet", in_channels=1, **choices))


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("arch", IMAGE_HEADS)
@torch.no_grad()
def test_image_head_has_an_output_in_training_only(arch):
    model, images = build(arch, classes=2, image_head=0.2), random_images(2, 3, 37, 70)
    outputs = model.train()(images)
    assert isinstance(outputs, Outputs)
    assert outputs.image_logits.shape == (2, 2)
    assert outputs.logits.shape == (2, 2, 37, 70)
    assert outputs.aux_logits == ()
    assert isinstance(model.eval()(images), torch.Tensor)


@torch.no_grad()
def test_auxiliary_logits_have_the_image_size_and_exist_in_training_only():
    model, images = build("unet", classes=2, deep_supervision=0.4), random_images(2, 3, 37, 70)
    outputs = model.train()(images)
    assert [each.shape for each in outputs.aux_logits] == [(2, 2, 37, 70)] * 4  # five levels: the finest has the head
    assert outputs.image_logits is None
    assert isinstance(model.eval()(images), torch.Tensor)


@torch.no_grad()
def test_hypercolumns_feed_every_decoder_level_to_the_head():
    model = build("unet", classes=2, hypercolumns=True)
    head = model.net.segmentation_head
    assert head.weight.shape == (2, sum(WIDTHS), 3, 3)
    head.weight[:, : -WIDTHS[-1]] = 0  # with the finest level only it is the plain U-Net
    plain = build("unet", classes=2)
    plain.net.load_state_dict({**plain.net.state_dict(), **model.net.encoder.state_dict(prefix="encoder.")})
    plain.net.decoder.load_state_dict(model.net.decoder.state_dict())
    plain.net.segmentation_head[0].weight.copy_(head.weight[:, -WIDTHS[-1] :])
    plain.net.segmentation_head[0].bias.copy_(head.bias)
    images = random_images(1, 3, 64, 64)
    torch.testing.assert_close(model(images), plain(images))


@pytest.mark.parametrize("name", ["tu-test_resnet", "tu-test_convnext"])  # the second has no features at stride 2
@pytest.mark.parametrize("attention", [None, "scse"])
@torch.no_grad()
def test_unet_without_options_equals_smp(name, attention):
    widths = (32, 32, 16, 16, 16)
    ours = build("unet", encoder=name, attention=attention, decoder_channels=widths)
    theirs = smp.Unet(name, encoder_weights=None, decoder_channels=widths, decoder_attention_type=attention).eval()
    theirs.load_state_dict(ours.net.state_dict())
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    logits, aux_logits = ours.net.decode(ours.encoder(images), (64, 96))
    assert torch.equal(logits, theirs(images))
    assert aux_logits == ()


class MeanLogit(nn.Module):
    """A loss that can be computed by hand."""

    def forward(self, logits, target):
        assert logits.shape == target.shape
        return logits.mean()


def outputs_of(mask: float, aux_logits: tuple[float, ...], image_logits: list[float]) -> tuple[Outputs, torch.Tensor]:
    """Constant logits of two or three images: the first has one pixel, the second only void, the third is empty."""
    target = torch.zeros(len(image_logits), 1, 2, 2)
    target[0, 0, 1, 1] = 1
    target[1, 0] = 255

    def full(value: float) -> torch.Tensor:
        return torch.full_like(target, value)

    return Outputs(full(mask), tuple(map(full, aux_logits)), torch.tensor(image_logits)[:, None]), target


def test_loss_of_deep_supervision_by_hand():
    # 3 for the mask, and half the mean of 5 and 9 for the coarser ones: 3 + 0.5 * 7.
    outputs, target = outputs_of(3.0, (5.0, 9.0), [0.0, 0.0])
    assert MultiHeadLoss(MeanLogit(), aux_weight=0.5)(outputs, target).item() == 6.5


def test_loss_of_the_image_head_by_hand():
    # The first image has an object and logit 2, the third is empty and has logit -1: losses log(1 + e^-2) and
    # log(1 + e^-1), whose mean has weight 0.2. Whether the second has an object is unknown: some pixels are void.
    outputs, target = outputs_of(3.0, (), [2.0, 5.0, -1.0])
    expected = 3 + 0.2 * (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert MultiHeadLoss(MeanLogit(), image_weight=0.2)(outputs, target).item() == pytest.approx(expected)


def test_objective_of_a_model_without_extra_heads_is_its_mask_loss():
    loss = MeanLogit()
    assert build_objective(loss) is loss


def test_gated_probability_is_the_product_of_pixel_and_image_probability():
    grid = torch.linspace(-15, 15, 61)
    product = grid.double().sigmoid()[:, None] * grid.double().sigmoid()
    logits = gated(grid[:, None].expand(61, 61), grid)
    torch.testing.assert_close(logits.sigmoid().double(), product, rtol=1e-5, atol=0)


def test_gated_logits_and_their_gradients_are_finite_for_extreme_logits():
    grid = torch.tensor([-1e4, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4])
    pixel, image = (logits.clone().requires_grad_() for logits in torch.meshgrid(grid, grid, indexing="ij"))
    logits = gated(pixel, image)
    assert logits.isfinite().all()
    F.softplus(logits).sum().backward()
    assert pixel.grad.isfinite().all()
    assert image.grad.isfinite().all()
    assert pixel.grad[3, 3] > 0


@torch.no_grad()
def test_a_gated_model_multiplies_probabilities_by_that_of_the_image_head():
    model, images = build("unet", classes=2, image_head=0.2, image_gate=True), random_images(2, 3, 37, 70)
    inside = model(images).sigmoid()
    head = []
    model.image_head.register_forward_hook(lambda _module, _inputs, logits: head.append(logits.sigmoid()))
    model.gate = False
    torch.testing.assert_close(inside, model(images).sigmoid() * head[0][..., None, None])


# ---------------------------------------------------------------------------------------------- refusals


CHANGED = {
    "attention": "scse",
    "decoder_channels": (64, 32, 16),
    "deep_supervision": 0.5,
    "dropout": 0.5,
    "hypercolumns": True,
    "image_gate": True,
    "image_head": 0.2,
    "multi_grid": (1, 2),
    "output_stride": 8,
    "dilation_rates": (3, 6, 9),
}


@pytest.mark.parametrize(
    ("arch", "option"),
    [(arch, option) for arch in ARCHITECTURES for option in sorted(OPTIONS - ARCHITECTURES[arch].options)],
)
def test_an_option_without_effect_in_an_architecture_is_refused(arch, option):
    with pytest.raises(ValueError, match=rf"^model\.{option} has no effect in {arch}, only in ") as refusal:
        check_model(choices_for(arch, **{option: CHANGED[option]}))
    named = str(refusal.value).partition("only in ")[2].removesuffix(": take it out").split(", ")
    assert named == [name for name, architecture in ARCHITECTURES.items() if option in architecture.options]


@pytest.mark.parametrize(
    ("arch", "name", "reason"),
    [
        ("deeplabv3_aspp", "tu-swin_tiny_patch4_window7_224", "cannot keep an output stride of 8 or 16"),
        ("deeplabv3_aspp", "tu-hrnet_w18", "cannot keep an output stride of 8 or 16"),
        ("deeplabv3plus", "tu-hrnet_w18", "cannot keep an output stride of 8 or 16"),
        ("deeplabv3_cascade", "tu-hrnet_w18", "cannot be dilated"),
        ("deeplabv3_cascade", "tu-test_resnet", "has no convolutional block in its last stage that could be repeated"),
        ("unet", "tu-levit_128", "gives no pyramid of features at strides 2 to 32"),
        ("fcn8s", "tu-vit_base_patch16_224", "gives no features at strides 8, 16 and 32"),
        ("dpt", "tu-resnet18", "is no plain vision transformer"),
        ("dpt", "tu-levit_128", "is no plain vision transformer"),
    ],
)
def test_an_encoder_that_an_architecture_cannot_use_is_refused(arch, name, reason):
    with pytest.raises(ValueError, match=f"model.encoder: '{name}'.*{reason}") as refusal:
        check_model(choices_for(arch, encoder=name))
    families = encoder.REQUIREMENTS[ARCHITECTURES[arch].requires][1]
    assert str(refusal.value).endswith(families)


@pytest.mark.parametrize("arch", ["deeplabv3_aspp", "deeplabv3plus"])
def test_batch_size_one_is_refused_for_architectures_with_global_pooling(arch):
    with pytest.raises(ValueError, match=rf"train\.batch_size: {arch} pools each image to one pixel.*set 2 or more"):
        check_model(choices_for(arch), batch_size=1)
    check_model(choices_for(arch), batch_size=2)


def test_an_image_gate_without_an_image_head_is_refused():
    with pytest.raises(ValueError, match=r"model\.image_gate needs the image head: set model\.image_head"):
        check_model(choices_for("unet", image_gate=True))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["model.arch=fcn9s"], "unknown arch 'fcn9s'"),
        (["model.arch=fcn8s"], "model.decoder_channels has no effect in fcn8s"),
        (
            ["model.dilation_rates=[1,2]"],
            "model.dilation_rates has no effect in unet, only in deeplabv3_aspp, deeplabv3plus",
        ),
        (["model.encoder=tu-beit_base_patch16_224"], "gives no pyramid of features"),
        (["predict.output_stride=8"], "predict.output_stride: has no effect in unet, only in deeplabv3_cascade"),
    ],
)
def test_model_errors_are_one_line_and_come_before_data_is_read(tiny, capsys, pairs, message):
    given = ["train", "configs/tiny.toml", "--fold", "0", "--data", "nowhere"]
    assert main([*given, *(word for pair in pairs for word in ("--set", pair))]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(re.escape(message), line)
    assert main(given) == 2
    assert (
        "nowhere: no such folder" in capsys.readouterr().err
    )  # without the model error, the missing folder is reported
