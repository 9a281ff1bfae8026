"""Options of encoders that act in training only: drop path, dropout, gradient checkpointing."""

import pytest
import torch
from timm.layers import DropPath
from timm.models._features import FeatureDictNet
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import config
from pipeline.models import build_model, check_model, dry_run, for_prediction
from pipeline.models.encoder_options import count_random_operations
from pipeline.models.grad_checkpointing import checkpointed, count_saved_bytes

RESNET = "tu-test_resnet"  # four blocks with a residual branch


def model_config(**options):
    return config.Model(**{"encoder": RESNET, "weights": "none", "in_channels": 1, **options})


def drop_probabilities(model):
    return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("arch", ["unet", "fpn", "fcn8s", "deeplabv3_aspp"])
def test_drop_path_reaches_the_encoder_of_every_kind_of_architecture(arch):
    model = build_model(model_config(arch=arch, drop_path=0.3))
    # timm raises the rate linearly from 0 at the first block to the whole rate at the last.
    assert drop_probabilities(model)[-1] == pytest.approx(0.3)
    assert drop_probabilities(build_model(model_config(arch=arch))) == []


def test_drop_path_changes_training_only_and_its_weights_fit_without_it():
    torch.manual_seed(0)
    model = build_model(model_config(drop_path=0.9))
    for name, weight in model.named_parameters():  # timm starts the last norm of a branch at 0: nothing to leave out
        torch.nn.init.ones_(weight) if weight.ndim == 1 and name.endswith("weight") else None
    plain = build_model(model_config())
    plain.load_state_dict(model.state_dict())
    images = torch.rand(4, 1, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(model.eval()(images), plain.eval()(images))
        assert not torch.equal(model.train()(images), plain.train()(images))


def test_random_operations_of_a_forward_pass_are_counted():
    blocks = len(drop_probabilities(build_model(model_config(drop_path=0.3))))
    assert blocks
    assert count_random_operations(build_model(model_config())) == 0
    assert count_random_operations(build_model(model_config(drop_path=0.3))) == blocks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "tu-vgg11", "drop_path": 0.1}, r"model\.drop_path: timm's 'tu-vgg11' takes no drop_path_rate"),
        ({"encoder": "tu-test_efficientnet", "drop_path": 0.1}, r"model\.drop_path has no effect .*test_efficientnet'"),
        ({"drop_rate": 0.1}, r"model\.drop_rate has no effect on the features of 'tu-test_resnet'"),
        ({"encoder": "mit_b0", "drop_path": 0.0}, r"model\.drop_path has no effect on the features of 'mit_b0'"),
    ],
)
def test_a_rate_without_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        check_model(model_config(**options))
    assert "\n" not in str(error.value)
    check_model(model_config(**{**options, **dict.fromkeys({"drop_path", "drop_rate"} & options.keys())}))


def test_a_rate_that_works_and_a_rate_of_zero_are_accepted():
    check_model(model_config(drop_path=0.2))
    check_model(model_config(drop_path=0.0))


def test_dropout_is_accepted_where_the_features_have_it():
    with_dropout = model_config(encoder="tu-legacy_xception", drop_rate=0.2)
    check_model(with_dropout)
    plain = with_dropout.model_copy(update={"drop_rate": None})
    assert count_random_operations(dry_run(with_dropout)) == count_random_operations(dry_run(plain)) + 1


# ---------------------------------------------------------------------------------------------- gradient checkpointing


def gradients_and_statistics(cfg, enabled):
    """Gradients, batch statistics and counters after the forward and backward pass of one batch."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            torch.nn.init.ones_(module.weight)  # timm starts the last norm of a branch at 0
    images = torch.rand(3, 1, 64, 96) * 255
    with checkpointed(model.encoder, enabled), count_saved_bytes(model) as saved:
        model(images).square().mean().backward()
    found = {f"gradient of {name}": weight.grad for name, weight in model.named_parameters()}
    return found | dict(model.named_buffers()), sum(saved.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop_path": 0.5},
        {"encoder": "tu-resnet18", "arch": "deeplabv3_aspp"},
        {"encoder": "tu-test_efficientnet"},
        {"encoder": "tu-test_convnext", "decoder_channels": (16, 8, 8, 8)},
    ],
    ids=str,
)
def test_checkpointing_gives_the_same_gradients_and_batch_statistics_with_less_memory(options):
    cfg = model_config(**options)
    (plain, kept), (found, kept_less) = (gradients_and_statistics(cfg, enabled) for enabled in (False, True))
    assert found.keys() == plain.keys()
    assert [name for name in plain if not torch.equal(found[name], plain[name])] == []
    assert kept_less < kept


def test_after_the_block_nothing_is_computed_twice_and_norms_are_as_before():
    model = build_model(model_config())
    before = {name: norm.momentum for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    with checkpointed(model.encoder):
        model.train()(torch.rand(2, 1, 64, 64)).sum().backward()
    calls = []
    for module in model.encoder.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    model(torch.rand(2, 1, 64, 64)).sum().backward()
    assert len(calls) == len(set(calls))
    assert before == {name: norm.momentum for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}


def test_saved_bytes_are_counted_once_per_storage_and_without_weights():
    weight, images = (torch.ones(shape, requires_grad=True) for shape in ((5,), (7, 5)))
    with count_saved_bytes(torch.nn.ParameterList([weight])) as saved:
        product = images * weight  # keeps images, 140 bytes, and the weight, which does not count
        (product.exp() * images).sum()  # keeps the output of exp, 140 bytes; images again
    assert sum(saved.values()) == 280


def test_checkpointing_of_an_encoder_without_support_is_refused_with_the_reason(monkeypatch):
    check_model(model_config(grad_checkpointing=True))

    def refuse(self, enable=True):
        assert not enable, "gradient checkpointing not supported"

    monkeypatch.setattr(FeatureDictNet, "set_grad_checkpointing", refuse)  # as timm's HRNet
    with pytest.raises(ValueError, match=r"model\.grad_checkpointing: 'tu-test_resnet' does not support it \(gradient"):
        check_model(model_config(grad_checkpointing=True))
    monkeypatch.setattr(FeatureDictNet, "set_grad_checkpointing", lambda self, enable=True: None)
    with pytest.raises(ValueError, match=r"model\.grad_checkpointing has no effect on 'tu-test_resnet'"):
        check_model(model_config(grad_checkpointing=True))


def test_a_prediction_needs_no_option_of_training(tiny, monkeypatch):
    def refuse(*_):
        raise AttributeError("an older timm, as in a notebook's image")

    cfg = config.load("configs/tiny.toml", ["model.grad_checkpointing=true", "model.drop_path=0.2"])
    monkeypatch.setattr("pipeline.models.grad_checkpointing._kept_bytes", refuse)
    monkeypatch.setattr("pipeline.models.encoder_options.count_random_operations", refuse)
    check_model(for_prediction(cfg))


def test_checkpointing_and_compilation_are_refused_together(tiny):
    with pytest.raises(ValueError, match=r"tiny\.toml: train\.compile and model\.grad_checkpointing: .*remove one"):
        config.load("configs/tiny.toml", ["train.compile=true", "model.grad_checkpointing=true"])
